"""How fast requests may follow each other, found out from what the engine answers.

Three things bound the pace, and each of them may be absent:

- what the caller allows: never more than `max_per_second * (window + SLACK) + 1` requests in any window of time;
- what the engine's RateLimit headers say;
- what its 429s tell. The engine is taken for a token bucket of unknown rate and size, and this is how they are found:

| phase | begins | the pace |
|---|---|---|
| free | | has no bound |
| searching | with the first 429 | starts at what got through in the last second, and doubles about every half second |
| holding | with the next 429 | is a little below the rate that the bucket must have, judged by what got through |
| probing | when it has held for some time | rises, slowly at first; the next 429 begins another hold, twice as long |

A 429 costs a pause of mostly a second, so a rate that has proven itself is held up to half a minute. A rate that has
fallen is different: what was allowed before may come back, so after a fall the holds are short, and the rise is quick.

All answers of a burst that is refused together count as one 429. A 429 that ends a quota (see `is_quota`) pauses, and
leaves the pace as it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import inf

import attrs

from tensorpool_async.protocol.rate_limits import Limits, is_quota


SLACK = 0.005
"""Seconds that a late timer may be made up for, so that a fast pace is not lost to the granularity of timers."""

WINDOW = 1.0
"""Seconds over which it is measured what got through before the first 429."""

START = 5.0
"""Requests per second that a search starts with at least: a handful of requests must not crawl."""

SLOWEST = 0.2
"""Requests per second: below this, waiting longer tells nothing new."""

DECREASE = 0.7
"""What the pace falls to, as a share, where a 429 tells nothing but that it was too fast."""

DOUBT = 0.9
"""What the pace falls to, as a share and at most, where a 429 comes while it is held: it was too fast after all."""

MARGIN = 0.985
"""The share of the rate found that is held, since a bucket whose whole rate is used never fills up again."""

SEARCH_GAIN = 1.4
"""By how much each success raises the pace of a search: it doubles in half a second, whatever it is."""

PROBE_GAIN = (0.1, 0.12, 0.5)
"""By how much each success raises the pace of a probe: at first, more with each second, and at least after a fall."""

FIRST_HOLD, SHORTEST_HOLD, HOLD_AFTER_FALL, LONGEST_HOLD = 15.0, 2.0, 5.0, 30.0
"""Seconds: a rate that a search found; one that is in doubt; the longest while a fall is remembered; the longest."""

FIRST_CREEP, CREEP = 0.08, 0.03
"""The share by which the pace rises within a hold: what a short search has found is a little too low."""

FALL = 0.8
"""A rate that falls below this share has fallen: it was not merely measured better."""

REMEMBERED = 120.0
"""Seconds for which it is remembered what was allowed before a fall."""

RESTART, RESTART_FOR = 20.0, 1.0
"""Requests per second, and seconds: how everybody starts again after a pause where nothing else bounds the pace."""

WORD_HOLDS = 60.0
"""Seconds for which an engine is taken at its word, at least, where its answers have no headers any more."""

MOST_COUNTED = 1024
"""How many of the last requests that got through are looked at."""

FEWEST_COUNTED = 8
"""Requests that have to get through, on top of a burst, for a rate to be judged by them."""


@attrs.frozen
class Burst:
    """What got through before the first 429: the bucket is not larger than that.

    Attributes:
        size: Requests that got through.
        seconds: The time within which they were sent.
    """

    size: float = 0.0
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
    fewest = int(burst.size) + FEWEST_COUNTED
    for count in range(fewest, len(passed)):
        duration = end - passed[-1 - count]
        if duration > 4.0 * burst.seconds:
            # While the burst itself got through, some came in as well: they are no part of the bucket.
            rate = max(rate, (count - burst.size) / (duration - burst.seconds))
    return rate


@attrs.define(kw_only=True)
class Episode:
    """What led to a 429.

    Attributes:
        before: The pace that was too fast.
        searching: Whether no rate had been found before.
        doubted: Whether it came while a rate was held.
        sent_at: When the request was sent that was refused.
        empty_at: When the bucket was met empty the time before.
        passed: When the requests were sent that got through since then.
    """

    before: float = inf
    searching: bool = True
    doubted: bool = False
    sent_at: float = -inf
    empty_at: float = -inf
    passed: list[float] = attrs.field(factory=list[float])


@attrs.define
class Pace:
    """The shared pace of all requests. Times are seconds of any monotonic clock.

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
    # What the engine says in words.
    _told: float = attrs.field(init=False, default=inf)
    _told_until: float = attrs.field(init=False, default=-inf)
    _left: float = attrs.field(init=False, default=inf)
    _left_until: float = attrs.field(init=False, default=-inf)
    # What is found out.
    _rate: float = attrs.field(init=False, default=inf)
    _next_at: float = attrs.field(init=False, default=-inf)
    _searching: bool = attrs.field(init=False, default=True)
    _burst: Burst = attrs.field(init=False, factory=Burst)
    _episode: Episode = attrs.field(init=False, factory=Episode)
    _late: list[float] = attrs.field(init=False, factory=list[float])
    _passed: deque[float] = attrs.field(init=False, factory=lambda: deque[float](maxlen=MOST_COUNTED))
    _refused_at: float = attrs.field(init=False, default=-inf)
    _known: float = attrs.field(init=False, default=inf)
    _held: float = attrs.field(init=False, default=inf)
    _hold: float = attrs.field(init=False, default=SHORTEST_HOLD)
    _creep: float = attrs.field(init=False, default=0.0)
    _hold_until: float = attrs.field(init=False, default=-inf)
    _former: float = attrs.field(init=False, default=0.0)
    _former_until: float = attrs.field(init=False, default=-inf)

    @property
    def rate(self) -> float | None:
        """Requests per second that are allowed now; None where nothing bounds them."""
        rate = min(self._rate, self._told, self.max_per_second or inf)
        return None if rate == inf else rate

    def bound_at(self, now: float) -> str | None:
        """Return what keeps the next request from going now: `pause`, `quota`, `pace`, or None."""
        if self.ready_at <= now:
            return None
        if self.paused_until > now:
            return "quota" if self.quota else "pause"
        return "quota" if self._left < 1.0 else "pace"

    def take(self, now: float) -> None:
        """Count a request that goes now."""
        if self.max_per_second is not None:
            self._caller_next_at = max(self._caller_next_at, now - SLACK) + 1.0 / self.max_per_second
            self.ready_at = max(self.ready_at, self._caller_next_at)
        if self._left < inf:
            self._left = inf if now >= self._left_until else self._left - 1.0
        if self._late:
            self._judge()
        if now >= self._told_until:
            self._told = inf
        rate, saved_up = min(self._rate, self._told), SLACK
        if rate < inf:
            saved_up += max(0.0, self._burst.size / 2.0 - 1.0) / rate
        elif now < self.paused_until + RESTART_FOR:
            rate = RESTART
        if rate < inf:
            self._next_at = max(self._next_at, now - saved_up) + 1.0 / rate
        self._look_again()

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

        Requests of one burst are often refused together; the pace falls once for all of them.
        """
        quota = is_quota(retry_after, limits)
        if not quota and sent_at > self._refused_at:  # some clocks stand still for 15 ms
            if self._late:
                self._judge()
            self._episode = Episode(
                before=self._rate,
                searching=self._searching,
                doubted=not self._searching and sent_at < self._hold_until,
                sent_at=sent_at,
                empty_at=self._refused_at,
                passed=list(self._passed),
            )
            self._passed.clear()
            self._refused_at = now
            self._judge()
            self._choose_hold(self._episode)
        self._pause(now + retry_after, quota=quota)
        self._hold_until = self.paused_until + self._hold

    def told(self, now: float, limits: Limits, in_flight: int, *, waits: bool = False) -> None:
        """Take an engine at its word.

        Args:
            now: The time.
            limits: What it says.
            in_flight: Requests that are under way, of which it may not know yet.
            waits: Whether its answer has said how long to wait, which counts for more.
        """
        self._told = limits.per_second or inf
        self._told_until = now + max(WORD_HOLDS, limits.window or 0.0, limits.reset or 0.0)
        self._left = inf
        if limits.remaining is not None and limits.reset is not None and not waits:
            if limits.exhausted:
                self._pause(now + limits.reset, quota=limits.is_quota)
            else:
                self._left, self._left_until = max(0.0, limits.remaining - in_flight), now + limits.reset
        self._look_again()

    def nothing_under_way(self) -> None:
        """Let one request go where the engine has something left: nobody else could bring an answer that says so."""
        if self._left < 1.0:
            self._left = 1.0
            self._look_again()

    def _judge(self) -> None:
        """Find the rate that is allowed from what got through, some of which is known only after the 429."""
        episode = self._episode
        episode.passed.extend(self._late)
        episode.passed.sort()
        self._late.clear()
        before = episode.before
        if before == inf:
            self._burst = Burst.of(episode.passed, episode.sent_at)
            self._rate = max(START, self._burst.size * DECREASE)
            return
        rate = before * DECREASE
        if len(episode.passed) >= FEWEST_COUNTED:
            rate = sustained_rate(episode.passed, self._burst, episode.empty_at) * MARGIN
        self._rate = max(SLOWEST, before / 10.0, min(rate, before * (DOUBT if episode.doubted else 1.0)))
        self._held = self._rate

    def _choose_hold(self, episode: Episode) -> None:
        """Decide for how long the rate is held that was found after a 429."""
        if episode.before == inf:
            return
        self._searching, known = False, self._held
        if episode.searching:
            self._hold = FIRST_HOLD if len(episode.passed) >= FEWEST_COUNTED else SHORTEST_HOLD
            self._creep = FIRST_CREEP
        elif self._rate < self._known * FALL:
            if not self._was_faster(episode.sent_at):
                self._former, self._former_until = self._known, episode.sent_at + REMEMBERED
            self._hold = SHORTEST_HOLD
        else:
            self._hold = min(self._hold * 2.0, LONGEST_HOLD)
            self._creep = CREEP
        self._known = known
        if self._was_faster(episode.sent_at):
            self._hold = min(self._hold, HOLD_AFTER_FALL)

    def _rise(self, sent_at: float) -> None:
        if self._searching:
            self._rate += min(SEARCH_GAIN, self._rate / 2.0)
            return
        if sent_at < self._hold_until:
            self._rate += self._creep / self._hold
            return
        first, more, after_fall = PROBE_GAIN
        gain = max(first, (sent_at - self._hold_until) * more)
        if self._was_faster(sent_at):
            gain = max(gain, after_fall)
        self._rate += min(gain, SEARCH_GAIN, self._rate / 10.0)

    def _was_faster(self, now: float) -> bool:
        """Whether more was allowed not long ago."""
        return now < self._former_until and self._rate < self._former * FALL

    def _pause(self, until: float, *, quota: bool) -> None:
        if until >= self.paused_until:
            self.paused_until, self.quota = until, quota
            self._next_at = max(self._next_at, until)  # nothing is saved up in a pause
        self._look_again()

    def _look_again(self) -> None:
        ready_at = max(self._next_at, self._caller_next_at, self.paused_until)
        if self._left < 1.0:
            ready_at = max(ready_at, self._left_until)
        self.ready_at = ready_at
