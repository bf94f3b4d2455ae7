"""The running account of a fleet: what is known of each member at every moment, told to whoever listens."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, TypeAlias

import attrs

from tensorpool_async.client import Statistics, TensorPool
from tensorpool_async.errors import StatusError
from tensorpool_async.events import FleetMemberChanged
from tensorpool_async.fleet.report import FleetReport, MemberReport, MemberState
from tensorpool_async.models import Cluster
from tensorpool_async.operations.operation import Operation
from tensorpool_async.texts import logger_of


MemberListener: TypeAlias = "Callable[[FleetMemberChanged], object]"
"""What is called with each event; what it raises is logged and harms nothing."""

logger: logging.Logger = logger_of(__name__)


@attrs.define
class MemberProgress:
    """What is known of one member. `began` and `ended` are seconds on the account's clock."""

    name: str
    group: str
    state: MemberState = MemberState.WAITING
    message: str = ""
    id: str | None = None
    instance_type: str | None = None
    ip: str | None = None
    hourly_rate: float | None = None
    began: float | None = None
    ended: float | None = None
    errors: tuple[Exception, ...] = ()
    outcome: str = ""
    tried: list[str] = attrs.field(factory=list[str])
    operations: list[Operation[Any]] = attrs.field(factory=list[Operation[Any]])


class FleetProgress:
    """The account of one run of `up` or `down`."""

    def __init__(
        self,
        fleet: str,
        tp: TensorPool,
        on_event: MemberListener | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fleet = fleet
        self._tp = tp
        self._on_event = on_event
        self._clock = clock
        self._began = clock()
        self._ended: float | None = None
        self._before = tp.statistics()
        self._after: Statistics | None = None
        self._entries: dict[str, MemberProgress] = {}

    def open(self, key: str, entry: MemberProgress) -> None:
        """Begin the account of a member; `key` is what the other methods know it by."""
        self._entries[key] = entry
        self._emit(entry)

    def close(self) -> None:
        """Stop the clock and the counts: the run is over."""
        self._ended = self._clock()
        self._after = self._tp.statistics()

    def change(self, key: str, state: MemberState, message: str = "", **facts: Any) -> None:
        """Take down a new state or a new fact, and tell about it if it is news."""
        entry = self._entries[key]
        old = attrs.evolve(entry)
        for name, value in {"state": state, "message": message, **facts}.items():
            setattr(entry, name, value)
        if state.is_final:
            entry.ended = self._clock()
        if entry != old:
            self._emit(entry)

    def follow(self, key: str, operation: Operation[Any]) -> None:
        """Take down that the engine has accepted a creation; the member's own seconds run from the first one."""
        entry = self._entries[key]
        entry.operations.append(operation)
        entry.began = self._clock() if entry.began is None else entry.began
        self.change(key, MemberState.CREATING, "accepted", id=operation.resource_id)

    def hears(self, key: str, message: str | None) -> None:
        """Take down what the engine says about a creation."""
        entry = self._entries[key]
        self.change(key, MemberState.CREATING, message or entry.message)

    def begins_to_go(self, key: str, message: str) -> None:
        """Take down that a cluster is being destroyed."""
        self._entries[key].began = self._clock()
        self.change(key, MemberState.DESTROYING, message)

    def runs(self, key: str, cluster: Cluster, rate: float | None) -> None:
        """Take down that a member is there."""
        entry = self._entries[key]
        self.change(
            key,
            MemberState.RUNNING,
            id=cluster.id,
            ip=cluster.ip_address,
            instance_type=cluster.instance_type or entry.instance_type,
            hourly_rate=rate,
        )

    def fails(self, key: str, error: Exception) -> None:
        """Take down that a member failed."""
        error.add_note(f"fleet member {self._entries[key].name}")
        errors = (*self._entries[key].errors, error)
        self.change(key, MemberState.FAILED, sentence(error), errors=errors)

    def concludes(self, key: str, outcome: str) -> None:
        """Take down how it ended for a member, in words."""
        self._entries[key].outcome = outcome

    def entry(self, key: str) -> MemberProgress:
        """Return what is known of a member."""
        return self._entries[key]

    def asks(self, key: str, instance_type: str, rate: float | None) -> None:
        """Take down that a cluster of this type is asked for now."""
        self._entries[key].tried.append(instance_type)
        self.change(key, MemberState.CREATING, instance_type=instance_type, hourly_rate=rate)

    @property
    def errors(self) -> list[Exception]:
        """The errors of the members that failed."""
        return [error for entry in self._entries.values() for error in entry.errors]

    def report(self) -> FleetReport:
        """Return how things stand."""
        now = self._after or self._tp.statistics()
        before = self._before
        return FleetReport(
            fleet=self._fleet,
            members=tuple(self._member(entry) for entry in self._entries.values()),
            seconds=(self._ended or self._clock()) - self._began,
            requests=now.requests - before.requests,
            rate_limited=now.rate_limited - before.rate_limited,
            retries=now.retries - before.retries,
        )

    def _member(self, entry: MemberProgress) -> MemberReport:
        ended = entry.ended if entry.ended is not None else self._ended or self._clock()
        return MemberReport(
            name=entry.name,
            group=entry.group,
            state=entry.state,
            id=entry.id,
            instance_type=entry.instance_type,
            ip=entry.ip,
            seconds=0.0 if entry.began is None else ended - entry.began,
            polls=sum(operation.polls for operation in entry.operations),
            hourly_rate=entry.hourly_rate if entry.id else None,
            error="; ".join(sentence(error) for error in entry.errors) or None,
            outcome=entry.outcome,
            tried=tuple(entry.tried),
        )

    def _emit(self, entry: MemberProgress) -> None:
        events = self._tp.events
        if self._on_event is None and not events.listens:
            return
        event = FleetMemberChanged(
            fleet=self._fleet,
            member=entry.name,
            group=entry.group,
            state=entry.state,
            message=entry.message,
            resource_id=entry.id,
            instance_type=entry.instance_type,
            seconds=self._clock() - self._began,
            hourly_rate=entry.hourly_rate,
        )
        events.emit(event)
        if self._on_event is None:
            return
        try:
            self._on_event(event)
        except Exception:
            logger.exception("a listener of the fleet %s failed", self._fleet)


def sentence(error: Exception) -> str:
    """Say in one line what an error means to a person."""
    text = f"{error.status}: {error.message}" if isinstance(error, StatusError) else str(error)
    return " ".join(text.split()) or type(error).__name__
