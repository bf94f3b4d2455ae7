"""What of a fleet's events is worth telling, as a board: numbers and names, without a screen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import attrs

from tensorpool_async.events import FleetMemberChanged
from tensorpool_async.fleet import MemberState


WORDS: dict[str, str] = {
    MemberState.WAITING: "waiting",
    MemberState.CLEARING: "making room",
    MemberState.CREATING: "creating",
    MemberState.RUNNING: "running",
    MemberState.FAILED: "failed",
    MemberState.DESTROYING: "destroying",
    MemberState.DESTROYED: "gone",
    MemberState.ABSENT: "absent",
}
"""The states in the order in which they are shown, as words for a person."""


@attrs.frozen
class Line:
    """A group of the board: how many of how many are done, and how the others stand."""

    group: str
    done: int
    failed: int
    size: int
    states: tuple[tuple[str, int], ...]


@attrs.define
class Board:
    """What is known of each member from the events so far.

    Attributes:
        by_id: Whether members are told apart by the ids of their clusters rather than by their names: on the way down
            two of one name may be there, on the way up a member may have one cluster after the other.
        last: The latest event of each member.
    """

    by_id: bool = False
    last: dict[str, FleetMemberChanged] = attrs.field(factory=dict[str, FleetMemberChanged])

    def take(self, event: FleetMemberChanged) -> bool:
        """Take an event; say whether it changes a state or a type, rather than only what is said about it."""
        key = event.resource_id or event.member if self.by_id else event.member
        before = self.last.get(key)
        self.last[key] = event
        if before is None:
            return event.state != MemberState.WAITING
        return (before.state, before.instance_type) != (event.state, event.instance_type)

    @property
    def size(self) -> int:
        """How many members there are."""
        return len(self.last)

    @property
    def done(self) -> int:
        """How many are where they should be."""
        return sum(is_done(event) for event in self.last.values())

    @property
    def rate_so_far(self) -> float:
        """What those that the engine has accepted cost together, in USD per hour, as far as it names prices."""
        living = (
            event
            for event in self.last.values()
            if event.resource_id and event.state != MemberState.DESTROYED
        )
        return sum(event.hourly_rate or 0.0 for event in living)

    @property
    def lines(self) -> list[Line]:
        """The groups, in their order."""
        groups = dict.fromkeys(event.group for event in self.last.values())
        return [self._line(group) for group in groups]

    def _line(self, group: str) -> Line:
        events = [event for event in self.last.values() if event.group == group]
        counts = Counter(event.state for event in events)
        states = tuple((word, counts[state]) for state, word in WORDS.items() if counts[state])
        return Line(group, sum(map(is_done, events)), counts[MemberState.FAILED], len(events), states)

    def slowest(self, count: int) -> list[FleetMemberChanged]:
        """Return members that are not done, those first about which there was no news for longest."""
        open_ones: Iterable[FleetMemberChanged] = (
            event
            for event in self.last.values()
            if not MemberState(event.state).is_final and event.state != MemberState.WAITING
        )
        return sorted(open_ones, key=lambda event: event.seconds)[:count]


def is_done(event: FleetMemberChanged) -> bool:
    """Whether a member is where it should be."""
    return event.state in {MemberState.RUNNING, MemberState.DESTROYED}
