"""How fast requests may follow each other, found out from what the engine answers.

Three things bound the rate, and each of them may be absent:

- what the caller allows: never more than `max_per_second * (window + SLACK) + 1` requests in any window of time;
- what the engine's RateLimit headers say;
- what its 429s show. The engine is taken for a token bucket of unknown rate and size, and this is how they are found:

| phase | begins | the rate |
|---|---|---|
| free | | has no bound |
| searching | with the first 429 | starts at a share of what got through in the last second, and doubles within a second |
| holding | with the next 429 | is what the bucket must have let in, judged by what got through |
| probing | when it has held for a while | rises until the next 429, with which another hold begins |

A rate that has proven itself is held for half a minute. After a fall the holds are short, since what was allowed before
may come back.

All answers of a burst that is refused together count as one 429. A 429 that ends a quota (see `is_quota`) pauses, and
leaves the rate as it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import inf

import attrs

from tensorpool_async.protocol.rate_limits import Limits, is_quota


SLACK = 0.005
"""Seconds that a late timer may be made up for, so that a fast rate is not lost to the granularity of timers."""

WINDOW = 1.0
"""Seconds before the first 429 in which what got through is counted as the burst; and seconds after a pause in which
requests are spaced, where nothing else bounds them."""

START = 5.0
"""Requests per second that a search starts with at least, so that a handful of requests does not crawl."""

SLOWEST = 0.2
"""Requests per second: below this, waiting longer tells nothing new."""

DECREASE = 0.7
"""What the rate falls to, as a share, where a 429 tells nothing but that it was too fast. A rate that is found to be
lower than this share of the one before has fallen: it was not merely measured better."""

SEARCH_GAIN = 1.0
"""Requests per second by which each success raises the rate of a search, which so doubles in 0.7 s, whatever it is."""

PROBE_GAIN = 0.5
"""Requests per second by which each success raises the rate after a hold: half as fast as a search, as the 429 that ends
the rise costs a pause."""

SHORT_HOLD = 2.0
"""Seconds for which a rate is held that has fallen: what was allowed before may come back soon."""

LONG_HOLD = 30.0
"""Seconds for which any other rate is held, as each 429 costs a pause of mostly a second. For as long it is remembered
what the last RateLimit headers said, where answers have none any more; for twice as long, what was allowed before a
fall."""

FEWEST_COUNTED = 8
"""How many requests have to get through, on top of a burst, for a rate to be judged by them."""

MOST_COUNTED = 1024
"""How many of the last requests that got through are looked at: five seconds at 200 requests per second."""


@attrs.frozen
class Burst:
    """What got through before the first 429: the bucket is not larger than that.

    Attributes:
        size: Requests that got through, at least one: no bucket is smaller.
        seconds: The time within which they were sent.
    """

    size: float = 1.0
    seconds: float = 0.0

    @classmethod
    def of(cls, passed: Sequence[float], refused: float) -> Burst:
        """Return what got through shortly before a request was sent that was refused."""
        last = [moment for moment in passed if moment > refused - WINDOW]
        return cls(float(len(last)), max(last) - min(last)) if last else cls()


def sustained_rate(passed: Sequence[float], burst: Burst, empty_at: float = -inf) -> float:
    """Return the rate that a token bucket must have, at least, to have let these requests through.

    What gets through in a time is at most what was in the bucket, and what came in meanwhile. Of all times that end
    with the last request, the one that tells most is taken.

    Args:
        passed: When the requests that got through were sent, in order.
        burst: What is in the bucket at most.
        empty_at: When it was empty, before the first of them.
    """
    if not passed:
        return 0.0
    end = passed[-1]
    rate = len(passed) / (end - empty_at) if end > empty_at else 0.0
    for count in range(int(burst.size) + FEWEST_COUNTED, len(passed)):
        duration = end - passed[-1 - count]
        if duration > burst.seconds:
            # While the burst itself got through, some came in as well: they are no part of the bucket.
            rate = max(rate, (count + 1 - burst.size) / (duration - burst.seconds))
    return rate


@attrs.define(kw_only=True)
class ThrottleEpisode:
    """What led to a 429.

    Attributes:
        before: The rate that was too fast.
        sent_at: When the request was sent that was refused.
        empty_at: When the bucket was met empty the time before.
        passed: When the requests were sent that got through since then.
    """

    before: float = inf
    sent_at: float = -inf
    empty_at: float = -inf
    passed: list[float] = attrs.field(factory=list[float])


@attrs.define
class AdaptiveRate:
    """The rate at which all requests may go. Times are seconds of any monotonic clock.

    Attributes:
        max_per_second: The caller's bound; None for none.
        ready_at: The time from which the next request may go.
        paused_until: The time until which nothing goes; in the past when there is no pause.
        quota: Whether the pause is for a quota that is used up, and not for having been too fast.
    """

    max_per_second: float | None = None
    ready_at: float = attrs.field(init=False, default=-inf)
    paused_until: float = attrs.field(init=False, default=-inf)
    quota: bool = attrs.field(init=False, default=False)
    _caller_next_at: float = attrs.field(init=False, default=-inf)
    # What the RateLimit headers say.
    _header_rate: float = attrs.field(init=False, default=inf)
    _header_rate_until: float = attrs.field(init=False, default=-inf)
    _left: float = attrs.field(init=False, default=inf)
    _left_until: float = attrs.field(init=False, default=-inf)
    # What the 429s show.
    _rate: float = attrs.field(init=False, default=inf)
    _next_at: float = attrs.field(init=False, default=-inf)
    _searching: bool = attrs.field(init=False, default=True)
    _burst: Burst = attrs.field(init=False, factory=Burst)
    _episode: ThrottleEpisode = attrs.field(init=False, factory=ThrottleEpisode)
    _late: list[float] = attrs.field(init=False, factory=list[float])
    _passed: deque[float] = attrs.field(init=False, factory=lambda: deque[float](maxlen=MOST_COUNTED))
    _refused_at: float = attrs.field(init=False, default=-inf)
    _known: float = attrs.field(init=False, default=0.0)
    _hold: float = attrs.field(init=False, default=SHORT_HOLD)
    _hold_until: float = attrs.field(init=False, default=-inf)
    _former: float = attrs.field(init=False, default=0.0)
    _former_until: float = attrs.field(init=False, default=-inf)

    @property
    def rate(self) -> float | None:
        """Requests per second that are allowed now; None where nothing bounds them."""
        rate = min(self._rate, self._header_rate, self.max_per_second or inf)
        return None if rate == inf else rate

    def bound_at(self, now: float) -> str | None:
        """Return what keeps the next request from going now: `pause`, `quota`, `pace`, or None."""
        if self.ready_at <= now:
            return None
        if self.paused_until > now:
            return "quota" if self.quota else "pause"
        return "quota" if self._left < 1.0 else "pace"

    def record_send(self, now: float) -> None:
        """Count a request that goes now."""
        if self.max_per_second is not None:
            self._caller_next_at = max(self._caller_next_at, now - SLACK) + 1.0 / self.max_per_second
            self.ready_at = max(self.ready_at, self._caller_next_at)
        if self._left < inf:
            self._left = inf if now >= self._left_until else self._left - 1.0
        if self._late:
            self._update_rate()
        if now >= self._header_rate_until:
            self._header_rate = inf
        rate = min(self._rate, self._header_rate)
        if rate == inf and now < self.paused_until + WINDOW:
            rate = START
        if rate < inf:
            # A process that was held up may catch up with half of a burst.
            saved_up = max(SLACK, (self._burst.size / 2.0 - 1.0) / rate)
            self._next_at = max(self._next_at, now - saved_up) + 1.0 / rate
        self._update_ready_at()

    def passed(self, sent_at: float, *, waited: bool) -> None:
        """Count a request that was let through; `waited` says whether somebody has to wait for the pace."""
        if sent_at <= self._refused_at:
            self._late.append(sent_at)
            return
        self._passed.append(sent_at)
        if waited and self._rate < inf:
            self._rise(sent_at)

    def throttled(self, now: float, sent_at: float, retry_after: float, limits: Limits | None = None) -> None:
        """Count a request that was sent at `sent_at` and asked to wait `retry_after` seconds.

        Requests of one burst are often refused together; the rate falls once for all of them.
        """
        quota = is_quota(retry_after, limits)
        if not quota and sent_at > self._refused_at:  # some clocks stand still for 15 ms
            if self._late:
                self._update_rate()
            self._episode = ThrottleEpisode(
                before=self._rate,
                sent_at=sent_at,
                empty_at=self._refused_at,
                passed=list(self._passed),
            )
            self._passed.clear()
            self._refused_at = now
            self._update_rate()
            self._choose_hold()
        self._pause(now + retry_after, quota=quota)
        self._hold_until = self.paused_until + self._hold

    def apply_headers(self, now: float, limits: Limits, in_flight: int, *, waits: bool = False) -> None:
        """Keep to what the RateLimit headers of an answer say.

        Args:
            now: The time.
            limits: What the headers say.
            in_flight: Requests that are under way, which the engine may not have counted yet.
            waits: Whether the answer has a Retry-After, which counts for more than what is left.
        """
        self._header_rate = limits.per_second or inf
        self._header_rate_until = now + max(LONG_HOLD, limits.window or 0.0, limits.reset or 0.0)
        self._left = inf
        if limits.remaining is not None and limits.reset is not None and not waits:
            if limits.exhausted:
                self._pause(now + limits.pause, quota=limits.is_quota)
            else:
                self._left, self._left_until = max(0.0, limits.remaining - in_flight), now + limits.pause
        self._update_ready_at()

    def nothing_under_way(self) -> None:
        """Let one request go where the engine has something left: nobody else could bring an answer that says so."""
        if self._left < 1.0:
            self._left = 1.0
            self._update_ready_at()

    def _update_rate(self) -> None:
        """Find the rate that is allowed from what got through, some of which is known only after the 429."""
        episode = self._episode
        episode.passed.extend(self._late)
        episode.passed.sort()
        self._late.clear()
        if episode.before == inf:
            self._burst = Burst.of(episode.passed, episode.sent_at)
            self._rate = max(START, self._burst.size * DECREASE)
            return
        rate = episode.before * DECREASE
        if len(episode.passed) >= FEWEST_COUNTED:
            rate = sustained_rate(episode.passed, self._burst, episode.empty_at)
        self._rate = max(SLOWEST, min(rate, episode.before))

    def _choose_hold(self) -> None:
        """Decide for how long the rate is held that was found after a 429."""
        if self._episode.before == inf:
            return
        self._searching = False
        if self._known > self._former or self._refused_at >= self._former_until:
            self._former, self._former_until = self._known, self._refused_at + 2.0 * LONG_HOLD
        self._known = self._rate
        self._hold = SHORT_HOLD if self._rate < self._former * DECREASE else LONG_HOLD

    def _rise(self, sent_at: float) -> None:
        if self._searching:
            self._rate += SEARCH_GAIN
        elif sent_at >= self._hold_until:
            self._rate += PROBE_GAIN

    def _pause(self, until: float, *, quota: bool) -> None:
        if until >= self.paused_until:
            self.paused_until, self.quota = until, quota
            self._next_at = max(self._next_at, until)  # nothing is saved up in a pause
        self._update_ready_at()

    def _update_ready_at(self) -> None:
        ready_at = max(self._next_at, self._caller_next_at, self.paused_until)
        if self._left < 1.0:
            ready_at = max(ready_at, self._left_until)
        self.ready_at = ready_at
