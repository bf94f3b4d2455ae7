"""The budget for retries: enough for a hiccup, little in an outage."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorpool_async.flow import RetryBudget


def paid(budget: RetryBudget, times: list[float]) -> int:
    return sum(budget.pay(time) for time in times)


def test_the_reserve_can_be_used_at_once() -> None:
    budget = RetryBudget(reserve=10.0)
    assert budget.left == 10.0
    assert paid(budget, [0.0] * 20) == 10
    assert budget.left == 0.0


def test_an_outage_leaves_a_trickle() -> None:
    budget = RetryBudget(reserve=10.0, per_second=1.0)
    paid(budget, [0.0] * 20)
    assert paid(budget, [second / 10 for second in range(1, 601)]) == pytest.approx(60, abs=1)


def test_success_brings_retries_in() -> None:
    budget = RetryBudget(reserve=10.0, per_success=0.5, per_second=0.0)
    paid(budget, [0.0] * 10)
    for _ in range(3):
        budget.succeeded()
    assert paid(budget, [0.0] * 5) == 1
    assert budget.left == 0.5


def test_no_more_is_saved_up_than_the_reserve() -> None:
    budget = RetryBudget(reserve=10.0)
    for _ in range(1000):
        budget.succeeded()
    assert budget.left == 10.0
    budget.pay(0.0)
    assert paid(budget, [1_000_000.0] * 50) == 10


@given(
    reserve=st.floats(0.0, 100.0),
    per_success=st.floats(0.0, 2.0),
    per_second=st.floats(0.0, 5.0),
    steps=st.lists(st.none() | st.floats(0.0, 10.0), max_size=200),
)
def test_never_more_than_was_brought_in(
    reserve: float, per_success: float, per_second: float, steps: list[float | None]
) -> None:
    budget = RetryBudget(reserve, per_success, per_second)
    now, retries, successes = 0.0, 0, 0
    for step in steps:
        if step is None:
            budget.succeeded()
            successes += 1
        else:
            now += step
            retries += budget.pay(now)
        assert 0.0 <= budget.left <= reserve
        assert retries <= reserve + successes * per_success + now * per_second + 1e-6
