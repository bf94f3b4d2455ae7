"""The slots of a limiter, and the queue of those who wait for one. Both limiters use it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from tensorpool_async.errors import TensorPoolError, WrongEventLoopError
from tensorpool_async.protocol.lanes import LaneOrder
from tensorpool_async.protocol.requests import Lane


class Pacer(Protocol):
    """What decides when the next request may go. Times are those of the event loop."""

    @property
    def ready_at(self) -> float:
        """The time from which the next request may go; infinite where that is not known yet."""
        ...

    def record_send(self, now: float) -> None:
        """Count a request that goes now."""
        ...


class WaiterQueue:
    """Grants slots to waiters as the pacer allows: by lane, and within a lane first come, first served.

    Attributes:
        max_in_flight: Slots that there are.
        in_flight: Slots that are held.
        granted: Slots that were granted so far.
        loop: The event loop that the queue is used on; None before its first use.
        paced: Whether a timer is set: the first waiter waits for the pacer, and not for a slot.
    """

    __slots__ = (
        "_lanes",
        "_order",
        "_pacer",
        "_timer",
        "_timer_at",
        "_wake",
        "granted",
        "in_flight",
        "loop",
        "max_in_flight",
    )

    def __init__(self, max_in_flight: int, pacer: Pacer, wake: Callable[[], None]) -> None:
        """Make a queue.

        Args:
            max_in_flight: Slots that there are.
            pacer: What decides when the next request may go.
            wake: Is called whenever a waiter may have become ready to go; it calls `dispatch`.
        """
        if max_in_flight < 1:
            raise ValueError(f"max_in_flight is {max_in_flight}, and must be at least 1")
        self.max_in_flight: int = max_in_flight
        self.in_flight: int = 0
        self.granted: int = 0
        self._pacer = pacer
        self._wake = wake
        self._lanes: tuple[deque[asyncio.Future[float]], ...] = (deque(), deque(), deque())
        self._order = LaneOrder()
        self.loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    @property
    def paced(self) -> bool:
        return self._timer is not None

    @property
    def waiting(self) -> bool:
        """Whether anybody waits; those who were cancelled count until `dispatch` finds them."""
        changes, reads, polls = self._lanes
        return bool(changes or reads or polls)

    def counts(self) -> tuple[int, int, int]:
        """Return how many wait in each lane: changes, reads, polls."""
        changes, reads, polls = (sum(not waiter.done() for waiter in lane) for lane in self._lanes)
        return changes, reads, polls

    async def acquire(self, lane: Lane) -> float:
        """Wait for a slot and for the pacer; return the time of the grant.

        Whoever is cancelled here holds nothing and has taken nobody's turn.

        Raises:
            WrongEventLoopError: The queue is in use on another event loop.
        """
        loop = asyncio.get_running_loop()
        if loop is not self.loop:
            self._bind(loop)
        if not self.waiting and self.in_flight < self.max_in_flight:
            now = loop.time()
            if self._pacer.ready_at <= now:
                return self._grant(now)
        waiter: asyncio.Future[float] = loop.create_future()
        self._lanes[lane].append(waiter)
        self._wake()
        try:
            return await waiter
        except BaseException:  # a coroutine may be closed as well as cancelled
            if not loop.is_closed():
                self._leave(waiter)
            raise

    def release(self) -> None:
        """Give a slot back. The caller wakes whoever waits for it."""
        self.in_flight -= 1

    def dispatch(self) -> None:
        """Grant slots to all who may go now, and set the timer for the next one."""
        loop = self.loop
        if loop is None:
            return
        now = loop.time()
        while self._drop_cancelled() and self.in_flight < self.max_in_flight:
            ready_at = self._pacer.ready_at
            if ready_at > now:
                self._set_timer(loop, ready_at)
                return
            lane = self._order.next_lane([bool(waiters) for waiters in self._lanes])
            if lane is not None:
                self._lanes[lane].popleft().set_result(self._grant(now))
        self.cancel_timer()

    def fail_all(self, make_error: Callable[[], TensorPoolError]) -> None:
        """End the wait of everybody with an error, a new one for each."""
        for lane in self._lanes:
            while lane:
                waiter = lane.popleft()
                if not waiter.done():
                    waiter.set_exception(make_error())
        self.cancel_timer()

    def cancel_timer(self) -> None:
        """Cancel the timer, if one is set."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _bind(self, loop: asyncio.AbstractEventLoop) -> None:
        if self.loop is not None and (self.in_flight or self.waiting) and not self.loop.is_closed():
            raise WrongEventLoopError("the limiter is in use on another event loop; make one for each loop")
        self.loop = loop
        self.in_flight = 0
        self._timer = None
        for lane in self._lanes:
            lane.clear()

    def _grant(self, now: float) -> float:
        self._pacer.record_send(now)
        self.in_flight += 1
        self.granted += 1
        return now

    def _leave(self, waiter: asyncio.Future[float]) -> None:
        """Take out a waiter that was cancelled; a slot that came in the same moment is passed on."""
        if not waiter.done():
            waiter.cancel()
        elif not waiter.cancelled() and waiter.exception() is None:
            self.release()
        self._wake()  # a timer may have been set for this waiter alone

    def _drop_cancelled(self) -> bool:
        """Drop cancelled waiters from the heads of the lanes; return whether anybody waits."""
        for lane in self._lanes:
            while lane and lane[0].done():
                lane.popleft()
        return self.waiting

    def _set_timer(self, loop: asyncio.AbstractEventLoop, at: float) -> None:
        if self._timer is not None:
            if self._timer_at <= at:
                return  # it looks again when it goes off: cheaper than a new one for each request
            self._timer.cancel()
            self._timer = None
        if at < float("inf"):
            self._timer, self._timer_at = loop.call_at(at, self._time_has_come), at

    def _time_has_come(self) -> None:
        self._timer = None
        self._wake()
