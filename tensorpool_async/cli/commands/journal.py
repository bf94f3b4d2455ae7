"""The commands for operations in a journal: ops, recover, reap."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeAlias, cast

import attrs

from tensorpool_async.cli.documents import entry_age, entry_document, entry_token, leftover_document
from tensorpool_async.cli.exit_codes import ExitCode
from tensorpool_async.cli.journal_file import open_client, open_journal, tpa_command
from tensorpool_async.cli.output import (
    format_age,
    format_price,
    pluralize,
    print_err,
    print_json,
    print_out,
    print_table,
    rate_cell,
)
from tensorpool_async.cli.prompt import confirm_destroy
from tensorpool_async.client import TensorPool
from tensorpool_async.errors import AmbiguousOutcomeError, TensorPoolError
from tensorpool_async.fleet.plan import total
from tensorpool_async.fleet.progress import sentence
from tensorpool_async.journal import NOT_MADE, EntryState, JournalEntry
from tensorpool_async.models import OperationKind
from tensorpool_async.operations.operation import Operation
from tensorpool_async.resources.recovery import Leftover


NOT_CARRIED_OUT = "not carried out"
"""The outcome of a change, other than a creation, that never reached the engine."""

KIND_LABELS: dict[str, str] = {
    "CLUSTER_CLAIM": "create cluster",
    "CLUSTER_RELEASE": "destroy cluster",
    "CLUSTER_EDIT": "edit cluster",
    "STORAGE_CREATE": "create volume",
    "STORAGE_DESTROY": "destroy volume",
    "STORAGE_ATTACH": "attach volume",
    "STORAGE_DETACH": "detach volume",
    "STORAGE_EDIT": "edit volume",
    "JOB_CANCEL": "cancel job",
}
ENTRY_STATE_LABELS: dict[str, str] = {
    EntryState.INTENT: "unanswered",
    EntryState.ACCEPTED: "accepted",
    EntryState.ENDED: "ended",
}
ENTRY_HEADINGS = ("OPERATION", "NAME", "ID", "STATE", "AGE", "OWNER", "LIMIT", "OUTCOME", "ENGINE")
OPTIONAL_HEADINGS = frozenset(ENTRY_HEADINGS[6:])
"""Columns that are left out if they have no value."""

RecoveredOperation: TypeAlias = "tuple[JournalEntry, Operation[Any]]"


async def ops(journal: Path, *, with_ended: bool, as_json: bool) -> ExitCode:
    """Show the operations that a journal lists as in flight, at all engines. Nothing is sent.

    Args:
        journal: The path of the journal.
        with_ended: Show operations that have ended, too.
        as_json: Print a document.
    """
    async with open_journal(journal) as store:
        entries = await store.entries(ended=with_ended)
    if as_json:
        print_json({"operations": [entry_document(entry) for entry in entries]})
        return ExitCode.SUCCESS
    in_flight = [entry for entry in entries if entry.state is not EntryState.ENDED]
    if entries:
        _print_entries(entries)
        ended = f", {len(entries) - len(in_flight)} ended" if with_ended else ""
        print_out(f"{len(in_flight)} in flight{ended}", blank_before=True)
    else:
        print_out("The journal is empty." if with_ended else "Nothing is in flight.")
    abandoned = sum(not entry.owner_alive for entry in in_flight)
    if abandoned:
        print_out(f"{abandoned} without a running owner; to recover: {tpa_command('recover', journal)}")
    return ExitCode.SUCCESS


def _print_entries(entries: Sequence[JournalEntry]) -> None:
    with_engine = len({entry.intent.engine for entry in entries}) > 1
    rows = [
        (
            kind_label(entry),
            entry.intent.name,
            entry.resource_id,
            ENTRY_STATE_LABELS[entry.state],
            format_age(entry_age(entry)),
            "alive" if entry.owner_alive else "gone",
            _lifetime_limit(entry),
            _outcome(entry),
            entry.intent.engine if with_engine else None,
        )
        for entry in entries
    ]
    columns = [
        index
        for index, heading in enumerate(ENTRY_HEADINGS)
        if heading not in OPTIONAL_HEADINGS or any(row[index] for row in rows)
    ]
    print_table(
        [ENTRY_HEADINGS[index] for index in columns],
        [[row[index] for index in columns] for row in rows],
        right=("AGE",),
    )


def kind_label(entry: JournalEntry) -> str:
    """Return the label of what an entry does, such as `create cluster`."""
    kind = str(entry.intent.kind)
    return KIND_LABELS.get(kind, kind.lower().replace("_", " "))


def _lifetime_limit(entry: JournalEntry) -> str | None:
    limits = ["ephemeral"] if entry.intent.ephemeral else []
    limits += [] if entry.intent.ttl is None else [f"ttl {format_age(entry.intent.ttl)}"]
    return ", ".join(limits) or None


def _outcome(entry: JournalEntry) -> str | None:
    is_creation = entry.intent.resource_id is None
    if entry.outcome and is_creation and entry.deleted_at:
        return f"{entry.outcome}; deleted since"
    return entry.outcome


@attrs.frozen
class RecoveryResult:
    """The result of a recovery.

    Attributes:
        in_flight: The entries that are in flight, each with its operation.
        ended: The entries of which the recovery found that they are not in flight any more.
        held: How many entries are owned by other running processes.
        problem: Why the state of some entries is still unknown; they stay in the journal.
    """

    in_flight: tuple[RecoveredOperation, ...]
    ended: tuple[JournalEntry, ...]
    held: int
    problem: AmbiguousOutcomeError | None

    @property
    def not_carried_out(self) -> tuple[JournalEntry, ...]:
        """Changes, other than creations, that never reached the engine; they may still be needed."""
        return tuple(entry for entry in self.ended if entry.outcome == NOT_CARRIED_OUT)


async def recover_entries(tp: TensorPool) -> RecoveryResult:
    """Recover the entries whose owner has ended.

    Raises:
        JournalError: The journal cannot be read or written.
    """
    before = await tp.journal_entries()
    abandoned = {entry.id for entry in before if not entry.owner_alive}
    try:
        operations, problem = await tp.recover(), None
    except AmbiguousOutcomeError as error:
        operations, problem = cast("list[Operation[Any]]", list(error.operations)), error
    after = [entry for entry in await tp.journal_entries(ended=True) if entry.id in abandoned]
    by_resource = {(operation.kind, operation.resource_id): operation for operation in operations}
    in_flight: list[RecoveredOperation] = []
    for entry in after:
        token = entry_token(entry)
        if entry.state is EntryState.ACCEPTED and token is not None:
            operation = by_resource.get((entry.intent.kind, entry.resource_id))
            in_flight.append((entry, operation or tp.operation(token)))
    ended = tuple(entry for entry in after if entry.state is EntryState.ENDED)
    return RecoveryResult(tuple(in_flight), ended, len(before) - len(abandoned), problem)


async def recover(journal: Path, *, wait: bool, as_json: bool) -> ExitCode:
    """Recover the operations whose process has ended, and follow them to their end with `wait`."""
    async with open_client(journal) as tp:
        recovery = await recover_entries(tp)
        if not as_json:
            _print_recovery(recovery)
        if recovery.problem is not None:
            print_err(
                f"tpa: {sentence(recovery.problem)}; they stay in the journal: run tpa recover again",
                style="red",
            )
        errors: dict[int, str | None] = {}
        if wait and recovery.in_flight:
            try:
                errors = await _wait_for_all(recovery.in_flight)
            except asyncio.CancelledError:
                print_err("Interrupted. The operations continue at the engine.")
                print_err(f"To wait again:  {tpa_command('recover --wait', journal)}")
                return ExitCode.INTERRUPTED
        entries = {entry.id: entry for entry in await tp.journal_entries(ended=True)}
    if as_json:
        print_json(_recovery_document(recovery, entries, errors))
    elif errors:
        succeeded = sum(error is None for error in errors.values())
        print_out(f"{succeeded} of {pluralize(len(errors), 'operation')} succeeded.")
    failed = recovery.problem or recovery.not_carried_out or any(errors.values())
    return ExitCode.FAILURE if failed else ExitCode.SUCCESS


def _print_recovery(recovery: RecoveryResult) -> None:
    for entry, operation in recovery.in_flight:
        print_out(f"{_entry_title(entry)}  in flight")
        print_out(f"  tpa wait {operation.token}")
    for entry in recovery.ended:
        print_out(f"{_entry_title(entry)}  {_recovered_outcome(entry)}")
    if recovery.held:
        owners = "a running process" if recovery.held == 1 else "running processes"
        print_out(f"{pluralize(recovery.held, 'operation')} left to {owners}.")
    elif not (recovery.in_flight or recovery.ended or recovery.problem):
        print_out("There is nothing to recover.")


def _recovered_outcome(entry: JournalEntry) -> str:
    if entry.outcome == NOT_MADE:
        return "never created"
    if entry.outcome == NOT_CARRIED_OUT:
        return "not carried out; repeat it if it is still needed"
    return entry.outcome or "ended"


def _entry_title(entry: JournalEntry) -> str:
    age = f"{format_age(entry_age(entry))} old"
    return "  ".join(part for part in (kind_label(entry), entry.intent.name, entry.resource_id, age) if part)


async def _wait_for_all(in_flight: Sequence[RecoveredOperation]) -> dict[int, str | None]:
    """Wait for the end of each operation and print it; return the errors by entry."""
    started = time.monotonic()
    width = max(len(kind_label(entry)) for entry, _ in in_flight)

    async def wait_for(entry: JournalEntry, operation: Operation[Any]) -> tuple[int, str | None]:
        error = None
        try:
            await operation
        except TensorPoolError as failure:
            error = sentence(failure)
        seconds = time.monotonic() - started
        resource = "  ".join(part for part in (entry.intent.name, operation.resource_id) if part)
        print_err(
            f"{seconds:7.1f} s  {kind_label(entry):<{width}}  {resource}  {error or 'done'}",
            style="red" if error else "",
        )
        return entry.id, error

    return dict(await asyncio.gather(*(wait_for(entry, operation) for entry, operation in in_flight)))


def _recovery_document(
    recovery: RecoveryResult, entries: dict[int, JournalEntry], errors: dict[int, str | None]
) -> dict[str, Any]:
    recovered = [entry for entry, _ in recovery.in_flight] + list(recovery.ended)
    return {
        "operations": [
            {**entry_document(entries.get(entry.id, entry)), "error": errors.get(entry.id)}
            for entry in recovered
        ],
        "held_by_others": recovery.held,
        "problem": None if recovery.problem is None else sentence(recovery.problem),
    }


class ReapResult(StrEnum):
    """What happened to a leftover; `tpa reap --json` prints it as `fate`."""

    LEFT = "LEFT"
    DESTROYED = "DESTROYED"
    FAILED = "FAILED"
    TAKEN = "TAKEN"
    """It was already deleted, or another process has claimed it and destroys it."""


@attrs.define
class Reaper:
    """Leftovers and what happened to each.

    Attributes:
        leftovers: The resources to destroy.
        results: The result of each, by `Leftover.entry`; without one it is `LEFT`.
        errors: The errors of those that failed, by `Leftover.entry`.
    """

    leftovers: Sequence[Leftover]
    results: dict[int, ReapResult] = attrs.field(factory=dict[int, ReapResult])
    errors: dict[int, str] = attrs.field(factory=dict[int, str])

    def result(self, leftover: Leftover) -> ReapResult:
        """Return the result of a leftover."""
        return self.results.get(leftover.entry, ReapResult.LEFT)

    @property
    def remaining(self) -> list[Leftover]:
        """The leftovers that may still exist."""
        return [one for one in self.leftovers if self.result(one) in {ReapResult.LEFT, ReapResult.FAILED}]

    async def destroy_all(self, tp: TensorPool) -> None:
        """Destroy all leftovers concurrently, with a line on standard error for each."""
        started = time.monotonic()
        width = max(len(leftover.name or "") for leftover in self.leftovers)

        async def destroy(leftover: Leftover) -> None:
            outcome = await self._destroy(tp, leftover)
            seconds = time.monotonic() - started
            line = f"{seconds:7.1f} s  {leftover.name or '':<{width}}  {leftover.resource_id}  {outcome}"
            print_err(line, style="red" if self.result(leftover) is ReapResult.FAILED else "")

        await asyncio.gather(*(destroy(leftover) for leftover in self.leftovers))

    async def _destroy(self, tp: TensorPool, leftover: Leftover) -> str:
        """Destroy a leftover, record its result, and return the text for it."""
        try:
            is_destroyed = await tp.reap(leftover)
        except TensorPoolError as error:
            self.results[leftover.entry] = ReapResult.FAILED
            self.errors[leftover.entry] = sentence(error)
            return self.errors[leftover.entry]
        self.results[leftover.entry] = ReapResult.DESTROYED if is_destroyed else ReapResult.TAKEN
        return "destroyed" if is_destroyed else "already deleted, or claimed by another process"


async def reap(journal: Path, *, older: float, yes: bool, as_json: bool) -> ExitCode:
    """Destroy resources that are ephemeral or past their `ttl`, and whose owner is gone.

    Args:
        journal: The path of the journal.
        older: Only resources that were requested more than this many seconds ago.
        yes: Destroy without asking.
        as_json: Print a document.
    """
    async with open_client(journal) as tp:
        reaper = Reaper(await tp.leftovers(older=older))
        if not as_json:
            _print_leftovers(reaper.leftovers)
        code = ExitCode.SUCCESS
        if reaper.leftovers:
            try:
                code = await _confirm_and_destroy(tp, reaper, yes=yes)
            except asyncio.CancelledError:
                _print_interrupted_reap(reaper, journal)
                code = ExitCode.INTERRUPTED
    if as_json:
        print_json(_reap_document(reaper))
    return code


def _print_leftovers(leftovers: Sequence[Leftover]) -> None:
    if not leftovers:
        print_out("No leftovers.")
        return
    rows = [
        (
            leftover.name,
            "cluster" if leftover.kind is OperationKind.CLUSTER_CLAIM else "volume",
            leftover.resource_id,
            format_age(leftover.age),
            rate_cell(leftover.hourly_rate),
        )
        for leftover in leftovers
    ]
    print_table(("NAME", "KIND", "ID", "AGE", "USD/H"), rows, right=("AGE", "USD/H"))
    print_out(f"{pluralize(len(leftovers), 'leftover')}; {_price_of(leftovers)} per hour", blank_before=True)


def _price_of(leftovers: Sequence[Leftover]) -> str:
    return format_price(total(leftover.hourly_rate for leftover in leftovers))


async def _confirm_and_destroy(tp: TensorPool, reaper: Reaper, *, yes: bool) -> ExitCode:
    count = len(reaper.leftovers)
    if not yes:
        refused = await confirm_destroy(f"Destroy {'it' if count == 1 else f'these {count}'}?")
        if refused is not None:
            return refused
    await reaper.destroy_all(tp)
    remaining = reaper.remaining
    if remaining:
        print_err(
            f"tpa: {len(remaining)} of {count} could not be destroyed, {_price_of(remaining)} per hour",
            style="red",
        )
        return ExitCode.FAILURE
    destroyed = sum(reaper.result(leftover) is ReapResult.DESTROYED for leftover in reaper.leftovers)
    print_err(f"Destroyed {destroyed} of {count}.")
    return ExitCode.SUCCESS


def _print_interrupted_reap(reaper: Reaper, journal: Path) -> None:
    remaining = reaper.remaining
    resources = pluralize(len(remaining), "resource")
    print_err(f"Interrupted. {resources} may still exist, {_price_of(remaining)} per hour:")
    for leftover in remaining:
        print_err(f"  {leftover.name or ''}  {leftover.resource_id}")
    print_err(f"To continue:  {tpa_command('reap', journal)}")


def _reap_document(reaper: Reaper) -> dict[str, Any]:
    return {
        "leftovers": [
            leftover_document(leftover, str(reaper.result(leftover)), reaper.errors.get(leftover.entry))
            for leftover in reaper.leftovers
        ],
        "hourly_cost": total(leftover.hourly_rate for leftover in reaper.leftovers),
    }
