"""The bucket that all processes share: one hash at the server, and one script that is the only one to touch it.

The bucket is mostly a time: that of the next free send slot. A process that wants to send reserves the next few slots,
and the script moves that time on by as many intervals. All reserved slots are in the near future. Processes are served
in the order in which they ask, and a process that dies leaves nothing behind but the few slots that it misses.

All times are those of the server's clock, in microseconds. A process is told delays from now, so that its own clock does
not matter: its slots are late by the way of the answer, and never early.

The server may lose the bucket (FLUSHALL, a restart, an eviction), go back to an older one (a replica that lags is
promoted), or hold what somebody else has written there. So each call is counted in `serial`, and each process remembers
what it was told last. A bucket that has no serial, an older one, or a value out of range is rebuilt from what the calling
process remembers, and starts after the slots that other processes may still hold.
"""

from __future__ import annotations

from contextlib import suppress
from hashlib import sha1
from typing import Any

import attrs
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError, ResponseError


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
slots from before, and the feedback takes time to arrive."""

SECONDS_KEPT = 60
"""Seconds after its last slot for which the server keeps an idle bucket. It is full and at its pace by then."""

LONGEST_PAUSE = 120.0
"""Seconds that one call pauses all processes for, at most. A later pause in the bucket is somebody else's garbage."""

NEAR = 10.0
"""Seconds: slots further ahead than this, beyond any pause, are not given away. Who wants one asks again."""

LEAD_DECAY = 0.9
"""The share that is kept, from one answer to the next, of how far ahead slots were reserved: what others hold is not
forgotten as soon as the bucket is lost twice."""

SCRIPT = f"""
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, burst, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local pause, refused_age = tonumber(ARGV[4]), tonumber(ARGV[5])
local back_from, back_to = tonumber(ARGV[6]), tonumber(ARGV[7])
local known_serial, known_lead = tonumber(ARGV[8]), tonumber(ARGV[9])
local known_pause, known_share = tonumber(ARGV[10]), tonumber(ARGV[11])
local longest_pause, near, largest = {LONGEST_PAUSE * 1_000_000:.0f}, {NEAR * 1_000_000:.0f}, 9007199254740992

local stored = redis.pcall('HMGET', KEYS[1], 'serial', 'seen', 'next', 'paused_until', 'lowered_at', 'share')
local damaged = false
if stored.err then
  if not string.find(stored.err, 'WRONGTYPE') then
    return redis.error_reply(stored.err)
  end
  redis.call('DEL', KEYS[1])
  stored, damaged = {{}}, true
end
local fields = 0
for index = 1, 6 do
  if stored[index] then fields = fields + 1 end
end

local function number(index, low, high, shift)
  local value = tonumber(stored[index] or '')
  if value then value = value + shift end
  if not (value and value >= low and value <= high) then  -- which NaN never is
    damaged = true
    return 0
  end
  return value
end

local serial, next, paused_until, lowered_at, share, calm_from = 0, 0, 0, 0, 1, now
if fields > 0 then
  local seen = number(2, 0, largest, 0)
  -- A clock that was set back would make everybody wait for as long.
  local shift = math.min(0, now - seen)
  serial = number(1, 0, largest, 0)
  paused_until = number(4, -largest, now + longest_pause, shift)
  lowered_at = number(5, -largest, now, shift)
  share = number(6, {SLOWEST}, 1, 0)
  next = number(3, -largest, math.max(now, paused_until) + near + (interval + 50000) / {SLOWEST}, shift)
  calm_from = math.max(seen + shift, paused_until)
end
if damaged then
  redis.call('DEL', KEYS[1])
  serial, next, paused_until, lowered_at, share, calm_from = 0, 0, 0, 0, 1, now
end
if serial < known_serial then
  serial, share = known_serial, math.min(share, known_share)
  paused_until = math.max(paused_until, now + math.max(known_lead, known_pause))
elseif back_to > 0 and back_to == next then
  next = back_from
end
serial = math.min(serial + 1, largest)

share = math.min(1, share + math.max(0, now - calm_from) * {RISE} / 1000000)
if refused_age >= 0 and now - refused_age > lowered_at + {GRACE * 1_000_000:.0f} then
  share = math.max({SLOWEST}, share * {DECREASE})
  lowered_at = now
end
if pause > 0 then
  paused_until = math.max(paused_until, now + math.min(pause, longest_pause))
end

interval = math.floor(interval / share)
local first = math.max(next, paused_until, now - (burst - 1) * interval)
local too_far = first - math.max(now, paused_until) - near
local count = wanted
if too_far > 0 then count = 0 end
if count > 0 then
  next = first + count * interval
end
local function whole(value)
  return string.format('%.0f', math.max(0, value))
end
redis.call('HSET', KEYS[1], 'serial', whole(serial), 'seen', whole(now), 'next', whole(next),
  'paused_until', whole(paused_until), 'lowered_at', whole(lowered_at), 'share', string.format('%.6f', share))
local busy = math.max(0, next - now, paused_until - now)
redis.call('PEXPIRE', KEYS[1], math.ceil(busy / 1000) + {SECONDS_KEPT * 1000})
local lead = math.max(0, next - math.max(now, paused_until))
return {{count, first, first - now, interval, math.max(0, paused_until - now), math.floor(share * 1000000),
  serial, lead, math.max(0, too_far), damaged and 1 or 0}}
"""

MICRO = 1_000_000
SHA = sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()


@attrs.frozen(kw_only=True)
class Feedback:
    """What a process reports to the others. Times are seconds.

    Attributes:
        pause: How long everybody is to wait from now; 0 where nobody is.
        refused_age: How long ago the request was sent that was refused for the pace; None where none was.
    """

    pause: float = 0.0
    refused_age: float | None = None


@attrs.frozen(kw_only=True)
class Refill:
    """Send slots that a process has reserved: `count` of them, `interval` apart. Times are seconds.

    Attributes:
        count: How many there are.
        delay: From now to the first; below 0 where it was free already.
        interval: From each to the next.
        paused_for: How long nobody may send, from now.
        fraction: The fraction of the whole pace that is allowed now.
        too_far: How long to wait before asking again; 0 where slots were given.
        damaged: Whether something else had written to the bucket, which was made anew.
        first: The first slot by the server's clock, in microseconds.
    """

    count: int
    delay: float
    interval: float
    paused_for: float
    fraction: float
    too_far: float
    damaged: bool
    first: int

    def times(self, now: float) -> list[float]:
        """Return the slots by the clock that shows `now`."""
        return [now + self.delay + index * self.interval for index in range(self.count)]


@attrs.frozen(kw_only=True)
class ReturnedSlots:
    """Slots that nobody needs any more. The server takes them back if it has given away no later ones.

    Attributes:
        start: The first of them by the server's clock, in microseconds.
        end: The time of the one after the last.
    """

    start: int = 0
    end: int = 0


NOTHING_RETURNED = ReturnedSlots()
NO_FEEDBACK = Feedback()


class Bucket:
    """The shared bucket as one process sees it, and what this process remembers of it."""

    def __init__(self, client: Redis, key: str, per_second: float, burst: int) -> None:
        self._client = client
        self._key = PREFIX + key
        self._interval = MICRO / per_second
        self._burst = burst
        self._serial = 0
        self._lead = 0
        self._fraction = 1.0

    async def refill(
        self,
        wanted: int,
        *,
        feedback: Feedback = NO_FEEDBACK,
        returned: ReturnedSlots = NOTHING_RETURNED,
        paused_for: float = 0.0,
    ) -> Refill:
        """Reserve `wanted` slots, report feedback to the others, and read what they have reported.

        Args:
            wanted: How many slots to reserve.
            feedback: What is new.
            returned: Slots that nobody needs any more.
            paused_for: Seconds of the pause that this process knows of, for a server that has lost it.

        Raises:
            redis.RedisError: The server did not answer, or answered with an error, twice.
        """
        refused = -1 if feedback.refused_age is None else round(feedback.refused_age * MICRO)
        arguments = [
            *(repr(self._interval), self._burst, wanted),
            *(round(feedback.pause * MICRO), refused),
            *(returned.start, returned.end),
            *(self._serial, self._lead, round(min(paused_for, LONGEST_PAUSE) * MICRO), self._fraction),
        ]
        try:
            answer = await self._run(arguments)
        except RedisError:
            # After a failover an old connection leads to what is a replica now: only a new one may find the primary.
            await self.drop_connections()
            try:
                answer = await self._run(arguments)
            except RedisError:
                await self.drop_connections()
                raise
        return self._read(wanted, answer)

    async def drop_connections(self) -> None:
        """Close the idle connections of the client, so that the next call makes a new one."""
        with suppress(RedisError, OSError):
            if self._client.connection is not None:
                await self._client.connection.disconnect()
            await self._client.connection_pool.disconnect(inuse_connections=False)

    async def _run(self, arguments: list[Any]) -> Any:
        try:
            return await self._client.evalsha(SHA, 1, self._key, *arguments)
        except NoScriptError:
            return await self._client.eval(SCRIPT, 1, self._key, *arguments)

    def _read(self, wanted: int, answer: Any) -> Refill:
        try:
            count, first, delay, interval, paused_for, fraction, serial, lead, too_far, damaged = map(
                int, answer
            )
        except (TypeError, ValueError) as error:
            raise ResponseError("its answer is not that of the limiter's script") from error
        self._serial, self._fraction = serial, fraction / MICRO
        self._lead = max(lead, int(self._lead * LEAD_DECAY))
        return Refill(
            count=min(count, wanted),
            delay=delay / MICRO,
            interval=interval / MICRO,
            paused_for=paused_for / MICRO,
            fraction=fraction / MICRO,
            too_far=too_far / MICRO,
            damaged=bool(damaged),
            first=first,
        )
