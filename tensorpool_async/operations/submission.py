"""Submissions: changes that have not been sent, and what makes operations of them."""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import partial
from typing import Any, Generic, TypeVar

import attrs

from tensorpool_async.errors import AmbiguousOutcomeError, NotFound, OperationTimeout, TensorPoolError
from tensorpool_async.journal.recorder import NO_TAGS, CreateTags, JournalRecorder
from tensorpool_async.operations.operation import Operation
from tensorpool_async.operations.poller import Poller
from tensorpool_async.protocol.operation import OperationMachine
from tensorpool_async.protocol.operation_specs import DELETE_STARTED, Resource, is_deleting
from tensorpool_async.protocol.polling import PollPolicy
from tensorpool_async.protocol.requests import Request
from tensorpool_async.protocol.send_stats import SendStats
from tensorpool_async.protocol.tokens import UNSIGNED, AcceptedOperation, OperationRef, Tokens
from tensorpool_async.texts import logger_of
from tensorpool_async.transport import Transport


T = TypeVar("T")

logger: logging.Logger = logger_of("tensorpool_async")


class Submission(Awaitable["Operation[T]"], Generic[T]):
    """A change that has not been sent.

    `await submission` sends it, and gives its `Operation` once the engine has accepted it. `await submission.result()`
    does that and waits for the end. Either can be done once. One that is never awaited sends nothing, and warns.
    """

    __slots__ = ("_name", "_send", "_used", "_what")

    def __init__(
        self, what: str, send: Callable[[], Coroutine[Any, Any, Operation[T]]], *, name: str | None = None
    ) -> None:
        self._used = False
        self._what = what
        self._send = send
        self._name = name

    @property
    def name(self) -> str | None:
        """The name of the resource that it makes, also when none was asked for; None where it makes nothing."""
        return self._name

    def __await__(self) -> Generator[Any, None, Operation[T]]:
        return self._use().__await__()

    def result(self, timeout: float | None = None) -> Coroutine[Any, Any, T]:
        """Send it, and wait for the end of its operation.

        Args:
            timeout: Seconds until the end, counted from this call: waiting for a slot and sending it are part of it. None
                waits as long as it takes.

        Raises:
            StatusError: The engine refused it.
            AmbiguousOutcomeError: Its answer was lost, and whether it was carried out is not known.
            OperationTimeout: The timeout ran out. Where the engine had accepted it, `.operation` goes on. Where it had
                not, there is no `.operation`, and the message says whether it had been sent.
            OperationError: As `Operation.result`.
        """
        return self._send_and_wait(self._use(), timeout)

    def close(self) -> None:
        """Give it up: nothing is sent, and nothing warned of."""
        self._used = True

    async def _send_and_wait(self, sending: Coroutine[Any, Any, Operation[T]], timeout: float | None) -> T:
        if timeout is None:
            return await (await sending).result()
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout
        limit = asyncio.timeout_at(deadline)
        try:
            async with limit:
                operation = await sending
        except TimeoutError as error:
            if not limit.expired() or isinstance(error, TensorPoolError):
                raise
            late = OperationTimeout(f"{self._what} was not accepted within {timeout} s; {_state_of(error)}")
            raise late from None
        return await operation.result(max(0.0, deadline - clock()))

    def _use(self) -> Coroutine[Any, Any, Operation[T]]:
        if self._used:
            raise RuntimeError(f"{self._what} was already sent, or given up; a submission is used once")
        self._used = True
        return self._send()

    def __repr__(self) -> str:
        return f"<Submission {self._what}{', used' if self._used else ', not sent'}>"

    def __del__(self) -> None:
        if not getattr(self, "_used", True):
            warnings.warn(
                f"{self._what} was never awaited, so nothing was sent",
                RuntimeWarning,
                stacklevel=2,
                source=self,
            )


def _state_of(late: TimeoutError) -> str:
    notes: list[str] = getattr(late.__cause__, "__notes__", [])  # of the cancellation that it began with
    return "; ".join(notes) or "nothing was sent that the engine carries out"


class Submitter:
    """Sends changes and makes operations of their answers, for all resources of a client."""

    def __init__(
        self,
        transport: Transport,
        poller: Poller,
        polling: PollPolicy,
        recorder: JournalRecorder,
        tokens: Tokens = UNSIGNED,
        *,
        is_for_exit: bool = False,
    ) -> None:
        self.transport = transport
        self.tokens = tokens
        self.recorder = recorder
        self._poller = poller
        self._polling = polling
        self._is_for_exit = is_for_exit

    def for_exit(self) -> Submitter:
        """Return one whose changes are sent also where the journal cannot be written."""
        return Submitter(
            self.transport, self._poller, self._polling, self.recorder, self.tokens, is_for_exit=True
        )

    async def submit(
        self,
        request: Request[AcceptedOperation],
        ref: OperationRef,
        send: Callable[[Request[AcceptedOperation]], Awaitable[AcceptedOperation]] | None = None,
        tags: CreateTags = NO_TAGS,
    ) -> Operation[Any]:
        """Send a change, and return the operation that its answer names.

        Args:
            request: The change.
            ref: What it is about, as far as that is known before its answer.
            send: Sends it, where that takes more than sending it.
            tags: What else the journal is told.
        """
        request.stats = stats = SendStats(asyncio.get_running_loop().time())
        send = send or self.transport.send
        begin = partial(self.begin, stats=stats)
        try:
            if not self.recorder.enabled:
                return begin(await send(request))
            if self._is_for_exit:
                return await self.recorder.record_for_exit(request, ref, send, begin)
            return await self.recorder.record(request, ref, tags, send, begin)
        except asyncio.CancelledError as error:
            if stats.lost:
                error.add_note(_left_open(request))
                if request.method == "POST" and request.name:
                    logger.warning("%s", _left_open(request))
            raise

    async def submit_delete(
        self, request: Request[AcceptedOperation], already_deleted: AcceptedOperation, resource: Resource
    ) -> Operation[None]:
        """Send a DELETE; if it meets a conflict after a lost answer, see whether that is its own first attempt."""

        async def send(request: Request[AcceptedOperation]) -> AcceptedOperation:
            try:
                return await self.transport.send(request)
            except AmbiguousOutcomeError:
                try:
                    model = await self.transport.send(resource.read(already_deleted.ref.resource_id or ""))
                except NotFound:
                    return already_deleted
                if not is_deleting(model):
                    raise
                return attrs.evolve(
                    already_deleted, ref=attrs.evolve(already_deleted.ref, expected={DELETE_STARTED: True})
                )

        return await self.submit(request, already_deleted.ref, send)

    def begin(self, accepted: AcceptedOperation, stats: SendStats | None = None) -> Operation[Any]:
        """Make the operation of a 202, and have it polled."""
        machine = self._machine_of(accepted.ref)
        operation: Operation[Any] = Operation(machine, self.transport, self._poller, self.tokens)
        delay = machine.first_delay(accepted.retry_after, self.transport.random.random())
        operation.start(delay, accepted=True, stats=stats)
        return operation

    def follow(self, ref: OperationRef) -> Operation[Any]:
        """Make an operation that was begun before, here or elsewhere, and have it polled at once."""
        operation = self.resume(ref)
        operation.start(0.0)
        return operation

    def resume(self, ref: OperationRef) -> Operation[Any]:
        """Make an operation that was begun before, here or elsewhere; it is polled while somebody awaits it."""
        return Operation(self._machine_of(ref), self.transport, self._poller, self.tokens)

    def _machine_of(self, ref: OperationRef) -> OperationMachine:
        return OperationMachine(ref, self._polling, longest_pause=self.transport.retry.longest_pause)


def _left_open(request: Request[Any]) -> str:
    """Say that nobody waited for the answer to a change that was sent."""
    subject = repr(request.name) if request.name else "what it changes"
    return (
        f"{request.method} {request.path} was sent, and nobody waited for its answer: the engine may carry it out; "
        f"look for {subject} before it is sent again"
    )
