"""The header `Retry-After`: seconds, decimals, or a date."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache


LONGEST = 86_400.0
"""Seconds. A longer wait than a day is taken for nonsense: a date in another year, a time stamp, a typo."""

_SECONDS = re.compile(r"\d+(?:\.\d*)?|\.\d+")


def retry_after_of(headers: Mapping[str, str], received_at: float) -> float | None:
    """Return the seconds that an answer asks to wait, or None where it says nothing that makes sense.

    Args:
        headers: The answer's headers.
        received_at: When it was received, in seconds since the epoch. The answer's own `Date`, where it has one, is
            what its dates are held against, so that a clock that is wrong here does no harm.
    """
    value = headers.get("Retry-After")
    if value is None:
        return None
    seconds = _seconds(value)  # by far the most frequent form: no date has to be read for it
    if seconds is not None:
        return _sane(seconds)
    return parse_retry_after(value, _epoch(headers.get("Date", "")) or received_at)


def parse_retry_after(value: str, now: float) -> float | None:
    """Return the seconds that the header's value means, at `now` in seconds since the epoch; None for nonsense.

    0 is honoured, a date that is over is 0; negative values, words and waits of more than a day are nonsense.
    """
    value = value.strip()
    seconds = _seconds(value)
    if seconds is not None:
        return _sane(seconds)
    date = _epoch(value)
    return None if date is None else _sane(max(0.0, date - now))


@lru_cache(maxsize=128)  # an engine has few paces, and names one in each answer
def _seconds(value: str) -> float | None:
    return float(value) if _SECONDS.fullmatch(value) and value.isascii() else None


def _epoch(value: str) -> float | None:
    try:
        date = parsedate_to_datetime(value)
        # A date without a zone, as in asctime's form, is in UTC like every date in HTTP.
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _sane(seconds: float) -> float | None:
    return seconds if seconds <= LONGEST else None


def clock_offset(date: str | None, received_at: float) -> float:
    """Return the seconds by which the engine's clock is ahead of this machine's; 0 where its `Date` does not tell.

    The header counts whole seconds, so half of one is added as the likeliest.
    """
    engine_time = None if date is None else _epoch(date)
    return 0.0 if engine_time is None else engine_time + 0.5 - received_at
