"""One deadline for many attempts: who is ended by it, and who is not."""

from __future__ import annotations

import asyncio
from math import inf

import pytest

from tensorpool_async.flow.deadlines import Deadlines


async def attempt(deadlines: Deadlines, seconds: float) -> str:
    task = deadlines.begin()
    assert task is not None
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        if not deadlines.expired(task):
            raise
        return "overdue"
    finally:
        deadlines.end(task)
    return "done"


async def test_only_what_takes_too_long_is_ended_and_its_task_goes_on() -> None:
    deadlines = Deadlines(0.1)

    async def work() -> list[str]:
        return [
            await attempt(deadlines, 0.01),
            await attempt(deadlines, 30.0),
            await attempt(deadlines, 0.01),
        ]

    task = asyncio.create_task(work())
    assert await task == ["done", "overdue", "done"]
    assert task.cancelling() == 0
    deadlines.close()


async def test_each_has_its_whole_time_whenever_it_began() -> None:
    deadlines = Deadlines(0.3)
    loop = asyncio.get_running_loop()

    async def late(index: int) -> float:
        await asyncio.sleep(index * 0.1)
        begun = loop.time()
        assert await attempt(deadlines, 30.0) == "overdue"
        return loop.time() - begun

    assert min(await asyncio.gather(*(late(index) for index in range(4)))) >= 0.299
    deadlines.close()


async def test_a_cancellation_of_the_callers_stays_one() -> None:
    deadlines = Deadlines(30.0)
    task = asyncio.create_task(attempt(deadlines, 30.0))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    deadlines.close()


async def test_a_cancellation_of_the_callers_counts_also_in_the_moment_of_the_deadline() -> None:
    deadlines = Deadlines(0.05)
    task = asyncio.create_task(attempt(deadlines, 30.0))
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_at(asyncio.get_running_loop().time() + 0.04, _block, 0.03)
    # Set after the deadline's own timer, and due before the task runs again.
    asyncio.get_running_loop().call_later(0.06, task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task
    deadlines.close()


def _block(seconds: float) -> None:
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while loop.time() < until:
        pass


async def test_an_endless_time_ends_nothing() -> None:
    deadlines = Deadlines(inf)
    assert deadlines.begin() is None
    assert not deadlines.expired(None)
    deadlines.close()


async def test_one_that_has_less_time_ends_first_and_one_that_has_more_last() -> None:
    deadlines = Deadlines(0.4)
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def changed(more: float, at_most: float | None) -> float:
        task = deadlines.begin()
        assert task is not None
        try:
            if at_most is not None:
                deadlines.shorten(task, at_most)
            if more:
                deadlines.extend(task, more)
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            assert deadlines.expired(task)
        finally:
            deadlines.end(task)
        return loop.time() - began

    first, second, third, fourth = await asyncio.gather(
        changed(0.4, None), changed(0.0, None), changed(0.0, 0.1), changed(0.3, 0.1)
    )
    assert third < second < first
    assert third < fourth
    assert first >= 0.799
    assert second >= 0.399
    assert third >= 0.099
    assert fourth >= 0.399
    deadlines.close()
