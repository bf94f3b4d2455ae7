"""The journal's thread: takes what is queued, writes all of it in one transaction, and wakes all who wait at once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import threading
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from tensorpool_async.errors import JournalError
from tensorpool_async.journal.database import DAMAGED, Database, WriteBatch
from tensorpool_async.journal.rows import Row
from tensorpool_async.texts import logger_of


logger: logging.Logger = logger_of("tensorpool_async")


class Waiter:
    """Who waits for an answer, on the event loop that runs."""

    __slots__ = ("future",)

    def __init__(self) -> None:
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()


@attrs.frozen(eq=False)
class Write:
    """A row to write."""

    table: str
    row: Row
    waiter: Waiter | None = None


@attrs.frozen(eq=False)
class Call:
    """Something to do with the database, after all that was queued before.

    Attributes:
        only_reads: Whether it is done also where what was queued before cannot be written now.
    """

    function: Callable[[Database], Any]
    waiter: Waiter
    only_reads: bool = False


@attrs.frozen(eq=False)
class Stop:
    """The end."""

    waiter: Waiter | None = None


Item = Write | Call | Stop
Queue = queue.SimpleQueue[Item]
_Answer = tuple[asyncio.Future[Any], Any]


class Writer:
    """A thread with a queue.

    It is a daemon: a journal that was forgotten does not keep the interpreter from ending. What was waited for is on
    disk then; an `end` that was only queued may not be, and is found out again when the work is recovered.
    """

    def __init__(self, path: Path, connect: Callable[[], Database]) -> None:
        self._process = os.getpid()
        self._items: Queue = queue.SimpleQueue()
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._ringing: asyncio.AbstractEventLoop | None = None
        work = _Work(path, connect, self._items, self._bell)
        threading.Thread(target=work.run, name="tensorpool-journal", daemon=True).start()

    @property
    def is_here(self) -> bool:
        """Whether the thread is one of this process, and not left behind in the parent by a fork."""
        return self._process == os.getpid()

    def put(self, item: Write | Call) -> None:
        """Queue something. The thread hears of it when all that is ready on the event loop has run.

        So what many tasks ask for in one turn of the loop is one transaction, however quick the disk is.
        """
        self._items.put(item)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._bell.put(None)
            return
        if self._ringing is not loop:
            self._ringing = loop
            loop.call_soon(self._ring)

    def stop(self, waiter: Waiter | None = None) -> None:
        """End the thread when all that was queued is written."""
        self._items.put(Stop(waiter))
        self._bell.put(None)

    def _ring(self) -> None:
        self._ringing = None
        self._bell.put(None)


class _Work:
    """What the thread does. It holds nothing of the journal itself, so that a forgotten one can be noticed."""

    def __init__(
        self, path: Path, connect: Callable[[], Database], items: Queue, bell: queue.SimpleQueue[None]
    ) -> None:
        self._path = path
        self._connect = connect
        self._items = items
        self._bell = bell
        self._batch = WriteBatch()
        self._intending: list[Waiter] = []  # in the order of the batch's intents
        self._accepting: list[Waiter] = []
        self._answers: list[_Answer] = []
        self._warned = False
        self._stuck: JournalError | None = None  # what a try has met of which many wait: each may take 10 s

    def run(self) -> None:
        """Open the database, and serve the queue until its end."""
        try:
            database = self._connect()
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must hear of it
            self._refuse_until_stopped(self._error_of(error))
            return
        stop = None
        while stop is None:
            stop = self._serve(database, self._next())
        try:
            database.close()
        except Exception:
            logger.exception("the journal %s could not be closed properly", self._path)
        self._answer(stop.waiter, None)
        self._deliver()

    def _next(self) -> list[Item]:
        self._bell.get()
        items: list[Item] = []
        while True:
            try:
                items.append(self._items.get_nowait())
            except queue.Empty:
                return items

    def _serve(self, database: Database, items: list[Item]) -> Stop | None:
        """Do what was queued, in order; return the word to stop, where it was among it."""
        stop = self._stuck = None
        for item in items:
            match item:
                case Write():
                    self._add(item)
                case Call():
                    self._call(database, item)
                case Stop():
                    stop = item
        self._commit(database)
        self._deliver()
        return stop

    def _add(self, item: Write) -> None:
        if item.table == "intents":
            self._batch.intents.append(item.row)
            self._intending += [item.waiter] if item.waiter else []
        else:
            self._batch.add(item.table, item.row)
            self._accepting += [item.waiter] if item.waiter else []

    def _call(self, database: Database, item: Call) -> None:
        error = self._commit(database)
        if error is None or item.only_reads:
            error = None
            try:
                self._answer(item.waiter, item.function(database))
            except Exception as raised:  # noqa: BLE001 - goes to who waits for it
                error = self._error_of(raised)
        if error is not None:
            self._answer(item.waiter, error)

    def _commit(self, database: Database) -> JournalError | None:
        """Write all that was gathered. Of what cannot be written, all but the intents is kept for the next time."""
        if not self._batch:
            return None
        intending, self._intending = self._intending, []
        accepting, self._accepting = self._accepting, []
        try:
            ids = self._write(database)
        except Exception as raised:  # noqa: BLE001 - goes to all who wait for it
            error = self._stuck = self._error_of(raised)
            self._batch.intents.clear()
            if self._batch and not self._warned:
                self._warned = True  # once for as long as it lasts
                logger.warning("%s; what became of operations is kept in memory, and tried again", error)
            for waiter in intending + accepting:
                self._answer(waiter, error)
            return error
        self._batch = WriteBatch()
        self._warned = False
        for waiter, id_ in zip(intending, ids, strict=True):
            self._answer(waiter, id_)
        for waiter in accepting:
            self._answer(waiter, None)
        return None

    def _write(self, database: Database) -> list[int]:
        if self._stuck is not None:
            raise self._stuck
        return database.write(self._batch)

    def _refuse_until_stopped(self, error: JournalError) -> None:
        while True:
            for item in self._next():
                match item:
                    case Write():
                        self._answer(item.waiter, error)
                    case Call():
                        self._answer(item.waiter, error)
                    case Stop():
                        self._answer(item.waiter, None)
                        self._deliver()
                        return
            self._deliver()

    def _error_of(self, raised: Exception) -> JournalError:
        if isinstance(raised, JournalError):
            return raised
        error = JournalError(self._path, f"cannot be used: {type(raised).__name__}: {raised}", DAMAGED)
        error.__cause__ = raised
        return error

    def _answer(self, waiter: Waiter | None, answer: Any) -> None:
        if waiter is not None:
            self._answers.append((waiter.future, answer))

    def _deliver(self) -> None:
        """Wake all who wait, with one call for each event loop."""
        answers, self._answers = self._answers, []
        by_loop: defaultdict[asyncio.AbstractEventLoop, list[_Answer]] = defaultdict(list)
        for future, answer in answers:
            by_loop[future.get_loop()].append((future, answer))
        for loop, part in by_loop.items():
            # A loop that was closed has nobody left who waits; what they waited for is on disk.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_wake, part)


def _wake(answers: list[_Answer]) -> None:
    for future, answer in answers:
        if future.done():
            continue
        if isinstance(answer, JournalError):
            error = answer.again()
            error.__cause__ = answer.__cause__
            future.set_exception(error)
        else:
            future.set_result(answer)
