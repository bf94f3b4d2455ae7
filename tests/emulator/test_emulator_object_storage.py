import configparser
from collections.abc import AsyncIterator

import pytest

from tensorpool_async.emulator import Emulator
from tests.emulator.talk import Talk, talk_to


@pytest.fixture
async def enabled() -> AsyncIterator[Talk]:
    async with Emulator(object_endpoint="http://127.0.0.1:9000") as emulator, talk_to(emulator) as talk:
        await talk.post("/object-storage/enable")
        yield talk


async def test_nothing_is_there_before_it_is_enabled(talk: Talk) -> None:
    for path in ("credentials", "configure/rclone", "configure/aws", "bucket/list"):
        assert (await talk.get(f"/object-storage/{path}")).status == 404
    assert (await talk.post("/object-storage/rotate-keys")).status == 404
    assert (await talk.ask("PUT", "/object-storage/bucket/create/data")).status == 404
    assert (await talk.delete("/object-storage/disable")).status == 404


async def test_enabling_gives_credentials_that_stay(enabled: Talk) -> None:
    again = await enabled.post("/object-storage/enable")
    kept = (await enabled.get("/object-storage/credentials")).json
    assert {**kept, "message": again.json["message"]} == again.json
    assert kept["endpoint"] == "http://127.0.0.1:9000"
    assert kept["org_id"]
    assert len(kept["secret_access_key"]) == 40


async def test_rotating_changes_the_keys_for_good(enabled: Talk) -> None:
    before = (await enabled.get("/object-storage/credentials")).json
    rotated = (await enabled.post("/object-storage/rotate-keys")).json
    assert rotated["access_key_id"] != before["access_key_id"]
    assert rotated["secret_access_key"] != before["secret_access_key"]
    assert rotated["org_id"] == before["org_id"]
    assert (await enabled.get("/object-storage/credentials")).json == rotated


async def test_configurations_hold_the_keys_of_now(enabled: Talk) -> None:
    keys = (await enabled.get("/object-storage/credentials")).json
    rclone = (await enabled.get("/object-storage/configure/rclone")).json
    aws = (await enabled.get("/object-storage/configure/aws")).json
    parser = configparser.ConfigParser()
    parser.read_string(rclone["rclone_config"])
    assert parser[rclone["remote_name"]]["secret_access_key"] == keys["secret_access_key"]
    parser.read_string(aws["credentials_file"])
    assert parser[aws["profile_name"]]["aws_access_key_id"] == keys["access_key_id"]
    parser.read_string(aws["config_file"])
    assert parser[f"profile {aws['profile_name']}"]["region"] == keys["region"]


async def test_buckets_come_and_go(enabled: Talk) -> None:
    created = await enabled.ask("PUT", "/object-storage/bucket/create/my-data")
    assert created.status == 201
    assert created.json["message"]
    assert (await enabled.ask("PUT", "/object-storage/bucket/create/my-data")).status == 409
    assert (await enabled.get("/object-storage/bucket/list")).json["buckets"] == ["my-data"]
    assert (await enabled.delete("/object-storage/disable")).status == 409
    enabled.emulator.buckets["my-data"]["a"] = b"1"
    assert (await enabled.delete("/object-storage/bucket/delete/my-data")).status == 409
    enabled.emulator.buckets["my-data"].clear()
    deleted = await enabled.delete("/object-storage/bucket/delete/my-data")
    assert (deleted.status, deleted.body) == (204, b"")
    assert (await enabled.delete("/object-storage/bucket/delete/my-data")).status == 404
    assert (await enabled.delete("/object-storage/disable")).status == 200
    assert (await enabled.get("/object-storage/credentials")).status == 404


@pytest.mark.parametrize("name", ["ab", "Data", "a..b", "-data", "da_ta", "x" * 64, "a%2Fb"])
async def test_names_that_are_none(enabled: Talk, name: str) -> None:
    assert (await enabled.ask("PUT", f"/object-storage/bucket/create/{name}")).status == 422
