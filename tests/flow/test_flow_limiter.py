"""The shared limiter: its promises one by one, and under any traffic."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from contextlib import nullcontext
from typing import Any

import attrs
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from tensorpool_async.errors import WrongEventLoopError
from tensorpool_async.flow import LimiterStatistics, RateLimiter
from tensorpool_async.protocol.adaptive_rate import SLACK
from tensorpool_async.protocol.lanes import WEIGHTS
from tensorpool_async.protocol.rate_limits import Limits
from tensorpool_async.protocol.requests import Lane
from tests.flow.fake_time import FakeTimeLoop, now, run


EPSILON = 1e-6


@attrs.frozen
class Caller:
    """Somebody who comes, waits for a turn, holds it, and tells how it went."""

    comes_at: float
    lane: Lane
    holds_for: float = 0.1
    ok: bool = True
    retry_after: float | None = None
    gives_up_after: float | None = None


@attrs.define
class Traffic:
    """What happened to all callers of one limiter."""

    limiter: RateLimiter
    in_flight: int = 0
    most_in_flight: int = 0
    arrivals: dict[Lane, list[int]] = attrs.field(factory=lambda: defaultdict[Lane, list[int]](list))
    grants: list[tuple[float, Lane, int]] = attrs.field(factory=list[tuple[float, Lane, int]])
    pauses: list[tuple[float, float]] = attrs.field(factory=list[tuple[float, float]])
    gave_up: set[int] = attrs.field(factory=set[int])

    async def serve(self, number: int, caller: Caller) -> None:
        await asyncio.sleep(caller.comes_at)
        self.arrivals[caller.lane].append(number)
        granted_at = await self.limiter.acquire(caller.lane)
        self.grants.append((granted_at, caller.lane, number))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(caller.holds_for)
        finally:
            self.in_flight -= 1
            if caller.retry_after is not None:
                self.pauses.append((now(), now() + caller.retry_after))
            self.limiter.release(granted_at, retry_after=caller.retry_after, ok=caller.ok)

    async def serve_all(self, callers: list[Caller]) -> None:
        tasks = [asyncio.create_task(self.serve(number, caller)) for number, caller in enumerate(callers)]
        loop = asyncio.get_running_loop()
        for number, caller in enumerate(callers):
            if caller.gives_up_after is not None:
                loop.call_later(caller.comes_at + caller.gives_up_after, tasks[number].cancel)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for number, outcome in enumerate(outcomes):
            if isinstance(outcome, asyncio.CancelledError):
                self.gave_up.add(number)
            else:
                assert outcome is None


def traffic_of(limiter: RateLimiter, callers: list[Caller]) -> Traffic:
    async def main() -> Traffic:
        traffic = Traffic(limiter)
        await traffic.serve_all(callers)
        return traffic

    return run(main())


moments = st.sampled_from([0.0, 0.0, 0.05, 0.1, 0.2, 0.5, 1.0]) | st.floats(0.0, 3.0)
anyone = st.builds(
    Caller,
    comes_at=moments,
    lane=st.sampled_from(Lane),
    holds_for=moments,
    ok=st.booleans(),
    retry_after=st.sampled_from([None, None, None, 0.0, 0.5, 2.0]),
    gives_up_after=st.sampled_from([None, None, None]) | moments,
)
crowds = st.lists(anyone, min_size=1, max_size=40)
limits = st.sampled_from([None, 0.5, 3.0, 10.0, 100.0])
slots = st.integers(1, 5)


@settings(deadline=None)
@given(crowd=crowds, slots=slots, limit=limits)
def test_any_traffic_keeps_the_promises(crowd: list[Caller], slots: int, limit: float | None) -> None:
    limiter = RateLimiter(slots, limit)
    traffic = traffic_of(limiter, crowd)
    event(f"gave up while waiting: {len(traffic.gave_up) > 0}, paused: {len(traffic.pauses) > 0}")

    assert traffic.most_in_flight <= slots

    served = {number for _, _, number in traffic.grants}
    assert served | traffic.gave_up == set(range(len(crowd))), "nobody is forgotten"

    for lane, arrived in traffic.arrivals.items():
        in_order = [number for number in arrived if number in served]
        assert [number for _, at, number in traffic.grants if at == lane] == in_order, (
            "first come, first served"
        )

    times = sorted(granted_at for granted_at, _, _ in traffic.grants)
    for start, end in traffic.pauses:
        assert not [time for time in times if start < time < end - EPSILON], "nobody goes during a pause"

    if limit is not None:
        for first, start in enumerate(times):
            for last, end in enumerate(times[first:], start=first):
                assert last - first + 1 <= (end - start + SLACK) * limit + 1 + EPSILON

    after = limiter.statistics()
    assert (after.in_flight, after.waiting) == (0, (0, 0, 0)), "no slot is lost, and no waiter left"
    assert len(served) <= after.granted <= len(crowd)
    assert after.rate_limited == len(traffic.pauses)


@settings(deadline=None)
@given(crowd=crowds, slots=slots)
def test_after_any_traffic_all_slots_are_there(crowd: list[Caller], slots: int) -> None:
    limiter = RateLimiter(slots)

    async def main() -> None:
        await Traffic(limiter).serve_all(crowd)
        await asyncio.sleep(1000)  # whatever pause there was is over
        tasks = [asyncio.create_task(limiter.acquire()) for _ in range(slots + 1)]
        await asyncio.sleep(1000)
        assert [task.done() for task in tasks] == [True] * slots + [False]
        limiter.release(0.0)
        await tasks[-1]
        for _ in range(slots):
            limiter.release(0.0)

    run(main())


@settings(deadline=None)
@given(crowd=st.lists(st.sampled_from(Lane), min_size=30, max_size=80), slots=slots)
def test_no_lane_starves_in_a_crowd(crowd: list[Lane], slots: int) -> None:
    traffic = traffic_of(RateLimiter(slots), [Caller(0.0, lane) for lane in crowd])
    order = [lane for _, lane, _ in traffic.grants][slots:]  # the first ones did not wait
    waiting = Counter(order)
    since: Counter[Lane] = Counter()
    for lane in order:
        since[lane] = 0
        waiting[lane] -= 1
        for other in Lane:
            if other is not lane and waiting[other]:
                since[other] += 1
                others = (WEIGHTS[one] // WEIGHTS[other] + 1 for one in Lane if one is not other)
                assert since[other] <= sum(others)


async def finish(limiter: RateLimiter, *granted: float) -> None:
    for granted_at in granted:
        limiter.release(granted_at)
    await asyncio.sleep(0)


def test_slots_are_bounded_and_passed_on() -> None:
    async def main() -> None:
        limiter = RateLimiter(2)
        first, _ = await limiter.acquire(), await limiter.acquire()
        waiting = asyncio.create_task(limiter.acquire())
        await asyncio.sleep(10)
        assert not waiting.done()
        limiter.release(first)
        assert await waiting == 10.0
        assert limiter.statistics().in_flight == 2

    run(main())


def test_a_destroy_does_not_wait_behind_five_hundred_polls() -> None:
    polls = [Caller(0.0, Lane.POLL) for _ in range(500)]
    traffic = traffic_of(RateLimiter(1), [*polls, Caller(5.05, Lane.READ), Caller(5.05, Lane.CHANGE)])
    order = [number for _, _, number in traffic.grants]
    assert order[51:53] == [501, 500], "the change, then the read, as soon as the next slot is free"


def test_a_pause_holds_for_everybody_and_ends_staggered() -> None:
    async def main() -> list[float]:
        limiter = RateLimiter(10)
        for _ in range(10):
            limiter.release(await limiter.acquire(), ok=True)
        refused = [await limiter.acquire() for _ in range(10)]
        limiter.release(refused[0], retry_after=5.0)
        assert limiter.statistics().paused_for == 5.0
        turns = [asyncio.create_task(limiter.acquire(lane)) for lane in (Lane.POLL, Lane.READ, Lane.CHANGE)]
        await asyncio.sleep(1.0)
        limiter.release(refused[1], retry_after=6.0)
        for granted_at in refused[2:]:
            limiter.release(granted_at)
        await asyncio.wait(turns)
        assert limiter.statistics().per_second == pytest.approx(7.0)
        assert limiter.statistics().paused_for == 0.0
        poll, read, change = (turn.result() for turn in turns)
        assert change < read < poll
        assert min(read - change, poll - read) >= 1 / 7.0 - SLACK
        return [change, read, poll]

    assert run(main())[0] == pytest.approx(7.0), "the longer of two pauses holds"


def test_who_comes_during_a_pause_waits_although_slots_are_free() -> None:
    async def main() -> float:
        limiter = RateLimiter(10)
        limiter.release(await limiter.acquire(), retry_after=3.0)
        return await limiter.acquire(Lane.CHANGE)

    assert run(main()) == pytest.approx(3.0)


def test_the_pace_falls_with_429_and_rises_with_success() -> None:
    async def main() -> tuple[float, float]:
        limiter = RateLimiter(100)
        assert limiter.statistics().per_second is None
        granted = [await limiter.acquire() for _ in range(100)]
        for granted_at in granted[:50]:
            limiter.release(granted_at, ok=True)
        for granted_at in granted[50:]:
            limiter.release(granted_at, retry_after=1.0)
        lowest = limiter.statistics().per_second
        assert lowest is not None
        assert limiter.statistics().rate_limited == 50
        for turn in [asyncio.create_task(limiter.acquire()) for _ in range(200)]:
            limiter.release(await turn, ok=True)
        highest = limiter.statistics().per_second
        assert highest is not None
        return lowest, highest

    lowest, highest = run(main())
    assert lowest == pytest.approx(35.0), "once for the whole burst, and to a share of what got through"
    assert highest > 100.0, "it searches, until it is refused again"


def test_requests_that_are_refused_while_nobody_waits_do_not_raise_the_pace() -> None:
    async def main() -> None:
        limiter = RateLimiter(10)
        limiter.release(await limiter.acquire(), retry_after=0.0)
        before = limiter.statistics().per_second
        limiter.release(await limiter.acquire(), ok=False)
        limiter.release(await limiter.acquire(), ok=True)
        assert limiter.statistics().per_second == before

    run(main())


@pytest.mark.parametrize("lane", list(Lane))
def test_a_waiter_that_is_cancelled_takes_nobodys_turn(lane: Lane) -> None:
    async def main() -> None:
        limiter = RateLimiter(1)
        held = await limiter.acquire()
        tasks = [asyncio.create_task(limiter.acquire(lane)) for _ in range(3)]
        await asyncio.sleep(0)
        assert sum(limiter.statistics().waiting) == 3
        tasks[1].cancel()
        await asyncio.sleep(0)
        assert sum(limiter.statistics().waiting) == 2
        await finish(limiter, held)
        await finish(limiter, await tasks[0])
        await finish(limiter, await tasks[2])
        assert limiter.statistics().in_flight == 0

    run(main())


def test_a_waiter_that_is_cancelled_as_its_turn_comes_passes_it_on() -> None:
    async def main() -> None:
        limiter = RateLimiter(1)
        held = await limiter.acquire()
        unlucky, next_one = (asyncio.create_task(limiter.acquire()) for _ in range(2))
        await asyncio.sleep(0)
        limiter.release(held)
        unlucky.cancel()
        limiter.release(await next_one)
        assert unlucky.cancelled()
        assert limiter.statistics().in_flight == 0

    run(main())


def test_who_comes_before_a_late_timer_has_run_does_not_overtake() -> None:
    limiter = RateLimiter(10)
    loop = FakeTimeLoop()

    async def main() -> None:
        limiter.release(await limiter.acquire(), retry_after=5.0)
        order: list[str] = []

        async def come(name: str) -> None:
            await limiter.acquire()
            order.append(name)

        first = asyncio.create_task(come("first"))
        await asyncio.sleep(0)
        loop.be_busy_for(100.0)
        await come("second")
        await first
        assert order == ["first", "second"]

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main())


def test_a_waiter_that_was_cancelled_does_not_tie_the_limiter_to_its_loop() -> None:
    limiter = RateLimiter(1)

    async def wait_in_vain() -> None:
        limiter.release(await limiter.acquire(), retry_after=60.0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await limiter.acquire()

    with asyncio.Runner(loop_factory=FakeTimeLoop) as one, asyncio.Runner(loop_factory=FakeTimeLoop) as other:
        one.run(wait_in_vain())
        assert other.run(limiter.acquire()) == 60.0


@pytest.mark.parametrize("fails", [False, True])
def test_a_slot_is_held_for_the_body_of_the_block(fails: bool) -> None:
    async def main() -> None:
        limiter = RateLimiter(1)
        with pytest.raises(LookupError) if fails else nullcontext():
            async with limiter.slot(Lane.CHANGE):
                assert limiter.statistics().in_flight == 1
                if fails:
                    raise LookupError
        assert limiter.statistics().in_flight == 0

    run(main())


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((0,), "max_in_flight is 0"),
        ((-1,), "max_in_flight is -1"),
        ((1, 0.0), "max_per_second is 0.0"),
        ((1, -1.0), "max_per_second is -1.0"),
        ((1, float("inf")), "max_per_second is inf"),
        ((1, float("nan")), "max_per_second is nan"),
    ],
)
def test_a_limit_that_lets_nothing_through_is_refused(arguments: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        RateLimiter(*arguments)


def test_statistics_tell_what_it_does() -> None:
    limiter = RateLimiter(3, 10.0)
    idle = LimiterStatistics(
        in_flight=0,
        max_in_flight=3,
        waiting=(0, 0, 0),
        granted=0,
        rate_limited=0,
        paused_for=0.0,
        per_second=10.0,
    )
    assert limiter.statistics() == idle
    assert limiter.max_in_flight == 3
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        limiter.statistics().granted = 5  # type: ignore[misc]

    async def main() -> None:
        limiter.release(await limiter.acquire(), retry_after=2.0)
        lanes = [Lane.CHANGE, *[Lane.READ] * 2, *[Lane.POLL] * 3]
        tasks = [asyncio.create_task(limiter.acquire(lane)) for lane in lanes]
        await asyncio.sleep(0.5)
        assert limiter.statistics() == attrs.evolve(
            idle,
            waiting=(1, 2, 3),
            granted=1,
            rate_limited=1,
            paused_for=1.5,
            per_second=5.0,
            reason="pause",
            ready_in=1.5,
        )
        assert repr(limiter) == "<RateLimiter 0/3 in flight, 1/2/3 waiting, 5/s, paused for 1.5 s>"
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    run(main())
    assert repr(RateLimiter()) == "<RateLimiter 0/32 in flight, 0/0/0 waiting>"


def test_it_says_who_waits_for_what_until_when() -> None:
    async def main() -> None:
        limiter = RateLimiter(1, 2.0)
        held = await limiter.acquire()
        waiting = [asyncio.create_task(limiter.acquire()) for _ in range(2)]
        await asyncio.sleep(0.1)
        assert repr(limiter) == "<RateLimiter 1/1 in flight, 0/2/0 waiting, 2/s, for a slot>"
        limiter.release(held, ok=True)
        assert limiter.statistics().reason == "pace"
        assert (
            repr(limiter) == "<RateLimiter 0/1 in flight, 0/2/0 waiting, 2/s, for the pace: next in 0.40 s>"
        )
        limiter.release(await waiting[0], limits=Limits(limit=100.0, window=60.0, remaining=0.0, reset=30.0))
        assert limiter.statistics().reason == "quota"
        assert repr(limiter) == "<RateLimiter 0/1 in flight, 0/1/0 waiting, 1.67/s, quota used up for 30.0 s>"
        assert await waiting[1] == pytest.approx(30.495)

    run(main())


def test_what_an_engine_says_is_left_is_not_overdrawn() -> None:
    async def main() -> None:
        limiter = RateLimiter(10)
        word = Limits(limit=100.0, window=1.0, remaining=3.0, reset=1.0)
        limiter.release(await limiter.acquire(), ok=True, limits=word)
        turns = [asyncio.create_task(limiter.acquire()) for _ in range(6)]
        await asyncio.sleep(0.5)
        assert [turn.done() for turn in turns] == [True] * 3 + [False] * 3
        assert limiter.statistics().reason == "quota"
        await asyncio.sleep(1.0)
        assert all(turn.done() for turn in turns), "after the reset there is more"

    run(main())


def test_an_answer_that_says_there_is_more_lets_more_go_at_once() -> None:
    async def main() -> float:
        limiter = RateLimiter(10)
        word = Limits(limit=1000.0, window=1.0, remaining=1.0, reset=9.0)
        limiter.release(await limiter.acquire(), ok=True, limits=word)
        held = await limiter.acquire()
        waiting = asyncio.create_task(limiter.acquire())
        await asyncio.sleep(1.0)
        assert not waiting.done()
        limiter.release(held, ok=True, limits=attrs.evolve(word, remaining=500.0))
        return await waiting

    assert run(main()) == pytest.approx(1.0)


def test_an_answer_that_is_lost_does_not_stop_what_is_left() -> None:
    async def main() -> float:
        limiter = RateLimiter(2)
        word = Limits(limit=1000.0, window=1.0, remaining=1.0, reset=9.0)
        limiter.release(await limiter.acquire(), ok=True, limits=word)
        held = await limiter.acquire()
        waiting = asyncio.create_task(limiter.acquire())
        await asyncio.sleep(1.0)
        limiter.release(held)
        return await waiting

    assert run(main()) == pytest.approx(1.0)


def test_retry_after_counts_for_more_than_what_the_headers_say() -> None:
    async def main() -> float:
        limiter = RateLimiter(2)
        word = Limits(limit=100.0, window=60.0, remaining=0.0, reset=50.0)
        limiter.release(await limiter.acquire(), retry_after=2.0, limits=word)
        return await limiter.acquire()

    assert run(main()) == pytest.approx(2.0)


@settings(deadline=None, max_examples=25)
@given(
    rate=st.sampled_from([5.0, 20.0, 50.0, 100.0]),
    burst=st.integers(5, 60),
    delay=st.sampled_from([0.0, 0.005, 0.05]),
)
def test_a_hidden_limit_is_found(rate: float, burst: int, delay: float) -> None:
    async def main() -> tuple[float, int, int]:
        limiter = RateLimiter(32)
        tokens, filled_at = float(burst), 0.0
        served = refused_late = 0

        async def work() -> None:
            nonlocal tokens, filled_at, served, refused_late
            while now() < 60.0:
                granted_at = await limiter.acquire()
                await asyncio.sleep(delay / 2)
                tokens, filled_at = min(burst, tokens + (now() - filled_at) * rate), now()
                admitted = tokens >= 1.0
                tokens -= admitted
                served += admitted
                refused_late += not admitted and now() > 5.0
                await asyncio.sleep(delay / 2)
                limiter.release(granted_at, ok=admitted, retry_after=None if admitted else 1.0)

        await asyncio.gather(*(work() for _ in range(100)))
        return now(), served, refused_late

    seconds, served, refused = run(main())
    assert served >= 0.8 * rate * seconds
    assert refused <= 0.05 * served + 3


def test_a_limiter_in_use_belongs_to_its_loop() -> None:
    limiter = RateLimiter(1)
    with asyncio.Runner(loop_factory=FakeTimeLoop) as one, asyncio.Runner(loop_factory=FakeTimeLoop) as other:
        held = one.run(limiter.acquire())
        with pytest.raises(WrongEventLoopError, match="another event loop"):
            other.run(limiter.acquire())

        async def release() -> None:
            limiter.release(held)

        one.run(release())
        other.run(limiter.acquire())
        assert limiter.statistics().in_flight == 1


def test_a_limiter_that_was_in_use_on_a_loop_that_is_closed_starts_anew() -> None:
    limiter = RateLimiter(1)

    run(limiter.acquire())
    run(limiter.acquire())
    assert limiter.statistics().in_flight == 1


def test_a_slot_that_was_never_granted_can_be_reported_without_harm() -> None:
    limiter = RateLimiter(1)
    limiter.release(0.0, retry_after=1.0)
    assert limiter.statistics().rate_limited == 1


def test_the_pace_holds_on_a_real_loop_as_well() -> None:
    async def main() -> None:
        limiter = RateLimiter(10, 200.0)
        loop = asyncio.get_running_loop()
        start = loop.time()

        async def request() -> None:
            async with limiter.slot():
                await asyncio.sleep(0.001)

        await asyncio.gather(*(request() for _ in range(60)))
        assert loop.time() - start >= 59 / 200.0 - SLACK - EPSILON
        assert limiter.statistics().granted == 60

    asyncio.run(main(), debug=True)


def test_a_waiter_that_is_closed_takes_no_slot() -> None:
    async def main() -> None:
        limiter = RateLimiter(1)
        held = await limiter.acquire()
        closed, granted = limiter.acquire(), limiter.acquire()
        closed.send(None)
        granted.send(None)
        closed.close()
        limiter.release(held)
        assert limiter.statistics().in_flight == 1
        granted.close()  # its slot came in the same moment
        assert limiter.statistics().in_flight == 0
        limiter.release(await limiter.acquire())

    run(main())


def test_a_waiter_that_is_closed_after_its_loop_harms_nobody() -> None:
    limiter = RateLimiter(1)
    waiters = [limiter.acquire(), limiter.acquire()]

    async def main() -> None:
        limiter.release(await limiter.acquire(), retry_after=5.0)
        for waiter in waiters:
            waiter.send(None)

    run(main())
    for waiter in waiters:
        waiter.close()
    run(limiter.acquire())
