"""One heap of due polls for all operations of a client.

Nothing runs per operation: an operation that waits is an entry of the heap. One timer is set for the earliest entry.
What is due is handed, in order, to as many workers as the limiter has slots; a worker ends when nothing is due.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from typing import Any, Protocol

from tensorpool_async.errors import OperationError, TensorPoolError
from tensorpool_async.protocol.requests import Request
from tensorpool_async.protocol.responses import Response
from tensorpool_async.transport import Transport


class Pollable(Protocol):
    """What the poller needs of an operation."""

    def next_request(self) -> Request[Any]:
        """Return what to ask."""
        ...

    def receive(self, response: Response, share: float, asked: Request[Any]) -> float | None:
        """Take the answer to what was asked; return the seconds until the next poll, or None at the end."""
        ...

    def receive_failure(self, error: TensorPoolError, share: float) -> float | None:
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
        self._due: deque[Pollable] = deque()
        self._followed: set[Pollable] = set()
        self._workers: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._count = 0
        self._closed = False

    def __len__(self) -> int:
        return len(self._followed)

    def follow(self, operation: Pollable, delay: float) -> None:
        """Poll an operation for the first time in `delay` seconds, and from then on at its own pace."""
        if self._closed:
            operation.end(_closed())
        elif operation not in self._followed:
            self._followed.add(operation)
            self._schedule(operation, delay)

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
            self._due.clear()
            while self._followed:
                self._followed.pop().end(_closed())

    def _schedule(self, operation: Pollable, delay: float) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + delay
        self._count += 1
        heapq.heappush(self._heap, (due, self._count, operation))
        if self._heap[0][1] == self._count:
            self._set_timer(loop)

    def _set_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(self._heap[0][0], self._collect) if self._heap else None

    def _collect(self) -> None:
        """Hand over what is due."""
        loop = asyncio.get_running_loop()
        self._timer = None
        now = loop.time()
        while self._heap and self._heap[0][0] <= now:
            self._due.append(heapq.heappop(self._heap)[2])
        if self._heap:
            self._set_timer(loop)
        free = self._transport.limiter.max_in_flight - len(self._workers)
        for _ in range(min(len(self._due), free)):
            self._workers.add(loop.create_task(self._work(), name="tensorpool-poll"))

    async def _work(self) -> None:
        try:
            while self._due:
                operation = self._due.popleft()
                delay = None if operation.done() else await self._poll(operation)
                if delay is None:
                    self._followed.discard(operation)
                else:
                    self._schedule(operation, delay)
        finally:
            # Here and not in a callback of the task, which would come later: what falls due in between would see a
            # worker that no longer looks.
            worker = asyncio.current_task()
            if worker is not None:
                self._workers.discard(worker)

    async def _poll(self, operation: Pollable) -> float | None:
        share = self._transport.random.random()
        try:
            request = operation.next_request()
            response = await self._transport.attempt(request)
            return operation.receive(response, share, request)
        except TensorPoolError as error:
            return operation.receive_failure(error, share)
        except Exception as error:  # noqa: BLE001 - whoever waits must learn of a bug; the worker serves others too
            operation.end(_bug(error))
            return None


def _closed() -> OperationError:
    return OperationError(
        "the client was closed; the operation goes on at the engine, and its token finds it again"
    )


def _bug(error: Exception) -> OperationError:
    problem = OperationError(f"the poll could not be handled: {error!r}; the operation goes on at the engine")
    problem.__cause__ = error
    return problem
