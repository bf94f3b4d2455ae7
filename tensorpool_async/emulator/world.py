"""The world that an emulator plays: its settings, its prices, and its time.

A new way in which an engine may differ from another begins as a setting of `World`.
"""

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Literal, TypeAlias

import attrs


Duration: TypeAlias = "float | tuple[float, float]"
"""Seconds: a number, or a range from which one is drawn."""

_PER_GPU = {"B300": 5.99, "B200": 4.99, "H200": 3.49, "H100": 2.49}

PRICES: Mapping[str, float] = MappingProxyType(
    {f"{count}x{gpu}": round(count * price, 2) for gpu, price in _PER_GPU.items() for count in (1, 2, 4, 8)}
    | {"1xL40S": 1.29, "32xCPU": 1.28, "64xCPU": 2.56}
)
"""US dollars per hour and node, by instance type."""

STORAGE_PER_GB_MONTH = 0.10
HOURS_PER_MONTH = 730


def storage_rate(size_gb: int) -> float:
    """US dollars per hour for a volume of this size."""
    return size_gb * STORAGE_PER_GB_MONTH / HOURS_PER_MONTH


def is_cpu(instance_type: str) -> bool:
    return instance_type.endswith("xCPU")


def can_be_multi_node(instance_type: str) -> bool:
    """Only instance types of a whole machine form clusters of several nodes."""
    return instance_type.startswith("8x")


@attrs.frozen(kw_only=True)
class World:
    """The settings of an engine that stay the same while it runs. `Emulator` explains each of them."""

    key: str
    speed: float
    seed: int
    latency: float
    retry_after_format: Literal["seconds", "date"]
    no_request_ids: bool
    provision_seconds: Duration
    destroy_seconds: Duration
    edit_seconds: Duration
    storage_seconds: Duration
    attach_seconds: Duration
    job_seconds: Duration
    cancel_seconds: Duration
    organization: str | None
    payment_method: bool
    object_endpoint: str
    object_region: str

    def rng(self, purpose: str) -> random.Random:
        """Random numbers that follow from the seed, apart from those for any other purpose."""
        return random.Random(f"{self.seed} {purpose}")


class Clock:
    """Seconds since the emulator was started, read from the event loop, and the timers that run on them.

    Instants and waits are real seconds. The speed only divides what the engine itself would take, and multiplies
    what it charges.
    """

    def __init__(self, world: World) -> None:
        if world.speed <= 0:
            raise ValueError(f"speed must be above 0, not {world.speed:g}")
        self._speed = world.speed
        self._rng = world.rng("durations")
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
        """The time of day as a client on this machine sees it, in seconds since 1970."""
        return time.time()

    def iso(self, at: float) -> str:
        return (self._born + timedelta(seconds=at)).isoformat()

    def draw(self, duration: Duration) -> float:
        """The real seconds that something of this duration takes."""
        if isinstance(duration, tuple):
            duration = self._rng.uniform(*duration)
        return max(0.0, duration) / self._speed

    def hours(self, since: float, until: float) -> float:
        """The emulated hours between two instants. The engine charges by these."""
        return (until - since) * self._speed / 3600

    def later(self, seconds: float, do: Callable[[], object]) -> None:
        """Call `do` after so many real seconds, unless the clock stops first."""
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
