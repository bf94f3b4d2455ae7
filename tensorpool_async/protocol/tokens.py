"""Tokens: an operation as a text that another process can go on with.

A token is `tpa1.` and the base64url of a small JSON object: what is done, to what, and by which requests. It holds no
secret; whoever has it still needs the key.
"""

from __future__ import annotations

import base64
import json
import re
from typing import Any, cast

import attrs

from tensorpool_async.errors import ConfigurationError
from tensorpool_async.models.enums import OperationKind
from tensorpool_async.protocol.kinds import KINDS
from tensorpool_async.protocol.requests import path_of


PREFIX = "tpa1."

_VERSION = re.compile(r"tpa[0-9]+(?=\.|$)")


@attrs.frozen
class Ticket:
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
class Accepted:
    """What a 202 says.

    Attributes:
        ticket: What identifies the operation.
        retry_after: Seconds after which the engine wants to be asked, or None.
    """

    ticket: Ticket
    retry_after: float | None = None


def encode(ticket: Ticket) -> str:
    """Write a ticket as a token."""
    fields: dict[str, Any] = {
        "k": None if ticket.kind is None else str(ticket.kind),
        "o": ticket.resource_id,
        "r": list(ticket.request_ids),
        "x": ticket.expected,
    }
    text = json.dumps({name: value for name, value in fields.items() if value}, separators=(",", ":"))
    return PREFIX + base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode(text: str) -> Ticket:
    """Read a token, or a bare request id.

    Raises:
        ConfigurationError: It is a token of a newer version, or a damaged one, or no request id either.
    """
    text = text.strip()
    if not (text.isascii() and text.isprintable() and _is_id(text)):
        raise ConfigurationError(
            "neither a token nor a request id: it is empty, or holds characters that neither has"
        )
    version = _VERSION.match(text)
    if version is None:
        return Ticket(kind=None, request_ids=(text,))
    if version[0] != PREFIX[:-1]:
        raise ConfigurationError(
            f"the token is of version {version[0]!r}, and this package reads {PREFIX[:-1]!r}"
        )
    try:
        ticket = _ticket_of(_fields_of(text.removeprefix(PREFIX)))
    except (ValueError, TypeError, RecursionError):
        raise ConfigurationError("the token is damaged: it cannot be read") from None
    if not ticket.request_ids:
        _check_watchable(ticket)
    return ticket


def _fields_of(text: str) -> dict[str, Any]:
    fields = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    if not isinstance(fields, dict):
        raise TypeError("no object")
    return cast("dict[str, Any]", fields)


def _ticket_of(fields: dict[str, Any]) -> Ticket:
    kind, resource_id, request_ids, expected = (
        fields.get("k"),
        fields.get("o"),
        fields.get("r", []),
        fields.get("x", {}),
    )
    if not isinstance(request_ids, list) or not isinstance(expected, dict):
        raise TypeError("fields of another type")
    ids = [*cast("list[Any]", request_ids), *([] if resource_id is None else [resource_id])]
    if not all(_is_id(one) for one in ids):
        raise ValueError("ids that are none")
    return Ticket(
        kind=None if kind is None else OperationKind(kind),
        resource_id=resource_id,
        request_ids=tuple(cast("list[str]", request_ids)),
        expected=cast("dict[str, Any]", expected),
    )


def _check_watchable(ticket: Ticket) -> None:
    if ticket.kind is None or ticket.resource_id is None:
        raise ConfigurationError("the token is damaged: it names nothing to follow")
    rule = KINDS.get(ticket.kind)
    if rule is None:
        raise ConfigurationError(f"the token is of a kind that this package cannot follow: {ticket.kind}")
    if not rule.can_watch(ticket.resource_id, ticket.expected):
        raise ConfigurationError("the token is damaged: it does not say what is expected")


def _is_id(value: Any) -> bool:
    """Whether this can stand in a path, and so be asked for."""
    try:
        return isinstance(value, str) and bool(path_of(value))
    except ValueError:
        return False
