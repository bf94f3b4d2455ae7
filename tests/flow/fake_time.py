"""An event loop whose clock jumps: what takes hours there takes no time here, and every moment is exact."""

from __future__ import annotations

import asyncio
import math
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar


T = TypeVar("T")


class JumpingSelector(selectors.DefaultSelector):
    """Does not wait for what the loop would wait for, and moves the clock on instead."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everybody waits, and nobody is left to wake them")
        events = super().select(0)
        if timeout > 0 and not events:
            self.now = max(self.now + timeout, math.nextafter(self.now, math.inf))
        return events


class FakeTimeLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.selector = JumpingSelector()
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.now

    def be_busy_for(self, seconds: float) -> None:
        """Let time pass in which no task and no timer can run."""
        self.selector.now += seconds


def run(main: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=FakeTimeLoop) as runner:
        return runner.run(main)


def now() -> float:
    return asyncio.get_running_loop().time()
