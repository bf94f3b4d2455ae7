"""Tokens: an operation as a text that another process can go on with.

A token is `tpa1.` and the base64url of a small JSON object: what is done, to what, and by which requests. It holds no
secret; whoever has it still needs the key.

A signed token is `tpa2.`, the same text, a dot, and the base64url of an HMAC-SHA256 of what stands before that dot. A
backend that hands tokens to browsers knows by the signature that a token is its own: anybody can make one of the other kind.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Sequence
from typing import Any, cast

import attrs

from tensorpool_async.errors import ConfigurationError
from tensorpool_async.models.enums import OperationKind
from tensorpool_async.protocol.operation_specs import OPERATION_SPECS
from tensorpool_async.protocol.requests import is_id


PREFIX = "tpa1."
SIGNED_PREFIX = "tpa2."

LONGEST_TOKEN = 65_536
"""Characters of a token that is read."""

MOST_REQUESTS = 1000
"""Requests that one token may name."""

_CONTEXT = b"tensorpool-async operation token\0"
"""What is signed besides the token, so that a signature for something else with the same secret is none for a token."""

_VERSION = re.compile(r"tpa[0-9]+(?=\.|$)")


@attrs.frozen
class OperationRef:
    """What identifies an operation.

    Attributes:
        kind: What is done; None where only a request id is known, and the engine will tell.
        resource_id: What it is done to.
        request_ids: The requests at the engine, in the order in which they are followed; empty where the engine gave
            none, and the resource itself is followed.
        expected: What the resource looks like when it is done, for kinds of which the engine may name no request.
    """

    kind: OperationKind | None
    resource_id: str | None = None
    request_ids: tuple[str, ...] = ()
    expected: dict[str, Any] = attrs.field(factory=dict[str, Any])


@attrs.frozen
class AcceptedOperation:
    """What a 202 says.

    Attributes:
        ref: What identifies the operation.
        retry_after: Seconds after which the engine wants to be asked, or None.
    """

    ref: OperationRef
    retry_after: float | None = None


class Tokens:
    """Writes and reads the tokens of one client.

    Args:
        secrets: What tokens are signed with: the first signs, and all of them are believed. Without any, tokens are not
            signed, and signatures are not looked at.
    """

    __slots__ = ("_secrets",)

    def __init__(self, secrets: Sequence[bytes] = ()) -> None:
        self._secrets = tuple(secrets)

    @property
    def signs(self) -> bool:
        """Whether tokens are signed."""
        return bool(self._secrets)

    def encode(self, ref: OperationRef) -> str:
        """Write a reference as a token."""
        payload = _payload_of(ref)
        if not self._secrets:
            return PREFIX + payload
        text = SIGNED_PREFIX + payload
        return f"{text}.{_signature_of(text, self._secrets[0])}"

    def decode(self, text: str, *, signed: bool = False) -> OperationRef:
        """Read a token, or a bare request id.

        Args:
            text: The text.
            signed: Whether to take nothing but a token that carries this client's signature.

        Raises:
            ConfigurationError: It is a token of a newer version, or a damaged one, or not signed as it should be, or no
                request id either.
        """
        text = text.strip()
        ref = decode(text)
        if signed or (self._secrets and _VERSION.match(text)):
            self._check(text)
        return ref

    def _check(self, text: str) -> None:
        if not self._secrets:
            raise ConfigurationError("tokens are not signed here: make the client with token_secret=…")
        if not text.startswith(SIGNED_PREFIX):
            raise ConfigurationError(
                "that is not signed, and this client has a token_secret; if it comes from a place that you trust, "
                "sign it with TensorPool.sign"
            )
        body, _, signature = text.rpartition(".")
        # All are compared, each in constant time: how long it takes tells nothing.
        if not sum([_is_signature(signature, body, secret) for secret in self._secrets]):
            raise ConfigurationError(
                "the token's signature is not that of this client: it was changed, or signed with another secret; "
                "after a change of secrets, give the old one behind the new one: token_secret=[new, old]"
            )

    def __repr__(self) -> str:
        return f"<Tokens, {len(self._secrets)} secrets>"


UNSIGNED = Tokens()


def _signature_of(text: str, secret: bytes) -> str:
    digest = hmac.digest(secret, _CONTEXT + text.encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def _is_signature(signature: str, text: str, secret: bytes) -> bool:
    return hmac.compare_digest(signature.encode(), _signature_of(text, secret).encode())


def encode(ref: OperationRef) -> str:
    """Write a reference as a token that is not signed."""
    return PREFIX + _payload_of(ref)


def _payload_of(ref: OperationRef) -> str:
    fields: dict[str, Any] = {
        "k": None if ref.kind is None else str(ref.kind),
        "o": ref.resource_id,
        "r": list(ref.request_ids),
        "x": ref.expected,
    }
    text = json.dumps({name: value for name, value in fields.items() if value}, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode(text: str) -> OperationRef:
    """Read a token, or a bare request id; a signature is not looked at.

    Raises:
        ConfigurationError: It is a token of a newer version, or a damaged one, or no request id either.
    """
    if len(text) > LONGEST_TOKEN:
        raise ConfigurationError(f"the token is damaged: it is longer than {LONGEST_TOKEN} characters")
    text = text.strip()
    if not (text.isascii() and text.isprintable() and text):
        raise ConfigurationError(
            "neither a token nor a request id: it is empty, or holds characters that neither has"
        )
    version = _VERSION.match(text)
    if version is None:
        if not is_id(text):
            raise ConfigurationError("neither a token nor a request id: it is too long, or a dot segment")
        return OperationRef(kind=None, request_ids=(text,))
    if f"{version[0]}." not in {PREFIX, SIGNED_PREFIX}:
        raise ConfigurationError(
            f"the token is of version {version[0]!r}, and this package reads "
            f"{PREFIX[:-1]!r} and {SIGNED_PREFIX[:-1]!r}"
        )
    try:
        ref = _ref_of(_fields_of(_payload_in(text)))
    except (ValueError, TypeError, RecursionError):
        raise ConfigurationError("the token is damaged: it cannot be read") from None
    if not ref.request_ids:
        _check_watchable(ref)
    return ref


def _payload_in(text: str) -> str:
    if not text.startswith(SIGNED_PREFIX):
        return text.removeprefix(PREFIX)
    payload, _, signature = text.removeprefix(SIGNED_PREFIX).partition(".")
    if not signature:
        raise ValueError("no signature")
    return payload


def _fields_of(text: str) -> dict[str, Any]:
    fields = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    if not isinstance(fields, dict):
        raise TypeError("no object")
    return cast("dict[str, Any]", fields)


def _ref_of(fields: dict[str, Any]) -> OperationRef:
    kind, resource_id, request_ids, expected = (
        fields.get("k"),
        fields.get("o"),
        fields.get("r", []),
        fields.get("x", {}),
    )
    if not isinstance(request_ids, list) or not isinstance(expected, dict):
        raise TypeError("fields of another type")
    if len(cast("list[Any]", request_ids)) > MOST_REQUESTS:
        raise ValueError("too many requests")
    ids = [*cast("list[Any]", request_ids), *([] if resource_id is None else [resource_id])]
    if not all(is_id(one) for one in ids):
        raise ValueError("ids that are none")
    return OperationRef(
        kind=None if kind is None else OperationKind(kind),
        resource_id=resource_id,
        request_ids=tuple(cast("list[str]", request_ids)),
        expected=cast("dict[str, Any]", expected),
    )


def _check_watchable(ref: OperationRef) -> None:
    if ref.kind is None or ref.resource_id is None:
        raise ConfigurationError("the token is damaged: it names nothing to follow")
    spec = OPERATION_SPECS.get(ref.kind)
    if spec is None:
        raise ConfigurationError(f"the token is of a kind that this package cannot follow: {ref.kind}")
    if not spec.can_watch(ref.resource_id, ref.expected):
        raise ConfigurationError("the token is damaged: it does not say what is expected")
