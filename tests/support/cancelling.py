"""Cancellation at every await of a scenario, found by walking through them.

`walk` runs a scenario again and again. Every task of the client in it is watched, and each time that one of them is
suspended counts. In the first run the scenario is cancelled at the first suspension, in the second run at the second,
and so on, until a run ends before its suspension comes. After each run a check looks at what is left.
"""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable
from itertools import count
from pathlib import Path
from typing import Any, Literal, TypeAlias

import anyio


Scenario: TypeAlias = "Callable[[], Awaitable[object]]"
Check: TypeAlias = "Callable[[int], object]"
Means: TypeAlias = 'Literal["task", "timeout", "scope"]'

ROOT = f"{Path(__file__).parents[1]}/"
SERVERS = ("/aiohttp/web_", "/tensorpool_async/emulator/", "/tests/support/scripted.py")
"""Whose tasks are no client's, by a part of the path of the code that runs in them."""
LONGEST_RUN = 10.0
"""Seconds that one run may take."""


async def walk(
    scenario: Scenario,
    check: Check,
    *,
    start: int = 1,
    step: int = 1,
    by: Means = "task",
    again: int | None = None,
    places: set[str] | None = None,
) -> int:
    """Cancel a scenario at each of its suspensions in turn, each time in a run of its own.

    A suspension is one of the scenario's own task, or of any task that begins while it runs, but for those of servers
    (see `SERVERS`) in the same event loop. It is always the scenario that is cancelled, whichever task is suspended.

    Args:
        scenario: Called for each run; makes what is awaited.
        check: Called after each run, with the number of the suspension; may be async. What it raises fails the walk.
        start: The suspension of the first run, counted from 1.
        step: How many suspensions later the next run is cancelled.
        by: What cancels: `task.cancel()`; an `asyncio.timeout` around the scenario that runs out; or a cancel scope of
            anyio around it, which interrupts again and again.
        again: Cancel the task once more, so many suspensions after the first time.
        places: Is given the place of each suspension that was walked, as `file:line function`.

    Returns:
        How many suspensions were walked: in so many runs the scenario was cancelled.

    Raises:
        AssertionError: The check failed; or the scenario failed otherwise, did not end, or ended as if it had not been
            cancelled; or tasks were left behind. It tells which suspension that was, and where.
    """
    return await _walk(scenario, check, count(start, step), by, again, places)


async def walk_sample(
    scenario: Scenario, check: Check, *, size: int, seed: int, by: Means = "task", again: int | None = None
) -> int:
    """Cancel a scenario at some of its suspensions, as `walk` does at each; those are drawn by the seed."""
    total = await suspensions(scenario)
    points = random.Random(seed).sample(range(1, total + 1), min(size, total))
    return await _walk(scenario, check, sorted(points), by, again, None)


async def suspensions(scenario: Scenario) -> int:
    """Return how many suspensions a scenario has when nobody cancels it; those that wait for a time may vary."""
    run = _Run(None, "task", None)
    await run.go(scenario)
    return run.count


async def _walk(
    scenario: Scenario,
    check: Check,
    points: Iterable[int],
    by: Means,
    again: int | None,
    places: set[str] | None,
) -> int:
    walked = 0
    for point in points:
        run = _Run(point, by, again)
        try:
            await run.go(scenario)
            decision = check(point)
            if inspect.isawaitable(decision):
                await decision
        except Exception as problem:
            text = f"cancelled at suspension {point}, at {' < '.join(run.trail) or 'none'}: {problem!r}"
            raise AssertionError(text) from problem
        if not run.trail:
            return walked
        walked += 1
        if places is not None:
            places.add(run.trail[0])
    return walked


class _Run:
    """One run of a scenario, in which suspensions are counted and one of them is where it is cancelled."""

    def __init__(self, point: int | None, by: Means, again: int | None) -> None:
        self.count = 0
        self.trail: list[str] = []
        """Where it was cancelled, from the innermost call outwards; empty while it was not."""
        self._point = point
        self._by: Means = by
        self._second = None if point is None or again is None else point + again
        self._tasks: dict[asyncio.Task[Any], bool] = {}
        self._cancel: Callable[[], object] = lambda: None
        self._cancel_task: Callable[[], object] = lambda: None

    async def go(self, scenario: Scenario) -> None:
        """Run it to its end.

        Raises:
            Exception: What the scenario raises, but for the cancellation.
            AssertionError: It did not end, or not as cancelled, or left tasks behind.
        """
        loop = asyncio.get_running_loop()
        before = loop.get_task_factory()
        loop.set_task_factory(self._make_task)
        try:
            task = loop.create_task(self._frame(scenario))
            self._cancel_task = task.cancel
            await asyncio.wait([task], timeout=LONGEST_RUN)
            assert task.done(), f"it did not end within {LONGEST_RUN} s: {task!r}"
            for _ in range(5):  # tasks that were cancelled need a moment
                await asyncio.sleep(0)
        finally:
            loop.set_task_factory(before)
        if self.trail:
            assert _was_cancelled(task, self._by), f"it was cancelled, and ended with {_end_of(task)}"
        elif not task.cancelled():
            task.result()
        left = [repr(one) for one, watched in self._tasks.items() if watched and not one.done()]
        assert not left, f"tasks are left: {', '.join(left)}"

    def suspended(self, coroutine: Any) -> None:
        """Count a suspension, and cancel where it is the one."""
        self.count += 1
        if self.count == self._point:
            self.trail = _trail(coroutine)
            self._cancel()
        if self.count == self._second:
            self._cancel_task()

    async def _frame(self, scenario: Scenario) -> bool:
        """Run the scenario inside of what may cancel it; say whether a cancel scope did."""
        if self._by == "timeout":
            async with asyncio.timeout(None) as timeout:
                self._cancel = lambda: timeout.reschedule(asyncio.get_running_loop().time())
                await scenario()
        elif self._by == "scope":
            with anyio.CancelScope() as scope:
                self._cancel = scope.cancel
                await scenario()
            return scope.cancelled_caught
        else:
            self._cancel = self._cancel_task
            await scenario()
        return False

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any
    ) -> asyncio.Task[Any]:
        # What a server's task starts is the server's too, whatever code it is.
        starter = asyncio.current_task()
        watched = (starter is None or self._tasks.get(starter, True)) and not _is_servers(coroutine)
        task = asyncio.Task(_Watched(coroutine, self) if watched else coroutine, loop=loop, **options)
        self._tasks[task] = watched
        return task


class _Watched(Coroutine[Any, Any, Any]):
    """A coroutine that tells its run of each suspension."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], run: _Run) -> None:
        self._coroutine = coroutine
        self._run = run

    def send(self, value: Any) -> Any:
        yielded = self._coroutine.send(value)
        self._run.suspended(self._coroutine)
        return yielded

    def throw(self, *error: Any) -> Any:
        yielded = self._coroutine.throw(*error)
        self._run.suspended(self._coroutine)
        return yielded

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        raise TypeError("it is for a task")

    def __getattr__(self, name: str) -> Any:
        # asyncio and anyio ask coroutines for their frames and states.
        return getattr(self._coroutine, name)


def _is_servers(coroutine: Any) -> bool:
    code = getattr(coroutine, "cr_code", None)
    if code is None:
        return False
    return code.co_name == "_accept_connection2" or any(part in code.co_filename for part in SERVERS)


def _was_cancelled(task: asyncio.Task[bool], by: Means) -> bool:
    if task.cancelled():
        return by == "task"
    if by == "timeout":
        return isinstance(task.exception(), TimeoutError)
    return by == "scope" and task.exception() is None and task.result()


def _end_of(task: asyncio.Task[Any]) -> str:
    if task.cancelled():
        return "CancelledError"
    return repr(task.exception() or task.result())


def _trail(coroutine: Any) -> list[str]:
    """Return where a suspended coroutine stands: `file:line function`, from the innermost call outwards."""
    trail: list[str] = []
    while coroutine is not None:
        frame = _first(coroutine, "cr_frame", "gi_frame", "ag_frame")
        if frame is not None:
            code = frame.f_code
            trail.append(f"{code.co_filename.removeprefix(ROOT)}:{frame.f_lineno} {code.co_name}")
        coroutine = _first(coroutine, "cr_await", "gi_yieldfrom", "ag_await")
    return trail[::-1] or ["an unknown place"]


def _first(value: Any, *names: str) -> Any:
    return next((getattr(value, name) for name in names if hasattr(value, name)), None)
