"""How fast requests may follow each other, found out from what the engine answers.

A pace is a time from which the next request may go, moved on by each request that goes. Where the caller names a rate,
that is an upper bound. Where the engine answers 429, the rate falls to a share of what was really sent, once for all
answers of the same burst, and rises again in small steps as long as requests succeed and have to wait for it.
"""

from __future__ import annotations

from collections import deque
from math import inf

import attrs


DECREASE = 0.7
INCREASE = 0.05
"""The share of the rate by which it rises within a second of success."""

SLOWEST = 0.5
"""Requests per second: below this, waiting longer tells nothing new."""

SLACK = 0.005
"""Seconds that a late timer may be made up for, so that a fast pace is not lost to the granularity of timers."""

WINDOW = 1.0
"""Seconds over which the rate that was really sent is measured."""


@attrs.define
class Pace:
    """The shared pace of all requests. Times are seconds of any monotonic clock.

    Attributes:
        max_per_second: The caller's bound; None for none.
    """

    max_per_second: float | None = None
    _rate: float = attrs.field(init=False, default=inf)
    _next_at: float = attrs.field(init=False, default=-inf)
    _paused_until: float = attrs.field(init=False, default=-inf)
    _decreased_at: float = attrs.field(init=False, default=-inf)
    _sent: deque[float] = attrs.field(init=False, factory=deque[float])

    @property
    def rate(self) -> float | None:
        """Requests per second that are allowed now; None where nothing bounds them."""
        rate = min(self._rate, self.max_per_second or inf)
        return None if rate == inf else rate

    @property
    def paused_until(self) -> float:
        """The time until which nothing goes; in the past when there is no pause."""
        return self._paused_until

    @property
    def ready_at(self) -> float:
        """The time from which the next request may go."""
        return max(self._next_at, self._paused_until)

    def take(self, now: float) -> None:
        """Count a request that goes now."""
        while self._sent and self._sent[0] <= now - WINDOW:
            self._sent.popleft()
        self._sent.append(now)
        rate = self.rate
        if rate is not None:
            self._next_at = max(self._next_at, now - SLACK) + 1.0 / rate

    def succeeded(self, *, waited: bool) -> None:
        """Count a request that was let through; `waited` says whether it had to wait for the pace."""
        if waited and self._rate < inf:
            # One such step for each success adds INCREASE of the rate in a second, whatever the rate is.
            self._rate += INCREASE

    def throttled(self, now: float, sent_at: float, retry_after: float) -> None:
        """Count a request that was sent at `sent_at` and asked to wait `retry_after` seconds.

        Requests of one burst are often refused together; the rate falls once for all of them.
        """
        if sent_at > self._decreased_at:  # not at the same moment: some clocks stand still for 15 ms
            measured = sum(1 for moment in self._sent if moment > sent_at - WINDOW)
            self._rate = max(SLOWEST, min(self._rate, float(measured)) * DECREASE)
            self._decreased_at = now
        self._paused_until = max(self._paused_until, now + retry_after)
        self._next_at = max(self._next_at, self._paused_until)
