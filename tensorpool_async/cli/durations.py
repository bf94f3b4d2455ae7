"""Durations as people write and read them: 90s, 30m, 2h, 1d."""

from __future__ import annotations

import re
from typing import TypeAlias


UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
"""Seconds of each unit."""

LONGEST = 3650 * 86400.0
"""Seconds. What is longer is a slip of the finger."""

Parts: TypeAlias = "tuple[tuple[str, float], tuple[str, float]]"

_DURATION = re.compile(r"(?P<count>[0-9]+(?:\.[0-9]+)?)(?P<unit>[smhd])", re.ASCII)
_SHOWN: tuple[Parts, ...] = (
    (("d", 86400.0), ("h", 3600.0)),
    (("h", 3600.0), ("m", 60.0)),
    (("m", 60.0), ("s", 1.0)),
)


def parse_duration(text: str) -> float:
    """Read a duration, in seconds.

    Raises:
        ValueError: It is none; the text says how one is written.
    """
    found = _DURATION.fullmatch(text.strip().lower())
    seconds = float(found["count"]) * UNITS[found["unit"]] if found else -1.0
    if not 0.0 <= seconds <= LONGEST:
        raise ValueError(f"{text!r} is no duration; write one like 90s, 30m, 2h or 1d")
    return seconds


def age(seconds: float) -> str:
    """Show a duration, with its two largest units: 45s, 3m 20s, 2h, 1d 4h."""
    whole = max(0, int(seconds))
    for (large, size), (small, rest) in _SHOWN:
        if whole >= size:
            count, left = divmod(whole, int(size))
            smaller = left // int(rest)
            return f"{count}{large} {smaller}{small}" if smaller else f"{count}{large}"
    return f"{whole}s"
