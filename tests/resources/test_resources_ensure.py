"""`ensure` joins or makes: whoever asks, and however often, there is one cluster of a name."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tensorpool_async import (
    AmbiguousOutcomeError,
    Cluster,
    ConflictError,
    InsufficientBalance,
    OperationFailed,
    PollPolicy,
    TensorPool,
)
from tensorpool_async.emulator import Emulator, Fault, FaultKind
from tests.operations.test_operations_lost_answers import LOST, QUICK, once
from tests.support.scripted import ScriptedEngine, drop


ROOT = Path(__file__).parents[1]
CREATE = "POST /cluster/create"


@pytest.fixture
async def tp(emulator: Emulator) -> AsyncGenerator[TensorPool]:
    async with client_of(emulator) as client:
        yield client


def client_of(emulator: Emulator) -> TensorPool:
    polling = PollPolicy(initial=0.01, default=0.02)
    return TensorPool(emulator.key, base_url=emulator.url, retry=QUICK, polling=polling)


def is_the_only_one(emulator: Emulator, cluster: Cluster) -> bool:
    record = emulator.record
    assert record.made_twice == []
    assert [made.id for made in record.clusters_made] == [cluster.id]
    return record.living == [cluster.id] and str(cluster.status) == "RUNNING"


async def test_it_makes_one_and_joins_it_from_then_on(tp: TensorPool, emulator: Emulator) -> None:
    submission = tp.clusters.ensure("trainer", "8xH200", num_nodes=2)
    assert submission.name == "trainer"
    made = await submission.result()
    assert (made.name, made.instance_type, made.num_nodes) == ("trainer", "8xH200", 2)
    joined = await tp.clusters.ensure("trainer", "8xh200", num_nodes=2).result()
    assert joined.id == made.id
    assert is_the_only_one(emulator, joined)
    assert emulator.record.by_route[CREATE] == 1


async def test_it_joins_one_that_is_on_its_way() -> None:
    async with (
        Emulator(provision_seconds=1.5, retry_after=0.05) as emulator,
        client_of(emulator) as tp,
        client_of(emulator) as other,
    ):
        creation = await tp.clusters.create("8xH100", name="trainer")
        operation = await other.clusters.ensure("trainer", "8xH100")
        assert (operation.resource_id, operation.request_id) == (creation.resource_id, creation.request_id)
        assert not operation.done()
        assert is_the_only_one(emulator, await operation)
        assert emulator.record.by_route[CREATE] == 1


@pytest.mark.parametrize("no_request_ids", [True, False])
async def test_it_waits_for_one_that_is_being_destroyed(*, no_request_ids: bool) -> None:
    async with (
        Emulator(
            provision_seconds=0.05, destroy_seconds=0.1, retry_after=0.02, no_request_ids=no_request_ids
        ) as emulator,
        client_of(emulator) as tp,
    ):
        old = await tp.clusters.create("8xH100", name="trainer").result()
        await tp.clusters.destroy(old)
        new = await tp.clusters.ensure("trainer", "8xH100").result()
        assert new.id != old.id
        assert emulator.record.living == [new.id]
        assert emulator.record.made_twice == []
        assert emulator.record.by_status[409] == 0


@pytest.mark.parametrize(
    ("instance_type", "num_nodes", "told"),
    [("8xB200", 1, "is of 8xH200, not of 8xB200"), ("8xH200", 2, "has 1 nodes, not 2")],
)
async def test_one_that_differs_is_a_conflict_that_names_it(
    instance_type: str, num_nodes: int, told: str, tp: TensorPool, emulator: Emulator
) -> None:
    there = await tp.clusters.create("8xH200", name="trainer").result()
    with pytest.raises(ConflictError, match=told) as caught:
        await tp.clusters.ensure("trainer", instance_type, num_nodes=num_nodes)
    assert there.id in str(caught.value)
    assert is_the_only_one(emulator, there)
    assert emulator.record.by_route[CREATE] == 1


async def test_one_that_failed_tells_why(tp: TensorPool, emulator: Emulator) -> None:
    emulator.faults.add(Fault(FaultKind.NO_CAPACITY, method="POST", path="/cluster/create"))
    with pytest.raises(OperationFailed):
        await tp.clusters.create("8xH100", name="trainer").result()
    async with client_of(emulator) as other:
        with pytest.raises(OperationFailed, match="No capacity available") as caught:
            await other.clusters.ensure("trainer", "8xH100").result()
    assert caught.value.operation is not None
    assert [caught.value.operation.resource_id] == emulator.record.living
    assert emulator.record.by_route[CREATE] == 1


async def test_its_own_creation_may_fail(tp: TensorPool, emulator: Emulator) -> None:
    emulator.faults.add(Fault(FaultKind.FAILED, method="POST", path="/cluster/create"))
    with pytest.raises(OperationFailed, match="provider error"):
        await tp.clusters.ensure("trainer", "8xH100").result()


async def test_too_little_money_is_raised(tp: TensorPool, emulator: Emulator) -> None:
    emulator.balance = 1.0
    with pytest.raises(InsufficientBalance):
        await tp.clusters.ensure("trainer", "8xH100")
    assert emulator.record.living == []
    assert emulator.record.by_route[CREATE] == 1


async def test_too_little_money_after_a_lost_answer_is_unclear(
    odd_tp: TensorPool, scripted: ScriptedEngine
) -> None:
    scripted.handle(CREATE, drop)
    scripted.answer(CREATE, {"message": "too little"}, status=402)
    scripted.answer("GET /cluster/list", {"clusters": []})
    with pytest.raises(AmbiguousOutcomeError, match="look for 'trainer'") as caught:
        await odd_tp.clusters.ensure("trainer", "8xH100")
    assert isinstance(caught.value.__cause__, InsufficientBalance)


@pytest.mark.parametrize("kind", LOST)
async def test_lost_answers_end_in_one_cluster(kind: FaultKind, tp: TensorPool, emulator: Emulator) -> None:
    emulator.faults.add(once(kind, "/cluster/create", times=2))
    cluster = await tp.clusters.ensure("trainer", "8xH100").result()
    assert emulator.record.faults
    assert is_the_only_one(emulator, cluster)


@pytest.mark.parametrize("kind", [FaultKind.DROP_AFTER, FaultKind.CUT_JSON, None])
async def test_lists_that_lag_behind_do_not_mislead(
    kind: FaultKind | None, tp: TensorPool, emulator: Emulator
) -> None:
    emulator.faults.add(Fault(FaultKind.LIST_LAG, times=None, seconds=0.15))
    if kind is None:  # somebody else was a moment faster
        async with client_of(emulator) as other:
            await other.clusters.create("8xH100", name="trainer")
    else:
        emulator.faults.add(once(kind, "/cluster/create"))
    cluster = await tp.clusters.ensure("trainer", "8xH100").result()
    assert is_the_only_one(emulator, cluster)
    assert emulator.record.by_route[CREATE] >= 2


async def test_ensure_and_create_of_one_name_at_once(tp: TensorPool, emulator: Emulator) -> None:
    results = await asyncio.gather(
        tp.clusters.create("8xH100", name="first").result(),
        tp.clusters.ensure("first", "8xH100").result(),
        tp.clusters.ensure("second", "8xH100").result(),
        tp.clusters.create("8xH100", name="second").result(),
        return_exceptions=True,
    )
    made, joined, first, refused = results
    assert isinstance(made, Cluster)
    assert isinstance(joined, Cluster)
    assert made.id == joined.id
    assert isinstance(first, Cluster)
    assert isinstance(refused, ConflictError)
    assert sorted(emulator.record.living) == sorted([made.id, first.id])
    assert emulator.record.made_twice == []


@pytest.mark.parametrize("lag", [0.0, 0.1])
async def test_two_clients_at_once(lag: float, tp: TensorPool, emulator: Emulator) -> None:
    emulator.faults.add(Fault(FaultKind.LIST_LAG, times=None, seconds=lag))
    emulator.faults.add(once(FaultKind.DROP_AFTER, "/cluster/create"))
    async with client_of(emulator) as other:
        clusters = await asyncio.gather(
            *(
                client.clusters.ensure("trainer", "8xH100").result()
                for client in (tp, other)
                for _ in range(3)
            )
        )
    assert len({cluster.id for cluster in clusters}) == 1
    assert is_the_only_one(emulator, clusters[0])


async def test_what_it_would_need_is_checked_at_the_call(tp: TensorPool) -> None:
    with pytest.raises(ValueError, match="empty"):
        tp.clusters.ensure(" ", "8xH100")
    with pytest.raises(ValueError, match="num_nodes"):
        tp.clusters.ensure("trainer", "8xH100", num_nodes=0)


PROCESSES = 16
PROGRAM = """
import asyncio, json, os, sys
from tensorpool_async import PollPolicy, RetryPolicy, TensorPool

def tell(line):
    os.write(1, (line + "\\n").encode())  # all of it at once: the pipe is shared

async def main(key, url):
    retry, polling = RetryPolicy(backoff=0.02, longest_backoff=0.2), PollPolicy(initial=0.01, default=0.05)
    async with TensorPool(key, base_url=url, retry=retry, polling=polling) as tp:
        await tp.alive()
        tell("ready")
        await asyncio.to_thread(os.read, 0, 1)  # the end of the input is the start
        cluster = await tp.clusters.ensure("trainer", "8xH200", num_nodes=2).result()
        tell(json.dumps([os.getpid(), cluster.id, cluster.name, str(cluster.status), cluster.num_nodes]))

children = []
for _ in range(int(sys.argv[3])):  # forked, since each interpreter of its own takes long to start
    child = os.fork()
    if not child:
        asyncio.run(main(*sys.argv[1:3]))
        os._exit(0)
    children.append(child)
sys.exit(max(os.waitpid(child, 0)[1] != 0 for child in children))
"""


@pytest.mark.parametrize("faults", [False, True])
async def test_sixteen_processes_at_once_have_one_cluster_between_them(*, faults: bool) -> None:
    seed = 16
    async with Emulator(provision_seconds=0.3, retry_after=0.05, seed=seed) as emulator:
        emulator.faults.add(*(storm() if faults else []))
        program = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            PROGRAM,
            emulator.key,
            emulator.url,
            str(PROCESSES),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert program.stdout is not None
        for _ in range(PROCESSES):
            assert await asyncio.wait_for(program.stdout.readline(), 40) == b"ready\n"
        out, _ = await asyncio.wait_for(program.communicate(b""), 40)
        told = [json.loads(line) for line in out.decode().splitlines()]
        record = emulator.record
        assert program.returncode == 0
        assert len({process for process, *_ in told}) == PROCESSES
        assert [cluster for _, *cluster in told] == [[record.living[0], "trainer", "RUNNING", 2]] * PROCESSES
        assert len(record.living) == len(record.clusters_made) == 1
        assert record.made_twice == []
        assert record.by_route[CREATE] >= 2, "they were not at once, so the test shows nothing"
        assert bool(record.faults) == faults, f"faults of seed {seed}"


def storm() -> list[Fault]:
    rates = {
        FaultKind.DROP_BEFORE: 0.2,
        FaultKind.DROP_AFTER: 0.2,
        FaultKind.HTML_502: 0.1,
        FaultKind.CUT_JSON: 0.1,
    }
    return [
        *(
            Fault(kind, method="POST", path="/cluster/create", times=None, probability=rate)
            for kind, rate in rates.items()
        ),
        Fault(FaultKind.HTML_502, method="GET", path="/cluster/*", times=None, probability=0.05),
        Fault(FaultKind.LIST_LAG, times=None, seconds=0.1),
    ]
