"""The progress of a run over a fleet: the state of each member, and an event for each change."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, TypeAlias

import attrs

from tensorpool_async.errors import StatusError
from tensorpool_async.events import FleetMemberChanged
from tensorpool_async.fleet.client_protocol import FleetClient, RequestCounts
from tensorpool_async.fleet.report import FleetReport, MemberReport, MemberState
from tensorpool_async.models import Cluster
from tensorpool_async.operations.operation import Operation
from tensorpool_async.texts import logger_of


MemberListener: TypeAlias = "Callable[[FleetMemberChanged], object]"
"""Called with each event; an exception that it raises is logged and does not affect the run."""

logger: logging.Logger = logger_of(__name__)


@attrs.define
class MemberProgress:
    """The state of one member during a run.

    Attributes:
        name: The name of the cluster or volume.
        group: The name of its group.
        state: The current state.
        message: A detail of the state, such as the engine's last message.
        id: The id of the cluster or volume, once it is known.
        instance_type: Its type, or the type that was requested last; for a volume its size.
        ip: The cluster's first public address.
        hourly_rate: Its cost in USD per hour, if it is known.
        started_at: When its create was accepted, or its destruction began, in seconds of the progress's clock.
        ended_at: When it came into its last final state, in the same way.
        errors: The errors that it failed with.
        outcome: What the end of an `async with` block did with it, in words.
        tried: The instance types that were requested, in order.
        operations: Its creates, in order.
    """

    name: str
    group: str
    state: MemberState = MemberState.WAITING
    message: str = ""
    id: str | None = None
    instance_type: str | None = None
    ip: str | None = None
    hourly_rate: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    errors: tuple[Exception, ...] = ()
    outcome: str = ""
    tried: list[str] = attrs.field(factory=list[str])
    operations: list[Operation[Any]] = attrs.field(factory=list[Operation[Any]])


class FleetProgress:
    """The progress of one run of `up` or `down`, or of one `async with` block.

    Each change of a member is emitted as a `FleetMemberChanged`. Members are known by a key: their name while they are
    created, the id of the cluster or volume in `down`.
    """

    def __init__(
        self,
        fleet: str,
        tp: FleetClient,
        on_event: MemberListener | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fleet = fleet
        self._tp = tp
        self._on_event = on_event
        self._clock = clock
        self._started_at = clock()
        self._ended_at: float | None = None
        self._counts_at_start: RequestCounts = tp.statistics()
        self._counts_at_end: RequestCounts | None = None
        self._members: dict[str, MemberProgress] = {}

    def add(self, key: str, member: MemberProgress) -> None:
        """Add a member, and emit its state."""
        self._members[key] = member
        self._emit(member)

    def close(self) -> None:
        """Stop the clock and the counts of the report; the run has ended."""
        self._ended_at = self._clock()
        self._counts_at_end = self._tp.statistics()

    def update(self, key: str, state: MemberState, message: str = "", **changes: Any) -> None:
        """Set the state, the message and other attributes of a member, and emit them if anything is different."""
        member = self._members[key]
        old = attrs.evolve(member)
        for name, value in {"state": state, "message": message, **changes}.items():
            setattr(member, name, value)
        if state.is_final:
            member.ended_at = self._clock()
        if member != old:
            self._emit(member)

    def record_request(self, key: str, instance_type: str, rate: float | None) -> None:
        """Record that a cluster of this type is requested now; `rate` is its price in USD per hour."""
        self._members[key].tried.append(instance_type)
        self.update(key, MemberState.CREATING, instance_type=instance_type, hourly_rate=rate)

    def record_operation(self, key: str, operation: Operation[Any]) -> None:
        """Record that the engine accepted a create. The member's seconds count from its first one."""
        member = self._members[key]
        member.operations.append(operation)
        member.started_at = self._clock() if member.started_at is None else member.started_at
        self.update(key, MemberState.CREATING, "accepted", id=operation.resource_id)

    def record_message(self, key: str, message: str | None) -> None:
        """Record the engine's message about a create; None keeps the last one."""
        self.update(key, MemberState.CREATING, message or self._members[key].message)

    def record_running(self, key: str, cluster: Cluster, rate: float | None) -> None:
        """Record that a member's cluster runs; `rate` is its cost in USD per hour."""
        self.update(
            key,
            MemberState.RUNNING,
            id=cluster.id,
            ip=cluster.ip_address,
            instance_type=cluster.instance_type or self._members[key].instance_type,
            hourly_rate=rate,
        )

    def record_destroying(self, key: str, message: str) -> None:
        """Record that a member is being destroyed. Its seconds count from now."""
        self._members[key].started_at = self._clock()
        self.update(key, MemberState.DESTROYING, message)

    def record_failure(self, key: str, error: Exception) -> None:
        """Record that a member failed, and add a note with its name to the error."""
        member = self._members[key]
        error.add_note(f"fleet member {member.name}")
        self.update(key, MemberState.FAILED, sentence(error), errors=(*member.errors, error))

    def record_outcome(self, key: str, outcome: str) -> None:
        """Record, in words, what the end of a block did with a member. No event is emitted."""
        self._members[key].outcome = outcome

    def member(self, key: str) -> MemberProgress:
        """Return the state of a member."""
        return self._members[key]

    @property
    def errors(self) -> list[Exception]:
        """The errors of all members that failed."""
        return [error for member in self._members.values() for error in member.errors]

    def report(self) -> FleetReport:
        """Return a report of the run so far, or of the whole run once `close` was called."""
        now = self._counts_at_end or self._tp.statistics()
        before = self._counts_at_start
        return FleetReport(
            fleet=self._fleet,
            members=tuple(self._member_report(member) for member in self._members.values()),
            seconds=(self._ended_at or self._clock()) - self._started_at,
            requests=now.requests - before.requests,
            rate_limited=now.rate_limited - before.rate_limited,
            retries=now.retries - before.retries,
        )

    def _member_report(self, member: MemberProgress) -> MemberReport:
        ended_at = member.ended_at if member.ended_at is not None else self._ended_at or self._clock()
        return MemberReport(
            name=member.name,
            group=member.group,
            state=member.state,
            id=member.id,
            instance_type=member.instance_type,
            ip=member.ip,
            seconds=0.0 if member.started_at is None else ended_at - member.started_at,
            polls=sum(operation.polls for operation in member.operations),
            hourly_rate=member.hourly_rate if member.id else None,
            error="; ".join(sentence(error) for error in member.errors) or None,
            outcome=member.outcome,
            tried=tuple(member.tried),
        )

    def _emit(self, member: MemberProgress) -> None:
        events = self._tp.events
        if self._on_event is None and not events.listens:
            return
        event = FleetMemberChanged(
            fleet=self._fleet,
            member=member.name,
            group=member.group,
            state=member.state,
            message=member.message,
            resource_id=member.id,
            instance_type=member.instance_type,
            seconds=self._clock() - self._started_at,
            hourly_rate=member.hourly_rate,
        )
        events.emit(event)
        if self._on_event is None:
            return
        try:
            self._on_event(event)
        except Exception:
            logger.exception("a listener of the fleet %s failed", self._fleet)


def sentence(error: Exception) -> str:
    """Return the message of an error as one line for a person."""
    text = f"{error.status}: {error.message}" if isinstance(error, StatusError) else str(error)
    return " ".join(text.split()) or type(error).__name__
