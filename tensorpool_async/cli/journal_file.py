"""The journal that a command uses: its path and how it is opened."""

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


def journal_path(option: Path | None) -> Path | None:
    """Return the path from the option, otherwise from the environment; None if neither is set."""
    path = option or Path(os.environ.get(JOURNAL_VARIABLE, ""))
    return None if path == Path() else path.expanduser()


def existing_journal_path(option: Path | None) -> Path:
    """Return the path as `journal_path` does, and check that the file exists: reading a journal does not create it.

    Raises:
        ConfigurationError: No path is set, or there is no such file.
    """
    path = journal_path(option)
    if path is None:
        raise ConfigurationError(
            f"no journal is named: use --journal PATH or {JOURNAL_VARIABLE}, with the path that the program passes to "
            "TensorPool(journal=…)"
        )
    if not os.path.lexists(path):
        raise ConfigurationError(f"there is no journal at {path}")
    return path


def tpa_command(arguments: str, journal: Path) -> str:
    """Return a command line for this shell; it names the journal unless the environment does."""
    if journal_path(None) == journal:
        return f"tpa {arguments}"
    return f"tpa {arguments} --journal {shlex.quote(str(journal))}"


@asynccontextmanager
async def open_journal(path: Path) -> AsyncGenerator[SQLiteJournal]:
    """Open a journal for the body of an `async with`.

    Raises:
        ConfigurationError: The journal cannot be read or written.
    """
    journal = SQLiteJournal(path)
    await _open(journal)
    try:
        yield journal
    finally:
        await journal.aclose()


@asynccontextmanager
async def open_client(journal: Path | None, *, only_destroys: bool = False) -> AsyncGenerator[TensorPool]:
    """Open a client for the body of an `async with`.

    Args:
        journal: The path of the journal; None for a client without one.
        only_destroys: Whether the command only destroys. Such a command goes ahead without a usable journal; the client
            logs a warning.

    Raises:
        ConfigurationError: There is no key, or the journal cannot be read or written.
    """
    store = None if journal is None else SQLiteJournal(journal)
    async with TensorPool(journal=store) as tp:
        if store is not None and not only_destroys:
            await _open(store)  # fail here once, rather than for each member of a fleet
        yield tp


async def _open(journal: SQLiteJournal) -> None:
    try:
        await journal.open()
    except JournalError as error:
        raise ConfigurationError(str(error)) from error
