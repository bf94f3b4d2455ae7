"""The send slots that one process has reserved, which are its pace."""

from __future__ import annotations

from collections import deque
from math import inf

import attrs

from tensorpool_async.redis.bucket import NOTHING_RETURNED, Refill, ReturnedSlots


SLACK = 0.005
"""Seconds that a late timer may be made up for. A process that was held up longer does not catch up in one burst."""


@attrs.define
class Reservations:
    """Decides when the next request of this process may go. Times are those of the event loop.

    Attributes:
        max_per_second: The whole pace, of all processes together.
        slack: Seconds that may be made up for: those of a burst.
        fraction: The fraction of the whole pace that is allowed now.
        alone: Whether this process goes on without the server, and so without reservations.
        paused_until: The time until which nothing goes.
    """

    max_per_second: float
    slack: float
    fraction: float = 1.0
    alone: bool = False
    paused_until: float = 0.0
    _slots: deque[float] = attrs.field(init=False, factory=deque[float])
    _last: Refill | None = attrs.field(init=False, default=None)  # what the newest slots belong to
    _next_at: float = attrs.field(init=False, default=0.0)  # the process's own spacing, on top of its slots

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def ready_at(self) -> float:
        """The time from which the next request may go; infinite where slots have to be reserved first."""
        if self.alone:
            return max(self._next_at, self.paused_until)
        return max(self._slots[0], self._next_at, self.paused_until) if self._slots else inf

    def record_send(self, now: float) -> None:
        """Count a request that goes now."""
        if self._slots:
            self._slots.popleft()
        slack = SLACK if self.alone else self.slack
        self._next_at = max(self._next_at, now - slack) + 1.0 / (self.max_per_second * self.fraction)

    def pause(self, until: float) -> None:
        """Let nothing go until then."""
        if until > self.paused_until:
            self.paused_until = until
            self._slots.clear()  # they are within the pause, and must not pile up at its end

    def add(self, refill: Refill, now: float) -> None:
        """Add what the server has given."""
        self.alone = False
        self.fraction = refill.fraction
        if refill.paused_for:
            self.pause(now + refill.paused_for)
        if refill.count and now + refill.delay >= self.paused_until - refill.interval:
            self._last = refill
            self._slots.extend(refill.times(now))

    def go_alone(self, fraction: float) -> None:
        """Go on without the server, at a share of the pace."""
        self.alone = True
        self.fraction = fraction
        self._slots.clear()

    def return_all(self) -> ReturnedSlots:
        """Forget all slots, and return what the server may have back."""
        count, last = len(self._slots), self._last
        self._slots.clear()
        if last is None:
            return NOTHING_RETURNED
        interval = round(last.interval * 1e6)
        end = last.first + last.count * interval
        return ReturnedSlots(start=end - min(count, last.count) * interval, end=end)
