"""The default journal: an SQLite file, on a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import anyio

from tensorpool_async.errors import JournalError
from tensorpool_async.journal.database import Database
from tensorpool_async.journal.records import NOT_MADE, Intent, JournalEntry
from tensorpool_async.journal.rows import accepted_row, intent_row, text
from tensorpool_async.journal.writer import Call, Waiter, Write, Writer
from tensorpool_async.protocol.tokens import OperationRef
from tensorpool_async.texts import logger_of


logger: logging.Logger = logger_of("tensorpool_async")

KEEP_FOR = 30 * 24 * 3600.0
"""Seconds for which entries are kept that have ended, and whose resource is gone or was never made."""


class SQLiteJournal:
    """A journal in a file, which several processes may use at once. It keeps the promises of `Journal`.

    - The file, and those that SQLite keeps beside it (`-wal`, `-shm`), are readable by their owner only. Wider
      permissions of a file that is there are taken away. A symbolic link, or another user's file, is refused. Folders
      that are missing are made, for their owner only.
    - A file that is damaged, of a newer version, empty, or no journal is refused, and left as it is.
    - Each open journal is an owner, and alive for as long as it is open: it holds a lock on a file of its own in the
      folder `<path>-owners`. The system gives the lock up when the process ends, in whatever way.
    - What many tasks write at once is written in one transaction.
    - It belongs on a local disk: SQLite's write-ahead log works on no network file system.

    After a fork, the child opens a journal of its own; what it inherited raises `JournalError`. The inherited lock is
    closed in the child where the fork was `os.fork` or `multiprocessing`; a fork in C code keeps the owner alive until
    the child ends.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, busy_timeout: float = 10.0, keep_for: float = KEEP_FOR
    ) -> None:
        """Make a journal; nothing is opened yet.

        Args:
            path: The file, which is made where it is missing.
            busy_timeout: Seconds to wait while another process writes.
            keep_for: Seconds for which entries are kept that have ended, and whose resource is gone or was never made.
        """
        self.path: Path = Path(path)
        self._connect: Callable[[], Database] = partial(
            Database, self.path, busy_timeout=busy_timeout, keep_for=keep_for
        )
        self._writer: Writer | None = None
        self._closing: asyncio.Future[None] | None = None

    async def open(self) -> None:
        """Make it ready for use; see `Journal.open`."""
        if self._closing is not None:
            await self.aclose()
        writer = self._writer
        if writer is None or not writer.is_here:
            writer = self._writer = Writer(self.path, self._connect)
            # A journal that is forgotten ends its thread, and gives up what belongs to it.
            weakref.finalize(self, writer.stop)
        try:
            await self._call(_nothing, only_reads=True)
        except JournalError:
            if self._writer is writer:
                self._writer = None
                writer.stop()
            raise

    async def intend(self, intent: Intent) -> int:
        """Note what is about to be sent; see `Journal.intend`."""
        _check_time(intent.sent_at)
        row, writer = intent_row(intent), self._running()
        waiter = Waiter()
        writer.put(Write("intents", row, waiter))
        try:
            return cast("int", await asyncio.shield(waiter.future))
        except asyncio.CancelledError:
            # It is in the queue and will be written, but its caller does not go on to send it.
            waiter.future.add_done_callback(partial(self._withdraw, intent.sent_at))
            raise

    async def accept(self, entry: int, ref: OperationRef, at: float) -> None:
        """Note what the 202 named; see `Journal.accept`."""
        _check_time(at)
        row, writer = accepted_row(entry, ref, at), self._running()
        waiter = Waiter()
        writer.put(Write("accepted", row, waiter))
        await waiter.future

    def end(self, entry: int, outcome: str, at: float) -> None:
        """Note how an entry ended; see `Journal.end`."""
        _check_time(at)
        self._note(Write("ended", (entry, text(outcome), at)))

    def mark_deleted(self, engine: str, resource_id: str, at: float) -> None:
        """Note that a resource is gone; see `Journal.mark_deleted`."""
        _check_time(at)
        self._note(Write("gone", (text(engine), text(resource_id), at)))

    async def take_over(self, engine: str) -> list[JournalEntry]:
        """Take over from the dead; see `Journal.take_over`."""
        engine = text(engine)
        return cast("list[JournalEntry]", await self._call(lambda database: database.take_over(engine)))

    async def entries(self, engine: str | None = None, *, ended: bool = False) -> list[JournalEntry]:
        """Read the entries; see `Journal.entries`."""
        engine = None if engine is None else text(engine)
        read = partial(Database.entries, engine=engine, ended=ended)
        return cast("list[JournalEntry]", await self._call(read, only_reads=True))

    async def claim(self, entry: int) -> bool:
        """Take one entry of a dead owner; see `Journal.claim`."""
        return cast("bool", await self._call(lambda database: database.claim(entry)))

    async def aclose(self) -> None:
        """Write what is queued, and close; see `Journal.aclose`.

        Who is cancelled here still waits for it: at most for as long as another process holds the file.
        """
        writer, self._writer = self._writer, None
        if writer is not None and writer.is_here:
            waiter = Waiter()
            self._closing = waiter.future
            writer.stop(waiter)
        closing = self._closing
        if closing is not None:
            await _outlast(closing)
            self._closing = None

    def _withdraw(self, at: float, intended: asyncio.Future[int]) -> None:
        if not intended.cancelled() and intended.exception() is None:
            self.end(intended.result(), NOT_MADE, at)

    async def _call(self, function: Callable[[Database], Any], *, only_reads: bool = False) -> Any:
        writer = self._running()
        waiter = Waiter()
        writer.put(Call(function, waiter, only_reads))
        return await waiter.future

    def _note(self, write: Write) -> None:
        try:
            writer = self._running()
        except JournalError as error:
            logger.warning("%s; that %s is not noted", error, write.row)
            return
        writer.put(write)

    def _running(self) -> Writer:
        if self._writer is None:
            raise JournalError(self.path, "is not open", "open it first")
        if not self._writer.is_here:
            raise JournalError(self.path, "was opened before a fork", "open one of your own in the child")
        return self._writer

    def __repr__(self) -> str:
        return f"<SQLiteJournal {self.path}{', not open' if self._writer is None else ''}>"


def _nothing(_: Database) -> None:
    """Do nothing, once the database is open."""


def _check_time(at: float) -> None:
    if not math.isfinite(at):
        raise ValueError(f"{at} is no time")


async def _outlast(future: asyncio.Future[None]) -> None:
    """Wait for the end of a future also when cancelled, and then be cancelled."""
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is not None:
        raise cancelled
