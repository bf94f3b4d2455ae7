"""What became of a fleet, as frozen records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Self

import attrs

from tensorpool_async.errors import FleetError
from tensorpool_async.fleet.plan import total


class MemberState(StrEnum):
    """Where a member stands in `up` or `down`."""

    WAITING = "WAITING"
    """Nothing was done for it yet."""
    CLEARING = "CLEARING"
    """Its name is still held by a cluster that failed or that is being destroyed."""
    CREATING = "CREATING"
    """It was asked for, or is on its way."""
    RUNNING = "RUNNING"
    """It is there."""
    FAILED = "FAILED"
    """It could not be had, or could not be destroyed; its error says why."""
    DESTROYING = "DESTROYING"
    """It is being destroyed."""
    DESTROYED = "DESTROYED"
    """It is gone."""
    ABSENT = "ABSENT"
    """There is no such cluster (in the answer of `status`)."""

    @property
    def is_final(self) -> bool:
        """Whether nothing more follows in this run."""
        return self in {MemberState.RUNNING, MemberState.FAILED, MemberState.DESTROYED, MemberState.ABSENT}


@attrs.frozen(kw_only=True)
class MemberReport:
    """What became of one member.

    Attributes:
        name: The cluster's name.
        group: The name of its group.
        state: A `MemberState`; in the answer of `status` the engine's own word, or ABSENT.
        id: The cluster's id, where there is a cluster.
        instance_type: What it is, or what was asked for last.
        ip: Its first public address.
        seconds: From the moment that the engine accepted it until it was ready, with failed attempts before; of
            `down`, until it was gone.
        polls: How often the engine was asked how far it is.
        hourly_rate: What it costs, in USD per hour; None where there is no cluster, or the engine names no price.
        error: Why it failed, as a sentence.
        outcome: What the end of an `async with` block left of it, in words; empty before that.
        tried: The instance types that this run asked for, in order.
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
    """What became of a fleet, also as far as it came: of a run that failed or was cancelled.

    The counts of requests are those of the client while the run lasted, with what else it did.

    Attributes:
        fleet: The fleet's name.
        members: The members, group by group.
        seconds: How long the run took, or has taken so far.
        requests: HTTP attempts.
        rate_limited: Answers that asked to wait: 429, or 503 with Retry-After.
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
        """What the same would have taken one after another: the sum of the members' own seconds."""
        return sum(member.seconds for member in self.members)

    @property
    def hourly_cost(self) -> float | None:
        """What exists costs together, in USD per hour; None if a price is not known."""
        return total(member.hourly_rate for member in self.existing)

    @property
    def existing(self) -> tuple[MemberReport, ...]:
        """The members that have a cluster which is not gone."""
        gone = {MemberState.ABSENT, MemberState.DESTROYED}
        return tuple(member for member in self.members if member.id and member.state not in gone)

    @property
    def failed(self) -> tuple[MemberReport, ...]:
        """The members with an error."""
        return tuple(member for member in self.members if member.error)


class FleetIncomplete(FleetError):
    """Members of a fleet failed, and the others went on.

    Attributes:
        exceptions: One error for each failed member, each with a note that names the member.
        members: What became of each member, by name, also of those that are well.
        report: The same in full.
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
        """Make the group, with the members as the report has them."""
        group = super().__new__(cls, message, exceptions, members or _outcomes(report))
        group.report = report or FleetReport(fleet="", members=())
        return group

    def __init__(
        self,
        message: str,
        exceptions: Sequence[Exception],
        members: Mapping[str, str] | None = None,  # noqa: ARG002 - __new__ has kept them
        *,
        report: FleetReport | None = None,  # noqa: ARG002 - __new__ has kept it
    ) -> None:
        super().__init__(message, exceptions)

    def derive(self, excs: Sequence[Exception]) -> FleetIncomplete:  # type: ignore[override]
        """Make a group of some of the errors, as `split` and `except*` ask for."""
        return FleetIncomplete(self.message, excs, self.members, report=self.report)


def _outcomes(report: FleetReport | None) -> dict[str, str]:
    return {member.name: _outcome(member) for member in report.members} if report else {}


def _outcome(member: MemberReport) -> str:
    cluster = f" ({member.id})" if member.id else ""
    reason = f": {member.error}" if member.error else ""
    outcome = f"; {member.outcome}" if member.outcome else ""
    return f"{member.state}{cluster}{reason}{outcome}"
