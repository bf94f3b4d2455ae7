"""Lanes: changes before reads before polls, none starving."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorpool_async.protocol.lanes import WEIGHTS, LaneOrder
from tensorpool_async.protocol.requests import Lane


CHANGE, READ, POLL = (lane.value for lane in Lane)
ALL_WAIT = (True, True, True)

histories = st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), max_size=100)


def order_after(history: Sequence[Sequence[bool]]) -> LaneOrder:
    order = LaneOrder()
    for waiting in history:
        order.next_lane(waiting)
    return order


def served(order: LaneOrder, waiting: Sequence[bool], turns: int) -> list[int | None]:
    return [order.next_lane(waiting) for _ in range(turns)]


def test_nobody_waits_nobody_goes() -> None:
    assert LaneOrder().next_lane((False, False, False)) is None


def test_who_is_equally_far_goes_by_importance() -> None:
    assert served(LaneOrder(), ALL_WAIT, 3) == [CHANGE, READ, POLL]


@pytest.mark.parametrize("start", [0, 1, 5, 20, 100])
def test_of_every_21_that_wait_16_are_changes_4_are_reads_and_1_is_a_poll(start: int) -> None:
    order = LaneOrder()
    served(order, ALL_WAIT, start)
    assert Counter(served(order, ALL_WAIT, 21)) == {CHANGE: 16, READ: 4, POLL: 1}


def test_a_change_that_comes_among_polls_is_the_next_to_go() -> None:
    order = LaneOrder()
    served(order, (False, False, True), 500)
    assert order.next_lane((True, False, True)) == CHANGE


def test_a_read_that_comes_among_polls_is_the_next_to_go() -> None:
    order = LaneOrder()
    served(order, (False, False, True), 500)
    assert order.next_lane((False, True, True)) == READ


def test_a_lane_that_was_empty_has_not_saved_up_turns() -> None:
    order = LaneOrder()
    served(order, (True, False, True), 1000)
    assert Counter(served(order, ALL_WAIT, 21))[READ] <= 5


def test_lanes_that_were_empty_come_back_as_equals() -> None:
    order = LaneOrder()
    served(order, (True, False, False), 5)
    served(order, (False, False, True), 500)
    assert served(order, ALL_WAIT, 2) == [CHANGE, READ]


@given(histories)
def test_only_who_waits_goes(history: list[tuple[bool, bool, bool]]) -> None:
    order = LaneOrder()
    for waiting in history:
        lane = order.next_lane(waiting)
        assert waiting[lane] if lane is not None else not any(waiting)


@given(histories, st.sampled_from([CHANGE, READ, POLL]))
def test_no_lane_starves_whatever_went_before(history: list[tuple[bool, bool, bool]], lane: int) -> None:
    order = order_after(history)
    others = [weight for other, weight in enumerate(WEIGHTS) if other != lane]
    most = sum(weight // WEIGHTS[lane] + 1 for weight in others)
    turns = served(order, ALL_WAIT, most + 1)
    assert lane in turns


@given(histories)
def test_changes_go_before_hundreds_of_others_whatever_went_before(
    history: list[tuple[bool, bool, bool]],
) -> None:
    turns = served(order_after(history), ALL_WAIT, 3)
    assert CHANGE in turns, "a change waits for at most one read and one poll"
