"""What is in flight, on disk: a crash loses nothing that was sent."""

from typing import TYPE_CHECKING, Any

from tensorpool_async.errors import JournalError
from tensorpool_async.journal.records import (
    DESTROYED,
    NOT_MADE,
    REFUSED,
    EntryState,
    Intent,
    Journal,
    JournalEntry,
)


if TYPE_CHECKING:
    from tensorpool_async.journal.sqlite import KEEP_FOR, SQLiteJournal


__all__ = [
    "DESTROYED",
    "KEEP_FOR",
    "NOT_MADE",
    "REFUSED",
    "EntryState",
    "Intent",
    "Journal",
    "JournalEntry",
    "JournalError",
    "SQLiteJournal",
]


def __getattr__(name: str) -> Any:
    # SQLite is loaded by who keeps a journal, and not by everybody who imports the package.
    if name in {"KEEP_FOR", "SQLiteJournal"}:
        from tensorpool_async.journal import sqlite

        return getattr(sqlite, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
