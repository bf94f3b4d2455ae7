import asyncio
from typing import Any

import pytest

from tensorpool_async.emulator import Emulator, Fault, FaultKind
from tests.emulator.talk import Reply, Talk, talk_to


async def make(talk: Talk, size: int = 100, **fields: Any) -> str:
    created = await talk.post("/storage/create", json={"size": size, **fields})
    assert (await talk.end(created))[-1]["request_type"] == "STORAGE_CREATE"
    storage_id: str = created.json["storage_id"]
    return storage_id


async def volume(talk: Talk, storage_id: str) -> Any:
    return (await talk.get(f"/storage/info/{storage_id}")).json["storage_info"]


async def attach(talk: Talk, storage_id: str, *clusters: str) -> Reply:
    return await talk.post("/storage/attach", json={"storage_id": storage_id, "cluster_ids": clusters})


async def detach(talk: Talk, storage_id: str, cluster_id: str) -> Reply:
    return await talk.post("/storage/detach", json={"storage_id": storage_id, "cluster_id": cluster_id})


async def test_a_volume_comes_and_goes(talk: Talk, emulator: Emulator) -> None:
    created = await talk.post("/storage/create", json={"size": 500, "name": "data"})
    assert created.status == 202
    storage_id = created.json["storage_id"]
    assert storage_id.startswith("s-")
    assert (await volume(talk, storage_id))["status"] == "PENDING"
    await talk.end(created)
    made = await volume(talk, storage_id)
    assert (made["status"], made["name"], made["size_gb"]) == ("READY", "data", 500)
    listed = (await talk.get("/storage/list")).json
    assert [entry["id"] for entry in listed["volumes"]] == [storage_id]
    assert storage_id in listed["message"]
    assert emulator.record.living_volumes == [storage_id]
    destroyed = await talk.delete(f"/storage/{storage_id}")
    assert (await volume(talk, storage_id))["status"] == "DESTROYING"
    assert (await talk.end(destroyed))[-1]["request_type"] == "STORAGE_DESTROY"
    assert (await talk.get(f"/storage/info/{storage_id}")).status == 404
    assert (await talk.get("/storage/list")).json["volumes"] == []
    assert emulator.record.living_volumes == []
    assert await make(talk, name="data") != storage_id
    assert emulator.record.made_twice == []


async def test_names_of_volumes_are_their_own_and_are_no_ids(talk: Talk, emulator: Emulator) -> None:
    await talk.create(tp_cluster_name="data")
    await make(talk, name="data")
    assert (await talk.post("/storage/create", json={"size": 1, "name": "data"})).status == 409
    assert (await talk.get("/storage/info/data")).status == 404
    assert (await talk.get("/storage/list?include_org=true")).json["volumes"] == []
    assert len(emulator.record.volumes_made) == 1


async def test_a_volume_only_grows(talk: Talk, emulator: Emulator) -> None:
    storage_id = await make(talk, 100, name="old")
    before = await volume(talk, storage_id)
    path = f"/storage/edit/{storage_id}"
    assert (await talk.patch(path, json={"size_gb": 99})).status == 422
    edit = {"size_gb": 200, "tp_storage_name": "new", "deletion_protection": True}
    edited = await talk.patch(path, json=edit)
    assert (await talk.patch(path, json={"size_gb": 300})).status == 409
    assert (await talk.end(edited))[-1]["request_type"] == "STORAGE_EDIT"
    after = await volume(talk, storage_id)
    assert (after["size_gb"], after["name"], after["deletion_protection"]) == (200, "new", True)
    assert after["hourly_rate"] == pytest.approx(2 * before["hourly_rate"])
    assert emulator.hourly_rate == pytest.approx(after["hourly_rate"])
    assert (await talk.delete(f"/storage/{storage_id}")).status == 409
    assert (await talk.patch(path, json={})).status == 422
    await make(talk, name="old")
    assert (await talk.patch(path, json={"tp_storage_name": "old"})).status == 409


async def test_a_volume_is_quoted_charged_and_needs_a_day_of_balance(talk: Talk, emulator: Emulator) -> None:
    rate = (await talk.get("/storage/quote?size_gb=1000")).json["hourly_rate"]
    assert rate == pytest.approx(0.137, abs=0.001)
    assert (await talk.get("/storage/quote?size_gb=0")).status == 422
    emulator.balance = 24 * rate - 0.01
    assert (await talk.post("/storage/create", json={"size": 1000})).status == 402
    emulator.balance = 24 * rate + 0.01
    storage_id = await make(talk, 1000)
    before = emulator.balance
    await asyncio.sleep(0.1)
    assert emulator.balance < before
    await talk.end(await talk.delete(f"/storage/{storage_id}"))
    assert emulator.hourly_rate == 0


async def test_attaching_restarts_the_nodes(talk: Talk, emulator: Emulator) -> None:
    cluster_id, storage_id = await talk.running("8xB200", num_nodes=2), await make(talk)
    attached = await attach(talk, storage_id, cluster_id)
    assert attached.status == 202
    assert (await talk.cluster(cluster_id))["status"] == "CONFIGURING"
    assert (await detach(talk, storage_id, cluster_id)).status == 409
    assert (await talk.delete(f"/cluster/{cluster_id}")).status == 409
    (request_id,) = attached.json["request_ids"]
    assert (await talk.end_of(request_id))[-1]["request_type"] == "STORAGE_ATTACH"
    cluster = await talk.cluster(cluster_id)
    assert (cluster["status"], cluster["storage"]) == ("RUNNING", [storage_id])
    assert (await volume(talk, storage_id))["attached_clusters"] == [cluster_id]
    assert [instance.restarts for instance in emulator.clusters[cluster_id].instances] == [1, 1, 1]
    operations = (await talk.get(f"/cluster/operations/{cluster_id}?type=STORAGE_ATTACH")).json["operations"]
    assert [operation["request_id"] for operation in operations] == [request_id]

    assert (await attach(talk, storage_id, cluster_id)).status == 409
    assert (await talk.delete(f"/storage/{storage_id}")).status == 409
    detached = await detach(talk, storage_id, cluster_id)
    assert (await talk.end(detached))[-1]["request_type"] == "STORAGE_DETACH"
    assert (await talk.cluster(cluster_id))["storage"] == []
    assert (await detach(talk, storage_id, cluster_id)).status == 409
    assert [instance.restarts for instance in emulator.clusters[cluster_id].instances] == [2, 2, 2]
    assert (await talk.delete(f"/storage/{storage_id}")).status == 202


async def test_which_clusters_take_a_volume(talk: Talk) -> None:
    storage_id = await make(talk)
    cpu, gpu = await talk.running("32xCPU"), await talk.running("8xB200")
    assert (await attach(talk, storage_id, gpu)).status == 409
    assert (await attach(talk, storage_id, cpu, gpu)).status == 409
    assert (await attach(talk, storage_id, "c-1")).status == 404
    assert (await attach(talk, "s-1", cpu)).status == 404
    assert (await attach(talk, storage_id)).status == 422
    assert (await attach(talk, storage_id, cpu)).status == 202


async def test_a_volume_on_several_clusters(talk: Talk) -> None:
    storage_id = await make(talk)
    clusters = [await talk.running("32xCPU") for _ in range(2)]
    attached = await attach(talk, storage_id, clusters[0], clusters[1], clusters[0])
    assert len(attached.json["request_ids"]) == 2
    for request_id in attached.json["request_ids"]:
        await talk.end_of(request_id)
    assert (await volume(talk, storage_id))["attached_clusters"] == clusters
    await talk.end(await talk.delete(f"/cluster/{clusters[0]}"))
    assert (await volume(talk, storage_id))["attached_clusters"] == clusters[1:]


async def test_only_what_is_ready_and_running_is_attached() -> None:
    async with Emulator(provision_seconds=60, storage_seconds=60) as emulator, talk_to(emulator) as talk:
        cluster_id = (await talk.create("32xCPU")).json["cluster_id"]
        storage_id = (await talk.post("/storage/create", json={"size": 1})).json["storage_id"]
        assert (await attach(talk, storage_id, cluster_id)).status == 409
        assert (await talk.delete(f"/storage/{storage_id}")).status == 409


async def test_faults_strike_volumes_too(talk: Talk, emulator: Emulator) -> None:
    emulator.faults.add(Fault(FaultKind.LIST_LAG, seconds=60, times=2), Fault(FaultKind.FAILED))
    created = await talk.post("/storage/create", json={"size": 1})
    storage_id = created.json["storage_id"]
    assert (await talk.get("/storage/list")).json["volumes"] == []
    assert (await talk.get(f"/storage/info/{storage_id}")).status == 404
    assert (await talk.end(created))[-1]["status"] == "FAILED"
    assert (await volume(talk, storage_id))["status"] == "FAILED"
    cluster_id = await talk.running("32xCPU")
    assert (await attach(talk, storage_id, cluster_id)).status == 409
    await talk.end(await talk.delete(f"/storage/{storage_id}"))


async def test_an_attach_that_fails_changes_nothing(talk: Talk, emulator: Emulator) -> None:
    cluster_id, storage_id = await talk.running("32xCPU"), await make(talk)
    emulator.faults.add(Fault(FaultKind.FAILED, path="/storage/attach"))
    attached = await attach(talk, storage_id, cluster_id)
    assert (await talk.end_of(attached.json["request_ids"][0]))[-1]["status"] == "FAILED"
    cluster = await talk.cluster(cluster_id)
    assert (cluster["status"], cluster["storage"]) == ("RUNNING", [])
    assert (await attach(talk, storage_id, cluster_id)).status == 202


async def test_a_202_of_an_attach_without_its_request_ids(talk: Talk, emulator: Emulator) -> None:
    cluster_id, storage_id = await talk.running("32xCPU"), await make(talk)
    emulator.faults.add(Fault(FaultKind.NO_REQUEST_ID))
    assert (await attach(talk, storage_id, cluster_id)).json["request_ids"] == []


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/storage/create", {}),
        ("/storage/create", {"size": 0}),
        ("/storage/create", {"size": 1.5}),
        ("/storage/create", {"size": 10**400}),
        ("/storage/create", {"size": 1, "name": ""}),
        ("/storage/attach", {"storage_id": "s-1"}),
        ("/storage/attach", {"storage_id": "s-1", "cluster_ids": "c-1"}),
        ("/storage/detach", {"storage_id": "s-1"}),
    ],
)
async def test_bodies_that_are_not_sound(talk: Talk, path: str, fields: dict[str, Any]) -> None:
    refused = await talk.post(path, json=fields)
    assert refused.status == 422
    assert len(refused.json["detail"]) == 1
