"""A budget for retries, so that an outage is not made worse by those who wait for its end."""

from __future__ import annotations

import attrs


@attrs.define
class RetryBudget:
    """Retries are paid from what successes and time bring in.

    While most requests succeed there is always enough. In an outage the reserve is soon used up, and what is left are
    first attempts and a trickle. Waiting after a 429 costs nothing: that is paced by the limiter.

    Attributes:
        reserve: Retries that can be saved up.
        per_success: Retries that each success brings in.
        per_second: Retries that each second brings in.
    """

    reserve: float = 100.0
    per_success: float = 0.5
    per_second: float = 1.0
    _left: float = attrs.field(init=False)
    _at: float | None = attrs.field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        self._left = self.reserve

    @property
    def left(self) -> float:
        """Retries that can be paid for now."""
        return self._left

    def succeeded(self) -> None:
        """Count a request that succeeded."""
        self._left = min(self.reserve, self._left + self.per_success)

    def pay(self, now: float) -> bool:
        """Pay for one retry at `now` (seconds of a monotonic clock); False where the budget is used up."""
        if self._at is not None:
            self._left = min(self.reserve, self._left + (now - self._at) * self.per_second)
        self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
