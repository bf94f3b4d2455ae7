"""Progress on standard error: a live display on a terminal, plain lines where there is none."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tensorpool_async.cli.printing import STYLES, console, is_live, money
from tensorpool_async.cli.progress import WORDS, Board, Line
from tensorpool_async.client import Statistics
from tensorpool_async.events import FleetMemberChanged
from tensorpool_async.fleet import MemberState
from tensorpool_async.texts import clean


PERIOD = 0.125
"""Seconds between two pictures of the live display."""
SLOWEST = 4
"""How many of the members that are not done are named."""

Watch = Callable[[FleetMemberChanged], object]


@asynccontextmanager
async def progress(
    title: str, statistics: Callable[[], Statistics], *, by_id: bool = False
) -> AsyncGenerator[Watch]:
    """Show how a fleet gets on, for the body of an `async with`.

    Args:
        title: What is being done.
        statistics: What the client has done so far.
        by_id: As for `Board`.

    Yields:
        What is to be called with each event.
    """
    out = console(error=True)
    board = Board(by_id)
    if not is_live(sys.stderr):
        yield _Lines(board, out).take
        return
    async with _live(_Picture(title, board, statistics).draw):
        yield board.take


@asynccontextmanager
async def waiting(what: str) -> AsyncGenerator[None]:
    """Show on a terminal that something is waited for, and since when; elsewhere nothing."""
    if not is_live(sys.stderr):
        yield
        return
    began = time.monotonic()

    def draw() -> Text:
        return Text(f"{time.monotonic() - began:7.1f} s  {clean(what)}", style="dim", no_wrap=True)

    async with _live(draw):
        yield


@asynccontextmanager
async def _live(draw: Callable[[], RenderableType]) -> AsyncGenerator[None]:
    """Draw a picture on standard error again and again, and take it away at the end."""
    with Live(console=console(error=True), get_renderable=draw, auto_refresh=False, transient=True) as live:
        ticking = asyncio.create_task(_tick(live))
        try:
            yield
        finally:
            ticking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ticking


async def _tick(live: Live) -> None:
    while True:
        live.refresh()
        await asyncio.sleep(PERIOD)


class _Lines:
    """A line for each change that matters."""

    def __init__(self, board: Board, out: Console) -> None:
        self._board = board
        self._out = out
        self._width = 0

    def take(self, event: FleetMemberChanged) -> None:
        is_news = self._board.take(event)
        if not is_news or (event.state == MemberState.DESTROYING and not event.message):
            return
        self._width = max(self._width, len(event.member))
        word = WORDS.get(event.state, event.state.lower())
        what = " ".join(part for part in (event.instance_type, event.resource_id) if part)
        line = (
            f"{event.seconds:7.1f} s  {event.member:<{self._width}}  {word:<11}  {what:<22}  {event.message}"
        )
        self._out.print(Text(clean(line.rstrip())), soft_wrap=True)


class _Picture:
    """The live display: a headline, a line for each group, the slowest members, the requests."""

    def __init__(self, title: str, board: Board, statistics: Callable[[], Statistics]) -> None:
        self._title = title
        self._board = board
        self._statistics = statistics
        self._began = time.monotonic()

    def draw(self) -> RenderableType:
        return Group(self._headline(), self._groups(), *self._slowest(), self._footline())

    def _headline(self) -> Text:
        board = self._board
        standing = (
            f"{board.done} of {board.size}  {money(board.rate_so_far)} per hour {'still' if board.by_id else 'so far'}"
            if board.size
            else "asking the engine what there is"
        )
        return Text.assemble(
            (clean(self._title), "bold"),
            f"  {time.monotonic() - self._began:.1f} s  {standing}",
            no_wrap=True,
            overflow="ellipsis",
        )

    def _groups(self) -> Table:
        lines = self._board.lines
        rows = [
            (f"  {clean(line.group)}", _bar(line), f"{line.done}/{line.size}", _states(line))
            for line in lines
        ]
        grid = Table.grid(padding=(0, 2, 0, 0))
        # Where the room does not suffice, only the last column gives way.
        grid.add_column(no_wrap=True, min_width=max((len(row[0]) for row in rows), default=0))
        grid.add_column(width=24)
        grid.add_column(
            no_wrap=True, min_width=max((len(row[2]) for row in rows), default=0), justify="right"
        )
        grid.add_column(no_wrap=True, overflow="ellipsis")
        for row in rows:
            grid.add_row(*row)
        return grid

    def _slowest(self) -> list[Text]:
        events = self._board.slowest(SLOWEST)
        member_width = max((len(event.member) for event in events), default=0)
        type_width = max((len(event.instance_type or "") for event in events), default=0)
        elapsed = time.monotonic() - self._began
        lines = [
            Text.assemble(
                clean(f"  {event.member:<{member_width}}  {event.instance_type or '':<{type_width}}  "),
                f"{max(0.0, elapsed - event.seconds):5.0f} s  ",
                (clean(event.message) or WORDS.get(event.state, ""), "dim"),
                no_wrap=True,
                overflow="ellipsis",
            )
            for event in events
        ]
        return [Text("open, and without news for longest", style="dim"), *lines] if lines else []

    def _footline(self) -> Text:
        now = self._statistics()
        pause = now.limiter.paused_for
        paused = f", paused for {pause:.1f} s" if pause >= 0.05 else ""
        text = f"{now.requests} requests, {now.rate_limited} x 429, {now.retries} retries{paused}"
        return Text(text, style="dim", no_wrap=True, overflow="ellipsis")


def _bar(line: Line) -> ProgressBar:
    style = "red" if line.failed else "green"
    return ProgressBar(
        total=line.size, completed=line.done, width=24, complete_style=style, finished_style=style
    )


def _states(line: Line) -> Text:
    parts = [(f"{count} {word}", STYLES.get(_state_of(word), "")) for word, count in line.states]
    text = Text(no_wrap=True, overflow="ellipsis")
    for index, (part, style) in enumerate(parts):
        text.append(", " if index else "")
        text.append(part, style)
    return text


def _state_of(word: str) -> str:
    return next((str(state) for state, its_word in WORDS.items() if its_word == word), "")
