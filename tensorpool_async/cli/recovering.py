"""The commands about what is in flight: ops, recover."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from tensorpool_async.cli import DONE, FAILED, INTERRUPTED
from tensorpool_async.cli.durations import age
from tensorpool_async.cli.entries import age_of, entry_document, kind_of, show_entries, token_of
from tensorpool_async.cli.journals import client, command, opened
from tensorpool_async.cli.printing import counted, say, show, show_json
from tensorpool_async.client import TensorPool
from tensorpool_async.errors import AmbiguousOutcomeError, TensorPoolError
from tensorpool_async.fleet.progress import sentence
from tensorpool_async.journal import NOT_MADE, EntryState, JournalEntry
from tensorpool_async.operations.operation import Operation


UNDONE = "not carried out"
"""How a change ended that never reached the engine, and whose resource is still there."""


async def ops(journal: Path, *, everything: bool, as_json: bool) -> int:
    """Show what the journal says is in flight, at all engines. Nothing is sent."""
    async with opened(journal) as store:
        entries = await store.entries(ended=everything)
    if as_json:
        show_json({"operations": [entry_document(entry) for entry in entries]})
        return DONE
    going = [entry for entry in entries if entry.state is not EntryState.ENDED]
    lost = sum(not entry.owner_alive for entry in going)
    if entries:
        show_entries(entries)
        show(
            f"{len(going)} in flight" + (f", {len(entries) - len(going)} ended" if everything else ""),
            apart=True,
        )
    else:
        show("Nothing is in flight." if not everything else "The journal is empty.")
    if lost:
        what = "1 has outlived its process" if lost == 1 else f"{lost} have outlived their processes"
        show(f"{what}. To go on with {'it' if lost == 1 else 'them'}: {command('recover', journal)}")
    return DONE


@attrs.frozen
class Recovered:
    """What recovery found.

    Attributes:
        going: The entries that are in flight, each with its operation.
        ended: The entries of which recovery found that nothing is in flight any more.
        held: How many entries other living processes hold.
        problem: Why some could not be cleared up; they stay in the journal.
    """

    going: tuple[tuple[JournalEntry, Operation[Any]], ...]
    ended: tuple[JournalEntry, ...]
    held: int
    problem: AmbiguousOutcomeError | None

    @property
    def not_carried_out(self) -> tuple[JournalEntry, ...]:
        """Changes other than creations that never reached the engine, so that somebody may still rely on them."""
        return tuple(entry for entry in self.ended if entry.outcome == UNDONE)


async def find_again(tp: TensorPool) -> Recovered:
    """Recover, and say what became of each entry whose process has ended.

    Raises:
        JournalError: The journal cannot be read or written.
    """
    before = await tp.journal_entries()
    lost = {entry.id for entry in before if not entry.owner_alive}
    try:
        operations, problem = await tp.recover(), None
    except AmbiguousOutcomeError as error:
        operations, problem = list(error.operations), error
    after = [entry for entry in await tp.journal_entries(ended=True) if entry.id in lost]
    by_resource = {(operation.kind, operation.resource_id): operation for operation in operations}
    going: list[tuple[JournalEntry, Operation[Any]]] = []
    for entry in after:
        token = token_of(entry)
        if entry.state is EntryState.ACCEPTED and token is not None:
            known = by_resource.get((entry.intent.kind, entry.resource_id))
            going.append((entry, known or tp.operation(token)))
    ended = tuple(entry for entry in after if entry.state is EntryState.ENDED)
    return Recovered(tuple(going), ended, len(before) - len(lost), problem)


async def recover(journal: Path, *, wait: bool, as_json: bool) -> int:
    """Find again what was in flight when its process ended."""
    async with client(journal) as tp:
        found = await find_again(tp)
        if not as_json:
            _show_found(found)
        failed = bool(found.problem or found.not_carried_out)
        _say_problem(found)
        errors: dict[int, str | None] = {}
        if wait and found.going:
            try:
                errors = await _follow(found.going)
            except asyncio.CancelledError:
                say("Interrupted. The operations go on at the engine.")
                say(f"To wait again:  {command('recover --wait', journal)}")
                return INTERRUPTED
        entries = {entry.id: entry for entry in await tp.journal_entries(ended=True)}
    if as_json:
        show_json(_document(found, entries, errors))
    elif errors:
        well = sum(error is None for error in errors.values())
        show(f"{well} of {counted(len(errors), 'operation')} ended well.")
    return FAILED if failed or any(errors.values()) else DONE


def _show_found(found: Recovered) -> None:
    for entry, operation in found.going:
        show(f"{_title(entry)}  in flight")
        show(f"  tpa wait {operation.token}")
    for entry in found.ended:
        show(f"{_title(entry)}  {_ended(entry)}")
    if found.held:
        is_one = found.held == 1
        show(
            f"{found.held} more {'is held by a process that lives' if is_one else 'are held by processes that live'}."
        )
    elif not (found.going or found.ended or found.problem):
        show("There is nothing to recover.")


def _ended(entry: JournalEntry) -> str:
    if entry.outcome == NOT_MADE:
        return "was never made"
    outcome = entry.outcome or "ended"
    return f"{outcome}; do it again if it is still wanted" if outcome == UNDONE else outcome


def _title(entry: JournalEntry) -> str:
    parts = (kind_of(entry), entry.intent.name, entry.resource_id, f"{age(age_of(entry))} old")
    return "  ".join(part for part in parts if part)


def _say_problem(found: Recovered) -> None:
    if found.problem is not None:
        say(f"tpa: {sentence(found.problem)}; they stay in the journal: run tpa recover again", style="red")


async def _follow(going: Sequence[tuple[JournalEntry, Operation[Any]]]) -> dict[int, str | None]:
    """Wait for the end of each, and tell of it; return the errors by entry."""
    begin = time.monotonic()
    width = max(len(kind_of(entry)) for entry, _ in going)

    async def follow(entry: JournalEntry, operation: Operation[Any]) -> tuple[int, str | None]:
        error = None
        try:
            await operation
        except TensorPoolError as failure:
            error = sentence(failure)
        seconds = time.monotonic() - begin
        who = "  ".join(part for part in (entry.intent.name, operation.resource_id) if part)
        say(
            f"{seconds:7.1f} s  {kind_of(entry):<{width}}  {who}  {error or 'done'}",
            style="red" if error else "",
        )
        return entry.id, error

    return dict(await asyncio.gather(*(follow(entry, operation) for entry, operation in going)))


def _document(
    found: Recovered, entries: dict[int, JournalEntry], errors: dict[int, str | None]
) -> dict[str, Any]:
    known = [entry for entry, _ in found.going] + list(found.ended)
    return {
        "operations": [
            {**entry_document(entries.get(entry.id, entry)), "error": errors.get(entry.id)} for entry in known
        ],
        "held_by_others": found.held,
        "problem": None if found.problem is None else sentence(found.problem),
    }
