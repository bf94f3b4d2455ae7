"""A fleet for the body of an `async with`: all or nothing on the way in, and nothing is left on the way out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Literal

import attrs

from tensorpool_async.client import TensorPool
from tensorpool_async.fleet.created import CreatedMember
from tensorpool_async.fleet.members import FleetMembers
from tensorpool_async.fleet.progress import FleetProgress
from tensorpool_async.fleet.report import FleetIncomplete, MemberState
from tensorpool_async.fleet.rollback import Rollback, left_behind
from tensorpool_async.fleet.rollout import Rollout
from tensorpool_async.fleet.snapshot import Snapshot
from tensorpool_async.fleet.spec import Fleet
from tensorpool_async.flow.shielding import wait_uncancelled
from tensorpool_async.resources.leaving import announce
from tensorpool_async.texts import logger_of


logger: logging.Logger = logger_of(__name__)


@attrs.frozen(kw_only=True)
class ContextOptions:
    """How a block deals with failures.

    Attributes:
        on_failure: What becomes of what was made when the fleet cannot be had.
        min_ready: How many clusters must run; None: all of them.
        rollback_timeout: Seconds that destroying may take.
    """

    on_failure: Literal["rollback", "keep"] = attrs.field(
        default="rollback", validator=attrs.validators.in_(("rollback", "keep"))
    )
    min_ready: int | None = None
    rollback_timeout: float = attrs.field(default=3600.0, validator=attrs.validators.gt(0))

    def check(self, fleet: Fleet) -> None:
        """See that they fit a fleet.

        Raises:
            ValueError: They do not.
        """
        most = len(fleet.members)
        if self.min_ready is not None and not 1 <= self.min_ready <= most:
            raise ValueError(f"min_ready is {self.min_ready}, and {fleet.name} has {most} clusters")


class FleetContext:
    """One `async with` block over a fleet."""

    def __init__(
        self,
        tp: TensorPool,
        fleet: Fleet,
        progress: FleetProgress,
        snapshot: Snapshot,
        options: ContextOptions,
    ) -> None:
        self._fleet = fleet
        self._progress = progress
        self._survey = snapshot
        self._options = options
        self._climb = Rollout(
            tp,
            fleet,
            progress,
            snapshot,
            detach_on_cancel=True,
            owned=options.on_failure == "rollback",  # what is to be kept is not to be reaped either
            gives_up=self._gives_up,
        )
        self._created = self._climb.created
        self._rollback = Rollback(tp, progress, self._created)
        self._names = [member.name for member in fleet.members]

    async def enter(self) -> FleetMembers:
        """Bring the fleet up.

        Raises:
            FleetIncomplete: Too many members failed.
            asyncio.CancelledError: The caller was cancelled; what was made is destroyed.
        """
        # In a task of its own, so that only this block decides when it is cancelled.
        climbing = asyncio.ensure_future(self._go_up())
        try:
            await asyncio.wait([climbing])
            climbing.result()
        except BaseException as error:
            climbing.cancel()
            interruption = await wait_uncancelled(climbing)
            await self._undo(error, "rolled back")
            if interruption is not None and isinstance(error, Exception):
                raise interruption from error
            raise
        if self._is_enough():
            return FleetMembers(self._fleet, self._climb.clusters, self._climb.volumes, self._progress.report)
        raise await self._refuse()

    async def leave(self, error: BaseException | None) -> None:
        """Destroy what was made; if that fails, tell so with the body's error, or with one of its own.

        Raises:
            FleetIncomplete: Something could not be destroyed, and the body has raised nothing.
            asyncio.CancelledError: The caller was cancelled meanwhile.
        """
        left = await self._undo(error, "destroyed with the block")
        if left and error is None:
            raise self._incomplete("could not be destroyed", left)

    async def _go_up(self) -> None:
        await self._climb.run()
        if self._is_enough():
            failed = [record for record in self._created.records if self._has_failed(record.name)]
            # Once, for the body is waiting; what is left then is tried again at the end of the block.
            await self._rollback.run(failed, timeout=self._options.rollback_timeout, patient=False)

    async def _refuse(self) -> BaseException:
        """Return the error of a fleet that cannot be had, once what was made is dealt with."""
        failures = self._progress.errors
        what = "could not be brought up"
        if self._options.on_failure == "keep":
            self._conclude("kept")
            self._progress.close()
            return self._incomplete(f"{what}; what was made was kept", failures)
        left: list[Exception] = []
        interruption = await self._bring_down("rolled back", left, None)
        end = f"{len(left)} could not be rolled back" if left else "what was made was rolled back"
        error = self._incomplete(f"{what}; {end}", failures, left)
        if interruption is not None:
            self._report(interruption)
            interruption.__cause__ = error
        return interruption or error

    async def _undo(self, error: BaseException | None, word: str) -> list[Exception]:
        left: list[Exception] = []
        interruption = await self._bring_down(word, left, error)
        if interruption is not None and (error is None or isinstance(error, Exception)):
            self._report(interruption)
            raise interruption
        if error is not None:
            self._report(error)
        return left

    async def _bring_down(
        self, word: str, left: list[Exception], error: BaseException | None
    ) -> asyncio.CancelledError | None:
        """Destroy what was made, however often the caller is cancelled; return the last such interruption."""
        for record in self._left():
            record.hourly_rate = self._progress.entry(record.name).hourly_rate
        announce((record.remnant for record in self._left()), error)
        work = asyncio.ensure_future(
            self._rollback.run(self._created.records, timeout=self._options.rollback_timeout)
        )
        try:
            interruption = await wait_uncancelled(work)
        except (KeyboardInterrupt, SystemExit):  # a second Ctrl-C, right in the middle of this
            self._log_left()
            raise
        if work.cancelled() or not isinstance(work.exception(), Exception | None):
            # The event loop is being ended (a second Ctrl-C): nothing more can be done than to say what is left.
            interruption = interruption or asyncio.CancelledError()
            self._log_left()
        else:
            left.extend(work.result())
        self._conclude(word)
        self._progress.close()
        return interruption

    def _log_left(self) -> None:
        for record in self._left():
            logger.error("%s", left_behind(record))

    def _left(self) -> Iterable[CreatedMember]:
        return (record for record in self._created.records if not record.is_empty)

    def _report(self, error: BaseException) -> None:
        for record in self._left():
            error.add_note(left_behind(record))

    def _conclude(self, word: str) -> None:
        """Say of each member what became of it."""
        for record in self._created.records:
            entry = self._progress.entry(record.name)
            if not record.is_empty:
                outcome = word if word == "kept" else left_behind(record)
            elif entry.state is MemberState.DESTROYED:
                outcome = word
            elif entry.id is not None:
                outcome = "not made by this block, and left"
            else:
                outcome = "not made"
            self._progress.concludes(record.name, outcome)

    def _incomplete(
        self, what: str, errors: Sequence[Exception], left: Sequence[Exception] = ()
    ) -> FleetIncomplete:
        report = self._progress.report()
        text = f"{len(errors)} of {len(report.members)} members of {self._fleet.name} {what}"
        return FleetIncomplete(text, [*errors, *left], report=report)

    def _has_failed(self, name: str) -> bool:
        return self._progress.entry(name).state is MemberState.FAILED

    def _is_enough(self) -> bool:
        """Whether what has not failed is enough; volumes must all be there."""
        needed = len(self._names) if self._options.min_ready is None else self._options.min_ready
        well = sum(not self._progress.entry(name).errors for name in self._names)
        volumes = (record.name for record in self._created.records if record.is_volume)
        return well >= needed and not any(self._progress.entry(name).errors for name in volumes)

    def _gives_up(self) -> bool:
        # Where what was made is kept, the other members are of use.
        return self._options.on_failure == "rollback" and not self._is_enough()
