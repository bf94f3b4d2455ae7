"""Delivers events to listeners, and isolates the client from their errors and their slowness."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, cast

from tensorpool_async.events.records import Event
from tensorpool_async.texts import logger_of


LONGEST_QUEUE = 10_000
"""Events that wait for a slow asynchronous listener. Further events are dropped and counted."""

DRAIN_SECONDS = 0.5
"""Seconds that asynchronous listeners have for the events still in their queues, once the client is closed."""

MOST_WARNINGS = 10
"""Errors of one listener that are logged. All errors are counted."""

logger: logging.Logger = logger_of("tensorpool_async")
logger.addHandler(logging.NullHandler())


class Dispatcher:
    """Delivers events to listeners. An error of a listener affects neither the client nor the other listeners.

    A plain function is called at once. The coroutines of a coroutine function wait in a queue of this listener, and one
    task runs them in order.
    """

    def __init__(
        self, listeners: Callable[[Any], object] | Iterable[Callable[[Any], object]] | None = None
    ) -> None:
        several = [] if listeners is None else [listeners] if callable(listeners) else listeners
        self._queues = tuple(_ListenerQueue(listener) for listener in several)

    @property
    def listens(self) -> bool:
        """Whether there is a listener."""
        return bool(self._queues)

    @property
    def failures(self) -> int:
        """The number of calls in which a listener raised."""
        return sum(queue.failures for queue in self._queues)

    @property
    def dropped(self) -> int:
        """The number of events dropped because an asynchronous listener was too slow, or the client was closed."""
        return sum(queue.dropped for queue in self._queues)

    def emit(self, event: Event) -> None:
        """Deliver an event to all listeners. It never waits."""
        for queue in self._queues:
            queue.deliver(event)

    async def aclose(self) -> None:
        """Give asynchronous listeners half a second for the events in their queues, then cancel them."""
        workers = [queue.worker for queue in self._queues if queue.worker is not None]
        try:
            if workers:
                await asyncio.wait(workers, timeout=DRAIN_SECONDS)
        finally:
            for queue in self._queues:
                queue.close()
            await asyncio.gather(*workers, return_exceptions=True)


class _ListenerQueue:
    """One listener, and the calls of it that were not yet run.

    Attributes:
        worker: The task that runs the calls; None until the first one.
        failures: The number of calls that raised.
        dropped: The number of calls that were never run.
    """

    __slots__ = ("_calls", "_closed", "_listener", "dropped", "failures", "worker")

    def __init__(self, listener: Callable[[Any], object]) -> None:
        self._listener = listener
        self._calls: deque[Coroutine[Any, Any, object]] = deque()
        self._closed = False
        self.worker: asyncio.Task[None] | None = None
        self.failures = 0
        self.dropped = 0

    def deliver(self, event: Event) -> None:
        """Call the listener with an event; queue the call if it is a coroutine."""
        try:
            result = self._listener(event)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - no error of a listener reaches the client
            self._record_failure(error)
            return
        if isinstance(result, Coroutine):
            self._enqueue(cast("Coroutine[Any, Any, object]", result))

    def close(self) -> None:
        """Cancel the worker and drop all queued calls."""
        self._closed = True
        if self.worker is not None:
            self.worker.cancel()
        while self._calls:
            self._drop(self._calls.popleft())

    def _enqueue(self, call: Coroutine[Any, Any, object]) -> None:
        if self._closed or len(self._calls) >= LONGEST_QUEUE:
            self._drop(call)
            return
        self._calls.append(call)
        if self.worker is None or self.worker.done():
            self.worker = asyncio.get_running_loop().create_task(self._run(), name="tensorpool-events")

    def _drop(self, call: Coroutine[Any, Any, object]) -> None:
        self.dropped += 1
        call.close()  # otherwise Python warns that it was never awaited

    async def _run(self) -> None:
        while self._calls:
            try:
                await self._calls.popleft()
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise  # this task is cancelled; otherwise the listener met a cancellation of its own
                self._record_failure(error)
            except Exception as error:  # noqa: BLE001 - no error of a listener reaches the client
                self._record_failure(error)

    def _record_failure(self, error: BaseException) -> None:
        self.failures += 1
        if self.failures <= MOST_WARNINGS:
            logger.warning("a listener to events failed; what it listens to goes on", exc_info=error)
