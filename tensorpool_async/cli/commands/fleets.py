"""The commands for fleets: plan, up, down, status.

Each takes the fleet. Commands that can be interrupted also take the path of its file, for the command lines that they print.
"""

from __future__ import annotations

import asyncio
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Literal

import anyio

from tensorpool_async.cli.display import show_progress
from tensorpool_async.cli.documents import fleet_document, plan_document
from tensorpool_async.cli.exit_codes import ExitCode
from tensorpool_async.cli.journal_file import open_client
from tensorpool_async.cli.output import (
    format_price,
    pluralize,
    print_err,
    print_json,
    print_out,
    print_table,
    rate_cell,
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


INTERRUPTED_STATUS_TIMEOUT = 5.0
"""Seconds that the status request after an interruption may take."""

MARKS = {
    Action.CREATE: "+",
    Action.JOIN: "~",
    Action.REPLACE: "~",
    Action.AWAIT_DESTROY: "~",
    Action.KEEP: "=",
    Action.CONFLICT: "!",
    Action.SURPLUS: "*",
}
"""The marks of actions, in the first column of a plan."""
MARK_LABELS = {
    "+": "to create",
    "~": "to join or replace",
    "=": "to keep",
    "!": "in conflict",
    "*": "surplus, left unchanged",
}


async def plan(fleet: Fleet, *, as_json: bool) -> ExitCode:
    """Show what `tpa up` would do, and its cost."""
    async with TensorPool() as tp:
        planned = await tp.fleet(fleet).plan()
    refusal = _refusal(planned)
    if as_json:
        print_json(plan_document(planned, refusal))
    else:
        _print_plan(planned)
    for entry in planned.conflicts:
        print_err(f"tpa: {entry.problem}", style="red")
    if refusal:
        print_err(f"tpa: up would be refused: {refusal}", style="red")
    return ExitCode.FAILURE if refusal or planned.conflicts else ExitCode.SUCCESS


def _refusal(planned: Plan) -> str | None:
    try:
        check_budget(planned)
    except BudgetExceeded as error:
        return sentence(error)
    return None


def _print_plan(planned: Plan) -> None:
    entries = [*planned.members, *planned.surplus]
    print_table(
        ("", "NAME", "ACTION", "TYPE", "NODES", "ID", "USD/H"),
        [
            (
                MARKS[entry.action],
                entry.name,
                entry.action,
                entry.instance_type,
                entry.num_nodes,
                entry.resource_id,
                _rate_change_cell(entry),
            )
            for entry in entries
        ],
        right=("NODES", "USD/H"),
    )
    print_out(_mark_counts(entries), blank_before=True)
    now, after = planned.hourly_cost_now, planned.hourly_cost_after
    added = "" if now is None or after is None else f" + {format_price(after - now)}"
    limit = planned.max_hourly_cost
    ceiling = "" if limit is None else f"; at most {format_price(limit)} is allowed"
    print_out(f"{format_price(now)} per hour now{added}; {format_price(after)} after `up`{ceiling}")


def _rate_change_cell(entry: PlannedMember) -> str | None:
    rate = rate_cell(entry.hourly_rate)
    return f"+{rate}" if rate and entry.action.creates else rate


def _mark_counts(entries: Iterable[PlannedMember]) -> str:
    """Return the count of each mark, with its label."""
    counts = Counter(MARKS[entry.action] for entry in entries)
    return "   ".join(f"{mark} {counts[mark]} {label}" for mark, label in MARK_LABELS.items() if counts[mark])


async def status(fleet: Fleet, *, as_json: bool) -> ExitCode:
    """Show which members of a fleet exist."""
    async with TensorPool() as tp:
        report = await tp.fleet(fleet).status()
    if as_json:
        print_json(fleet_document(report))
        return ExitCode.SUCCESS
    _print_members(report.members, brief=True)
    print_out(
        f"{len(report.existing)} of {len(report.members)} exist; {format_price(report.hourly_cost)} per hour",
        blank_before=True,
    )
    return ExitCode.SUCCESS


async def up(fleet: Fleet, file: Path, journal: Path | None = None, *, as_json: bool) -> ExitCode:
    """Create the missing members of a fleet."""
    async with open_client(journal) as tp:
        session = tp.fleet(fleet)
        try:
            report, code = await _run(tp, session, "up")
        except asyncio.CancelledError:
            return await _report_interruption(session, file, "up", as_json=as_json)
    if as_json:
        print_json(fleet_document(report))
        return code
    _print_up(report, fleet)
    print_out(f"This costs {format_price(report.hourly_cost)} per hour until: {_tpa('down', file)}")
    return code


async def emulate(fleet: Fleet, speed: float, *, as_json: bool) -> ExitCode:
    """Create a fleet at an emulator, destroy it, and show that nothing is left."""
    from tensorpool_async.cli.commands.emulator import emulator_for  # slow to import, and rarely used

    try:
        async with AsyncExitStack() as stack:
            emulator = await stack.enter_async_context(emulator_for(fleet, speed))
            # A proxy from the environment cannot reach this process.
            tp = await stack.enter_async_context(
                TensorPool(emulator.key, base_url=emulator.url, trust_env=False)
            )
            return await _emulate(tp, fleet, as_json=as_json)
    except asyncio.CancelledError:
        print_err("Interrupted. The emulator and its clusters are gone; nothing was created at the engine.")
        return ExitCode.INTERRUPTED


async def _emulate(tp: TensorPool, fleet: Fleet, *, as_json: bool) -> ExitCode:
    session = tp.fleet(fleet)
    report, up_code = await _run(tp, session, "up")
    if not as_json:
        _print_up(report, fleet)
        print_out(f"At the engine this would cost {format_price(report.hourly_cost)} per hour.")
        print_out("")
    destroyed, down_code = await _run(tp, session, "down")
    left = await tp.clusters.list()
    if as_json:
        print_json(fleet_document(report, left=[cluster.name for cluster in left]))
    else:
        print_out(
            f"Destroyed {pluralize(len(destroyed.members), _noun(fleet))} in {destroyed.seconds:.1f} s."
        )
        names = ", ".join(cluster.name or cluster.id for cluster in left) or "nothing is left"
        print_out(f"The engine now lists {pluralize(len(left), 'cluster')}: {names}.")
    return ExitCode.FAILURE if left or up_code or down_code else ExitCode.SUCCESS


async def down(fleet: Fleet, file: Path, journal: Path | None = None, *, as_json: bool) -> ExitCode:
    """Destroy a fleet."""
    async with open_client(journal, only_destroys=True) as tp:
        session = tp.fleet(fleet)
        try:
            report, code = await _run(tp, session, "down")
        except asyncio.CancelledError:
            return await _report_interruption(session, file, "down", as_json=as_json)
        left = (await session.status()).existing
    code = ExitCode.FAILURE if left else code
    if as_json:
        print_json(fleet_document(report, left=[member.name for member in left]))
        return code
    if report.members:
        destroyed = pluralize(sum(member.state == "DESTROYED" for member in report.members), _noun(fleet))
        print_out(f"Destroyed {destroyed} of {report.fleet} in {report.seconds:.1f} s.")
    else:
        print_out(f"{report.fleet} has nothing to destroy.")
    if left:
        print_out(f"Still there: {pluralize(len(left), _noun(fleet))}, {_price_of(left)} per hour.")
        _print_members(left, brief=True)
    return code


async def _run(
    tp: TensorPool, session: FleetSession, command: Literal["up", "down"]
) -> tuple[FleetReport, ExitCode]:
    """Run a command of a session with its progress on standard error, and print the members that fail."""
    run = session.up if command == "up" else session.down
    title = f"{session.fleet.name} {command}"
    try:
        async with show_progress(title, tp.statistics, by_id=command == "down") as on_event:
            return await run(on_event=on_event), ExitCode.SUCCESS
    except FleetIncomplete as error:
        _print_failures(error)
        return error.report, ExitCode.FAILURE


def _print_failures(error: FleetIncomplete) -> None:
    """Print the failed members, grouped by their reason."""
    print_err(f"tpa: {error.message}", style="red")
    failed = error.report.failed
    names_by_reason: defaultdict[str, list[str]] = defaultdict(list)
    for member in failed:
        reason = member.error or ""
        names_by_reason[reason.replace(member.name, "…") if len(failed) > 1 else reason].append(member.name)
    for reason, names in names_by_reason.items():
        print_err(f"  {_join_names(names)}: {reason}", style="red")


def _join_names(names: list[str]) -> str:
    if len(names) <= 3:
        return ", ".join(names)
    return f"{names[0]}, {names[1]} and {len(names) - 2} more"


def _print_up(report: FleetReport, fleet: Fleet) -> None:
    _print_members(report.members)
    running = sum(member.state == "RUNNING" for member in report.members)
    seconds, sequential = report.seconds, report.sequential_seconds
    members = pluralize(len(report.members), _noun(fleet))
    print_out(f"{running} of {members} running after {seconds:.1f} s.", blank_before=True)
    if sequential:
        print_out(
            f"One at a time this would have taken {sequential:.1f} s, {sequential / seconds:.1f} times as long."
        )
    print_out(
        f"{pluralize(report.requests, 'request')}, {report.rate_limited} answered with 429, "
        f"{report.retries} retried."
    )
    fallbacks = sum(len(member.tried) > 1 and member.state == "RUNNING" for member in report.members)
    if fallbacks:
        print_out(f"{fallbacks} with a fallback instance type, because of missing capacity.")


def _print_members(members: Iterable[MemberReport], *, brief: bool = False, error: bool = False) -> None:
    headings = ["NAME", "TYPE", "ID", "STATE", "IP", "SECONDS", "POLLS", "USD/H"]
    rows: list[list[str | int | None]] = [
        [
            member.name,
            member.instance_type,
            member.id,
            str(member.state),
            member.ip,
            f"{member.seconds:.1f}" if member.seconds else None,
            member.polls or None,
            rate_cell(member.hourly_rate),
        ]
        for member in members
    ]
    if brief:
        headings[5:7] = []
        rows = [row[:5] + row[7:] for row in rows]
    print_table(headings, rows, right=("SECONDS", "POLLS", "USD/H"), error=error)


async def _report_interruption(session: FleetSession, file: Path, command: str, *, as_json: bool) -> ExitCode:
    """Print what exists after an interruption: as listed by the engine, otherwise by the events so far."""
    print_err("Interrupted. Listing what exists at the engine …")
    report = session.report or FleetReport(fleet=session.fleet.name, members=())
    try:
        with anyio.fail_after(INTERRUPTED_STATUS_TIMEOUT):
            existing = (await session.status()).existing
    except (TensorPoolError, TimeoutError) as error:
        print_err(f"tpa: listing failed ({sentence(error)}); the last known state:", style="red")
        existing = report.existing
    if as_json:
        print_json(fleet_document(report, interrupted=True, left=[member.name for member in existing]))
    if existing:
        _print_members(existing, brief=True, error=True)
    members = pluralize(len(existing), _noun(session.fleet))
    print_err(f"{members} of {report.fleet}, running or in transition: {_price_of(existing)} per hour.")
    opposite, purpose = ("up", "keep") if command == "down" else ("down", "destroy")
    print_err(f"To continue:  {_tpa(command, file)}")
    print_err(f"To {purpose} them:  {_tpa(opposite, file)}")
    return ExitCode.INTERRUPTED


def _price_of(members: Iterable[MemberReport]) -> str:
    return format_price(FleetReport(fleet="", members=tuple(members)).hourly_cost)


def _noun(fleet: Fleet) -> str:
    return "member" if fleet.volumes else "cluster"


def _tpa(command: str, file: Path) -> str:
    return f"tpa {command} {shlex.quote(str(file))}"
