"""The commands about fleets: plan, up, down, status.

Each takes the fleet; those that can be interrupted also its file, to say how to go on.
"""

from __future__ import annotations

import asyncio
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import AsyncExitStack
from pathlib import Path

import anyio

from tensorpool_async.cli import DONE, FAILED, INTERRUPTED
from tensorpool_async.cli.display import progress
from tensorpool_async.cli.documents import fleet_document, plan_document
from tensorpool_async.cli.journals import client
from tensorpool_async.cli.printing import (
    counted,
    money,
    rate_cell,
    say,
    seconds_cell,
    show,
    show_json,
    show_table,
)
from tensorpool_async.client import TensorPool
from tensorpool_async.errors import BudgetExceeded, TensorPoolError
from tensorpool_async.fleet import (
    Action,
    Fleet,
    FleetIncomplete,
    FleetReport,
    FleetSession,
    MemberReport,
    Plan,
    PlannedMember,
)
from tensorpool_async.fleet.plan import check_budget
from tensorpool_async.fleet.progress import sentence


ASKING_TIME = 5.0
"""Seconds that the engine may take to say what there is, after an interruption."""

MARKS = {
    Action.CREATE: "+",
    Action.JOIN: "~",
    Action.REPLACE: "~",
    Action.AWAIT_DESTROY: "~",
    Action.KEEP: "=",
    Action.CONFLICT: "!",
    Action.SURPLUS: "*",
}
"""The first column of a plan."""
MEANINGS = {
    "+": "to create",
    "~": "to join or replace",
    "=": "to keep",
    "!": "in conflict",
    "*": "beyond the counts, left as they are",
}


async def plan(fleet: Fleet, *, as_json: bool) -> int:
    """Show what `up` would do."""
    async with TensorPool() as tp:
        planned = await tp.fleet(fleet).plan()
    refusal = _refusal(planned)
    if as_json:
        show_json(plan_document(planned, refusal))
    else:
        _show_plan(planned)
    for entry in planned.conflicts:
        say(f"tpa: {entry.problem}", style="red")
    if refusal:
        say(f"tpa: up would be refused: {refusal}", style="red")
    return FAILED if refusal or planned.conflicts else DONE


def _refusal(planned: Plan) -> str | None:
    try:
        check_budget(planned)
    except BudgetExceeded as error:
        return sentence(error)
    return None


def _show_plan(planned: Plan) -> None:
    entries = [*planned.members, *planned.surplus]
    show_table(
        ("", "NAME", "ACTION", "TYPE", "NODES", "ID", "USD/H"),
        [
            (
                MARKS[entry.action],
                entry.name,
                entry.action,
                entry.instance_type,
                entry.num_nodes,
                entry.resource_id,
                _change_of(entry),
            )
            for entry in entries
        ],
        right=("NODES", "USD/H"),
    )
    show(f"{_tally(entries)}", apart=True)
    now, after = planned.hourly_cost_now, planned.hourly_cost_after
    added = "" if now is None or after is None else f" + {money(after - now)}"
    limit = planned.max_hourly_cost
    ceiling = "" if limit is None else f"; at most {money(limit)} is allowed"
    show(f"{money(now)} per hour now{added}; {money(after)} after `up`{ceiling}")


def _change_of(entry: PlannedMember) -> str | None:
    rate = rate_cell(entry.hourly_rate)
    return f"+{rate}" if rate and entry.action.creates else rate


def _tally(entries: Iterable[PlannedMember]) -> str:
    """Say how many there are of each mark."""
    counts = Counter(MARKS[entry.action] for entry in entries)
    return "   ".join(f"{mark} {counts[mark]} {words}" for mark, words in MEANINGS.items() if counts[mark])


async def status(fleet: Fleet, *, as_json: bool) -> int:
    """Show what there is of a fleet."""
    async with TensorPool() as tp:
        report = await tp.fleet(fleet).status()
    if as_json:
        show_json(fleet_document(report))
        return DONE
    _show_members(report.members, brief=True)
    there = f"{len(report.existing)} of {len(report.members)}"
    show(f"{there} exist; {money(report.hourly_cost)} per hour", apart=True)
    return DONE


async def up(fleet: Fleet, file: Path, journal: Path | None = None, *, as_json: bool) -> int:
    """Bring a fleet up at the engine."""
    async with client(journal) as tp:
        session = tp.fleet(fleet)
        try:
            report, code = await _bring_up(tp, session)
        except asyncio.CancelledError:
            return await _interrupted(session, file, "up", as_json=as_json)
    if as_json:
        show_json(fleet_document(report))
        return code
    _show_up(report, fleet)
    show(f"This costs {money(report.hourly_cost)} per hour until: {_command('down', file)}")
    return code


async def emulate(fleet: Fleet, speed: float, *, as_json: bool) -> int:
    """Bring a fleet up at an emulator, destroy it, and show that nothing is left."""
    from tensorpool_async.cli.emulation import emulator_for  # half of all that there is to import

    try:
        async with AsyncExitStack() as stack:
            emulator = await stack.enter_async_context(emulator_for(fleet, speed))
            # A proxy of the environment does not lead back to this process.
            tp = await stack.enter_async_context(
                TensorPool(emulator.key, base_url=emulator.url, trust_env=False)
            )
            return await _emulate(tp, fleet, as_json=as_json)
    except asyncio.CancelledError:
        say("Interrupted. These clusters were emulated, and are gone with their emulator.")
        return INTERRUPTED


async def _emulate(tp: TensorPool, fleet: Fleet, *, as_json: bool) -> int:
    session = tp.fleet(fleet)
    report, up_code = await _bring_up(tp, session)
    if not as_json:
        _show_up(report, fleet)
        show(f"At the engine this would cost {money(report.hourly_cost)} per hour.")
        show("")
    gone, down_code = await _take_down(tp, session)
    left = await tp.clusters.list()
    if as_json:
        show_json(fleet_document(report, left=[cluster.name for cluster in left]))
    else:
        show(f"Destroyed {counted(len(gone.members), _noun(fleet))} in {gone.seconds:.1f} s.")
        rest = ", ".join(cluster.name or cluster.id for cluster in left) or "nothing is left"
        show(f"Asked what it still has, the engine lists {counted(len(left), 'cluster')}: {rest}.")
    return FAILED if left or up_code or down_code else DONE


async def down(fleet: Fleet, file: Path, journal: Path | None = None, *, as_json: bool) -> int:
    """Destroy a fleet at the engine."""
    async with client(journal, is_exit=True) as tp:
        session = tp.fleet(fleet)
        try:
            report, code = await _take_down(tp, session)
        except asyncio.CancelledError:
            return await _interrupted(session, file, "down", as_json=as_json)
        left = (await session.status()).existing
    if as_json:
        show_json(fleet_document(report, left=[member.name for member in left]))
        return code or (FAILED if left else DONE)
    if not report.members:
        show(f"There was nothing of {report.fleet} to destroy.")
    else:
        gone = [member for member in report.members if member.state == "DESTROYED"]
        show(f"Destroyed {counted(len(gone), _noun(fleet))} of {report.fleet} in {report.seconds:.1f} s.")
    if left:
        show(f"Left are {counted(len(left), _noun(fleet))}, {money(_cost_of(left))} per hour:")
        _show_members(left, brief=True)
    return code or (FAILED if left else DONE)


async def _bring_up(tp: TensorPool, session: FleetSession) -> tuple[FleetReport, int]:
    try:
        async with progress(f"{session.fleet.name} up", tp.statistics) as watch:
            return await session.up(on_event=watch), DONE
    except FleetIncomplete as error:
        _say_failures(error)
        return error.report, FAILED


async def _take_down(tp: TensorPool, session: FleetSession) -> tuple[FleetReport, int]:
    try:
        async with progress(f"{session.fleet.name} down", tp.statistics, by_id=True) as watch:
            return await session.down(on_event=watch), DONE
    except FleetIncomplete as error:
        _say_failures(error)
        return error.report, FAILED


def _say_failures(error: FleetIncomplete) -> None:
    """Tell what failed, the same reason once."""
    say(f"tpa: {error.message}", style="red")
    members: defaultdict[str, list[str]] = defaultdict(list)
    for member in error.report.failed:
        reason = (
            (member.error or "").replace(member.name, "…") if len(error.report.failed) > 1 else member.error
        )
        members[reason or ""].append(member.name)
    for reason, names in members.items():
        say(f"  {_named(names)}: {reason}", style="red")


def _named(names: list[str]) -> str:
    if len(names) <= 3:
        return ", ".join(names)
    return f"{names[0]}, {names[1]} and {len(names) - 2} more"


def _show_up(report: FleetReport, fleet: Fleet) -> None:
    _show_members(report.members)
    running = sum(member.state == "RUNNING" for member in report.members)
    together, alone = report.seconds, report.sequential_seconds
    show(
        f"{running} of {counted(len(report.members), _noun(fleet))} run, after {together:.1f} s.", apart=True
    )
    if alone:
        show(f"One after another they would have taken {alone:.1f} s, {alone / together:.1f} times as long.")
    show(
        f"{counted(report.requests, 'request')}, of which {report.rate_limited} were answered 429; "
        f"{report.retries} were sent again."
    )
    later = [member for member in report.members if len(member.tried) > 1 and member.state == "RUNNING"]
    if later:
        show(f"{len(later)} took a later preference, for lack of capacity.")


def _show_members(members: Iterable[MemberReport], *, brief: bool = False, error: bool = False) -> None:
    headings = ["NAME", "TYPE", "ID", "STATE", "IP", "SECONDS", "POLLS", "USD/H"]
    rows: list[list[str | int | None]] = [
        [
            member.name,
            member.instance_type,
            member.id,
            str(member.state),
            member.ip,
            seconds_cell(member.seconds),
            member.polls or None,
            rate_cell(member.hourly_rate),
        ]
        for member in members
    ]
    if brief:
        headings[5:7] = []
        rows = [row[:5] + row[7:] for row in rows]
    show_table(headings, rows, right=("SECONDS", "POLLS", "USD/H"), error=error)


async def _interrupted(session: FleetSession, file: Path, doing: str, *, as_json: bool) -> int:
    """Give an account of what is there after an interruption, by the engine's word if it can be had."""
    say("Interrupted. Asking the engine what there is …")
    report = session.report or FleetReport(fleet=session.fleet.name, members=())
    try:
        with anyio.fail_after(ASKING_TIME):
            there = (await session.status()).existing
    except (TensorPoolError, TimeoutError) as error:
        say(f"tpa: it could not be asked ({sentence(error)}); as far as is known:", style="red")
        there = report.existing
    if as_json:
        show_json(fleet_document(report, interrupted=True, left=[member.name for member in there]))
    if there:
        _show_members(there, brief=True, error=True)
    members = counted(len(there), _noun(session.fleet))
    say(f"{members} of {report.fleet}, running or on the way: {money(_cost_of(there))} per hour.")
    other = "up" if doing == "down" else "down"
    say(f"To go on:  {_command(doing, file)}")
    say(f"To {'keep them' if other == 'up' else 'destroy them'}:  {_command(other, file)}")
    return INTERRUPTED


def _cost_of(members: Iterable[MemberReport]) -> float | None:
    return FleetReport(fleet="", members=tuple(members)).hourly_cost


def _noun(fleet: Fleet) -> str:
    return "member" if fleet.volumes else "cluster"


def _command(name: str, file: Path) -> str:
    return f"tpa {name} {shlex.quote(str(file))}"
