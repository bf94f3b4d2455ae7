"""The harness that cancels at every await finds every await, and what goes wrong there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Literal

import pytest

from tensorpool_async import TensorPool
from tensorpool_async.emulator import Emulator
from tests.support.cancelling import suspensions, walk, walk_sample


class Rental:
    """What is rented must be given back; each takes two suspensions."""

    def __init__(self) -> None:
        self.taken = 0
        self.ended = 0

    async def careful(self) -> None:
        try:
            self.taken += 1
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        finally:
            self.taken -= 1
        self.ended += 1

    async def careless(self) -> None:
        self.taken += 1
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        try:
            await asyncio.sleep(0)
        finally:
            self.taken -= 1

    def check(self, _: int) -> None:
        assert self.taken == 0, f"{self.taken} still taken"


async def test_every_suspension_is_walked_once() -> None:
    rental = Rental()
    points: list[int] = []
    places: set[str] = set()

    def check(point: int) -> None:
        rental.check(point)
        points.append(point)

    assert await walk(rental.careful, check, places=places) == 2
    assert points == [1, 2, 3]  # the third run ended before it was to be cancelled
    assert rental.ended == 1
    assert {place.split(" ")[-1] for place in places} == {"__sleep0"}


async def test_what_is_left_is_told_with_the_place() -> None:
    rental = Rental()
    with pytest.raises(
        AssertionError, match=r"suspension 1, at .*test_operations_cancelling.py:\d+ careless"
    ) as caught:
        await walk(rental.careless, rental.check)
    assert "1 still taken" in str(caught.value)
    rental.taken = 0
    assert await walk(rental.careless, rental.check, start=3) == 1
    with pytest.raises(AssertionError, match="suspension 2"):
        await walk(rental.careless, rental.check, start=2, step=2)


async def test_tasks_that_the_scenario_starts_are_walked_too() -> None:
    async def scenario() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(Rental().careful())
            tasks.create_task(Rental().careful())

    assert await suspensions(scenario) == 5
    assert await walk(scenario, lambda _: None) == 5


@pytest.mark.parametrize("by", ["task", "timeout", "scope"])
async def test_who_takes_no_notice_is_found(by: Literal["task", "timeout", "scope"]) -> None:
    async def scenario() -> None:
        try:
            await asyncio.sleep(0.001)
        except asyncio.CancelledError:
            return

    with pytest.raises(AssertionError, match="was cancelled, and ended with"):
        await walk(scenario, lambda _: None, by=by)


@pytest.mark.parametrize("by", ["task", "timeout", "scope"])
async def test_each_means_arrives(by: Literal["task", "timeout", "scope"]) -> None:
    rental = Rental()

    async def scenario() -> None:
        await rental.careful()
        await asyncio.sleep(0.001)

    assert await walk(scenario, rental.check, by=by) == 3
    assert rental.ended >= 2


async def test_a_second_cancellation_comes_where_it_is_asked_for() -> None:
    heard: list[str] = []

    async def scenario() -> None:
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            heard.append("first")
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                heard.append("second")
            raise

    assert await walk(scenario, lambda _: None, again=1) == 1
    assert heard == ["first", "second"]


async def test_a_failure_of_the_scenario_and_a_task_that_it_leaves_are_told() -> None:
    forgotten: list[asyncio.Task[object]] = []

    async def fails() -> None:
        raise KeyError("lost")

    async def forgets() -> None:
        forgotten.append(asyncio.create_task(asyncio.sleep(60)))
        await asyncio.sleep(0)

    with pytest.raises(AssertionError, match="KeyError"):
        await walk(fails, lambda _: None)
    with pytest.raises(AssertionError, match="tasks are left"):
        await walk(forgets, lambda _: None)
    for task in forgotten:
        task.cancel()


async def test_checks_may_be_async_and_points_drawn() -> None:
    drawn: list[int] = []

    async def scenario() -> None:
        for _ in range(50):
            await asyncio.sleep(0)

    async def check(point: int) -> None:
        await asyncio.sleep(0)
        drawn.append(point)

    assert await walk_sample(scenario, check, size=7, seed=3) == 7
    assert len(set(drawn)) == 7
    assert max(drawn) <= 50


def client_of(emulator: Emulator) -> Callable[[], Awaitable[object]]:
    async def scenario() -> None:
        async with TensorPool(emulator.key, base_url=emulator.url) as tp, reading(tp):
            pass

    return scenario


@asynccontextmanager
async def reading(tp: TensorPool) -> AsyncGenerator[None]:
    await tp.clusters.list()
    yield


async def test_the_engine_in_the_same_loop_is_not_walked(emulator: Emulator) -> None:
    places: set[str] = set()
    walked = await walk(client_of(emulator), lambda _: None, places=places)
    assert walked >= 3
    assert not [place for place in places if "emulator" in place or "web_" in place]
