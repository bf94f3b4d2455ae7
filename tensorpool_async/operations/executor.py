"""Carries out changes: from the request to the operation that the engine has accepted.

`Executor.execute` reads from top to bottom: lock the name, write the intent, send, resolve a lost answer, write the
acceptance, start the operation. A create is looked for by its name before it is sent again; another change is looked
for on the resource that it changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from copy import copy
from typing import Any, NoReturn

import attrs

from tensorpool_async.errors import (
    AmbiguousOutcomeError,
    ConflictError,
    ConnectionFailed,
    DecodeError,
    NotFound,
    StatusError,
    TensorPoolError,
)
from tensorpool_async.flow.keyed_lock import KeyedLock
from tensorpool_async.journal.recorder import NO_TAGS, ChangeRecord, CreateTags, JournalRecorder
from tensorpool_async.journal.records import NOT_MADE, REFUSED
from tensorpool_async.models.enums import OperationKind
from tensorpool_async.operations.lookup import Found, Lookup
from tensorpool_async.operations.operation import Operation
from tensorpool_async.operations.poller import Poller
from tensorpool_async.protocol.operation import OperationMachine
from tensorpool_async.protocol.operation_specs import (
    DELETE_STARTED,
    OPERATION_SPECS,
    Outcome,
    is_deleting,
    status_text,
)
from tensorpool_async.protocol.ownership import Ownership, difference, epoch_of, ownership_of
from tensorpool_async.protocol.polling import PollPolicy
from tensorpool_async.protocol.requests import Request
from tensorpool_async.protocol.retries import Failure, backoff, classify
from tensorpool_async.protocol.send_context import SendContext
from tensorpool_async.protocol.tokens import UNSIGNED, AcceptedOperation, OperationRef, Tokens
from tensorpool_async.texts import logger_of
from tensorpool_async.transport.attempts import SendCancelled, Transport


MAX_LOOKUPS = 6
"""How often a lost change is looked for: the lists of an engine may lag behind what it has done."""

LONGEST_PAUSE = 2.0
"""Seconds between two lookups. A caller waits, and each round is a handful of requests."""

logger: logging.Logger = logger_of("tensorpool_async")


@attrs.frozen
class Change:
    """What is to be changed.

    Attributes:
        request: The request that changes it.
        ref: What is known of the operation before the answer.
        tags: What else the journal notes of a create.
        join: Whether a resource of the request's name is joined where there is one.
    """

    request: Request[AcceptedOperation]
    ref: OperationRef
    tags: CreateTags = NO_TAGS
    join: bool = False


class JoinedInstead(SendCancelled):
    """Nothing was made, since another caller has made the resource meanwhile."""


class Executor:
    """Carries out the changes of one client, and starts the operations that follow."""

    def __init__(
        self,
        transport: Transport,
        poller: Poller,
        polling: PollPolicy,
        recorder: JournalRecorder[Operation[Any]],
        tokens: Tokens = UNSIGNED,
    ) -> None:
        self.transport = transport
        self.recorder = recorder
        self.tokens = tokens
        self.lookup: Lookup = Lookup(transport)
        self._poller = poller
        self._polling = polling
        self._created_here: set[str] = set()
        self._names = KeyedLock()
        self.is_for_exit = False

    def for_exit(self) -> Executor:
        """Return the same executor, whose changes are sent also where the journal cannot be written."""
        executor = copy(self)
        executor.is_for_exit = True
        return executor

    async def execute(self, change: Change, context: SendContext | None = None) -> Operation[Any]:
        """Carry out a change, and return its operation once the engine has accepted it.

        Creates of one name go one after the other, so that none takes another's resource for its own.

        Args:
            change: The change.
            context: The record of its sending, of a caller that may cancel it.

        Raises:
            StatusError: The engine refused it.
            ConflictError: A resource of that name was there before, or is another call's.
            JournalError: The journal cannot be written, so nothing was sent.
            AmbiguousOutcomeError: Its answer was lost, and whether it was carried out cannot be found out.
            SendCancelled: It was cancelled through its context before it was sent.
            WrongEventLoopError: The client belongs to another event loop.
        """
        self.transport.sessions.check_loop()  # before the lock, which belongs to a loop as well
        request, tags = change.request, change.tags
        if context is None:
            context = SendContext(asyncio.get_running_loop().time(), change.ref.kind)
        name = None if request.name is None else (request.route, request.name)
        if name is not None:
            await self._names.acquire(name)
        record: ChangeRecord[Operation[Any]] | None = None
        try:
            joined = await self._join(change) if change.join else None
            if joined is not None:
                tags = NO_TAGS  # how long another caller's resource may live is not for this call to say
            if self.recorder.enabled:
                record = await self.recorder.begin(request, change.ref, tags, for_exit=self.is_for_exit)
            accepted = joined or await self._send(change, context, record)
            if record is not None:
                await record.accepted(accepted.ref)
            operation = self._start(accepted, context)
            if record is not None:
                record.started(operation)
            return operation
        finally:
            if record is not None:
                record.forget()
            if name is not None:
                self._names.release(name)

    async def ensure(self, change: Change) -> Operation[Any]:
        """Join the resource of a name, or create it: whoever else does the same at the same time, there is one.

        Raises:
            ConflictError: What is there is not what is wanted, or the name is lastingly taken by something unseen.
            AmbiguousOutcomeError: Whether it was made cannot be found out.
        """
        try:
            return await self.execute(change)
        except JoinedInstead:
            return await self.execute(change)  # it is there now, and recorded as another caller's

    def poll(self, ref: OperationRef) -> Operation[Any]:
        """Return an operation that was started before, here or elsewhere, polled from now on."""
        operation = self.resume(ref)
        operation.start(0.0)
        return operation

    def resume(self, ref: OperationRef) -> Operation[Any]:
        """Return an operation that was started before, here or elsewhere, polled while somebody awaits it."""
        return Operation(self._machine_of(ref), self.transport, self._poller, self.tokens)

    async def find(self, kind: OperationKind, name: str, *, until_seen: bool) -> Found | None:
        """Look for what a create of this kind made, by its name.

        Args:
            kind: The kind of create.
            name: The name.
            until_seen: Whether to look again for a while: the engine's lists may lag behind.

        Raises:
            TensorPoolError: The engine could not be asked.
        """
        for attempt in range(1, MAX_LOOKUPS + 1):
            found = await self.lookup.find_creation(OPERATION_SPECS[kind].resource, kind, name)
            if found is not None or not until_seen:
                return found
            await self.pause(attempt)
        return None

    async def pause(self, attempt: int) -> None:
        """Wait a little before the next lookup."""
        pause = backoff(self.transport.retry, attempt, self.transport.random.random())
        await asyncio.sleep(min(LONGEST_PAUSE, pause))

    async def _send(
        self, change: Change, context: SendContext, record: ChangeRecord[Operation[Any]] | None
    ) -> AcceptedOperation:
        """Send a change, and find out what became of it where its answer is lost."""
        spec = None if change.ref.kind is None else OPERATION_SPECS.get(change.ref.kind)
        try:
            if change.join:
                return await self._create_or_join(change, context)
            if spec is not None and spec.creates:
                return await self._create(change.request, change.tags, context)
            return await self._change(change, context)
        except BaseException as error:
            if record is not None:
                record.failed(_outcome_of(error, context))
            if isinstance(error, asyncio.CancelledError) and context.uncertain:
                _warn_abandoned(error, change.request)
            raise

    def _start(self, accepted: AcceptedOperation, context: SendContext) -> Operation[Any]:
        machine = self._machine_of(accepted.ref)
        operation: Operation[Any] = Operation(machine, self.transport, self._poller, self.tokens)
        delay = machine.first_delay(accepted.retry_after, self.transport.random.random())
        operation.start(delay, accepted=True, context=context)
        return operation

    def _machine_of(self, ref: OperationRef) -> OperationMachine:
        return OperationMachine(ref, self._polling, longest_pause=self.transport.retry.longest_pause)

    async def _create(
        self, request: Request[AcceptedOperation], tags: CreateTags, context: SendContext
    ) -> AcceptedOperation:
        sent_at = 0.0
        lost: AmbiguousOutcomeError | None = None
        for attempt in range(1, self._rounds() + 1):
            try:
                accepted = await self.transport.send(request, context)
            except AmbiguousOutcomeError as error:
                # Attempts before the first lost one were refused: what is older than that one is not this call's.
                sent_at = sent_at if lost is not None else self._sent_at(context)
                lost, taken = error, False
            except ConflictError:
                if lost is None:
                    raise
                taken = True  # by this call's own lost attempt, or by another's
            except TensorPoolError as error:
                _refused_after(lost, error)
            else:
                return self._remember(accepted)
            try:
                found = await self.find(_kind_of(context), request.name or "", until_seen=taken)
            except TensorPoolError as error:
                lost.add_note(f"looking for it failed as well: {error}")
                raise lost from None
            if found is not None:
                return self._adopt(found, request, tags, sent_at=sent_at, lost=lost)
            await self._pause_and_requeue(attempt, context)
        raise lost or AmbiguousOutcomeError(f"{request.name!r} was not sent", name=request.name)

    def _adopt(
        self,
        found: Found,
        request: Request[AcceptedOperation],
        tags: CreateTags,
        *,
        sent_at: float,
        lost: AmbiguousOutcomeError,
    ) -> AcceptedOperation:
        """Take what was found for this call's own, if it is.

        Raises:
            ConflictError: It was there before, or is another call's.
            AmbiguousOutcomeError: Nothing says whose it is.
        """
        ownership = ownership_of(
            made_at=epoch_of(found.created_at),
            sent_at=self.transport.engine_time(sent_at),
            random_name=tags.random_name,
            taken=found.resource_id in self._created_here,
        )
        if ownership is Ownership.BEFORE:
            text = f"{request.name!r} is taken by {found.resource_id}, which was there before"
            raise ConflictError(409, text, method=request.method, path=request.path) from lost
        if ownership is Ownership.UNCLEAR:
            lost.add_note(f"{found.resource_id} has that name, and nothing says when it was made")
            raise lost
        request_ids = () if found.request_id is None else (found.request_id,)
        ref = OperationRef(found.kind, found.resource_id, request_ids)
        return self._remember(AcceptedOperation(ref))

    async def _create_or_join(self, change: Change, context: SendContext) -> AcceptedOperation:
        request = change.request
        lost: AmbiguousOutcomeError | None = None
        setback: TensorPoolError | None = None
        for attempt in range(1, MAX_LOOKUPS + self._rounds() + 1):
            try:
                return self._remember(await self.transport.send(request, context))
            except AmbiguousOutcomeError as error:
                setback = lost = error
            except ConflictError as error:
                setback = error  # another caller was faster, and the lists may lag behind
            except TensorPoolError as error:
                _refused_after(lost, error)
            await self._pause_and_requeue(attempt, context)
            try:
                joined = await self._join(change)
            except TensorPoolError as error:
                _refused_after(lost, error)
            if joined is not None:
                if lost is None and change.tags != NO_TAGS:
                    raise JoinedInstead(f"another caller has made {request.name!r}")
                return joined
        raise lost or setback or AmbiguousOutcomeError(f"{request.name!r} was not sent", name=request.name)

    async def _join(self, change: Change) -> AcceptedOperation | None:
        """Return the creation of the resource that has the name; None where there is none, or where it has just gone.

        Raises:
            ConflictError: What is there is not what is wanted.
        """
        request, kind = change.request, change.ref.kind or OperationKind("")
        spec = OPERATION_SPECS[kind].resource
        model = await self.lookup.by_name(spec, request.name or "")
        state = status_text(model).casefold()
        if model is None or model.name != request.name or state == "destroyed":
            return None
        if state == "destroying":
            with contextlib.suppress(NotFound):  # it is gone, which is all that matters here
                await self.poll(await self.lookup.ref_of(model.id, OperationKind.CLUSTER_RELEASE))
            return None
        differs = difference(model, request.json)
        if differs:
            raise ConflictError(409, f"{request.name!r} is there as {model.id}, {differs}", method="POST")
        if state == "running":
            return self._remember(AcceptedOperation(OperationRef(kind, model.id), 0.0))
        return self._remember(AcceptedOperation(await self.lookup.ref_of(model.id, kind), 0.0))

    async def _change(self, change: Change, context: SendContext) -> AcceptedOperation:
        try:
            return await self.transport.send(change.request, context)
        except AmbiguousOutcomeError as lost:
            found = await self._look_at_resource(change.ref, lost)
            if found is None:
                raise
            return AcceptedOperation(found)

    async def _look_at_resource(self, ref: OperationRef, lost: AmbiguousOutcomeError) -> OperationRef | None:
        """Return what to follow where a resource shows a change; it is looked at for a while, since changes take time."""
        spec = None if ref.kind is None else OPERATION_SPECS.get(ref.kind)
        if spec is None or ref.resource_id is None or not (ref.expected or spec.done_when_gone):
            return None
        for attempt in range(1, MAX_LOOKUPS + 1):
            try:
                model = await self.transport.send(spec.resource.read(ref.resource_id))
            except NotFound:
                return ref if spec.done_when_gone else None
            except TensorPoolError as error:
                lost.add_note(f"looking at {ref.resource_id} failed as well: {error}")
                return None
            if spec.done_when_gone:
                started = {**ref.expected, DELETE_STARTED: True}
                return attrs.evolve(ref, expected=started) if is_deleting(model) else None
            if spec.outcome(model, ref.expected) is Outcome.SUCCEEDED:
                return ref
            await self.pause(attempt)
        return None

    def _remember(self, accepted: AcceptedOperation) -> AcceptedOperation:
        if accepted.ref.resource_id is not None:
            self._created_here.add(accepted.ref.resource_id)
        return accepted

    def _rounds(self) -> int:
        attempts = self.transport.retry.attempts
        return 1 if attempts == 1 else 2 * attempts

    def _sent_at(self, context: SendContext) -> float:
        """Return when a change was last sent; now if it was never sent, so that no existing resource is adopted."""
        return self.transport.now() if context.sent_at is None else context.sent_at

    async def _pause_and_requeue(self, attempt: int, context: SendContext) -> None:
        await self.pause(attempt)
        context.record_requeue(asyncio.get_running_loop().time(), asked_to_wait=False)


def _outcome_of(error: BaseException, context: SendContext) -> str | None:
    """Say for the journal how sending a change ended; None where it may have been carried out."""
    if not context.attempts or isinstance(error, SendCancelled):
        return NOT_MADE
    if not isinstance(error, TensorPoolError) or isinstance(error, AmbiguousOutcomeError):
        return None
    lost = classify(error) in {Failure.NO_ANSWER, Failure.TOO_LARGE}
    return None if lost else f"{REFUSED}: {error}"


def _warn_abandoned(error: asyncio.CancelledError, request: Request[Any]) -> None:
    """Say that nobody waited for the answer to a change that was sent."""
    subject = repr(request.name) if request.name else "what it changes"
    text = (
        f"{request.method} {request.path} was sent, and nobody waited for its answer: the engine may carry it out; "
        f"look for {subject} before it is sent again"
    )
    error.add_note(text)
    if request.method == "POST" and request.name:
        logger.warning("%s", text)


def _kind_of(context: SendContext) -> OperationKind:
    return context.kind or OperationKind("")


def _refused_after(lost: AmbiguousOutcomeError | None, error: TensorPoolError) -> NoReturn:
    """Raise what a later attempt met: the first one, whose answer was lost, may have been carried out."""
    if lost is not None and isinstance(error, StatusError | ConnectionFailed | DecodeError):
        lost.add_note(f"sent again, it met: {error}")
        raise lost from error
    raise error
