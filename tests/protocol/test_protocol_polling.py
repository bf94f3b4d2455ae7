"""When to poll next: never earlier than the engine asks, jitter only upwards."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorpool_async.protocol.polling import LONGEST_FAILURE_DELAY, PollPolicy, delay_after, first_delay


seconds = st.floats(0.0, 86_400.0)
shares = st.floats(0.0, 1.0)
failures = st.integers(0, 10_000)
policies = st.builds(PollPolicy, default=seconds, initial=seconds, minimum=seconds, jitter=shares)


@pytest.mark.parametrize("retry_after", [0.0, 0.2, 1.0, 3600.0])
def test_the_pace_is_the_engines(retry_after: float) -> None:
    assert delay_after(PollPolicy(), retry_after, failures=0, jitter=0.0) == retry_after
    assert delay_after(PollPolicy(), retry_after, failures=9, jitter=0.0) == retry_after
    assert first_delay(PollPolicy(), retry_after, 0.0) == retry_after


def test_without_the_header_the_policy_decides() -> None:
    policy = PollPolicy(default=3.0, initial=0.25)
    assert delay_after(policy, None, failures=0, jitter=0.0) == 3.0
    assert first_delay(policy, None, 0.0) == 0.25


def test_polls_that_fail_grow_rarer_and_never_stop() -> None:
    delays = [delay_after(PollPolicy(default=2.0), None, failures=n, jitter=0.0) for n in range(1, 7)]
    assert delays == [2.0, 4.0, 8.0, 16.0, LONGEST_FAILURE_DELAY, LONGEST_FAILURE_DELAY]
    assert delay_after(PollPolicy(), None, failures=10**6, jitter=0.0) == LONGEST_FAILURE_DELAY


def test_a_default_of_nothing_does_not_hammer_an_engine_that_fails() -> None:
    policy = PollPolicy(default=0.0)
    assert delay_after(policy, None, failures=0, jitter=0.0) == 0.0
    assert delay_after(policy, None, failures=1, jitter=0.0) > 0.0


def test_minimum_maximum_and_override_do_as_their_names_say() -> None:
    assert delay_after(PollPolicy(minimum=5.0), 1.0, failures=0, jitter=0.0) == 5.0
    assert delay_after(PollPolicy(maximum=5.0), 60.0, failures=0, jitter=0.0) == 5.0
    assert delay_after(PollPolicy(override=0.5), 60.0, failures=7, jitter=1.0) == 0.5


@given(policy=policies, retry_after=seconds, failures=failures, jitter=shares)
def test_never_earlier_than_the_engine_asks(
    policy: PollPolicy, retry_after: float, failures: int, jitter: float
) -> None:
    delay = delay_after(policy, retry_after, failures=failures, jitter=jitter)
    assert delay >= max(retry_after, policy.minimum)
    assert delay <= max(retry_after, policy.minimum) * (1.0 + policy.jitter)
    assert first_delay(policy, retry_after, jitter) >= retry_after


@given(
    policy=policies,
    maximum=st.floats(0.001, 100.0),
    retry_after=st.none() | seconds,
    failures=failures,
    jitter=shares,
)
def test_never_later_than_the_maximum(
    policy: PollPolicy, maximum: float, retry_after: float | None, failures: int, jitter: float
) -> None:
    bounded = PollPolicy(
        default=policy.default, minimum=policy.minimum, maximum=maximum, jitter=policy.jitter
    )
    assert 0.0 <= delay_after(bounded, retry_after, failures=failures, jitter=jitter) <= maximum


@given(policy=policies, failures=failures, retry_after=st.none() | seconds)
def test_jitter_goes_upwards_only(policy: PollPolicy, failures: int, retry_after: float | None) -> None:
    delays = [
        delay_after(policy, retry_after, failures=failures, jitter=jitter) for jitter in (0.0, 0.5, 1.0)
    ]
    assert delays == sorted(delays)


@pytest.mark.parametrize(
    "wrong",
    [
        {"default": -1.0},
        {"default": float("nan")},
        {"initial": -0.1},
        {"minimum": -1.0},
        {"maximum": 0.0},
        {"override": -1.0},
        {"jitter": 1.5},
        {"jitter": -0.1},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PollPolicy(**wrong)
