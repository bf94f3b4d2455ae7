"""How due polls are handed out: in order, on time, fairly, and never in the way of a change (issue: polling at scale)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from itertools import pairwise
from typing import Any

import pytest
from aiohttp import web

from tensorpool_async import (
    Operation,
    OperationError,
    PollPolicy,
    RateLimiter,
    RequestTimeout,
    TensorPool,
    Timeouts,
)
from tensorpool_async.protocol.tokens import OperationRef
from tests.support.scripted import ScriptedEngine


class Engine:
    """Notes when each request is polled."""

    def __init__(self, scripted: ScriptedEngine, retry_after: str = "0") -> None:
        self.polled: list[tuple[float, str]] = []
        self.retry_after = retry_after
        self.other: list[int] = []
        self.status = "PENDING"
        self._scripted = scripted
        scripted.handle("GET /cluster/list", self._read)

    def knows(self, count: int) -> list[str]:
        """Answer this many requests, and return their ids."""
        ids = [f"r-{number}" for number in range(count)]
        for one in ids:
            self._scripted.handle(f"GET /request/info/{one}", self._poll)
        return ids

    @property
    def order(self) -> list[str]:
        return [one for _, one in self.polled]

    async def _poll(self, request: web.Request) -> web.StreamResponse:
        one = request.path.rpartition("/")[2]
        self.polled.append((asyncio.get_running_loop().time(), one))
        info = {
            "request_id": one,
            "request_type": "CLUSTER_CLAIM",
            "status": self.status,
            "created_at": "now",
        }
        return web.json_response(info, headers={"Retry-After": self.retry_after})

    async def _read(self, _: web.Request) -> web.StreamResponse:
        self.other.append(len(self.polled))
        return web.json_response({"clusters": []})


@pytest.fixture
async def slow_tp(scripted: ScriptedEngine) -> AsyncGenerator[TensorPool]:
    """Open a client whose limiter lets through far fewer requests than fall due."""
    limiter = RateLimiter(max_in_flight=4, max_per_second=100.0)
    async with TensorPool("scripted-key", base_url=scripted.url, limiter=limiter) as client:
        yield client


def followed(operation: Operation[Any]) -> Operation[Any]:
    """Have an operation polled: somebody wants to hear of its end."""
    operation.add_done_callback(lambda _: None)
    return operation


def ref_of(request_id: str) -> OperationRef:
    return OperationRef(None, request_ids=(request_id,))


async def polls_of(engine: Engine, count: int) -> None:
    while len(engine.polled) < count:
        await asyncio.sleep(0.01)


async def test_no_operation_is_polled_twice_while_another_waits(
    slow_tp: TensorPool, scripted: ScriptedEngine
) -> None:
    engine = Engine(scripted)
    kept = [followed(slow_tp.operation(one)) for one in engine.knows(20)]
    await polls_of(engine, 101)
    # Each comes after all the others, but for the few that are under way at the same time and may overtake each other.
    for one in set(engine.order):
        turns = [index for index, other in enumerate(engine.order) if other == one]
        assert min(later - sooner for sooner, later in pairwise(turns)) >= 20 - 2 * 4
    assert min(Counter(engine.order).values()) >= 4
    assert not any(operation.done() for operation in kept)


async def test_polls_are_late_and_never_early_where_the_limiter_is_too_slow(
    slow_tp: TensorPool, scripted: ScriptedEngine
) -> None:
    engine = Engine(scripted, retry_after="0.05")
    kept = [followed(slow_tp.operation(one)) for one in engine.knows(20)]
    await polls_of(engine, 60)
    times: dict[str, list[float]] = {}
    for moment, one in engine.polled:
        times.setdefault(one, []).append(moment)
    for moments in times.values():
        assert min(later - sooner for sooner, later in pairwise(moments)) >= 0.05
    assert len(kept) == len(times)


async def test_a_read_does_not_wait_behind_the_polls_that_are_due(
    slow_tp: TensorPool, scripted: ScriptedEngine
) -> None:
    engine = Engine(scripted)
    kept = [followed(slow_tp.operation(one)) for one in engine.knows(50)]
    await polls_of(engine, 10)
    before = len(engine.polled)
    assert await slow_tp.clusters.list() == []
    assert engine.other[0] - before <= 12  # and not the 50 that are due
    assert slow_tp.limiter.statistics().waiting[2] <= 4
    assert len(kept) == 50


async def test_the_jitter_is_upwards_only(scripted: ScriptedEngine) -> None:
    engine = Engine(scripted, retry_after="0.1")
    async with TensorPool("k", base_url=scripted.url, polling=PollPolicy(jitter=1.0)) as tp:
        kept = [followed(tp.operation(one)) for one in engine.knows(10)]
        await polls_of(engine, 40)
    times: dict[str, list[float]] = {}
    for moment, one in engine.polled:
        times.setdefault(one, []).append(moment)
    gaps = [later - sooner for moments in times.values() for sooner, later in pairwise(moments)]
    assert min(gaps) >= 0.1
    assert max(gaps) > 0.12
    assert len(kept) == 10


async def test_who_is_due_sooner_is_polled_sooner_whenever_it_came(scripted: ScriptedEngine) -> None:
    engine = Engine(scripted, retry_after="60")
    async with TensorPool("k", base_url=scripted.url) as tp:
        late, soon = engine.knows(2)
        operations = [tp._executor.resume(ref_of(one)) for one in (late, soon)]  # pyright: ignore[reportPrivateUsage] - only a 202 sets the first delay
        operations[0].start(0.2)
        operations[1].start(0.05)
        await polls_of(engine, 2)
        assert engine.order == [soon, late]


async def test_closing_ends_the_waits_of_those_that_are_due_and_those_that_are_not(
    scripted: ScriptedEngine,
) -> None:
    engine = Engine(scripted, retry_after="60")
    limiter = RateLimiter(max_in_flight=2, max_per_second=5.0)
    async with TensorPool("k", base_url=scripted.url, limiter=limiter) as tp:
        waiting = [asyncio.create_task(tp.operation(one).result()) for one in engine.knows(20)]
        await polls_of(engine, 2)
    for task in waiting:
        with pytest.raises(OperationError, match="closed"):
            await task
    assert limiter.statistics().in_flight == 0
    assert limiter.statistics().waiting == (0, 0, 0)


async def test_an_operation_that_ended_otherwise_is_polled_no_more(scripted: ScriptedEngine) -> None:
    engine = Engine(scripted, retry_after="0.1")
    async with TensorPool("k", base_url=scripted.url, polling=PollPolicy(jitter=0.0)) as tp:
        (one,) = engine.knows(1)
        operation = followed(tp.operation(one))
        await polls_of(engine, 1)
        engine.status = "FAILED"
        await operation.refresh()
        assert operation.done()
        await asyncio.sleep(0.2)
        assert scripted.count(f"GET /request/info/{one}") == 2
        assert tp.statistics().operations == 0


async def test_a_poll_that_is_not_answered_in_time_is_made_again(scripted: ScriptedEngine) -> None:
    engine = Engine(scripted, retry_after="0.01")
    stalled, hang = asyncio.Event(), asyncio.Event()

    async def stall(_: web.Request) -> web.StreamResponse:
        stalled.set()
        await hang.wait()
        return web.json_response({})

    scripted.handle("GET /request/info/r-0", stall)
    polling, timeouts = PollPolicy(default=0.01), Timeouts(connect=0.1, read=0.1)
    try:
        async with TensorPool("k", base_url=scripted.url, polling=polling, timeouts=timeouts) as tp:
            operation = followed(tp.operation("r-0"))
            await stalled.wait()
            with pytest.raises(RequestTimeout) as caught:
                await operation.refresh()
            assert caught.value.operation is operation
            engine.knows(1)
            await polls_of(engine, 2)
            assert tp.limiter.statistics().in_flight <= 1
            assert not operation.done()
    finally:
        hang.set()


async def test_a_program_that_cancels_all_its_tasks_still_learns_how_its_operations_end(
    odd_tp: TensorPool, scripted: ScriptedEngine
) -> None:
    polled = asyncio.Event()

    async def hang_once(_: web.Request) -> web.StreamResponse:
        if not polled.is_set():
            polled.set()
            await asyncio.sleep(30)
        return web.json_response(
            {"request_id": "r-1", "request_type": "CLUSTER_RELEASE", "status": "COMPLETED"}
        )

    scripted.handle("GET /request/info/r-1", hang_once)
    waiting = asyncio.ensure_future(odd_tp.operation("r-1").result())
    await polled.wait()
    (worker,) = [task for task in asyncio.all_tasks() if task.get_name() == "tensorpool-poll"]
    worker.cancel()
    async with asyncio.timeout(5):
        assert await waiting is None


async def test_a_poll_that_is_cancelled_before_it_begins_is_made_all_the_same(
    odd_tp: TensorPool, scripted: ScriptedEngine
) -> None:
    request = {"request_id": "r-1", "request_type": "CLUSTER_RELEASE", "status": "COMPLETED"}
    scripted.answer("GET /request/info/r-1", request)
    waiting = asyncio.ensure_future(odd_tp.operation("r-1").result())
    before = asyncio.all_tasks()
    while not (new := asyncio.all_tasks() - before):
        await asyncio.sleep(0)
    for worker in new:
        worker.cancel()
    async with asyncio.timeout(5):
        assert await waiting is None
