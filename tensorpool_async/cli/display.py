"""The progress of a fleet or an operation on standard error: a live display on a terminal, otherwise plain lines."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import attrs
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tensorpool_async.cli.output import STYLES, format_price, make_console, supports_live_display
from tensorpool_async.client import Statistics
from tensorpool_async.events import FleetMemberChanged
from tensorpool_async.fleet import MemberState
from tensorpool_async.texts import clean


REFRESH_INTERVAL = 0.125
"""Seconds between two refreshes of the live display."""
MAX_LISTED = 4
"""How many unfinished members the live display names."""

MEMBER_STATE_LABELS: dict[str, str] = {
    MemberState.WAITING: "waiting",
    MemberState.CLEARING: "making room",
    MemberState.CREATING: "creating",
    MemberState.RUNNING: "running",
    MemberState.FAILED: "failed",
    MemberState.DESTROYING: "destroying",
    MemberState.DESTROYED: "destroyed",
    MemberState.ABSENT: "absent",
}
"""The labels of the states, in the order in which the live display shows them."""

LOADING = "listing what exists at the engine"
"""Shown until the first answer of the engine."""


@attrs.frozen
class GroupProgress:
    """How many members of a group are done, have failed, and are in each state."""

    group: str
    done: int
    failed: int
    size: int
    states: tuple[tuple[str, int], ...]
    """Each state that occurs, with the count of its members."""


@attrs.define
class ProgressBoard:
    """The latest event of each member of a fleet.

    Attributes:
        by_id: Whether a member is identified by the id of its cluster rather than by its name. `tpa down` may destroy
            two clusters of one name; `tpa up` may create several clusters in turn for one member.
        latest: The latest event of each member.
    """

    by_id: bool = False
    latest: dict[str, FleetMemberChanged] = attrs.field(factory=dict[str, FleetMemberChanged])

    def update(self, event: FleetMemberChanged) -> bool:
        """Record an event; return whether it changes the state or the instance type, and not only the message."""
        key = event.resource_id or event.member if self.by_id else event.member
        before = self.latest.get(key)
        self.latest[key] = event
        if before is None:
            return event.state != MemberState.WAITING
        return (before.state, before.instance_type) != (event.state, event.instance_type)

    @property
    def size(self) -> int:
        """The count of members."""
        return len(self.latest)

    @property
    def done(self) -> int:
        """The count of members that are done."""
        return sum(is_done(event) for event in self.latest.values())

    @property
    def hourly_cost(self) -> float:
        """The cost of all clusters that exist, in USD per hour; a cluster without a price counts as 0."""
        existing = (
            event
            for event in self.latest.values()
            if event.resource_id and event.state != MemberState.DESTROYED
        )
        return sum(event.hourly_rate or 0.0 for event in existing)

    @property
    def groups(self) -> list[GroupProgress]:
        """The progress of each group, in the order of their first events."""
        names = dict.fromkeys(event.group for event in self.latest.values())
        return [self._group(name) for name in names]

    def _group(self, name: str) -> GroupProgress:
        events = [event for event in self.latest.values() if event.group == name]
        counts = Counter(event.state for event in events)
        states = tuple((str(state), counts[state]) for state in MEMBER_STATE_LABELS if counts[state])
        return GroupProgress(name, sum(map(is_done, events)), counts[MemberState.FAILED], len(events), states)

    def stalest(self, count: int) -> list[FleetMemberChanged]:
        """Return the latest events of at most `count` members in progress, the oldest event first."""
        in_progress = (
            event
            for event in self.latest.values()
            if not MemberState(event.state).is_final and event.state != MemberState.WAITING
        )
        return sorted(in_progress, key=lambda event: event.seconds)[:count]


def is_done(event: FleetMemberChanged) -> bool:
    """Whether a member has reached the state that the command is to bring about."""
    return event.state in {MemberState.RUNNING, MemberState.DESTROYED}


OnEvent = Callable[[FleetMemberChanged], object]


@asynccontextmanager
async def show_progress(
    title: str, statistics: Callable[[], Statistics], *, by_id: bool = False
) -> AsyncGenerator[OnEvent]:
    """Show the progress of a fleet for the body of an `async with`.

    Args:
        title: The title of the live display.
        statistics: Returns the counters of the client.
        by_id: As for `ProgressBoard`.

    Yields:
        A function that takes each event of the fleet.
    """
    board = ProgressBoard(by_id)
    if not supports_live_display(sys.stderr):
        yield _LinePrinter(board, make_console(error=True)).update
        return
    async with _live_display(_FleetDisplay(title, board, statistics).render):
        yield board.update


@asynccontextmanager
async def show_elapsed(label: str) -> AsyncGenerator[None]:
    """Show a label and the elapsed seconds on a terminal, for the body of an `async with`; elsewhere nothing."""
    if not supports_live_display(sys.stderr):
        yield
        return
    started = time.monotonic()

    def render() -> Text:
        return Text(f"{time.monotonic() - started:7.1f} s  {clean(label)}", style="dim", no_wrap=True)

    async with _live_display(render):
        yield


@asynccontextmanager
async def _live_display(render: Callable[[], RenderableType]) -> AsyncGenerator[None]:
    """Refresh a live display on standard error until the body ends, then erase it."""
    with Live(
        console=make_console(error=True), get_renderable=render, auto_refresh=False, transient=True
    ) as live:
        refreshing = asyncio.create_task(_refresh_forever(live))
        try:
            yield
        finally:
            refreshing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await refreshing


async def _refresh_forever(live: Live) -> None:
    while True:
        live.refresh()
        await asyncio.sleep(REFRESH_INTERVAL)


class _LinePrinter:
    """Prints a line for each notable event."""

    def __init__(self, board: ProgressBoard, console: Console) -> None:
        self._board = board
        self._console = console
        self._name_width = 0

    def update(self, event: FleetMemberChanged) -> None:
        is_notable = self._board.update(event)
        if not is_notable or (event.state == MemberState.DESTROYING and not event.message):
            return
        self._name_width = max(self._name_width, len(event.member))
        label = MEMBER_STATE_LABELS.get(event.state, event.state.lower())
        resource = " ".join(part for part in (event.instance_type, event.resource_id) if part)
        line = (
            f"{event.seconds:7.1f} s  {event.member:<{self._name_width}}  {label:<11}  {resource:<22}  "
            f"{event.message}"
        )
        self._console.print(Text(clean(line.rstrip())), soft_wrap=True)


class _FleetDisplay:
    """The live display: a header, a row for each group, the stalest members, the request counters."""

    def __init__(self, title: str, board: ProgressBoard, statistics: Callable[[], Statistics]) -> None:
        self._title = title
        self._board = board
        self._statistics = statistics
        self._started = time.monotonic()

    def render(self) -> RenderableType:
        return Group(self._header(), self._groups(), *self._stalest(), self._footer())

    def _header(self) -> Text:
        board = self._board
        status = (
            f"{board.done} of {board.size}  {format_price(board.hourly_cost)} per hour "
            f"{'still' if board.by_id else 'so far'}"
            if board.size
            else LOADING
        )
        return Text.assemble(
            (clean(self._title), "bold"),
            f"  {time.monotonic() - self._started:.1f} s  {status}",
            no_wrap=True,
            overflow="ellipsis",
        )

    def _groups(self) -> Table:
        rows = [
            (f"  {clean(group.group)}", _bar(group), f"{group.done}/{group.size}", _states(group))
            for group in self._board.groups
        ]
        grid = Table.grid(padding=(0, 2, 0, 0))
        # On a narrow terminal only the last column is cut.
        grid.add_column(no_wrap=True, min_width=max((len(row[0]) for row in rows), default=0))
        grid.add_column(width=24)
        grid.add_column(
            no_wrap=True, min_width=max((len(row[2]) for row in rows), default=0), justify="right"
        )
        grid.add_column(no_wrap=True, overflow="ellipsis")
        for row in rows:
            grid.add_row(*row)
        return grid

    def _stalest(self) -> list[Text]:
        events = self._board.stalest(MAX_LISTED)
        member_width = max((len(event.member) for event in events), default=0)
        type_width = max((len(event.instance_type or "") for event in events), default=0)
        elapsed = time.monotonic() - self._started
        lines = [
            Text.assemble(
                clean(f"  {event.member:<{member_width}}  {event.instance_type or '':<{type_width}}  "),
                f"{max(0.0, elapsed - event.seconds):5.0f} s  ",
                (clean(event.message) or MEMBER_STATE_LABELS.get(event.state, ""), "dim"),
                no_wrap=True,
                overflow="ellipsis",
            )
            for event in events
        ]
        return [Text("in progress, longest without an update", style="dim"), *lines] if lines else []

    def _footer(self) -> Text:
        counters = self._statistics()
        pause = counters.limiter.paused_for
        paused = f", paused for {pause:.1f} s" if pause >= 0.05 else ""
        text = (
            f"{counters.requests} requests, {counters.rate_limited} x 429, {counters.retries} retries{paused}"
        )
        return Text(text, style="dim", no_wrap=True, overflow="ellipsis")


def _bar(group: GroupProgress) -> ProgressBar:
    style = "red" if group.failed else "green"
    return ProgressBar(
        total=group.size, completed=group.done, width=24, complete_style=style, finished_style=style
    )


def _states(group: GroupProgress) -> Text:
    labels = [
        Text(f"{count} {MEMBER_STATE_LABELS[state]}", STYLES.get(state, "")) for state, count in group.states
    ]
    text = Text(", ").join(labels)
    text.no_wrap, text.overflow = True, "ellipsis"
    return text
