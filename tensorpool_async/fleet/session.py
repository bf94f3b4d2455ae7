"""A fleet and a client: plan it, bring it up, look at it, take it down."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import anyio

from tensorpool_async.client import TensorPool
from tensorpool_async.errors import ConfigurationError
from tensorpool_async.fleet.account import Account, Entry, Listener
from tensorpool_async.fleet.budget import Budget
from tensorpool_async.fleet.definition import Fleet
from tensorpool_async.fleet.plan import Offer, Plan, PlannedMember, by_name, check_budget, make_plan
from tensorpool_async.fleet.prices import ask_prices
from tensorpool_async.fleet.provisioning import Provisioner
from tensorpool_async.fleet.report import FleetIncomplete, FleetReport, MemberReport, MemberState
from tensorpool_async.fleet.sending import Sender
from tensorpool_async.fleet.teardown import Teardown
from tensorpool_async.models import Cluster


class FleetSession:
    """Work on one fleet, as `tp.fleet(fleet)`.

    A member's name is its identity and the engine is the state; nothing is kept elsewhere. So everything here can be
    run again, after a crash and from another machine too.
    """

    def __init__(self, tp: TensorPool, fleet: Fleet) -> None:
        self._tp = tp
        self._fleet = fleet
        self._account: Account | None = None

    @property
    def fleet(self) -> Fleet:
        """What the fleet should be."""
        return self._fleet

    @property
    def report(self) -> FleetReport | None:
        """How the last `up` or `down` stands, also while it runs and after it was cancelled; None before the first."""
        return None if self._account is None else self._account.report()

    async def plan(self) -> Plan:
        """Find out what `up` would do, and what it would cost. Nothing is changed.

        Raises:
            ConfigurationError: The engine does not rent out what the fleet asks for.
            TensorPoolError: The engine could not be asked.
        """
        _, _, plan = await self._survey()
        return plan

    async def up(self, *, on_event: Listener | None = None) -> FleetReport:
        """Make the fleet as it should be: create what is missing, join what is on its way, leave what runs.

        All members go side by side. Where there is no capacity for an instance type, the next one of the list is
        asked for. A cluster that failed is destroyed and made anew; one that differs from what is wanted is left alone.

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
        account = Account(self._fleet.name, self._tp, on_event)
        clusters, prices, plan = await self._survey()
        check_budget(plan)
        rates = {entry.name: entry.hourly_rate for entry in plan.members}
        rates |= {f"{entry.name} {index}": entry.hourly_rate for index, entry in enumerate(plan.surplus)}
        budget = Budget.of(plan.max_hourly_cost, rates)
        sender = Sender(self._tp.limiter.max_in_flight)
        provisioner = Provisioner(self._tp, account, budget, prices, sender)
        named = by_name(clusters)
        self._account = account
        for entry in plan.members:
            account.open(entry.name, _entry_of_plan(entry))
        try:
            async with anyio.create_task_group() as tasks:
                for member in self._fleet.members:
                    tasks.start_soon(provisioner.bring_up, member, named.get(member.name, ()))
        finally:
            account.close()
        return self._conclude(account, "could not be brought up")

    async def down(self, *, on_event: Listener | None = None) -> FleetReport:
        """Destroy every cluster of the fleet, also those that failed and those beyond the count of their group.

        Those that are being created are waited for first. Only clusters whose names belong to the fleet are touched.

        Args:
            on_event: Called with a `FleetMemberChanged` for each change.

        Returns:
            What became of each cluster that was there.

        Raises:
            FleetError: Some could not be destroyed, because they are protected for example; the others are gone.
            TensorPoolError: The engine could not be asked. Nothing was destroyed.
        """
        account = Account(self._fleet.name, self._tp, on_event)
        mine = self._mine(await self._tp.clusters.list())
        self._account = account
        for cluster, group in mine:
            account.open(cluster.id, _entry_of(cluster, group))
        teardown = Teardown(self._tp, account)
        try:
            async with anyio.create_task_group() as tasks:
                for cluster, _ in mine:
                    tasks.start_soon(teardown.take_down, cluster)
        finally:
            account.close()
        return self._conclude(account, "could not be destroyed")

    async def status(self) -> FleetReport:
        """Ask the engine how the fleet is. Nothing is changed.

        Returns:
            Every member, ABSENT where there is no cluster, and what exists beyond the counts of the groups.

        Raises:
            TensorPoolError: The engine could not be asked.
        """
        mine = self._mine(await self._tp.clusters.list())
        there = {cluster.name for cluster, _ in mine}
        absent = [
            MemberReport(name=member.name, group=member.group.name, state=MemberState.ABSENT)
            for member in self._fleet.members
            if member.name not in there
        ]
        return FleetReport(
            fleet=self._fleet.name,
            members=self._in_order([*absent, *(_report_of(cluster, group) for cluster, group in mine)]),
        )

    async def _survey(self) -> tuple[Sequence[Cluster], dict[Offer, float | None], Plan]:
        if self._fleet.volumes:
            raise ConfigurationError("volumes in a fleet are not supported yet; nothing was created")
        clusters = await self._tp.clusters.list()
        prices = await ask_prices(self._tp, self._fleet)
        return clusters, prices, make_plan(self._fleet, clusters, prices)

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

        def place(member: MemberReport) -> tuple[int, int]:
            return groups.index(member.group), int(member.name.rpartition("-")[2])

        return tuple(sorted(members, key=place))

    def _conclude(self, account: Account, what: str) -> FleetReport:
        report = account.report()
        if account.errors:
            failed = len(account.errors)
            raise FleetIncomplete(
                f"{failed} of {len(report.members)} members of {report.fleet} {what}",
                account.errors,
                report=report,
            )
        return report


def _entry_of_plan(entry: PlannedMember) -> Entry:
    return Entry(entry.name, entry.group, instance_type=entry.instance_type, hourly_rate=entry.hourly_rate)


def _entry_of(cluster: Cluster, group: str) -> Entry:
    return Entry(
        cluster.name or "",
        group,
        id=cluster.id,
        instance_type=cluster.instance_type,
        ip=cluster.ip_address,
        hourly_rate=cluster.hourly_rate,
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
