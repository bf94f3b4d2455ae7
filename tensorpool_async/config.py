"""Where the key and the engine's address come from, and the timeouts.

The engine's own command-line client reads the same places: the environment variables `TENSORPOOL_KEY` and
`TENSORPOOL_ENGINE`, and the line `TENSORPOOL_KEY=…` of a file `.env` in the working directory.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

import attrs

from tensorpool_async.errors import ConfigurationError
from tensorpool_async.secrets import Secret


TokenSecret: TypeAlias = str | bytes | Secret
"""What tokens are signed with: a text or bytes that nobody can guess."""

KEY_VARIABLE = "TENSORPOOL_KEY"
ENGINE_VARIABLE = "TENSORPOOL_ENGINE"
DEFAULT_BASE_URL = "https://engine.tensorpool.dev"
DASHBOARD = "https://tensorpool.dev/dashboard"

_KEY_LINE = re.compile(
    rf"""
    \s* (?:export\s+)? {KEY_VARIABLE} \s*=\s*
    (?: "(?P<double>[^"]*)" | '(?P<single>[^']*)' | (?P<bare>.*?) )
    \s* (?: (?<=\s)[#].* )?
    """,
    re.VERBOSE,
)


def _positive(_: object, attribute: attrs.Attribute[float], value: float) -> None:
    if not value > 0:
        raise ValueError(f"{attribute.name} is {value!r}, and must be above 0 seconds")


@attrs.frozen(kw_only=True)
class Timeouts:
    """How long one HTTP attempt may go without progress, in seconds.

    There is no limit on the time spent waiting for a slot: a fleet of thousands may well queue for minutes. Nor is there
    one on a whole attempt, but for a poll, which may take `connect` and `read` together. For a limit on a wait, use
    `Operation.result(timeout=…)`.

    Attributes:
        connect: Until a connection is made, from looking up the name to the end of the TLS handshake.
        read: Between two pieces of an answer; the first of them counts from the end of the request.
    """

    connect: float = attrs.field(default=10.0, validator=_positive)
    read: float = attrs.field(default=30.0, validator=_positive)


def find_key(argument: str | Secret | None) -> Secret:
    """Return the API key: the argument, else `TENSORPOOL_KEY`, else the line of `.env` in the working directory.

    Raises:
        ConfigurationError: There is none, or it holds characters that no HTTP header can carry.
    """
    if isinstance(argument, Secret):
        argument = argument.reveal()
    key = argument if argument is not None else _variable(KEY_VARIABLE) or _key_from_dotenv(Path(".env"))
    key = (key or "").strip()
    if not key:
        raise ConfigurationError(
            f"no API key: pass api_key=…, set {KEY_VARIABLE}, or write {KEY_VARIABLE}=… into .env. "
            f"Keys are made on {DASHBOARD}"
        )
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigurationError(
            "the API key holds blanks or characters that are not ASCII; it is not shown here"
        )
    return Secret(key)


def token_secrets_of(argument: TokenSecret | Sequence[TokenSecret] | None) -> tuple[bytes, ...]:
    """Return what tokens are signed with, the first one first; none where there is no argument.

    Raises:
        ConfigurationError: A secret is empty, or there is none in the list.
    """
    if argument is None:
        return ()
    several = [argument] if isinstance(argument, str | bytes | Secret) else list(argument)
    secrets = tuple(_bytes_of(secret) for secret in several)
    if not secrets or not all(secrets):
        raise ConfigurationError(
            "token_secret is empty: make one with secrets.token_urlsafe(32), and keep it for all processes that "
            "share tokens; or leave it out, and tokens are not signed"
        )
    return secrets


def _bytes_of(secret: TokenSecret) -> bytes:
    text = secret.reveal() if isinstance(secret, Secret) else secret
    return text.encode(errors="surrogatepass") if isinstance(text, str) else bytes(text)


def _variable(name: str) -> str:
    return os.environ.get(name, "").strip()


def _key_from_dotenv(path: Path) -> str | None:
    try:
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except OSError:
        return None
    found = (_KEY_LINE.fullmatch(line) for line in lines)
    match = next((match for match in found if match), None)
    return None if match is None else match[match.lastgroup or 0].strip("'\"")


def find_base_url(argument: str | None, *, allow_insecure: bool = False) -> str:
    """Return the engine's address: the argument, else `TENSORPOOL_ENGINE`, else the public engine; no slash at the end.

    Raises:
        ConfigurationError: It is no http(s) address of a bare host, or it would send the key in the clear.
    """
    url = argument if argument is not None else _variable(ENGINE_VARIABLE) or DEFAULT_BASE_URL
    url = url.strip().removesuffix("/")
    problem = _problem_of(url, allow_insecure=allow_insecure)
    if problem:
        raise ConfigurationError(f"the base URL {_showable(url)!r} {problem}")
    return url


def _problem_of(url: str, *, allow_insecure: bool) -> str | None:
    try:
        parts = urlsplit(url)
        host = parts.hostname
        _ = parts.port
    except ValueError:
        return "cannot be read: its host or its port is malformed"  # what Python says may quote a password
    problems = {
        "has no scheme: it must start with https:// (or http:// for an engine on this machine)": (
            parts.scheme not in {"http", "https"}
        ),
        "names no host": not host or any(character.isspace() for character in url),
        "holds a user name or password: the key is passed as api_key": parts.username is not None,
        "must be a bare address, without path, query or fragment": (
            bool(parts.path or parts.query or parts.fragment) or url.endswith(("?", "#"))
        ),
        "would send the key unencrypted; use https://, or allow_insecure=True if that is meant": (
            parts.scheme == "http" and not is_loopback(host or "") and not allow_insecure
        ),
    }
    return next((problem for problem, is_so in problems.items() if is_so), None)


def _showable(url: str) -> str:
    """Leave out what may be a secret: a user name and password, or a query."""
    scheme = next((scheme for scheme in ("https://", "http://") if url.lower().startswith(scheme)), "")
    return f"{scheme}…" if "@" in url else re.sub(r"(?<=[?#]).+", "…", url, flags=re.DOTALL)


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
