"""The emulator against the schema of the engine: no route is missing, and every answer is as described."""

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tensorpool_async.emulator import Emulator, Fault, FaultKind, endpoints
from tests.emulator.talk import Reply, Talk, talk_to


SCHEMA: dict[str, Any] = json.loads((Path(__file__).parents[1] / "openapi.json").read_text())


def described() -> set[tuple[str, str]]:
    return {(method.upper(), path) for path, item in SCHEMA["paths"].items() for method in item} | {
        ("WEBSOCKET", path) for path in SCHEMA["x-websockets"]
    }


def test_every_endpoint_of_the_schema_is_served_and_no_other() -> None:
    assert endpoints() == described()
    assert len(endpoints()) == 44


def check(method: str, path: str, reply: Reply) -> None:
    """Hold an answer against the operation of the schema that it belongs to."""
    operation = SCHEMA["paths"][path][method.lower()]
    response = operation["responses"].get(str(reply.status), operation["responses"]["default"])
    pointer = (
        f"#/paths/{path.replace('~', '~0').replace('/', '~1')}/{method.lower()}/responses/{reply.status}"
    )
    if reply.status < 400:
        assert str(reply.status) in operation["responses"], (method, path, reply.status)
    if "$ref" in response:
        pointer = response["$ref"]
        response = SCHEMA["components"]["responses"][pointer.rpartition("/")[2]]
    if "content" not in response:
        assert reply.body == b""
        return
    assert reply.headers["Content-Type"].startswith("application/json")
    # The pointers lead into the document itself, so all of it is the schema.
    validator: Any = Draft202012Validator({**SCHEMA, "$ref": f"{pointer}/content/application~1json/schema"})
    validator.validate(reply.json)


class Checked:
    """Asks and checks, and remembers what was answered with success."""

    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self.seen: set[tuple[str, str]] = set()

    async def __call__(
        self, method: str, path: str, argument: str = "", query: str = "", **options: Any
    ) -> Reply:
        url = path.partition("{")[0] + argument + query
        reply = await self.talk.ask(method, url, **options)
        check(method, path, reply)
        if reply.status < 300:
            self.seen.add((method, path))
        return reply


@pytest.fixture
async def checked() -> AsyncIterator[Checked]:
    # What is asked for takes its time, so that both states of a change are seen.
    async with (
        Emulator(
            speed=100,
            provision_seconds=20,
            destroy_seconds=20,
            edit_seconds=5,
            storage_seconds=5,
            attach_seconds=5,
            retry_after=0.02,
        ) as emulator,
        talk_to(emulator) as talk,
    ):
        yield Checked(talk)


async def test_every_answer_is_as_described(checked: Checked) -> None:
    await ask_about_the_account(checked)
    cluster_id = await ask_about_clusters(checked)
    await ask_about_storage(checked, cluster_id)
    await ask_about_objects(checked)
    await ask_about_jobs(checked)
    await checked("DELETE", "/cluster/{cluster}", cluster_id)
    await checked("GET", "/cluster/list", query="?instances=true")
    assert checked.seen == {(method, path) for method, path in described() if method != "WEBSOCKET"}


async def ask_about_the_account(checked: Checked) -> None:
    await checked("POST", "/health", json={"package_version": "0.0.9"})
    await checked("GET", "/healthz", headers={})
    for path in ("/me", "/user/info", "/user/preferences", "/user/organization/info"):
        await checked("GET", path)
    await checked("PATCH", "/user/preferences", json={"balance_warning_threshold": 5})
    added = await checked("POST", "/user/ssh-key/add", json={"public_key": "ssh-ed25519 AAAA"})
    await checked("GET", "/user/ssh-key/list")
    await checked("DELETE", "/user/ssh-key/remove/{key_id}", added.json["key_id"])


async def ask_about_clusters(checked: Checked) -> str:
    created = await checked("POST", "/cluster/create", json={"instance_type": "8xB200", "num_nodes": 2})
    cluster_id: str = created.json["cluster_id"]
    await ask_about_a_request(checked, created.json["request_id"])
    await checked("GET", "/cluster/info/{cluster}", cluster_id)
    await checked("GET", "/cluster/list")
    edited = await checked("PATCH", "/cluster/edit/{cluster}", cluster_id, json={"cluster_name": "w0"})
    await ask_about_a_request(checked, edited.json["request_id"])
    await checked("GET", "/cluster/operations/{cluster}", cluster_id)
    await checked("GET", "/cluster/quote", query="?instance_type=8xB200")
    await checked("GET", "/ssh/{instance_id}", created.json["instance_ids"][0])
    return cluster_id


async def ask_about_a_request(checked: Checked, request_id: str) -> None:
    await checked("GET", "/request/info/{request_id}", request_id)
    await checked.talk.end_of(request_id)
    await checked("GET", "/request/info/{request_id}", request_id)


async def ask_about_storage(checked: Checked, cluster_id: str) -> None:
    created = await checked("POST", "/storage/create", json={"size": 10})
    storage_id = created.json["storage_id"]
    await ask_about_a_request(checked, created.json["request_id"])
    await checked("GET", "/storage/info/{storage_id}", storage_id)
    await checked("GET", "/storage/list")
    await checked("GET", "/storage/quote", query="?size_gb=10")
    edited = await checked("PATCH", "/storage/edit/{storage_id}", storage_id, json={"size_gb": 20})
    await ask_about_a_request(checked, edited.json["request_id"])
    both = {"storage_id": storage_id, "cluster_ids": [cluster_id]}
    attached = await checked("POST", "/storage/attach", json=both)
    await ask_about_a_request(checked, attached.json["request_ids"][0])
    await checked("GET", "/cluster/info/{cluster}", cluster_id)
    both = {"storage_id": storage_id, "cluster_id": cluster_id}
    detached = await checked("POST", "/storage/detach", json=both)
    await ask_about_a_request(checked, detached.json["request_id"])
    await checked("DELETE", "/storage/{storage_id}", storage_id)


async def ask_about_objects(checked: Checked) -> None:
    await checked("POST", "/object-storage/enable")
    await checked("GET", "/object-storage/credentials")
    await checked("POST", "/object-storage/rotate-keys")
    await checked("GET", "/object-storage/configure/rclone")
    await checked("GET", "/object-storage/configure/aws")
    await checked("PUT", "/object-storage/bucket/create/{bucket_name}", "data")
    await checked("GET", "/object-storage/bucket/list")
    await checked("DELETE", "/object-storage/bucket/delete/{bucket_name}", "data")
    await checked("DELETE", "/object-storage/disable")


async def ask_about_jobs(checked: Checked) -> None:
    live = checked.talk.emulator.jobs.add(seconds=3600, files={"a": b""})
    await checked("GET", "/job/init")
    await checked("GET", "/job/info/{job_id}", live.id)
    await checked("GET", "/job/pull/{job_id}", live.id, "?system=linux&private_key_path=k")
    await checked("GET", "/job/pull/{job_id}", live.id, "?dry_run=true")
    await checked("POST", "/job/cancel/{job_id}", live.id)
    done = checked.talk.emulator.jobs.add(status="canceled", files={"a": b""})
    await checked("POST", "/job/cancel/{job_id}", done.id)
    await checked("GET", "/job/pull/{job_id}", done.id)
    await checked("GET", "/job/list")
    await checked("DELETE", "/job/delete/{job_id}", done.id)


FAULTS = (
    FaultKind.ERROR_500,
    FaultKind.RATE_LIMITED,
    FaultKind.UNAVAILABLE,
    FaultKind.NOT_FOUND,
)


@pytest.mark.parametrize("endpoint", sorted(described()), ids=" ".join)
async def test_refusals_are_as_described(checked: Checked, endpoint: tuple[str, str]) -> None:
    method, path = endpoint
    if method == "WEBSOCKET":
        return
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        await checked(method, path, "x", headers=headers)
    await checked(method, path, "x", json={"size_gb": "x", "size": [], "instance_type": 1})
    await checked(method, path, "x")
    for kind in FAULTS:
        checked.talk.emulator.faults.add(Fault(kind))
        await checked(method, path, "x")


def without(schema: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key != name}


def test_the_check_sees_what_is_missing() -> None:
    answer = {"request_id": "r-1", "request_type": "CLUSTER_CLAIM", "status": "PENDING", "created_at": "2026"}
    headers = {"Content-Type": "application/json"}
    check("GET", "/request/info/{request_id}", Reply(200, json.dumps(answer).encode(), headers))
    broken = json.dumps(without(answer, "status")).encode()
    with pytest.raises(Exception, match="'status' is a required property"):
        check("GET", "/request/info/{request_id}", Reply(200, broken, headers))
    with pytest.raises(AssertionError):
        check("GET", "/request/info/{request_id}", Reply(201, json.dumps(answer).encode(), headers))
