"""Plan a fleet: compare what it should have with what exists, and check the cost. Pure functions, without a client.

The action for a member follows from the clusters that have its name:

| existing clusters of the name                     | action        |
|---------------------------------------------------|---------------|
| none                                              | CREATE        |
| one is RUNNING                                    | KEEP          |
| one is being created, or its status is not known  | JOIN          |
| one is FAILED                                     | REPLACE       |
| one is being destroyed                            | AWAIT_DESTROY |
| its instance type or node count is not wanted     | CONFLICT      |
| several that are not being destroyed              | CONFLICT      |
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import TypeAlias

import attrs

from tensorpool_async.errors import BudgetExceeded
from tensorpool_async.fleet.spec import Fleet, Member, VolumeGroup, volume_name
from tensorpool_async.models import Cluster, ClusterStatus, StorageVolume


Offer: TypeAlias = "tuple[str, int]"
"""An instance type and a number of nodes, which together have a price."""

Prices: TypeAlias = "Mapping[Offer, float | None]"
"""USD per hour by offer; None where the engine names no price."""

VolumePrices: TypeAlias = "Mapping[int, float | None]"
"""USD per hour by size in GB; None where the engine names no price."""


class Action(StrEnum):
    """What has to be done for a member."""

    CREATE = "CREATE"
    JOIN = "JOIN"
    KEEP = "KEEP"
    REPLACE = "REPLACE"
    AWAIT_DESTROY = "AWAIT_DESTROY"
    CONFLICT = "CONFLICT"
    SURPLUS = "SURPLUS"

    @property
    def creates(self) -> bool:
        """Whether the action creates a cluster or volume."""
        return self in {Action.CREATE, Action.REPLACE, Action.AWAIT_DESTROY}


@attrs.frozen
class PlannedMember:
    """What has to be done for one member.

    Attributes:
        name: The member's name.
        group: The name of the member's group.
        action: The action. SURPLUS means that the member is beyond the count of its group: `up` leaves it, `down`
            destroys it.
        instance_type: The existing cluster's type, or the type that would be requested first; for a volume its size.
            None where the engine does not name it.
        num_nodes: The number of nodes, in the same way; None for a volume.
        hourly_rate: The cost, now or after the create, in USD per hour; None where the engine names no price.
        cluster: The existing cluster of this name, if any.
        problem: For CONFLICT, a sentence that says what conflicts; else empty.
        volume: For a volume of the fleet, the existing volume of this name, if any.
    """

    name: str
    group: str
    action: Action
    instance_type: str | None
    num_nodes: int | None
    hourly_rate: float | None = None
    cluster: Cluster | None = None
    problem: str = ""
    volume: StorageVolume | None = None

    @property
    def resource_id(self) -> str | None:
        """The id of the existing cluster or volume, if any."""
        existing = self.cluster or self.volume
        return None if existing is None else existing.id


@attrs.frozen
class Plan:
    """What `up` would do.

    Attributes:
        fleet: The fleet's name.
        members: The members, group by group, then the volumes.
        surplus: Clusters of the fleet beyond the counts of their groups.
        max_hourly_cost: The most that all may cost together, in USD per hour; None means no limit.
    """

    fleet: str
    members: tuple[PlannedMember, ...]
    surplus: tuple[PlannedMember, ...] = ()
    max_hourly_cost: float | None = None

    @property
    def hourly_cost_now(self) -> float | None:
        """The cost of what exists, in USD per hour; None if a price is not known."""
        return total(
            entry.hourly_rate for entry in (*self.members, *self.surplus) if not entry.action.creates
        )

    @property
    def hourly_cost_after(self) -> float | None:
        """The cost after `up`, with the first instance type of each list, in USD per hour; None if a price is not known."""
        return total(entry.hourly_rate for entry in (*self.members, *self.surplus))

    @property
    def to_create(self) -> tuple[PlannedMember, ...]:
        """The members for which `up` would create a cluster or volume."""
        return tuple(entry for entry in self.members if entry.action.creates)

    @property
    def conflicts(self) -> tuple[PlannedMember, ...]:
        """The members whose name belongs to a cluster or volume that the fleet cannot use."""
        return tuple(entry for entry in self.members if entry.action is Action.CONFLICT)


def total(rates: Iterable[float | None]) -> float | None:
    """Return the sum of hourly rates, or None if one of them is not known."""
    known = list(rates)
    return None if None in known else sum((rate for rate in known if rate is not None), 0.0)


def make_plan(fleet: Fleet, clusters: Iterable[Cluster], prices: Prices) -> Plan:
    """Plan the clusters of a fleet.

    Args:
        fleet: The fleet.
        clusters: The account's clusters; those of other names are ignored.
        prices: The prices of the fleet's offers.
    """
    named = clusters_by_name(clusters)
    wanted = {member.name for member in fleet.members}
    surplus = [
        _plan_surplus(cluster, group.name, prices)
        for name, found in named.items()
        if name not in wanted and (group := fleet.group_of(name)) is not None
        for cluster in found
        if not _is_deleting(cluster)
    ]
    members = tuple(plan_member(member, named.get(member.name, ()), prices) for member in fleet.members)
    return Plan(fleet.name, members, tuple(surplus), fleet.max_hourly_cost)


def clusters_by_name(clusters: Iterable[Cluster]) -> dict[str, list[Cluster]]:
    """Group clusters by their names. Clusters that are DESTROYED or have no name are left out."""
    named: defaultdict[str, list[Cluster]] = defaultdict(list)
    for cluster in clusters:
        if cluster.name is not None and cluster.status is not ClusterStatus.DESTROYED:
            named[cluster.name].append(cluster)
    return named


def plan_member(member: Member, found: Sequence[Cluster], prices: Prices) -> PlannedMember:
    """Plan one cluster.

    Args:
        member: The member.
        found: The existing clusters of its name.
        prices: The prices of the fleet's offers.
    """
    living = [cluster for cluster in found if not _is_deleting(cluster)]
    if not living:
        return _plan_create(member, Action.AWAIT_DESTROY if found else Action.CREATE, prices, found)
    conflict = _find_conflict(member, living)
    if conflict:
        return _plan_existing(member, Action.CONFLICT, living[0], prices, conflict)
    cluster = living[0]
    if cluster.status is ClusterStatus.FAILED:
        return _plan_create(member, Action.REPLACE, prices, living)
    action = Action.KEEP if cluster.status is ClusterStatus.RUNNING else Action.JOIN
    return _plan_existing(member, action, cluster, prices)


def _is_deleting(cluster: Cluster) -> bool:
    return cluster.status in {ClusterStatus.DESTROYING, ClusterStatus.DESTROYED}


def _find_conflict(member: Member, living: Sequence[Cluster]) -> str:
    """Return why a member cannot use the clusters of its name, or an empty text."""
    if len(living) > 1:
        ids = " and ".join(cluster.id for cluster in living)
        return f"there are several clusters named {member.name}: {ids}"
    cluster, group = living[0], member.group
    wanted_types = {wanted.casefold() for wanted in group.instance_type}
    # A field that the engine leaves out is no conflict.
    other_type = cluster.instance_type is not None and cluster.instance_type.casefold() not in wanted_types
    other_nodes = cluster.num_nodes is not None and cluster.num_nodes != group.num_nodes
    if not other_type and not other_nodes:
        return ""
    nodes = f"{cluster.num_nodes or '?'} x {cluster.instance_type or '?'}"
    wanted = f"{group.num_nodes} x {' or '.join(group.instance_type)}"
    return f"{member.name} exists as {nodes} ({cluster.id}), and the fleet wants {wanted}; it was left alone"


def _plan_create(member: Member, action: Action, prices: Prices, found: Sequence[Cluster]) -> PlannedMember:
    offer = (member.group.instance_type[0], member.group.num_nodes)
    cluster = found[0] if found else None
    return PlannedMember(member.name, member.group.name, action, *offer, prices.get(offer), cluster)


def _plan_existing(
    member: Member, action: Action, cluster: Cluster, prices: Prices, problem: str = ""
) -> PlannedMember:
    return PlannedMember(
        member.name,
        member.group.name,
        action,
        cluster.instance_type,
        cluster.num_nodes,
        hourly_rate_of(cluster, prices),
        cluster,
        problem,
    )


def _plan_surplus(cluster: Cluster, group: str, prices: Prices) -> PlannedMember:
    return PlannedMember(
        cluster.name or "",
        group,
        Action.SURPLUS,
        cluster.instance_type,
        cluster.num_nodes,
        hourly_rate_of(cluster, prices),
        cluster,
    )


def hourly_rate_of(cluster: Cluster, prices: Prices) -> float | None:
    """Return the cost of a cluster in USD per hour.

    It is the rate that the engine names for the cluster, else the price of its offer, else None.
    """
    if cluster.hourly_rate is not None:
        return cluster.hourly_rate
    if cluster.instance_type is None or cluster.num_nodes is None:
        return None
    return prices.get((cluster.instance_type, cluster.num_nodes))


def plan_volumes(
    fleet: Fleet, volumes: Iterable[StorageVolume], prices: VolumePrices
) -> tuple[PlannedMember, ...]:
    """Plan the volumes of a fleet.

    Args:
        fleet: The fleet.
        volumes: The account's volumes; those of other names are ignored.
        prices: The prices of the fleet's volumes.
    """
    named: defaultdict[str | None, list[StorageVolume]] = defaultdict(list)
    for volume in volumes:
        named[volume.name].append(volume)
    return tuple(
        _plan_volume(group, volume_name(fleet, group), named[volume_name(fleet, group)], prices)
        for group in fleet.volumes
    )


def _plan_volume(
    wanted: VolumeGroup, name: str, found: Sequence[StorageVolume], prices: VolumePrices
) -> PlannedMember:
    size = f"{wanted.size_gb} GB"
    if not found:
        price = prices.get(wanted.size_gb)
        return PlannedMember(name, wanted.name, Action.CREATE, size, None, price)
    volume = found[0]
    rate = volume.hourly_rate if volume.hourly_rate is not None else prices.get(wanted.size_gb)
    action, problem = Action.KEEP if volume.status == "READY" else Action.JOIN, ""
    if len(found) > 1:
        action = Action.CONFLICT
        problem = f"there are several volumes named {name}: {' and '.join(one.id for one in found)}"
    elif volume.size_gb is not None and volume.size_gb != wanted.size_gb:
        action = Action.CONFLICT
        problem = f"{name} exists with {volume.size_gb} GB ({volume.id}), and the fleet wants {size}; it was left alone"
    return PlannedMember(name, wanted.name, action, size, None, rate, None, problem, volume)


@attrs.define
class Budget:
    """The hourly cost that is reserved for each member of a fleet, and the limit for all together.

    A member's price is reserved before its create is sent. So members that fall back to dearer instance types at the
    same time cannot pass the limit together.

    Attributes:
        limit: USD per hour for all members together; None means no limit.
    """

    limit: float | None
    _reserved: dict[str, float] = attrs.field(factory=dict[str, float])

    @classmethod
    def of(cls, plan: Plan) -> Budget:
        """Return the budget of a plan, with the planned hourly rate of each cluster and volume reserved."""
        budget = cls(plan.max_hourly_cost)
        for entry in plan.members:
            budget.reserve(entry.name, entry.hourly_rate)
        for index, entry in enumerate(plan.surplus):
            budget.reserve(
                f"{entry.name} {index}", entry.hourly_rate
            )  # several surplus clusters may have one name
        return budget

    def total_with(self, member: str, rate: float) -> float:
        """Return the cost of all members if this member had this rate; both in USD per hour. Nothing is reserved."""
        return sum(self._reserved.values()) - self._reserved.get(member, 0.0) + rate

    def reason_against(self, member: str, rate: float | None) -> str | None:
        """Return why a member may not have this rate, or None if it may. Nothing is reserved.

        Args:
            member: The member's name.
            rate: USD per hour; None where the engine names no price, which only a budget without a limit accepts.
        """
        if self.limit is None:
            return None
        if rate is None:
            return "the engine names no price for it"
        cost = self.total_with(member, rate)
        if _exceeds(cost, self.limit):
            return f"with it the fleet would cost ${cost:.2f} per hour, and the limit is ${self.limit:.2f}"
        return None

    def reserve(self, member: str, rate: float | None) -> None:
        """Reserve a rate for a member in place of the earlier one. The limit is not checked.

        Args:
            member: The member's name.
            rate: USD per hour; None reserves nothing.
        """
        self._reserved[member] = rate or 0.0


def _exceeds(cost: float, limit: float) -> bool:
    """Whether a cost is above a limit by more than the rounding of a sum; both in USD per hour."""
    return cost - limit > 1e-6


def check_budget(plan: Plan) -> None:
    """Check the cost of a plan against its `max_hourly_cost`, with the first instance type of each list.

    A plan that creates nothing passes.

    Raises:
        BudgetExceeded: The fleet would cost more than the limit, or a price is not known.
    """
    limit = plan.max_hourly_cost
    if limit is None or not plan.to_create:
        return
    cost = plan.hourly_cost_after
    if cost is None:
        entries = (*plan.members, *plan.surplus)
        unpriced = sorted(
            {entry.instance_type or entry.name for entry in entries if entry.hourly_rate is None}
        )
        raise BudgetExceeded(
            f"the engine names no price for {', '.join(unpriced)}, so the cost of {plan.fleet} cannot be compared with its "
            f"max_hourly_cost of ${limit:.2f}; nothing was created",
            hourly_cost=None,
            limit=limit,
        )
    if _exceeds(cost, limit):
        raise BudgetExceeded(
            f"{plan.fleet} would cost ${cost:.2f} per hour, and its max_hourly_cost is ${limit:.2f}; "
            "nothing was created",
            hourly_cost=cost,
            limit=limit,
        )
