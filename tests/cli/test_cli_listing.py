"""`tpa ls volumes` and `tpa ls jobs`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tensorpool_async import PollPolicy, TensorPool
from tensorpool_async.cli.app import run as run_words
from tensorpool_async.cli.commands import clusters
from tensorpool_async.emulator import Emulator


@pytest.fixture
async def storing(monkeypatch: pytest.MonkeyPatch) -> Any:
    async with Emulator(storage_seconds=0.05, retry_after=0.02) as emulator:
        monkeypatch.setenv("TENSORPOOL_ENGINE", emulator.url)
        monkeypatch.setenv("TENSORPOOL_KEY", emulator.key)
        yield emulator


async def test_volumes_are_listed(storing: Emulator, capsys: Any) -> None:
    assert await clusters.list_volumes(as_json=False) == 0
    assert capsys.readouterr().out == "No volumes.\n"
    async with TensorPool(polling=PollPolicy(initial=0.01)) as tp:
        op = await tp.storage.create(1000, name="data")
        volume = await op
    assert await clusters.list_volumes(as_json=False) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:4] == ["data", "1000", volume.id, "READY"]
    assert lines[-1].startswith("1 volume; $0.1")
    assert await clusters.list_volumes(as_json=True) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["volumes"][0]["size_gb"] == 1000
    assert document["hourly_cost"] == pytest.approx(volume.hourly_rate, abs=1e-6)
    assert await clusters.wait(op.token, None, as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["result"]["id"] == volume.id
    assert await clusters.wait(op.token, None, as_json=False) == 0
    assert volume.id in capsys.readouterr().out


async def test_jobs_are_listed(storing: Emulator, capsys: Any) -> None:
    assert await clusters.list_jobs(as_json=False) == 0
    assert capsys.readouterr().out == "No jobs.\n"
    job = storing.jobs.add(exit_code=3, message="out of memory")
    assert await clusters.list_jobs(as_json=False) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:3] == [job.id, "error", "3"]
    assert "out of memory" in lines[1]
    assert await clusters.list_jobs(as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["jobs"][0]["exit_code"] == 3


def test_what_cannot_be_listed_is_wrong_usage(capsys: Any) -> None:
    assert run_words(["ls", "nonsense"]) == 2
    assert "nonsense" in capsys.readouterr().err
