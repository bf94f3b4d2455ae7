"""Which lane goes next: changes before reads before polls, none starving.

Each lane has a weight, and is served in proportion to it while all of them wait. Among lanes that are equally far, the
more important one goes first, so a change that arrives among thousands of polls is the next to go.
"""

from __future__ import annotations

from collections.abc import Sequence


WEIGHTS: tuple[int, ...] = (16, 4, 1)
"""Of every 21 requests that all have to wait, at least 16 are changes, 4 are reads and 1 is a poll."""


class LaneOrder:
    """Decides which of the lanes that wait goes next.

    This is stride scheduling: a lane's position moves on by 1/weight each time it is served, and the lane that is
    furthest behind goes next. A lane that comes back after it was empty has earned nothing by that: it starts at the
    common position, or at its own where that is ahead.
    """

    __slots__ = ("_common", "_positions")

    def __init__(self) -> None:
        self._positions = [0.0] * len(WEIGHTS)
        self._common = 0.0

    def next_lane(self, waiting: Sequence[bool]) -> int | None:
        """Return the lane to serve, and count it as served; None where none waits."""
        candidates = [lane for lane, waits in enumerate(waiting) if waits]
        if not candidates:
            return None
        chosen = min(candidates, key=lambda lane: (max(self._positions[lane], self._common), lane))
        self._common = max(self._common, self._positions[chosen])
        self._positions[chosen] = self._common + 1.0 / WEIGHTS[chosen]
        return chosen
