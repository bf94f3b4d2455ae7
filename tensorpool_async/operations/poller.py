"""One heap of due polls for all operations of a client.

Nothing runs per operation: an operation that waits is an entry of the heap. One timer is set for the earliest entry.
What is due is handed, in order, to as many workers as the limiter has slots; a worker ends when nothing is due.

An operation that is dropped leaves an entry behind, which nobody looks at any more. Once these are most of the heap, the
heap is made anew without them.

Where the limiter lets through fewer polls than fall due, each comes late by the same: whoever has been due for longest is
next, and a poll that was made late is followed by the next one its whole delay after that. So no operation is polled
twice while another waits, and only as many polls queue at the limiter as it has slots: a change passes all of them.
"""

from __future__ import annotations

import asyncio
import heapq
from functools import partial
from typing import Any, Protocol

from tensorpool_async.errors import ConfigurationError, OperationError, TensorPoolError
from tensorpool_async.protocol.requests import Lane, Request
from tensorpool_async.protocol.responses import Response
from tensorpool_async.transport.attempts import Transport


class Pollable(Protocol):
    """What the poller needs of an operation.

    Attributes:
        next_at: When it is polled next, on the clock of the event loop. The poller says so; who puts it off, may.
    """

    next_at: float

    def next_request(self) -> Request[Any]:
        """Return what to ask."""
        ...

    def receive(self, response: Response, jitter: float, asked: Request[Any]) -> float | None:
        """Take the answer to what was asked; return the seconds until the next poll, or None at the end."""
        ...

    def receive_failure(self, error: TensorPoolError, jitter: float) -> float | None:
        """Take a poll without an answer; return the seconds until the next poll, or None at the end."""
        ...

    def done(self) -> bool:
        """Return whether nothing is left to ask."""
        ...

    def end(self, error: TensorPoolError) -> None:
        """Learn that nobody polls any more, and why."""
        ...


class Poller:
    """Polls the operations of one client until each has ended."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._heap: list[tuple[float, int, Pollable]] = []
        self._pending: dict[Pollable, int] = {}  # with the number of its latest entry: no other counts
        self._dropped = 0
        self._workers: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._count = 0
        self._closed = False

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, operation: Pollable, delay: float) -> None:
        """Poll an operation for the first time in `delay` seconds, and from then on at its own pace."""
        if self._closed:
            operation.end(_closed())
        elif operation not in self._pending:
            loop = asyncio.get_running_loop()
            # One that was dropped and is followed again comes no earlier than the engine has asked for.
            self._push(operation, max(loop.time() + delay, operation.next_at))
            self._set_timer(loop)

    def drop(self, operation: Pollable) -> None:
        """Poll an operation no more, until it is followed again."""
        if self._pending.pop(operation, None) is None:
            return
        self._dropped += 1
        if self._dropped * 2 > len(self._heap):
            followed = self._pending
            self._heap = [entry for entry in self._heap if followed.get(entry[2]) == entry[1]]
            heapq.heapify(self._heap)
            self._dropped = 0
        if not self._heap and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def aclose(self) -> None:
        """Stop polling. Whoever waits for an operation is told so; the operations live on at the engine."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        workers = list(self._workers)
        for worker in workers:
            worker.cancel()
        try:
            await asyncio.gather(*workers, return_exceptions=True)
        finally:
            self._heap.clear()
            while self._pending:
                self._pending.popitem()[0].end(_closed())

    def _push(self, operation: Pollable, due: float) -> None:
        self._count += 1
        self._pending[operation] = self._count
        operation.next_at = due
        heapq.heappush(self._heap, (due, self._count, operation))

    def _set_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        """See that something looks at the earliest entry in time: a timer, or the workers, if all are at work."""
        if not self._heap or self._closed or len(self._workers) >= self._transport.limiter.max_in_flight:
            return
        due = self._heap[0][0]
        if self._timer is not None:
            if self._timer_at <= due:
                return
            self._timer.cancel()
        self._timer_at = due
        self._timer = loop.call_at(due, self._collect)

    def _collect(self) -> None:
        """Hand over what is due."""
        loop = asyncio.get_running_loop()
        self._timer = None
        while len(self._workers) < self._transport.limiter.max_in_flight:
            operation = self._next(loop.time())
            if operation is None:
                break
            worker = loop.create_task(self._work(operation), name="tensorpool-poll")
            self._workers.add(worker)
            worker.add_done_callback(partial(self._check_begun, operation))
        self._set_timer(loop)

    def _check_begun(self, operation: Pollable, worker: asyncio.Task[None]) -> None:
        """Keep the operation of a worker that was cancelled before its first step, and so has put nothing back."""
        if worker in self._workers:
            self._workers.discard(worker)
            if not self._closed:
                self._put_back(operation, worker.get_loop())
                self._set_timer(worker.get_loop())

    def _put_back(self, operation: Pollable, loop: asyncio.AbstractEventLoop) -> None:
        if operation in self._pending:  # else it was dropped meanwhile
            self._push(operation, loop.time())

    def _next(self, now: float) -> Pollable | None:
        """Take what has been due for longest; return None where nothing is due."""
        while self._heap and self._heap[0][0] <= now:
            _, number, operation = heapq.heappop(self._heap)
            if self._pending.get(operation) != number:  # it was dropped, and may have a later entry
                continue
            if operation.done():
                del self._pending[operation]
            elif operation.next_at > now:  # it was put off meanwhile
                self._push(operation, operation.next_at)
            else:
                return operation
        return None

    async def _work(self, operation: Pollable | None) -> None:
        loop = asyncio.get_running_loop()
        attempt, jitter_of = self._transport.attempt, self._transport.random.random
        try:
            while operation is not None:
                # All of it in one frame: this is what tens of thousands of operations cost.
                jitter = jitter_of()
                try:
                    request = operation.next_request()
                    delay = operation.receive(await attempt(request, Lane.POLL), jitter, request)
                except ConfigurationError as error:  # nothing can be sent, and another poll changes nothing
                    operation.end(error)
                    delay = None
                except TensorPoolError as error:
                    delay = operation.receive_failure(error, jitter)
                except Exception as error:  # noqa: BLE001 - whoever waits must learn of a bug; the worker serves others too
                    operation.end(_bug(error))
                    delay = None
                now = loop.time()
                if delay is None:
                    self._pending.pop(operation, None)
                elif operation in self._pending:
                    self._count += 1
                    self._pending[operation] = self._count
                    operation.next_at = due = now + delay
                    heapq.heappush(self._heap, (due, self._count, operation))
                else:
                    operation.next_at = now + delay  # for when it is followed again
                operation = self._next(now)
        except asyncio.CancelledError:
            # A program that ends cancels all its tasks, and what it destroys on its way out is still polled.
            if operation is not None and not self._closed:
                self._put_back(operation, loop)
            raise
        finally:
            # Here and not in a callback of the task, which would come later: what falls due in between would see a
            # worker that no longer looks.
            worker = asyncio.current_task()
            if worker is not None:
                self._workers.discard(worker)
            self._set_timer(loop)


def _closed() -> OperationError:
    return OperationError(
        "the client was closed; the operation goes on at the engine, and its token finds it again"
    )


def _bug(error: Exception) -> OperationError:
    problem = OperationError(f"the poll could not be handled: {error!r}; the operation goes on at the engine")
    problem.__cause__ = error
    return problem
