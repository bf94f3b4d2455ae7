"""What one run has made, and what it may have made: the only things that a rollback may destroy."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import attrs

from tensorpool_async.models import Cluster, StorageVolume
from tensorpool_async.operations.operation import Operation
from tensorpool_async.resources.leaving import Remnant


@attrs.define(eq=False)
class CreatedMember:
    """What was made for one member.

    Attributes:
        name: The member's name.
        is_volume: Whether it is a volume.
        before: The ids of what had its name before.
        protected: Whether what is made for it is protected from deletion.
        made: The creations that the engine has accepted, by the ids of what they make; None where only that is known.
        unclear: Whether a creation was sent whose outcome is not known.
        asked: The instance type and the nodes, or the size in GB, that were asked for last.
        sending: The creation that was on its way when its sender was cancelled.
        hourly_rate: What it costs, in USD per hour, as far as was known when it was to be destroyed.
        problem: Why what was made could not be destroyed.
        over: Set once a rollback has done what it can.
    """

    name: str
    is_volume: bool = False
    before: frozenset[str] = frozenset()
    protected: bool = False
    made: dict[str, Operation[Any] | None] = attrs.field(factory=dict[str, "Operation[Any] | None"])
    unclear: bool = False
    asked: tuple[object, ...] = ()
    sending: asyncio.Future[Any] | None = None
    hourly_rate: float | None = None
    problem: Exception | None = None
    over: asyncio.Event = attrs.field(factory=asyncio.Event)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was made, and nothing may have been made."""
        return not self.made and not self.unclear and self.sending is None

    @property
    def remnant(self) -> Remnant:
        """What there is of it, to tell of."""
        kind = "volume" if self.is_volume else "cluster"
        return Remnant(kind=kind, name=self.name, ids=tuple(self.made), hourly_rate=self.hourly_rate)

    def adds(self, operation: Operation[Any]) -> None:
        """Take down that the engine has accepted a creation."""
        self.unclear = False
        if operation.resource_id is not None:
            self.made[operation.resource_id] = operation

    def finds(self, found: Iterable[Cluster | StorageVolume]) -> bool:
        """Take for the member's what has its name after a creation whose answer was lost; say if there is any.

        What was there before is none of it, and nor is what was not asked for.
        """
        ours = [one.id for one in found if one.id not in self.before and self._fits(one)]
        for resource_id in ours:
            self.made.setdefault(resource_id, None)
        self.unclear = self.unclear and not ours
        return bool(ours)

    def _fits(self, one: Cluster | StorageVolume) -> bool:
        seen = (one.instance_type, one.num_nodes) if isinstance(one, Cluster) else (one.size_gb,)
        # What the engine does not tell is no contradiction.
        return all(fact is None or fact == asked for fact, asked in zip(seen, self.asked, strict=True))


class CreatedResources:
    """The records of all members of one run.

    Attributes:
        owned: Whether what it makes goes with whoever makes it, so that it may be reaped where that one was killed.
    """

    def __init__(self, *, owned: bool = False) -> None:
        self.owned = owned
        self._records: dict[str, CreatedMember] = {}
        self.attached: defaultdict[str, set[str]] = defaultdict(set)
        """The clusters that this run has attached a volume to, or tried to, by the id of the volume."""

    @property
    def records(self) -> tuple[CreatedMember, ...]:
        """All of them, in the order in which they were opened."""
        return tuple(self._records.values())

    def open(self, record: CreatedMember) -> None:
        """Begin the record of a member."""
        self._records[record.name] = record

    def __getitem__(self, name: str) -> CreatedMember:
        return self._records[name]

    def maker_of(self, cluster_id: str) -> CreatedMember | None:
        """Return the record of the member that a cluster was made for; None where this run has not made it."""
        return next((record for record in self._records.values() if cluster_id in record.made), None)
