"""Work that is brought to its end also where its caller is cancelled."""

from __future__ import annotations

import asyncio

import anyio
import anyio.lowlevel
import pytest

from tensorpool_async.flow.shielding import run_shielded, wait_uncancelled
from tests.support.cancelling import Means, walk


class Work:
    """Something that must be finished once it has begun."""

    def __init__(self, error: Exception | None = None) -> None:
        self.ended = False
        self._error = error

    async def run(self) -> str:
        for _ in range(5):
            await asyncio.sleep(0)
        self.ended = True
        if self._error is not None:
            raise self._error
        return "done"


async def test_it_gives_the_result() -> None:
    assert await run_shielded(Work().run()) == "done"


async def test_it_raises_the_error_of_the_work() -> None:
    with pytest.raises(ValueError, match="broken"):
        await run_shielded(Work(ValueError("broken")).run())


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("error", [None, ValueError("broken")])
async def test_a_caller_that_is_cancelled_waits_for_the_end(times: int, error: Exception | None) -> None:
    work = Work(error)
    task = asyncio.create_task(run_shielded(work.run()))
    for _ in range(times):
        await asyncio.sleep(0)
        task.cancel()
    assert not work.ended
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert work.ended
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(("by", "again"), [("task", None), ("task", 1), ("timeout", None), ("scope", None)])
async def test_cancelled_at_every_await_it_ends(by: Means, again: int | None) -> None:
    works: list[Work] = []

    async def scenario() -> None:
        works.append(Work())
        await run_shielded(works[-1].run())
        await anyio.lowlevel.checkpoint()  # a cancel scope interrupts here at the latest

    def check(_: int) -> None:
        assert works[-1].ended

    assert await walk(scenario, check, by=by, again=again) >= 5


async def test_a_cancel_scope_interrupts_once_the_work_has_ended() -> None:
    work = Work()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await run_shielded(work.run())
        await asyncio.sleep(30)
    assert scope.cancelled_caught
    assert work.ended


async def test_work_that_is_itself_cancelled_is_no_result() -> None:
    task = asyncio.ensure_future(Work().run())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run_shielded(task)


async def test_the_interruption_is_handed_to_who_waits() -> None:
    work = Work()
    outcome: list[asyncio.CancelledError | None] = []

    async def caller() -> None:
        outcome.append(await wait_uncancelled(asyncio.ensure_future(work.run())))

    task = asyncio.create_task(caller())
    await asyncio.sleep(0)
    task.cancel()
    await task
    assert work.ended
    assert isinstance(outcome[0], asyncio.CancelledError)
    assert await wait_uncancelled(asyncio.ensure_future(Work().run())) is None
