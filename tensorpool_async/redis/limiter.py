"""The limiter of one process, in front of the bucket that all of them share."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError

from tensorpool_async.errors import ConnectionFailed, WrongEventLoopError
from tensorpool_async.flow.limiter import LimiterStatistics
from tensorpool_async.protocol.lanes import LaneOrder
from tensorpool_async.protocol.rate_limits import Limits, is_quota
from tensorpool_async.protocol.requests import Lane
from tensorpool_async.redis.bucket import NO_NEWS, NOTHING, Batch, Bucket, GivenBack, News


BATCH_SECONDS = 0.05
"""How much of the pace one process takes at a time, in seconds: few enough that a pause or a change need not wait for
it, and enough that a fast pace does not cost one question for each request."""

SLACK = 0.005
"""Seconds that a late timer may be made up for. A process that was held up longer does not catch up in one burst."""

SECONDS_TO_PROBE = 1.0
"""Seconds between two questions to a server that is gone."""

logger: logging.Logger = logging.getLogger("tensorpool_async")


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

    Without the server nothing hangs. Where it does not answer within `timeout`, `acquire` raises `ConnectionFailed` with
    `sent=False`, so that the client tries again, as often as its retry policy says. With `fail_open`, this process goes
    on at a share of the pace by itself until the server is back. A server that was restarted or has lost everything
    starts anew.

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
        self._max_per_second = max_per_second
        self._slack = max(SLACK, (burst - 1) / max_per_second)
        self._batch = max(1, round(max_per_second * BATCH_SECONDS))
        self._max_in_flight = max_in_flight
        self._fail_open = fail_open
        self._fail_open_share = fail_open_share
        self._timeout = timeout

        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._queues: tuple[deque[asyncio.Future[float]], ...] = (deque(), deque(), deque())
        self._order = LaneOrder()
        self._in_flight = 0
        self._granted = 0
        self._rate_limited = 0
        self._timer: asyncio.TimerHandle | None = None

        self._appointments: deque[float] = deque()
        self._last: Batch | None = None  # what the newest appointments belong to
        self._next_at = 0.0  # this process's own spacing, on top of the appointments
        self._share = 1.0
        self._paused_until = 0.0
        self._refused_at: float | None = (
            None  # when a request was sent whose refusal the server has not heard of
        )
        self._tell = False
        self._question: asyncio.Task[None] | None = None
        self._gone = False
        self._probe_at = 0.0

    @property
    def max_in_flight(self) -> int:
        """HTTP attempts of this process that may be under way at a time."""
        return self._max_in_flight

    async def acquire(self, lane: Lane = Lane.READ) -> float:
        """Wait for a slot and for the pace; return the time of the grant, which `release` takes back.

        Whoever is cancelled here holds nothing and has taken nobody's turn.

        Raises:
            ConnectionFailed: The server that shares the limit cannot be used, or the limiter is closed. Nothing was sent.
            WrongEventLoopError: The limiter belongs to another event loop.
        """
        loop = self._bind()
        if self._closed:
            raise ConnectionFailed("the limiter is closed", sent=False, permanent=True)
        turn: asyncio.Future[float] = loop.create_future()
        self._queues[lane].append(turn)
        self._wake()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.cancelled() or turn.exception() is not None:
                self._wake()  # what was taken for this waiter alone is given back
            else:
                self.release(turn.result())  # the grant came in the same moment, and is passed on
            raise

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
        self._in_flight -= 1
        if self._loop is None:
            return
        if retry_after is not None:
            self._rate_limited += 1
            if not is_quota(retry_after, limits):
                self._refused_at = max(granted_at, self._refused_at or granted_at)
            self._pause(retry_after)
        if limits is not None and limits.exhausted and limits.reset:
            self._pause(limits.reset)
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
        waiting = [sum(1 for turn in queue if not turn.done()) for queue in self._queues]
        share = self._fail_open_share if self._gone else self._share
        return LimiterStatistics(
            in_flight=self._in_flight,
            max_in_flight=self._max_in_flight,
            waiting=(waiting[Lane.CHANGE], waiting[Lane.READ], waiting[Lane.POLL]),
            granted=self._granted,
            rate_limited=self._rate_limited,
            paused_for=max(0.0, self._paused_until - now),
            per_second=self._max_per_second * share,
        )

    async def aclose(self) -> None:
        """Close the connection to the server, if it is the limiter's own. Whoever still waits is told so."""
        self._closed = True
        self._stop_timer()
        self._refuse_all("the limiter was closed", permanent=True)
        question = self._question
        try:
            if question is not None:
                question.cancel()
                await asyncio.wait({question})
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
        gone = ", without its server" if self._gone else ""
        return (
            f"<RedisRateLimiter {self._key!r}: {now.in_flight}/{now.max_in_flight} in flight, "
            f"{waiting} waiting, {now.per_second:.3g}/s{pause}{gone}>"
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

    def _pause(self, seconds: float) -> None:
        if self._loop is not None:
            until = self._loop.time() + seconds
            self._tell = True
            if until > self._paused_until:
                self._paused_until = until
                self._appointments.clear()  # they are within the pause, and must not pile up at its end

    def _wake(self) -> None:
        """Let go whoever may go now, set the timer for the next one, and ask the server for what is missing."""
        self._stop_timer()
        loop = self._loop
        if loop is None or self._closed:
            return
        now = loop.time()
        while self._forget_cancelled() and self._in_flight < self._max_in_flight:
            ready_at = self._ready_at()
            if ready_at is None:
                break
            if ready_at > now:
                self._timer = loop.call_at(ready_at, self._wake)
                break
            self._grant(now)
        self._ask_if_needed(loop)

    def _forget_cancelled(self) -> bool:
        """Drop the cancelled ones from the heads of the queues; return whether anybody waits."""
        for queue in self._queues:
            while queue and queue[0].done():
                queue.popleft()
        return any(self._queues)

    def _ready_at(self) -> float | None:
        """Return when the next one may go; None where the server has to be asked."""
        if self._gone:
            return max(self._next_at, self._paused_until)
        if self._appointments:
            return max(self._appointments[0], self._next_at, self._paused_until)
        return None

    def _grant(self, now: float) -> None:
        lane = self._order.next_lane([bool(queue) for queue in self._queues])
        if lane is None:
            return
        if self._appointments:
            self._appointments.popleft()
        share = self._fail_open_share if self._gone else self._share
        slack = SLACK if self._gone else self._slack
        self._next_at = max(self._next_at, now - slack) + 1.0 / (self._max_per_second * share)
        self._in_flight += 1
        self._granted += 1
        self._queues[lane].popleft().set_result(now)

    def _ask_if_needed(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._question is not None:
            return
        waiting = sum(len(queue) for queue in self._queues)
        if not waiting and self._appointments:
            self._question = loop.create_task(self._ask(0, self._leave()))
            return
        probe = loop.time() >= self._probe_at
        wanted = self._wanted(waiting)
        if (wanted and (probe or not self._gone)) or (self._tell and probe):
            self._question = loop.create_task(self._ask(wanted, NOTHING))

    def _wanted(self, waiting: int) -> int:
        """Return how many appointments to ask for: only as many as can be kept."""
        held = len(self._appointments)
        if held > self._batch // 2:
            return 0
        return max(0, min(self._batch, waiting, self._max_in_flight - self._in_flight) - held)

    def _leave(self) -> GivenBack:
        """Forget the appointments that nobody needs, and return what the server may have back."""
        count, last = len(self._appointments), self._last
        self._appointments.clear()
        if last is None:
            return NOTHING
        interval = round(last.interval * 1e6)
        end = last.first + last.count * interval
        return GivenBack(start=end - min(count, last.count) * interval, end=end)

    async def _ask(self, wanted: int, given_back: GivenBack) -> None:
        loop = asyncio.get_running_loop()
        news = self._news(loop.time())
        try:
            async with asyncio.timeout(self._timeout):
                batch = await self._bucket.ask(wanted, news=news, given_back=given_back)
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait for the answer must hear of it
            self._tell = self._tell or news is not NO_NEWS
            self._lost(loop.time(), error)
        else:
            self._heard(loop.time(), batch)
        finally:
            self._question = None
        self._wake()

    def _news(self, now: float) -> News:
        """Return what the others have not heard of, which counts as told from now on."""
        if not self._tell:
            return NO_NEWS
        refused_at, self._refused_at = self._refused_at, None
        self._tell = False
        refused_age = None if refused_at is None else max(0.0, now - refused_at)
        return News(pause=max(0.0, self._paused_until - now), refused_age=refused_age)

    def _heard(self, now: float, batch: Batch) -> None:
        if self._gone:
            logger.info("the server that shares the rate limit is back")
        self._gone = False
        self._share = batch.share
        if batch.paused_for and now + batch.paused_for > self._paused_until:
            self._paused_until = now + batch.paused_for
            self._appointments.clear()
        if batch.count and now + batch.delay >= self._paused_until - batch.interval:
            self._last = batch
            self._appointments.extend(batch.times(now))

    def _lost(self, now: float, error: Exception) -> None:
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        text = f"the server that shares the rate limit cannot be used ({reason})"
        self._probe_at = now + SECONDS_TO_PROBE
        if not self._fail_open:
            self._refuse_all(text, permanent=isinstance(error, AuthenticationError | NoPermissionError))
            return
        if not self._gone:
            self._gone = True
            self._appointments.clear()
            pace = self._max_per_second * self._fail_open_share
            logger.warning("%s; this process goes on by itself, at %.3g requests per second", text, pace)

    def _refuse_all(self, text: str, *, permanent: bool) -> None:
        for queue in self._queues:
            while queue:
                turn = queue.popleft()
                if not turn.done():
                    turn.set_exception(ConnectionFailed(text, sent=False, permanent=permanent))

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _check(holds: bool, message: str) -> None:  # noqa: FBT001 - a condition
    if not holds:
        raise ValueError(message)


def _connect(url: str, timeout: float) -> Redis:
    # One new attempt at once: the first question after a restart of the server meets a connection that is gone.
    retry = Retry(NoBackoff(), 1)
    return Redis.from_url(  # pyright: ignore[reportUnknownMemberType] - redis-py does not type its keywords
        url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=retry
    )
