"""An `async with` block over a fleet: it brings the whole fleet up or nothing, and destroys what it created at its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Literal

import attrs

from tensorpool_async.fleet.client_protocol import FleetClient
from tensorpool_async.fleet.created import CreatedMember
from tensorpool_async.fleet.progress import FleetProgress
from tensorpool_async.fleet.report import FleetIncomplete, FleetMembers, MemberState
from tensorpool_async.fleet.rollout import Rollout, Snapshot
from tensorpool_async.fleet.spec import Fleet
from tensorpool_async.fleet.teardown import Rollback, left_behind
from tensorpool_async.flow.shielding import wait_uncancelled
from tensorpool_async.resources.exits import log_deletions
from tensorpool_async.texts import logger_of


logger: logging.Logger = logger_of(__name__)


@attrs.frozen(kw_only=True)
class ContextOptions:
    """How a block handles failures.

    Attributes:
        on_failure: Whether a block that cannot be entered destroys ("rollback") or keeps ("keep") what it created.
        min_ready: The number of clusters that must run; None means all.
        rollback_timeout: Seconds that destroying may take.
    """

    on_failure: Literal["rollback", "keep"] = attrs.field(
        default="rollback", validator=attrs.validators.in_(("rollback", "keep"))
    )
    min_ready: int | None = None
    rollback_timeout: float = attrs.field(default=3600.0, validator=attrs.validators.gt(0))

    def check(self, fleet: Fleet) -> None:
        """Check the options against a fleet.

        Raises:
            ValueError: `min_ready` is below 1 or above the number of clusters.
        """
        count = len(fleet.members)
        if self.min_ready is not None and not 1 <= self.min_ready <= count:
            raise ValueError(f"min_ready is {self.min_ready}, and {fleet.name} has {count} clusters")


class FleetContext:
    """One `async with` block over a fleet."""

    def __init__(
        self,
        tp: FleetClient,
        fleet: Fleet,
        progress: FleetProgress,
        snapshot: Snapshot,
        options: ContextOptions,
    ) -> None:
        self._fleet = fleet
        self._progress = progress
        self._options = options
        self._rollout = Rollout(
            tp,
            fleet,
            progress,
            snapshot,
            detach_on_cancel=True,
            owned=options.on_failure == "rollback",  # `reap` must not destroy what the block would keep
            should_stop=self._should_stop,
        )
        self._created = self._rollout.created
        self._rollback = Rollback(tp, progress, self._created)
        self._names = [member.name for member in fleet.members]

    async def enter(self) -> FleetMembers:
        """Bring the fleet up.

        Raises:
            FleetIncomplete: Too many members failed. What was created is destroyed, unless it is to be kept.
            asyncio.CancelledError: The caller was cancelled. What was created is destroyed.
        """
        # In a task of its own, so that only this method cancels it.
        bring_up = asyncio.ensure_future(self._bring_up())
        try:
            await asyncio.wait([bring_up])
            bring_up.result()
        except BaseException as error:
            bring_up.cancel()
            interruption = await wait_uncancelled(bring_up)
            await self._roll_back(error, "rolled back")
            if interruption is not None and isinstance(error, Exception):
                raise interruption from error
            raise
        if self._has_enough():
            return FleetMembers(
                self._fleet, self._rollout.clusters, self._rollout.volumes, self._progress.report
            )
        raise await self._failure()

    async def leave(self, error: BaseException | None) -> None:
        """Destroy what was created.

        What could not be destroyed is added to the error of the body as notes, or raised if the body raised none.

        Args:
            error: The error of the body, or None.

        Raises:
            FleetIncomplete: Something could not be destroyed, and the body raised nothing.
            asyncio.CancelledError: The caller was cancelled meanwhile; raised after everything was tried.
        """
        left = await self._roll_back(error, "destroyed with the block")
        if left and error is None:
            raise self._incomplete("could not be destroyed", left)

    async def _bring_up(self) -> None:
        await self._rollout.run()
        if self._has_enough():
            failed = [record for record in self._created.records if self._has_failed(record.name)]
            # Without retries, because the body waits; the end of the block destroys what is left then.
            await self._rollback.run(failed, timeout=self._options.rollback_timeout, retry=False)

    async def _failure(self) -> BaseException:
        """Destroy or keep what was created, and return the error for a fleet that could not be brought up."""
        failures = self._progress.errors
        what = "could not be brought up"
        if self._options.on_failure == "keep":
            self._record_outcomes("kept")
            self._progress.close()
            return self._incomplete(f"{what}; what was created was kept", failures)
        left: list[Exception] = []
        interruption = await self._destroy_created("rolled back", left, None)
        end = f"{len(left)} could not be rolled back" if left else "what was created was rolled back"
        error = self._incomplete(f"{what}; {end}", failures, left)
        if interruption is not None:
            self._add_notes(interruption)
            interruption.__cause__ = error
        return interruption or error

    async def _roll_back(self, error: BaseException | None, outcome: str) -> list[Exception]:
        """Destroy what was created; return an error for each member of which something is left."""
        left: list[Exception] = []
        interruption = await self._destroy_created(outcome, left, error)
        if interruption is not None and (error is None or isinstance(error, Exception)):
            self._add_notes(interruption)
            raise interruption
        if error is not None:
            self._add_notes(error)
        return left

    async def _destroy_created(
        self, outcome: str, left: list[Exception], error: BaseException | None
    ) -> asyncio.CancelledError | None:
        """Destroy what was created, also while the caller is cancelled.

        Args:
            outcome: What the report says of members that were destroyed.
            left: Gets an error for each member of which something could not be destroyed.
            error: The error that ends the block, or None. What will be destroyed is logged: as a warning if the block was
                cancelled or interrupted by Ctrl-C, and else as information.

        Returns:
            The last cancellation of the caller, for it to raise; None if it was not cancelled.
        """
        for record in self._remaining():
            record.hourly_rate = self._progress.member(record.name).hourly_rate
        log_deletions((record.undeleted for record in self._remaining()), error)
        work = asyncio.ensure_future(
            self._rollback.run(self._created.records, timeout=self._options.rollback_timeout)
        )
        try:
            interruption = await wait_uncancelled(work)
        except (KeyboardInterrupt, SystemExit):  # a second Ctrl-C, while this task runs
            self._log_remaining()
            raise
        if work.cancelled() or not isinstance(work.exception(), Exception | None):
            # The event loop is closing (a second Ctrl-C): all that can be done is to log what is left.
            interruption = interruption or asyncio.CancelledError()
            self._log_remaining()
        else:
            left.extend(work.result())
        self._record_outcomes(outcome)
        self._progress.close()
        return interruption

    def _log_remaining(self) -> None:
        for record in self._remaining():
            logger.error("%s", left_behind(record))

    def _remaining(self) -> Iterable[CreatedMember]:
        return (record for record in self._created.records if not record.is_empty)

    def _add_notes(self, error: BaseException) -> None:
        for record in self._remaining():
            error.add_note(left_behind(record))

    def _record_outcomes(self, outcome: str) -> None:
        """Record in the progress what the block did with each member."""
        for record in self._created.records:
            self._progress.record_outcome(record.name, self._outcome_of(record, outcome))

    def _outcome_of(self, record: CreatedMember, outcome: str) -> str:
        member = self._progress.member(record.name)
        if not record.is_empty:
            return outcome if outcome == "kept" else left_behind(record)
        if member.state is MemberState.DESTROYED:
            return outcome
        if member.id is not None:
            return "not created by this block, and left alone"
        return "not created"

    def _incomplete(
        self, what: str, errors: Sequence[Exception], left: Sequence[Exception] = ()
    ) -> FleetIncomplete:
        report = self._progress.report()
        text = f"{len(errors)} of {len(report.members)} members of {self._fleet.name} {what}"
        return FleetIncomplete(text, [*errors, *left], report=report)

    def _has_failed(self, name: str) -> bool:
        return self._progress.member(name).state is MemberState.FAILED

    def _has_enough(self) -> bool:
        """Whether enough clusters have not failed, and no volume has failed."""
        needed = len(self._names) if self._options.min_ready is None else self._options.min_ready
        without_error = sum(not self._progress.member(name).errors for name in self._names)
        volumes = (record.name for record in self._created.records if record.is_volume)
        return without_error >= needed and not any(self._progress.member(name).errors for name in volumes)

    def _should_stop(self) -> bool:
        # With "keep", the other members are still wanted.
        return self._options.on_failure == "rollback" and not self._has_enough()
