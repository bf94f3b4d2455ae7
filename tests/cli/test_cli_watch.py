"""`tpa watch`: a fleet in a pipe and on a terminal, an operation, and errors."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tensorpool_async import TensorPool
from tensorpool_async.cli.app import run as run_words
from tensorpool_async.cli.commands import clusters
from tensorpool_async.cli.commands.watch import watch_fleet
from tensorpool_async.emulator import Emulator, Fault, FaultKind
from tensorpool_async.fleet import ClusterGroup, Fleet
from tests.cli.conftest import Tpa, Until


FLEET = Fleet("s", [ClusterGroup("t", "8xH200", count=3), ClusterGroup("u", "1xL40S")])


def watch(fleet: Fleet = FLEET, *, as_json: bool = False) -> asyncio.Task[int]:
    return asyncio.create_task(watch_fleet(fleet, 0.05, as_json=as_json))


class Screen(io.StringIO):
    """A simulated terminal of 80 columns and 24 lines."""

    def isatty(self) -> bool:
        return True

    @property
    def text(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.getvalue())


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}.items():
        monkeypatch.setenv(name, value)
    return Screen()


class CapturedOutput:
    """Everything printed so far, for conditions to wait for."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.out = self.err = ""

    def has(self, text: str) -> Callable[[], bool]:
        def found() -> bool:
            out, err = self._capsys.readouterr()
            self.out += out
            self.err += err
            return text in self.out or text in self.err

        return found


@pytest.fixture
def captured(capsys: pytest.CaptureFixture[str]) -> CapturedOutput:
    return CapturedOutput(capsys)


async def test_in_a_pipe_each_change_is_a_line(
    engine: Emulator, captured: CapturedOutput, until: Until
) -> None:
    watcher = watch()
    await until(captured.has("s-u-0  absent"))
    async with TensorPool() as tp:
        cluster = await tp.clusters.create("8xH200", name="s-t-1").result()
        await until(captured.has("s-t-1  running"))
        await tp.clusters.destroy(cluster).result()
        await until(captured.has("s-t-1  gone"))
    watcher.cancel()
    assert await watcher == 130
    assert captured.has("Stopped watching. Nothing was changed.")()
    lines = [line.split()[1:] for line in captured.out.splitlines()]
    assert lines[:4] == [[name, "absent"] for name in ("s-t-0", "s-t-1", "s-t-2", "s-u-0")]
    assert ["s-t-1", "running", "8xH200", cluster.id, cluster.ip_address] in lines
    # A member that does not change is printed once.
    assert sum(line[0] == "s-t-0" for line in lines) == 1


async def test_each_change_can_be_a_document(
    engine: Emulator, captured: CapturedOutput, until: Until
) -> None:
    watcher = watch(as_json=True)
    await until(captured.has("s-u-0"))
    watcher.cancel()
    assert await watcher == 130
    documents: list[dict[str, Any]] = [json.loads(line) for line in captured.out.splitlines()]
    assert [one["name"] for one in documents] == ["s-t-0", "s-t-1", "s-t-2", "s-u-0"]
    assert list(documents[0]) == [
        "time",
        "name",
        "group",
        "state",
        "id",
        "instance_type",
        "ip",
        "hourly_rate",
    ]


async def test_a_terminal_has_a_live_display(
    engine: Emulator, screen: Screen, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout", screen)
    watcher = watch()
    await until(lambda: "0 of 4 exist; $0.00 per hour" in screen.text)
    async with TensorPool() as tp:
        await tp.clusters.create("8xH200", name="s-t-1").result()
        await until(lambda: "1 of 4 exist; $27.92 per hour" in screen.text)
    watcher.cancel()
    assert await watcher == 130
    assert max(len(line) for line in re.split(r"[\r\n]+", screen.text)) <= 80


async def test_what_does_not_fit_on_the_screen_is_counted(
    engine: Emulator, screen: Screen, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout", screen)
    async with TensorPool() as tp:
        await tp.clusters.create("8xH200", name="s-t-39")
        watcher = watch(Fleet("s", [ClusterGroup("t", "8xH200", count=40)]))
        await until(lambda: "… and 22 more" in screen.text)
        watcher.cancel()
        await watcher
    table = screen.text[: screen.text.index("… and 22 more")]
    assert "s-t-39" in table  # it is in transition, so it is shown before absent members
    assert len(table.splitlines()) <= 24


async def test_a_failed_status_request_is_repeated(
    engine: Emulator, captured: CapturedOutput, until: Until
) -> None:
    watcher = watch()
    await until(captured.has("s-u-0  absent"))
    engine.faults.add(Fault(FaultKind.NOT_FOUND, path="/cluster/list"))
    await until(captured.has("the status request failed and is repeated: 404"))
    async with TensorPool() as tp:
        await tp.clusters.create("8xH200", name="s-t-1")
        await until(captured.has("s-t-1  provisioning"))
    watcher.cancel()
    assert await watcher == 130


async def test_a_process_follows_an_operation_to_its_end_and_a_fleet_until_it_is_interrupted(
    engine: Emulator, tpa: Tpa, fleet_file: Path, until: Until
) -> None:
    async with TensorPool() as tp:
        operation = await tp.clusters.create("8xH200", name="s-t-0")
        ended = await tpa("watch", operation.token)
        assert ended.code == 0, ended.err
        assert str(operation.resource_id) in ended.out
    lists = engine.record.by_route["GET /cluster/list"]
    process = await tpa.start("watch", "fleet.toml", "--every", "0.1s")
    await until(lambda: engine.record.by_route["GET /cluster/list"] > lists + 2)
    ended = await tpa.interrupt(process)
    assert (ended.code, ended.err) == (130, "Stopped watching. Nothing was changed.\n")
    assert [line.split()[1:3] for line in ended.out.splitlines()] == [
        ["s-t-0", "running"],
        ["s-t-1", "absent"],
        ["s-t-2", "absent"],
        ["s-u-0", "absent"],
    ]


async def test_a_wait_shows_on_a_terminal_what_is_waited_for(
    engine: Emulator, screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr", screen)
    async with TensorPool() as tp:
        operation = await tp.clusters.create("8xH200", name="a")
        assert await clusters.wait(operation.token, None, as_json=False) == 0
    assert f"s  waiting for {operation.request_id}" in screen.text
    assert "COMPLETED" in screen.text


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("watch",), "FILE|REQUEST"),
        (("watch", "missing.toml"), "No such file"),
        (("watch", "fleet.toml", "--every", "soon"), "'soon' is not a duration"),
        (("watch", "fleet.toml", "--every", "0s"), "--every"),
        (("watch", "tpa1.nonsense"), "token"),
    ],
)
def test_wrong_usage_of_watch(
    words: tuple[str, ...],
    problem: str,
    fleet_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(fleet_file.parent)
    monkeypatch.setenv("TENSORPOOL_KEY", "k")
    monkeypatch.setenv("TENSORPOOL_ENGINE", "http://127.0.0.1:9")
    assert run_words(words) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert problem in err


async def test_forced_colours_make_no_terminal(engine: Emulator, tpa: Tpa, fleet_file: Path) -> None:
    up = await tpa("up", "fleet.toml", FORCE_COLOR="1")
    assert up.code == 0
    assert "listing what exists" not in up.err
    assert "\x1b[2K" not in up.err


def test_no_color_takes_the_colours_away(
    screen: Screen, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr("sys.stderr", screen)
    assert run_words(["plan", "missing.toml"]) == 2
    assert "\x1b[31m" in screen.getvalue()
    screen.truncate(0)
    assert run_words(["plan", "missing.toml", "--no-color"]) == 2
    assert "missing.toml" in screen.getvalue()
    assert "\x1b" not in screen.getvalue()


def test_completion_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run_words(["--install-completion", "--shell", "bash"]) == 0
    written = Path(capsys.readouterr().out.removeprefix("Written to ").partition(". It takes effect")[0])
    assert written.is_relative_to(tmp_path)
    script = written.read_text()
    for word in ("recover", "--journal", "--no-color"):
        assert word in script
