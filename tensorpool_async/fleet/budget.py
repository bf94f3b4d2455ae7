"""The ceiling on what a fleet costs, kept while its members fall back to other instance types."""

from __future__ import annotations

from collections.abc import Mapping

import attrs


def exceeds(cost: float, limit: float) -> bool:
    """Whether a cost is above a limit, and not only by the rounding of a sum; both in USD per hour."""
    return cost - limit > 1e-6


@attrs.define
class Budget:
    """What each member may cost; no change of it passes the limit.

    A member's price is reserved before its cluster is asked for, so members that fall back at the same time cannot
    pass the limit together either.

    Attributes:
        limit: USD per hour for all together; None is no limit.
    """

    limit: float | None
    _reserved: dict[str, float] = attrs.field(factory=dict[str, float])

    @classmethod
    def of(cls, limit: float | None, rates: Mapping[str, float | None]) -> Budget:
        """Begin with what each member is planned to cost, in USD per hour."""
        return cls(limit, {name: rate or 0.0 for name, rate in rates.items()})

    def total_with(self, member: str, rate: float) -> float:
        """What all would cost if this member cost that much, in USD per hour."""
        return sum(self._reserved.values()) - self._reserved.get(member, 0.0) + rate

    def objection(self, member: str, rate: float | None) -> str | None:
        """Say why a member may not cost that much, or reserve it and return None."""
        if self.limit is not None:
            if rate is None:
                return "the engine names no price for it"
            total = self.total_with(member, rate)
            if exceeds(total, self.limit):
                return f"it would make ${total:.2f} per hour of at most ${self.limit:.2f}"
        self._reserved[member] = rate or 0.0
        return None

    def settle(self, member: str, rate: float | None) -> None:
        """Take down what a member does cost, since it is there already; 0 if it is not there."""
        self._reserved[member] = rate or 0.0
