"""Whether what is found after a lost answer is what the lost request made."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorpool_async.protocol.ownership import CLOCK_TOLERANCE, Ownership, epoch_of, ownership_of


SENT = 1_000_000.0
OURS, BEFORE, UNCLEAR = Ownership

ROWS: list[tuple[str, float | None, bool, bool, Ownership]] = [
    # what is known                      made at                 random  taken
    ("made after it was sent", SENT + 1, False, False, OURS),
    ("made within the tolerance", SENT - CLOCK_TOLERANCE, False, False, OURS),
    ("made before it was sent", SENT - CLOCK_TOLERANCE - 0.1, False, False, BEFORE),
    ("nothing says when", None, False, False, UNCLEAR),
    ("a random name", None, True, False, OURS),
    ("a random name, whatever the clocks say", SENT - 3600, True, False, OURS),
    ("another call's", SENT + 1, False, True, BEFORE),
    ("another call's, of a random name", None, True, True, BEFORE),
]  # fmt: skip


@pytest.mark.parametrize(
    ("made_at", "random_name", "taken", "ownership"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS]
)
def test_where_a_resource_comes_from(
    made_at: float | None, random_name: bool, taken: bool, ownership: Ownership
) -> None:
    assert ownership_of(made_at=made_at, sent_at=SENT, random_name=random_name, taken=taken) is ownership


@pytest.mark.parametrize(
    ("text", "epoch"),
    [
        ("1970-01-12T13:46:40Z", SENT),
        ("1970-01-12T13:46:40", SENT),
        ("1970-01-12 13:46:40.500000+00:00", SENT + 0.5),
        ("1970-01-12T14:46:40+01:00", SENT),
        ("", None),
        (None, None),
        ("yesterday", None),
        ("1000000", None),
    ],
)
def test_a_time_as_text(text: str | None, epoch: float | None) -> None:
    assert epoch_of(text) == epoch


@given(st.datetimes(timezones=st.timezones()))
def test_any_time_is_read_back(moment: datetime) -> None:
    assert epoch_of(moment.isoformat()) == moment.timestamp()
    assert epoch_of(moment.replace(tzinfo=None).isoformat()) == moment.replace(tzinfo=UTC).timestamp()


@given(st.text() | st.from_regex(r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9:.]{0,12}([+-][0-9:]{0,8})?)?\Z"))
def test_no_text_raises(text: str) -> None:
    epoch = epoch_of(text)
    assert epoch is None or isinstance(epoch, float)


def test_what_was_made_long_after_may_be_anybodys() -> None:
    facts: dict[str, Any] = {"sent_at": SENT, "taken": False, "latest": SENT + 900.0}
    assert ownership_of(made_at=SENT + 901.0, random_name=False, **facts) is Ownership.UNCLEAR
    assert ownership_of(made_at=SENT + 901.0, random_name=True, **facts) is Ownership.OURS
    assert ownership_of(made_at=SENT + 899.0, random_name=False, **facts) is Ownership.OURS
