"""Where the key, the engine's address and the proxy come from, and the timeouts.

The engine's own command-line client reads the same places: the environment variables `TENSORPOOL_KEY` and
`TENSORPOOL_ENGINE`, and the line `TENSORPOOL_KEY=…` of a file `.env` in the working directory.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import attrs
from multidict import CIMultiDict
from yarl import URL

from tensorpool_async.errors import ConfigurationError
from tensorpool_async.secrets import MaskedHeader, Secret, conceal


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

_HOST = re.compile(r"[A-Za-z0-9_.-]+")

PROXY_SCHEMES = frozenset({"http", "https"})


def _positive(_: object, attribute: attrs.Attribute[float], value: float) -> None:
    if not value > 0:
        raise ValueError(f"{attribute.name} is {value!r}, and must be above 0 seconds")


@attrs.frozen(kw_only=True)
class Timeouts:
    """How long one HTTP attempt may take, in seconds: `connect` and `read` together, whatever the other side does.

    Only an answer that is long and keeps coming may take more time: a second for each 32 KiB of it. It is bounded in turn
    by `TensorPool(max_response_bytes=…)`. One that has begun and comes more slowly is given up after 8 seconds.

    There is no limit on the time spent waiting for a slot: a fleet of thousands may well queue for minutes. For a limit on
    a wait, use `Operation.result(timeout=…)`.

    - A WebSocket has as long for its handshake, and for each message to be sent. Once it is open, a job may be silent for
      as long as it likes. A connection that answers no pings is given up within 15 seconds, or within `connect` and
      `read` where that is less.
    - A download from an object store has as long until its first bytes come, and must then bring 1 KiB per second on
      average.

    Attributes:
        connect: Until there is a connection: looking up the name, the proxy and its answer, and the TLS handshake.
        read: From then on, until the whole answer is there.
    """

    connect: float = attrs.field(default=10.0, validator=_positive)
    read: float = attrs.field(default=30.0, validator=_positive)


def find_key(argument: str | Secret | None) -> Secret:
    """Return the API key: the argument, else `TENSORPOOL_KEY`, else the line of `.env` in the working directory.

    Raises:
        ConfigurationError: There is none, or it holds characters that no HTTP header can carry.
    """
    # An error may be shown with the variables of each frame, so none of those that raise holds the text.
    argument = conceal(argument)
    key, source = _key_and_source(argument)
    problem = _problem_of_key(key)
    if problem:
        raise ConfigurationError(problem.format(source=source))
    return key


def _key_and_source(argument: Secret | None) -> tuple[Secret, str]:
    if argument is not None:
        return Secret(argument.reveal().strip()), "passed as api_key"
    variable = _variable(KEY_VARIABLE)
    if variable:
        return Secret(variable), f"in the environment variable {KEY_VARIABLE}"
    return Secret((_key_from_dotenv(Path(".env")) or "").strip()), "in .env of the working directory"


def _problem_of_key(secret: Secret) -> str | None:
    key = secret.reveal()
    if not key:
        return (
            f"no API key: pass api_key=…, set {KEY_VARIABLE}, or write {KEY_VARIABLE}=… into .env. "
            f"Keys are made on {DASHBOARD}"
        )
    if not (key.isascii() and key.isprintable()) or " " in key:
        return "the API key {source} holds blanks or characters that are not ASCII; it is not shown here"
    return None


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
    variable = _variable(ENGINE_VARIABLE) if argument is None else ""
    url = argument if argument is not None else variable or DEFAULT_BASE_URL
    url = url.strip().removesuffix("/")
    problem = _problem_of(url, allow_insecure=allow_insecure)
    if problem:
        source = f" (it is set by the environment variable {ENGINE_VARIABLE})" if variable else ""
        shown, url, argument, variable = _showable(url), "", None, ""  # it may hold a password
        raise ConfigurationError(f"the base URL {shown!r} {problem}{source}")
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
        "names a host that cannot exist: a part of it is empty, too long, or holds what no host name holds": (
            not (_can_be_looked_up(host or "") and _is_url(url))
        ),
    }
    return next((problem for problem, is_so in problems.items() if is_so), None)


def _can_be_looked_up(host: str) -> bool:
    if ":" in host:
        return True  # an IPv6 address, which has been read already
    try:
        return _HOST.fullmatch(host.encode("idna").decode()) is not None
    except UnicodeError:
        return False


def _is_url(text: str) -> bool:
    try:
        return URL(text).host is not None
    except ValueError:
        return False


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


@attrs.frozen
class Proxy:
    """An HTTP proxy.

    Attributes:
        url: Its address, without user name and password.
        headers: What it is told besides: the user name and password.
    """

    url: URL
    headers: CIMultiDict[str]


def find_proxy(argument: str | Secret | None, *, base_url: str, allow_insecure: bool = False) -> Proxy | None:
    """Return the proxy that was given as an argument; an address without a scheme is one of an http proxy, as for curl.

    Raises:
        ConfigurationError: It cannot be used, or it would see the key in the clear.
    """
    argument = conceal(argument)
    if argument is None:
        return None
    proxy = _proxy_of(argument, "the address passed as proxy")
    if base_url[:5].lower() == "http:" and not is_loopback(proxy.url.host or "") and not allow_insecure:
        raise ConfigurationError(
            f"the proxy {str(proxy.url)!r} would see the key unencrypted, since the engine is at {base_url!r}; "
            "leave the proxy out, or use allow_insecure=True if that is meant"
        )
    return proxy


def proxy_from_environment(url: URL) -> Proxy | None:
    """Return the proxy that the environment names for an address; for this machine's own there is none.

    It may look into the settings of the system, and so may block.

    Raises:
        ConfigurationError: It cannot be used; the text names the variable.
    """
    scheme, host = url.scheme, url.host or ""
    if is_loopback(host):
        return None
    text = conceal(getproxies().get(scheme))
    if text is None or not text.reveal().strip() or proxy_bypass(host) or proxy_bypass(url.raw_authority):
        return None
    names = (f"{scheme}_proxy", f"{scheme}_proxy".upper())
    variable = next((name for name in names if os.environ.get(name)), None)
    return _proxy_of(text, f"the environment variable {variable}" if variable else "the system's settings")


def _proxy_of(address: Secret, source: str) -> Proxy:
    """Read the address of a proxy. It may hold a password, which no frame keeps that raises."""
    proxy = _read_proxy(address.reveal().strip())
    if isinstance(proxy, str):
        raise ConfigurationError(f"{source} names no proxy that can be used: {proxy}")
    return proxy


def _read_proxy(text: str) -> Proxy | str:
    try:
        url = URL(text if "://" in text else f"http://{text}")
        _ = url.port
    except ValueError:
        return "its host or its port is malformed"
    if url.scheme not in PROXY_SCHEMES:
        return f"it is of the kind {url.scheme}://, and only http:// and https:// are spoken here"
    if not url.host or not _can_be_looked_up(url.host):
        return "it names no host"
    headers = CIMultiDict[str]()
    if url.user is not None:
        login = base64.b64encode(f"{url.user}:{url.password or ''}".encode()).decode()
        headers["Proxy-Authorization"] = MaskedHeader(f"Basic {login}")
    return Proxy(url.with_user(None).with_path(""), headers)
