"""The pace: found out from what the engine answers, with times that are passed in."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorpool_async.protocol.pace import DECREASE, INCREASE, SLACK, SLOWEST, Pace


def paced(times: list[float], max_per_second: float | None = None) -> Pace:
    pace = Pace(max_per_second)
    for now in times:
        pace.take(now)
    return pace


def test_without_a_limit_all_may_go_at_once() -> None:
    pace = paced([0.0] * 1000)
    assert pace.rate is None
    assert pace.ready_at == -inf
    assert pace.paused_until == -inf


def test_a_limit_spaces_requests_evenly() -> None:
    pace = paced([100.0], max_per_second=10.0)
    first = pace.ready_at
    assert first == pytest.approx(100.1 - SLACK)
    pace.take(first)
    assert pace.ready_at == pytest.approx(first + 0.1)


def test_time_in_which_nobody_asked_is_not_saved_up() -> None:
    pace = paced([0.0, 1000.0], max_per_second=10.0)
    assert pace.ready_at >= 1000.1 - SLACK


def test_a_late_timer_is_made_up_for() -> None:
    on_time, late, too_late = (paced([0.0, 0.1 - SLACK + delay], 10.0) for delay in (0.0, SLACK, 2 * SLACK))
    assert late.ready_at == pytest.approx(on_time.ready_at)
    assert too_late.ready_at == pytest.approx(on_time.ready_at + SLACK)


def test_a_429_pauses_everybody_until_then() -> None:
    pace = paced([0.0])
    pace.throttled(1.0, 0.0, 5.0)
    assert pace.paused_until == pace.ready_at == 6.0
    pace.throttled(1.5, 0.0, 1.0)
    assert pace.paused_until == 6.0, "a shorter wait does not end a longer one"
    pace.throttled(2.0, 0.0, 30.0)
    assert pace.paused_until == 32.0


def test_after_a_pause_requests_are_staggered() -> None:
    pace = paced([i / 10 for i in range(10)])
    pace.throttled(1.0, 0.9, 5.0)
    assert pace.rate is not None
    pace.take(6.0)
    assert pace.ready_at == pytest.approx(6.0 + 1 / pace.rate, abs=SLACK)


def test_a_429_lowers_the_pace_to_a_share_of_what_was_sent() -> None:
    pace = paced([i / 100 for i in range(100)])
    pace.throttled(1.0, 0.99, 0.0)
    assert pace.rate == pytest.approx(100 * DECREASE)


@pytest.mark.parametrize("answered_at", [0.0, 0.1])
def test_a_burst_that_is_refused_together_lowers_the_pace_once(answered_at: float) -> None:
    pace = paced([0.0] * 50)
    for _ in range(50):
        pace.throttled(answered_at, 0.0, 1.0)
    assert pace.rate == pytest.approx(50 * DECREASE)


def test_a_429_to_what_was_sent_after_that_lowers_it_again() -> None:
    pace = paced([0.0] * 50)
    pace.throttled(0.1, 0.0, 0.1)
    pace.take(0.2)
    pace.throttled(0.3, 0.2, 0.1)
    assert pace.rate is not None
    assert pace.rate < 50 * DECREASE


def test_the_pace_never_falls_below_the_slowest() -> None:
    pace = Pace()
    for now in range(100):
        pace.take(float(now))
        pace.throttled(float(now), float(now), 0.0)
    assert pace.rate == SLOWEST


def test_the_pace_rises_by_a_share_in_a_second_of_success_that_had_to_wait() -> None:
    pace = paced([0.0] * 100)
    pace.throttled(0.0, 0.0, 0.0)
    before = pace.rate
    assert before is not None
    for _ in range(int(before)):
        pace.succeeded(waited=True)
    assert pace.rate == pytest.approx(before * (1 + INCREASE))


def test_success_that_did_not_wait_proves_nothing() -> None:
    pace = paced([0.0] * 100)
    pace.succeeded(waited=True)
    assert pace.rate is None, "nothing bounds it, so there is nothing to raise"
    pace.throttled(0.0, 0.0, 0.0)
    before = pace.rate
    pace.succeeded(waited=False)
    assert pace.rate == before


def test_the_callers_limit_is_an_upper_bound() -> None:
    pace = paced([0.0] * 100, max_per_second=0.1)
    pace.throttled(0.0, 0.0, 0.0)
    for _ in range(10_000):
        pace.succeeded(waited=True)
    assert pace.rate == 0.1


@given(
    rate=st.floats(0.1, 2000.0),
    gaps=st.lists(st.floats(0.0, 2.0) | st.floats(0.0, 0.01), min_size=1, max_size=60),
)
def test_no_window_holds_more_than_the_limit_and_its_slack(rate: float, gaps: list[float]) -> None:
    pace = Pace(rate)
    now, times = 0.0, list[float]()
    for gap in gaps:  # somebody always wants to go, and comes `gap` later than allowed
        now = max(now, pace.ready_at if times else 0.0) + gap
        pace.take(now)
        times.append(now)
    for first, start in enumerate(times):
        for last, end in enumerate(times[first:], start=first):
            assert last - first + 1 <= (end - start + SLACK) * rate + 1 + 1e-6
