"""A change whose answer was lost is looked for, and never made twice (design, section 7)."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from tensorpool_async import (
    AmbiguousOutcomeError,
    Cluster,
    ClusterStatus,
    ConflictError,
    InsufficientBalance,
    OperationFailed,
    PollPolicy,
    RateLimiter,
    RequestTimeout,
    RetryPolicy,
    StorageVolume,
    Submission,
    TensorPool,
    WrongEventLoopError,
)
from tensorpool_async.emulator import Emulator, Fault, FaultKind
from tensorpool_async.protocol.requests import Lane
from tests.support.scripted import ScriptedEngine, drop


LOST = [
    FaultKind.DROP_BEFORE,
    FaultKind.DROP_AFTER,
    FaultKind.HTML_502,
    FaultKind.HTML_502_AFTER,
    FaultKind.CUT_JSON,
    FaultKind.CUT_BODY,
    FaultKind.ERROR_500,
    FaultKind.STALL,
]
QUICK = RetryPolicy(backoff=0.01, longest_backoff=0.05)


@pytest.fixture
async def client(emulator: Emulator) -> AsyncGenerator[TensorPool]:
    polling = PollPolicy(initial=0.01)
    async with TensorPool(emulator.key, base_url=emulator.url, retry=QUICK, polling=polling) as tp:
        yield tp


def once(kind: FaultKind, path: str, *, method: str = "POST", times: int = 1) -> Fault:
    return Fault(kind, method=method, path=path, times=times, seconds=0.1)


@pytest.mark.parametrize("kind", LOST)
@pytest.mark.parametrize("name", ["mine", None])
async def test_a_create_whose_answer_is_lost_ends_in_one_cluster(
    kind: FaultKind, name: str | None, client: TensorPool, emulator: Emulator
) -> None:
    emulator.faults.add(once(kind, "/cluster/create", times=2))
    op = await client.clusters.create("8xH100", name=name)
    assert op.request_id in emulator.requests, "the lost request id is found out"
    cluster = await op
    assert cluster.status is ClusterStatus.RUNNING
    assert emulator.record.living == [cluster.id]
    assert [made.id for made in emulator.record.clusters_made] == [cluster.id]
    assert emulator.record.faults, "no fault struck, so the test shows nothing"


@pytest.mark.parametrize("kind", LOST)
async def test_a_volume_whose_answer_is_lost_is_one_volume(kind: FaultKind) -> None:
    async with (
        Emulator(storage_seconds=0.05, retry_after=0.02) as emulator,
        TensorPool(emulator.key, base_url=emulator.url, retry=QUICK, polling=PollPolicy(default=0.02)) as tp,
    ):
        emulator.faults.add(once(kind, "/storage/create"))
        volume = await tp.storage.create(10, name="data").result()
        assert isinstance(volume, StorageVolume)
        assert emulator.record.living_volumes == [volume.id]
        assert len(emulator.record.volumes_made) == 1


async def test_a_cluster_that_was_there_before_is_never_adopted(
    client: TensorPool, emulator: Emulator
) -> None:
    async with TensorPool(emulator.key, base_url=emulator.url) as other:
        theirs = await other.clusters.create("8xH100", name="taken").result()
    await asyncio.sleep(3.0)  # the engine's clock is known to two seconds
    emulator.faults.add(once(FaultKind.DROP_BEFORE, "/cluster/create"))
    with pytest.raises(ConflictError, match=f"{theirs.id}, which was there before"):
        await client.clusters.create("8xH100", name="taken")
    assert emulator.record.living == [theirs.id]


async def test_what_was_made_while_a_create_queued_is_never_adopted(emulator: Emulator) -> None:
    limiter = RateLimiter(max_in_flight=1)
    client = TensorPool(emulator.key, base_url=emulator.url, retry=QUICK, limiter=limiter)
    async with client, TensorPool(emulator.key, base_url=emulator.url) as other:
        granted_at = await limiter.acquire()
        queued = asyncio.ensure_future(client.clusters.create("8xH100", name="taken").result())
        await asyncio.sleep(0.1)
        theirs = await other.clusters.create("8xH100", name="taken").result()
        await asyncio.sleep(3.0)  # the engine's clock is known to two seconds
        emulator.faults.add(once(FaultKind.DROP_BEFORE, "/cluster/create"))
        limiter.release(granted_at)
        with pytest.raises(ConflictError, match=f"{theirs.id}, which was there before"):
            await queued
    assert emulator.record.living == [theirs.id]


@pytest.mark.parametrize("kind", [FaultKind.DROP_BEFORE, FaultKind.DROP_AFTER, FaultKind.HTML_502])
async def test_two_callers_of_one_name_get_one_cluster_and_one_conflict(
    kind: FaultKind, client: TensorPool, emulator: Emulator
) -> None:
    emulator.faults.add(once(kind, "/cluster/create", times=3))
    results = await asyncio.gather(
        *(client.clusters.create("8xH100", name="raced").result() for _ in range(2)), return_exceptions=True
    )
    assert sorted(type(result).__name__ for result in results) == ["Cluster", "ConflictError"]
    assert len(emulator.record.living) == 1


async def test_a_list_that_lags_behind_does_not_mislead(client: TensorPool, emulator: Emulator) -> None:
    emulator.faults.add(Fault(FaultKind.LIST_LAG, times=None, seconds=0.15))
    emulator.faults.add(once(FaultKind.DROP_AFTER, "/cluster/create"))
    cluster = await client.clusters.create("8xH100", name="late").result()
    assert emulator.record.living == [cluster.id]
    assert emulator.record.by_route["POST /cluster/create"] == 2
    assert emulator.record.made_twice == []


async def test_an_engine_that_knows_no_operations_is_polled_by_the_cluster(
    odd_tp: TensorPool, scripted: ScriptedEngine
) -> None:
    scripted.handle("POST /cluster/create", drop)
    cluster = {"id": "c-1", "name": "mine", "status": "RUNNING", "created_at": "2999-01-01T00:00:00Z"}
    scripted.answer("GET /cluster/info/mine", {"cluster_info": cluster})
    scripted.answer("GET /cluster/info/c-1", {"cluster_info": cluster})
    op = await odd_tp.clusters.create("8xH100", name="mine")
    assert (op.resource_id, op.request_id) == ("c-1", None)
    assert (await op).id == "c-1"


async def test_a_cluster_of_unknown_age_is_not_adopted(odd_tp: TensorPool, scripted: ScriptedEngine) -> None:
    scripted.handle("POST /cluster/create", drop)
    scripted.answer("GET /cluster/info/mine", {"cluster_info": {"id": "c-1", "name": "mine"}})
    with pytest.raises(AmbiguousOutcomeError) as caught:
        await odd_tp.clusters.create("8xH100", name="mine")
    assert caught.value.name == "mine"
    assert "c-1" in "".join(caught.value.__notes__)
    assert pickle.loads(pickle.dumps(caught.value)).name == "mine"


async def test_a_random_name_is_proof_enough(odd_tp: TensorPool, scripted: ScriptedEngine) -> None:
    scripted.handle("POST /cluster/create", drop)
    submission = odd_tp.clusters.create("8xH100")
    assert submission.name is not None
    assert submission.name.startswith("tpa-")
    found = {"cluster_info": {"id": "c-1", "name": submission.name, "status": "RUNNING"}}
    scripted.answer(f"GET /cluster/info/{submission.name}", found)
    assert (await submission).resource_id == "c-1"


async def test_an_outage_is_ambiguous_and_has_the_name(odd_tp: TensorPool, scripted: ScriptedEngine) -> None:
    scripted.answer("POST /cluster/create", "down", status=502)
    scripted.answer("GET /cluster/info/mine", "down", status=502)
    with pytest.raises(AmbiguousOutcomeError, match="mine") as caught:
        await odd_tp.clusters.create("8xH100", name="mine")
    assert scripted.count("POST /cluster/create") == 1
    assert "looking for it failed" in "".join(caught.value.__notes__)


async def test_a_refusal_after_a_lost_answer_is_ambiguous(
    client: TensorPool, odd_tp: TensorPool, scripted: ScriptedEngine
) -> None:
    scripted.handle("POST /cluster/create", drop)
    scripted.answer("POST /cluster/create", {"message": "too little"}, status=402)
    scripted.answer("GET /cluster/list", {"clusters": []})
    with pytest.raises(AmbiguousOutcomeError) as caught:
        await odd_tp.clusters.create("8xH100", name="mine")
    assert isinstance(caught.value.__cause__, InsufficientBalance)


async def test_an_edit_whose_answer_is_lost_is_looked_at(client: TensorPool, emulator: Emulator) -> None:
    cluster = await client.clusters.create("8xH100", name="old").result()
    emulator.faults.add(once(FaultKind.DROP_AFTER, "/cluster/edit/*", method="PATCH"))
    edited = await client.clusters.edit(cluster, name="new", deletion_protection=True).result()
    assert (edited.name, edited.deletion_protection) == ("new", True)
    assert emulator.record.by_route["PATCH /cluster/edit/{cluster}"] == 1
    emulator.faults.add(once(FaultKind.DROP_BEFORE, "/cluster/edit/*", method="PATCH"))
    with pytest.raises(AmbiguousOutcomeError):
        await client.clusters.edit(cluster, name="newer")
    assert emulator.record.by_route["PATCH /cluster/edit/{cluster}"] == 2, "it is not sent again"


async def test_attach_and_detach_whose_answers_are_lost_are_looked_at() -> None:
    async with (
        Emulator(
            provision_seconds=0.05, storage_seconds=0.05, attach_seconds=0.05, retry_after=0.02
        ) as emulator,
        TensorPool(emulator.key, base_url=emulator.url, retry=QUICK, polling=PollPolicy(default=0.02)) as tp,
    ):
        cluster, volume = await asyncio.gather(
            tp.clusters.create("8xH200", num_nodes=2).result(), tp.storage.create(10).result()
        )
        emulator.faults.add(once(FaultKind.DROP_AFTER, "/storage/attach"))
        assert (await tp.storage.attach(volume, cluster).result()).attached_clusters == (cluster.id,)
        emulator.faults.add(once(FaultKind.CUT_JSON, "/storage/detach"))
        assert (await tp.storage.detach(volume, cluster).result()).attached_clusters == ()
        assert emulator.record.by_route["POST /storage/attach"] == 1
        assert emulator.record.by_route["POST /storage/detach"] == 1


async def test_a_storm_of_lost_answers_makes_every_cluster_once() -> None:
    faults = [
        Fault(kind, method="POST", path="/cluster/create", times=None, probability=probability)
        for kind, probability in [
            (FaultKind.DROP_AFTER, 0.10),
            (FaultKind.DROP_BEFORE, 0.10),
            (FaultKind.HTML_502, 0.05),
            (FaultKind.CUT_JSON, 0.05),
        ]
    ]
    async with (
        Emulator(provision_seconds=0.5, retry_after=0.5, seed=5, faults=faults) as emulator,
        TensorPool(emulator.key, base_url=emulator.url) as tp,
    ):
        names = [f"w{index}" for index in range(200)]
        clusters = await asyncio.gather(*(tp.clusters.create("8xH100", name=name).result() for name in names))
        assert all(isinstance(cluster, Cluster) for cluster in clusters)
        assert [cluster.name for cluster in clusters] == names
        assert sorted(cluster.id for cluster in clusters) == sorted(emulator.record.living)
        assert len(emulator.record.clusters_made) == 200
        assert emulator.record.made_twice == []
        assert len(emulator.record.faults) > 40


async def test_a_destroy_that_fails_although_its_answer_was_lost(
    client: TensorPool, emulator: Emulator
) -> None:
    cluster = await client.clusters.create("8xH100").result()
    emulator.faults.add(once(FaultKind.DROP_AFTER, "/cluster/*", method="DELETE"))
    emulator.faults.add(Fault(FaultKind.FAILED, method="DELETE"))
    with pytest.raises(OperationFailed, match="it is FAILED"):
        await client.clusters.destroy(cluster).result(5)
    assert emulator.record.living == [cluster.id]


def cluster_is(status: str) -> dict[str, Any]:
    return {"cluster_info": {"id": "c-1", "status": status}}


async def test_a_destroy_that_fails_before_it_is_polled(scripted: ScriptedEngine) -> None:
    scripted.handle("DELETE /cluster/c-1", drop)
    scripted.answer("DELETE /cluster/c-1", {"message": "it is being changed"}, status=409)
    scripted.answer("GET /cluster/info/c-1", cluster_is("DESTROYING"))
    scripted.answer("GET /cluster/info/c-1", cluster_is("FAILED"))
    async with TensorPool("scripted-key", base_url=scripted.url, retry=QUICK) as tp:
        with pytest.raises(OperationFailed, match="it is FAILED"):
            await tp.clusters.destroy("c-1").result(5)


async def test_a_destroy_of_somebody_elses_that_fails_before_it_is_polled(scripted: ScriptedEngine) -> None:
    scripted.answer("GET /cluster/operations/c-1", "no such endpoint", status=404)
    scripted.answer("GET /cluster/info/c-1", cluster_is("RUNNING"))
    async with TensorPool("scripted-key", base_url=scripted.url, retry=QUICK) as tp:
        operation = await tp.clusters.lifecycle.destruction_of("c-1")
        with pytest.raises(OperationFailed, match="it is RUNNING"):
            await operation.result(5)


class Late(RateLimiter):
    """A limiter of somebody's own that lets no change through, and does not say that nothing was sent."""

    async def acquire(self, lane: Lane = Lane.READ) -> float:
        if lane is Lane.CHANGE:
            raise RequestTimeout("it takes too long")
        return await super().acquire(lane)


async def test_nothing_is_adopted_by_a_create_that_was_never_sent(emulator: Emulator) -> None:
    async with TensorPool(emulator.key, base_url=emulator.url) as other:
        theirs = await other.clusters.create("8xH100", name="taken").result()
    await asyncio.sleep(3.0)  # the engine's clock is known to two seconds
    async with TensorPool(emulator.key, base_url=emulator.url, retry=QUICK, limiter=Late()) as client:
        with pytest.raises(ConflictError, match=f"{theirs.id}, which was there before"):
            await client.clusters.create("8xH100", name="taken")


@pytest.mark.parametrize("way", ["create", "ensure"])
async def test_another_loop_is_refused_also_where_the_name_is_in_use(emulator: Emulator, way: str) -> None:
    limiter = RateLimiter(max_in_flight=1)
    async with TensorPool(emulator.key, base_url=emulator.url, limiter=limiter) as tp:
        granted_at = await limiter.acquire()
        creating = asyncio.ensure_future(tp.clusters.create("8xH100", name="mine").result())
        await asyncio.sleep(0.05)

        def submission() -> Submission[Cluster]:
            return (
                tp.clusters.ensure("mine", "8xH100")
                if way == "ensure"
                else tp.clusters.create("8xH100", name="mine")
            )

        async def elsewhere() -> None:
            async with asyncio.timeout(5):
                await submission()

        with pytest.raises(WrongEventLoopError):
            await asyncio.to_thread(asyncio.run, elsewhere())
        limiter.release(granted_at)
        assert (await creating).name == "mine"
