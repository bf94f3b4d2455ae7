"""The command as a process of its own: exit codes, standard output and error, signals."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tensorpool_async import TensorPool
from tensorpool_async.cli.app import run as run_words
from tensorpool_async.emulator import Emulator
from tests.cli.conftest import Tpa, Until


NAMES = ("plan", "up", "down", "status", "watch", "ls", "wait", "ops", "recover", "reap", "emulator")


def document(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text)
    return found


async def test_up_and_down(engine: Emulator, tpa: Tpa, fleet_file: Path) -> None:
    up = await tpa("up", "fleet.toml")
    assert up.code == 0, up.err
    assert len(engine.record.living) == 4
    for name, key in zip(("s-t-0", "s-t-1", "s-t-2", "s-u-0"), engine.record.living, strict=True):
        assert name in up.out
        assert key in up.out
    assert "4 of 4 clusters running after " in up.out
    assert "$121.05 per hour until: tpa down fleet.toml" in up.out
    assert "running" in up.err

    down = await tpa("down", "fleet.toml")
    assert down.code == 0, down.err
    assert engine.record.living == []
    assert "Destroyed 4 clusters of s" in down.out

    again = await tpa("down", "fleet.toml")
    assert (again.code, again.out) == (0, "s has nothing to destroy.\n")


async def test_json_is_all_that_is_on_standard_output(engine: Emulator, tpa: Tpa, fleet_file: Path) -> None:
    plan = await tpa("plan", "fleet.toml", "--json")
    assert document(plan.out)["hourly_cost_after"] == 121.05
    assert plan.err == ""
    up = await tpa("up", "fleet.toml", "--json")
    assert [member["state"] for member in document(up.out)["members"]] == ["RUNNING"] * 4
    status = await tpa("status", "fleet.toml", "--json")
    assert document(status.out)["hourly_cost"] == 121.05
    ls = await tpa("ls", "--json")
    assert len(document(ls.out)["clusters"]) == 4
    down = await tpa("down", "fleet.toml", "--json")
    assert document(down.out)["left"] == []
    assert [run.code for run in (plan, up, status, ls, down)] == [0] * 5


async def test_the_demo(tpa: Tpa) -> None:
    example = Path(__file__).parent.parent.parent / "docs" / "examples" / "fleet.toml"
    shown = await tpa("up", str(example), "--emulate", "--speed", "240")
    assert shown.code == 0, shown.err
    assert "26 of 26 clusters running after " in shown.out
    assert "One at a time this would have taken" in shown.out
    assert "4 with a fallback instance type" in shown.out
    assert "Destroyed 26 clusters" in shown.out
    assert "The engine now lists 0 clusters: nothing is left." in shown.out
    assert "No capacity available for 1 x 8xB200" in shown.err
    requests = next(line for line in shown.out.splitlines() if "answered with 429" in line)
    assert " 0 answered" not in requests


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_an_interrupted_up_lists_what_exists_and_how_to_continue(
    number: signal.Signals, code: int, engine: Emulator, tpa: Tpa, fleet_file: Path, until: Until
) -> None:
    process = await tpa.start("up", "fleet.toml")
    await until(lambda: len(engine.record.living) == 4)
    ended = await tpa.interrupt(process, number)
    assert ended.code == code
    assert len(engine.record.living) == 4
    assert engine.record.by_route["DELETE /cluster/{cluster}"] == 0
    for key in engine.record.living:
        assert key in ended.err
    assert "4 clusters of s, running or in transition: $121.05 per hour" in ended.err
    assert "tpa up fleet.toml" in ended.err
    assert "tpa down fleet.toml" in ended.err
    assert ended.out == ""
    assert "Traceback" not in ended.err


async def test_an_interrupted_up_has_a_document(
    engine: Emulator, tpa: Tpa, fleet_file: Path, until: Until
) -> None:
    process = await tpa.start("up", "fleet.toml", "--json")
    await until(lambda: len(engine.record.living) == 4)
    ended = await tpa.interrupt(process)
    assert ended.code == 130
    report = document(ended.out)
    assert report["interrupted"] is True
    assert report["left"] == ["s-t-0", "s-t-1", "s-t-2", "s-u-0"]


async def test_an_interrupted_down_lists_what_is_left(tpa: Tpa, fleet_file: Path, until: Until) -> None:
    async with (
        Emulator(provision_seconds=0.05, destroy_seconds=30.0, retry_after=0.05) as engine,
        TensorPool(engine.key, base_url=engine.url) as tp,
    ):
        await asyncio.gather(*(tp.clusters.create("8xH200", name=f"s-t-{n}").result() for n in range(2)))
        process = await tpa.start(
            "down", "fleet.toml", TENSORPOOL_ENGINE=engine.url, TENSORPOOL_KEY=engine.key
        )
        await until(lambda: engine.record.by_route["DELETE /cluster/{cluster}"] == 2)
        ended = await tpa.interrupt(process)
    assert ended.code == 130
    assert "To continue:  tpa down fleet.toml" in ended.err
    assert "2 clusters of s" in ended.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_second_interrupt_ends_the_process_at_once(
    number: signal.Signals, code: int, tpa: Tpa, fleet_file: Path, until: Until
) -> None:
    # Each answer takes a second, so that the listing after the first interrupt is still running at the second.
    async with Emulator(latency=1.0) as engine:
        process = await tpa.start("up", "fleet.toml", TENSORPOOL_ENGINE=engine.url, TENSORPOOL_KEY=engine.key)
        await until(lambda: engine.record.by_route["POST /cluster/create"] > 0)
        process.send_signal(signal.SIGINT)
        await asyncio.sleep(0.2)
        assert process.returncode is None
        async with asyncio.timeout(0.7):
            process.send_signal(number)
            ended = await tpa.end(process)
    assert ended.code == code
    assert "Traceback" not in ended.err


async def test_an_interrupted_emulation_leaves_nothing(tpa: Tpa, fleet_file: Path) -> None:
    process = await tpa.start("up", "fleet.toml", "--emulate", "--speed", "5")
    assert process.stderr is not None
    await process.stderr.readline()
    ended = await tpa.interrupt(process)
    assert ended.code == 130
    assert "nothing was created at the engine" in ended.err


async def test_an_interrupted_ls_changes_nothing(tpa: Tpa, fleet_file: Path, until: Until) -> None:
    async with Emulator(latency=30.0) as engine:
        process = await tpa.start("ls", TENSORPOOL_ENGINE=engine.url, TENSORPOOL_KEY=engine.key)
        await until(lambda: engine.record.requests > 0)
        ended = await tpa.interrupt(process)
    assert (ended.code, ended.out) == (130, "")
    assert ended.err == "Interrupted. Nothing was changed.\n"


async def test_the_emulator_prints_how_to_use_it(tpa: Tpa) -> None:
    process = await tpa.start("emulator", "--port", "0", "--key", "my-test-key")
    assert process.stdout is not None
    lines: list[str] = []
    while not lines or "TENSORPOOL_KEY" not in lines[-1]:
        lines.append((await process.stdout.readline()).decode())
    url = next(line for line in lines if "TENSORPOOL_ENGINE" in line).strip().partition("=")[2]
    assert lines[-1].strip() == "export TENSORPOOL_KEY=my-test-key"
    async with TensorPool("my-test-key", base_url=url) as tp:
        assert await tp.clusters.list() == []
    ended = await tpa.interrupt(process)
    assert ended.code == 0
    assert "Stopped after 1 request." in ended.out


async def test_a_port_that_is_taken(engine: Emulator, tpa: Tpa) -> None:
    port = engine.url.rpartition(":")[2]
    refused = await tpa("emulator", "--port", port)
    assert refused.code == 1
    assert port in refused.err
    assert len(refused.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("up",), "FILE"),
        (("upp", "fleet.toml"), "upp"),
        (("up", "fleet.toml", "--bogus"), "--bogus"),
        (("up", "fleet.toml", "--speed", "5"), "--emulate"),
        (("up", "fleet.toml", "--emulate", "--speed", "0"), "--speed"),
        (("up", "fleet.toml", "--emulate", "--speed", "nan"), "--speed"),
        (("wait", "r-1", "--timeout", "-1"), "--timeout"),
        (("emulator", "--port", "70000"), "--port"),
        (("emulator", "--key", "two words"), "key"),
        (("plan", "missing.toml"), "No such file"),
        (("plan", "."), "directory"),
        (("up", "wrong.toml"), "wrong.toml:2: clusters.t.count: must be a whole number above 0"),
        (("up", "fleet.toml"), "no API key"),
        (("down", "fleet.toml"), "no API key"),
        (("ls",), "no API key"),
    ],
)
async def test_wrong_usage_and_files_are_reported_in_one_line(
    words: tuple[str, ...], problem: str, tpa: Tpa, fleet_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "wrong.toml").write_text("name = 's'\nclusters.t = {count = 0, instance_type = '1xH100'}\n")
    refused = await tpa(*words)
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith("tpa: ")
    assert problem in refused.err
    assert len(refused.err.splitlines()) == 1


async def test_a_wrong_key_is_reported_and_not_printed(engine: Emulator, tpa: Tpa, fleet_file: Path) -> None:
    for words in (("up", "fleet.toml"), ("plan", "fleet.toml"), ("down", "fleet.toml"), ("ls",)):
        refused = await tpa(*words, TENSORPOOL_KEY="tp-secret-key")
        assert (refused.code, refused.out) == (1, "")
        assert refused.err.count("401") == 1
        assert "tp-secret-key" not in refused.err
        assert len(refused.err.splitlines()) == 1
    assert engine.record.clusters_made == []


async def test_an_engine_that_is_not_there(tpa: Tpa) -> None:
    refused = await tpa("ls", TENSORPOOL_ENGINE="http://127.0.0.1:9", TENSORPOOL_KEY="k")
    assert refused.code == 1
    assert len(refused.err.splitlines()) == 1


async def test_a_closed_pipe_is_no_traceback(engine: Emulator, tpa: Tpa) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = await tpa.start("ls", stdout=writer)
    os.close(writer)
    ended = await tpa.end(process)
    assert (ended.code, ended.err) == (1, "")


async def test_help_and_version(tpa: Tpa) -> None:
    shown = await tpa("--help")
    assert (shown.code, shown.err) == (0, "")
    for name in NAMES:
        assert f" {name} " in shown.out
    assert (await tpa("--version")).out.startswith("0.")


@pytest.mark.parametrize("name", ["", *NAMES, "--install-completion"])
def test_each_command_has_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_words([*name.split(), "--help"]) == 0
    out, err = capsys.readouterr()
    assert (err, "Example: tpa " + name in out) == ("", True)


async def test_without_its_packages_it_says_what_to_install(tpa: Tpa, tmp_path: Path) -> None:
    (tmp_path / "rich").mkdir()
    (tmp_path / "rich" / "__init__.py").write_text("raise ModuleNotFoundError('no rich', name='rich')")
    path = f"{tmp_path}:{tpa.environment['PYTHONPATH']}"
    refused = await tpa("ls", PYTHONPATH=path)
    assert (refused.code, refused.out) == (1, "")
    assert refused.err == 'tpa needs cyclopts and rich: pip install "tensorpool-async[cli]"\n'


async def test_down_goes_ahead_with_a_journal_that_cannot_be_used(
    engine: Emulator, tpa: Tpa, fleet_file: Path
) -> None:
    await tpa("up", "fleet.toml")
    assert len(engine.record.living) == 4
    (tpa.folder / "journal.db").write_text("no journal at all")
    ended = await tpa("down", "fleet.toml", "--journal", "journal.db")
    assert (ended.code, engine.record.living) == (0, [])
    (warning,) = [line for line in ended.err.splitlines() if "journal.db" in line]
    assert "without an entry in the journal" in warning
    assert (tpa.folder / "journal.db").read_text() == "no journal at all"


async def test_destroy_takes_ids_and_names(engine: Emulator, tpa: Tpa) -> None:
    async with TensorPool(engine.key, base_url=engine.url) as tp:
        first = await tp.clusters.create("8xH100", name="first").result()
        second = await tp.clusters.create("8xH100", name="second").result()
        volume = await tp.storage.create(10, name="data").result()
        shown = await tpa("destroy", first.id, "data")
        assert shown.code == 2
        assert "use --yes" in shown.err
        assert {first.id, second.id} <= set(engine.record.living)
        ended = await tpa("destroy", first.id, "data", "--yes", "--json")
        assert [(one["id"], one["destroyed"]) for one in document(ended.out)["resources"]] == [
            (first.id, True),
            (volume.id, True),
        ]
        assert engine.record.living == [second.id]
        await tp.clusters.edit(second, deletion_protection=True).result()
        failed = await tpa("destroy", "second", "-y")
        assert failed.code == 1
        assert "Destroyed 0 of 1." in failed.out
        missing = await tpa("destroy", "third", "-y")
        assert missing.code == 2
        assert "there is no cluster or volume third" in missing.err
