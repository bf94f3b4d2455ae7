"""A fleet and a client: plan it, bring it up, look at it, take it down."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Literal

import anyio

from tensorpool_async.client import TensorPool
from tensorpool_async.fleet.context import ContextOptions, FleetContext
from tensorpool_async.fleet.created import CreatedResources
from tensorpool_async.fleet.members import FleetMembers
from tensorpool_async.fleet.plan import Plan, by_name, check_budget
from tensorpool_async.fleet.progress import FleetProgress, MemberListener, MemberProgress
from tensorpool_async.fleet.report import FleetIncomplete, FleetReport, MemberReport, MemberState
from tensorpool_async.fleet.rollout import Rollout
from tensorpool_async.fleet.send_queue import SendQueue
from tensorpool_async.fleet.snapshot import take_snapshot
from tensorpool_async.fleet.spec import Fleet
from tensorpool_async.fleet.teardown import Teardown
from tensorpool_async.fleet.volumes import VolumeKeeper, volume_name, volumes_of
from tensorpool_async.models import Cluster, StorageVolume


class FleetSession:
    """Work on one fleet, as `tp.fleet(fleet)`.

    A member's name is its identity and the engine is the state; nothing is kept elsewhere. So everything here can be
    run again, after a crash and from another machine too.

    As a context manager it is all or nothing. `async with tp.fleet(fleet) as members:` brings the fleet up as `up` does,
    and gives its clusters as `FleetMembers`. When the block ends (normally, by an exception, by cancellation, by Ctrl-C)
    what it has made is destroyed, volumes after clusters and with all data on them, whatever the fleet file protects
    from deletion. What was there before, or was made by somebody else, is left. Nothing is destroyed while its creation
    is still going on at the engine, and no creation that was sent is forgotten: its answer is waited for. Being cancelled
    does not shorten this; a second Ctrl-C does, and what is left then is logged with its price and the command that
    destroys it. SIGTERM does the same as Ctrl-C for a client with `handle_sigterm=True`, and else ends the process at
    once. A journal that cannot be written keeps clusters from being created, and never from being destroyed. What costs
    most is destroyed first. Entering raises what `up` raises.

    If the end of a block cannot destroy everything, the body's own error stays the one that is raised, with a note for
    each cluster that is left; without one, `FleetError` is raised.
    """

    def __init__(
        self,
        tp: TensorPool,
        fleet: Fleet,
        *,
        on_failure: Literal["rollback", "keep"] = "rollback",
        min_ready: int | None = None,
        rollback_timeout: float = 3600.0,
        on_event: MemberListener | None = None,
    ) -> None:
        """Make a session; the options are those of `async with`.

        Args:
            tp: The client.
            fleet: What the fleet should be.
            on_failure: What to do when a member fails while the block is entered, before the `FleetError` is raised:
                "rollback" asks for no more and destroys what the block has made; "keep" destroys nothing. A block that
                is cancelled destroys what it has made in either case.
            min_ready: How many clusters must run; None: all of them. With so many the block runs, and what is left of
                the failed ones is destroyed. Volumes must all be there.
            rollback_timeout: Seconds that the destroying may take, counted from its beginning.
            on_event: Called with a `FleetMemberChanged` for each change.

        Raises:
            ValueError: An option has no meaning, or not for this fleet.
        """
        self._tp = tp
        self._fleet = fleet
        self._options = ContextOptions(
            on_failure=on_failure, min_ready=min_ready, rollback_timeout=rollback_timeout
        )
        self._options.check(fleet)
        self._on_event = on_event
        self._progress: FleetProgress | None = None
        self._block: FleetContext | None = None
        self._entered = False

    async def __aenter__(self) -> FleetMembers:
        if self._entered:
            raise RuntimeError(f"the block of the fleet {self._fleet.name} was entered already")
        self._entered = True
        try:
            progress = FleetProgress(self._fleet.name, self._tp, self._on_event)
            snapshot = await take_snapshot(self._tp, self._fleet)
            check_budget(snapshot.plan)
            block = FleetContext(self._tp, self._fleet, progress, snapshot, self._options)
            self._progress = progress
            members = await block.enter()
        except BaseException:
            self._entered = False
            raise
        self._block = block
        return members

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        block, self._block = self._block, None
        try:
            if block is not None:
                await block.leave(error)
        finally:
            self._entered = False

    @property
    def fleet(self) -> Fleet:
        """What the fleet should be."""
        return self._fleet

    @property
    def report(self) -> FleetReport | None:
        """How the last `up`, `down` or block stands, also while it runs and after it was cancelled; None before the first."""
        return None if self._progress is None else self._progress.report()

    async def plan(self) -> Plan:
        """Find out what `up` would do, and what it would cost. Nothing is changed.

        Raises:
            ConfigurationError: The engine does not rent out what the fleet asks for.
            TensorPoolError: The engine could not be asked.
        """
        return (await take_snapshot(self._tp, self._fleet)).plan

    async def up(self, *, on_event: MemberListener | None = None) -> FleetReport:
        """Make the fleet as it should be: create what is missing, join what is on its way, leave what runs.

        All members go side by side. Where there is no capacity for an instance type, the next one of the list is
        asked for. A cluster that failed is destroyed and made anew; one that differs from what is wanted is left alone.
        Volumes are made beside the clusters, and attached once both are there, which restarts the clusters' nodes.

        When this is cancelled, nothing is destroyed; what was sent is waited for, 5 seconds at most, so that `report`
        knows it.

        Args:
            on_event: Called with a `FleetMemberChanged` for each change.

        Returns:
            What became of each member.

        Raises:
            BudgetExceeded: The fleet would cost more than its `max_hourly_cost`. Nothing was created.
            ConfigurationError: The engine does not rent out what the fleet asks for. Nothing was created.
            FleetError: Members failed; the others run.
            TensorPoolError: The engine could not be asked. Nothing was created.
        """
        progress = FleetProgress(self._fleet.name, self._tp, on_event)
        snapshot = await take_snapshot(self._tp, self._fleet)
        check_budget(snapshot.plan)
        climb = Rollout(self._tp, self._fleet, progress, snapshot)
        self._progress = progress
        try:
            await climb.run()
        finally:
            progress.close()
        return self._conclude(progress, "could not be brought up")

    async def down(self, *, on_event: MemberListener | None = None) -> FleetReport:
        """Destroy every cluster of the fleet, also those that failed and those beyond the count of their group.

        Its volumes are destroyed after them, with all data on them, unless they are protected from deletion.

        Those that are being created are waited for first. Only clusters whose names belong to the fleet are touched.
        A journal that cannot be written does not prevent it: what is sent without an entry is told in the log.

        Args:
            on_event: Called with a `FleetMemberChanged` for each change.

        Returns:
            What became of each cluster that was there.

        Raises:
            FleetError: Some could not be destroyed, because they are protected for example; the others are gone.
            TensorPoolError: The engine could not be asked. Nothing was destroyed.
        """
        progress = FleetProgress(self._fleet.name, self._tp, on_event)
        mine = self._mine(await self._tp.clusters.list())
        self._progress = progress
        for cluster, group in mine:
            progress.open(cluster.id, _progress_of(cluster, group))
        volumes = await volumes_of(self._tp, self._fleet)
        for volume in volumes:
            progress.open(volume.id, _volume_progress_of(volume, self._fleet))
        teardown = Teardown(self._tp, progress)
        keeper = VolumeKeeper(
            self._tp, self._fleet, progress, SendQueue(self._tp.limiter.max_in_flight), CreatedResources()
        )
        try:
            async with anyio.create_task_group() as tasks:
                # The time may be short: what costs most goes first.
                for cluster, _ in sorted(mine, key=lambda one: one[0].hourly_rate or 0.0, reverse=True):
                    tasks.start_soon(teardown.take_down, cluster)
            # After the clusters: a volume that is attached cannot be destroyed.
            async with anyio.create_task_group() as tasks:
                for volume in volumes:
                    tasks.start_soon(keeper.take_down, volume)
        finally:
            progress.close()
        return self._conclude(progress, "could not be destroyed")

    async def status(self) -> FleetReport:
        """Ask the engine how the fleet is. Nothing is changed.

        Returns:
            Every member, ABSENT where there is no cluster, and what exists beyond the counts of the groups.

        Raises:
            TensorPoolError: The engine could not be asked.
        """
        mine = self._mine(await self._tp.clusters.list())
        volumes = await volumes_of(self._tp, self._fleet)
        wanted = {member.name: member.group.name for member in self._fleet.members}
        wanted |= {volume_name(self._fleet, volume): volume.name for volume in self._fleet.volumes}
        there = {cluster.name for cluster, _ in mine} | {volume.name for volume in volumes}
        absent = [
            MemberReport(name=name, group=group, state=MemberState.ABSENT)
            for name, group in wanted.items()
            if name not in there
        ]
        found = [_report_of(cluster, group) for cluster, group in mine]
        found += [_report_of_volume(volume, self._fleet) for volume in volumes]
        return FleetReport(fleet=self._fleet.name, members=self._in_order([*absent, *found]))

    def _mine(self, clusters: Iterable[Cluster]) -> list[tuple[Cluster, str]]:
        """Return the clusters that belong to the fleet by their names, with the names of their groups."""
        named = by_name(clusters)
        return [
            (cluster, group.name)
            for name, found in named.items()
            if (group := self._fleet.group_of(name)) is not None
            for cluster in found
        ]

    def _in_order(self, members: Iterable[MemberReport]) -> tuple[MemberReport, ...]:
        groups = [group.name for group in self._fleet.clusters]

        volumes = [volume_name(self._fleet, volume) for volume in self._fleet.volumes]

        def place(member: MemberReport) -> tuple[int, int]:
            if member.name in volumes:
                return len(groups), volumes.index(member.name)
            return groups.index(member.group), int(member.name.rpartition("-")[2])

        return tuple(sorted(members, key=place))

    def _conclude(self, progress: FleetProgress, what: str) -> FleetReport:
        report = progress.report()
        if progress.errors:
            failed = len(progress.errors)
            raise FleetIncomplete(
                f"{failed} of {len(report.members)} members of {report.fleet} {what}",
                progress.errors,
                report=report,
            )
        return report


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


def _report_of_volume(volume: StorageVolume, fleet: Fleet) -> MemberReport:
    entry = _volume_progress_of(volume, fleet)
    return MemberReport(
        name=entry.name,
        group=entry.group,
        state="UNKNOWN" if volume.status is None else str(volume.status),
        id=entry.id,
        instance_type=entry.instance_type,
        hourly_rate=entry.hourly_rate,
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
