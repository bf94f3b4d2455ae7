"""What happened, as small frozen records, to whoever listens.

No record holds a key, a body, or the query of a signed address. What an engine says is passed on with the key masked.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, cast

import attrs

from tensorpool_async.texts import logger_of


__all__ = [
    "BytesPulled",
    "ChangeUnrecorded",
    "CommandEnded",
    "CommandOutput",
    "CommandStarted",
    "Dispatcher",
    "Event",
    "FleetMemberChanged",
    "JobMessage",
    "Listener",
    "OperationAccepted",
    "OperationChanged",
    "OperationEnded",
    "OperationEvent",
    "RequestAnswered",
    "RequestEvent",
    "RequestFailed",
    "RequestRetried",
    "RequestSent",
    "RequestsPaused",
    "SecretsInUpload",
]

logger: logging.Logger = logger_of("tensorpool_async")
logger.addHandler(logging.NullHandler())


@attrs.frozen(kw_only=True)
class RequestEvent:
    """What all events of one HTTP attempt tell.

    Attributes:
        engine: The engine's address.
        method: The HTTP method.
        path: The path, with its ids and without its query.
        route: The path with `{id}` in place of an id: there are few of them.
        lane: Where it queues: `change`, `read` or `poll`.
        attempt: Which attempt of its request it is, from 1 on. Every poll is a request of its own.
        kind: The kind of operation that it begins or polls, such as `CLUSTER_CLAIM`; None where it does neither.
        name: The name of what it makes; None where it makes nothing that has one.
        resource_id: What it is about, as far as that is known.
        request_id: The engine's request that it polls; None where it polls none.
    """

    engine: str
    method: str
    path: str
    route: str
    lane: str
    attempt: int = 1
    kind: str | None = None
    name: str | None = None
    resource_id: str | None = None
    request_id: str | None = None


@attrs.frozen(kw_only=True)
class RequestSent(RequestEvent):
    """An HTTP attempt has its slot, and goes on the wire now."""


@attrs.frozen(kw_only=True)
class RequestAnswered(RequestEvent):
    """The engine has answered an attempt, with whatever status.

    Attributes:
        status: The HTTP status.
        seconds: Seconds from the sending until the answer was read.
        retry_after: Seconds after which the engine wants to be asked again; None where it does not say.
    """

    status: int
    seconds: float
    retry_after: float | None = None


@attrs.frozen(kw_only=True)
class RequestFailed(RequestEvent):
    """An attempt has brought no answer, or none that was waited for.

    Attributes:
        why: What went wrong.
        error_type: The name of the error, such as `RequestTimeout`; `CancelledError` where the caller was cancelled.
        seconds: Seconds since the sending.
    """

    why: str
    error_type: str
    seconds: float


@attrs.frozen(kw_only=True)
class RequestRetried(RequestEvent):
    """A request will be sent again.

    Attributes:
        attempt: Which attempt the next one is.
        why: What was wrong with the last one.
        delay: Seconds until it queues again; with a pause (429), how long the engine asks to wait.
    """

    why: str
    delay: float


@attrs.frozen(kw_only=True)
class RequestsPaused:
    """The engine asks everybody to wait. It is told once for all answers that ask for the same.

    Attributes:
        engine: The engine's address.
        seconds: For how long: at most `RetryPolicy.longest_pause`.
        reason: `rate` where requests followed each other too fast, `quota` where one is used up.
        asked: For how long the engine asks, in seconds; None where that is the same.
    """

    engine: str
    seconds: float
    reason: str
    asked: float | None = None


@attrs.frozen(kw_only=True)
class OperationEvent:
    """What all events of an operation tell.

    Attributes:
        engine: The engine's address.
        kind: What is done; None for an operation of which only the request id is known, until its first poll.
        resource_id: What it is done to.
        request_id: The engine's request; None where the engine named none.
        request_ids: All its requests: attaching a volume may have several.
    """

    engine: str
    kind: str | None = None
    resource_id: str | None = None
    request_id: str | None = None
    request_ids: tuple[str, ...] = ()

    @property
    def subject(self) -> str:
        """What is done to what, for a person."""
        return f"{self.kind or 'an operation'} of {self.resource_id or 'an unknown resource'}"


@attrs.frozen(kw_only=True)
class OperationAccepted(OperationEvent):
    """An operation is followed from now on: the engine has answered 202.

    Attributes:
        resumed: Whether it was accepted before, here or in another process, and is found again now.
    """

    resumed: bool = False


@attrs.frozen(kw_only=True)
class OperationChanged(OperationEvent):
    """The engine says something new about an operation.

    Attributes:
        status: Where it stands, such as `PROCESSING`.
        message: What the engine says to a person; empty where it says nothing.
    """

    status: str
    message: str = ""


@attrs.frozen(kw_only=True)
class OperationEnded(OperationEvent):
    """An operation is followed no longer.

    Attributes:
        outcome: `completed` or `failed`, by the engine's word; `unknown` where the wait ended without it: the client
            was closed, the engine lastingly refuses to tell, or nobody waits any more for one that was found again by
            its token. Such a one is accepted once more when it is awaited again.
        seconds: Seconds since it was accepted, or found again.
        polls: How many polls were answered.
        error: Why it has no result; None where it has one.
        error_type: The name of that error; None where there is none.
    """

    outcome: str
    seconds: float
    polls: int
    error: str | None = None
    error_type: str | None = None


@attrs.frozen(kw_only=True)
class FleetMemberChanged:
    """A member of a fleet changed its state, or the engine said something new about it.

    Attributes:
        fleet: The fleet's name.
        member: The member's name.
        group: The name of its group.
        state: What the member is now; see `MemberState`.
        message: What the engine says, or why the state changed, as a text for a person; empty where there is nothing
            to say.
        resource_id: The cluster's id; None until the engine has accepted one.
        instance_type: The instance type that it has, or that was asked for.
        seconds: Seconds since the fleet's work began.
        hourly_rate: What it costs in USD per hour; None where the engine names no price.
    """

    fleet: str
    member: str
    group: str
    state: str
    message: str = ""
    resource_id: str | None = None
    instance_type: str | None = None
    seconds: float = 0.0
    hourly_rate: float | None = None


@attrs.frozen(kw_only=True)
class ChangeUnrecorded:
    """A change that ends what costs money is sent although the journal cannot be written.

    Attributes:
        engine: The engine's address.
        kind: What the change does, such as `CLUSTER_RELEASE`.
        resource_id: What it is about.
        why: What is wrong with the journal.
    """

    engine: str
    kind: str
    resource_id: str | None
    why: str


@attrs.frozen(kw_only=True)
class JobMessage:
    """The engine said something while a job was pushed.

    Attributes:
        job_id: The job's id; None until the engine has named it.
        message: The text.
    """

    job_id: str | None
    message: str


@attrs.frozen(kw_only=True)
class CommandStarted:
    """A command that the engine asked for is run here, without a shell.

    Attributes:
        arguments: The program and its arguments.
    """

    arguments: tuple[str, ...]


@attrs.frozen(kw_only=True)
class CommandOutput:
    """A running command has written something.

    Attributes:
        arguments: The program and its arguments.
        stream: `stdout` or `stderr`.
        text: What it has written, as it came: lines, or parts of them.
        shown: Whether the engine means it to be shown.
    """

    arguments: tuple[str, ...]
    stream: str
    text: str
    shown: bool


@attrs.frozen(kw_only=True)
class CommandEnded:
    """A command has ended.

    Attributes:
        arguments: The program and its arguments.
        exit_code: What it ended with; 127 where it could not be started.
    """

    arguments: tuple[str, ...]
    exit_code: int


@attrs.frozen(kw_only=True)
class SecretsInUpload:
    """An upload that the engine asks for takes along private keys or `.env` files; it begins next.

    Attributes:
        folder: The folder that is uploaded from.
        paths: The files, relative to the folder. `exclude=` of `push` leaves them out.
    """

    folder: str
    paths: tuple[str, ...]


@attrs.frozen(kw_only=True)
class BytesPulled:
    """A part of a file was downloaded.

    Attributes:
        job_id: The job whose output it is.
        name: The file, as the engine names it.
        received: Bytes of it that are here.
        total: Bytes of it altogether; None where the server does not say.
        done: Whether it is complete and in its place.
    """

    job_id: str
    name: str
    received: int
    total: int | None
    done: bool


Event = (
    RequestSent
    | RequestAnswered
    | RequestFailed
    | RequestRetried
    | RequestsPaused
    | OperationAccepted
    | OperationChanged
    | OperationEnded
    | FleetMemberChanged
    | ChangeUnrecorded
    | JobMessage
    | CommandStarted
    | CommandOutput
    | CommandEnded
    | BytesPulled
    | SecretsInUpload
)
"""Whatever a listener is told."""

Listener = Callable[[Event], object]
"""What is told of events: a function, or a coroutine function."""

LONGEST_QUEUE = 10_000
"""Events that wait for a slow asynchronous listener; what comes on top is dropped and counted."""

LAST_WORDS = 0.5
"""Seconds that asynchronous listeners have, once the client is closed, for what they were not yet told."""


MOST_WARNINGS = 10
"""Mistakes of one listener that are written to the log; all are counted."""


class Dispatcher:
    """Hands events to listeners, and keeps their mistakes away from what the events tell of, and from each other.

    A plain function is called at once. A coroutine function is called by a task of its own, one event after the other.
    """

    def __init__(
        self, listeners: Callable[[Any], object] | Iterable[Callable[[Any], object]] | None = None
    ) -> None:
        several = [] if listeners is None else [listeners] if callable(listeners) else listeners
        self._queues = tuple(_ListenerQueue(listener) for listener in several)

    @property
    def listens(self) -> bool:
        """Whether anybody listens."""
        return bool(self._queues)

    @property
    def failures(self) -> int:
        """How often a listener has raised."""
        return sum(ear.failures for ear in self._queues)

    @property
    def dropped(self) -> int:
        """Events that an asynchronous listener was too slow for."""
        return sum(ear.dropped for ear in self._queues)

    def emit(self, event: Event) -> None:
        """Tell everybody who listens."""
        for ear in self._queues:
            ear.deliver(event)

    async def aclose(self) -> None:
        """Let asynchronous listeners hear what is left, for a moment; then give it up."""
        working = [ear.worker for ear in self._queues if ear.worker is not None]
        try:
            if working:
                await asyncio.wait(working, timeout=LAST_WORDS)
        finally:
            for ear in self._queues:
                ear.close()
            await asyncio.gather(*working, return_exceptions=True)


class _ListenerQueue:
    """One listener, and what it was not yet told."""

    __slots__ = ("_closed", "_listener", "_waiting", "dropped", "failures", "worker")

    def __init__(self, listener: Callable[[Any], object]) -> None:
        self._listener = listener
        self._waiting: deque[Coroutine[Any, Any, object]] = deque()
        self._closed = False
        self.worker: asyncio.Task[None] | None = None
        self.failures = 0
        self.dropped = 0

    def deliver(self, event: Event) -> None:
        """Be told of an event."""
        try:
            result = self._listener(event)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - what a listener raises is its own affair
            self._failed(error)
            return
        if isinstance(result, Coroutine):
            self._queue(cast("Coroutine[Any, Any, object]", result))

    def close(self) -> None:
        """Hear nothing more."""
        self._closed = True
        if self.worker is not None:
            self.worker.cancel()
        while self._waiting:
            self._drop(self._waiting.popleft())

    def _queue(self, call: Coroutine[Any, Any, object]) -> None:
        if self._closed or len(self._waiting) >= LONGEST_QUEUE:
            self._drop(call)
            return
        self._waiting.append(call)
        if self.worker is None or self.worker.done():
            self.worker = asyncio.get_running_loop().create_task(self._work(), name="tensorpool-events")

    def _drop(self, call: Coroutine[Any, Any, object]) -> None:
        self.dropped += 1
        call.close()  # never started, and not to be warned of

    async def _work(self) -> None:
        while self._waiting:
            try:
                await self._waiting.popleft()
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise  # it is this task that is to end, and not the listener that has met a cancellation
                self._failed(error)
            except Exception as error:  # noqa: BLE001 - whatever a listener raises is its own affair
                self._failed(error)

    def _failed(self, error: BaseException) -> None:
        self.failures += 1
        if self.failures <= MOST_WARNINGS:
            logger.warning("a listener to events failed; what it listens to goes on", exc_info=error)
