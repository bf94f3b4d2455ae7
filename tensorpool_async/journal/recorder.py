"""The books of one client: each change is in the journal before it is sent, and its end once it is known.

Without a journal nothing is written, and nothing costs anything.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import attrs

from tensorpool_async.errors import (
    AmbiguousOutcomeError,
    ConfigurationError,
    JournalError,
    NotFound,
    OperationFailed,
    TensorPoolError,
)
from tensorpool_async.events import ChangeUnrecorded
from tensorpool_async.journal import NOT_MADE, REFUSED, EntryState, Intent, Journal, JournalEntry
from tensorpool_async.models.enums import OperationKind
from tensorpool_async.operations.operation import Operation
from tensorpool_async.protocol.requests import Request
from tensorpool_async.protocol.retries import Failure, classify
from tensorpool_async.protocol.tokens import AcceptedOperation, OperationRef
from tensorpool_async.texts import logger_of
from tensorpool_async.transport import Transport


T = TypeVar("T")

RECORDED_FIELDS = ("instance_type", "num_nodes", "size")
"""What a person who reads the journal wants to know of a body. Nothing else of it is written down."""

EXIT_PATIENCE = 2.0
"""Seconds that a change on the way out waits for the journal. An acceptance waits no longer either: its intent is on disk."""

ENDS_OF_RESOURCES = frozenset({OperationKind.CLUSTER_RELEASE, OperationKind.STORAGE_DESTROY})

logger: logging.Logger = logger_of("tensorpool_async")


@attrs.frozen(kw_only=True)
class CreateTags:
    """What the journal is told of a change besides what is sent.

    Attributes:
        random_name: Whether the name was given at random, and so belongs to this change alone.
        ephemeral: Whether its owner destroys it on the way out.
        ttl: Seconds after which it may be destroyed; None for never.
    """

    random_name: bool = False
    ephemeral: bool = False
    ttl: float | None = None


NO_TAGS = CreateTags()
RANDOMLY_NAMED = CreateTags(random_name=True)


def create_tags(name: str | None, *, ephemeral: bool = False, ttl: float | None = None) -> CreateTags:
    """Return the marks of a creation that was asked for by this name."""
    if ephemeral or ttl is not None:
        return CreateTags(random_name=name is None, ephemeral=ephemeral, ttl=ttl)
    return NO_TAGS if name is not None else RANDOMLY_NAMED


class SendCancelled(asyncio.CancelledError):
    """Ends the sending of a change that was withdrawn before any attempt of it can have been carried out."""


class JournalRecorder:
    """What one client writes into its journal, and what of it is under way in this process."""

    def __init__(self, journal: Journal | None, engine: str, transport: Transport) -> None:
        self._journal = journal
        self._engine = engine
        self._transport = transport
        self._intending: list[Intent] = []
        self._sending: set[int] = set()
        self._ending: set[int] | None = None
        self._operations: dict[int, Operation[Any]] = {}
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
        """The address of the engine, under which the entries of this client are kept."""
        return self._engine

    def check_tags(self, tags: CreateTags) -> None:
        """See whether what was asked for can be kept.

        Raises:
            ConfigurationError: It needs a journal, and there is none.
            ValueError: The time to live is not above 0.
        """
        if tags.ttl is None:
            return
        if not 0 < tags.ttl < float("inf"):
            raise ValueError(f"ttl is {tags.ttl}, and must be above 0 seconds")
        _ = self.journal

    def operation_of(self, entry: JournalEntry) -> Operation[Any] | None:
        """Return the operation of an entry that is followed in this process."""
        return self._operations.get(entry.id)

    def is_sending(self, entry: JournalEntry) -> bool:
        """Whether it is on its way in this process: about to be sent, or not yet followed."""
        # What is being written has no number yet, and may be read by another task before its own learns the number.
        intent = entry.intent
        told = (intent.sent_at, intent.path, intent.name)
        return entry.id in self._sending or told in [
            (one.sent_at, one.path, one.name) for one in self._intending
        ]

    @contextmanager
    def ending(self) -> Generator[set[int]]:
        """Collect the entries that end meanwhile: a journal that is read at that time may still show them in flight."""
        self._ending = ended = set[int]()
        try:
            yield ended
        finally:
            self._ending = None

    async def record(
        self,
        request: Request[Any],
        ref: OperationRef,
        tags: CreateTags,
        send: Callable[[Request[Any]], Awaitable[AcceptedOperation]],
        begin: Callable[[AcceptedOperation], Operation[Any]],
    ) -> Operation[Any]:
        """Send a change and begin its operation, with an entry in the journal before, in between and at the end.

        Whoever is cancelled while the change is under way leaves an entry that recovery looks into.

        Args:
            request: The change.
            ref: What it is about, as far as that is known before its answer.
            tags: What else is to be written down.
            send: Sends it.
            begin: Makes the operation of its answer.

        Raises:
            ConfigurationError: There is no journal.
            JournalError: The journal cannot be written, so nothing was sent.
        """
        journal = self.journal
        entry = await self._intend(journal, self._intent(request, ref, tags))
        return await self._carry_out(journal, entry, request, send, begin)

    async def record_for_exit(
        self,
        request: Request[Any],
        ref: OperationRef,
        send: Callable[[Request[Any]], Awaitable[AcceptedOperation]],
        begin: Callable[[AcceptedOperation], Operation[Any]],
    ) -> Operation[Any]:
        """As `record`, for a change without which something goes on costing money: no journal keeps it from being sent.

        Where the journal cannot be written, or not within `EXIT_PATIENCE`, the change is sent without an entry. That is
        told: an ERROR for the first such change, a `ChangeUnrecorded` for each.

        Raises:
            ConfigurationError: There is no journal.
        """
        journal = self.journal
        intent = self._intent(request, ref, NO_TAGS)
        intending = asyncio.ensure_future(self._intend(journal, intent))
        try:
            await asyncio.wait([intending], timeout=EXIT_PATIENCE)
        except asyncio.CancelledError:
            intending.cancel()  # nothing was sent
            intending.add_done_callback(partial(self._close_late, outcome=NOT_MADE))
            raise
        problem = intending.exception() if intending.done() else None
        if problem is not None and not isinstance(problem, JournalError):
            raise problem
        if intending.done() and problem is None:
            self._unrecorded = 0
            return await self._carry_out(journal, intending.result(), request, send, begin)
        self._tell_unrecorded(intent, problem)
        return await self._carry_out_unrecorded(intending, request, send, begin)

    def follow(self, entry: int, operation: Operation[Any]) -> None:
        """Write down the end of an operation once it is known."""
        self._operations[entry] = operation

        def ended(operation: Operation[Any]) -> None:
            self._operations.pop(entry, None)
            self._end(entry, operation)

        operation.add_done_callback(ended)

    async def adopt(self, entry: JournalEntry, ref: OperationRef) -> None:
        """Write down what recovery has found out about an entry."""
        if entry.state is EntryState.INTENT:
            await self._accept(entry.id, ref)

    async def join(self, kind: OperationKind, resource_id: str, name: str | None, *, ephemeral: bool) -> None:
        """Write down that this client uses what was made before, so that nobody reaps it meanwhile.

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
            name=self._transport.key.mask_all(name),
            resource_id=self._transport.key.mask_all(resource_id),
            ephemeral=ephemeral,
            sent_at=self._transport.now(),
        )
        entry = await self._intend(self._journal, intent)
        try:
            await self._accept(entry, OperationRef(kind, resource_id))
            self._close(self._journal, entry, "COMPLETED")
        finally:
            self._sending.discard(entry)

    def close_entry(self, entry: JournalEntry, outcome: str) -> None:
        """Write down that nothing more will come of an entry."""
        self._close(self.journal, entry.id, outcome)

    def mark_deleted(self, resource_id: str) -> None:
        """Write down that a resource is no longer there."""
        if self._journal is not None:
            self._journal.mark_deleted(
                self._engine, self._transport.key.mask_all(resource_id), self._transport.now()
            )

    async def aclose(self) -> None:
        """Write what is left to be written, and give up the ownership of what is in flight."""
        if self._journal is not None:
            try:
                if self._late:
                    await asyncio.wait(self._late, timeout=EXIT_PATIENCE)
                await asyncio.sleep(0)  # operations that ended in this very moment tell so in the next
            finally:  # also where the caller is cancelled: a journal that stays open keeps what belongs to it
                await self._journal.aclose()

    def _intent(self, request: Request[Any], ref: OperationRef, tags: CreateTags) -> Intent:
        body: dict[str, Any] = request.json or {}
        clean = self._transport.key.mask_all
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
            sent_at=self._transport.now(),
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
            self._sending.add(entry)
        finally:
            self._intending.remove(intent)
        return entry

    async def _carry_out(
        self,
        journal: Journal,
        entry: int,
        request: Request[Any],
        send: Callable[[Request[Any]], Awaitable[AcceptedOperation]],
        begin: Callable[[AcceptedOperation], Operation[Any]],
    ) -> Operation[Any]:
        try:
            accepted = await self._send(journal, entry, request, send)
            await self._accept(entry, accepted.ref)
            operation = begin(accepted)
            self.follow(entry, operation)
        finally:
            self._sending.discard(entry)
        return operation

    async def _carry_out_unrecorded(
        self,
        intending: asyncio.Task[int],
        request: Request[Any],
        send: Callable[[Request[Any]], Awaitable[AcceptedOperation]],
        begin: Callable[[AcceptedOperation], Operation[Any]],
    ) -> Operation[Any]:
        """Send a change whose intent is not on disk; an intent that gets there later learns what became of it."""
        self._late.add(intending)
        intending.add_done_callback(self._late.discard)
        departure = _Departure(request)
        try:
            operation = begin(await send(departure.request))
        except BaseException as error:
            intending.add_done_callback(partial(self._close_late, outcome=departure.outcome(error)))
            raise
        operation.add_done_callback(self._note_gone)
        intending.add_done_callback(partial(self._follow_late, operation=operation))
        return operation

    def _follow_late(self, intending: asyncio.Task[int], operation: Operation[Any]) -> None:
        if not intending.cancelled() and intending.exception() is None:
            self._sending.discard(intending.result())
            self.follow(intending.result(), operation)

    def _close_late(self, intending: asyncio.Task[int], outcome: str | None) -> None:
        if not intending.cancelled() and intending.exception() is None:
            self._sending.discard(intending.result())
            if outcome is not None:
                self._close(self.journal, intending.result(), outcome)

    def _tell_unrecorded(self, intent: Intent, problem: JournalError | None) -> None:
        why = f"the journal cannot be written within {EXIT_PATIENCE:g} s" if problem is None else str(problem)
        subject = f"{intent.kind} of {intent.resource_id}"
        if not self._unrecorded:
            text = "%s is sent without an entry in the journal, and so is what else has to end: %s"
            logger.error(text, subject, why)
        self._unrecorded += 1
        event = ChangeUnrecorded(
            engine=self._engine, kind=str(intent.kind), resource_id=intent.resource_id, why=why
        )
        self._transport.instrumentation.emit(event)

    async def _send(
        self,
        journal: Journal,
        entry: int,
        request: Request[Any],
        send: Callable[[Request[Any]], Awaitable[AcceptedOperation]],
    ) -> AcceptedOperation:
        departure = _Departure(request)
        try:
            return await send(departure.request)
        except BaseException as error:
            outcome = departure.outcome(error)
            if outcome is not None:
                self._close(journal, entry, outcome)
            raise

    async def _accept(self, entry: int, ref: OperationRef) -> None:
        try:
            async with asyncio.timeout(EXIT_PATIENCE):
                await self.journal.accept(entry, self._cleaned(ref), self._transport.now())
        except (JournalError, TimeoutError) as error:
            # The engine has accepted it, and the caller must get its operation. The intent is on disk, and finds it.
            why = str(error) or f"not within {EXIT_PATIENCE:g} s"
            logger.error("%s of %s was accepted, and could not be written down: %s", *_what(ref), why)  # noqa: TRY400 - the error says all that its traceback would

    def _end(self, entry: int, operation: Operation[Any]) -> None:
        error = operation.exception()
        if error is None:
            outcome = "COMPLETED"
            self._note_gone(operation)
        elif isinstance(error, OperationFailed):
            outcome = f"FAILED: {error.message}"
        elif isinstance(error, NotFound):
            outcome = "the engine no longer knows it"
        else:
            return  # it goes on at the engine, and is there to be recovered
        self._close(self.journal, entry, outcome)

    def _note_gone(self, operation: Operation[Any]) -> None:
        is_over = operation.kind in ENDS_OF_RESOURCES and operation.exception() is None
        if is_over and self._can_open and operation.resource_id is not None:
            self.mark_deleted(operation.resource_id)

    def _close(self, journal: Journal, entry: int, outcome: str) -> None:
        if self._ending is not None:
            self._ending.add(entry)
        journal.end(entry, self._transport.key.mask_all(outcome), self._transport.now())

    def _cleaned(self, ref: OperationRef) -> OperationRef:
        """Return a ticket without the key: what is on disk is the last to be masked."""
        clean = self._transport.key.mask_all
        return attrs.evolve(
            ref,
            resource_id=clean(ref.resource_id),
            request_ids=clean(ref.request_ids),
            expected=clean(ref.expected),
        )


class _Departure:
    """Whether a request has left, and what its failure then means to the journal."""

    def __init__(self, request: Request[Any]) -> None:
        self._left = False
        self._told = request.leaving
        self.request = attrs.evolve(request, leaving=self._leave)

    def _leave(self) -> None:
        if self._told is not None:
            self._told()  # if it raises, nothing is sent
        self._left = True

    def outcome(self, error: BaseException) -> str | None:
        """Say how it ended; None where it may have been carried out."""
        if not self._left or isinstance(error, SendCancelled):
            return NOT_MADE
        if not isinstance(error, TensorPoolError) or isinstance(error, AmbiguousOutcomeError):
            return None
        return None if classify(error) is Failure.NO_ANSWER else f"{REFUSED}: {error}"


def _what(ref: OperationRef) -> tuple[str, str]:
    return str(ref.kind), ref.resource_id or "?"
