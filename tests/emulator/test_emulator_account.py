from typing import Any

import pytest

from tensorpool_async.emulator import Emulator
from tests.emulator.talk import Talk, talk_to


KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJ me@home"
OTHER = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYA"


async def test_who_i_am(talk: Talk) -> None:
    user = await talk.get("/user/info")
    assert user.status == 200
    assert "ada@example.com" in user.json["message"]
    assert (await talk.get("/me")).json == user.json


async def test_the_organization(talk: Talk) -> None:
    organization = (await talk.get("/user/organization/info")).json
    assert organization["org_name"]
    assert {"uid", "email"} == set(organization["members"][0])
    assert organization["balance"] == 1_000_000


async def test_a_user_without_organization() -> None:
    async with Emulator(organization=None) as emulator, talk_to(emulator) as talk:
        assert (await talk.get("/user/organization/info")).status == 404
        assert (await talk.post("/object-storage/enable")).status == 403
        await talk.post("/user/ssh-key/add", json={"public_key": KEY})
        assert (await talk.get("/user/ssh-key/list?include_org=true")).json["keys"] == []


async def test_preferences_last(talk: Talk) -> None:
    before = (await talk.get("/user/preferences")).json
    assert before["notify_email_cluster_create"] is True
    changes = {
        "notify_email_cluster_create": False,
        "balance_warning_threshold": 100.0,
        "autopay_reload_threshold": 20,
        "autopay_enabled": True,
    }
    changed = await talk.patch("/user/preferences", json={**changes, "notify_email_cluster_destroy": None})
    assert changed.json == {**before, **changes}
    assert (await talk.get("/user/preferences")).json == changed.json


@pytest.mark.parametrize(
    "changes",
    [
        {"balance_warning_threshold": 0},
        {"autopay_reload_threshold": 19.99},
        {"balance_warning_threshold": 30, "autopay_reload_threshold": 30},
        {"autopay_enabled": True},
        {"autopay_enabled": "yes"},
        {"balance_warning_threshold": "1"},
        {"balance_warning_threshold": True},
        [],
    ],
)
async def test_preferences_that_contradict_each_other(talk: Talk, changes: Any) -> None:
    before = (await talk.get("/user/preferences")).json
    assert (await talk.patch("/user/preferences", json=changes)).status == 422
    assert (await talk.get("/user/preferences")).json == before


async def test_a_number_that_is_none_in_json(talk: Talk) -> None:
    refused = await talk.patch("/user/preferences", data=b'{"balance_warning_threshold": NaN}')
    assert refused.status == 422


async def test_what_was_set_before_counts_too(talk: Talk) -> None:
    await talk.patch("/user/preferences", json={"balance_warning_threshold": 50})
    assert (await talk.patch("/user/preferences", json={"autopay_reload_threshold": 60})).status == 422
    assert (await talk.patch("/user/preferences", json={"autopay_reload_threshold": 40})).status == 200


async def test_autopay_needs_a_payment_method() -> None:
    async with Emulator(payment_method=False) as emulator, talk_to(emulator) as talk:
        wanted = {"autopay_enabled": True, "autopay_reload_threshold": 20}
        assert (await talk.patch("/user/preferences", json=wanted)).status == 409


async def test_ssh_keys_come_and_go(talk: Talk) -> None:
    added = (await talk.post("/user/ssh-key/add", json={"public_key": f"{KEY}\n", "name": "laptop"})).json
    other = (await talk.post("/user/ssh-key/add", json={"public_key": OTHER})).json
    listed = (await talk.get("/user/ssh-key/list")).json
    assert listed["keys"] == [
        {"id": added["key_id"], "name": "laptop", "public_key": KEY},
        {"id": other["key_id"], "name": "ada@example.com", "public_key": OTHER},
    ]
    assert added["key_id"] in listed["message"]
    assert (await talk.get("/user/ssh-key/list?include_org=1")).json["keys"] == listed["keys"]
    assert (await talk.post("/user/ssh-key/add", json={"public_key": KEY})).status == 409
    assert (await talk.delete(f"/user/ssh-key/remove/{added['key_id']}")).status == 200
    assert (await talk.delete(f"/user/ssh-key/remove/{added['key_id']}")).status == 404
    assert (await talk.get("/user/ssh-key/list")).json["keys"] == listed["keys"][1:]


@pytest.mark.parametrize("text", ["", "hello", "-----BEGIN OPENSSH PRIVATE KEY-----", "ssh-rsa", 1])
async def test_what_is_no_public_key(talk: Talk, text: Any) -> None:
    assert (await talk.post("/user/ssh-key/add", json={"public_key": text})).status == 422


async def test_keys_land_on_new_clusters(talk: Talk, emulator: Emulator) -> None:
    await talk.post("/user/ssh-key/add", json={"public_key": KEY})
    first = (await talk.create(public_keys=[OTHER], save_keys=False)).json["cluster_id"]
    assert emulator.clusters[first].public_keys == (OTHER, KEY)
    assert len(emulator.ssh_keys) == 1
    second = (await talk.create(public_keys=[OTHER, KEY])).json["cluster_id"]
    assert emulator.clusters[second].public_keys == (OTHER, KEY)
    assert [key.public_key for key in emulator.ssh_keys.values()] == [KEY, OTHER]
    await talk.create("9xX1", public_keys=["ssh-rsa AAAAB"])
    assert len(emulator.ssh_keys) == 2


async def test_the_ssh_command_goes_by_the_jumphost_where_there_is_one(talk: Talk) -> None:
    single = (await talk.cluster(await talk.running()))["instances"][0]
    command = (await talk.get(f"/ssh/{single['id']}?system=Linux")).json["command"]
    assert command == f"ssh ubuntu@{single['ip_address']}"
    jumphost, worker, _ = (await talk.cluster(await talk.running("8xB200", num_nodes=2)))["instances"]
    command = (await talk.get(f"/ssh/{worker['id']}")).json["command"]
    assert command == f"ssh -J ubuntu@{jumphost['ip_address']} ubuntu@{worker['private_ip_address']}"


async def test_ssh_to_what_is_not_there_or_does_not_run(talk: Talk) -> None:
    assert (await talk.get("/ssh/i-1")).status == 404
    created = await talk.create()
    instance = created.json["instance_ids"][0]
    assert (await talk.get(f"/ssh/{instance}")).status == 409
    assert (await talk.get(f"/ssh/{instance}?system=plan9")).status == 422
