"""`tp.storage` against the emulator (design, section 5)."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from tensorpool_async import (
    Cluster,
    ConflictError,
    InsufficientBalance,
    NotFound,
    OperationKind,
    PollPolicy,
    StatusError,
    StorageVolume,
    TensorPool,
)
from tensorpool_async.emulator import Emulator, Fault, FaultKind
from tests.support.scripted import ScriptedEngine, drop


@pytest.fixture(params=[False, True], ids=["with request ids", "without request ids"])
async def storage(request: pytest.FixtureRequest) -> AsyncGenerator[tuple[TensorPool, Emulator]]:
    polling = PollPolicy(default=0.02, initial=0.01)
    async with (
        Emulator(
            retry_after=0.02,
            no_request_ids=bool(request.param),
            provision_seconds=0.05,
            storage_seconds=0.05,
            attach_seconds=0.05,
            edit_seconds=0.05,
        ) as emulator,
        TensorPool(emulator.key, base_url=emulator.url, polling=polling) as tp,
    ):
        yield tp, emulator


async def test_a_volume_lives_and_dies(storage: tuple[TensorPool, Emulator]) -> None:
    tp, emulator = storage
    op = await tp.storage.create(100, name="data")
    assert op.kind is OperationKind.STORAGE_CREATE
    volume = await op
    assert isinstance(volume, StorageVolume)
    assert (volume.name, volume.size_gb, str(volume.status)) == ("data", 100, "READY")
    assert [one.id for one in await tp.storage.list()] == [volume.id]
    assert await tp.storage.list(organization=True) == []
    assert (await tp.storage.get(volume.id)).name == "data"
    assert await tp.storage.destroy(volume).result() is None
    assert emulator.record.living_volumes == []
    with pytest.raises(NotFound):
        await tp.storage.get(volume)


async def test_a_volume_grows_and_never_shrinks(storage: tuple[TensorPool, Emulator]) -> None:
    tp, _ = storage
    volume = await tp.storage.create(100).result()
    assert volume.name is not None
    assert volume.name.startswith("tpa-")
    grown = await tp.storage.edit(volume, size_gb=200, name="big", deletion_protection=True).result()
    assert (grown.size_gb, grown.name, grown.deletion_protection) == (200, "big", True)
    with pytest.raises(StatusError):
        await tp.storage.edit(volume, size_gb=100)
    with pytest.raises(ConflictError):
        await tp.storage.destroy(volume)


async def test_attaching_and_detaching_restart_the_nodes(storage: tuple[TensorPool, Emulator]) -> None:
    tp, _ = storage
    cluster = await tp.clusters.create("8xH200", num_nodes=2).result()
    volume = await tp.storage.create(100).result()
    op = await tp.storage.attach(volume, cluster)
    restarting = await tp.clusters.get(cluster)
    assert str(restarting.status) != "RUNNING"
    attached = await op
    assert attached.attached_clusters == (cluster.id,)
    assert (await tp.clusters.get(cluster)).storage == (volume.id,)
    with pytest.raises(ConflictError):
        await tp.storage.destroy(volume)
    detached = await tp.storage.detach(volume, cluster).result()
    assert detached.attached_clusters == ()


async def test_attach_sends_a_list_of_one_and_follows_every_request(
    odd_tp: TensorPool, scripted: ScriptedEngine
) -> None:
    request = {"request_type": "STORAGE_ATTACH", "created_at": "", "object_id": "s-1"}
    scripted.answer("POST /storage/attach", {"message": "", "request_ids": ["r-1", "r-2"]}, status=202)
    scripted.answer("GET /request/info/r-1", {**request, "request_id": "r-1", "status": "PROCESSING"})
    scripted.answer("GET /request/info/r-1", {**request, "request_id": "r-1", "status": "COMPLETED"})
    scripted.answer("GET /request/info/r-2", {**request, "request_id": "r-2", "status": "PROCESSING"})
    scripted.answer("GET /request/info/r-2", {**request, "request_id": "r-2", "status": "COMPLETED"})
    scripted.answer("GET /storage/info/s-1", {"storage_info": {"id": "s-1", "attached_clusters": ["c-1"]}})
    op = await odd_tp.storage.attach("s-1", "c-1")
    assert op.request_ids == ("r-1", "r-2")
    statuses = [str(info.status) async for info in op.updates()]
    assert statuses == ["PENDING", "PROCESSING", "COMPLETED"], "the first of two requests is not the end"
    assert (await op).attached_clusters == ("c-1",)
    assert scripted.seen[0].body == {"storage_id": "s-1", "cluster_ids": ["c-1"]}
    assert scripted.count("GET /request/info/r-2") == 2


async def test_detach_sends_one_cluster(odd_tp: TensorPool, scripted: ScriptedEngine) -> None:
    scripted.answer("POST /storage/detach", {"message": ""}, status=202)
    scripted.answer("GET /storage/info/s-1", {"storage_info": {"id": "s-1", "attached_clusters": ["c-1"]}})
    scripted.answer("GET /storage/info/s-1", {"storage_info": {"id": "s-1", "attached_clusters": []}})
    volume = await odd_tp.storage.detach("s-1", Cluster(id="c-1")).result()
    assert volume.attached_clusters == ()
    assert scripted.seen[0].body == {"storage_id": "s-1", "cluster_id": "c-1"}


async def test_a_volume_that_does_not_fit_a_cluster_is_a_conflict(
    storage: tuple[TensorPool, Emulator],
) -> None:
    tp, _ = storage
    cluster = await tp.clusters.create("1xH100").result()
    volume = await tp.storage.create(10).result()
    with pytest.raises(ConflictError):
        await tp.storage.attach(volume, cluster)


async def test_a_delete_that_was_carried_out_unseen_is_a_success(
    storage: tuple[TensorPool, Emulator],
) -> None:
    tp, emulator = storage
    volume = await tp.storage.create(10).result()
    emulator.faults.add(Fault(FaultKind.DROP_AFTER, method="DELETE"))
    assert await tp.storage.destroy(volume).result() is None
    assert emulator.record.living_volumes == []


async def test_a_conflict_of_a_repeated_delete_is_looked_into(
    odd_tp: TensorPool, scripted: ScriptedEngine
) -> None:
    scripted.handle("DELETE /storage/s-1", drop)
    scripted.answer("DELETE /storage/s-1", {"message": "busy"}, status=409)
    scripted.answer("GET /storage/info/s-1", {"storage_info": {"id": "s-1", "status": "destroying"}})
    scripted.answer("GET /storage/info/s-1", {"detail": "gone"}, status=404)
    assert await odd_tp.storage.destroy("s-1").result() is None


async def test_a_quote_is_usd_per_hour(storage: tuple[TensorPool, Emulator]) -> None:
    tp, _ = storage
    small, large = await tp.storage.quote(100), await tp.storage.quote(1000)
    assert large.hourly_rate == pytest.approx(10 * small.hourly_rate)


async def test_a_balance_that_does_not_cover_a_day_is_said() -> None:
    async with Emulator(balance=0.01) as emulator, TensorPool(emulator.key, base_url=emulator.url) as tp:
        with pytest.raises(InsufficientBalance):
            await tp.storage.create(100_000)


def test_what_cannot_work_is_refused_at_the_call() -> None:
    tp = TensorPool("key")
    with pytest.raises(ValueError, match="at least 1 GB"):
        tp.storage.create(0)
    with pytest.raises(ValueError, match="at least 1 GB"):
        tp.storage.edit("s-1", size_gb=-5)
    with pytest.raises(ValueError, match="nothing to change"):
        tp.storage.edit("s-1")
