"""Tokens: an operation as a text that another process can go on with.

A token is `tpa1.` and the base64url of a small JSON object: what is done, to what, and by which requests. It holds no
secret; whoever has it still needs the key.
"""

from __future__ import annotations

import base64
import json
from typing import Any, cast

import attrs

from tensorpool_async.errors import ConfigurationError
from tensorpool_async.models.enums import OperationKind


PREFIX = "tpa1."


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
    if not text or not text.isascii() or not text.isprintable():
        raise ConfigurationError(
            "neither a token nor a request id: it is empty, or holds characters that neither has"
        )
    if not text.startswith("tpa"):
        return Ticket(kind=None, request_ids=(text,))
    if not text.startswith(PREFIX):
        version = text.partition(".")[0]
        if version.removeprefix("tpa").isdigit():
            raise ConfigurationError(
                f"the token is of version {version!r}, and this package reads {PREFIX[:-1]!r}"
            )
        return Ticket(kind=None, request_ids=(text,))
    try:
        return _ticket_of(_fields_of(text.removeprefix(PREFIX)))
    except (ValueError, TypeError, RecursionError):
        raise ConfigurationError("the token is damaged: it cannot be read") from None


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
    if not (kind and resource_id) and not request_ids:
        raise ValueError("nothing to follow")
    return Ticket(
        kind=OperationKind(kind) if kind else None,
        resource_id=str(resource_id) if resource_id else None,
        request_ids=tuple(str(one) for one in cast("list[Any]", request_ids)),
        expected=cast("dict[str, Any]", expected),
    )
