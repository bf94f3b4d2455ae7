"""The rows of the journal's tables: how they are written, and how they are read without trusting them."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Callable
from typing import Any, NoReturn, cast

from tensorpool_async.journal.records import EntryState, Intent, JournalEntry
from tensorpool_async.models.enums import OperationKind
from tensorpool_async.protocol.tokens import OperationRef


Row = tuple[str | int | float | None, ...]


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


_COLUMNS: dict[str, tuple[Callable[[object], bool], str]] = {
    "id": (lambda value: isinstance(value, int), "number"),
    **dict.fromkeys(("owner", "engine", "kind", "method", "path", "expected", "details"), (_is_text, "text")),
    **dict.fromkeys(("name", "resource_id", "outcome"), (_is_text, "text")),
    **dict.fromkeys(("ticket_kind", "ticket_resource_id", "ticket_request_ids"), (_is_text, "text")),
    "ticket_expected": (_is_text, "text"),
    **dict.fromkeys(
        ("sent_at", "accepted_at", "ended_at", "gone_at", "ttl"), (_is_number, "number of seconds")
    ),
    **dict.fromkeys(("random_name", "ephemeral"), (lambda value: value in {0, 1}, "0 or 1")),
}
"""What belongs into each column of an entry: SQLite keeps anything in any column."""
_REQUIRED = frozenset(
    {
        "id",
        "owner",
        "engine",
        "kind",
        "method",
        "path",
        "expected",
        "details",
        "sent_at",
        "random_name",
        "ephemeral",
    }
)


def text(value: str) -> str:
    """Make a text that SQLite takes: a lone surrogate, as from a broken file name, is spelled out."""
    return value.encode("utf-8", "backslashreplace").decode()


def intent_row(intent: Intent) -> Row:
    """Make the row of an intent, without id and owner.

    Raises:
        TypeError: `expected` or `details` is not JSON.
    """
    return (
        text(intent.engine),
        text(str(intent.kind)),
        text(intent.method),
        text(intent.path),
        None if intent.name is None else text(intent.name),
        intent.random_name,
        None if intent.resource_id is None else text(intent.resource_id),
        json.dumps(intent.expected),
        json.dumps(intent.details),
        intent.ephemeral,
        intent.ttl,
        intent.sent_at,
    )


def accepted_row(entry: int, ref: OperationRef, at: float) -> Row:
    """Make the row that says what was accepted.

    Raises:
        TypeError: `expected` is not JSON.
    """
    return (
        entry,
        None if ref.kind is None else text(str(ref.kind)),
        None if ref.resource_id is None else text(ref.resource_id),
        json.dumps(ref.request_ids),
        json.dumps(ref.expected),
        at,
    )


def entry_of(row: sqlite3.Row, *, alive: bool) -> JournalEntry:
    """Make an entry of its row.

    Raises:
        ValueError: The row holds what this package does not write.
    """
    _check(row)
    if row["ended_at"] is not None:
        state = EntryState.ENDED
    else:
        state = EntryState.INTENT if row["accepted_at"] is None else EntryState.ACCEPTED
    return JournalEntry(
        id=row["id"],
        intent=Intent(
            engine=row["engine"],
            kind=OperationKind(row["kind"]),
            method=row["method"],
            path=row["path"],
            name=row["name"],
            random_name=bool(row["random_name"]),
            resource_id=row["resource_id"],
            expected=_object(row["expected"]),
            details=_object(row["details"]),
            ephemeral=bool(row["ephemeral"]),
            ttl=row["ttl"],
            sent_at=row["sent_at"],
        ),
        ref=_ref_of(row),
        state=state,
        outcome=row["outcome"],
        owner=row["owner"],
        owner_alive=alive,
        accepted_at=row["accepted_at"],
        ended_at=row["ended_at"],
        deleted_at=row["gone_at"],
    )


def _check(row: sqlite3.Row) -> None:
    for column, (fits, word) in _COLUMNS.items():
        value = row[column]
        if (value is not None or column in _REQUIRED) and not fits(value):
            raise ValueError(f"{column} is no {word}")


def _ref_of(row: sqlite3.Row) -> OperationRef | None:
    if row["accepted_at"] is None:
        return None
    return OperationRef(
        kind=None if row["ticket_kind"] is None else OperationKind(row["ticket_kind"]),
        resource_id=row["ticket_resource_id"],
        request_ids=_texts(row["ticket_request_ids"]),
        expected=_object(row["ticket_expected"]),
    )


def _object(value: str | None) -> dict[str, Any]:
    found = _json(value)
    if not isinstance(found, dict):
        raise ValueError("no JSON object where one belongs")  # noqa: TRY004 - the value is wrong, and not its caller
    return cast("dict[str, Any]", found)


def _texts(value: str | None) -> tuple[str, ...]:
    found = _json(value)
    if not isinstance(found, list) or not all(isinstance(one, str) for one in cast("list[Any]", found)):
        raise ValueError("no JSON list of texts where one belongs")
    return tuple(cast("list[str]", found))


def _json(value: str | None) -> Any:
    try:
        return json.loads(value or "", parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} in JSON")
