"""`tp.object_storage` against the emulator, and its stores against a real S3 server (design, section 5)."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from configparser import ConfigParser
from typing import Any, cast

import aiohttp
import obstore
import pytest
from moto.server import ThreadedMotoServer
from obstore.store import S3Store

from tensorpool_async import (
    AmbiguousOutcomeError,
    ConfigurationError,
    ConflictError,
    DecodeError,
    NotFound,
    PermissionDenied,
    RetryPolicy,
    TensorPool,
    ValidationError,
)
from tensorpool_async.emulator import Emulator, Fault, FaultKind
from tensorpool_async.models import AwsConfig, Bucket, ObjectStorageCredentials, RcloneConfig, unstructure
from tests.support.scripted import ScriptedEngine


SECRET = "a-secret-that-nobody-may-see"
CREDENTIALS = {
    "org_id": "o-1",
    "access_key_id": "TPOS1",
    "secret_access_key": SECRET,
    "endpoint": "https://objects.example",
    "region": "auto",
}


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """Run an S3 server, and give its address."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
async def emulator(s3: str) -> AsyncGenerator[Emulator]:
    async with Emulator(object_endpoint=s3, object_region="us-east-1") as emulator:
        yield emulator


@pytest.fixture
async def tp(emulator: Emulator) -> AsyncGenerator[TensorPool]:
    retry = RetryPolicy(backoff=0.01)
    async with TensorPool(emulator.key, base_url=emulator.url, retry=retry) as client:
        yield client


# Credentials


async def test_object_storage_is_enabled_and_disabled(tp: TensorPool, emulator: Emulator, s3: str) -> None:
    with pytest.raises(NotFound, match="not enabled"):
        await tp.object_storage.credentials()
    credentials = await tp.object_storage.enable()
    assert (credentials.endpoint, credentials.region) == (s3, "us-east-1")
    assert credentials.message == "Object storage is enabled"
    again = await tp.object_storage.enable()
    assert (again.access_key_id, again.secret_access_key) == (
        credentials.access_key_id,
        credentials.secret_access_key,
    )
    assert (await tp.object_storage.credentials()).access_key_id == credentials.access_key_id
    assert await tp.object_storage.disable() is None
    with pytest.raises(NotFound):
        await tp.object_storage.disable()


async def test_rotated_keys_are_the_ones_that_hold(tp: TensorPool) -> None:
    old = await tp.object_storage.enable()
    new = await tp.object_storage.rotate_keys()
    assert {old.access_key_id, old.secret_access_key}.isdisjoint({new.access_key_id, new.secret_access_key})
    held = await tp.object_storage.credentials()
    assert (held.access_key_id, held.secret_access_key) == (new.access_key_id, new.secret_access_key)


async def test_the_configurations_hold_the_credentials(tp: TensorPool, s3: str) -> None:
    keys = await tp.object_storage.enable()
    rclone, parser = await tp.object_storage.rclone_config(), ConfigParser()
    parser.read_string(rclone.rclone_config)
    assert parser[rclone.remote_name]["secret_access_key"] == keys.secret_access_key
    assert parser[rclone.remote_name]["endpoint"] == s3
    aws, parser = await tp.object_storage.aws_config(), ConfigParser()
    assert aws.credentials_file is not None
    assert aws.config_file is not None
    parser.read_string(aws.credentials_file)
    parser.read_string(aws.config_file)
    assert parser[aws.profile_name]["aws_secret_access_key"] == keys.secret_access_key
    assert parser[f"profile {aws.profile_name}"]["endpoint_url"] == aws.endpoint == s3


async def test_a_user_without_an_organization_has_none() -> None:
    async with Emulator(organization=None) as emulator, TensorPool(emulator.key, base_url=emulator.url) as tp:
        for call in (tp.object_storage.enable, tp.object_storage.credentials, tp.object_storage.buckets.list):
            with pytest.raises(PermissionDenied, match="organization"):
                await call()


@pytest.mark.parametrize("action", ["enable", "rotate_keys"])
async def test_what_may_have_been_done_is_not_done_again(
    action: str, tp: TensorPool, emulator: Emulator
) -> None:
    old = await tp.object_storage.enable()
    emulator.record.by_route.clear()
    emulator.faults.add(Fault(FaultKind.DROP_AFTER))
    with pytest.raises(AmbiguousOutcomeError):
        await getattr(tp.object_storage, action)()
    assert emulator.record.by_route.total() == 1
    held = await tp.object_storage.credentials()
    assert (held.secret_access_key != old.secret_access_key) is (action == "rotate_keys")


# Secrets


@pytest.mark.parametrize(
    "model",
    [
        ObjectStorageCredentials("o-1", "TPOS1", SECRET, "https://objects.example", "auto"),
        RcloneConfig(f"[tp]\nsecret_access_key = {SECRET}\n"),
        AwsConfig(f"[tp]\naws_secret_access_key = {SECRET}\n", f"[profile tp]\nkey = {SECRET}\n"),
    ],
    ids=lambda model: type(model).__name__,
)
def test_a_secret_key_is_shown_nowhere(model: Any) -> None:
    assert SECRET not in repr(model)
    assert SECRET not in str(model)
    assert SECRET not in f"{model}"
    assert SECRET in str(unstructure(model)), "but it is there"


async def test_a_secret_key_is_not_logged(
    odd_tp: TensorPool, scripted: ScriptedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "tensorpool_async")
    scripted.answer("GET /object-storage/credentials", CREDENTIALS)
    store = await odd_tp.object_storage.store("data")
    assert SECRET not in caplog.text
    assert SECRET not in repr(store)
    assert SECRET not in str(store.config)


@pytest.mark.parametrize("missing", ["endpoint", "org_id"])
async def test_a_secret_key_is_in_no_error(
    missing: str, odd_tp: TensorPool, scripted: ScriptedEngine
) -> None:
    answer = {name: value for name, value in CREDENTIALS.items() if name != missing}
    scripted.answer("GET /object-storage/credentials", answer)
    with pytest.raises(DecodeError, match=missing) as caught:
        await odd_tp.object_storage.credentials()
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert SECRET not in repr(caught.value)


# Buckets


async def test_buckets_come_and_go(tp: TensorPool, emulator: Emulator) -> None:
    await tp.object_storage.enable()
    buckets = tp.object_storage.buckets
    assert await buckets.list() == []
    bucket = await buckets.create("data")
    assert bucket == Bucket("data")
    await buckets.create("logs")
    assert [one.name for one in await buckets.list()] == ["data", "logs"]
    with pytest.raises(ConflictError, match="exists"):
        await buckets.create("data")
    emulator.buckets["data"]["key"] = b"value"
    with pytest.raises(ConflictError, match="not empty"):
        await buckets.delete(bucket)
    with pytest.raises(ConflictError, match="buckets"):
        await tp.object_storage.disable()
    emulator.buckets["data"].clear()
    await buckets.delete(bucket)
    await buckets.delete("logs")
    with pytest.raises(NotFound):
        await buckets.delete("logs")
    assert emulator.buckets == {}


@pytest.mark.parametrize("name", ["A", "UPPER", "a b", "-a-", "../data", "a/b", "ü"])
async def test_a_name_that_no_bucket_has_is_refused(name: str, tp: TensorPool, emulator: Emulator) -> None:
    await tp.object_storage.enable()
    with pytest.raises(ValidationError, match="bucket_name"):
        await tp.object_storage.buckets.create(name)
    assert emulator.buckets == {}


@pytest.mark.parametrize("name", ["", ".", ".."])
async def test_a_name_that_is_no_part_of_a_path_is_refused_before(
    name: str, tp: TensorPool, emulator: Emulator
) -> None:
    buckets = tp.object_storage.buckets
    calls: list[Callable[[str], Awaitable[Any]]] = [buckets.create, buckets.delete]
    for call in calls:
        with pytest.raises(ValueError, match="path"):
            await call(name)
    assert emulator.record.requests == 0


@pytest.mark.parametrize("fault", [FaultKind.DROP_AFTER, FaultKind.HTML_502_AFTER])
async def test_a_bucket_whose_answer_was_lost_is_made_once(
    fault: FaultKind, tp: TensorPool, emulator: Emulator
) -> None:
    await tp.object_storage.enable()
    emulator.faults.add(Fault(fault))
    assert await tp.object_storage.buckets.create("data") == Bucket("data")
    assert list(emulator.buckets) == ["data"]
    emulator.faults.add(Fault(fault))
    await tp.object_storage.buckets.delete("data")
    assert emulator.buckets == {}


@pytest.mark.parametrize(
    ("items", "buckets"),
    [
        (["data", "logs"], [Bucket("data"), Bucket("logs")]),
        ([{"name": "data", "size": 5}], [Bucket("data", extra={"size": 5})]),
        ([{"bucket_name": "data"}, "logs"], [Bucket("data"), Bucket("logs")]),
        ([], []),
    ],
)
async def test_buckets_are_names_or_objects(
    items: list[Any], buckets: list[Bucket], odd_tp: TensorPool, scripted: ScriptedEngine
) -> None:
    scripted.answer("GET /object-storage/bucket/list", {"buckets": items, "message": "a table"})
    assert await odd_tp.object_storage.buckets.list() == buckets


@pytest.mark.parametrize(
    "answer", [{}, [], {"buckets": "data"}, {"buckets": [5]}, {"buckets": [{"size": 5}]}]
)
async def test_what_is_no_list_of_buckets_is_a_decode_error(
    answer: Any, odd_tp: TensorPool, scripted: ScriptedEngine
) -> None:
    scripted.answer("GET /object-storage/bucket/list", answer)
    with pytest.raises(DecodeError):
        await odd_tp.object_storage.buckets.list()


# Objects


async def a_store(tp: TensorPool, s3: str, name: str) -> S3Store:
    """A store of a bucket that the engine and the S3 server both know."""
    await tp.object_storage.enable()
    bucket = await tp.object_storage.buckets.create(name)
    async with aiohttp.ClientSession() as session, session.put(f"{s3}/{name}") as made:
        assert made.status == 200
    return await tp.object_storage.store(bucket)


async def paths_in(store: S3Store, prefix: str | None = None) -> list[str]:
    listed: Any = cast("Any", obstore).list(store, prefix)  # whose type depends on an optional package
    return sorted([one["path"] async for page in listed for one in page])


async def test_objects_are_written_read_listed_and_deleted(tp: TensorPool, s3: str) -> None:
    store = await a_store(tp, s3, "data")
    objects = {"a.txt": b"hello", "models/1/weights": b"\x00\xff" * 50_000, "models/ü ?#.txt": b""}
    for path, content in objects.items():
        await obstore.put_async(store, path, content)
    for path, content in objects.items():
        assert bytes(await (await obstore.get_async(store, path)).bytes_async()) == content
    assert bytes(await obstore.get_range_async(store, "a.txt", start=1, length=3)) == b"ell"
    assert await paths_in(store) == sorted(objects)
    assert await paths_in(store, "models/1") == ["models/1/weights"]
    await obstore.delete_async(store, list(objects))
    assert await paths_in(store) == []
    with pytest.raises(FileNotFoundError):
        await obstore.get_async(store, "a.txt")


async def test_a_large_object_goes_in_parts(tp: TensorPool, s3: str) -> None:
    store = await a_store(tp, s3, "large")
    content = bytes(range(256)) * 4 * 1024 * 12
    await obstore.put_async(store, "weights", content, chunk_size=5 * 1024 * 1024, use_multipart=True)
    assert (await obstore.head_async(store, "weights"))["size"] == len(content)
    assert bytes(await (await obstore.get_async(store, "weights")).bytes_async()) == content


async def test_buckets_are_apart(tp: TensorPool, s3: str) -> None:
    first, second = await a_store(tp, s3, "first"), await a_store(tp, s3, "second")
    await obstore.put_async(first, "key", b"1")
    assert await paths_in(second) == []


async def test_a_store_by_name_is_the_same(tp: TensorPool, s3: str) -> None:
    await obstore.put_async(await a_store(tp, s3, "named"), "key", b"1")
    store = await tp.object_storage.store("named")
    assert isinstance(store, S3Store)
    assert bytes(await (await obstore.get_async(store, "key")).bytes_async()) == b"1"


async def test_a_store_takes_nothing_from_the_environment(
    odd_tp: TensorPool, scripted: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKIAOTHER",
        "AWS_SECRET_ACCESS_KEY": "another",
        "AWS_SESSION_TOKEN": "a-token-for-another-provider",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_REGION": "eu-central-1",
        "AWS_SKIP_SIGNATURE": "true",
        "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true",
    }.items():
        monkeypatch.setenv(name, value)
    scripted.answer("GET /object-storage/credentials", {**CREDENTIALS, "endpoint": scripted.url})
    scripted.answer("PUT /data/key", headers={"ETag": '"1"'})
    store = await odd_tp.object_storage.store("data")
    await obstore.put_async(store, "key", b"1", use_multipart=False)
    seen = scripted.seen[-1]
    assert seen.path == "/data/key"
    assert "Credential=TPOS1/" in seen.headers["Authorization"], seen.headers
    assert "/auto/s3/" in seen.headers["Authorization"]
    assert not [value for value in seen.headers.values() if "another" in value]


async def test_a_store_needs_what_it_is_made_of(tp: TensorPool, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFound, match="not enabled"):
        await tp.object_storage.store("data")
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(ConfigurationError, match=r"tensorpool-async\[objects\]"):
        await tp.object_storage.store("data")
