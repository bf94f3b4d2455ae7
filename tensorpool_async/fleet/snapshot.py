"""What there is of a fleet before anything is done about it, and what that needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from tensorpool_async.client import TensorPool
from tensorpool_async.fleet.budget import Budget
from tensorpool_async.fleet.plan import Plan, PlannedMember, Prices, by_name, make_plan
from tensorpool_async.fleet.prices import ask_prices
from tensorpool_async.fleet.spec import Fleet
from tensorpool_async.fleet.volumes import ask_volume_prices, plan_volumes, volumes_of
from tensorpool_async.models import Cluster


@attrs.frozen
class Snapshot:
    """What a look at the engine has shown.

    Attributes:
        named: The clusters by their names, other people's too.
        prices: What things cost.
        plan: What has to be done.
    """

    named: Mapping[str, Sequence[Cluster]]
    prices: Prices
    plan: Plan

    @property
    def steps(self) -> dict[str, PlannedMember]:
        """What each member needs, by its name."""
        return {entry.name: entry for entry in self.plan.members}

    def budget(self) -> Budget:
        """Reserve what everything is planned to cost."""
        rates = {entry.name: entry.hourly_rate for entry in self.plan.members}
        rates |= {f"{entry.name} {index}": entry.hourly_rate for index, entry in enumerate(self.plan.surplus)}
        return Budget.of(self.plan.max_hourly_cost, rates)


async def take_snapshot(tp: TensorPool, fleet: Fleet) -> Snapshot:
    """Look at what there is, and plan. Nothing is changed.

    Raises:
        ConfigurationError: The engine does not rent out what the fleet asks for.
        TensorPoolError: The engine could not be asked.
    """
    clusters = await tp.clusters.list()
    prices = await ask_prices(tp, fleet)
    plan = make_plan(fleet, clusters, prices)
    if fleet.volumes:
        volume_prices = await ask_volume_prices(tp, fleet)
        volumes = plan_volumes(fleet, await volumes_of(tp, fleet), volume_prices)
        plan = attrs.evolve(plan, members=(*plan.members, *volumes))
    return Snapshot(by_name(clusters), prices, plan)
