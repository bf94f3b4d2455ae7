"""The pace: found out from what the engine answers, with times that are passed in."""

from __future__ import annotations

from math import inf

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorpool_async.protocol.adaptive_rate import (
    DECREASE,
    LONG_HOLD,
    SHORT_HOLD,
    SLACK,
    SLOWEST,
    START,
    AdaptiveRate,
    Burst,
    sustained_rate,
)
from tensorpool_async.protocol.rate_limits import Limits
from tests.benchmarks.simulated_flow import fall, steady


def paced(times: list[float], max_per_second: float | None = None) -> AdaptiveRate:
    """Return a pace with requests that went at these times, and got through."""
    pace = AdaptiveRate(max_per_second)
    for now in times:
        pace.record_send(now)
        pace.passed(now, waited=False)
    return pace


@attrs.define
class Bucket:
    """An engine's hidden token bucket, and a client that always has something to send."""

    rate: float
    burst: float
    pace: AdaptiveRate = attrs.field(factory=AdaptiveRate)
    now: float = 0.0
    passed: int = 0
    refused: list[float] = attrs.field(factory=list[float])
    _tokens: float = attrs.field(init=False)
    _filled_at: float = 0.0

    def __attrs_post_init__(self) -> None:
        self._tokens = self.burst

    def run(self, until: float) -> None:
        while True:
            self.now = max(self.now + 0.0005, self.pace.ready_at)
            if self.now >= until:
                return
            self.pace.record_send(self.now)
            self._tokens = min(self.burst, self._tokens + (self.now - self._filled_at) * self.rate)
            self._filled_at = self.now
            if self._tokens >= 1.0:
                self._tokens -= 1.0
                self.passed += 1
                self.pace.passed(self.now, waited=True)
            else:
                self.refused.append(self.now)
                self.pace.throttled(self.now, self.now, 1.0)


def rate_of(pace: AdaptiveRate) -> float:
    assert pace.rate is not None
    return pace.rate


def test_without_a_limit_all_may_go_at_once() -> None:
    pace = paced([0.0] * 1000)
    assert pace.rate is None
    assert pace.ready_at == -inf
    assert pace.paused_until == -inf
    assert pace.bound_at(0.0) is None


def test_a_limit_spaces_requests_evenly() -> None:
    pace = paced([100.0], max_per_second=10.0)
    first = pace.ready_at
    assert first == pytest.approx(100.1 - SLACK)
    assert pace.bound_at(100.0) == "pace"
    pace.record_send(first)
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
    assert pace.bound_at(1.0) == "pause"
    pace.throttled(1.5, 0.0, 1.0)
    assert pace.paused_until == 6.0, "a shorter wait does not end a longer one"
    pace.throttled(2.0, 0.0, 9.0)
    assert pace.paused_until == 11.0


def test_after_a_pause_requests_are_staggered_whatever_the_burst_was() -> None:
    pace = paced([0.9] * 100)
    pace.throttled(1.0, 0.9, 5.0)
    pace.record_send(6.0)
    assert pace.ready_at == pytest.approx(6.0 + 1 / rate_of(pace))


@pytest.mark.parametrize("answered_at", [0.0, 0.1])
def test_a_burst_that_is_refused_together_lowers_the_pace_once(answered_at: float) -> None:
    pace = paced([0.0] * 50)
    for _ in range(50):
        pace.throttled(answered_at, 0.0, 1.0)
    assert rate_of(pace) == pytest.approx(50 * DECREASE)


def test_what_got_through_with_a_burst_counts_although_it_is_answered_late() -> None:
    pace = paced([0.0] * 10)
    pace.throttled(0.1, 0.0, 1.0)
    for _ in range(30):
        pace.passed(0.0, waited=False)
    pace.record_send(1.1)
    assert rate_of(pace) == pytest.approx(40 * DECREASE)
    for _ in range(10):
        pace.passed(0.05, waited=False)
    pace.throttled(1.3, 1.1, 1.0)
    assert rate_of(pace) == pytest.approx(50 * DECREASE * DECREASE)


def test_a_handful_of_requests_does_not_crawl_after_a_429() -> None:
    pace = paced([0.0, 0.1])
    pace.throttled(0.2, 0.15, 1.0)
    assert rate_of(pace) == START
    now = 1.2
    for _ in range(20):
        now = max(now, pace.ready_at)
        pace.record_send(now)
        pace.passed(now, waited=True)
    assert now - 1.2 < 2.5


def test_the_pace_never_falls_below_the_slowest() -> None:
    pace = AdaptiveRate()
    for now in range(100):
        pace.record_send(float(now))
        pace.throttled(float(now), float(now), 0.0)
    assert pace.rate == SLOWEST


def test_success_that_nobody_had_to_wait_for_proves_nothing() -> None:
    pace = paced([0.0] * 10)
    pace.passed(0.0, waited=True)
    assert pace.rate is None, "nothing bounds it, so there is nothing to raise"
    pace.throttled(0.1, 0.05, 0.0)
    before = rate_of(pace)
    pace.passed(0.2, waited=False)
    assert rate_of(pace) == before
    pace.passed(0.3, waited=True)
    assert rate_of(pace) > before


def test_the_callers_limit_is_an_upper_bound() -> None:
    pace = paced([0.0], max_per_second=3.0)
    pace.throttled(0.0, 0.0, 0.0)
    for moment in range(1, 1000):
        pace.passed(float(moment), waited=True)
    assert pace.rate == 3.0


def test_a_hidden_limit_is_found_within_seconds_and_held() -> None:
    bucket = Bucket(50.0, 10.0)
    bucket.run(5.0)
    assert rate_of(bucket.pace) == pytest.approx(50.0, rel=0.1)
    found = len(bucket.refused)
    assert found <= 2 + 1
    bucket.run(5.0 + LONG_HOLD - 2.0)
    assert len(bucket.refused) == found, "no probe during the hold"
    bucket.run(120.0)
    assert bucket.passed >= 0.9 * 50.0 * 120.0
    assert len(bucket.refused) <= found + 1 + 105.0 / LONG_HOLD


def test_a_limit_that_falls_is_followed_and_comes_back_soon() -> None:
    bucket = Bucket(50.0, 10.0)
    bucket.run(30.0)
    bucket.rate = 10.0
    bucket.run(35.0)
    assert rate_of(bucket.pace) <= 15.0
    bucket.run(50.0)
    assert len([at for at in bucket.refused if at > 35.0]) <= 15.0 / SHORT_HOLD + 2
    bucket.rate = 50.0
    bucket.run(65.0)
    assert rate_of(bucket.pace) >= 0.8 * 50.0


def test_a_429_while_a_rate_is_held_never_raises_it() -> None:
    bucket = Bucket(50.0, 10.0)
    bucket.run(6.0)
    before = rate_of(bucket.pace)
    bucket.pace.record_send(6.0)
    bucket.pace.throttled(6.0, 6.0, 1.0)
    assert DECREASE * before <= rate_of(bucket.pace) <= before


def test_a_429_that_shows_nothing_lowers_the_rate_by_a_share() -> None:
    bucket = Bucket(50.0, 10.0)
    bucket.run(6.0)
    bucket.pace.record_send(6.0)
    bucket.pace.throttled(6.0, 6.0, 1.0)
    before = rate_of(bucket.pace)
    bucket.pace.record_send(7.0)
    bucket.pace.throttled(7.0, 7.0, 1.0)
    assert rate_of(bucket.pace) == pytest.approx(before * DECREASE)


def test_a_quotas_end_pauses_and_leaves_the_pace() -> None:
    pace = paced([0.0] * 10)
    pace.throttled(0.1, 0.05, 60.0)
    assert pace.rate is None
    assert pace.bound_at(1.0) == "quota"
    pace.record_send(60.1)
    assert pace.ready_at == pytest.approx(60.1 + 1 / START), "everybody starts again one after the other"
    pace.record_send(70.0)
    assert pace.ready_at <= 70.0


def test_a_quota_that_ends_soon_leaves_the_pace_as_well() -> None:
    pace = paced([0.0] * 10)
    pace.throttled(0.1, 0.05, 2.0, Limits(limit=100.0, window=60.0, remaining=0.0, reset=2.0))
    assert pace.rate is None


def test_the_engines_word_bounds_the_pace_for_a_while() -> None:
    pace = paced([0.0])
    pace.apply_headers(0.0, Limits(limit=10.0, window=1.0), 0)
    assert pace.rate == 10.0
    pace.record_send(1.0)
    assert pace.ready_at == pytest.approx(1.1 - SLACK)
    pace.record_send(LONG_HOLD)
    assert pace.rate is None


def test_nothing_left_means_nothing_until_the_reset() -> None:
    pace = paced([0.0])
    pace.apply_headers(0.0, Limits(remaining=0.0, reset=3.0), 5)
    assert pace.ready_at == 3.0
    assert pace.bound_at(1.0) == "pause", "it is soon over: a rate, and no quota"
    pace.apply_headers(0.0, Limits(remaining=0.0, reset=30.0), 5)
    assert pace.bound_at(1.0) == "quota"


def test_what_is_under_way_is_taken_from_what_is_left() -> None:
    pace = paced([0.0])
    pace.apply_headers(0.0, Limits(remaining=7.0, reset=3.0), 5)
    pace.record_send(0.0)
    assert pace.ready_at <= 0.0
    pace.record_send(0.0)
    assert pace.ready_at == 3.0
    assert pace.bound_at(1.0) == "quota"
    pace.nothing_under_way()
    assert pace.ready_at <= 0.0
    pace.nothing_under_way()
    pace.record_send(3.0)
    assert pace.ready_at <= 3.0, "the word holds until the reset, and no longer"


def test_retry_after_counts_for_more_than_what_is_left() -> None:
    pace = paced([0.0])
    pace.throttled(0.0, 0.0, 1.0)
    pace.apply_headers(0.0, Limits(remaining=0.0, reset=30.0), 0, waits=True)
    assert pace.ready_at == 1.0


def test_a_rate_is_judged_by_what_got_through() -> None:
    assert sustained_rate([], Burst()) == 0.0
    assert sustained_rate([1.0, 2.0], Burst(), empty_at=0.0) == 1.0, "what came in since the bucket was empty"
    steady = [index / 50 for index in range(500)]
    assert sustained_rate(steady, Burst()) == pytest.approx(50.0)
    assert sustained_rate([0.0] * 10 + steady, Burst(10.0)) == pytest.approx(50.0, rel=0.03)
    assert sustained_rate([0.0] * 100, Burst()) == 0.0, "no time has passed, so nothing is known"


def test_a_burst_is_what_got_through_in_the_second_before() -> None:
    assert Burst.of([], 5.0) == Burst()
    assert Burst.of([3.0, 4.5, 4.75], 5.0) == Burst(2.0, 0.25)


@given(rate=st.floats(1.0, 200.0), burst=st.integers(1, 50))
def test_a_rate_is_never_judged_to_be_more_than_the_bucket_allows(rate: float, burst: int) -> None:
    tokens, filled_at, passed = float(burst), 0.0, list[float]()
    for step in range(2000):
        now = step * 0.005
        tokens, filled_at = min(burst, tokens + (now - filled_at) * rate), now
        if tokens >= 1.0:
            tokens -= 1.0
            passed.append(now)
    assert sustained_rate(passed, Burst(float(burst))) <= rate * 1.01


@given(
    rate=st.floats(0.1, 2000.0),
    gaps=st.lists(st.floats(0.0, 2.0) | st.floats(0.0, 0.01), min_size=1, max_size=60),
    refused=st.sets(st.integers(0, 59)),
)
def test_no_window_holds_more_than_the_callers_limit_and_its_slack(
    rate: float, gaps: list[float], refused: set[int]
) -> None:
    pace = AdaptiveRate(rate)
    now, times = 0.0, list[float]()
    for index, gap in enumerate(gaps):  # somebody always wants to go, and comes `gap` later than allowed
        now = max(now, pace.ready_at if times else 0.0) + gap
        pace.record_send(now)
        times.append(now)
        if index in refused:
            pace.throttled(now, now, 0.1)
        else:
            pace.passed(now, waited=True)
    for first, start in enumerate(times):
        for last, end in enumerate(times[first:], start=first):
            assert last - first + 1 <= (end - start + SLACK) * rate + 1 + 1e-6


@pytest.mark.parametrize(("engine_rate", "burst"), [(10.0, 10.0), (50.0, 10.0), (50.0, 50.0), (200.0, 40.0)])
@pytest.mark.parametrize("latency", [0.004, 0.1])
def test_a_hidden_limit_is_used_and_hardly_ever_exceeded(
    engine_rate: float, burst: float, latency: float
) -> None:
    found = steady(AdaptiveRate, engine_rate, burst, latency, 0.0)
    assert found["used"] >= 0.88
    assert found["used after 5 s"] >= 0.95
    assert found["429 after 5 s"] <= 0.01


def test_a_machine_that_is_busy_costs_little() -> None:
    found = steady(AdaptiveRate, 50.0, 10.0, 0.004, 0.05)
    assert found["used after 5 s"] >= 0.9
    assert found["429 after 5 s"] <= 0.005


def test_what_was_allowed_before_a_fall_is_back_in_seconds() -> None:
    found = fall(AdaptiveRate, 50.0, 10.0, 0.004, 0.0)
    assert found["back after"] <= 3.0
    assert found["used in the fall"] >= 0.95
    assert found["429 in the fall"] <= 0.05
