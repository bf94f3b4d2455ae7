"""The way up of one member: from whatever is there to a cluster that runs."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import attrs

from tensorpool_async.client import TensorPool
from tensorpool_async.errors import (
    AmbiguousOutcomeError,
    BudgetExceeded,
    ConfigurationError,
    ConflictError,
    OperationFailed,
    StatusError,
    TensorPoolError,
)
from tensorpool_async.fleet.budget import Budget
from tensorpool_async.fleet.created import CreatedMember, CreatedResources
from tensorpool_async.fleet.error_classification import lacks_capacity
from tensorpool_async.fleet.plan import Action, PlannedMember, Prices, by_name, decide, rate_of
from tensorpool_async.fleet.progress import FleetProgress
from tensorpool_async.fleet.report import MemberState
from tensorpool_async.fleet.send_queue import SendQueue
from tensorpool_async.fleet.spec import Member
from tensorpool_async.models import Cluster, OperationKind
from tensorpool_async.operations.operation import Operation
from tensorpool_async.operations.submission import Submission


MOST_SETBACKS = 4
"""How often a name may be taken until a member is given up."""
SETBACK_DELAY = 1.0
"""Seconds until it is asked for again, where the engine shows nothing under the name."""


@attrs.frozen
class Provisioner:
    """What the members of a fleet share on their way up.

    Attributes:
        created: Where it is taken down what was made.
        running: The clusters that run, by the names of their members.
    """

    tp: TensorPool
    progress: FleetProgress
    budget: Budget
    prices: Prices
    sender: SendQueue
    created: CreatedResources
    running: dict[str, Cluster] = attrs.field(factory=dict[str, Cluster], init=False)

    async def bring_up(self, member: Member, found: Sequence[Cluster]) -> None:
        """Bring one member up, and take down what became of it; its failure is no failure of the others.

        Args:
            member: What should be.
            found: The clusters that have its name.
        """
        try:
            cluster = await _MemberProvisioner(self, member, found).run()
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not take the other members along
            self.progress.fails(member.name, error)
        else:
            self.running[member.name] = cluster
            self.progress.runs(member.name, cluster, rate_of(cluster, self.prices))


class _MemberProvisioner:
    """One member on its way. Each step looks at what is there, and does what that needs, until it runs."""

    def __init__(self, shared: Provisioner, member: Member, found: Sequence[Cluster]) -> None:
        self._shared = shared
        self._tp = shared.tp
        self._progress = shared.progress
        self._record: CreatedMember = shared.created[member.name]
        self._member = member
        self._found = found
        self._lacking: dict[str, str] = {}
        self._setbacks = 0

    async def run(self) -> Cluster:
        """Return the cluster once it runs."""
        while True:
            step = decide(self._member, self._found, self._shared.prices)
            cluster = await self._take(step)
            if cluster is not None:
                return cluster

    async def _take(self, step: PlannedMember) -> Cluster | None:
        """Take one step; None where it is time to look again."""
        match step.action, step.cluster:
            case Action.KEEP, Cluster() as cluster:
                await self._record_use(cluster)
                return cluster
            case Action.JOIN, Cluster() as cluster:
                return await self._join(cluster, step.hourly_rate)
            case Action.REPLACE, Cluster() as cluster:
                self._clearing(f"destroying {cluster.id}, which failed")
                await self._tp.clusters.lifecycle.destroy(cluster)
                self._record.made.pop(cluster.id, None)
                self._found = ()
            case Action.AWAIT_DESTROY, Cluster() as cluster:
                self._clearing(f"waiting until {cluster.id} is destroyed")
                await (await self._tp.clusters.lifecycle.destruction_of(cluster.id))
                self._found = ()
            case Action.CONFLICT, _:
                raise ConfigurationError(step.problem)
            case _:
                return await self._create()
        return None

    async def _record_use(self, cluster: Cluster) -> None:
        await self._tp.clusters.lifecycle.join(
            cluster.id,
            self._member.name,
            kind=OperationKind.CLUSTER_CLAIM,
            ephemeral=self._shared.created.owned,
        )

    def _clearing(self, message: str) -> None:
        self._progress.change(self._member.name, MemberState.CLEARING, message, id=None)

    async def _join(self, cluster: Cluster, rate: float | None) -> Cluster | None:
        instance_type = cluster.instance_type or self._member.group.instance_type[0]
        self._shared.budget.settle(self._member.name, rate)
        self._progress.change(
            self._member.name,
            MemberState.CREATING,
            "joining what is on its way",
            id=cluster.id,
            instance_type=instance_type,
            hourly_rate=rate,
        )
        await self._record_use(cluster)
        operation = await self._tp.clusters.lifecycle.creation_of(cluster.id)
        self._progress.follow(self._member.name, operation)
        return await self._wait(operation, instance_type)

    async def _create(self) -> Cluster | None:
        instance_type = self._choose()
        self._record.asked = (instance_type, self._member.group.num_nodes)
        try:
            operation = await self._shared.sender.send(
                lambda: self._submission(instance_type),
                self._record,
                lambda operation: self._progress.follow(self._member.name, operation),
            )
        except AmbiguousOutcomeError:
            # It was looked for and asked for again already. What the call dared not adopt, the fleet may: the name
            # makes it a member.
            if not await self._look():
                raise
            self._record.finds(self._found)
        except StatusError as error:
            if lacks_capacity(error):
                self._lacking[instance_type.casefold()] = error.message
            elif isinstance(error, ConflictError):
                await self._look_again(error)
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
        try:
            async for info in operation.updates():
                self._progress.hears(self._member.name, info.external_message)
            return await operation
        except OperationFailed as error:
            if not lacks_capacity(error):
                raise
            self._lacking[instance_type.casefold()] = error.message
            await self._remove(operation.resource_id, error.message)
        return None

    async def _remove(self, cluster_id: str | None, reason: str) -> None:
        """Destroy what there was no capacity for: it holds the name."""
        self._clearing(reason)
        self._found = ()
        if cluster_id is None:
            return
        if self._member.group.deletion_protection:
            await self._tp.clusters.edit(cluster_id, deletion_protection=False).result()
        await self._tp.clusters.lifecycle.destroy(Cluster(cluster_id))
        self._record.made.pop(cluster_id, None)

    async def _look_again(self, setback: ConflictError) -> None:
        """Look for what holds the name; where nothing shows it yet, or any more, a little later."""
        self._setbacks += 1
        if self._setbacks > MOST_SETBACKS:
            raise setback
        if not await self._look():
            await anyio.sleep(SETBACK_DELAY)

    async def _look(self) -> bool:
        self._found = by_name(await self._tp.clusters.list()).get(self._member.name, ())
        return bool(self._found)

    def _choose(self) -> str:
        """Return the first preference that is left and that can be paid for.

        Raises:
            BudgetExceeded: Something is left, and nothing of it can be paid for.
            OperationFailed: There was no capacity for any of them.
        """
        name, group = self._member.name, self._member.group
        objections: dict[str, str] = {}
        for instance_type in group.instance_type:
            if instance_type.casefold() in self._lacking:
                continue
            rate = self._shared.prices.get((instance_type, group.num_nodes))
            objection = self._shared.budget.objection(name, rate)
            if objection is None:
                self._progress.asks(name, instance_type, rate)
                return instance_type
            objections[instance_type] = objection
        raise self._exhausted(objections)

    def _exhausted(self, objections: dict[str, str]) -> TensorPoolError:
        name, group = self._member.name, self._member.group
        reasons = [
            f"{kind} ({self._lacking.get(kind.casefold()) or objections[kind]})"
            for kind in group.instance_type
        ]
        text = f"no cluster to be had for {name}; tried {', '.join(reasons)}"
        budget = self._shared.budget
        budget.settle(name, None)
        if objections and budget.limit is not None:
            rates = [self._shared.prices.get((kind, group.num_nodes)) for kind in objections]
            cost = None if None in rates else budget.total_with(name, min(rate or 0.0 for rate in rates))
            return BudgetExceeded(text, hourly_cost=cost, limit=budget.limit)
        return OperationFailed(text, text)
