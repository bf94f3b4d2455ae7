"""Operations: what the engine does after it has answered 202, and how to wait for it."""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import suppress
from typing import Any, Generic, TypeVar, cast

from tensorpool_async.errors import OperationError, OperationTimeout, TensorPoolError
from tensorpool_async.events.instrumentation import Instrumentation
from tensorpool_async.models.enums import OperationKind, RequestStatus
from tensorpool_async.models.request import RequestInfo
from tensorpool_async.operations.poller import Poller
from tensorpool_async.protocol.operation import OperationMachine
from tensorpool_async.protocol.requests import Request
from tensorpool_async.protocol.responses import Response, answer_of
from tensorpool_async.protocol.send_stats import SendStats
from tensorpool_async.protocol.summary import PollCounters, summarize
from tensorpool_async.protocol.tokens import UNSIGNED, Tokens
from tensorpool_async.transport import Transport


T = TypeVar("T")


class Operation(Generic[T]):
    """Something that the engine has accepted and is doing.

    `await operation` gives its result. It is polled from the moment it is accepted, whether or not anybody waits, at
    the pace that the engine asks for, by one poll loop however many wait. Who is cancelled while waiting stops that
    wait and nothing else. It can be awaited any number of times.

    One that `TensorPool.operation` has made of a token or a request id is polled while somebody awaits it, iterates over
    its updates, or has added a callback, and at no other time: it goes on when it is awaited again.

    A poll that fails (an error of the server, a lost connection, an answer that cannot be read) is made again. Only
    the engine's COMPLETED or FAILED, a refusal (401, 403, a lasting 404) or the caller's timeout ends a wait.
    """

    __slots__ = ("__weakref__", "_machine", "_poller", "_progress", "_tokens", "_transport")

    def __init__(
        self, machine: OperationMachine, transport: Transport, poller: Poller, tokens: Tokens = UNSIGNED
    ) -> None:
        self._tokens = tokens
        self._machine = machine
        self._transport = transport
        self._poller = poller
        self._progress = Progress(machine, self, transport.instrumentation)

    @property
    def kind(self) -> OperationKind | None:
        """What is done; None for an operation of which only the request id is known, until its first poll."""
        return self._machine.kind

    @property
    def resource_id(self) -> str | None:
        """The id of what it is done to; known from the 202 on."""
        return self._machine.resource_id

    @property
    def request_id(self) -> str | None:
        """The id of the request at the engine; None where the engine gave none, and the resource is polled."""
        ids = self._machine.request_ids
        return ids[0] if ids else None

    @property
    def request_ids(self) -> tuple[str, ...]:
        """The ids of all its requests: attaching a volume may have several."""
        return self._machine.request_ids

    @property
    def info(self) -> RequestInfo | None:
        """What the engine last said; None where only the request id is known, until the first poll."""
        return self._machine.info

    @property
    def status(self) -> RequestStatus:
        """Where it stands, by the engine's last word."""
        info = self._machine.info
        return RequestStatus.PENDING if info is None else info.status

    @property
    def polls(self) -> int:
        """How many polls were answered so far."""
        return self._machine.polls

    @property
    def token(self) -> str:
        """A text, without secrets, with which `TensorPool.operation` goes on in any process.

        It is signed where the client has a `token_secret`.
        """
        return self._tokens.encode(self._machine.ref)

    def done(self) -> bool:
        """Whether it has ended, with a result or an error."""
        return self._progress.done()

    def exception(self) -> TensorPoolError | None:
        """Return the error that it ended with, or None where it has a result.

        Raises:
            asyncio.InvalidStateError: It has not ended.
        """
        if not self.done():
            raise asyncio.InvalidStateError("the operation has not ended")
        return self._machine.error

    def add_done_callback(self, callback: Callable[[Operation[T]], object]) -> None:
        """Call `callback(operation)` soon after it has ended, as `asyncio.Future` does.

        Raises:
            WrongEventLoopError: The client belongs to another event loop.
        """
        self._follow()
        self._progress.add_callback(callback)

    def remove_done_callback(self, callback: Callable[[Operation[T]], object]) -> int:
        """Forget a callback; return how often it had been added."""
        count = self._progress.remove_callback(callback)
        self._unfollow()
        return count

    def __await__(self) -> Generator[Any, None, T]:
        return self.result().__await__()

    async def result(self, timeout: float | None = None) -> T:
        """Wait for the end and return the result.

        Args:
            timeout: Seconds to wait at most; None waits as long as it takes.

        Raises:
            OperationFailed: The engine ended it as FAILED.
            OperationTimeout: The timeout ran out; the operation lives on and can be awaited again.
            OperationError: The client was closed.
            AuthenticationError: The key is no longer valid (401).
            PermissionDenied: The key may not see it (403).
            NotFound: The engine lastingly knows neither the request nor the resource.
            WrongEventLoopError: The client belongs to another event loop.
        """
        self._follow()
        if not self.done():  # that of a closed client has ended by now
            if timeout is None:
                waiter = self._progress.add_waiter()
                try:  # not in a coroutine of its own: of these, tens of thousands may wait
                    await waiter
                finally:
                    self._progress.remove_waiter(waiter)
                    self._unfollow()
            else:
                await self._wait(timeout)
        if self._machine.error is not None:
            # Many may raise this one error; without this, each would lengthen its traceback.
            raise self._machine.error.with_traceback(None)
        return cast("T", self._machine.result)

    async def settled(self) -> T:
        """Wait for the end as `result` does, on a way out: for what follows may be a destroy.

        A pace that is slower than `RetryPolicy.longest_pause` is not believed: the engine is asked once in that time.
        """
        while not self.done():
            try:
                await self.result(self._transport.retry.longest_pause)
            except OperationTimeout:
                with suppress(TensorPoolError):
                    await self.refresh()
        return await self.result()

    async def refresh(self) -> RequestInfo:
        """Ask the engine once, now, and return what it says.

        The next poll comes no earlier than this answer asks for.

        Raises:
            TensorPoolError: The engine did not answer, or refused; the operation is polled as before.
        """
        if not self.done():
            request = self._machine.next_request()
            try:
                response = await self._transport.attempt(request)
                answer_of(response, method=request.method, path=request.path)
            except TensorPoolError as error:
                raise error.bind(self) from None
            self._progress.postpone(self._progress.receive(response, 0.0, request))
        if self._machine.info is None:
            raise OperationError("the engine has not told anything about the operation").bind(self)
        return self._machine.info

    async def updates(self) -> AsyncIterator[RequestInfo]:
        """Iterate over what the engine says, each time that its status or message changes.

        The first is what is known already; the last is the terminal one, also when it is FAILED. An operation that
        ends otherwise (its client is closed, its key is revoked) raises that error.
        """
        self._follow()
        listener = self._progress.listen()
        try:
            async for info in listener:
                yield info
        finally:
            self._progress.unlisten(listener)
            self._unfollow()
        if self._machine.error is not None and not self.status.is_terminal:
            raise self._machine.error.with_traceback(None)

    def explain(self) -> str:
        """Tell in a few lines what it has gone through, where it stands, and when it is polled next.

        The same text is a note of the errors that it ends with, or that a wait for it ends with.
        """
        return self._progress.explain()

    def start(self, delay: float, *, accepted: bool = False, stats: SendStats | None = None) -> None:
        """Have it polled to its end, for the first time in `delay` seconds; it is only for who made the operation.

        Args:
            delay: The seconds.
            accepted: Whether the engine has accepted it just now; else it is found again.
            stats: What its submission went through.
        """
        self._progress.lasting = True
        self._progress.begin(accepted=accepted, stats=stats)
        self._poller.add(self._progress, delay)

    def __repr__(self) -> str:
        what = f"{self.kind or 'operation'} of {self.resource_id or '?'}"
        return (
            f"<Operation {what}, request {self.request_id}, {self.status}{', done' if self.done() else ''}>"
        )

    def _follow(self) -> None:
        self._transport.check_loop()
        if not self.done():
            self._progress.begin()
            self._poller.add(self._progress, 0.0)

    def _unfollow(self) -> None:
        """Have it polled no more where nobody waits, and it was not begun here."""
        if not self._progress.wanted and not self.done():
            self._poller.drop(self._progress)
            self._progress.leave()

    async def _wait(self, timeout: float) -> None:
        try:
            async with asyncio.timeout(timeout):
                await self.result()
        except TensorPoolError:
            return  # what it ended with, for the caller to raise
        except TimeoutError:
            late = OperationTimeout(f"{self!r} did not end within {timeout} s; it goes on")
            late.add_note(self.explain())
            raise late.bind(self) from None


class Progress:
    """What the poller sees of an operation, and what it tells those who wait; see also `story.Times`."""

    __slots__ = (
        "_instrumentation",
        "_machine",
        "_operation",
        "_subscribers",
        "_waiter",
        "began",
        "counters",
        "lasting",
        "next_at",
    )

    def __init__(
        self, machine: OperationMachine, operation: Operation[Any], instrumentation: Instrumentation
    ) -> None:
        self._machine = machine
        self._operation = operation
        self._instrumentation = instrumentation
        self.began: float | None = None
        self.lasting: bool = False  # whether it is polled also while nobody waits
        self.next_at: float = 0.0
        self.counters: PollCounters | None = None
        # Most have at most this one, and no audience besides.
        self._waiter: asyncio.Future[None] | None = None
        self._subscribers: Subscribers | None = None

    def done(self) -> bool:
        """Whether the operation has ended."""
        return self._machine.done or self._machine.error is not None

    def begin(self, *, accepted: bool = False, stats: SendStats | None = None) -> None:
        """Take down that it is followed from now on, where it was not yet."""
        if self.began is None:
            self.began = _now()
            if stats is not None and stats.is_notable:
                self.counters = PollCounters(stats)
            self._instrumentation.accepted(self._machine, resumed=not accepted)

    @property
    def wanted(self) -> bool:
        """Whether it is to be polled: somebody waits or listens, or it was begun here."""
        subscribers = self._subscribers
        return (
            self.lasting
            or self._waiter is not None
            or (
                subscribers is not None
                and bool(subscribers.waiters or subscribers.listeners or subscribers.callbacks)
            )
        )

    def leave(self) -> None:
        """Take down that it is followed no longer, although it has not ended."""
        if self.began is not None:
            self._instrumentation.ended(self._machine, _now() - self.began, left=True)
            self.began = None

    def explain(self) -> str:
        """Tell what it has gone through."""
        try:
            now = _now()
        except RuntimeError:  # no loop runs any more, and nothing is polled
            now = self.next_at
        return self._instrumentation.mask(summarize(self._machine, self, now))

    def next_request(self) -> Request[Any]:
        """Return what to ask next."""
        return self._machine.next_request()

    def receive(self, response: Response, jitter: float, asked: Request[Any]) -> float | None:
        """Take the answer to what was asked; return the seconds until the next poll, or None at the end."""
        machine = self._machine
        if machine.error is not None or machine.done:
            return None
        before = machine.info
        delay = machine.receive(response, jitter, asked=asked)
        if machine.info is not before:
            self._publish(before)
        if response.status >= 400:
            self._count_failure(response.status)
        if delay is None:
            self._finish()
        return delay

    def postpone(self, delay: float | None) -> None:
        """Have the next poll come no earlier than in `delay` seconds; None leaves it."""
        if delay is not None:
            self.next_at = max(self.next_at, _now() + delay)

    def receive_failure(self, error: TensorPoolError, jitter: float) -> float | None:
        """Take a poll that was not answered; return the seconds until the next poll, or None at the end."""
        if self.done():
            return None
        self._count_failure(0)
        return self._machine.receive_failure(error, jitter)

    def end(self, error: TensorPoolError) -> None:
        """End the wait with an error that is not the engine's word."""
        if not self.done():
            self._machine.error = error
            self._finish()

    def add_waiter(self) -> asyncio.Future[None]:
        """Return a future that ends with the operation, and that nobody else waits for."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._waiter is None:
            self._waiter = waiter
        else:
            self._open().waiters.append(waiter)
        return waiter

    def remove_waiter(self, waiter: asyncio.Future[None]) -> None:
        """Forget a future of `add_waiter`."""
        if waiter is self._waiter:
            self._waiter = None
        elif self._subscribers is not None and waiter in self._subscribers.waiters:
            self._subscribers.waiters.remove(waiter)

    def add_callback(self, callback: Callable[[Any], object]) -> None:
        """Call it once the operation has ended."""
        context = contextvars.copy_context()
        if self.done():
            asyncio.get_running_loop().call_soon(callback, self._operation, context=context)
        else:
            self._open().callbacks += ((callback, context),)

    def remove_callback(self, callback: Callable[[Any], object]) -> int:
        """Forget it; return how often it was there."""
        if self._subscribers is None:
            return 0
        before = self._subscribers.callbacks
        self._subscribers.callbacks = tuple(entry for entry in before if entry[0] != callback)
        return len(before) - len(self._subscribers.callbacks)

    def listen(self) -> UpdateQueue:
        """Return an iterator over what is known, and what comes."""
        listener = UpdateQueue()
        if self._machine.info is not None:
            listener.put(self._machine.info)
        if self.done():
            listener.end()
        else:
            self._open().listeners += (listener,)
        return listener

    def unlisten(self, listener: UpdateQueue) -> None:
        """Forget a listener."""
        if self._subscribers is not None:
            others = tuple(other for other in self._subscribers.listeners if other is not listener)
            self._subscribers.listeners = others

    def _open(self) -> Subscribers:
        if self._subscribers is None:
            self._subscribers = Subscribers()
        return self._subscribers

    def _publish(self, before: RequestInfo | None) -> None:
        info = self._machine.info
        if info is None or info is before:
            return
        is_new = before is None or before.status != info.status
        if is_new and info.status is RequestStatus.RETRYING:
            self._counters().retrying += 1
        if is_new or before is None or before.external_message != info.external_message:
            self._instrumentation.changed(self._machine)
            for listener in () if self._subscribers is None else self._subscribers.listeners:
                listener.put(info)

    def _count_failure(self, status: int) -> None:
        if status == 429:
            self._counters().rate_limited += 1
        elif status == 0 or status >= 500:
            self._counters().failed += 1

    def _counters(self) -> PollCounters:
        if self.counters is None:
            self.counters = PollCounters()
        return self.counters

    def _finish(self) -> None:
        machine = self._machine
        self.next_at = _now()
        if machine.error is not None:
            machine.error.bind(self._operation).add_note(self.explain())
        self._instrumentation.ended(machine, 0.0 if self.began is None else self.next_at - self.began)
        if self._waiter is not None:
            _wake(self._waiter)
            self._waiter = None
        subscribers, self._subscribers = self._subscribers, None
        if subscribers is None:
            return
        for listener in subscribers.listeners:
            listener.end()
        for waiter in subscribers.waiters:
            _wake(waiter)
        for callback, context in subscribers.callbacks:
            asyncio.get_running_loop().call_soon(callback, self._operation, context=context)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _now() -> float:
    return asyncio.get_running_loop().time()


class Subscribers:
    """Who wants to hear of an operation, besides the one who waits."""

    __slots__ = ("callbacks", "listeners", "waiters")

    def __init__(self) -> None:
        self.waiters: list[asyncio.Future[None]] = []
        # No lists where nobody is in them, as nearly always: tens of thousands of operations may be in flight.
        self.callbacks: tuple[tuple[Callable[[Any], object], contextvars.Context], ...] = ()
        self.listeners: tuple[UpdateQueue, ...] = ()


class UpdateQueue:
    """What one `updates()` has not yet been given."""

    __slots__ = ("_ended", "_infos", "_wakeup")

    def __init__(self) -> None:
        self._infos: deque[RequestInfo] = deque()
        self._ended = False
        self._wakeup = asyncio.Event()

    def put(self, info: RequestInfo) -> None:
        """Add something to be given."""
        self._infos.append(info)
        self._wakeup.set()

    def end(self) -> None:
        """Let the iteration end once everything was given."""
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
