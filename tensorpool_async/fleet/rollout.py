"""Bring up a fleet: take a snapshot of what exists, then bring up all members concurrently."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence

import anyio
import attrs

from tensorpool_async.errors import ConfigurationError, TensorPoolError
from tensorpool_async.fleet.client_protocol import FleetClient
from tensorpool_async.fleet.created import CreatedMember, CreatedResources, SendQueue
from tensorpool_async.fleet.error_classification import is_offer_rejected, is_price_unavailable
from tensorpool_async.fleet.plan import (
    Budget,
    Offer,
    Plan,
    PlannedMember,
    Prices,
    clusters_by_name,
    make_plan,
    plan_volumes,
)
from tensorpool_async.fleet.progress import FleetProgress, MemberProgress
from tensorpool_async.fleet.provisioning import ClusterProvisioner, VolumeProvisioner
from tensorpool_async.fleet.spec import Fleet, volume_name
from tensorpool_async.models import Cluster, StorageVolume


@attrs.frozen
class Snapshot:
    """What exists at the engine before a rollout, and what the rollout has to do.

    Attributes:
        named: The account's clusters by their names, including those of other fleets.
        prices: The prices of the fleet's offers.
        plan: The plan.
    """

    named: Mapping[str, Sequence[Cluster]]
    prices: Prices
    plan: Plan

    @property
    def planned(self) -> dict[str, PlannedMember]:
        """The planned members by their names."""
        return {entry.name: entry for entry in self.plan.members}


async def take_snapshot(tp: FleetClient, fleet: Fleet) -> Snapshot:
    """Read what exists and what it costs, and plan the fleet. Nothing is changed.

    Raises:
        ConfigurationError: The engine does not offer an instance type or number of nodes of the fleet.
        TensorPoolError: A request failed.
    """
    clusters = await tp.clusters.list()
    prices = await fetch_prices(tp, fleet)
    plan = make_plan(fleet, clusters, prices)
    if fleet.volumes:
        volume_prices = await fetch_volume_prices(tp, fleet)
        volumes = plan_volumes(fleet, await list_volumes(tp, fleet), volume_prices)
        plan = attrs.evolve(plan, members=(*plan.members, *volumes))
    return Snapshot(clusters_by_name(clusters), prices, plan)


async def list_volumes(tp: FleetClient, fleet: Fleet) -> list[StorageVolume]:
    """Return the existing volumes of a fleet. No request is sent if the fleet defines no volumes.

    Raises:
        TensorPoolError: The request failed.
    """
    if not fleet.volumes:
        return []
    names = {volume_name(fleet, volume) for volume in fleet.volumes}
    return [volume for volume in await tp.storage.list() if volume.name in names]


async def fetch_prices(tp: FleetClient, fleet: Fleet) -> dict[Offer, float | None]:
    """Return the price of each offer of a fleet, in USD per hour; None where the engine names no price.

    Each offer is requested once, and all concurrently. The endpoint is not documented, so an engine may not have it.

    Raises:
        ConfigurationError: The engine does not offer an instance type or number of nodes of the fleet.
        TensorPoolError: A request failed.
    """
    offers = {(kind, group.num_nodes): group.name for group in fleet.clusters for kind in group.instance_type}
    prices: dict[Offer, float | None] = {}
    errors: list[TensorPoolError] = []

    async def fetch(offer: Offer, group: str) -> None:
        try:
            prices[offer] = await _fetch_price(tp, offer, group)
        except TensorPoolError as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        for offer, group in offers.items():
            tasks.start_soon(fetch, offer, group)
    if errors:
        raise errors[0]
    return prices


async def _fetch_price(tp: FleetClient, offer: Offer, group: str) -> float | None:
    try:
        rate = (await tp.clusters.quote(*offer)).hourly_rate
    except TensorPoolError as error:
        if is_offer_rejected(error):
            kind, nodes = offer
            raise ConfigurationError(
                f"clusters.{group}: the engine does not offer {nodes} x {kind}: {error}"
            ) from error
        if is_price_unavailable(error):
            return None
        raise
    return rate if math.isfinite(rate) and rate >= 0 else None


async def fetch_volume_prices(tp: FleetClient, fleet: Fleet) -> dict[int, float | None]:
    """Return the price of each volume size of a fleet, in USD per hour; None where the engine names no price.

    Raises:
        TensorPoolError: A request failed.
    """
    prices: dict[int, float | None] = {}
    for size_gb in {volume.size_gb for volume in fleet.volumes}:
        try:
            prices[size_gb] = (await tp.storage.quote(size_gb)).hourly_rate
        except TensorPoolError as error:
            if not is_price_unavailable(error):
                raise
            prices[size_gb] = None
    return prices


def _never() -> bool:
    return False


class Rollout:
    """Brings up a fleet from a snapshot.

    Attributes:
        created: What the rollout created.
    """

    def __init__(
        self,
        tp: FleetClient,
        fleet: Fleet,
        progress: FleetProgress,
        snapshot: Snapshot,
        *,
        detach_on_cancel: bool = False,
        owned: bool = False,
        should_stop: Callable[[], bool] = _never,
    ) -> None:
        """Make a rollout, and add its members to the progress.

        Args:
            tp: The client.
            fleet: The fleet.
            progress: Where the progress of each member is recorded.
            snapshot: What exists.
            detach_on_cancel: When cancelled, leave creates in flight to the rollback.
            owned: Whether the created resources belong to this process, so that `reap` may destroy them if the process
                is killed.
            should_stop: Called after each member; if it returns True, the other members are cancelled.
        """
        self.created: CreatedResources = CreatedResources(owned=owned)
        self._fleet = fleet
        self._snapshot = snapshot
        self._should_stop = should_stop
        queue = SendQueue(tp.limiter.max_in_flight, detach_on_cancel=detach_on_cancel)
        budget = Budget.of(snapshot.plan)
        self._clusters = ClusterProvisioner(tp, progress, budget, snapshot.prices, queue, self.created)
        self._volumes = VolumeProvisioner(tp, fleet, progress, queue, self.created)
        for planned in snapshot.plan.members:
            progress.add(planned.name, _progress_of(planned))
        self._add_records()

    @property
    def clusters(self) -> dict[str, Cluster]:
        """The running clusters by their names, in the order of the fleet."""
        running = self._clusters.running
        return {
            member.name: self._with_attached_volumes(running[member.name])
            for member in self._fleet.members
            if member.name in running
        }

    @property
    def volumes(self) -> dict[str, StorageVolume]:
        """The volumes that are ready, by their names in the fleet."""
        ready = self._volumes.ready
        names = {volume.name: volume_name(self._fleet, volume) for volume in self._fleet.volumes}
        return {short: ready[name] for short, name in names.items() if name in ready}

    async def run(self) -> None:
        """Bring up all members, then attach the volumes. Failures are recorded in the progress and not raised."""
        planned = self._snapshot.planned
        async with anyio.create_task_group() as tasks:
            cancel = tasks.cancel_scope.cancel
            for member in self._fleet.members:
                found = self._snapshot.named.get(member.name, ())
                tasks.start_soon(self._run_member, self._clusters.bring_up(member, found), cancel)
            for volume in self._fleet.volumes:
                entry = planned[volume_name(self._fleet, volume)]
                tasks.start_soon(self._run_member, self._volumes.bring_up(entry, volume), cancel)
        if self._should_stop():
            return
        async with anyio.create_task_group() as tasks:
            cancel = tasks.cancel_scope.cancel
            for volume in self._fleet.volumes:
                tasks.start_soon(self._run_member, self._volumes.attach(volume), cancel)

    async def _run_member(self, work: Awaitable[None], cancel_others: Callable[[], object]) -> None:
        await work
        if self._should_stop():
            cancel_others()

    def _add_records(self) -> None:
        for member in self._fleet.members:
            before = frozenset(cluster.id for cluster in self._snapshot.named.get(member.name, ()))
            protected = member.group.deletion_protection
            self.created.add(CreatedMember(member.name, before=before, protected=protected))
        planned = self._snapshot.planned
        for volume in self._fleet.volumes:
            name = volume_name(self._fleet, volume)
            existing = planned[name].volume
            before = frozenset(() if existing is None else (existing.id,))
            protected = volume.deletion_protection
            self.created.add(CreatedMember(name, is_volume=True, before=before, protected=protected))

    def _with_attached_volumes(self, cluster: Cluster) -> Cluster:
        """Return a cluster with the ids of the volumes that were attached after it was read."""
        attached = [
            volume.id
            for volume in self._volumes.ready.values()
            if cluster.id in volume.attached_clusters and volume.id not in cluster.storage
        ]
        return attrs.evolve(cluster, storage=(*cluster.storage, *attached)) if attached else cluster


def _progress_of(planned: PlannedMember) -> MemberProgress:
    return MemberProgress(
        planned.name, planned.group, instance_type=planned.instance_type, hourly_rate=planned.hourly_rate
    )
