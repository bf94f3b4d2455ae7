"""The RateLimit headers: three families, and nonsense."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from tensorpool_async.protocol.rate_limits import LONGEST_HEADER, Limits, is_quota, limits_of


NOW = 1_795_500_000.0


def read(**headers: str) -> Limits | None:
    return limits_of(CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()}), NOW)


def three(limit: str, remaining: str, reset: str, prefix: str = "X-RateLimit-") -> Limits | None:
    headers = {f"{prefix}Limit": limit, f"{prefix}Remaining": remaining, f"{prefix}Reset": reset}
    return limits_of(CIMultiDict(headers), NOW)


def test_no_header_says_nothing() -> None:
    assert read(Date="Tue, 24 Nov 2026 06:51:12 GMT", Retry_After="5") is None


@pytest.mark.parametrize(
    ("value", "policy", "expected"),
    [
        ('"a";r=50;t=30', '"a";q=100;w=60', Limits(limit=100, window=60, remaining=50, reset=30)),
        ('"a"; r=50; t=30', '"a"; q=100; w=60', Limits(limit=100, window=60, remaining=50, reset=30)),
        ('"a";r=50', "", Limits(remaining=50)),
        ('"x,y;z";r=1;t=2', '"x,y;z";q=3;w=4', Limits(limit=3, window=4, remaining=1, reset=2)),
        ("limit=100, remaining=50, reset=30", "", Limits(limit=100, remaining=50, reset=30)),
        (
            "limit=10, remaining=5, reset=3",
            "10;w=1, 50;w=60",
            Limits(limit=10, window=1, remaining=5, reset=3),
        ),
        ("", "100;w=60", Limits(limit=100, window=60)),
        ("", '"a";q=10;w=1', Limits(limit=10, window=1)),
    ],
)
def test_the_structured_family(value: str, policy: str, expected: Limits) -> None:
    headers = {"RateLimit": value, "RateLimit-Policy": policy}
    assert limits_of(CIMultiDict({name: text for name, text in headers.items() if text}), NOW) == expected


def test_of_several_policies_the_tightest_counts() -> None:
    policy = '"second";q=10;w=1, "day";q=1000;w=86400'
    used_up = read(RateLimit='"second";r=0;t=1, "day";r=900;t=4000', RateLimit_Policy=policy)
    assert used_up == Limits(limit=10, window=1, remaining=0, reset=1)
    longest = read(RateLimit='"second";r=0;t=1, "day";r=0;t=4000', RateLimit_Policy=policy)
    assert longest == Limits(limit=1000, window=86400, remaining=0, reset=4000)
    slowest = read(RateLimit='"second";r=9;t=1, "day";r=40;t=4000', RateLimit_Policy=policy)
    assert slowest is not None
    assert slowest.window == 86400


def test_policies_that_do_not_count_requests_are_left_alone() -> None:
    policy = '"bytes";q=100;w=2;qu="content-bytes", "requests";q=10;w=1;qu="requests"'
    assert read(RateLimit_Policy=policy) == Limits(limit=10, window=1)
    own = read(RateLimit='"bytes";r=0;t=9;qu="content-bytes", "other";r=1;t=2')
    assert own == Limits(remaining=1, reset=2)
    by_policy = read(RateLimit='"bytes";r=0;t=9, "requests";r=3;t=1', RateLimit_Policy=policy)
    assert by_policy == Limits(limit=10, window=1, remaining=3, reset=1)


@pytest.mark.parametrize("prefix", ["RateLimit-", "X-RateLimit-"])
@pytest.mark.parametrize(
    ("reset", "seconds"),
    [
        ("30", 30.0),
        ("0", 0.0),
        ("1.5", 1.5),
        (str(int(NOW) + 100), 100.0),
        (str(int(NOW) - 100), 0.0),
        (str((int(NOW) + 100) * 1000), 100.0),
        ("1800000", 1800.0),
        (formatdate(NOW + 100, usegmt=True), 100.0),
    ],
)
def test_a_reset_is_a_duration_or_a_time_of_day(prefix: str, reset: str, seconds: float) -> None:
    assert three("60", "0", reset, prefix) == Limits(limit=60, remaining=0, reset=seconds)


def test_times_of_day_are_held_against_the_engines_own_clock() -> None:
    engine_now = NOW + 5000
    headers = {
        "Date": formatdate(engine_now, usegmt=True),
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset": str(int(engine_now) + 100),
    }
    limits = limits_of(CIMultiDict(headers), NOW)
    assert limits is not None
    assert limits.reset == pytest.approx(100.0, abs=1.0)


def test_the_limit_may_bring_its_windows_along() -> None:
    limits = three("10, 10;w=1, 50;w=60", "3", "1", "RateLimit-")
    assert limits == Limits(limit=10, window=1, remaining=3, reset=1)
    assert read(RateLimit_Limit="50", RateLimit_Reset="1", RateLimit_Policy="50;w=60") == Limits(
        limit=50, window=60
    ), "a policy alone says something, too"


def test_a_family_that_makes_no_sense_leaves_the_word_to_the_next() -> None:
    headers = {
        "RateLimit": "?",
        "RateLimit-Reset": "5",
        "X-RateLimit-Remaining": "1",
        "X-RateLimit-Reset": "9",
    }
    assert limits_of(CIMultiDict(headers), NOW) == Limits(remaining=1, reset=9)


@pytest.mark.parametrize(
    "nonsense", ["", "-1", "nan", "inf", "1e9", "٣", "9" * 400, "a" * 2000, ";;;", '"', "=,=;", "0x10"]
)
def test_nonsense_is_ignored(nonsense: str) -> None:
    assert read(RateLimit=nonsense, RateLimit_Policy=nonsense) is None
    limits = three(nonsense, nonsense, "5")
    assert limits is None
    limits = three("60", "0", nonsense)
    assert limits == Limits(limit=60, remaining=0)
    assert len("a" * 2000) > LONGEST_HEADER


@pytest.mark.parametrize("reset", ["500000000", "99999999999999", str(int(NOW) + 200_000)])
def test_a_reset_far_away_is_nonsense(reset: str) -> None:
    assert three("60", "0", reset) == Limits(limit=60, remaining=0)


@given(
    names=st.lists(
        st.sampled_from(
            [
                "RateLimit",
                "RateLimit-Policy",
                "RateLimit-Limit",
                "RateLimit-Remaining",
                "RateLimit-Reset",
                "X-RateLimit-Limit",
                "X-RateLimit-Remaining",
                "X-RateLimit-Reset",
            ]
        ),
        min_size=8,
        max_size=8,
    ),
    values=st.lists(
        st.text(max_size=40) | st.text('"0123456789;,=rtqw .', max_size=40), min_size=8, max_size=8
    ),
)
def test_whatever_is_sent_nothing_is_raised(names: list[str], values: list[str]) -> None:
    limits = limits_of(CIMultiDict(zip(names, values, strict=True)), NOW)
    if limits is not None:
        for number in (limits.limit, limits.window, limits.remaining, limits.reset, limits.per_second):
            assert number is None or 0.0 <= number <= 1e15


def test_a_rate_bounds_the_pace_and_a_quota_when_half_of_it_is_used() -> None:
    assert Limits(limit=50, window=1, remaining=50, reset=1).per_second == 50.0
    assert Limits(limit=100, window=60).per_second == pytest.approx(100 / 60)
    assert Limits(limit=5000, window=3600, remaining=4000, reset=3000).per_second is None
    assert Limits(limit=5000, window=3600, remaining=2000, reset=1000).per_second == 2.0
    assert Limits(limit=5000, window=3600, remaining=10, reset=1000).per_second == pytest.approx(5000 / 3600)
    assert Limits(limit=5000, remaining=2000, reset=1000).per_second == 2.0
    assert Limits(limit=5000, remaining=0, reset=1000).per_second is None
    assert Limits(remaining=10, reset=1000).per_second is None
    assert Limits().per_second is None


@pytest.mark.parametrize(
    ("retry_after", "limits", "expected"),
    [
        (1.0, None, False),
        (10.0, None, True),
        (3600.0, None, True),
        (1.0, Limits(limit=50, window=1, remaining=0, reset=1), False),
        (2.0, Limits(limit=100, window=60, remaining=0, reset=2), True),
        (2.0, Limits(remaining=0, reset=2), False),
        (2.0, Limits(limit=100, window=60, remaining=5, reset=2), False),
        (2.0, Limits(limit=100, window=60), False),
    ],
)
def test_a_quota_is_told_from_a_rate(retry_after: float, limits: Limits | None, expected: bool) -> None:
    assert is_quota(retry_after, limits) is expected
