"""The command watch: follows a fleet until it is interrupted, or an operation until its end."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path

import attrs
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from tensorpool_async.cli import INTERRUPTED, clusters
from tensorpool_async.cli.printing import console, is_live, money, rate_cell, say, show, show_json_line, table
from tensorpool_async.client import TensorPool
from tensorpool_async.errors import AuthenticationError, ConfigurationError, PermissionDenied, TensorPoolError
from tensorpool_async.fleet import Fleet, FleetReport, FleetSession, MemberReport, load
from tensorpool_async.fleet.progress import sentence
from tensorpool_async.texts import clean


ROOM = 6
"""Lines of the screen that are not for members."""
SETTLED = {"RUNNING", "READY", "ABSENT"}
"""States of members that need no watching."""

Take = Callable[[FleetReport], None]


def watch(what: str, every: float, *, as_json: bool) -> Coroutine[None, None, int]:
    """Follow a fleet, by its file, or an operation, by its request id or token.

    Raises:
        FleetFileError: The file has a mistake.
    """
    path = Path(what)
    if path.suffix == ".toml" or path.is_file():
        return watch_fleet(load(path), every, as_json=as_json)
    return clusters.wait(what, None, as_json=as_json)


async def watch_fleet(fleet: Fleet, every: float, *, as_json: bool) -> int:
    """Follow a fleet until this is cancelled."""
    async with TensorPool() as tp:
        session = tp.fleet(fleet)
        try:
            if as_json or not is_live(sys.stdout):
                await _follow(session, every, Changes(as_json=as_json).take)
            else:
                await _draw(session, every)
        except asyncio.CancelledError:
            say("Stopped watching. Nothing was changed.")
    return INTERRUPTED


async def _follow(
    session: FleetSession, every: float, take: Take, fails: Callable[[str], None] | None = None
) -> None:
    """Ask again and again; what fails now may work the next time, except where the key is refused."""
    take(await session.status())
    while True:
        await asyncio.sleep(every)
        try:
            take(await session.status())
        except (AuthenticationError, PermissionDenied, ConfigurationError):
            raise
        except TensorPoolError as error:
            (fails or _say_failure)(sentence(error))


def _say_failure(problem: str) -> None:
    say(f"tpa: the engine could not be asked, and will be again: {problem}", style="yellow")


@attrs.define
class Changes:
    """A line for each change, on standard output."""

    as_json: bool
    known: dict[str, MemberReport] = attrs.field(factory=dict[str, MemberReport])

    def take(self, report: FleetReport) -> None:
        """Print what is new."""
        now = {member.id or member.name: member for member in report.members}
        for key, member in now.items():
            if self.known.get(key) != member:
                self._print(member)
        for key in self.known.keys() - now.keys():
            # Of a cluster that is gone its name may be there still, as that of an absent or of a new one.
            self._print(attrs.evolve(self.known[key], state="GONE", ip=None, hourly_rate=None))
        self.known = now

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
            show_json_line(document)
            return
        facts = (member.instance_type, member.id, member.ip)
        told = "  ".join(fact for fact in facts if fact)
        show(f"{time.strftime('%H:%M:%S')}  {member.name}  {str(member.state).lower()}  {told}".rstrip())


async def _draw(session: FleetSession, every: float) -> None:
    """Keep a picture of the fleet on the terminal."""
    out = console()
    picture = _Picture(session.fleet.name, every)
    with Live(console=out, get_renderable=lambda: picture.draw(out.height), auto_refresh=False) as live:

        def take(report: FleetReport) -> None:
            picture.show(report)
            live.refresh()

        def fails(problem: str) -> None:
            picture.problem = problem
            live.refresh()

        await _follow(session, every, take, fails)


class _Picture:
    """The fleet as the engine last told it."""

    def __init__(self, title: str, every: float) -> None:
        self._title = title
        self._every = every
        self._report: FleetReport | None = None
        self._asked = ""
        self.problem = ""

    def show(self, report: FleetReport) -> None:
        """Take what the engine has told."""
        self._report = report
        self._asked = time.strftime("%H:%M:%S")
        self.problem = ""

    def draw(self, height: int) -> RenderableType:
        """Draw it, within so many lines."""
        if self._report is None:
            return Text("asking the engine what there is", style="dim")
        return Group(
            self._headline(self._report),
            Text(),
            *self._members(self._report.members, height),
            self._footline(),
        )

    def _headline(self, report: FleetReport) -> Text:
        there = f"{len(report.existing)} of {len(report.members)} exist; {money(report.hourly_cost)} per hour"
        return Text.assemble(
            (clean(self._title), "bold"), f"  at {self._asked}  {there}", no_wrap=True, overflow="ellipsis"
        )

    def _members(self, members: Sequence[MemberReport], height: int) -> list[RenderableType]:
        # Where not all fit, those that are on their way go first.
        room = max(1, height - ROOM)
        chosen = sorted(members, key=lambda member: str(member.state) in SETTLED)[:room]
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
        drawn = table(headings, rows, right=("USD/H",), width=console().width)
        more = len(members) - len(shown)
        return [drawn, Text(f"… and {more} more", style="dim")] if more else [drawn]

    def _footline(self) -> Text:
        if self.problem:
            return Text(clean(f"the engine could not be asked: {self.problem}"), style="yellow", no_wrap=True)
        return Text(f"asked every {self._every:g} s; Ctrl-C ends it, and changes nothing", style="dim")
