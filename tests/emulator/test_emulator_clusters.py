import asyncio
import itertools
import time
from typing import Any

import pytest

from tensorpool_async.emulator import PRICES, Emulator
from tests.emulator.talk import Talk, talk_to


async def test_a_create_is_accepted_with_its_ids(talk: Talk, emulator: Emulator) -> None:
    created = await talk.create("8xH100", tp_cluster_name="w0")
    assert created.status == 202
    assert created.json["cluster_id"].startswith("c-")
    assert created.json["request_id"].startswith("r-")
    assert [i[:2] for i in created.json["instance_ids"]] == ["i-"]
    assert emulator.clusters[created.json["cluster_id"]].name == "w0"
    assert emulator.requests[created.json["request_id"]].object_id == created.json["cluster_id"]


async def test_a_cluster_passes_through_its_states_and_then_has_an_address() -> None:
    async with Emulator(provision_seconds=1) as emulator, talk_to(emulator) as talk:
        created = await talk.create("1xH100", tp_cluster_name="w0")
        seen = [await talk.cluster("w0")]
        while seen[-1]["status"] != "RUNNING":
            await asyncio.sleep(0.005)
            seen.append(await talk.cluster("w0"))
    states = [status for status, _ in itertools.groupby(cluster["status"] for cluster in seen)]
    assert states == ["PENDING", "PROVISIONING", "CONFIGURING", "RUNNING"]
    assert all(c["instances"][0]["ip_address"] is None for c in seen[:-1])
    assert seen[-1]["instances"][0]["ip_address"].startswith("198.18.")
    assert seen[-1]["instances"][0]["status"] == "RUNNING"
    assert seen[-1]["id"] == created.json["cluster_id"]
    assert seen[-1]["hourly_rate"] == PRICES["1xH100"]


async def test_a_request_passes_through_its_states_and_tells_no_pace_at_its_end(talk: Talk) -> None:
    created = await talk.create()
    states = await talk.end(created)
    kept = [status for status, _ in itertools.groupby(state["status"] for state in states)]
    assert kept in (["PENDING", "PROCESSING", "COMPLETED"], ["PROCESSING", "COMPLETED"])
    assert states[-1]["request_type"] == "CLUSTER_CLAIM"
    assert states[-1]["object_id"] == created.json["cluster_id"]
    last = await talk.get(f"/request/info/{created.json['request_id']}")
    assert "Retry-After" not in last.headers


async def test_only_the_jumphost_of_a_multi_node_cluster_is_public(talk: Talk) -> None:
    cluster_id = await talk.running("8xB200", num_nodes=2)
    jumphost, *workers = (await talk.cluster(cluster_id))["instances"]
    assert jumphost["name"] == f"{cluster_id}-jumphost"
    assert jumphost["ip_address"]
    assert [worker["name"] for worker in workers] == [f"{cluster_id}-0", f"{cluster_id}-1"]
    assert [worker["ip_address"] for worker in workers] == [None, None]
    assert all(worker["private_ip_address"].startswith("10.") for worker in workers)


async def test_addresses_and_ids_are_never_given_twice() -> None:
    async with Emulator(speed=1000, provision_seconds=1) as emulator, talk_to(emulator) as talk:
        for number in range(300):
            await talk.create(tp_cluster_name=f"w{number}")
        await asyncio.sleep(0.1)
        instances = [i for c in emulator.clusters.values() for i in c.instances]
        assert len({i.ip_address for i in instances}) == len({i.id for i in instances}) == 300


@pytest.mark.parametrize("by", ["id", "name"])
async def test_a_destroyed_cluster_is_hidden_and_its_name_free(
    talk: Talk, emulator: Emulator, by: str
) -> None:
    cluster_id = await talk.running(tp_cluster_name="w 0/é")
    destroyed = await talk.delete(f"/cluster/{cluster_id if by == 'id' else 'w%200%2F%C3%A9'}")
    assert destroyed.json["cluster_id"] == cluster_id
    assert (await talk.cluster(cluster_id))["status"] == "DESTROYING"
    await talk.end(destroyed)
    assert (await talk.get(f"/cluster/info/{cluster_id}")).status == 404
    assert (await talk.delete(f"/cluster/{cluster_id}")).status == 404
    assert (await talk.get("/cluster/list")).json == {"message": "No clusters found", "clusters": []}
    assert emulator.clusters[cluster_id].status == "DESTROYED"
    assert emulator.record.living == []
    await talk.running(tp_cluster_name="w 0/é")
    assert emulator.record.made_twice == []


async def test_a_name_is_used_by_one_living_cluster(talk: Talk, emulator: Emulator) -> None:
    await talk.create(tp_cluster_name="w0")
    again = await talk.create(tp_cluster_name="w0")
    assert again.status == 409
    assert "w0" in again.json["detail"]
    assert len(emulator.record.clusters_made) == 1


async def test_what_a_request_is_changing_cannot_be_changed_by_another(
    talk: Talk, emulator: Emulator
) -> None:
    created = await talk.create(tp_cluster_name="w0")
    assert (await talk.delete("/cluster/w0")).status == 409
    assert (await talk.patch("/cluster/edit/w0", json={"cluster_name": "w1"})).status == 409
    await talk.end(created)
    destroyed = await talk.delete("/cluster/w0")
    assert destroyed.status == 202
    assert (await talk.delete("/cluster/w0")).status == 409
    await talk.end(destroyed)
    assert emulator.record.destroys_before_ready == 1, "the first one came too early, and was refused"


async def test_deletion_protection_must_be_off_before_a_destroy(talk: Talk) -> None:
    cluster_id = await talk.running(deletion_protection=True)
    refused = await talk.delete(f"/cluster/{cluster_id}")
    assert refused.status == 409
    assert "protection" in refused.json["message"]
    edited = await talk.patch(f"/cluster/edit/{cluster_id}", json={"deletion_protection": False})
    assert (await talk.cluster(cluster_id))["deletion_protection"] is True
    assert (await talk.end(edited))[-1]["request_type"] == "CLUSTER_EDIT"
    assert (await talk.cluster(cluster_id))["deletion_protection"] is False
    await talk.end(await talk.delete(f"/cluster/{cluster_id}"))


async def test_an_edit_renames(talk: Talk, emulator: Emulator) -> None:
    await talk.running(tp_cluster_name="other")
    cluster_id = await talk.running(tp_cluster_name="old")
    assert (await talk.patch("/cluster/edit/old", json={"cluster_name": "other"})).status == 409
    await talk.end(await talk.patch("/cluster/edit/old", json={"cluster_name": "new"}))
    assert (await talk.cluster("new"))["id"] == cluster_id
    assert (await talk.get("/cluster/info/old")).status == 404
    await talk.running(tp_cluster_name="old")
    assert emulator.record.made_twice == []


async def test_without_capacity_the_request_fails_and_the_cluster_stays_to_be_destroyed() -> None:
    async with (
        Emulator(speed=100, provision_seconds=10, retry_after=0.02, capacity={"8xB200": 2}) as emulator,
        talk_to(emulator) as talk,
    ):
        held = await talk.running("8xB200", num_nodes=2)
        refused = await talk.create("8xB200", tp_cluster_name="w1")
        last = (await talk.end(refused))[-1]
        assert last["status"] == "FAILED"
        assert "capacity" in last["external_message"]
        assert "8xB200" in last["external_message"]
        assert (await talk.cluster("w1"))["status"] == "FAILED"
        assert (await talk.create("8xB200", tp_cluster_name="w1")).status == 409
        assert set(emulator.record.living) == {held, refused.json["cluster_id"]}
        await talk.running("8xH200")
        await talk.end(await talk.delete("/cluster/w1"))
        await talk.end(await talk.delete(f"/cluster/{held}"))
        await talk.running("8xB200")


async def test_a_create_needs_a_day_of_balance(talk: Talk, emulator: Emulator) -> None:
    emulator.balance = 24 * PRICES["8xB200"] * 2 - 0.01
    refused = await talk.create("8xB200", num_nodes=2)
    assert refused.status == 402
    assert "balance" in refused.json["message"].lower()
    assert emulator.record.clusters_made == []
    assert (await talk.create("8xB200")).status == 202


async def test_running_clusters_are_charged_by_the_emulated_hour() -> None:
    async with (
        Emulator(
            speed=36_000, provision_seconds=0, destroy_seconds=3600, balance=1000, retry_after=0.01
        ) as emulator,
        talk_to(emulator) as talk,
    ):
        cluster_id = await talk.running("1xH100")
        before, at = emulator.balance, asyncio.get_running_loop().time()
        await asyncio.sleep(0.1)
        hours = (asyncio.get_running_loop().time() - at) * 10
        assert before - emulator.balance == pytest.approx(hours * PRICES["1xH100"], rel=0.1)
        await talk.end(await talk.delete(f"/cluster/{cluster_id}"))
        assert emulator.hourly_rate == 0


async def test_only_what_runs_is_charged(talk: Talk, emulator: Emulator) -> None:
    created = await talk.create("1xH100")
    assert emulator.hourly_rate == 0
    await talk.end(created)
    other = await talk.running("8xB200", num_nodes=2)
    assert emulator.hourly_rate == pytest.approx(PRICES["1xH100"] + 2 * PRICES["8xB200"])
    destroyed = await talk.delete(f"/cluster/{other}")
    assert emulator.hourly_rate == pytest.approx(PRICES["1xH100"])
    await talk.end(destroyed)
    assert emulator.hourly_rate == pytest.approx(PRICES["1xH100"])


async def test_a_lack_of_capacity_is_known_soon() -> None:
    async with (
        Emulator(provision_seconds=10, capacity={"8xB200": 0}, retry_after=0.1) as emulator,
        talk_to(emulator) as talk,
    ):
        started = time.monotonic()
        assert (await talk.end(await talk.create("8xB200")))[-1]["status"] == "FAILED"
        assert time.monotonic() - started < 5


async def test_the_record_sees_what_must_not_happen(talk: Talk, emulator: Emulator) -> None:
    created = await talk.create(tp_cluster_name="w0")
    # As if the engine forgot to refuse.
    emulator.clusters[created.json["cluster_id"]].busy = None
    assert (await talk.delete("/cluster/w0")).status == 202
    assert emulator.record.destroys_before_ready == 1


async def test_operations_are_told_newest_first_and_filtered_in_any_case(talk: Talk) -> None:
    cluster_id = await talk.running(tp_cluster_name="w0")
    await talk.end(await talk.patch("/cluster/edit/w0", json={"deletion_protection": False}))
    await talk.delete("/cluster/w0")

    async def kinds(query: str) -> list[str]:
        answer = await talk.get(f"/cluster/operations/{cluster_id}{query}")
        return [operation["request_type"] for operation in answer.json["operations"]]

    assert await kinds("") == ["CLUSTER_RELEASE", "CLUSTER_EDIT", "CLUSTER_CLAIM"]
    assert await kinds("?type=cluster_edit") == ["CLUSTER_EDIT"]
    assert await kinds("?status=Completed") == ["CLUSTER_EDIT", "CLUSTER_CLAIM"]
    assert (await talk.get(f"/cluster/operations/{cluster_id}?type=x")).status == 422
    assert (await talk.get("/cluster/operations/other")).status == 404


async def test_lists_are_personal_and_read_well(talk: Talk) -> None:
    cluster_id = await talk.running("8xB200", num_nodes=2, tp_cluster_name="w0")
    listed = await talk.get("/cluster/list?include_org=False")
    assert [cluster["id"] for cluster in listed.json["clusters"]] == [cluster_id]
    assert len(listed.json["message"].splitlines()) == 5
    assert f"{cluster_id}-jumphost" not in listed.json["message"]
    assert f"{cluster_id}-jumphost" in (await talk.get("/cluster/list?instances=TRUE")).json["message"]
    assert (await talk.get("/cluster/list?include_org=true")).json["clusters"] == []
    assert (await talk.get("/cluster/list?include_org=perhaps")).status == 422


async def test_a_quote_is_for_all_nodes(talk: Talk) -> None:
    quoted = await talk.get("/cluster/quote?instance_type=8xB200&num_nodes=3")
    assert quoted.json == {"hourly_rate": round(3 * PRICES["8xB200"], 2)}
    assert (await talk.get("/cluster/quote")).status == 422
    assert (await talk.get("/cluster/quote?instance_type=9xX1")).status == 422
    for wrong in ("0", "two", "1.5", "9" * 400):
        assert (await talk.get(f"/cluster/quote?instance_type=8xB200&num_nodes={wrong}")).status == 422


@pytest.mark.parametrize(
    ("fields", "loc"),
    [
        ({}, ["body", "instance_type"]),
        ({"instance_type": None}, ["body", "instance_type"]),
        ({"instance_type": 8}, ["body", "instance_type"]),
        ({"instance_type": "9xX1"}, ["body", "instance_type"]),
        ({"instance_type": "1xH100", "num_nodes": 0}, ["body", "num_nodes"]),
        ({"instance_type": "1xH100", "num_nodes": 2}, ["body", "num_nodes"]),
        ({"instance_type": "1xH100", "num_nodes": True}, ["body", "num_nodes"]),
        ({"instance_type": "8xH100", "num_nodes": 1001}, ["body", "num_nodes"]),
        ({"instance_type": "1xH100", "num_nodes": "2"}, ["body", "num_nodes"]),
        ({"instance_type": "1xH100", "tp_cluster_name": 1}, ["body", "tp_cluster_name"]),
        ({"instance_type": "1xH100", "tp_cluster_name": ""}, ["body", "tp_cluster_name"]),
        ({"instance_type": "1xH100", "deletion_protection": "yes"}, ["body", "deletion_protection"]),
        ({"instance_type": "1xH100", "public_keys": "ssh-ed25519 A"}, ["body", "public_keys"]),
        ({"instance_type": "1xH100", "public_keys": ["a", 2]}, ["body", "public_keys", 1]),
        ([], ["body"]),
        ("text", ["body"]),
    ],
)
async def test_a_create_that_is_not_sound_makes_nothing(
    talk: Talk, emulator: Emulator, fields: Any, loc: list[Any]
) -> None:
    refused = await talk.post("/cluster/create", json=fields)
    assert refused.status == 422
    assert [problem["loc"] for problem in refused.json["detail"]] == [loc]
    assert set(refused.json["detail"][0]) == {"loc", "msg", "type"}
    assert emulator.record.clusters_made == []


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
async def test_a_body_that_is_not_json_is_invalid(talk: Talk, data: bytes) -> None:
    refused = await talk.post("/cluster/create", data=data)
    assert refused.status == 422
    assert refused.json["detail"][0]["loc"][0] == "body"


async def test_null_stands_for_the_default_and_unknown_fields_are_ignored(talk: Talk) -> None:
    nothing = dict.fromkeys(
        ["num_nodes", "public_keys", "tp_cluster_name", "container", "deletion_protection"]
    )
    cluster_id = await talk.running("1xL40S", ssh_key_id="key_abc123", **nothing)
    cluster = await talk.cluster(cluster_id)
    assert (cluster["num_nodes"], cluster["deletion_protection"]) == (1, False)
    assert cluster["name"]


@pytest.mark.parametrize("fields", [{}, {"cluster_name": None}, {"other": 1}])
async def test_an_edit_needs_something_to_edit(talk: Talk, fields: dict[str, Any]) -> None:
    cluster_id = await talk.running()
    assert (await talk.patch(f"/cluster/edit/{cluster_id}", json=fields)).status == 422
