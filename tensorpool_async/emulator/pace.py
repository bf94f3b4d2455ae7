"""How fast clients may come: the Retry-After of pollers, and the rate limit."""

import math
from email.utils import formatdate
from typing import Literal

import attrs

from tensorpool_async.emulator.clock import Clock


@attrs.frozen
class Told:
    """A Retry-After as it is written, and the real seconds from now that it means."""

    text: str
    seconds: float


@attrs.define
class RetryAfter:
    """What pollers are told while a request is not terminal."""

    seconds: float
    format: Literal["seconds", "date"]
    clock: Clock

    def tell(self) -> Told:
        if self.format == "seconds":
            return tell_seconds(self.seconds)
        # A date has no fractions; rounding up keeps it from meaning less than was meant.
        wall = self.clock.wall()
        date = math.ceil(wall + self.seconds)
        return Told(formatdate(date, usegmt=True), date - wall)


def tell_seconds(seconds: float) -> Told:
    return Told(f"{seconds:.6f}".rstrip("0").rstrip("."), seconds)


@attrs.define
class RateLimit:
    """A token bucket. Both numbers may be changed at any time.

    Attributes:
        rate: Requests answered per second; None is no limit.
        burst: The size of the bucket; None is one second's worth, and at least one.
    """

    rate: float | None
    burst: float | None
    _tokens: float = attrs.field(default=math.inf, init=False)
    _filled: float = attrs.field(default=0.0, init=False)

    def admit(self, now: float) -> Told | None:
        """Let one request through, or say how long it has to stay away."""
        if self.rate is None:
            self._tokens, self._filled = math.inf, now
            return None
        size = max(1.0, self.rate) if self.burst is None else self.burst
        self._tokens = min(size, self._tokens + (now - self._filled) * self.rate)
        self._filled = now
        if self._tokens >= 1:
            self._tokens -= 1
            return None
        wait = (1 - self._tokens) / self.rate if self.rate > 0 else 1
        return tell_seconds(max(1, math.ceil(wait)))
