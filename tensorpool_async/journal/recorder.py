"""`JournalRecorder` writes each change of a client to the journal before it is sent, and its end once it is known."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Generic, Protocol, TypeVar

import attrs

from tensorpool_async.errors import (
    ConfigurationError,
    JournalError,
    NotFound,
    OperationFailed,
    TensorPoolError,
)
from tensorpool_async.events import ChangeUnrecorded
from tensorpool_async.events.instrumentation import Instrumentation
from tensorpool_async.journal.records import NOT_MADE, EntryState, Intent, Journal, JournalEntry
from tensorpool_async.models.enums import OperationKind
from tensorpool_async.protocol.requests import Request
from tensorpool_async.protocol.tokens import OperationRef
from tensorpool_async.secrets import Secret
from tensorpool_async.texts import logger_of


RECORDED_FIELDS = ("instance_type", "num_nodes", "size")
"""The fields of a request body that are recorded, for people who read the journal. No other field is recorded."""

EXIT_PATIENCE = 2.0
"""The longest wait in seconds for the journal, for changes of cleanup code and for acceptances."""

ENDS_OF_RESOURCES = frozenset({OperationKind.CLUSTER_RELEASE, OperationKind.STORAGE_DESTROY})

logger: logging.Logger = logger_of("tensorpool_async")


@attrs.frozen(kw_only=True)
class CreateTags:
    """What the journal records of a change besides its request.

    Attributes:
        random_name: Whether the name is random, and so belongs to this change alone.
        ephemeral: Whether the process that makes the resource also destroys it.
        ttl: Seconds after which the resource may be reaped; None for never.
    """

    random_name: bool = False
    ephemeral: bool = False
    ttl: float | None = None


NO_TAGS = CreateTags()
RANDOMLY_NAMED = CreateTags(random_name=True)


def create_tags(name: str | None, *, ephemeral: bool = False, ttl: float | None = None) -> CreateTags:
    """Return the tags of a create; `name` is the name that the caller gave, or None."""
    if ephemeral or ttl is not None:
        return CreateTags(random_name=name is None, ephemeral=ephemeral, ttl=ttl)
    return NO_TAGS if name is not None else RANDOMLY_NAMED


class RecordedOperation(Protocol):
    """The part of `Operation` that the recorder uses."""

    @property
    def kind(self) -> OperationKind | None:
        """What is done."""
        ...

    @property
    def resource_id(self) -> str | None:
        """What it is done to."""
        ...

    def exception(self) -> TensorPoolError | None:
        """Return the error that it ended with."""
        ...

    def add_done_callback(self, callback: Callable[[Any], object], /) -> None:
        """Call `callback(operation)` once it has ended."""
        ...


Op = TypeVar("Op", bound=RecordedOperation)


class ChangeRecord(Generic[Op]):
    """The journal entry of one change while the change is sent. Each method records one step."""

    def __init__(self, recorder: JournalRecorder[Op], entry: int) -> None:
        self._recorder = recorder
        self._entry = entry

    def failed(self, outcome: str | None) -> None:
        """Record why the change failed. None leaves the entry open, since the change may have been carried out."""
        if outcome is not None:
            self._recorder.close(self._entry, outcome)

    async def accepted(self, ref: OperationRef) -> None:
        """Record the acceptance (202) and its ids."""
        await self._recorder.accept(self._entry, ref)

    def started(self, operation: Op) -> None:
        """Record the end of the operation once it is known."""
        self._recorder.record_end_of(self._entry, operation)

    def forget(self) -> None:
        """Note that the change is no longer being sent: its operation is polled, or it has failed."""
        self._recorder.forget(self._entry)


class LateChangeRecord(ChangeRecord[Op]):
    """The journal entry of a change that is sent before its intent is on disk. It is completed if the write succeeds."""

    def __init__(self, recorder: JournalRecorder[Op], writing: asyncio.Task[int]) -> None:
        self._recorder = recorder
        self._writing = writing

    def failed(self, outcome: str | None) -> None:
        """Close the entry once it is written."""
        self._recorder.close_late(self._writing, outcome)

    async def accepted(self, ref: OperationRef) -> None:
        """Do nothing, since the end of the operation is recorded later."""

    def started(self, operation: Op) -> None:
        """Record the end of the operation once the entry is written."""
        self._recorder.record_late_end_of(self._writing, operation)

    def forget(self) -> None:
        """Do nothing, since the entry is forgotten once it is written."""


class JournalRecorder(Generic[Op]):
    """Writes the changes of one client to its journal, and knows which of them are in progress in this process."""

    def __init__(
        self,
        journal: Journal | None,
        engine: str,
        *,
        key: Secret,
        instrumentation: Instrumentation,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._journal = journal
        self._engine = engine
        self._key = key
        self._instrumentation = instrumentation
        self._now = now
        self._intending: list[Intent] = []
        self._in_progress: set[int] = set()
        self._ended_meanwhile: set[int] | None = None
        self._operations: dict[int, Op] = {}
        self._unrecorded = 0
        self._can_open = True
        self._late: set[asyncio.Task[int]] = set()

    @property
    def enabled(self) -> bool:
        """Whether there is a journal."""
        return self._journal is not None

    @property
    def journal(self) -> Journal:
        """The journal.

        Raises:
            ConfigurationError: The client has none.
        """
        if self._journal is None:
            raise ConfigurationError("this needs a journal: TensorPool(journal=path)")
        return self._journal

    async def opened(self) -> Journal:
        """Return the journal, ready for use.

        Raises:
            ConfigurationError: The client has none.
            JournalError: It cannot be used.
        """
        journal = self.journal
        await journal.open()
        return journal

    @property
    def engine(self) -> str:
        """The address of the engine, which is part of each entry."""
        return self._engine

    def check_tags(self, tags: CreateTags) -> None:
        """Check that the tags can be recorded.

        Raises:
            ConfigurationError: `ttl` is given and there is no journal.
            ValueError: `ttl` is not above 0.
        """
        if tags.ttl is None:
            return
        if not 0 < tags.ttl < float("inf"):
            raise ValueError(f"ttl is {tags.ttl}, and must be above 0 seconds")
        _ = self.journal

    def operation_of(self, entry: JournalEntry) -> Op | None:
        """Return the operation of an entry that is followed in this process."""
        return self._operations.get(entry.id)

    def is_sending(self, entry: JournalEntry) -> bool:
        """Whether this process is sending the entry's change, and does not poll its operation yet."""
        # An entry that is being written may be read by another task before its number is known here.
        intent = entry.intent
        identity = (intent.sent_at, intent.path, intent.name)
        return entry.id in self._in_progress or identity in [
            (one.sent_at, one.path, one.name) for one in self._intending
        ]

    @contextmanager
    def collect_ended(self) -> Generator[set[int]]:
        """Collect the entries that end inside the block, since a read of the journal may still show them in flight."""
        self._ended_meanwhile = ended = set[int]()
        try:
            yield ended
        finally:
            self._ended_meanwhile = None

    async def begin(
        self, request: Request[Any], ref: OperationRef, tags: CreateTags, *, for_exit: bool = False
    ) -> ChangeRecord[Op]:
        """Record a change that is about to be sent.

        If the caller is cancelled while the change is sent, its entry stays open for recovery.

        Args:
            request: The request of the change.
            ref: The operation, as far as it is known before the response.
            tags: What else is recorded.
            for_exit: Whether the change is sent even if the journal cannot be written within `EXIT_PATIENCE`, since a
                resource would cost money without it. The first such change is logged at ERROR; each emits a
                `ChangeUnrecorded`.

        Raises:
            ConfigurationError: There is no journal.
            JournalError: The journal cannot be written, so nothing may be sent.
        """
        journal, intent = self.journal, self._intent(request, ref, tags)
        if not for_exit:
            return ChangeRecord(self, await self._intend(journal, intent))
        writing = asyncio.ensure_future(self._intend(journal, intent))
        try:
            await asyncio.wait([writing], timeout=EXIT_PATIENCE)
        except asyncio.CancelledError:
            writing.cancel()  # nothing was sent
            self.close_late(writing, NOT_MADE)
            raise
        problem = writing.exception() if writing.done() else None
        if problem is not None and not isinstance(problem, JournalError):
            raise problem
        if writing.done() and problem is None:
            self._unrecorded = 0
            return ChangeRecord(self, writing.result())
        self._warn_unrecorded(intent, problem)
        self._late.add(writing)
        writing.add_done_callback(self._late.discard)
        return LateChangeRecord(self, writing)

    def record_end_of(self, entry: int, operation: Op) -> None:
        """Record the end of an operation once it is known."""
        self._operations[entry] = operation

        def ended(operation: Op) -> None:
            self._operations.pop(entry, None)
            self._end(entry, operation)

        operation.add_done_callback(ended)

    def forget(self, entry: int) -> None:
        """Note that a change is no longer being sent: its operation is polled, or it has failed."""
        self._in_progress.discard(entry)

    async def adopt(self, entry: JournalEntry, ref: OperationRef) -> None:
        """Record the operation that recovery has found for an entry."""
        if entry.state is EntryState.INTENT:
            await self.accept(entry.id, ref)

    async def record_use(
        self, kind: OperationKind, resource_id: str, name: str | None, *, ephemeral: bool
    ) -> None:
        """Record that this client uses an existing resource, so that no other process reaps the resource.

        Raises:
            JournalError: The journal cannot be written.
        """
        if self._journal is None:
            return
        intent = Intent(
            engine=self._engine,
            kind=kind,
            method="",
            path="",
            name=self._key.mask_all(name),
            resource_id=self._key.mask_all(resource_id),
            ephemeral=ephemeral,
            sent_at=self._now(),
        )
        entry = await self._intend(self._journal, intent)
        try:
            await self.accept(entry, OperationRef(kind, resource_id))
            self.close(entry, "COMPLETED")
        finally:
            self._in_progress.discard(entry)

    def close_entry(self, entry: JournalEntry, outcome: str) -> None:
        """Close an entry with this outcome."""
        self.close(entry.id, outcome)

    def mark_deleted(self, resource_id: str) -> None:
        """Record that a resource no longer exists."""
        if self._journal is not None:
            self._journal.mark_deleted(self._engine, self._key.mask_all(resource_id), self._now())

    async def aclose(self) -> None:
        """Flush the journal and give up the ownership of entries in flight."""
        if self._journal is not None:
            try:
                if self._late:
                    await asyncio.wait(self._late, timeout=EXIT_PATIENCE)
                await asyncio.sleep(
                    0
                )  # the callbacks of operations that have just ended run in the next step
            finally:  # even if the caller is cancelled, since an open journal keeps its ownership
                await self._journal.aclose()

    def _intent(self, request: Request[Any], ref: OperationRef, tags: CreateTags) -> Intent:
        body: dict[str, Any] = request.json or {}
        clean = self._key.mask_all
        return Intent(
            engine=self._engine,
            kind=ref.kind or OperationKind(""),
            method=request.method,
            path=clean(request.path),
            name=clean(request.name),
            random_name=tags.random_name,
            resource_id=clean(ref.resource_id),
            expected=clean(ref.expected),
            details=clean({name: body[name] for name in RECORDED_FIELDS if name in body}),
            ephemeral=tags.ephemeral,
            ttl=tags.ttl,
            sent_at=self._now(),
        )

    async def _intend(self, journal: Journal, intent: Intent) -> int:
        try:
            await journal.open()
        except JournalError:
            self._can_open = False
            raise
        self._can_open = True
        self._intending.append(intent)
        try:
            entry = await journal.intend(intent)
            self._in_progress.add(entry)
        finally:
            self._intending.remove(intent)
        return entry

    def record_late_end_of(self, writing: asyncio.Task[int], operation: Op) -> None:
        """Write down the end of an operation whose intent is not on disk yet."""

        def written(writing: asyncio.Task[int]) -> None:
            if not writing.cancelled() and writing.exception() is None:
                self.forget(writing.result())
                self.record_end_of(writing.result(), operation)

        operation.add_done_callback(self._note_deletion)
        writing.add_done_callback(written)

    def close_late(self, writing: asyncio.Task[int], outcome: str | None) -> None:
        """Close an entry whose intent is not on disk yet; None leaves it open."""

        def written(writing: asyncio.Task[int]) -> None:
            if not writing.cancelled() and writing.exception() is None:
                self.forget(writing.result())
                if outcome is not None:
                    self.close(writing.result(), outcome)

        writing.add_done_callback(written)

    def _warn_unrecorded(self, intent: Intent, problem: JournalError | None) -> None:
        why = f"the journal cannot be written within {EXIT_PATIENCE:g} s" if problem is None else str(problem)
        subject = f"{intent.kind} of {intent.resource_id}"
        if not self._unrecorded:
            text = "%s is sent without an entry in the journal, and so is what else has to end: %s"
            logger.error(text, subject, why)
        self._unrecorded += 1
        event = ChangeUnrecorded(
            engine=self._engine, kind=str(intent.kind), resource_id=intent.resource_id, why=why
        )
        self._instrumentation.emit(event)

    async def accept(self, entry: int, ref: OperationRef) -> None:
        """Record the acceptance (202) of a change.

        A failed write is only logged, since the engine has accepted the change and recovery finds it by its intent.
        """
        try:
            async with asyncio.timeout(EXIT_PATIENCE):
                await self.journal.accept(entry, self._cleaned(ref), self._now())
        except (JournalError, TimeoutError) as error:
            # The caller must get its operation, since the engine has accepted the change.
            why = str(error) or f"not within {EXIT_PATIENCE:g} s"
            logger.error("%s of %s was accepted, and could not be written down: %s", *_what(ref), why)  # noqa: TRY400 - the error says all that its traceback would

    def _end(self, entry: int, operation: Op) -> None:
        error = operation.exception()
        if error is None:
            outcome = "COMPLETED"
            self._note_deletion(operation)
        elif isinstance(error, OperationFailed):
            outcome = f"FAILED: {error.message}"
        elif isinstance(error, NotFound):
            outcome = "the engine no longer knows it"
        else:
            return  # the operation continues at the engine and can be recovered
        self.close(entry, outcome)

    def _note_deletion(self, operation: Op) -> None:
        is_over = operation.kind in ENDS_OF_RESOURCES and operation.exception() is None
        if is_over and self._can_open and operation.resource_id is not None:
            self.mark_deleted(operation.resource_id)

    def close(self, entry: int, outcome: str) -> None:
        """Record the outcome of an entry."""
        if self._ended_meanwhile is not None:
            self._ended_meanwhile.add(entry)
        self.journal.end(entry, self._key.mask_all(outcome), self._now())

    def _cleaned(self, ref: OperationRef) -> OperationRef:
        """Return a reference without the API key, for the disk."""
        clean = self._key.mask_all
        return attrs.evolve(
            ref,
            resource_id=clean(ref.resource_id),
            request_ids=clean(ref.request_ids),
            expected=clean(ref.expected),
        )


def _what(ref: OperationRef) -> tuple[str, str]:
    return str(ref.kind), ref.resource_id or "?"
