"""The limiter of one process, in front of the bucket that all of them share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from math import inf
from types import TracebackType
from typing import Self

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from tensorpool_async.errors import LimiterUnavailable, WrongEventLoopError
from tensorpool_async.flow.limiter import LimiterStatistics
from tensorpool_async.flow.waiters import WaiterQueue
from tensorpool_async.protocol.rate_limits import Limits, is_quota
from tensorpool_async.protocol.requests import Lane
from tensorpool_async.redis.bucket import (
    NEAR,
    NO_FEEDBACK,
    NOTHING_RETURNED,
    Bucket,
    Feedback,
    Refill,
    ReturnedSlots,
)
from tensorpool_async.redis.failures import reason_of, unavailable
from tensorpool_async.redis.reservations import SLACK, Reservations
from tensorpool_async.texts import logger_of


BATCH_SECONDS = 0.05
"""How much of the pace one process reserves at a time, in seconds: few enough that a pause or a change need not wait for
it, and enough that a fast pace does not cost one call for each request."""

SECONDS_TO_PROBE = 1.0
"""Seconds between two calls to a server that is gone, or that has no slot to give."""

LONG_WAIT = 5.0
"""Seconds: a longer wait is logged."""

logger: logging.Logger = logger_of("tensorpool_async")


class RedisRateLimiter:
    """Decides when each HTTP attempt may go, for all processes that use the same `key` of one Redis or Valkey server.

    ::

        async with (
            RedisRateLimiter("redis://localhost", key="training", max_per_second=100) as limiter,
            TensorPool(limiter=limiter) as tp,
        ):
            ...

    It keeps the promises of `RateLimiter`, for all processes together where that makes a difference:

    - At most `max_per_second` attempts per second in all processes, evenly spaced, by the server's clock.
    - When one request of any process is told to wait, all wait, and then go one after the other, more slowly; the pace
      rises again by itself. What a process has taken just before, at most 0.05 seconds' worth, it may still use.
    - At most `max_in_flight` attempts at a time in this process. A slot is never held over a sleep.
    - Changes go before reads, and reads before polls, and none starves; within a lane: first come, first served.
      Between processes, those that ask first go first, so that a process with one request is not behind all of another.
    - Whoever is cancelled holds nothing and has taken nobody's turn. A process that is killed misses its few turns, and
      holds nothing up.

    Without the server nothing hangs. Where it does not answer within `timeout`, or cannot be used for another reason,
    `acquire` raises `LimiterUnavailable`, so that the client tries again, as often as its retry policy says, each time
    on a new connection. With `fail_open`, this process goes on at a share of the pace by itself until the server is
    back. What a server has lost, in a restart or otherwise, is restored from what the processes remember. A wait of
    more than 5 seconds is logged once, as a warning.

    A limiter belongs to the event loop of its first use, and does not outlive it. Close it after the clients.
    """

    def __init__(
        self,
        redis: Redis | str,
        *,
        key: str,
        max_per_second: float,
        burst: int = 1,
        max_in_flight: int = 32,
        fail_open: bool = False,
        fail_open_share: float = 0.25,
        timeout: float = 1.0,
    ) -> None:
        """Make a limiter; nothing is opened before its first use.

        Args:
            redis: The server's URL, or a client, which is not closed.
            key: A name for the limit, the same in all processes. It is stored at the server as it is, so it must not be
                the API key: one that says whose limit it is, such as the organization's name.
            max_per_second: HTTP attempts per second, of all processes together. The same in all of them.
            burst: Attempts that may go at once after a quiet time.
            max_in_flight: HTTP attempts of this process at a time.
            fail_open: Whether to go on without the server.
            fail_open_share: The share of `max_per_second` that this process takes while the server is gone: 1 divided by
                the number of processes keeps the limit.
            timeout: Seconds to wait for the server.

        Raises:
            ValueError: A number is out of range, or the URL is none.
        """
        _check(max_in_flight >= 1, f"max_in_flight is {max_in_flight}, and must be at least 1")
        _check(0 < max_per_second < float("inf"), f"max_per_second is {max_per_second}, and must be above 0")
        _check(burst >= 1, f"burst is {burst}, and must be at least 1")
        _check(
            0 < fail_open_share <= 1,
            f"fail_open_share is {fail_open_share}, and must be above 0, and at most 1",
        )
        _check(timeout > 0, f"timeout is {timeout}, and must be above 0 seconds")
        _check(bool(key), "key is empty, and must be a name that all processes share")
        self._own_client = isinstance(redis, str)
        self._client = _connect(redis, timeout) if isinstance(redis, str) else redis
        self._bucket = Bucket(self._client, key, max_per_second, burst)
        self._key = key
        self._reservations = Reservations(max_per_second, max(SLACK, (burst - 1) / max_per_second))
        self._queue = WaiterQueue(max_in_flight, self._reservations, self._wake)
        self._batch = max(1, round(max_per_second * BATCH_SECONDS))
        self._fail_open_share = fail_open_share if fail_open else None
        self._timeout = timeout

        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._rate_limited = 0
        self._refused_at: float | None = (
            None  # when a request was sent whose refusal the server does not know of
        )
        self._has_feedback = False
        self._refill: asyncio.Task[None] | None = None
        self._refill_at = 0.0  # before, the server has no slot that is near enough
        self._probe_at = 0.0  # before, a server that is gone is not asked without need
        self._wait_until = 0.0
        self._refill_timer: asyncio.TimerHandle | None = None
        self._warned: set[str] = set()  # what goes on and has been logged

    @property
    def max_in_flight(self) -> int:
        """HTTP attempts of this process that may be under way at a time."""
        return self._queue.max_in_flight

    async def acquire(self, lane: Lane = Lane.READ) -> float:
        """Wait for a slot and for the pace; return the time of the grant, which `release` takes back.

        Whoever is cancelled here holds nothing and has taken nobody's turn.

        Raises:
            LimiterUnavailable: The server that shares the limit cannot be used, or the limiter is closed. Nothing was
                sent.
            WrongEventLoopError: The limiter belongs to another event loop.
        """
        self._bind()
        if self._closed:
            raise LimiterUnavailable("the limiter is closed", permanent=True)
        return await self._queue.acquire(lane)

    def release(
        self,
        granted_at: float,
        *,
        retry_after: float | None = None,
        ok: bool = False,  # noqa: ARG002 - the shared pace rises with time, so it needs no count of successes
        limits: Limits | None = None,
    ) -> None:
        """Give a slot back, and say how it went.

        Args:
            granted_at: What `acquire` returned.
            retry_after: Seconds that the engine asked everybody to wait, where it did.
            ok: Whether the engine let the request through.
            limits: What its RateLimit headers say. Where nothing is left, all processes wait for the reset.
        """
        self._queue.release()
        if self._loop is None:
            return
        now = self._loop.time()
        if retry_after is not None:
            self._rate_limited += 1
            if not is_quota(retry_after, limits):
                self._refused_at = max(granted_at, self._refused_at or granted_at)
            self._pause(now + retry_after)
        if limits is not None and limits.exhausted and limits.reset:
            self._pause(now + limits.pause)
        self._wake()

    @asynccontextmanager
    async def slot(self, lane: Lane = Lane.READ) -> AsyncGenerator[None]:
        """Hold a slot for the body of an `async with`: for other traffic that shares the limit."""
        granted_at = await self.acquire(lane)
        try:
            yield
        finally:
            self.release(granted_at)

    def statistics(self) -> LimiterStatistics:
        """Return what the limiter of this process is doing now; the pace is that of all processes."""
        now = self._loop.time() if self._loop is not None else 0.0
        queue, reservations = self._queue, self._reservations
        return LimiterStatistics(
            in_flight=queue.in_flight,
            max_in_flight=queue.max_in_flight,
            waiting=queue.counts(),
            granted=queue.granted,
            rate_limited=self._rate_limited,
            paused_for=max(0.0, reservations.paused_until - now),
            per_second=reservations.max_per_second * reservations.fraction,
        )

    async def aclose(self) -> None:
        """Close the connection to the server, if it is the limiter's own. Whoever still waits is told so."""
        self._closed = True
        self._queue.fail_all(lambda: LimiterUnavailable("the limiter was closed", permanent=True))
        if self._refill_timer is not None:
            self._refill_timer.cancel()
        refill = self._refill
        try:
            if refill is not None:
                refill.cancel()
                await asyncio.wait({refill})
        finally:
            if self._own_client:
                await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        now = self.statistics()
        waiting = "/".join(str(count) for count in now.waiting)
        pause = f", paused for {now.paused_for:.1f} s" if now.paused_for else ""
        degraded = ", without its server" if self._reservations.alone else ""
        return (
            f"<RedisRateLimiter {self._key!r}: {now.in_flight}/{now.max_in_flight} in flight, "
            f"{waiting} waiting, {now.per_second:.3g}/s{pause}{degraded}>"
        )

    def _bind(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None:
                raise WrongEventLoopError(
                    "a limiter belongs to the event loop of its first use; make one for each loop"
                )
            self._loop = loop
        return loop

    def _pause(self, until: float) -> None:
        self._has_feedback = True
        self._reservations.pause(until)

    def _wake(self) -> None:
        """Let go whoever may go now, and reserve the slots that are missing."""
        loop = self._loop
        if loop is None or self._closed:
            return
        self._queue.dispatch()
        self._refill_if_needed(loop)
        self._warn_of_a_long_wait(loop.time())

    def _refill_if_needed(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._refill is not None:
            return
        waiting = sum(self._queue.counts())
        if not waiting and self._reservations:
            self._refill = loop.create_task(self._ask(0, self._reservations.return_all()))
            return
        now, wanted = loop.time(), self._wanted(waiting)
        probe, near = now >= self._probe_at, now >= self._refill_at
        if (wanted and near and (probe or not self._reservations.alone)) or (self._has_feedback and probe):
            self._refill = loop.create_task(self._ask(wanted, NOTHING_RETURNED))
        elif wanted and not near and self._refill_timer is None:
            self._refill_timer = loop.call_at(self._refill_at, self._refill_is_due)

    def _refill_is_due(self) -> None:
        self._refill_timer = None
        self._wake()

    def _wanted(self, waiting: int) -> int:
        """Return how many slots to reserve: only as many as can be used."""
        held = len(self._reservations)
        if held > self._batch // 2:
            return 0
        return max(0, min(self._batch, waiting, self._queue.max_in_flight - self._queue.in_flight) - held)

    async def _ask(self, wanted: int, returned: ReturnedSlots) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        feedback, paused_for = self._take_feedback(now), max(0.0, self._reservations.paused_until - now)
        try:
            async with asyncio.timeout(self._timeout):
                refill = await self._bucket.refill(
                    wanted, feedback=feedback, returned=returned, paused_for=paused_for
                )
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait for the answer must hear of it
            self._has_feedback = self._has_feedback or feedback is not NO_FEEDBACK
            self._lost(loop.time(), error)
        else:
            self._received(loop.time(), refill)
        finally:
            self._refill = None
        self._wake()

    def _take_feedback(self, now: float) -> Feedback:
        """Return what the others do not know of, which counts as reported from now on."""
        if not self._has_feedback:
            return NO_FEEDBACK
        refused_at, self._refused_at = self._refused_at, None
        self._has_feedback = False
        refused_age = None if refused_at is None else max(0.0, now - refused_at)
        return Feedback(pause=max(0.0, self._reservations.paused_until - now), refused_age=refused_age)

    def _received(self, now: float, refill: Refill) -> None:
        if self._reservations.alone:
            logger.info("the server that shares the rate limit is back")
        self._reservations.add(refill, now)
        self._refill_at = now + min(refill.too_far, SECONDS_TO_PROBE)
        self._wait_until = now + max(refill.paused_for, refill.too_far and refill.too_far + NEAR)
        if refill.damaged:
            self._warn(
                "damaged", "the shared limit %r was overwritten by something else; it starts anew", self._key
            )
        else:
            self._warned.discard("damaged")
            if refill.count and refill.delay <= LONG_WAIT:
                self._warned.discard("wait")

    def _lost(self, now: float, error: Exception) -> None:
        self._probe_at = now + SECONDS_TO_PROBE
        if self._fail_open_share is None:
            self._queue.fail_all(lambda: unavailable(error, self._timeout))
            return
        if not self._reservations.alone:
            self._reservations.go_alone(self._fail_open_share)
            logger.warning(
                "the server that shares the rate limit cannot be used (%s); this process goes on by itself, at %.3g "
                "requests per second",
                reason_of(error, self._timeout),
                self._reservations.max_per_second * self._fail_open_share,
            )

    def _warn_of_a_long_wait(self, now: float) -> None:
        ready_at = self._reservations.ready_at
        seconds = (self._wait_until if ready_at == inf else ready_at) - now
        if seconds > LONG_WAIT and any(self._queue.counts()):
            why = (
                "a pause"
                if self._reservations.paused_until - now > LONG_WAIT
                else "slots that others have reserved"
            )
            self._warn("wait", "requests wait %.1f s for the shared limit %r: %s", seconds, self._key, why)

    def _warn(self, what: str, message: str, *arguments: object) -> None:
        """Log what goes on once, until it is over."""
        if what not in self._warned:
            self._warned.add(what)
            logger.warning(message, *arguments)


def _check(condition: bool, message: str) -> None:  # noqa: FBT001 - a condition
    if not condition:
        raise ValueError(message)


def _connect(url: str, timeout: float) -> Redis:
    retry = Retry(NoBackoff(), 0)  # the bucket tries again itself, on a new connection
    return Redis.from_url(  # pyright: ignore[reportUnknownMemberType] - redis-py does not type its keywords
        url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=retry
    )
