"""What has to be done so that a fleet is as it should be: decisions over data, without a client.

What a member needs follows from the clusters that have its name:

| what is there                                            | action        |
|----------------------------------------------------------|---------------|
| nothing                                                  | CREATE        |
| one that runs                                            | KEEP          |
| one on its way, or in a state that is not known          | JOIN          |
| one that failed                                          | REPLACE       |
| one that is being destroyed                              | AWAIT_DESTROY |
| another instance type or node count than any wanted      | CONFLICT      |
| several that live                                        | CONFLICT      |
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import TypeAlias

import attrs

from tensorpool_async.errors import BudgetExceeded
from tensorpool_async.fleet.budget import exceeds
from tensorpool_async.fleet.spec import Fleet, Member
from tensorpool_async.models import Cluster, ClusterStatus, StorageVolume


Offer: TypeAlias = "tuple[str, int]"
"""An instance type and a number of nodes: what has a price."""

Prices: TypeAlias = "Mapping[Offer, float | None]"
"""USD per hour by offer; None where the engine names no price."""


class Action(StrEnum):
    """What a member needs."""

    CREATE = "CREATE"
    JOIN = "JOIN"
    KEEP = "KEEP"
    REPLACE = "REPLACE"
    AWAIT_DESTROY = "AWAIT_DESTROY"
    CONFLICT = "CONFLICT"
    SURPLUS = "SURPLUS"

    @property
    def creates(self) -> bool:
        """Whether a cluster is made in the end."""
        return self in {Action.CREATE, Action.REPLACE, Action.AWAIT_DESTROY}


@attrs.frozen
class PlannedMember:
    """What is to be done for one member.

    Attributes:
        name: The member's name.
        group: The name of its group.
        action: What it needs. SURPLUS: it is beyond the count of its group; `up` leaves it, `down` destroys it.
        instance_type: The type that it has, or that would be asked for first; None where the engine does not tell.
        num_nodes: The same for its nodes.
        hourly_rate: What it costs or would cost, in USD per hour; None where the engine names no price.
        cluster: The cluster that has its name, if there is one.
        problem: For CONFLICT: what is wrong, as a sentence.
        volume: For a volume of the fleet: the one that has its name, if there is one.
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
        """The id of what has its name, if there is anything."""
        there = self.cluster or self.volume
        return None if there is None else there.id


@attrs.frozen
class Plan:
    """What `up` would do.

    Attributes:
        fleet: The fleet's name.
        members: What each member needs, group by group, and then the volumes.
        surplus: Clusters of the fleet beyond the counts of its groups.
        max_hourly_cost: The most that all may cost together, in USD per hour, or None.
    """

    fleet: str
    members: tuple[PlannedMember, ...]
    surplus: tuple[PlannedMember, ...] = ()
    max_hourly_cost: float | None = None

    @property
    def hourly_cost_now(self) -> float | None:
        """What is there costs, in USD per hour; None if a price is not known."""
        return total(
            entry.hourly_rate for entry in (*self.members, *self.surplus) if not entry.action.creates
        )

    @property
    def hourly_cost_after(self) -> float | None:
        """What all costs after `up`, at first preferences, in USD per hour; None if a price is not known."""
        return total(entry.hourly_rate for entry in (*self.members, *self.surplus))

    @property
    def to_create(self) -> tuple[PlannedMember, ...]:
        """The members for which a cluster would be made."""
        return tuple(entry for entry in self.members if entry.action.creates)

    @property
    def conflicts(self) -> tuple[PlannedMember, ...]:
        """The members whose name is taken by something else."""
        return tuple(entry for entry in self.members if entry.action is Action.CONFLICT)


def total(rates: Iterable[float | None]) -> float | None:
    """Add prices up; None if one of them is not known."""
    known = list(rates)
    return None if None in known else sum((rate for rate in known if rate is not None), 0.0)


def make_plan(fleet: Fleet, clusters: Iterable[Cluster], prices: Prices) -> Plan:
    """Plan a fleet.

    Args:
        fleet: What should be.
        clusters: What is, other people's clusters too.
        prices: What things cost.
    """
    named = by_name(clusters)
    wanted = {member.name for member in fleet.members}
    surplus = [
        _surplus(cluster, group.name, prices)
        for name, found in named.items()
        if name not in wanted and (group := fleet.group_of(name)) is not None
        for cluster in found
        if not _is_deleting(cluster)
    ]
    members = tuple(decide(member, named.get(member.name, ()), prices) for member in fleet.members)
    return Plan(fleet.name, members, tuple(surplus), fleet.max_hourly_cost)


def by_name(clusters: Iterable[Cluster]) -> dict[str, list[Cluster]]:
    """Group clusters by their names; without those that are gone or nameless."""
    named: defaultdict[str, list[Cluster]] = defaultdict(list)
    for cluster in clusters:
        if cluster.name is not None and cluster.status is not ClusterStatus.DESTROYED:
            named[cluster.name].append(cluster)
    return named


def decide(member: Member, found: Sequence[Cluster], prices: Prices) -> PlannedMember:
    """Say what one member needs.

    Args:
        member: What should be.
        found: The clusters that have its name.
        prices: What things cost.
    """
    living = [cluster for cluster in found if not _is_deleting(cluster)]
    if not living:
        return _to_create(member, Action.AWAIT_DESTROY if found else Action.CREATE, prices, found)
    problem = _problem_of(member, living)
    if problem:
        return _existing(member, Action.CONFLICT, living[0], prices, problem)
    cluster = living[0]
    if cluster.status is ClusterStatus.FAILED:
        return _to_create(member, Action.REPLACE, prices, living)
    action = Action.KEEP if cluster.status is ClusterStatus.RUNNING else Action.JOIN
    return _existing(member, action, cluster, prices)


def _is_deleting(cluster: Cluster) -> bool:
    return cluster.status in {ClusterStatus.DESTROYING, ClusterStatus.DESTROYED}


def _problem_of(member: Member, living: Sequence[Cluster]) -> str:
    if len(living) > 1:
        ids = " and ".join(cluster.id for cluster in living)
        return f"there are several clusters called {member.name}: {ids}"
    cluster, group = living[0], member.group
    wanted_types = {wanted.casefold() for wanted in group.instance_type}
    # What the engine does not tell is no contradiction.
    other_type = cluster.instance_type is not None and cluster.instance_type.casefold() not in wanted_types
    other_nodes = cluster.num_nodes is not None and cluster.num_nodes != group.num_nodes
    if not other_type and not other_nodes:
        return ""
    nodes = f"{cluster.num_nodes or '?'} x {cluster.instance_type or '?'}"
    wanted = f"{group.num_nodes} x {' or '.join(group.instance_type)}"
    return f"{member.name} exists as {nodes} ({cluster.id}), and the fleet wants {wanted}; it was left alone"


def _to_create(member: Member, action: Action, prices: Prices, found: Sequence[Cluster]) -> PlannedMember:
    offer = (member.group.instance_type[0], member.group.num_nodes)
    cluster = found[0] if found else None
    return PlannedMember(member.name, member.group.name, action, *offer, prices.get(offer), cluster)


def _existing(
    member: Member, action: Action, cluster: Cluster, prices: Prices, problem: str = ""
) -> PlannedMember:
    return PlannedMember(
        member.name,
        member.group.name,
        action,
        cluster.instance_type,
        cluster.num_nodes,
        rate_of(cluster, prices),
        cluster,
        problem,
    )


def _surplus(cluster: Cluster, group: str, prices: Prices) -> PlannedMember:
    return PlannedMember(
        cluster.name or "",
        group,
        Action.SURPLUS,
        cluster.instance_type,
        cluster.num_nodes,
        rate_of(cluster, prices),
        cluster,
    )


def rate_of(cluster: Cluster, prices: Prices) -> float | None:
    """Return what a cluster costs in USD per hour, by its own word, else by the price of its kind."""
    if cluster.hourly_rate is not None:
        return cluster.hourly_rate
    if cluster.instance_type is None or cluster.num_nodes is None:
        return None
    return prices.get((cluster.instance_type, cluster.num_nodes))


def check_budget(plan: Plan) -> None:
    """Check a plan against its `max_hourly_cost`, at the first preferences.

    Raises:
        BudgetExceeded: Something would be created, and all would cost too much together, or a price is not known.
    """
    limit = plan.max_hourly_cost
    if limit is None or not plan.to_create:
        return
    cost = plan.hourly_cost_after
    if cost is None:
        unpriced = [entry for entry in (*plan.members, *plan.surplus) if entry.hourly_rate is None]
        kinds = sorted({entry.instance_type or entry.name for entry in unpriced})
        raise BudgetExceeded(
            f"the engine names no price for {', '.join(kinds)}, so whether {plan.fleet} keeps to its "
            f"max_hourly_cost of ${limit:.2f} is not known; nothing was created",
            hourly_cost=None,
            limit=limit,
        )
    if exceeds(cost, limit):
        raise BudgetExceeded(
            f"{plan.fleet} would cost ${cost:.2f} per hour, and its max_hourly_cost is ${limit:.2f}; "
            "nothing was created",
            hourly_cost=cost,
            limit=limit,
        )
