"""The session of a fleet: plan it, bring it up, report its status, destroy it."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Literal

import anyio

from tensorpool_async.fleet.client_protocol import FleetClient
from tensorpool_async.fleet.context import ContextOptions, FleetContext
from tensorpool_async.fleet.plan import Plan, check_budget, clusters_by_name
from tensorpool_async.fleet.progress import FleetProgress, MemberListener, MemberProgress
from tensorpool_async.fleet.report import (
    FleetIncomplete,
    FleetMembers,
    FleetReport,
    MemberReport,
    MemberState,
)
from tensorpool_async.fleet.rollout import Rollout, list_volumes, take_snapshot
from tensorpool_async.fleet.spec import Fleet, volume_name
from tensorpool_async.fleet.teardown import Teardown
from tensorpool_async.models import Cluster, StorageVolume


class FleetSession:
    """One fleet and a client; `tp.fleet(fleet)` returns it.

    A member's name is its identity, and the engine holds all state. So every method can be repeated, also after a crash
    or on another machine.

    As a context manager it is all or nothing. `async with tp.fleet(fleet) as members:` brings the fleet up as `up` does
    and gives its clusters as `FleetMembers`. Entering raises what `up` raises.

    When the block ends (normally, by an exception, by cancellation, by Ctrl-C), everything that it created is destroyed:
    clusters first, then volumes with all their data, also where the fleet protects them from deletion. What existed
    before, or was created by others, is left alone. A cluster that is still being created is destroyed once its create
    has ended, and the answer to each create that was sent is awaited. The most expensive are destroyed first.

    A cancellation does not shorten this. A second Ctrl-C does: what is left is then logged with its price and the
    command that destroys it. For a client with `handle_sigterm=True`, SIGTERM does the same as Ctrl-C; otherwise SIGTERM
    ends the process at once. If the journal cannot be written, no cluster is created, but clusters are still destroyed.

    If something could not be destroyed, the error of the body gets a note about each member that is left; if the body
    raised no error, `FleetError` is raised.
    """

    def __init__(
        self,
        tp: FleetClient,
        fleet: Fleet,
        *,
        on_failure: Literal["rollback", "keep"] = "rollback",
        min_ready: int | None = None,
        rollback_timeout: float = 3600.0,
        on_event: MemberListener | None = None,
    ) -> None:
        """Make a session. The options apply to `async with` only.

        Args:
            tp: The client, a `TensorPool`.
            fleet: The fleet.
            on_failure: What happens to the created members when a member fails while the block is entered, before
                `FleetError` is raised. "rollback" stops the other members and destroys them; "keep" destroys nothing.
                A block that is cancelled destroys them in either case.
            min_ready: The number of clusters that must run for the body to run; None means all. Clusters that failed
                are destroyed then. All volumes must be ready.
            rollback_timeout: Seconds that destroying may take.
            on_event: Called with a `FleetMemberChanged` for each change of a member.

        Raises:
            ValueError: An option is invalid, or `min_ready` is more than the fleet's clusters.
        """
        self._tp = tp
        self._fleet = fleet
        self._options = ContextOptions(
            on_failure=on_failure, min_ready=min_ready, rollback_timeout=rollback_timeout
        )
        self._options.check(fleet)
        self._on_event = on_event
        self._progress: FleetProgress | None = None
        self._context: FleetContext | None = None
        self._entered = False

    async def __aenter__(self) -> FleetMembers:
        if self._entered:
            raise RuntimeError(f"the `async with` block of the fleet {self._fleet.name} was entered already")
        self._entered = True
        try:
            progress = FleetProgress(self._fleet.name, self._tp, self._on_event)
            snapshot = await take_snapshot(self._tp, self._fleet)
            check_budget(snapshot.plan)
            context = FleetContext(self._tp, self._fleet, progress, snapshot, self._options)
            self._progress = progress
            members = await context.enter()
        except BaseException:
            self._entered = False
            raise
        self._context = context
        return members

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        context, self._context = self._context, None
        try:
            if context is not None:
                await context.leave(error)
        finally:
            self._entered = False

    @property
    def fleet(self) -> Fleet:
        """The fleet."""
        return self._fleet

    @property
    def report(self) -> FleetReport | None:
        """The report of the last `up`, `down` or block, so far; None before the first.

        It is also available during a run, and after a run was cancelled.
        """
        return None if self._progress is None else self._progress.report()

    async def plan(self) -> Plan:
        """Return what `up` would do and what it would cost. Nothing is changed.

        Raises:
            ConfigurationError: The engine does not offer an instance type or number of nodes of the fleet.
            TensorPoolError: A request failed.
        """
        return (await take_snapshot(self._tp, self._fleet)).plan

    async def up(self, *, on_event: MemberListener | None = None) -> FleetReport:
        """Create the members that are missing, join creates in progress, and leave running members alone.

        All members are brought up concurrently. Where the engine has no capacity for an instance type, the next one of
        the list is requested. A cluster that failed is destroyed and created again. A cluster that differs from the
        fleet's definition is left alone, and its member fails. Volumes are attached once they and the clusters are
        ready, which restarts the nodes of the clusters.

        A cancellation destroys nothing. It waits up to 5 seconds for the answers to creates that were sent, so that
        `report` includes them.

        Args:
            on_event: Called with a `FleetMemberChanged` for each change of a member.

        Returns:
            The result of each member.

        Raises:
            BudgetExceeded: The fleet would cost more than its `max_hourly_cost`. Nothing was created.
            ConfigurationError: The engine does not offer an instance type or number of nodes of the fleet. Nothing was
                created.
            FleetError: Members failed; the others run.
            TensorPoolError: A request before the first create failed. Nothing was created.
        """
        progress = FleetProgress(self._fleet.name, self._tp, on_event)
        snapshot = await take_snapshot(self._tp, self._fleet)
        check_budget(snapshot.plan)
        rollout = Rollout(self._tp, self._fleet, progress, snapshot)
        self._progress = progress
        try:
            await rollout.run()
        finally:
            progress.close()
        return self._result_of(progress, "could not be brought up")

    async def down(self, *, on_event: MemberListener | None = None) -> FleetReport:
        """Destroy all clusters of the fleet, then its volumes with all their data.

        Clusters that failed, or are beyond the count of their group, are destroyed too. A cluster that is still being
        created is destroyed once its create has ended. Clusters whose names do not belong to the fleet are left alone.
        The engine refuses to destroy what is protected from deletion. The most expensive clusters are destroyed first.
        If the journal cannot be written, they are destroyed all the same, and the log names each request that has no
        entry in the journal.

        Args:
            on_event: Called with a `FleetMemberChanged` for each change of a member.

        Returns:
            The result of each cluster and volume that existed.

        Raises:
            FleetError: Some could not be destroyed, for example because they are protected; the others were destroyed.
            TensorPoolError: A request before the first destroy failed. Nothing was destroyed.
        """
        progress = FleetProgress(self._fleet.name, self._tp, on_event)
        clusters = self._clusters_in(await self._tp.clusters.list())
        self._progress = progress
        for cluster, group in clusters:
            progress.add(cluster.id, _progress_of(cluster, group))
        volumes = await list_volumes(self._tp, self._fleet)
        for volume in volumes:
            progress.add(volume.id, _volume_progress_of(volume, self._fleet))
        teardown = Teardown(self._tp, progress)
        try:
            async with anyio.create_task_group() as tasks:
                # The process may be killed before all is destroyed, and requests are sent in this order.
                for cluster, _ in sorted(clusters, key=_rate_of, reverse=True):
                    tasks.start_soon(teardown.destroy_cluster, cluster)
            # After the clusters, because a volume that is attached cannot be destroyed.
            async with anyio.create_task_group() as tasks:
                for volume in volumes:
                    tasks.start_soon(teardown.destroy_volume, volume)
        finally:
            progress.close()
        return self._result_of(progress, "could not be destroyed")

    async def status(self) -> FleetReport:
        """Read the state of the fleet from the engine. Nothing is changed.

        Returns:
            Every member, ABSENT where none exists, and the clusters beyond the counts of their groups.

        Raises:
            TensorPoolError: A request failed.
        """
        clusters = self._clusters_in(await self._tp.clusters.list())
        volumes = await list_volumes(self._tp, self._fleet)
        wanted = {member.name: member.group.name for member in self._fleet.members}
        wanted |= {volume_name(self._fleet, volume): volume.name for volume in self._fleet.volumes}
        existing = {cluster.name for cluster, _ in clusters} | {volume.name for volume in volumes}
        reports = [
            MemberReport(name=name, group=group, state=MemberState.ABSENT)
            for name, group in wanted.items()
            if name not in existing
        ]
        reports += [_report_of(cluster, group) for cluster, group in clusters]
        reports += [_volume_report_of(volume, self._fleet) for volume in volumes]
        return FleetReport(fleet=self._fleet.name, members=self._in_order(reports))

    def _clusters_in(self, clusters: Iterable[Cluster]) -> list[tuple[Cluster, str]]:
        """Return those clusters whose names belong to the fleet, each with the name of its group."""
        named = clusters_by_name(clusters)
        return [
            (cluster, group.name)
            for name, found in named.items()
            if (group := self._fleet.group_of(name)) is not None
            for cluster in found
        ]

    def _in_order(self, members: Iterable[MemberReport]) -> tuple[MemberReport, ...]:
        """Sort by group and index, with the volumes last."""
        groups = [group.name for group in self._fleet.clusters]
        volumes = [volume_name(self._fleet, volume) for volume in self._fleet.volumes]

        def position(member: MemberReport) -> tuple[int, int]:
            if member.name in volumes:
                return len(groups), volumes.index(member.name)
            return groups.index(member.group), int(member.name.rpartition("-")[2])

        return tuple(sorted(members, key=position))

    def _result_of(self, progress: FleetProgress, failure: str) -> FleetReport:
        """Return the report of a run, or raise `FleetIncomplete` if members failed."""
        report = progress.report()
        if progress.errors:
            failed = len(progress.errors)
            raise FleetIncomplete(
                f"{failed} of {len(report.members)} members of {report.fleet} {failure}",
                progress.errors,
                report=report,
            )
        return report


def _rate_of(one: tuple[Cluster, str]) -> float:
    return one[0].hourly_rate or 0.0


def _progress_of(cluster: Cluster, group: str) -> MemberProgress:
    return MemberProgress(
        cluster.name or "",
        group,
        id=cluster.id,
        instance_type=cluster.instance_type,
        ip=cluster.ip_address,
        hourly_rate=cluster.hourly_rate,
    )


def _volume_progress_of(volume: StorageVolume, fleet: Fleet) -> MemberProgress:
    group = (volume.name or "").removeprefix(f"{fleet.name}-")
    size = None if volume.size_gb is None else f"{volume.size_gb} GB"
    return MemberProgress(
        volume.name or "", group, id=volume.id, instance_type=size, hourly_rate=volume.hourly_rate
    )


def _volume_report_of(volume: StorageVolume, fleet: Fleet) -> MemberReport:
    progress = _volume_progress_of(volume, fleet)
    return MemberReport(
        name=progress.name,
        group=progress.group,
        state="UNKNOWN" if volume.status is None else str(volume.status),
        id=progress.id,
        instance_type=progress.instance_type,
        hourly_rate=progress.hourly_rate,
    )


def _report_of(cluster: Cluster, group: str) -> MemberReport:
    return MemberReport(
        name=cluster.name or "",
        group=group,
        state="UNKNOWN" if cluster.status is None else str(cluster.status),
        id=cluster.id,
        instance_type=cluster.instance_type,
        ip=cluster.ip_address,
        hourly_rate=cluster.hourly_rate,
    )
