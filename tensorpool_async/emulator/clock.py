"""The emulator's only clock, and the timers that run on it."""

import asyncio
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeAlias


Duration: TypeAlias = "float | tuple[float, float]"
"""Seconds: a number, or a range from which one is drawn."""


class Clock:
    """Seconds since the emulator was started, read from the event loop.

    Instants and waits are real seconds. `speed` only divides what the engine would have taken itself,
    and multiplies what it charges for.
    """

    def __init__(self, speed: float, rng: random.Random) -> None:
        if speed <= 0:
            raise ValueError(f"speed must be above 0, not {speed:g}")
        self.speed = speed
        self._rng = rng
        self._loop: asyncio.AbstractEventLoop | None = None
        self._zero = 0.0
        self._born = datetime.now(UTC)
        self._timers: set[asyncio.TimerHandle] = set()

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._zero = self._loop.time()
        self._born = datetime.now(UTC)

    def now(self) -> float:
        return self._loop.time() - self._zero if self._loop else 0.0

    def wall(self) -> float:
        """The time of day as a client of this machine sees it, in seconds since 1970."""
        return time.time()

    def iso(self, at: float) -> str:
        return (self._born + timedelta(seconds=at)).isoformat()

    def draw(self, duration: Duration) -> float:
        """The real seconds that something of this duration takes."""
        if isinstance(duration, tuple):
            duration = self._rng.uniform(*duration)
        return max(0.0, duration) / self.speed

    def hours(self, since: float, until: float) -> float:
        """The emulated hours between two instants, which is what is charged for."""
        return (until - since) * self.speed / 3600

    def later(self, seconds: float, do: Callable[[], object]) -> None:
        """Call `do` in so many real seconds, unless the clock is stopped before."""
        if self._loop is None:
            raise RuntimeError("the emulator is not running")

        def ring() -> None:
            self._timers.discard(handle)
            do()

        handle = self._loop.call_later(seconds, ring)
        self._timers.add(handle)

    def stop(self) -> None:
        for handle in self._timers:
            handle.cancel()
        self._timers.clear()
