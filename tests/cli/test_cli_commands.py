"""The output and exit codes of the commands, called in this process."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from tensorpool_async import ConfigurationError, TensorPool
from tensorpool_async.cli import main
from tensorpool_async.cli.app import run as run_words
from tensorpool_async.cli.commands import clusters, fleets
from tensorpool_async.cli.exit_codes import ExitCode
from tensorpool_async.cli.runner import run_command
from tensorpool_async.emulator import Emulator, Fault, FaultKind
from tensorpool_async.fleet import ClusterGroup, Fleet


FLEET = Fleet("s", [ClusterGroup("t", ["8xB200", "8xH200"], count=3), ClusterGroup("u", "1xL40S")])
FILE = Path("my fleet.toml")


@pytest.fixture
async def tp(engine: Emulator) -> Any:
    async with TensorPool() as client:
        yield client


async def test_plan_shows_what_would_be_done(engine: Emulator, tp: TensorPool, capsys: Any) -> None:
    await tp.clusters.create("8xH200", name="s-t-1").result()
    await tp.clusters.create("8xH200", name="s-t-8").result()
    assert await fleets.plan(FLEET, as_json=False) == 0
    out, err = capsys.readouterr()
    assert [line.split()[:4] for line in out.splitlines()[1:6]] == [
        ["+", "s-t-0", "CREATE", "8xB200"],
        ["=", "s-t-1", "KEEP", "8xH200"],
        ["+", "s-t-2", "CREATE", "8xB200"],
        ["+", "s-u-0", "CREATE", "1xL40S"],
        ["*", "s-t-8", "SURPLUS", "8xH200"],
    ]
    assert [line.split()[-1] for line in out.splitlines()[1:4]] == ["+39.92", "27.92", "+39.92"]
    assert "\n+ 3 to create   = 1 to keep   * 1 surplus, left unchanged\n" in out
    assert "$55.84 per hour now + $81.13; $136.97 after `up`\n" in out
    assert err == ""
    assert len(engine.record.clusters_made) == 2


async def test_plan_marks_what_is_in_creation_or_in_conflict(
    engine: Emulator, tp: TensorPool, capsys: Any
) -> None:
    await tp.clusters.create("1xH100", name="s-u-0").result()
    await tp.clusters.create("8xB200", name="s-t-0")
    assert await fleets.plan(FLEET, as_json=False) == 1
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()[1:5]] == ["~", "+", "+", "!"]
    assert "+ 2 to create   ~ 1 to join or replace   ! 1 in conflict" in out
    assert "s-u-0 exists as 1 x 1xH100" in err


async def test_plan_has_a_document(engine: Emulator, tp: TensorPool, capsys: Any) -> None:
    await tp.clusters.create("1xH100", name="s-u-0").result()
    fleet = Fleet("s", FLEET.clusters, max_hourly_cost=100.0)
    assert await fleets.plan(fleet, as_json=True) == 1
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert list(document) == [
        "fleet",
        "members",
        "surplus",
        "hourly_cost_now",
        "hourly_cost_after",
        "max_hourly_cost",
        "refusal",
    ]
    assert document["members"][0] == {
        "name": "s-t-0",
        "group": "t",
        "action": "CREATE",
        "instance_type": "8xB200",
        "num_nodes": 1,
        "hourly_rate": 39.92,
        "id": None,
        "status": None,
        "problem": None,
    }
    assert document["members"][3]["action"] == "CONFLICT"
    assert document["members"][3]["status"] == "RUNNING"
    assert "1xH100" in document["members"][3]["problem"]
    assert "$122.25" in document["refusal"]
    assert "up would be refused: s would cost $122.25" in err
    assert "the fleet wants 1 x 1xL40S" in err


async def test_up_has_a_document(engine: Emulator, capsys: Any) -> None:
    engine.capacity["8xB200"] = 2
    assert await fleets.up(FLEET, FILE, as_json=True) == 0
    document = json.loads(capsys.readouterr().out)
    assert list(document) == [
        "fleet",
        "members",
        "hourly_cost",
        "seconds",
        "sequential_seconds",
        "requests",
        "rate_limited",
        "retries",
    ]
    fallen = next(member for member in document["members"] if member["instance_type"] == "8xH200")
    assert fallen["tried"] == ["8xB200", "8xH200"]
    assert list(fallen) == [
        "name",
        "group",
        "state",
        "id",
        "instance_type",
        "ip",
        "seconds",
        "polls",
        "hourly_rate",
        "error",
        "tried",
    ]
    assert document["hourly_cost"] == 109.05


async def test_up_prints_the_same_failure_once(engine: Emulator, capsys: Any) -> None:
    engine.balance = 35.0
    assert await fleets.up(FLEET, FILE, as_json=False) == 1
    out, err = capsys.readouterr()
    assert "1 of 4 clusters running after " in out
    failures = [line for line in err.splitlines() if line.startswith("  s-")]
    assert len(failures) == 1
    assert failures[0].startswith("  s-t-0, s-t-1, s-t-2: 402: Insufficient balance")


async def test_many_members_with_one_failure_are_summed_up(engine: Emulator, capsys: Any) -> None:
    engine.balance = 10.0
    fleet = Fleet("s", [ClusterGroup("t", "8xB200", count=9)])
    assert await fleets.up(fleet, FILE, as_json=False) == 1
    assert "  s-t-0, s-t-1 and 7 more: 402" in capsys.readouterr().err


async def test_up_shows_where_to_destroy_what_costs(engine: Emulator, capsys: Any) -> None:
    await fleets.up(FLEET, FILE, as_json=False)
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "This costs $121.05 per hour until: tpa down 'my fleet.toml'"


async def test_status_shows_what_is_missing(engine: Emulator, tp: TensorPool, capsys: Any) -> None:
    await tp.clusters.create("8xH200", name="s-t-1").result()
    assert await fleets.status(FLEET, as_json=False) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[1:5]] == ["s-t-0", "s-t-1", "s-t-2", "s-u-0"]
    assert out.count("ABSENT") == 3
    assert "1 of 4 exist; $27.92 per hour" in out


async def test_down_lists_what_it_could_not_destroy(engine: Emulator, tp: TensorPool, capsys: Any) -> None:
    await tp.clusters.create("8xH200", name="s-t-1", deletion_protection=True).result()
    await tp.clusters.create("8xH200", name="s-t-2").result()
    assert await fleets.down(FLEET, FILE, as_json=False) == 1
    out, err = capsys.readouterr()
    assert "Destroyed 1 cluster of s" in out
    assert "Still there: 1 cluster, $27.92 per hour." in out
    assert "s-t-1: 409: " in err
    assert "protection" in err
    assert await fleets.down(FLEET, FILE, as_json=True) == 1
    assert json.loads(capsys.readouterr().out)["left"] == ["s-t-1"]


async def test_emulate_has_a_document_too(capsys: Any) -> None:
    assert await fleets.emulate(FLEET, 600.0, as_json=True) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["left"] == []
    assert [member["state"] for member in document["members"]] == ["RUNNING"] * 4


async def test_an_interrupted_up_without_an_answer_prints_the_last_known_state(
    engine: Emulator, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleets, "INTERRUPTED_STATUS_TIMEOUT", 0.2)
    task = asyncio.create_task(fleets.up(FLEET, FILE, as_json=False))
    while len(engine.record.living) < 4:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    engine.faults.add(Fault(FaultKind.STALL, path="/cluster/list", times=None, seconds=20.0))
    task.cancel()
    assert await task == 130
    err = capsys.readouterr().err
    assert "the last known state" in err
    for key in engine.record.living:
        assert key in err
    assert "$121.05 per hour" in err


async def test_ls(engine: Emulator, tp: TensorPool, capsys: Any) -> None:
    assert await clusters.list_clusters(as_json=False) == 0
    assert capsys.readouterr().out == "No clusters.\n"
    cluster = await tp.clusters.create("8xH200", name="a", num_nodes=2).result()
    assert await clusters.list_clusters(as_json=False) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[1].split() == [
        "a",
        "8xH200",
        "2",
        cluster.id,
        "RUNNING",
        cluster.ip_address,
        "55.84",
    ]
    assert "1 cluster; $55.84 per hour" in out
    await clusters.list_clusters(as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert document["hourly_cost"] == 55.84
    (shown,) = document["clusters"]
    assert list(shown) == [
        "id",
        "name",
        "status",
        "instance_type",
        "num_nodes",
        "ip",
        "hourly_rate",
        "deletion_protection",
        "storage",
        "created_at",
    ]


async def test_wait_by_request_id_and_by_token(engine: Emulator, tp: TensorPool, capsys: Any) -> None:
    operation = await tp.clusters.create("8xH200", name="a")
    assert operation.request_id
    assert await clusters.wait(operation.request_id, None, as_json=False) == 0
    out, err = capsys.readouterr()
    assert str(operation.resource_id) in out
    assert "COMPLETED" in err
    going = await tp.clusters.destroy(str(operation.resource_id))
    assert await clusters.wait(going.token, 20.0, as_json=False) == 0
    assert f"CLUSTER_RELEASE of {operation.resource_id}: COMPLETED" in capsys.readouterr().out


async def test_wait_has_a_document(engine: Emulator, tp: TensorPool, capsys: Any) -> None:
    engine.capacity["8xB200"] = 0
    good, bad = await tp.clusters.create("8xH200"), await tp.clusters.create("8xB200")
    assert await clusters.wait(good.token, None, as_json=True) == 0
    document = json.loads(capsys.readouterr().out)
    assert list(document) == [
        "request_id",
        "kind",
        "status",
        "resource_id",
        "message",
        "result",
        "error",
        "token",
    ]
    assert document["result"]["id"] == good.resource_id
    assert await clusters.wait(bad.token, None, as_json=True) == 1
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert (document["status"], document["result"]) == ("FAILED", None)
    assert "No capacity" in document["error"]
    assert "No capacity" in err


async def test_a_wait_that_ends_early_prints_how_to_continue(
    engine: Emulator, tp: TensorPool, capsys: Any
) -> None:
    operation = await tp.clusters.create("8xH200")
    assert await clusters.wait(operation.token, 0.05, as_json=False) == 1
    assert (
        f"not finished after 0.05 s; the operation continues: tpa wait {operation.token}"
        in capsys.readouterr().err
    )
    task = asyncio.create_task(clusters.wait(operation.token, None, as_json=False))
    await asyncio.sleep(0.1)
    task.cancel()
    assert await task == 130
    assert f"continues at the engine: tpa wait {operation.token}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ConfigurationError("no key"), 2, "tpa: no key\n"),
        (OSError(98, "address in use"), 1, "tpa: [Errno 98] address in use\n"),
        (KeyError("x"), 1, "tpa: this is a bug, please report it: KeyError: 'x'\n"),
        (asyncio.CancelledError(), 130, "Interrupted. Nothing was changed.\n"),
        (KeyboardInterrupt(), 130, "Interrupted. Nothing was changed.\n"),
    ],
)
def test_an_error_is_a_line_and_an_exit_code(
    error: BaseException, code: int, words: str, capsys: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> ExitCode:
        raise error

    with caplog.at_level(logging.INFO):
        assert run_command(work) == code
    assert capsys.readouterr().err == words
    assert caplog.text == ""


def test_an_error_before_the_coroutine_runs_is_reported(capsys: Any) -> None:
    assert run_words(["status", "/nowhere/fleet.toml"]) == 2
    assert "No such file" in capsys.readouterr().err


def test_usage_is_checked_before_anything_runs(capsys: Any) -> None:
    assert main(["up", "x.toml", "--speed", "3"]) == 2
    assert main(["wait"]) == 2
    assert main([]) == 0
    assert "Usage: tpa" in capsys.readouterr().out
