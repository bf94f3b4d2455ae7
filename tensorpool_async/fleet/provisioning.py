"""Bring up single members: a cluster until it runs, a volume until it is ready and attached."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import anyio
import attrs

from tensorpool_async.errors import (
    AmbiguousOutcomeError,
    BudgetExceeded,
    ConfigurationError,
    ConflictError,
    OperationFailed,
    StatusError,
    TensorPoolError,
)
from tensorpool_async.fleet.client_protocol import FleetClient
from tensorpool_async.fleet.created import CreatedMember, CreatedResources, SendQueue
from tensorpool_async.fleet.error_classification import is_capacity_error
from tensorpool_async.fleet.plan import (
    Action,
    Budget,
    PlannedMember,
    Prices,
    clusters_by_name,
    hourly_rate_of,
    plan_member,
)
from tensorpool_async.fleet.progress import FleetProgress
from tensorpool_async.fleet.report import MemberState
from tensorpool_async.fleet.spec import Fleet, Member, VolumeGroup, volume_name
from tensorpool_async.models import Cluster, OperationKind, StorageVolume
from tensorpool_async.operations.operation import Operation
from tensorpool_async.operations.submission import Submission


MAX_NAME_CONFLICTS = 4
"""How many creates of a member may be refused because its name is in use, before the member fails."""
NAME_CONFLICT_DELAY = 1.0
"""Seconds before the next create, where the name is in use and no list shows by what."""


@attrs.frozen
class ClusterProvisioner:
    """Brings up the clusters of a fleet.

    Attributes:
        tp: The client.
        progress: Where the progress of each member is recorded.
        budget: What each member may cost.
        prices: The prices of the fleet's offers.
        send_queue: Sends the creates.
        created: Where the created clusters are recorded.
        running: The running clusters, by their names.
    """

    tp: FleetClient
    progress: FleetProgress
    budget: Budget
    prices: Prices
    send_queue: SendQueue
    created: CreatedResources
    running: dict[str, Cluster] = attrs.field(factory=dict[str, Cluster], init=False)

    async def bring_up(self, member: Member, found: Sequence[Cluster]) -> None:
        """Bring up one cluster. A failure is recorded as the member's and not raised.

        Args:
            member: The member.
            found: The existing clusters of its name.
        """
        try:
            cluster = await _MemberProvisioner(self, member, found).run()
        except Exception as error:  # noqa: BLE001 - an error of one member must not stop the others
            self.progress.record_failure(member.name, error)
        else:
            self.running[member.name] = cluster
            self.progress.record_running(member.name, cluster, hourly_rate_of(cluster, self.prices))


class _MemberProvisioner:
    """Brings up one cluster: plans the next action from the clusters of its name, does it, and repeats until one runs."""

    def __init__(self, shared: ClusterProvisioner, member: Member, found: Sequence[Cluster]) -> None:
        self._shared = shared
        self._tp = shared.tp
        self._progress = shared.progress
        self._record: CreatedMember = shared.created[member.name]
        self._member = member
        self._found = found
        self._without_capacity: dict[str, str] = {}  # the engine's message by instance type, in lower case
        self._name_conflicts = 0

    async def run(self) -> Cluster:
        """Return the cluster once it runs."""
        while True:
            planned = plan_member(self._member, self._found, self._shared.prices)
            cluster = await self._execute(planned)
            if cluster is not None:
                return cluster

    async def _execute(self, planned: PlannedMember) -> Cluster | None:
        """Do one action; return the running cluster, or None where another action is needed."""
        match planned.action, planned.cluster:
            case Action.KEEP, Cluster() as cluster:
                await self._record_use(cluster)
                return cluster
            case Action.JOIN, Cluster() as cluster:
                return await self._join(cluster, planned.hourly_rate)
            case Action.REPLACE, Cluster() as cluster:
                self._record_clearing(f"destroying {cluster.id}, which failed")
                await self._tp.clusters.lifecycle.destroy(cluster)
                self._record.made.pop(cluster.id, None)
                self._found = ()
            case Action.AWAIT_DESTROY, Cluster() as cluster:
                self._record_clearing(f"waiting until {cluster.id} is destroyed")
                await (await self._tp.clusters.lifecycle.destruction_of(cluster.id))
                self._found = ()
            case Action.CONFLICT, _:
                raise ConfigurationError(planned.problem)
            case _:
                return await self._create()
        return None

    async def _record_use(self, cluster: Cluster) -> None:
        """Record in the journal, if there is one, that this client uses an existing cluster."""
        await self._tp.clusters.lifecycle.join(
            cluster.id,
            self._member.name,
            kind=OperationKind.CLUSTER_CLAIM,
            ephemeral=self._shared.created.owned,
        )

    def _record_clearing(self, message: str) -> None:
        self._progress.update(self._member.name, MemberState.CLEARING, message, id=None)

    async def _join(self, cluster: Cluster, rate: float | None) -> Cluster | None:
        """Wait for a create that was started elsewhere."""
        instance_type = cluster.instance_type or self._member.group.instance_type[0]
        self._shared.budget.reserve(self._member.name, rate)
        self._progress.update(
            self._member.name,
            MemberState.CREATING,
            "joining a create that was started elsewhere",
            id=cluster.id,
            instance_type=instance_type,
            hourly_rate=rate,
        )
        await self._record_use(cluster)
        operation = await self._tp.clusters.lifecycle.creation_of(cluster.id)
        self._progress.record_operation(self._member.name, operation)
        return await self._wait(operation, instance_type)

    async def _create(self) -> Cluster | None:
        instance_type = self._choose_instance_type()
        self._record.requested = (instance_type, self._member.group.num_nodes)
        try:
            operation = await self._shared.send_queue.send(
                lambda: self._submission(instance_type),
                self._record,
                lambda operation: self._progress.record_operation(self._member.name, operation),
            )
        except AmbiguousOutcomeError:
            # The client does not adopt a cluster without proof. The fleet does, because the name makes it a member.
            if not await self._find_by_name():
                raise
            self._record.adopt(self._found)
        except StatusError as error:
            if is_capacity_error(error):
                self._without_capacity[instance_type.casefold()] = error.message
            elif isinstance(error, ConflictError):
                await self._handle_name_conflict(error)
            else:
                raise
        else:
            return await self._wait(operation, instance_type)
        return None

    def _submission(self, instance_type: str) -> Submission[Cluster]:
        group = self._member.group
        return self._tp.clusters.create(
            instance_type,
            name=self._member.name,
            num_nodes=group.num_nodes,
            public_keys=group.public_keys,
            container=group.container,
            deletion_protection=group.deletion_protection,
            owned=self._shared.created.owned,
        )

    async def _wait(self, operation: Operation[Cluster], instance_type: str) -> Cluster | None:
        """Return the cluster once it runs, or None where the create failed for lack of capacity."""
        try:
            async for info in operation.updates():
                self._progress.record_message(self._member.name, info.external_message)
            return await operation
        except OperationFailed as error:
            if not is_capacity_error(error):
                raise
            self._without_capacity[instance_type.casefold()] = error.message
            await self._destroy_failed(operation.resource_id, error.message)
        return None

    async def _destroy_failed(self, cluster_id: str | None, reason: str) -> None:
        """Destroy a cluster whose create failed for lack of capacity, to free its name."""
        self._record_clearing(reason)
        self._found = ()
        if cluster_id is None:
            return
        if self._member.group.deletion_protection:
            await self._tp.clusters.edit(cluster_id, deletion_protection=False).result()
        await self._tp.clusters.lifecycle.destroy(Cluster(cluster_id))
        self._record.made.pop(cluster_id, None)

    async def _handle_name_conflict(self, error: ConflictError) -> None:
        """Find the cluster that has the name; where none is listed, sleep before the next create.

        Raises:
            ConflictError: The given error, after `MAX_NAME_CONFLICTS` conflicts.
        """
        self._name_conflicts += 1
        if self._name_conflicts > MAX_NAME_CONFLICTS:
            raise error
        if not await self._find_by_name():
            await anyio.sleep(NAME_CONFLICT_DELAY)

    async def _find_by_name(self) -> bool:
        self._found = clusters_by_name(await self._tp.clusters.list()).get(self._member.name, ())
        return bool(self._found)

    def _choose_instance_type(self) -> str:
        """Return the first instance type of the list that may have capacity and fits the budget; reserve its price.

        Raises:
            BudgetExceeded: Instance types that may have capacity are left, and none fits the budget.
            OperationFailed: No instance type has capacity.
        """
        name, group, budget = self._member.name, self._member.group, self._shared.budget
        over_budget: dict[str, str] = {}
        for instance_type in group.instance_type:
            if instance_type.casefold() in self._without_capacity:
                continue
            rate = self._shared.prices.get((instance_type, group.num_nodes))
            reason = budget.reason_against(name, rate)
            if reason is None:
                budget.reserve(name, rate)
                self._progress.record_request(name, instance_type, rate)
                return instance_type
            over_budget[instance_type] = reason
        budget.reserve(name, None)
        raise self._exhausted(over_budget)

    def _exhausted(self, over_budget: dict[str, str]) -> TensorPoolError:
        name, group, budget = self._member.name, self._member.group, self._shared.budget
        reasons = [
            f"{kind} ({self._without_capacity.get(kind.casefold()) or over_budget[kind]})"
            for kind in group.instance_type
        ]
        text = f"no instance type can be had for {name}; tried {', '.join(reasons)}"
        if over_budget and budget.limit is not None:
            rates = [self._shared.prices.get((kind, group.num_nodes)) for kind in over_budget]
            cost = None if None in rates else budget.total_with(name, min(rate or 0.0 for rate in rates))
            return BudgetExceeded(text, hourly_cost=cost, limit=budget.limit)
        return OperationFailed(text, text)


@attrs.frozen
class VolumeProvisioner:
    """Brings up the volumes of a fleet, and attaches them to its clusters.

    Attributes:
        tp: The client.
        fleet: The fleet.
        progress: Where the progress of each volume is recorded.
        send_queue: Sends the creates.
        created: Where the created volumes and the attachments are recorded.
        ready: The volumes that are ready, by their names at the engine.
    """

    tp: FleetClient
    fleet: Fleet
    progress: FleetProgress
    send_queue: SendQueue
    created: CreatedResources
    ready: dict[str, StorageVolume] = attrs.field(factory=dict[str, StorageVolume], init=False)
    _cluster_locks: defaultdict[str, anyio.Lock] = attrs.field(
        factory=lambda: defaultdict[str, anyio.Lock](anyio.Lock), init=False
    )

    async def bring_up(self, planned: PlannedMember, group: VolumeGroup) -> None:
        """Bring up one volume. A failure is recorded as the member's and not raised."""
        try:
            volume = await self._execute(planned, group)
        except Exception as error:  # noqa: BLE001 - an error of one member must not stop the others
            self.progress.record_failure(planned.name, error)
        else:
            self.ready[planned.name] = volume
            self.progress.update(
                planned.name, MemberState.RUNNING, id=volume.id, hourly_rate=volume.hourly_rate
            )

    async def attach(self, volume: VolumeGroup) -> None:
        """Attach a volume to the running clusters of its groups, which restarts the clusters' nodes.

        A failure is recorded as the volume's and not raised.
        """
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
            # One at a time: while a volume is being attached, the engine refuses other changes of it.
            for cluster_id in targets:
                if cluster_id not in attached:
                    await self._attach(name, volume_id, cluster_id)
        except Exception as error:  # noqa: BLE001 - an error of one member must not stop the others
            self.progress.record_failure(name, error)
        else:
            self.progress.update(name, MemberState.RUNNING)

    async def _execute(self, planned: PlannedMember, group: VolumeGroup) -> StorageVolume:
        """Create or join a volume, and return it once it is ready."""
        if planned.action is Action.CONFLICT:
            raise ConfigurationError(planned.problem)
        if planned.volume is not None:
            await self.tp.clusters.lifecycle.join(
                planned.volume.id,
                planned.name,
                kind=OperationKind.STORAGE_CREATE,
                ephemeral=self.created.owned,
            )
            if planned.action is Action.JOIN:
                return await self.tp.storage.creation_of(planned.volume.id)
            return planned.volume
        record = self.created[planned.name]
        record.requested = (group.size_gb,)
        operation = await self.send_queue.send(
            lambda: self.tp.storage.create(
                group.size_gb,
                name=planned.name,
                deletion_protection=group.deletion_protection,
                owned=self.created.owned,
            ),
            record,
            lambda operation: self.progress.record_operation(planned.name, operation),
        )
        return await operation

    async def _attach(self, name: str, volume_id: str, cluster_id: str) -> None:
        async with self._cluster_locks[cluster_id]:
            message = f"attaching to {cluster_id}, which restarts its nodes"
            self.progress.update(name, MemberState.CREATING, message)
            self.created.attached[volume_id].add(cluster_id)
            self.ready[name] = await self.tp.storage.attach(volume_id, cluster_id).result()
