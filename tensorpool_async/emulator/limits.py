"""What clients may ask for: how much at once, and how often.

The bounds are the emulator's own. Each is far above what a client needs, and low enough that no request holds the
event loop for long. What is over a bound is refused, with 413 for a body, 409 for a number of objects, and 422
for everything else.
"""

import math
from email.utils import formatdate
from typing import Literal

import attrs

from tensorpool_async.emulator.world import Clock


MAX_BODY = 256 * 1024
"""Bytes of a request's body, after decompression."""
MAX_MESSAGE = 1024 * 1024
"""Bytes of one WebSocket message, which may carry the output of a command."""
MAX_NUMBER = 1_000_000_000
"""Nodes, gigabytes or dollars."""
MAX_NAME = 255
"""Characters of a name, an id or an instance type."""
MAX_IMAGE = 1024
"""Characters of a container image."""
MAX_PUBLIC_KEY = 16 * 1024
"""Characters of an SSH public key."""
MAX_ITEMS = 100
"""Items in a list of a body: the public keys of a cluster, the clusters of a volume."""
MAX_PROBLEMS = 20
"""Problems that one 422 names."""
MAX_PATTERNS = 50
"""File patterns of one pull."""

MAX_KEYS = 1000
"""Saved SSH keys."""
MAX_CLUSTERS = 20_000
"""Clusters that live at once."""
MAX_INSTANCES = 50_000
"""Machines of all living clusters."""
MAX_NODES = 1000
"""Nodes of one cluster."""
MAX_VOLUMES = 20_000
"""Volumes that live at once."""
MAX_BUCKETS = 1000
"""Buckets of the organization."""
MAX_JOBS = 20_000
"""Pushed jobs."""

MAX_JOB_CONFIG = 32 * 1024
"""Characters of a job file."""
MAX_JOB_CONFIG_DOTS = 2000
"""Dots in a job file. The time that tomllib takes for a dotted key grows with the square of its parts."""
MAX_COMMANDS = 500
"""Commands, outputs or ignored patterns of a job file."""
MAX_COMMAND = 4096
"""Characters of one of them."""

MAX_ROWS = 500
"""Rows of a table in the `message` of an answer."""
MAX_CELL = 80
"""Characters of one cell of such a table."""


def clip(text: str, limit: int) -> str:
    """The text, cut to so many characters."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


@attrs.frozen
class RetryAfterValue:
    """The text of a Retry-After header, and the real seconds from now that it means."""

    text: str
    seconds: float

    @classmethod
    def of(cls, seconds: float) -> "RetryAfterValue":
        return cls(f"{seconds:.6f}".rstrip("0").rstrip("."), seconds)


@attrs.define
class RetryAfter:
    """The Retry-After of a request that has not ended. `seconds` may be changed at any time."""

    seconds: float
    format: Literal["seconds", "date"]
    clock: Clock

    def value(self) -> RetryAfterValue:
        if self.format == "seconds":
            return RetryAfterValue.of(self.seconds)
        # A date has no fractions. Rounding up keeps it from meaning less than the setting.
        wall = self.clock.wall()
        date = math.ceil(wall + self.seconds)
        return RetryAfterValue(formatdate(date, usegmt=True), date - wall)


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

    def admit(self, now: float) -> RetryAfterValue | None:
        """Let one request through, or return how long its client has to wait."""
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
        return RetryAfterValue.of(max(1, math.ceil(wait)))
