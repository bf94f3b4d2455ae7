"""Logging: quiet by default, useful at INFO, complete and without secrets at DEBUG."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from tensorpool_async import OperationFailed, PollPolicy, RetryPolicy, TensorPool
from tensorpool_async.emulator import Emulator, Fault, FaultKind
from tests.support.echoing import KEY, echo_the_key, use_what_echoes
from tests.support.scripted import ScriptedEngine


LOGGER = "tensorpool_async"

QUIET = """
import asyncio
from tensorpool_async import OperationFailed, TensorPool
from tensorpool_async.emulator import Emulator, Fault, FaultKind

async def main():
    async with Emulator(provision_seconds=0.01, retry_after=0.01) as engine:
        engine.faults.add(Fault(FaultKind.HTML_502, path="/cluster/list"))
        engine.faults.add(Fault(FaultKind.FAILED, path="/cluster/create"))
        async with TensorPool(engine.key, base_url=engine.url) as tp:
            await tp.clusters.list()
            try:
                await tp.clusters.create("1xH100").result()
            except OperationFailed:
                pass

asyncio.run(main())
"""


def test_nothing_is_written_unless_it_is_asked_for(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", QUIET], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=True
    )
    assert (ran.stdout, ran.stderr) == ("", "")


async def test_info_logs_operations_retries_and_pauses(
    emulator: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    emulator.faults.add(Fault(FaultKind.HTML_502, path="/cluster/list"))
    emulator.faults.add(Fault(FaultKind.RATE_LIMITED, path="/storage/list", seconds=0.2))
    emulator.faults.add(Fault(FaultKind.FAILED, path="/cluster/create", after=1))
    retry = RetryPolicy(backoff=0.01)
    async with TensorPool(emulator.key, base_url=emulator.url, retry=retry) as tp:
        await tp.clusters.list()
        await tp.storage.list()
        done = await tp.clusters.create("1xH100")
        await done
        failing = await tp.clusters.create("1xH100")
        with pytest.raises(OperationFailed):
            await failing
    lines = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    assert {record.levelname for record in caplog.records} == {"INFO"}
    assert len(lines) == 7, lines
    assert lines[0].startswith("GET /cluster/list is sent again in 0.0 s (attempt 2), after: 502")
    assert lines[1] == "all requests pause for 0.2 s (rate)"
    assert lines[2].startswith("GET /storage/list is sent again in 0.2 s (attempt 2), after: 429")
    assert lines[3] == f"CLUSTER_CLAIM of {done.resource_id} is accepted, request {done.request_id}"
    assert lines[4].startswith(f"CLUSTER_CLAIM of {done.resource_id} has ended as completed after 0.")
    assert lines[4].endswith(f" s and {done.polls} polls")
    assert lines[6].startswith(f"CLUSTER_CLAIM of {failing.resource_id} has ended as failed after 0.")


async def test_debug_logs_each_request_and_each_answer(
    emulator: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)
    async with TensorPool(emulator.key, base_url=emulator.url, polling=PollPolicy(initial=0.01)) as tp:
        await tp.clusters.create("1xH100", name="mine").result()
        await tp.clusters.quote("1xH100")
        requests = tp.statistics().requests
    lines = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    assert sum(line.endswith(" is sent") for line in lines) == requests
    assert sum(": 20" in line and " after 0." in line for line in lines) == requests
    assert "POST /cluster/create, attempt 1, is sent" in lines
    (body,) = [line for line in lines if line.startswith("POST /cluster/create has ")]
    assert "'instance_type'" in body
    (query,) = [line for line in lines if line.startswith("GET /cluster/quote has the query ")]
    assert "1xH100" in query
    assert "mine" not in "\n".join(lines), "values of a body may be secrets"


async def test_a_record_carries_its_event(emulator: Emulator, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    async with TensorPool(emulator.key, base_url=emulator.url) as tp:
        operation = await tp.clusters.create("1xH100")
        await operation
    last = vars(caplog.records[-1])
    assert last["event"].request_id == operation.request_id
    assert last["event"].outcome == "completed"


async def test_no_line_holds_the_key_wherever_the_engine_echoes_it(
    scripted: ScriptedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)
    echo_the_key(scripted)
    retry, polling = RetryPolicy(backoff=0.01), PollPolicy(default=0.01, initial=0.01)
    async with TensorPool(KEY, base_url=scripted.url, retry=retry, polling=polling) as tp:
        await use_what_echoes(tp)
    assert "RETRYING" in caplog.text
    assert "is sent again" in caplog.text
    shown = caplog.text + "".join(str(vars(record)) for record in caplog.records)
    assert KEY not in shown
