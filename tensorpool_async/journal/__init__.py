"""What is in flight, on disk: a crash loses nothing that was sent."""

from tensorpool_async.journal.errors import JournalError
from tensorpool_async.journal.records import (
    DESTROYED,
    NOT_MADE,
    REFUSED,
    Entry,
    EntryState,
    Intent,
    Journal,
)
from tensorpool_async.journal.sqlite import KEEP_FOR, SQLiteJournal


__all__ = [
    "DESTROYED",
    "KEEP_FOR",
    "NOT_MADE",
    "REFUSED",
    "Entry",
    "EntryState",
    "Intent",
    "Journal",
    "JournalError",
    "SQLiteJournal",
]
