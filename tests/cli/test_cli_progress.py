"""The board of a fleet's progress, and how it is shown on a terminal and elsewhere."""

from __future__ import annotations

import asyncio
import io
import re

import pytest

from tensorpool_async import TensorPool
from tensorpool_async.cli.display import progress
from tensorpool_async.cli.emulation import short_capacity, tight_rate_limit
from tensorpool_async.cli.printing import counted, money, say, show, show_table
from tensorpool_async.cli.progress import Board
from tensorpool_async.events import FleetMemberChanged
from tensorpool_async.fleet import ClusterGroup, Fleet
from tensorpool_async.texts import clean


def event(member: str, state: str, seconds: float = 0.0, **more: str | float | None) -> FleetMemberChanged:
    group = member.split("-")[1]
    fields: dict[str, str | float | None] = {"instance_type": "1xH100", **more}
    return FleetMemberChanged(
        fleet="s",
        member=member,
        group=group,
        state=state,
        seconds=seconds,
        **fields,  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    )


def board_of(*events: FleetMemberChanged, by_id: bool = False) -> Board:
    board = Board(by_id)
    for item in events:
        board.take(item)
    return board


def test_a_board_counts_by_group_and_state() -> None:
    board = board_of(
        event("s-a-0", "WAITING"),
        event("s-a-1", "WAITING"),
        event("s-b-0", "WAITING"),
        event("s-b-1", "WAITING"),
        event("s-a-0", "CREATING"),
        event("s-a-0", "RUNNING"),
        event("s-a-1", "CLEARING"),
        event("s-b-0", "FAILED"),
    )
    first, second = board.lines
    assert (first.group, first.done, first.failed, first.size) == ("a", 1, 0, 2)
    assert first.states == (("making room", 1), ("running", 1))
    assert (second.group, second.done, second.failed, second.size) == ("b", 0, 1, 2)
    assert (board.done, board.size) == (1, 4)


def test_what_is_only_said_is_no_news() -> None:
    board = Board()
    taken = [
        board.take(event("s-a-0", "WAITING")),
        board.take(event("s-a-0", "CREATING")),
        board.take(event("s-a-0", "CREATING", message="Provisioning")),
        board.take(event("s-a-0", "CREATING", instance_type="8xH200")),
        board.take(event("s-a-0", "RUNNING", instance_type="8xH200")),
    ]
    assert taken == [False, True, False, True, True]


def test_the_price_so_far_counts_what_was_accepted() -> None:
    board = board_of(
        event("s-a-0", "CREATING", hourly_rate=5.0),
        event("s-a-1", "CREATING", hourly_rate=5.0, resource_id="c-1"),
        event("s-a-2", "RUNNING", hourly_rate=7.0, resource_id="c-2"),
        event("s-a-3", "RUNNING", resource_id="c-3"),
    )
    assert board.rate_so_far == 12.0


def test_on_the_way_down_two_of_one_name_are_two() -> None:
    board = board_of(
        event("s-a-0", "DESTROYING", resource_id="c-1", hourly_rate=5.0),
        event("s-a-0", "DESTROYING", resource_id="c-2", hourly_rate=5.0),
        event("s-a-0", "DESTROYED", resource_id="c-1"),
        by_id=True,
    )
    assert (board.size, board.done, board.rate_so_far) == (2, 1, 5.0)


def test_the_slowest_are_those_without_news_for_longest() -> None:
    board = board_of(
        event("s-a-0", "CREATING", 3.0),
        event("s-a-1", "CREATING", 1.0),
        event("s-a-2", "RUNNING", 0.5),
        event("s-a-3", "WAITING", 0.0),
        event("s-a-4", "CLEARING", 2.0),
    )
    assert [item.member for item in board.slowest(2)] == ["s-a-1", "s-a-4"]


class Terminal(io.StringIO):
    """A screen of 80 columns that is not there."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    screen = Terminal()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "40")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return screen


EVENTS = (
    event("s-train-0", "RUNNING", 1.0, resource_id="c-1", hourly_rate=39.92),
    event(
        "s-train-1",
        "CLEARING",
        2.0,
        message="No capacity for 8xB200\x1b[2J, try another type or later or never",
    ),
    event("s-eval-0", "FAILED", 2.0, message="no"),
)


async def shown_live(screen: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "sys.stderr", screen
    )  # here, since pytest sets its own between a fixture and its test
    async with TensorPool("key") as tp, progress("s up", tp.statistics) as watch:
        await asyncio.sleep(0.2)
        for item in EVENTS:
            watch(item)
        await asyncio.sleep(0.3)


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


async def test_a_terminal_shows_groups_bars_and_the_slowest(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shown_live(terminal, monkeypatch)
    screen = plain(terminal.getvalue())
    assert "asking the engine what there is" in screen
    assert "1 of 3  $39.92 per hour so far" in screen
    assert re.search(r"train +━+╺?━+ +1/2  1 making room, 1 running", screen)
    assert re.search(r"s-train-1  1xH100 +0 s  No capacity for 8xB200", screen)
    assert "0 requests, 0 x 429, 0 retries" in screen
    assert max(len(line) for line in re.split(r"[\r\n]+", screen)) <= 80


async def test_the_cursor_comes_back_and_nothing_steers_the_terminal(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shown_live(terminal, monkeypatch)
    written = terminal.getvalue()
    assert written.rfind("\x1b[?25h") > written.rfind("\x1b[?25l")
    assert "\x1b[2J" not in written


async def test_no_color_is_honoured(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    await shown_live(terminal, monkeypatch)
    assert re.search(r"\x1b\[[0-9;]*3[1-6]m", terminal.getvalue())
    monkeypatch.setenv("NO_COLOR", "1")
    terminal.truncate(0)
    await shown_live(terminal, monkeypatch)
    assert "1 of 3" in terminal.getvalue()
    assert not re.search(r"\x1b\[[0-9;]*3[1-6]m", terminal.getvalue())


@pytest.mark.parametrize("dumb", [False, True])
async def test_where_there_is_no_terminal_there_are_lines(
    dumb: bool, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = terminal if dumb else io.StringIO()
    monkeypatch.setenv("TERM", "dumb" if dumb else "xterm")
    await shown_live(screen, monkeypatch)
    first, second, third = screen.getvalue().splitlines()
    assert first.split() == ["1.0", "s", "s-train-0", "running", "1xH100", "c-1"]
    assert "making room" in second
    assert "try another type or later or never" in second
    assert "\x1b" not in second
    assert "failed" in third


async def test_a_line_for_what_goes_only_where_there_is_something_to_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr("sys.stderr", screen)
    async with TensorPool("key") as tp, progress("s down", tp.statistics, by_id=True) as watch:
        watch(event("s-a-0", "DESTROYING", resource_id="c-1"))
        watch(event("s-a-1", "DESTROYING", resource_id="c-2", message="waiting for the end"))
        watch(event("s-a-0", "DESTROYED", resource_id="c-1"))
    lines = screen.getvalue().splitlines()
    assert [line.split()[2] for line in lines] == ["s-a-1", "s-a-0"]


def test_lines_are_never_cut_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    long = "x" * 300
    show_table(("NAME", "ID"), [(long, None)])
    show(f"[bold]{long}[/bold] :smile:")
    say(long)
    out, err = capsys.readouterr()
    assert out.splitlines()[1].split() == [long, "-"]
    assert out.splitlines()[2] == f"[bold]{long}[/bold] :smile:"
    assert err == f"{long}\n"


def test_small_things() -> None:
    assert clean("a\x1b[0m\tb\nc") == "a\ufffd[0m b c"
    assert (money(None), money(1234.5)) == ("an unknown price", "$1,234.50")
    assert (counted(1, "cluster"), counted(2, "cluster")) == ("1 cluster", "2 clusters")


def test_an_emulated_engine_runs_short_of_what_can_be_done_without() -> None:
    fleet = Fleet(
        "s",
        [
            ClusterGroup("a", ["8xB200", "8xH200"], count=5, num_nodes=2),
            ClusterGroup("b", ["8xB300", "8xB200"], count=2),
            ClusterGroup("c", ["1xH100", "1xL40S"], count=3),
            ClusterGroup("d", "64xCPU", count=10),
        ],
    )
    assert short_capacity(fleet) == {"8xB300": 1, "1xH100": 1}
    assert tight_rate_limit(fleet) == 15.0
    assert tight_rate_limit(Fleet("s", [ClusterGroup("a", "1xH100")])) == 5.0
