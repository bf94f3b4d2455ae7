"""`Operation`: a handle on a change that the engine has accepted with 202, and the wait for its end."""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from tensorpool_async.errors import OperationError, OperationTimeout, TensorPoolError
from tensorpool_async.models.enums import OperationKind, RequestStatus
from tensorpool_async.models.request import RequestInfo
from tensorpool_async.operations.poller import Poller
from tensorpool_async.protocol.operation import OperationMachine
from tensorpool_async.protocol.requests import Lane, Request
from tensorpool_async.protocol.responses import Response, answer_of
from tensorpool_async.protocol.send_context import SendContext
from tensorpool_async.protocol.summary import PollCounters, summarize
from tensorpool_async.protocol.tokens import UNSIGNED, Tokens
from tensorpool_async.texts import clean
from tensorpool_async.transport.attempts import Transport


T = TypeVar("T")

MOST_UNREAD = 1000
"""States that wait for a reader of `updates()`. Of more, the oldest are dropped."""


class Operation(Generic[T]):
    """A change that the engine has accepted and is carrying out.

    `await operation` returns the result. The client polls the operation from its acceptance to its end, at the pace that
    the engine asks for, with one poll loop for all waiters. A task that is cancelled while it waits ends only its own
    wait. An operation can be awaited any number of times.

    An operation from `TensorPool.operation` is polled only while a task awaits it, iterates over its updates, or has
    added a callback. It is polled again when it is awaited again.

    A failed poll (a server error, a lost connection, a response that cannot be decoded) is repeated. A wait ends with
    the engine's COMPLETED or FAILED, a refusal (401, 403, a repeated 404) or the caller's timeout.
    """

    __slots__ = (
        "__weakref__",
        "_began",
        "_counters",
        "_lasting",
        "_machine",
        "_poller",
        "_subscribers",
        "_tokens",
        "_transport",
        "_waiter",
        "next_at",
    )

    def __init__(
        self, machine: OperationMachine, transport: Transport, poller: Poller, tokens: Tokens = UNSIGNED
    ) -> None:
        self._tokens = tokens
        self._machine = machine
        self._transport = transport
        self._poller = poller
        self._began: float | None = None
        self._lasting = False  # whether it is polled even if no task waits
        self._counters: PollCounters | None = None
        # Tens of thousands may be in flight, and most have at most one waiter and no other subscribers.
        self._waiter: asyncio.Future[None] | None = None
        self._subscribers: Subscribers | None = None
        self.next_at: float = 0.0

    @property
    def kind(self) -> OperationKind | None:
        """The kind of the operation; None until the first poll if only the request id is known."""
        return self._machine.kind

    @property
    def resource_id(self) -> str | None:
        """The id of the resource that is changed; known from the 202 on."""
        return self._machine.resource_id

    @property
    def request_id(self) -> str | None:
        """The engine's id of the request; None where the engine gave none and the resource is polled instead."""
        ids = self._machine.request_ids
        return ids[0] if ids else None

    @property
    def request_ids(self) -> tuple[str, ...]:
        """The ids of all requests of the operation; attaching a volume may have several."""
        return self._machine.request_ids

    @property
    def info(self) -> RequestInfo | None:
        """The latest state from the engine; None until the first poll if only the request id is known."""
        return self._machine.info

    @property
    def status(self) -> RequestStatus:
        """The latest status from the engine; PENDING before the first poll."""
        info = self._machine.info
        return RequestStatus.PENDING if info is None else info.status

    @property
    def polls(self) -> int:
        """The number of polls with a response so far."""
        return self._machine.polls

    @property
    def token(self) -> str:
        """A string without secrets; `TensorPool.operation(token)` resumes the operation in any process.

        The token is signed if the client has a `token_secret`.
        """
        return self._tokens.encode(self._machine.ref)

    def done(self) -> bool:
        """Whether the operation has ended, with a result or an error."""
        return self._machine.done or self._machine.error is not None

    def exception(self) -> TensorPoolError | None:
        """Return the error that the operation ended with, or None if it has a result.

        Raises:
            asyncio.InvalidStateError: The operation has not ended.
        """
        if not self.done():
            raise asyncio.InvalidStateError("the operation has not ended")
        return self._machine.error

    def add_done_callback(self, callback: Callable[[Operation[T]], object]) -> None:
        """Call `callback(operation)` soon after the operation has ended, like `asyncio.Future`.

        Raises:
            WrongEventLoopError: The client belongs to another event loop.
        """
        self._ensure_polled()
        context = contextvars.copy_context()
        if self.done():
            asyncio.get_running_loop().call_soon(callback, self, context=context)
        else:
            self._subscribe().callbacks += ((callback, context),)

    def remove_done_callback(self, callback: Callable[[Operation[T]], object]) -> int:
        """Remove a callback, and return how often it was added."""
        if self._subscribers is None:
            return 0
        before = self._subscribers.callbacks
        self._subscribers.callbacks = tuple(entry for entry in before if entry[0] != callback)
        count = len(before) - len(self._subscribers.callbacks)
        self._stop_if_unwanted()
        return count

    def __await__(self) -> Generator[Any, None, T]:
        return self.result().__await__()

    async def result(self, timeout: float | None = None) -> T:
        """Wait for the end of the operation and return the result.

        Args:
            timeout: The longest wait in seconds; None waits without a limit.

        Raises:
            OperationFailed: The engine ended the operation as FAILED.
            OperationTimeout: The timeout ran out. The operation continues and can be awaited again.
            OperationError: The client was closed.
            AuthenticationError: The key is no longer valid (401).
            PermissionDenied: The key may not read the operation (403).
            NotFound: The engine repeatedly answered 404 for the request and the resource.
            WrongEventLoopError: The client belongs to another event loop.
        """
        self._ensure_polled()
        if not self.done():  # a closed client has ended its operations by now
            if timeout is None:
                waiter = self._add_waiter()
                try:  # inline, since tens of thousands may wait and each coroutine takes memory
                    await waiter
                finally:
                    self._remove_waiter(waiter)
                    self._stop_if_unwanted()
            else:
                await self._wait(timeout)
        if self._machine.error is not None:
            # Several waiters raise the same error object, and each would lengthen its traceback.
            raise self._machine.error.with_traceback(None)
        return cast("T", self._machine.result)

    async def settled(self) -> T:
        """Wait for the end in cleanup code, and return the result like `result`.

        The engine is polled at least once in `RetryPolicy.longest_pause` seconds, even if it asks for a slower pace.
        """
        while not self.done():
            try:
                await self.result(self._transport.retry.longest_pause)
            except OperationTimeout:
                with suppress(TensorPoolError):
                    await self.refresh()
        return await self.result()

    async def refresh(self) -> RequestInfo:
        """Poll the engine once, now, and return the state.

        The next regular poll comes no earlier than this response asks for.

        Raises:
            TensorPoolError: The poll failed. The operation is polled as before.
        """
        if not self.done():
            request = self._machine.next_request()
            try:
                response = await self._transport.attempt(request, Lane.POLL)
                answer_of(response, method=request.method, path=request.path)
            except TensorPoolError as error:
                raise error.bind(self) from None
            delay = self.receive(response, 0.0, request)
            if delay is not None:
                self.next_at = max(self.next_at, _now() + delay)
        if self._machine.info is None:
            raise OperationError("the engine has not told anything about the operation").bind(self)
        return self._machine.info

    async def updates(self) -> AsyncIterator[RequestInfo]:
        """Iterate over the states of the operation, one for each change of its status or message.

        The first state is the one that is known already. The last one is the terminal state, COMPLETED or FAILED. If the
        operation ends otherwise (the client is closed, the key is revoked), that error is raised. If a reader falls behind
        by more than a thousand states, the oldest are dropped.
        """
        self._ensure_polled()
        queue = UpdateQueue()
        if self._machine.info is not None:
            queue.put(self._machine.info)
        if self.done():
            queue.end()
        else:
            self._subscribe().queues += (queue,)
        try:
            async for info in queue:
                yield info
        finally:
            if self._subscribers is not None:
                others = tuple(other for other in self._subscribers.queues if other is not queue)
                self._subscribers.queues = others
            self._stop_if_unwanted()
        if self._machine.error is not None and not self.status.is_terminal:
            raise self._machine.error.with_traceback(None)

    def explain(self) -> str:
        """Summarize in a few lines the history, the state and the next poll of the operation.

        The same text is added as a note to the error that the operation, or a wait for it, ends with.
        """
        try:
            now = _now()
        except RuntimeError:  # no event loop runs, so nothing is polled
            now = self.next_at
        text = summarize(self._machine, self._counters, began=self._began, next_at=self.next_at, now=now)
        return self._transport.instrumentation.mask(text)

    # The following methods are for the executor and the poller.

    def start(self, delay: float, *, accepted: bool = False, context: SendContext | None = None) -> None:
        """Poll the operation to its end.

        Args:
            delay: Seconds until the first poll.
            accepted: Whether the engine has accepted it just now; False for a resumed operation.
            context: The record of the send.
        """
        self._lasting = True
        self._begin(accepted=accepted, context=context)
        self._poller.add(self, delay)

    def next_request(self) -> Request[Any]:
        """Return the next poll request."""
        return self._machine.next_request()

    def receive(self, response: Response, jitter: float, asked: Request[Any]) -> float | None:
        """Process the response to a poll. Return the seconds until the next poll, or None at the end."""
        machine = self._machine
        if machine.error is not None or machine.done:
            return None
        before = machine.info
        delay = machine.receive(response, jitter, asked=asked)
        if machine.info is not before:
            self._publish(before)
        if response.status >= 400:
            self._count(response.status)
        if delay is None:
            self._notify_ended()
        return delay

    def receive_failure(self, error: TensorPoolError, jitter: float) -> float | None:
        """Process a poll without a response. Return the seconds until the next poll, or None at the end."""
        if self.done():
            return None
        self._count(0)
        return self._machine.receive_failure(error, jitter)

    def end(self, error: TensorPoolError) -> None:
        """End the operation with an error of this client."""
        if not self.done():
            self._machine.error = error
            self._notify_ended()

    if not TYPE_CHECKING:  # type checkers have better messages for these mistakes

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(
                f"an Operation has no {name!r}, which its result may have: write `(await operation).{name}`"
            )

        async def __aenter__(self) -> Any:
            raise TypeError(
                "an Operation is no context manager: write `await operation`, or use `tp.clusters.ephemeral(…)` for a "
                "cluster that is destroyed at the end of a block"
            )

        async def __aexit__(self, *_: object) -> None:
            """Never reached."""

    def __repr__(self) -> str:
        what = f"{self.kind or 'operation'} of {self.resource_id or '?'}, request {self.request_id}"
        return clean(f"<Operation {what}, {self.status}{', done' if self.done() else ''}>")

    def _ensure_polled(self) -> None:
        self._transport.sessions.check_loop()
        if not self.done():
            self._begin()
            self._poller.add(self, 0.0)

    def _begin(self, *, accepted: bool = False, context: SendContext | None = None) -> None:
        if self._began is None:
            self._began = _now()
            if context is not None and context.is_notable:
                self._counters = PollCounters(context)
            self._transport.instrumentation.record_accepted(self._machine, resumed=not accepted)

    def _stop_if_unwanted(self) -> None:
        """Stop polling a resumed operation that no task waits for, so that a forged token leaves no polling behind."""
        subscribers = self._subscribers
        wanted = self._lasting or self._waiter is not None or (subscribers is not None and bool(subscribers))
        if wanted or self.done():
            return
        self._poller.drop(self)
        if self._began is not None:
            self._transport.instrumentation.record_ended(self._machine, _now() - self._began, left=True)
            self._began = None

    async def _wait(self, timeout: float) -> None:
        try:
            async with asyncio.timeout(timeout):
                await self.result()
        except TensorPoolError:
            return  # the caller raises the error of the operation
        except TimeoutError:
            late = OperationTimeout(f"{self!r} did not end within {timeout} s; it goes on")
            late.add_note(self.explain())
            raise late.bind(self) from None

    def _add_waiter(self) -> asyncio.Future[None]:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._waiter is None:
            self._waiter = waiter
        else:
            self._subscribe().waiters.append(waiter)
        return waiter

    def _remove_waiter(self, waiter: asyncio.Future[None]) -> None:
        if waiter is self._waiter:
            self._waiter = None
        elif self._subscribers is not None and waiter in self._subscribers.waiters:
            self._subscribers.waiters.remove(waiter)

    def _subscribe(self) -> Subscribers:
        if self._subscribers is None:
            self._subscribers = Subscribers()
        return self._subscribers

    def _publish(self, before: RequestInfo | None) -> None:
        info = self._machine.info
        if info is None:
            return
        is_new = before is None or before.status != info.status
        if is_new and info.status is RequestStatus.RETRYING:
            self._counters = self._counters or PollCounters()
            self._counters.retrying += 1
        if is_new or before is None or before.external_message != info.external_message:
            self._transport.instrumentation.record_changed(self._machine)
            for queue in () if self._subscribers is None else self._subscribers.queues:
                queue.put(info)

    def _count(self, status: int) -> None:
        if 0 < status < 500 and status != 429:
            return
        self._counters = self._counters or PollCounters()
        self._counters.count(status)

    def _notify_ended(self) -> None:
        machine = self._machine
        self.next_at = _now()
        if machine.error is not None:
            machine.error.bind(self).add_note(self.explain())
        seconds = 0.0 if self._began is None else self.next_at - self._began
        self._transport.instrumentation.record_ended(machine, seconds)
        if self._waiter is not None:
            _wake(self._waiter)
            self._waiter = None
        subscribers, self._subscribers = self._subscribers, None
        if subscribers is None:
            return
        for queue in subscribers.queues:
            queue.end()
        for waiter in subscribers.waiters:
            _wake(waiter)
        for callback, context in subscribers.callbacks:
            asyncio.get_running_loop().call_soon(callback, self, context=context)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _now() -> float:
    return asyncio.get_running_loop().time()


class Subscribers:
    """The waiters, callbacks and update queues of an operation, besides its first waiter."""

    __slots__ = ("callbacks", "queues", "waiters")

    def __init__(self) -> None:
        self.waiters: list[asyncio.Future[None]] = []
        # Tuples, since an empty tuple takes no memory and tens of thousands of operations may be in flight.
        self.callbacks: tuple[tuple[Callable[[Any], object], contextvars.Context], ...] = ()
        self.queues: tuple[UpdateQueue, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.waiters or self.callbacks or self.queues)


class UpdateQueue:
    """The states that one `updates()` iterator has not yet yielded."""

    __slots__ = ("_ended", "_infos", "_wakeup")

    def __init__(self) -> None:
        self._infos: deque[RequestInfo] = deque(maxlen=MOST_UNREAD)
        self._ended = False
        self._wakeup = asyncio.Event()

    def put(self, info: RequestInfo) -> None:
        """Add a state."""
        self._infos.append(info)
        self._wakeup.set()

    def end(self) -> None:
        """End the iteration after the queued states."""
        self._ended = True
        self._wakeup.set()

    def __aiter__(self) -> UpdateQueue:
        return self

    async def __anext__(self) -> RequestInfo:
        while not self._infos:
            if self._ended:
                raise StopAsyncIteration
            self._wakeup.clear()
            await self._wakeup.wait()
        return self._infos.popleft()
