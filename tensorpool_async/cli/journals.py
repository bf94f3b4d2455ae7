"""Which journal a command works with, and how it is opened."""

from __future__ import annotations

import os
import shlex
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from tensorpool_async.client import TensorPool
from tensorpool_async.errors import ConfigurationError
from tensorpool_async.journal import JournalError, SQLiteJournal


JOURNAL_VARIABLE = "TENSORPOOL_JOURNAL"


def named_journal(option: Path | None) -> Path | None:
    """Return the path that the option names, else the environment; None where neither does."""
    path = option or Path(os.environ.get(JOURNAL_VARIABLE, ""))
    return None if path == Path() else path.expanduser()


def existing_journal(option: Path | None) -> Path:
    """Return the path of a journal that is there: what is only read is not made by reading it.

    Raises:
        ConfigurationError: None is named, or there is no such file.
    """
    path = named_journal(option)
    if path is None:
        raise ConfigurationError(
            f"which journal? Name it with --journal PATH or {JOURNAL_VARIABLE}; it is the path that "
            "TensorPool(journal=…) was given"
        )
    if not os.path.lexists(path):
        raise ConfigurationError(f"there is no journal at {path}")
    return path


def command(words: str, journal: Path) -> str:
    """Return a command to go on with, as it has to be typed here."""
    if named_journal(None) == journal:
        return f"tpa {words}"
    return f"tpa {words} --journal {shlex.quote(str(journal))}"


@asynccontextmanager
async def opened(path: Path) -> AsyncGenerator[SQLiteJournal]:
    """Open a journal for the body of an `async with`.

    Raises:
        ConfigurationError: It cannot be used; the text says why.
    """
    journal = SQLiteJournal(path)
    await _open(journal)
    try:
        yield journal
    finally:
        await journal.aclose()


@asynccontextmanager
async def client(journal: Path | None, *, is_exit: bool = False) -> AsyncGenerator[TensorPool]:
    """Open a client, with a journal if one is named, for the body of an `async with`.

    Args:
        journal: The path of the journal.
        is_exit: Whether the client only destroys: that goes ahead also where the journal cannot be used, and is told.

    Raises:
        ConfigurationError: There is no key, or the journal cannot be used.
    """
    store = None if journal is None else SQLiteJournal(journal)
    async with TensorPool(journal=store) as tp:
        if store is not None and not is_exit:
            await _open(store)  # now, rather than once for each member of a fleet
        yield tp


async def _open(journal: SQLiteJournal) -> None:
    try:
        await journal.open()
    except JournalError as error:
        raise ConfigurationError(str(error)) from error
