"""All members of a fleet on their way up, side by side."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import attrs

from tensorpool_async.client import TensorPool
from tensorpool_async.fleet.created import CreatedMember, CreatedResources
from tensorpool_async.fleet.plan import PlannedMember
from tensorpool_async.fleet.progress import FleetProgress, MemberProgress
from tensorpool_async.fleet.provisioning import Provisioner
from tensorpool_async.fleet.send_queue import SendQueue
from tensorpool_async.fleet.snapshot import Snapshot
from tensorpool_async.fleet.spec import Fleet
from tensorpool_async.fleet.volumes import VolumeKeeper, volume_name
from tensorpool_async.models import Cluster, StorageVolume


def _goes_on() -> bool:
    return False


class Rollout:
    """The way up of a fleet after a survey.

    Attributes:
        created: What it has made.
    """

    def __init__(
        self,
        tp: TensorPool,
        fleet: Fleet,
        progress: FleetProgress,
        snapshot: Snapshot,
        *,
        detach_on_cancel: bool = False,
        owned: bool = False,
        gives_up: Callable[[], bool] = _goes_on,
    ) -> None:
        """Prepare it, and open the accounts of the members.

        Args:
            tp: The client.
            fleet: What should be.
            progress: Where it is taken down how each member does.
            snapshot: What there is.
            detach_on_cancel: Leave creations that are on their way, when this is cancelled, to whoever reads the ledger.
            owned: Whether what is made goes with whoever made it.
            gives_up: Asked after each member whether it is of no use to go on with the others.
        """
        self.created: CreatedResources = CreatedResources(owned=owned)
        self._fleet = fleet
        self._survey = snapshot
        self._gives_up = gives_up
        sender = SendQueue(tp.limiter.max_in_flight, detach_on_cancel=detach_on_cancel)
        self._provisioner = Provisioner(
            tp, progress, snapshot.budget(), snapshot.prices, sender, self.created
        )
        self._keeper = VolumeKeeper(tp, fleet, progress, sender, self.created)
        for step in snapshot.plan.members:
            progress.open(step.name, _progress_of(step))
        self._open_records()

    @property
    def clusters(self) -> dict[str, Cluster]:
        """The clusters that run, by the names of their members, in the order of the fleet."""
        running = self._provisioner.running
        return {
            member.name: self._with_volumes(running[member.name])
            for member in self._fleet.members
            if member.name in running
        }

    @property
    def volumes(self) -> dict[str, StorageVolume]:
        """The volumes that are ready, by their names in the fleet."""
        ready = self._keeper.ready
        names = {volume.name: volume_name(self._fleet, volume) for volume in self._fleet.volumes}
        return {short: ready[name] for short, name in names.items() if name in ready}

    async def run(self) -> None:
        """Bring all members up, and attach the volumes; a failure of one is no failure of the others."""
        steps = self._survey.steps
        async with anyio.create_task_group() as tasks:
            stop = tasks.cancel_scope.cancel
            for member in self._fleet.members:
                found = self._survey.named.get(member.name, ())
                tasks.start_soon(self._go, self._provisioner.bring_up(member, found), stop)
            for volume in self._fleet.volumes:
                step = steps[volume_name(self._fleet, volume)]
                tasks.start_soon(self._go, self._keeper.bring_up(step, volume), stop)
        if self._gives_up():
            return
        async with anyio.create_task_group() as tasks:
            stop = tasks.cancel_scope.cancel
            for volume in self._fleet.volumes:
                tasks.start_soon(self._go, self._keeper.attach(volume), stop)

    async def _go(self, member: Awaitable[None], stop: Callable[[], object]) -> None:
        await member
        if self._gives_up():
            stop()

    def _open_records(self) -> None:
        for member in self._fleet.members:
            before = frozenset(cluster.id for cluster in self._survey.named.get(member.name, ()))
            protected = member.group.deletion_protection
            self.created.open(CreatedMember(member.name, before=before, protected=protected))
        steps = self._survey.steps
        for volume in self._fleet.volumes:
            name = volume_name(self._fleet, volume)
            there = steps[name].volume
            before = frozenset(() if there is None else (there.id,))
            protected = volume.deletion_protection
            self.created.open(CreatedMember(name, is_volume=True, before=before, protected=protected))

    def _with_volumes(self, cluster: Cluster) -> Cluster:
        """Return a cluster as it is after volumes were attached to it."""
        attached = [
            volume.id
            for volume in self._keeper.ready.values()
            if cluster.id in volume.attached_clusters and volume.id not in cluster.storage
        ]
        return attrs.evolve(cluster, storage=(*cluster.storage, *attached)) if attached else cluster


def _progress_of(step: PlannedMember) -> MemberProgress:
    return MemberProgress(
        step.name, step.group, instance_type=step.instance_type, hourly_rate=step.hourly_rate
    )
