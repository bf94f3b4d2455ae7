"""The progress of a fleet: the board, the live display on a terminal, and the lines elsewhere."""

from __future__ import annotations

import asyncio
import io
import re

import pytest

from tensorpool_async import TensorPool
from tensorpool_async.cli.commands.emulator import low_rate_limit, scarce_capacity
from tensorpool_async.cli.display import ProgressBoard, show_progress
from tensorpool_async.cli.output import format_price, pluralize, print_err, print_out, print_table
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


def board_of(*events: FleetMemberChanged, by_id: bool = False) -> ProgressBoard:
    board = ProgressBoard(by_id)
    for item in events:
        board.update(item)
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
    first, second = board.groups
    assert (first.group, first.done, first.failed, first.size) == ("a", 1, 0, 2)
    assert first.states == (("CLEARING", 1), ("RUNNING", 1))
    assert (second.group, second.done, second.failed, second.size) == ("b", 0, 1, 2)
    assert (board.done, board.size) == (1, 4)


def test_an_event_with_only_a_new_message_is_not_notable() -> None:
    board = ProgressBoard()
    notable = [
        board.update(event("s-a-0", "WAITING")),
        board.update(event("s-a-0", "CREATING")),
        board.update(event("s-a-0", "CREATING", message="Provisioning")),
        board.update(event("s-a-0", "CREATING", instance_type="8xH200")),
        board.update(event("s-a-0", "RUNNING", instance_type="8xH200")),
    ]
    assert notable == [False, True, False, True, True]


def test_the_hourly_cost_counts_accepted_clusters() -> None:
    board = board_of(
        event("s-a-0", "CREATING", hourly_rate=5.0),
        event("s-a-1", "CREATING", hourly_rate=5.0, resource_id="c-1"),
        event("s-a-2", "RUNNING", hourly_rate=7.0, resource_id="c-2"),
        event("s-a-3", "RUNNING", resource_id="c-3"),
    )
    assert board.hourly_cost == 12.0


def test_down_counts_two_clusters_of_one_name_as_two() -> None:
    board = board_of(
        event("s-a-0", "DESTROYING", resource_id="c-1", hourly_rate=5.0),
        event("s-a-0", "DESTROYING", resource_id="c-2", hourly_rate=5.0),
        event("s-a-0", "DESTROYED", resource_id="c-1"),
        by_id=True,
    )
    assert (board.size, board.done, board.hourly_cost) == (2, 1, 5.0)


def test_the_stalest_members_are_those_without_an_event_for_longest() -> None:
    board = board_of(
        event("s-a-0", "CREATING", 3.0),
        event("s-a-1", "CREATING", 1.0),
        event("s-a-2", "RUNNING", 0.5),
        event("s-a-3", "WAITING", 0.0),
        event("s-a-4", "CLEARING", 2.0),
    )
    assert [item.member for item in board.stalest(2)] == ["s-a-1", "s-a-4"]


class Terminal(io.StringIO):
    """A simulated terminal of 80 columns."""

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
    async with TensorPool("key") as tp, show_progress("s up", tp.statistics) as on_event:
        await asyncio.sleep(0.2)
        for item in EVENTS:
            on_event(item)
        await asyncio.sleep(0.3)


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


async def test_a_terminal_shows_groups_bars_and_the_stalest_members(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shown_live(terminal, monkeypatch)
    screen = plain(terminal.getvalue())
    assert "listing what exists at the engine" in screen
    assert "1 of 3  $39.92 per hour so far" in screen
    assert re.search(r"train +━+╺?━+ +1/2  1 making room, 1 running", screen)
    assert re.search(r"s-train-1  1xH100 +0 s  No capacity for 8xB200", screen)
    assert "0 requests, 0 x 429, 0 retries" in screen
    assert max(len(line) for line in re.split(r"[\r\n]+", screen)) <= 80


async def test_the_cursor_is_restored_and_texts_send_no_escapes(
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
async def test_without_a_terminal_there_are_lines(
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


async def test_a_destroying_member_has_a_line_only_with_a_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr("sys.stderr", screen)
    async with TensorPool("key") as tp, show_progress("s down", tp.statistics, by_id=True) as on_event:
        on_event(event("s-a-0", "DESTROYING", resource_id="c-1"))
        on_event(event("s-a-1", "DESTROYING", resource_id="c-2", message="waiting for the end"))
        on_event(event("s-a-0", "DESTROYED", resource_id="c-1"))
    lines = screen.getvalue().splitlines()
    assert [line.split()[2] for line in lines] == ["s-a-1", "s-a-0"]


def test_lines_are_never_cut_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    long = "x" * 300
    print_table(("NAME", "ID"), [(long, None)])
    print_out(f"[bold]{long}[/bold] :smile:")
    print_err(long)
    out, err = capsys.readouterr()
    assert out.splitlines()[1].split() == [long, "-"]
    assert out.splitlines()[2] == f"[bold]{long}[/bold] :smile:"
    assert err == f"{long}\n"


def test_small_things() -> None:
    assert clean("a\x1b[0m\tb\nc") == "a\ufffd[0m b c"
    assert (format_price(None), format_price(1234.5)) == ("an unknown price", "$1,234.50")
    assert (pluralize(1, "cluster"), pluralize(2, "cluster")) == ("1 cluster", "2 clusters")


def test_an_emulator_has_too_little_capacity_for_first_choices() -> None:
    fleet = Fleet(
        "s",
        [
            ClusterGroup("a", ["8xB200", "8xH200"], count=5, num_nodes=2),
            ClusterGroup("b", ["8xB300", "8xB200"], count=2),
            ClusterGroup("c", ["1xH100", "1xL40S"], count=3),
            ClusterGroup("d", "64xCPU", count=10),
        ],
    )
    assert scarce_capacity(fleet) == {"8xB300": 1, "1xH100": 1}
    assert low_rate_limit(fleet) == 15.0
    assert low_rate_limit(Fleet("s", [ClusterGroup("a", "1xH100")])) == 5.0
