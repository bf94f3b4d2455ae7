"""The bucket that all processes share: one hash at the server, and one script that is the only one to touch it.

The bucket is a time: that of the next request that may go. Whoever wants to send takes the next few of these times, and
moves the bucket on by as many intervals. So what a process holds are appointments, all in the near future. Processes are
served in the order in which they ask, and one that dies leaves nothing behind but the few appointments that it misses.

All times are those of the server's clock, in microseconds. What is told to a process is a delay from now, so that its
own clock does not matter: it is late by the way of the answer, and never early.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import cast

import attrs
from redis.asyncio import Redis


PREFIX = "tensorpool-async:limit:"
"""What the names of the hashes begin with."""

DECREASE = 0.7
"""What the pace falls to after requests that were refused, once for all of the same burst."""

RISE = 0.05
"""The share of the whole pace by which it rises within a second, outside of pauses."""

SLOWEST = 0.02
"""The share of the whole pace that it never falls below."""

GRACE = 0.1
"""Seconds after the pace was lowered in which further refusals are counted to the same burst: those requests went by
appointments from before, and the way of the news takes time."""

SECONDS_KEPT = 60
"""Seconds after its last appointment for which the server keeps an idle bucket. It is full and at its pace by then."""

SCRIPT = f"""
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, burst, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local pause, refused_age = tonumber(ARGV[4]), tonumber(ARGV[5])
local back_from, back_to = tonumber(ARGV[6]), tonumber(ARGV[7])

local state = redis.call('HMGET', KEYS[1], 'seen', 'next', 'paused_until', 'lowered_at', 'share')
local seen = tonumber(state[1]) or now
-- A clock that was set back would make everybody wait for as long.
local shift = math.min(0, now - seen)
local next = (tonumber(state[2]) or 0) + shift
local paused_until = (tonumber(state[3]) or 0) + shift
local lowered_at = (tonumber(state[4]) or 0) + shift
local share = tonumber(state[5]) or 1

if back_to > 0 and back_to == next then
  next = back_from
end
local calm = math.max(0, now - math.max(seen + shift, paused_until))
share = math.min(1, share + calm * {RISE} / 1000000)
if refused_age >= 0 and now - refused_age > lowered_at + {GRACE * 1_000_000:.0f} then
  share = math.max({SLOWEST}, share * {DECREASE})
  lowered_at = now
end
if pause > 0 then
  paused_until = math.max(paused_until, now + pause)
end

interval = math.floor(interval / share)
local first = math.max(next, paused_until, now - (burst - 1) * interval)
if wanted > 0 then
  next = first + wanted * interval
end
redis.call('HSET', KEYS[1], 'seen', string.format('%.0f', now), 'next', string.format('%.0f', next),
  'paused_until', string.format('%.0f', paused_until), 'lowered_at', string.format('%.0f', lowered_at),
  'share', string.format('%.6f', share))
local busy = math.max(0, next - now, paused_until - now)
redis.call('PEXPIRE', KEYS[1], math.ceil(busy / 1000) + {SECONDS_KEPT * 1000})
return {{first, first - now, interval, math.max(0, paused_until - now), math.floor(share * 1000000)}}
"""

MICRO = 1_000_000


@attrs.frozen(kw_only=True)
class News:
    """What a process tells the others. Times are seconds.

    Attributes:
        pause: How long everybody is to wait from now; 0 where nobody is.
        refused_age: How long ago the request was sent that was refused for the pace; None where none was.
    """

    pause: float = 0.0
    refused_age: float | None = None


@attrs.frozen(kw_only=True)
class Batch:
    """Appointments that one process holds: `count` of them, `interval` apart. Times are seconds.

    Attributes:
        count: How many there are.
        delay: From now to the first; below 0 where it has waited to be taken.
        interval: From each to the next.
        paused_for: How long nobody may send, from now.
        share: The share of the whole pace that holds now.
        first: The first by the server's clock, in microseconds.
    """

    count: int
    delay: float
    interval: float
    paused_for: float
    share: float
    first: int

    def times(self, now: float) -> list[float]:
        """Return the appointments by the clock that shows `now`."""
        return [now + self.delay + index * self.interval for index in range(self.count)]


@attrs.frozen(kw_only=True)
class GivenBack:
    """Appointments that nobody needs any more. The server takes them back if it has given away no later ones.

    Attributes:
        start: The first of them by the server's clock, in microseconds.
        end: The time of the one after the last.
    """

    start: int = 0
    end: int = 0


NOTHING = GivenBack()
NO_NEWS = News()


class Bucket:
    """The shared bucket as one process sees it."""

    def __init__(self, client: Redis, key: str, per_second: float, burst: int) -> None:
        self._script = client.register_script(SCRIPT)
        self._key = PREFIX + key
        self._interval = MICRO / per_second
        self._burst = burst

    async def ask(self, wanted: int, *, news: News = NO_NEWS, given_back: GivenBack = NOTHING) -> Batch:
        """Take `wanted` appointments, tell the others what is new, and hear what they have told.

        Raises:
            redis.RedisError: The server did not answer, or answered with an error.
        """
        refused = -1 if news.refused_age is None else round(news.refused_age * MICRO)
        arguments = (
            repr(self._interval),
            self._burst,
            wanted,
            round(news.pause * MICRO),
            refused,
            given_back.start,
            given_back.end,
        )
        call = cast("Awaitable[list[int]]", self._script(keys=[self._key], args=arguments))
        first, delay, interval, paused_for, share = await call
        return Batch(
            count=wanted,
            delay=delay / MICRO,
            interval=interval / MICRO,
            paused_for=paused_for / MICRO,
            share=share / MICRO,
            first=first,
        )
