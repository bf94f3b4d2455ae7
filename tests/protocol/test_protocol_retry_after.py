"""Retry-After: seconds, decimals or an HTTP-date; 0 is honoured, nonsense ignored."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorpool_async.protocol.retry_after import LONGEST, clock_offset, parse_retry_after, retry_after_of


NOW = datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC).timestamp()


@pytest.fixture(params=["UTC", "America/New_York", "Asia/Kolkata"])
def local_zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Stand the machine in another time zone."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", request.param)
        time.tzset()
        yield request.param
    time.tzset()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("5", 5.0),
        ("005", 5.0),
        (" 5 ", 5.0),
        ("1.5", 1.5),
        ("2.", 2.0),
        (".25", 0.25),
        ("86400", 86_400.0),
    ],
)
def test_numbers_are_seconds(value: str, seconds: float) -> None:
    assert parse_retry_after(value, NOW) == seconds


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "soon",
        "-1",
        "+5",
        "1e3",
        "1,5",
        "5 s",
        "0x10",
        "NaN",
        "inf",
        "٣",  # a digit, and none that HTTP has
        "86401",
        "9" * 400,
        "Sun, 06 Nov 1994 08:49:37 +99999999",
        "Sun, 99 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 9999999999999999999 08:49:37 GMT",
        "Mon, 06 Nov 1995 08:49:37 GMT",  # a year from now
    ],
)
def test_nonsense_is_ignored(value: str) -> None:
    assert parse_retry_after(value, NOW) is None


@pytest.mark.parametrize(
    "value",
    [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
        "Sun, 06 Nov 1994 08:49:37 -0000",
        "Sun, 06 Nov 1994 09:49:37 +0100",
    ],
)
def test_every_form_of_a_date_is_held_against_the_time_of_the_answer(value: str, local_zone: str) -> None:
    assert parse_retry_after(value, NOW - 7.5) == 7.5


def test_a_date_that_is_over_means_at_once() -> None:
    assert parse_retry_after("Sun, 06 Nov 1994 08:49:37 GMT", NOW + 3600) == 0.0


def test_a_date_is_held_against_the_date_of_the_answer_where_it_has_one() -> None:
    asked_for, sent = "Sun, 06 Nov 1994 08:49:47 GMT", "Sun, 06 Nov 1994 08:49:37 GMT"
    wrong_clock = NOW + 1_000_000
    assert retry_after_of({"Retry-After": asked_for, "Date": sent}, wrong_clock) == 10.0
    assert retry_after_of({"Retry-After": asked_for, "Date": "today"}, NOW) == 10.0
    assert retry_after_of({"Retry-After": asked_for}, NOW) == 10.0


def test_without_the_header_nothing_is_asked_for() -> None:
    assert retry_after_of({"Date": "Sun, 06 Nov 1994 08:49:37 GMT"}, NOW) is None


@pytest.mark.parametrize(
    ("date", "offset"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", 10.5),
        ("Sun Nov  6 08:49:37 1994", 10.5),
        ("today", 0.0),
        ("", 0.0),
        (None, 0.0),
    ],
)
def test_the_engines_clock_is_known_from_its_date(date: str | None, offset: float) -> None:
    assert clock_offset(date, NOW - 10) == offset


@given(
    moment=st.datetimes(datetime(1971, 1, 1), datetime(2100, 1, 1)),  # noqa: DTZ001 - hypothesis adds the zone
    wait=st.integers(0, int(LONGEST)),
)
def test_any_date_within_a_day_is_understood(moment: datetime, wait: int) -> None:
    until = moment.replace(microsecond=0, tzinfo=UTC)
    header = format_datetime(until, usegmt=True)
    assert parse_retry_after(header, until.timestamp() - wait) == wait


SCRAPS = st.sampled_from(
    [
        "Sun",
        ", ",
        "06",
        " ",
        "Nov",
        "-",
        "94",
        "1994",
        ":",
        "08:49:37",
        "GMT",
        "-0000",
        "+9999",
        "٣",
        "\x00",
        ".",
    ]
)


@given(
    value=st.text() | st.lists(SCRAPS).map("".join) | st.from_regex(r"\A[-+]?[0-9]*\.?[0-9]*\Z"),
    date=st.text() | st.lists(SCRAPS).map("".join),
    now=st.floats(0, 1e11),
)
def test_no_text_raises_or_asks_for_less_than_nothing(value: str, date: str, now: float) -> None:
    for seconds in (parse_retry_after(value, now), retry_after_of({"Retry-After": value, "Date": date}, now)):
        assert seconds is None or 0.0 <= seconds <= LONGEST
