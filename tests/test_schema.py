"""Client, emulator and schema: each operation has a method and a route, and what is said is what is described."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import attrs
import pytest
from jsonschema import Draft202012Validator, ValidationError
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from tensorpool_async import PollPolicy, TensorPool
from tensorpool_async.emulator import Emulator, endpoints
from tests.emulator.talk import Reply
from tests.emulator.test_emulator_schema import SCHEMA, check
from tests.support.recording import Exchange, Recorder


WEBSOCKET = "WEBSOCKET"
METHODS = {"get", "put", "post", "delete", "patch", "options", "head", "trace"}
PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAISchema ada@laptop"
CONFIG = 'commands = ["echo one"]\noutputs = ["out.txt"]\n'

Operation = tuple[str, str]


def operations() -> set[Operation]:
    """Every operation of the schema, and both WebSockets."""
    return {
        (method.upper(), path)
        for path, item in SCHEMA["paths"].items()
        for method in item
        if method in METHODS
    } | {(WEBSOCKET, path) for path in SCHEMA["x-websockets"]}


# What calls what


@attrs.frozen
class Walk:
    """One way through the whole API; `done` holds the result of each operation that was called."""

    tp: TensorPool
    emulator: Emulator
    folder: Path
    done: dict[Operation, Any] = attrs.field(factory=dict[Operation, Any])

    def __getitem__(self, operation: str) -> Any:
        method, path = operation.split()
        return self.done[method, path]


def no_command(_: str) -> list[str]:
    return [sys.executable, "-c", ""]


async def listen(walk: Walk) -> list[str]:
    return [line async for line in walk.tp.jobs.listen(walk["WEBSOCKET /job/push"])]


# In this order: what comes later needs what was made before.
METHOD_OF: dict[str, Callable[[Walk], Awaitable[Any]]] = {
    "GET /healthz": lambda walk: walk.tp.alive(),
    "POST /health": lambda walk: walk.tp.health(),
    "GET /me": lambda walk: walk.tp.account.me(),
    "GET /user/info": lambda walk: walk.tp.account.info(),
    "GET /user/organization/info": lambda walk: walk.tp.account.organization(),
    "GET /user/preferences": lambda walk: walk.tp.account.preferences(),
    "PATCH /user/preferences": lambda walk: walk.tp.account.update_preferences(
        notify_email_cluster_create=False,
        notify_email_cluster_destroy=True,
        autopay_enabled=True,
        balance_warning_threshold=50.5,
        autopay_reload_threshold=20,
    ),
    "POST /user/ssh-key/add": lambda walk: walk.tp.ssh.keys.add(PUBLIC_KEY, "laptop"),
    "GET /user/ssh-key/list": lambda walk: walk.tp.ssh.keys.list(),
    "GET /cluster/quote": lambda walk: walk.tp.clusters.quote("8xB200", 2),
    "POST /cluster/create": lambda walk: walk.tp.clusters.create(
        "8xB200",
        name="schema",
        num_nodes=2,
        public_keys=[PUBLIC_KEY],
        container="pytorch:2",
        deletion_protection=True,
        save_keys=False,
    ),
    "GET /request/info/{request_id}": lambda walk: walk["POST /cluster/create"].result(),
    "GET /cluster/list": lambda walk: walk.tp.clusters.list(),
    "GET /cluster/info/{cluster}": lambda walk: walk.tp.clusters.get("schema"),
    "PATCH /cluster/edit/{cluster}": lambda walk: walk.tp.clusters.edit(
        walk["GET /cluster/info/{cluster}"], name="renamed", deletion_protection=False
    ).result(),
    "GET /cluster/operations/{cluster}": lambda walk: walk.tp.clusters.operations(
        walk["GET /cluster/info/{cluster}"], kind="CLUSTER_CLAIM", status="COMPLETED"
    ),
    "GET /ssh/{instance_id}": lambda walk: walk.tp.ssh.command(
        walk["GET /cluster/info/{cluster}"].instances[0]
    ),
    "GET /storage/quote": lambda walk: walk.tp.storage.quote(100),
    "POST /storage/create": lambda walk: walk.tp.storage.create(
        100, name="data", deletion_protection=True
    ).result(),
    "GET /storage/list": lambda walk: walk.tp.storage.list(),
    "GET /storage/info/{storage_id}": lambda walk: walk.tp.storage.get(walk["POST /storage/create"]),
    "PATCH /storage/edit/{storage_id}": lambda walk: walk.tp.storage.edit(
        walk["POST /storage/create"], name="more", size_gb=200, deletion_protection=False
    ).result(),
    "POST /storage/attach": lambda walk: walk.tp.storage.attach(
        walk["POST /storage/create"], walk["GET /cluster/info/{cluster}"]
    ).result(),
    "POST /storage/detach": lambda walk: walk.tp.storage.detach(
        walk["POST /storage/create"], walk["GET /cluster/info/{cluster}"]
    ).result(),
    "DELETE /storage/{storage_id}": lambda walk: walk.tp.storage.destroy(
        walk["POST /storage/create"]
    ).result(),
    "POST /object-storage/enable": lambda walk: walk.tp.object_storage.enable(),
    "GET /object-storage/credentials": lambda walk: walk.tp.object_storage.credentials(),
    "POST /object-storage/rotate-keys": lambda walk: walk.tp.object_storage.rotate_keys(),
    "GET /object-storage/configure/rclone": lambda walk: walk.tp.object_storage.rclone_config(),
    "GET /object-storage/configure/aws": lambda walk: walk.tp.object_storage.aws_config(),
    "PUT /object-storage/bucket/create/{bucket_name}": lambda walk: walk.tp.object_storage.buckets.create(
        "data"
    ),
    "GET /object-storage/bucket/list": lambda walk: walk.tp.object_storage.buckets.list(),
    "DELETE /object-storage/bucket/delete/{bucket_name}": lambda walk: walk.tp.object_storage.buckets.delete(
        "data"
    ),
    "DELETE /object-storage/disable": lambda walk: walk.tp.object_storage.disable(),
    "GET /job/init": lambda walk: walk.tp.jobs.template(),
    "WEBSOCKET /job/push": lambda walk: walk.tp.jobs.push(
        CONFIG, walk["GET /cluster/info/{cluster}"], commands=no_command, folder=walk.folder
    ),
    "WEBSOCKET /job/listen/{job_id}": listen,
    "GET /job/list": lambda walk: walk.tp.jobs.list(),
    "GET /job/info/{job_id}": lambda walk: walk.tp.jobs.get(walk["WEBSOCKET /job/push"]),
    "GET /job/pull/{job_id}": lambda walk: walk.tp.jobs.pull(walk["WEBSOCKET /job/push"], walk.folder),
    "POST /job/cancel/{job_id}": lambda walk: walk.tp.jobs.cancel(
        walk.emulator.jobs.add(seconds=3600).id
    ).result(),
    "DELETE /job/delete/{job_id}": lambda walk: walk.tp.jobs.delete(walk["WEBSOCKET /job/push"]),
    "DELETE /cluster/{cluster}": lambda walk: walk.tp.clusters.destroy(
        walk["GET /cluster/info/{cluster}"]
    ).result(),
    "DELETE /user/ssh-key/remove/{key_id}": lambda walk: walk.tp.ssh.keys.remove(
        walk["POST /user/ssh-key/add"]
    ),
}

# The same with other arguments, as far as those change what is sent.
OTHERWISE: list[Callable[[Walk], Awaitable[Any]]] = [
    lambda walk: walk.tp.account.update_preferences(autopay_enabled=False),
    lambda walk: walk.tp.ssh.keys.add("ssh-rsa AAAA without a name"),
    lambda walk: walk.tp.ssh.keys.list(organization=True),
    lambda walk: walk.tp.clusters.create("1xH100").result(),
    lambda walk: walk.tp.clusters.list(organization=True),
    lambda walk: walk.tp.clusters.quote("1xH100"),
    lambda walk: walk.tp.storage.create(1).result(),
    lambda walk: walk.tp.storage.list(organization=True),
    lambda walk: walk.tp.jobs.list(organization=True),
    lambda walk: walk.tp.jobs.cancel(walk.emulator.jobs.add(status="canceled").id).result(),
    lambda walk: walk.tp.jobs.pull(
        walk.emulator.jobs.add(seconds=3600, files={"a/ü.txt": b"1"}).id,
        walk.folder,
        private_key="my key",
        commands=no_command,
    ),
    lambda walk: walk.tp.jobs.pull(
        walk.emulator.jobs.add(seconds=3600, files={"a/ü.txt": b"1"}).id, walk.folder, dry_run=True
    ),
]


@attrs.frozen
class Walked:
    """What the walk came to.

    Attributes:
        calls: The exchanges of the method of each operation.
        errors: What the methods raised.
        exchanges: All exchanges, also those of the methods called otherwise.
    """

    calls: dict[Operation, list[Exchange]]
    errors: dict[Operation, Exception]
    exchanges: list[Exchange]


async def walk_through(folder: Path) -> Walked:
    async with (
        Emulator(speed=1000, retry_after=0.02) as emulator,
        Recorder(emulator.url) as recorder,
        TensorPool(
            emulator.key,
            base_url=recorder.url,
            polling=PollPolicy(default=0.02, initial=0.01),
            trust_env=False,
        ) as tp,
    ):
        walk, walked = Walk(tp, emulator, folder), Walked({}, {}, recorder.exchanges)
        for label, call in METHOD_OF.items():
            method, path = label.split()
            before = len(recorder.exchanges)
            try:
                walk.done[method, path] = await call(walk)
            except Exception as error:  # noqa: BLE001 - for the test of this operation to raise
                walked.errors[method, path] = error
            walked.calls[method, path] = recorder.exchanges[before:]
        for call in OTHERWISE:
            await call(walk)
    return walked


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Walked:
    return asyncio.run(walk_through(tmp_path_factory.mktemp("walk")))


every_operation = pytest.mark.parametrize("operation", sorted(operations()), ids=" ".join)


# Nothing is missing


def test_there_are_44_operations_and_each_has_a_method_and_a_route() -> None:
    assert len(operations()) == len(METHOD_OF) == 44
    assert {tuple(label.split()) for label in METHOD_OF} == operations()
    assert endpoints() == operations()


@every_operation
def test_the_method_of_an_operation_calls_it(operation: Operation, walked: Walked) -> None:
    if operation in walked.errors:
        raise walked.errors[operation]
    answered = [one.status for one in walked.calls[operation] if operation_of(one) == operation]
    assert answered, f"the method of {operation} asked for something else"
    assert all(status < 300 for status in answered)


# What the client says


DOCUMENT: Resource[Any] = DRAFT202012.create_resource(SCHEMA)
REGISTRY: Registry[Any] = Registry[Any]().with_resource("urn:engine", DOCUMENT)


def resolved(part: dict[str, Any]) -> dict[str, Any]:
    """A part of the schema, or what it refers to."""
    if "$ref" not in part:
        return part
    found: dict[str, Any] = REGISTRY.resolver("urn:engine").lookup(part["$ref"]).contents
    return found


def validate(value: Any, part: dict[str, Any]) -> None:
    # References are relative to the whole document, which the registry knows under a name.
    absolute = json.loads(json.dumps(part).replace('"$ref": "#/', '"$ref": "urn:engine#/'))
    validator: Any = Draft202012Validator(absolute, registry=REGISTRY)
    validator.validate(value)


def operation_of(exchange: Exchange) -> Operation | None:
    """The operation that an exchange belongs to; a path without parameters goes first."""
    for path in sorted({path for _, path in operations()}, key=lambda path: "{" in path):
        pattern = re.sub(r"\\{\w+\\}", "([^/]+)", re.escape(path))
        if (exchange.method, path) in operations() and re.fullmatch(pattern, exchange.path):
            return exchange.method, path
    return None


def check_request(exchange: Exchange) -> None:
    """Hold a request against the operation of the schema that it belongs to."""
    operation = operation_of(exchange)
    assert operation is not None, f"{exchange.method} {exchange.path} is in no schema"
    method, path = operation
    described = SCHEMA["paths"][path][method.lower()]
    parameters = [resolved(parameter) for parameter in described.get("parameters", [])]
    check_path(exchange, path, parameters)
    check_query(exchange, {one["name"]: one for one in parameters if one["in"] == "query"})
    check_body(exchange, described.get("requestBody"))
    if described.get("security", SCHEMA["security"]):
        assert exchange.headers["Authorization"].startswith("Bearer ")


def check_path(exchange: Exchange, path: str, parameters: list[dict[str, Any]]) -> None:
    said = zip(path.split("/"), exchange.path.split("/"), strict=True)
    values = {name[1:-1]: unquote(value) for name, value in said if name.startswith("{")}
    described = {one["name"]: one for one in parameters if one["in"] == "path"}
    assert values.keys() == described.keys()
    for name, value in values.items():
        validate(value, described[name]["schema"])


def check_query(exchange: Exchange, described: dict[str, dict[str, Any]]) -> None:
    names = [name for name, _ in exchange.query]
    assert set(names) <= set(described), f"{exchange.path} knows no {set(names) - set(described)}"
    assert {name for name, one in described.items() if one.get("required")} <= set(names)
    assert len(set(names)) == len(names), "no parameter of this client is a list"
    for name, value in exchange.query:
        validate(read(value, resolved(described[name]["schema"])), described[name]["schema"])


def read(value: str, schema: dict[str, Any]) -> Any:
    """Read a text of the query as the type that the schema gives it."""
    kinds = {one.get("type") for one in [schema, *schema.get("anyOf", [])]}
    if "boolean" in kinds:
        return {"true": True, "false": False}.get(value, value)
    if "integer" in kinds:
        return int(value)
    return value


def check_body(exchange: Exchange, described: dict[str, Any] | None) -> None:
    if described is None:
        assert exchange.body == b"", f"{exchange.method} {exchange.path} takes no body"
        return
    assert exchange.body or not described.get("required")
    if exchange.body:
        assert exchange.headers["Content-Type"] == "application/json"
        body = json.loads(exchange.body)
        schema = described["content"]["application/json"]["schema"]
        validate(body, schema)
        # Unknown fields are allowed by the schema, and would be misspelled ones.
        properties = resolved(schema).get("properties", body)
        assert set(body) <= set(properties), set(body) - set(properties)


@every_operation
def test_what_the_client_says_is_described(operation: Operation, walked: Walked) -> None:
    said = [one for one in walked.exchanges if operation_of(one) == operation]
    assert said
    for exchange in said:
        if operation[0] == WEBSOCKET:
            check_conversation(exchange, SCHEMA["x-websockets"][operation[1]])
        else:
            check_request(exchange)


def test_the_client_says_nothing_that_is_not_described(walked: Walked) -> None:
    assert [one.path for one in walked.exchanges if operation_of(one) is None] == []
    assert len(walked.exchanges) > 60


KINDS = {"string": str, "integer": int, "boolean": bool}


def check_message(message: dict[str, Any], fields: dict[str, str]) -> None:
    """Hold a message against fields such as {"exit_code": "integer", "message": "string? (…)", "type": "a word"}."""
    words = {name: text.partition(" ")[0] for name, text in fields.items()}
    optional = {name for name, word in words.items() if word.endswith("?")}
    assert set(fields) - optional <= set(message) <= set(fields), message
    for name, value in message.items():
        kind = KINDS.get(words[name].rstrip("?"))
        if kind is None:
            assert value == fields[name]
        else:
            assert type(value) is kind or (value is None and name in optional), (name, value)


def check_conversation(exchange: Exchange, described: dict[str, Any]) -> None:
    assert "Authorization" not in exchange.headers, "the key is the first message"
    opening = [one for one in described["client"] if "order" in one]
    replies = [one for one in described["client"] if "order" not in one]
    for message, one in zip(exchange.said, opening, strict=False):
        check_message(message, one["fields"])
    asked = [message for message in exchange.heard if message.get("command")]
    assert len(exchange.said) == len(opening) + len(asked)
    for message in exchange.said[len(opening) :]:
        check_message(message, replies[0]["fields"])


# What the emulator says


@every_operation
def test_what_the_emulator_says_is_described(operation: Operation, walked: Walked) -> None:
    for exchange in walked.exchanges:
        if operation_of(exchange) != operation:
            continue
        if operation[0] == WEBSOCKET:
            described = SCHEMA["x-websockets"][operation[1]]
            for message in exchange.heard:
                check_message(message, described["server"]["fields"])
            ended = exchange.heard[-1].get("status") in {"success", "error"}
            assert ended or str(exchange.close_code) in described["close"]
        else:
            check(*operation, Reply(exchange.status, exchange.answer, exchange.answer_headers))


# The checks see what they are for


def asked(method: str, path: str, body: object = None, query: dict[str, str] | None = None) -> Exchange:
    headers = {"Authorization": "Bearer key", "Content-Type": "application/json"}
    raw = b"" if body is None else json.dumps(body).encode()
    return Exchange(method, path, list((query or {}).items()), headers, raw)


def test_a_request_as_described_is_let_through() -> None:
    check_request(asked("POST", "/storage/create", {"size": 10, "name": None}))
    check_request(asked("GET", "/cluster/quote", query={"instance_type": "8xB200", "num_nodes": "2"}))
    check_request(asked("GET", "/cluster/list", query={"include_org": "true"}))


@pytest.mark.parametrize(
    "wrong",
    [
        asked("POST", "/storage/create", {"size_gb": 10}),
        asked("POST", "/storage/create", {"size": "10"}),
        asked("POST", "/storage/create", {"size": 10, "tp_storage_name": "data"}),
        asked("POST", "/storage/create"),
        asked("GET", "/cluster/quote", query={"num_nodes": "2"}),
        asked("GET", "/cluster/list", query={"org": "true"}),
        asked("GET", "/cluster/list", query={"include_org": "yes"}),
        asked("GET", "/job/pull/j-1", query={"system": "Linux"}),
        asked("POST", "/object-storage/enable", {}),
        asked("POST", "/cluster/list"),
        asked("GET", "/cluster/info/a/b"),
        attrs.evolve(asked("GET", "/me"), headers={}),
    ],
    ids=lambda exchange: f"{exchange.method} {exchange.path} {exchange.query} {exchange.body.decode()}",
)
def test_a_request_that_is_not_is_seen(wrong: Exchange) -> None:
    with pytest.raises((AssertionError, ValidationError, KeyError)):
        check_request(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"t": "word"},
        {"a": 1, "t": "word", "c": 1},
        {"a": "x", "t": "word"},
        {"a": True, "t": "word"},
        {"a": 1, "t": "word", "b": 1},
        {"a": 1, "t": "other"},
    ],
)
def test_a_message_that_is_not_is_seen(wrong: dict[str, Any]) -> None:
    fields = {"a": "integer", "b": "string? (a text)", "t": "word"}
    check_message({"a": 1, "b": None, "t": "word"}, fields)
    with pytest.raises(AssertionError):
        check_message(wrong, fields)
