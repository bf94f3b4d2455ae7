"""The command watch: shows a fleet until it is interrupted, or an operation until it ends."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path

import attrs
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from tensorpool_async.cli.commands.clusters import wait
from tensorpool_async.cli.display import LOADING
from tensorpool_async.cli.exit_codes import ExitCode
from tensorpool_async.cli.output import (
    format_price,
    make_console,
    make_table,
    print_err,
    print_json_line,
    print_out,
    rate_cell,
    supports_live_display,
)
from tensorpool_async.client import TensorPool
from tensorpool_async.errors import AuthenticationError, ConfigurationError, PermissionDenied, TensorPoolError
from tensorpool_async.fleet import Fleet, FleetReport, FleetSession, MemberReport, load
from tensorpool_async.fleet.progress import sentence
from tensorpool_async.texts import clean


RESERVED_LINES = 6
"""Lines of the terminal that do not show members."""
SETTLED_STATES = {"RUNNING", "READY", "ABSENT"}
"""States that do not change by themselves; such members are left out first."""

OnReport = Callable[[FleetReport], None]
OnError = Callable[[str], None]


def watch(target: str, interval: float, *, as_json: bool) -> Coroutine[None, None, ExitCode]:
    """Return the coroutine that watches a fleet or waits for an operation.

    Args:
        target: A fleet file, or the request id or token of an operation.
        interval: Seconds between two status requests for a fleet.
        as_json: Print JSON.

    Raises:
        FleetFileError: The fleet file has a mistake.
    """
    path = Path(target)
    if path.suffix == ".toml" or path.is_file():
        return watch_fleet(load(path), interval, as_json=as_json)
    return wait(target, None, as_json=as_json)


async def watch_fleet(fleet: Fleet, interval: float, *, as_json: bool) -> ExitCode:
    """Show a fleet until this is cancelled."""
    async with TensorPool() as tp:
        session = tp.fleet(fleet)
        try:
            if as_json or not supports_live_display(sys.stdout):
                await _poll(session, interval, ChangePrinter(as_json=as_json).update, _print_error)
            else:
                await _show_live(session, interval)
        except asyncio.CancelledError:
            print_err("Stopped watching. Nothing was changed.")
    return ExitCode.INTERRUPTED


async def _poll(session: FleetSession, interval: float, on_report: OnReport, on_error: OnError) -> None:
    """Request the status until this is cancelled. An error is raised if it is the first answer, or if retrying cannot help."""
    on_report(await session.status())
    while True:
        await asyncio.sleep(interval)
        try:
            on_report(await session.status())
        except (AuthenticationError, PermissionDenied, ConfigurationError):
            raise
        except TensorPoolError as error:
            on_error(sentence(error))


def _print_error(problem: str) -> None:
    print_err(f"tpa: the status request failed and is repeated: {problem}", style="yellow")


@attrs.define
class ChangePrinter:
    """Prints a line to standard output for each member that changes.

    Attributes:
        as_json: Print JSON lines.
        known: The latest report of each member.
    """

    as_json: bool
    known: dict[str, MemberReport] = attrs.field(factory=dict[str, MemberReport])

    def update(self, report: FleetReport) -> None:
        """Print the members that differ from the previous report."""
        current = {member.id or member.name: member for member in report.members}
        for key, member in current.items():
            if self.known.get(key) != member:
                self._print(member)
        for key in self.known.keys() - current.keys():
            # The name of a deleted cluster may still be in the report, for an absent or a new member.
            self._print(attrs.evolve(self.known[key], state="GONE", ip=None, hourly_rate=None))
        self.known = current

    def _print(self, member: MemberReport) -> None:
        if self.as_json:
            document = {
                "time": round(time.time(), 3),
                "name": member.name,
                "group": member.group,
                "state": str(member.state),
                "id": member.id,
                "instance_type": member.instance_type,
                "ip": member.ip,
                "hourly_rate": member.hourly_rate,
            }
            print_json_line(document)
            return
        values = (member.instance_type, member.id, member.ip)
        details = "  ".join(value for value in values if value)
        state = str(member.state).lower()
        print_out(f"{time.strftime('%H:%M:%S')}  {member.name}  {state}  {details}".rstrip())


async def _show_live(session: FleetSession, interval: float) -> None:
    """Show the fleet in a live display on standard output."""
    console = make_console()
    table = _FleetTable(session.fleet.name, interval)
    with Live(console=console, get_renderable=lambda: table.render(console), auto_refresh=False) as live:

        def on_report(report: FleetReport) -> None:
            table.update(report)
            live.refresh()

        def on_error(problem: str) -> None:
            table.problem = problem
            live.refresh()

        await _poll(session, interval, on_report, on_error)


class _FleetTable:
    """The live display of a fleet: the latest report, and the error of the last status request if it failed."""

    def __init__(self, title: str, interval: float) -> None:
        self._title = title
        self._interval = interval
        self._report: FleetReport | None = None
        self._updated_at = ""
        self.problem = ""

    def update(self, report: FleetReport) -> None:
        """Replace the report."""
        self._report = report
        self._updated_at = time.strftime("%H:%M:%S")
        self.problem = ""

    def render(self, console: Console) -> RenderableType:
        """Render the report within the size of the console."""
        if self._report is None:
            return Text(LOADING, style="dim")
        return Group(
            self._header(self._report),
            Text(),
            *self._members(self._report.members, console),
            self._footer(),
        )

    def _header(self, report: FleetReport) -> Text:
        existing = f"{len(report.existing)} of {len(report.members)} exist"
        return Text.assemble(
            (clean(self._title), "bold"),
            f"  at {self._updated_at}  {existing}; {format_price(report.hourly_cost)} per hour",
            no_wrap=True,
            overflow="ellipsis",
        )

    def _members(self, members: Sequence[MemberReport], console: Console) -> list[RenderableType]:
        # If not all members fit, members in transition are shown first.
        limit = max(1, console.height - RESERVED_LINES)
        chosen = sorted(members, key=lambda member: str(member.state) in SETTLED_STATES)[:limit]
        shown = [member for member in members if member in chosen]
        rows = [
            (
                member.name,
                member.instance_type,
                member.id,
                member.state,
                member.ip,
                rate_cell(member.hourly_rate),
            )
            for member in shown
        ]
        headings = ("NAME", "TYPE", "ID", "STATE", "IP", "USD/H")
        table = make_table(headings, rows, right=("USD/H",), width=console.width)
        hidden = len(members) - len(shown)
        return [table, Text(f"… and {hidden} more", style="dim")] if hidden else [table]

    def _footer(self) -> Text:
        if self.problem:
            return Text(
                clean(f"the last status request failed: {self.problem}"), style="yellow", no_wrap=True
            )
        return Text(f"updated every {self._interval:g} s; Ctrl-C stops watching", style="dim")
