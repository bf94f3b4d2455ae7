"""A deadline for many attempts at once, for the price of one timer."""

from __future__ import annotations

import asyncio
from math import inf
from typing import Any


class Deadlines:
    """Ends what takes longer than it may, by cancelling its task, as `asyncio.timeout` does.

    All have the same time, so the one that began first is due first, and one timer does for all. A timer for each costs
    more than all else that is done here for a request. The few that come in pieces are given more time, or less.
    """

    __slots__ = ("_began", "_more", "_overdue", "_timer", "seconds")

    def __init__(self, seconds: float) -> None:
        """Give each `seconds`; `inf` never ends any."""
        self.seconds: float = seconds
        self._began: dict[asyncio.Task[Any], tuple[float, int]] = {}
        self._more: dict[asyncio.Task[Any], float] = {}
        self._overdue: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> asyncio.Task[Any] | None:
        """Count the time of what the current task begins; return what `extend`, `end` and `expired` take."""
        task = asyncio.current_task()
        if task is None or self.seconds == inf:
            return None
        loop = task.get_loop()
        now = loop.time()
        self._began[task] = (now, task.cancelling())
        if self._timer is None:
            self._timer = loop.call_at(now + self.seconds, self._expire, loop)
        return task

    def counts(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether the time of one of them has begun, and not ended."""
        return task in self._began

    def is_changed(self, task: asyncio.Task[Any]) -> bool:
        """Whether one of them has been given more time, or less."""
        return task in self._more

    def extend(self, task: asyncio.Task[Any], seconds: float) -> None:
        """Give one of them so much more time."""
        if task in self._began:
            self._more[task] = self._more.get(task, 0.0) + seconds

    def shorten(self, task: asyncio.Task[Any], seconds: float) -> None:
        """Leave one of them no more than `seconds` from now."""
        begun = self._began.get(task)
        if begun is None:
            return
        loop = task.get_loop()
        too_much = begun[0] + self._more.get(task, 0.0) + self.seconds - loop.time() - seconds
        if too_much > 0:
            self._more[task] = self._more.get(task, 0.0) - too_much
            self.close()
            self._expire(loop)

    def end(self, task: asyncio.Task[Any]) -> None:
        """Count no longer."""
        self._began.pop(task, None)
        if self._more:
            self._more.pop(task, None)
        if self._overdue:
            self._overdue.discard(task)

    def expired(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether a cancellation that was met comes from here, and from nowhere else."""
        if task is None or task not in self._overdue:
            return False
        self._overdue.discard(task)
        return task.uncancel() <= self._began[task][1]

    def close(self) -> None:
        """Set no timer any more, until something begins."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        latest = loop.time() - self.seconds
        next_at = inf
        for task, (begun, _) in self._began.items():
            began = begun + self._more.get(task, 0.0)
            if began > latest:
                next_at = min(next_at, began + self.seconds)
                if not self._more:
                    break  # those behind it began later still
            elif task not in self._overdue:
                self._overdue.add(task)
                task.cancel()
        if next_at < inf:
            self._timer = loop.call_at(next_at, self._expire, loop)
