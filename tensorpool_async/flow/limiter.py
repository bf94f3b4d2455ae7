"""The shared rate limiter: slots, a pace, pauses, and three lanes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import attrs

from tensorpool_async.flow.waiters import WaiterQueue
from tensorpool_async.protocol.adaptive_rate import AdaptiveRate
from tensorpool_async.protocol.rate_limits import Limits
from tensorpool_async.protocol.requests import Lane


@attrs.frozen(kw_only=True)
class LimiterStatistics:
    """What a limiter is doing.

    Attributes:
        in_flight: Slots that are held: HTTP attempts under way.
        max_in_flight: Slots that there are.
        waiting: How many wait in each lane: changes, reads, polls.
        granted: Attempts let through so far.
        rate_limited: Attempts that were asked to wait (429, or 503 with Retry-After) so far.
        paused_for: Seconds until requests may go again; 0 when there is no pause.
        per_second: The pace that holds now, in requests per second; None where nothing bounds it.
        reason: What those who wait are waiting for: `slots`, `pace`, `pause` (a 429), or `quota` (one that is used
            up); None where nobody has to wait.
        ready_in: Seconds until the next request may go, as far as the pace is concerned; 0 where it may go now.
    """

    in_flight: int
    max_in_flight: int
    waiting: tuple[int, int, int]
    granted: int
    rate_limited: int
    paused_for: float
    per_second: float | None
    reason: str | None = None
    ready_in: float = 0.0


class Limiter(Protocol):
    """What a client asks before each HTTP attempt: a `RateLimiter`, a `RedisRateLimiter`, or one of your own."""

    @property
    def max_in_flight(self) -> int:
        """HTTP attempts that may be under way at a time."""
        ...

    async def acquire(self, lane: Lane = Lane.READ) -> float:
        """Wait until an attempt may go; return the time of the grant, which `release` takes back."""
        ...

    def release(
        self,
        granted_at: float,
        *,
        retry_after: float | None = None,
        ok: bool = False,
        limits: Limits | None = None,
    ) -> None:
        """Give a grant back, and say how it went, as `RateLimiter.release` has it."""
        ...

    def slot(self, lane: Lane = Lane.READ) -> AbstractAsyncContextManager[None]:
        """Hold a slot for the body of an `async with`."""
        ...

    def statistics(self) -> LimiterStatistics:
        """Return what the limiter is doing now."""
        ...


class RateLimiter:
    """Decides when each HTTP attempt may go. One for each API key: share it between clients of the same key.

    - At most `max_in_flight` attempts at a time. A slot is held from before the request is sent until its answer is
      read, and never over a sleep.
    - At most `max_per_second` attempts per second, evenly spaced, if given. Without it the pace is found from what the
      engine answers: it falls when the engine says 429 and slowly rises while it does not.
    - When one request is told to wait, all wait. After that they go one after the other at the new pace.
    - Changes go before reads, and reads before polls, and none starves. Within a lane: first come, first served.

    A limiter is bound to the event loop that it is used on, as long as anything is under way.
    """

    __slots__ = ("_queue", "_rate", "_rate_limited")

    def __init__(self, max_in_flight: int = 32, max_per_second: float | None = None) -> None:
        """Make a limiter.

        Args:
            max_in_flight: HTTP attempts at a time.
            max_per_second: HTTP attempts per second; None finds the pace from what the engine answers.

        Raises:
            ValueError: A number is not above 0.
        """
        if max_per_second is not None and not 0 < max_per_second < float("inf"):
            raise ValueError(f"max_per_second is {max_per_second}, and must be above 0")
        self._rate = AdaptiveRate(max_per_second)
        self._queue = WaiterQueue(max_in_flight, self._rate, self._wake)
        self._rate_limited = 0

    @property
    def max_in_flight(self) -> int:
        """HTTP attempts that may be under way at a time."""
        return self._queue.max_in_flight

    async def acquire(self, lane: Lane = Lane.READ) -> float:
        """Wait for a slot and for the pace; return the time of the grant, which `release` takes back.

        Whoever is cancelled here holds nothing and has taken nobody's turn.

        Raises:
            WrongEventLoopError: The limiter is in use on another event loop.
        """
        return await self._queue.acquire(lane)

    def release(
        self,
        granted_at: float,
        *,
        retry_after: float | None = None,
        ok: bool = False,
        limits: Limits | None = None,
    ) -> None:
        """Give a slot back, and say how it went.

        Args:
            granted_at: What `acquire` returned.
            retry_after: Seconds that the engine asked everybody to wait, where it did.
            ok: Whether the engine let the request through.
            limits: What the answer's RateLimit headers say, where it has some; see `limits_of`.
        """
        queue = self._queue
        waiting = queue.waiting
        if ok:
            # With a timer set, it is the pace that they wait for, and not a slot.
            self._rate.passed(granted_at, waited=waiting and queue.paced)
        queue.release()
        if retry_after is not None or limits is not None:
            self._listen(granted_at, retry_after, limits)
        if waiting:
            self._wake()

    def _listen(self, granted_at: float, retry_after: float | None, limits: Limits | None) -> None:
        loop = self._queue.loop
        now = granted_at if loop is None else loop.time()
        if retry_after is not None:
            self._rate_limited += 1
            self._rate.throttled(now, granted_at, retry_after, limits)
        if limits is not None:
            self._rate.apply_headers(now, limits, self._queue.in_flight, waits=retry_after is not None)

    def _wake(self) -> None:
        if not self._queue.in_flight:
            self._rate.nothing_under_way()
        self._queue.dispatch()

    @asynccontextmanager
    async def slot(self, lane: Lane = Lane.READ) -> AsyncGenerator[None]:
        """Hold a slot for the body of an `async with`: for other traffic that shares the limit."""
        granted_at = await self.acquire(lane)
        try:
            yield
        finally:
            self.release(granted_at)

    def statistics(self) -> LimiterStatistics:
        """Return what the limiter is doing now."""
        queue, rate = self._queue, self._rate
        bound = queue.loop is not None
        now = queue.loop.time() if queue.loop is not None else 0.0
        waiting = queue.counts()
        return LimiterStatistics(
            in_flight=queue.in_flight,
            max_in_flight=queue.max_in_flight,
            waiting=waiting,
            granted=queue.granted,
            rate_limited=self._rate_limited,
            paused_for=max(0.0, rate.paused_until - now) if bound else 0.0,
            per_second=rate.rate,
            reason=self._reason(now, waits=any(waiting)) if bound else None,
            ready_in=max(0.0, rate.ready_at - now) if bound else 0.0,
        )

    def _reason(self, now: float, *, waits: bool) -> str | None:
        bound = self._rate.bound_at(now)
        if bound in {"pause", "quota"}:
            return bound
        if not waits:
            return None
        return "slots" if self._queue.in_flight >= self._queue.max_in_flight else bound

    def __repr__(self) -> str:
        now = self.statistics()
        waiting = "/".join(str(count) for count in now.waiting)
        pace = "" if now.per_second is None else f", {now.per_second:.3g}/s"
        reasons = {
            None: "",
            "slots": ", for a slot",
            "pace": f", for the pace: next in {now.ready_in:.2f} s",
            "pause": f", paused for {now.paused_for:.1f} s",
            "quota": f", quota used up for {now.ready_in:.1f} s",
        }
        return (
            f"<RateLimiter {now.in_flight}/{now.max_in_flight} in flight, {waiting} waiting"
            f"{pace}{reasons[now.reason]}>"
        )
