"""The result of a run over a fleet: frozen reports, the error of members that failed, and the running clusters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import Self, overload

import attrs

from tensorpool_async.errors import FleetError
from tensorpool_async.fleet.plan import total
from tensorpool_async.fleet.spec import Fleet
from tensorpool_async.models import Cluster, StorageVolume


class MemberState(StrEnum):
    """The state of a member during `up` or `down`."""

    WAITING = "WAITING"
    """Nothing was done for it yet."""
    CLEARING = "CLEARING"
    """A cluster of its name failed or is being destroyed; a new one is created when the name is free."""
    CREATING = "CREATING"
    """Its create was sent, or it is being created."""
    RUNNING = "RUNNING"
    """The cluster runs, or the volume is ready."""
    FAILED = "FAILED"
    """It could not be created or could not be destroyed; the error says why."""
    DESTROYING = "DESTROYING"
    """It is being destroyed."""
    DESTROYED = "DESTROYED"
    """It was destroyed."""
    ABSENT = "ABSENT"
    """It does not exist."""

    @property
    def is_final(self) -> bool:
        """Whether the run does nothing more for the member."""
        return self in {MemberState.RUNNING, MemberState.FAILED, MemberState.DESTROYED, MemberState.ABSENT}


@attrs.frozen(kw_only=True)
class MemberReport:
    """The result of one member.

    Attributes:
        name: The name of the cluster or volume.
        group: The name of its group.
        state: A `MemberState`; in a report of `status` the engine's own status, or ABSENT.
        id: The id of the cluster or volume; None where there is none.
        instance_type: Its type, or the type that was requested last; for a volume its size.
        ip: The cluster's first public address.
        seconds: Seconds from the first accepted create until it was ready, including creates that failed; for `down`,
            seconds until it was destroyed.
        polls: How often its operations were polled.
        hourly_rate: Its cost in USD per hour; None where nothing exists or the engine names no price.
        error: Why it failed, in one line.
        outcome: What the end of an `async with` block did with it, in words; empty before that.
        tried: The instance types that this run requested, in order.
    """

    name: str
    group: str
    state: str
    id: str | None = None
    instance_type: str | None = None
    ip: str | None = None
    seconds: float = 0.0
    polls: int = 0
    hourly_rate: float | None = None
    error: str | None = None
    outcome: str = ""
    tried: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class FleetReport:
    """The result of a run over a fleet, complete or so far; also of a run that failed or was cancelled.

    The counts of requests are those of the whole client during the run, so they include its other work.

    Attributes:
        fleet: The fleet's name.
        members: The members, group by group.
        seconds: The duration of the run, in seconds, or the time since its start.
        requests: HTTP attempts.
        rate_limited: Answers 429, and 503 with Retry-After.
        retries: Attempts that repeated a request.
    """

    fleet: str
    members: tuple[MemberReport, ...]
    seconds: float = 0.0
    requests: int = 0
    rate_limited: int = 0
    retries: int = 0

    @property
    def sequential_seconds(self) -> float:
        """Seconds that the run would take if it handled one member after another: the sum of the members' seconds."""
        return sum(member.seconds for member in self.members)

    @property
    def hourly_cost(self) -> float | None:
        """The cost of all that exists, in USD per hour; None if a price is not known."""
        return total(member.hourly_rate for member in self.existing)

    @property
    def existing(self) -> tuple[MemberReport, ...]:
        """The members whose cluster or volume exists."""
        without = {MemberState.ABSENT, MemberState.DESTROYED}
        return tuple(member for member in self.members if member.id and member.state not in without)

    @property
    def failed(self) -> tuple[MemberReport, ...]:
        """The members with an error."""
        return tuple(member for member in self.members if member.error)


class FleetIncomplete(FleetError):
    """Members of a fleet failed.

    Attributes:
        exceptions: One error for each failed member, each with a note that names the member.
        members: A line about the result of each member, by name, also of those that did not fail.
        report: The full report.
    """

    report: FleetReport

    def __new__(
        cls,
        message: str,
        exceptions: Sequence[Exception],
        members: Mapping[str, str] | None = None,
        *,
        report: FleetReport | None = None,
    ) -> Self:
        """Make the group; the lines about the members come from the report unless they are given."""
        group = super().__new__(cls, message, exceptions, members or _member_lines(report))
        group.report = report or FleetReport(fleet="", members=())
        return group

    def __init__(
        self,
        message: str,
        exceptions: Sequence[Exception],
        members: Mapping[str, str] | None = None,  # noqa: ARG002 - used by __new__
        *,
        report: FleetReport | None = None,  # noqa: ARG002 - used by __new__
    ) -> None:
        super().__init__(message, exceptions)

    def derive(self, excs: Sequence[Exception]) -> FleetIncomplete:  # type: ignore[override]
        """Make a group of some of the errors; `split` and `except*` call this."""
        return FleetIncomplete(self.message, excs, self.members, report=self.report)


def _member_lines(report: FleetReport | None) -> dict[str, str]:
    return {member.name: _member_line(member) for member in report.members} if report else {}


def _member_line(member: MemberReport) -> str:
    resource_id = f" ({member.id})" if member.id else ""
    reason = f": {member.error}" if member.error else ""
    outcome = f"; {member.outcome}" if member.outcome else ""
    return f"{member.state}{resource_id}{reason}{outcome}"


class FleetMembers(Sequence[Cluster]):
    """The running clusters of a fleet, in the order of the fleet file, for the body of its `async with` block.

    An index is a position or a name: `members[0]`, `members["sweep-trainer-0"]`. With `min_ready`, members that failed
    are left out.
    """

    def __init__(
        self,
        fleet: Fleet,
        clusters: Mapping[str, Cluster],
        volumes: Mapping[str, StorageVolume],
        report: Callable[[], FleetReport],
    ) -> None:
        self._fleet = fleet
        self._clusters = dict(clusters)
        self._order = tuple(self._clusters.values())
        self._volumes = dict(volumes)
        self._report = report

    @property
    def report(self) -> FleetReport:
        """The report at this moment; after the block it has the outcome of each member."""
        return self._report()

    @property
    def volumes(self) -> Mapping[str, StorageVolume]:
        """The volumes that are ready, by their names in the fleet file."""
        return MappingProxyType(self._volumes)

    def group(self, name: str) -> list[Cluster]:
        """Return the running clusters of a group.

        Raises:
            KeyError: The fleet has no such group.
        """
        if name not in {group.name for group in self._fleet.clusters}:
            raise KeyError(name)
        return [
            self._clusters[member.name]
            for member in self._fleet.members
            if member.group.name == name and member.name in self._clusters
        ]

    @overload
    def __getitem__(self, key: int | str) -> Cluster: ...

    @overload
    def __getitem__(self, key: slice) -> tuple[Cluster, ...]: ...

    def __getitem__(self, key: int | str | slice) -> Cluster | tuple[Cluster, ...]:
        return self._clusters[key] if isinstance(key, str) else self._order[key]

    def __len__(self) -> int:
        return len(self._order)

    def __repr__(self) -> str:
        return f"<FleetMembers of {self._fleet.name}: {', '.join(self._clusters) or 'none'}>"
