"""The volumes of a fleet: planned beside its clusters, made beside them, attached once both are there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import anyio
import attrs

from tensorpool_async.client import TensorPool
from tensorpool_async.errors import ConfigurationError, NotFound, TensorPoolError
from tensorpool_async.fleet.created import CreatedResources
from tensorpool_async.fleet.error_classification import names_no_price
from tensorpool_async.fleet.plan import Action, PlannedMember
from tensorpool_async.fleet.progress import FleetProgress
from tensorpool_async.fleet.report import MemberState
from tensorpool_async.fleet.send_queue import SendQueue
from tensorpool_async.fleet.spec import Fleet, VolumeGroup
from tensorpool_async.models import OperationKind, StorageVolume
from tensorpool_async.operations.operation import Operation


def volume_name(fleet: Fleet, volume: VolumeGroup) -> str:
    """Return what a volume of a fleet is called at the engine."""
    return f"{fleet.name}-{volume.name}"


def plan_volumes(
    fleet: Fleet, found: Iterable[StorageVolume], prices: Mapping[int, float | None]
) -> tuple[PlannedMember, ...]:
    """Say what each volume of a fleet needs.

    Args:
        fleet: What should be.
        found: What is, other people's volumes too.
        prices: USD per hour by size in GB; None where the engine names no price.
    """
    named: defaultdict[str | None, list[StorageVolume]] = defaultdict(list)
    for volume in found:
        named[volume.name].append(volume)
    return tuple(
        _decide(volume, volume_name(fleet, volume), named[volume_name(fleet, volume)], prices)
        for volume in fleet.volumes
    )


def _decide(
    wanted: VolumeGroup, name: str, found: Sequence[StorageVolume], prices: Mapping[int, float | None]
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
        problem = f"there are several volumes called {name}: {' and '.join(one.id for one in found)}"
    elif volume.size_gb is not None and volume.size_gb != wanted.size_gb:
        action = Action.CONFLICT
        problem = f"{name} exists with {volume.size_gb} GB ({volume.id}), and the fleet wants {size}; it was left alone"
    return PlannedMember(name, wanted.name, action, size, None, rate, None, problem, volume)


async def volumes_of(tp: TensorPool, fleet: Fleet) -> list[StorageVolume]:
    """Return the volumes that belong to a fleet by their names; the engine is not asked where there are none.

    Raises:
        TensorPoolError: The engine could not be asked.
    """
    if not fleet.volumes:
        return []
    names = {volume_name(fleet, volume) for volume in fleet.volumes}
    return [volume for volume in await tp.storage.list() if volume.name in names]


async def ask_volume_prices(tp: TensorPool, fleet: Fleet) -> dict[int, float | None]:
    """Return the price of every size that the fleet has, in USD per hour; None where the engine names none.

    Raises:
        TensorPoolError: The engine could not be asked.
    """
    prices: dict[int, float | None] = {}
    for size_gb in {volume.size_gb for volume in fleet.volumes}:
        try:
            prices[size_gb] = (await tp.storage.quote(size_gb)).hourly_rate
        except TensorPoolError as error:
            if not names_no_price(error):
                raise
            prices[size_gb] = None
    return prices


@attrs.frozen
class VolumeKeeper:
    """What the volumes of a fleet share on their way up and down.

    Attributes:
        created: Where it is taken down what was made.
        ready: The volumes that are ready, by the names that they have at the engine.
    """

    tp: TensorPool
    fleet: Fleet
    progress: FleetProgress
    sender: SendQueue
    created: CreatedResources
    ready: dict[str, StorageVolume] = attrs.field(factory=dict[str, StorageVolume], init=False)
    _restarting: defaultdict[str, anyio.Lock] = attrs.field(
        factory=lambda: defaultdict[str, anyio.Lock](anyio.Lock), init=False
    )

    async def bring_up(self, step: PlannedMember, volume: VolumeGroup) -> None:
        """Bring one volume up; its failure is no failure of the others."""
        try:
            ready = await self._make(step, volume)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not take the other members along
            self.progress.fails(step.name, error)
        else:
            self.ready[step.name] = ready
            self.progress.change(step.name, MemberState.RUNNING, id=ready.id, hourly_rate=ready.hourly_rate)

    async def attach(self, volume: VolumeGroup) -> None:
        """Attach a volume to the clusters of its groups that run; this restarts their nodes."""
        name = volume_name(self.fleet, volume)
        running = {
            member.name: member.id
            for member in self.progress.report().members
            if member.state == MemberState.RUNNING and member.id is not None
        }
        volume_id = running.get(name)
        targets = [
            running[member.name]
            for member in self.fleet.members
            if member.group.name in volume.attach_to and member.name in running
        ]
        if volume_id is None or not targets:
            return
        try:
            attached = (await self.tp.storage.get(volume_id)).attached_clusters
            # One after the other: while a volume is being attached, the engine takes no other change of it.
            for cluster_id in targets:
                if cluster_id not in attached:
                    await self._attach(name, volume_id, cluster_id)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not take the other members along
            self.progress.fails(name, error)
        else:
            self.progress.change(name, MemberState.RUNNING)

    async def take_down(self, volume: StorageVolume) -> None:
        """Destroy one volume, once it is free; its failure is no failure of the others."""
        self.progress.begins_to_go(volume.id, "")
        try:
            if volume.status != "READY":
                await self._creation_of(volume.id).result()
            # Where it is still attached, that is not to a cluster of this fleet, or to one that stays: the engine
            # refuses, and detaching it would restart somebody's nodes.
            await self.tp.storage.for_exit.destroy(volume.id).result()
        except NotFound:
            self.progress.change(volume.id, MemberState.DESTROYED, hourly_rate=None)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not take the other members along
            self.progress.fails(volume.id, error)
        else:
            self.progress.change(volume.id, MemberState.DESTROYED, hourly_rate=None)

    async def _make(self, step: PlannedMember, volume: VolumeGroup) -> StorageVolume:
        if step.action is Action.CONFLICT:
            raise ConfigurationError(step.problem)
        if step.volume is not None:
            await self.tp.clusters.lifecycle.join(
                step.volume.id,
                step.name,
                kind=OperationKind.STORAGE_CREATE,
                ephemeral=self.created.owned,
            )
            return await self._creation_of(step.volume.id) if step.action is Action.JOIN else step.volume
        record = self.created[step.name]
        record.asked = (volume.size_gb,)
        operation = await self.sender.send(
            lambda: self.tp.storage.create(
                volume.size_gb,
                name=step.name,
                deletion_protection=volume.deletion_protection,
                owned=self.created.owned,
            ),
            record,
            lambda operation: self.progress.follow(step.name, operation),
        )
        return await operation

    async def _attach(self, name: str, volume_id: str, cluster_id: str) -> None:
        async with self._restarting[cluster_id]:
            message = f"attaching to {cluster_id}, which restarts its nodes"
            self.progress.change(name, MemberState.CREATING, message)
            self.created.attached[volume_id].add(cluster_id)
            self.ready[name] = await self.tp.storage.attach(volume_id, cluster_id).result()

    def _creation_of(self, volume_id: str) -> Operation[StorageVolume]:
        # No endpoint tells which request makes a volume, so the volume itself is watched.
        return self.tp.storage.creation_of(volume_id)
