"""Each change is in the journal before it is sent, and its end once it is known."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tensorpool_async import (
    AmbiguousOutcomeError,
    ConfigurationError,
    ConnectionFailed,
    InsufficientBalance,
    JournalError,
    OperationFailed,
    PollPolicy,
    RateLimiter,
    TensorPool,
)
from tensorpool_async.emulator import Emulator, Fault, FaultKind
from tensorpool_async.journal import NOT_MADE, EntryState, JournalEntry, SQLiteJournal
from tests.operations.test_operations_lost_answers import QUICK, once
from tests.support.scripted import ScriptedEngine, drop


CREATE = "POST /cluster/create"
KEY = "tp-a-secret-that-is-nowhere"
PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl me@here"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
async def tp(emulator: Emulator, path: Path) -> AsyncGenerator[TensorPool]:
    async with client_of(emulator.url, path, emulator.key) as client:
        yield client


@pytest.fixture
async def odd(scripted: ScriptedEngine, path: Path) -> AsyncGenerator[TensorPool]:
    """Open a client of the scripted engine, with a journal."""
    async with client_of(scripted.url, path) as client:
        yield client


def client_of(url: str, path: Path, key: str = KEY, limiter: RateLimiter | None = None) -> TensorPool:
    polling = PollPolicy(initial=0.01, default=0.02, maximum=0.05)
    return TensorPool(key, base_url=url, retry=QUICK, polling=polling, journal=path, limiter=limiter)


def rows(path: Path) -> list[dict[str, Any]]:
    """Read what is on disk, as another process would."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute("SELECT * FROM entries ORDER BY id")]


async def states(tp: TensorPool) -> list[tuple[EntryState, str | None]]:
    return [(entry.state, entry.outcome) for entry in await tp.journal_entries(ended=True)]


async def the_entry(tp: TensorPool) -> JournalEntry:
    (entry,) = await tp.journal_entries(ended=True)
    return entry


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.002)


class Spy:
    """A handler that looks into the journal's file when the request arrives."""

    def __init__(self, path: Path, answer: dict[str, Any], *, status: int = 202) -> None:
        self.found: list[dict[str, Any]] = []
        self._path = path
        self._answer = answer
        self._status = status

    async def __call__(self, _: web.Request) -> web.Response:
        self.found.append(rows(self._path)[-1])
        return web.json_response(self._answer, status=self._status)


async def test_the_intent_is_on_disk_before_the_request_is_sent(
    odd: TensorPool, scripted: ScriptedEngine, path: Path
) -> None:
    spy = Spy(path, {"cluster_id": "c-1", "request_id": "r-1"})
    scripted.handle(CREATE, spy)
    scripted.answer("GET /request/info/r-1", {"request_id": "r-1", "status": "PROCESSING"})
    operation = await odd.clusters.create(
        "8xH200", name="mine", num_nodes=2, public_keys=[PUBLIC_KEY], container="secret/image", ttl=60
    )
    (found,) = spy.found
    assert (found["kind"], found["method"], found["path"]) == ("CLUSTER_CLAIM", "POST", "/cluster/create")
    assert (found["engine"], found["name"], found["random_name"]) == (scripted.url, "mine", 0)
    assert (found["ephemeral"], found["ttl"]) == (0, 60.0)
    assert json.loads(found["details"]) == {"instance_type": "8xH200", "num_nodes": 2}
    assert (found["accepted_at"], found["ended_at"]) == (None, None)
    # The ids are there as soon as the caller has its operation.
    (row,) = rows(path)
    assert (row["ticket_resource_id"], json.loads(row["ticket_request_ids"])) == ("c-1", ["r-1"])
    assert row["accepted_at"] >= row["sent_at"]
    assert row["ended_at"] is None
    assert operation.resource_id == "c-1"


CHANGES: list[tuple[str, str, Callable[[TensorPool], Awaitable[object]], dict[str, Any]]] = [
    (
        "POST /storage/create",
        "STORAGE_CREATE",
        lambda tp: tp.storage.create(10),
        {"storage_id": "s-1", "request_id": "r-1"},
    ),
    (
        "PATCH /cluster/edit/c-1",
        "CLUSTER_EDIT",
        lambda tp: tp.clusters.edit("c-1", name="new"),
        {"request_id": "r-1"},
    ),
    ("DELETE /cluster/c-1", "CLUSTER_RELEASE", lambda tp: tp.clusters.destroy("c-1"), {"request_id": "r-1"}),
    (
        "PATCH /storage/edit/s-1",
        "STORAGE_EDIT",
        lambda tp: tp.storage.edit("s-1", size_gb=20),
        {"request_id": "r-1"},
    ),
    ("DELETE /storage/s-1", "STORAGE_DESTROY", lambda tp: tp.storage.destroy("s-1"), {"request_id": "r-1"}),
    (
        "POST /storage/attach",
        "STORAGE_ATTACH",
        lambda tp: tp.storage.attach("s-1", "c-1"),
        {"request_ids": ["r-1"]},
    ),
    (
        "POST /storage/detach",
        "STORAGE_DETACH",
        lambda tp: tp.storage.detach("s-1", "c-1"),
        {"request_id": "r-1"},
    ),
    ("POST /job/cancel/j-1", "JOB_CANCEL", lambda tp: tp.jobs.cancel("j-1"), {"request_id": "r-1"}),
    ("POST /cluster/create", "CLUSTER_CLAIM", lambda tp: tp.clusters.create("8xH100"), {"cluster_id": "c-1"}),
    (
        "POST /cluster/create",
        "CLUSTER_CLAIM",
        lambda tp: tp.clusters.ensure("mine", "8xH100"),
        {"cluster_id": "c-1"},
    ),
    (
        "POST /cluster/create",
        "CLUSTER_CLAIM",
        lambda tp: tp.clusters.ephemeral("8xH100").__aenter__(),
        {"cluster_id": "c-1"},
    ),
]


@pytest.mark.parametrize(
    ("route", "kind", "change", "answer"),
    CHANGES,
    ids=[f"{change[1]} {at}" for at, change in enumerate(CHANGES)],
)
async def test_every_change_is_written_down_first(
    route: str,
    kind: str,
    change: Callable[[TensorPool], Awaitable[object]],
    answer: dict[str, Any],
    odd: TensorPool,
    scripted: ScriptedEngine,
    path: Path,
) -> None:
    spy = Spy(path, answer)
    scripted.handle(route, spy)
    scripted.answer("GET /request/info/r-1", {"request_id": "r-1", "status": "FAILED"})
    scripted.answer("GET /cluster/info/c-1", {"cluster_info": {"id": "c-1", "status": "RUNNING"}})
    scripted.answer("GET /cluster/list", {"clusters": []})
    await change(odd)
    (found,) = spy.found
    assert found["kind"] == kind
    assert found["accepted_at"] is None
    assert rows(path)[-1]["accepted_at"] is not None


@pytest.mark.parametrize(
    ("route", "kind", "change", "answer"),
    CHANGES,
    ids=[f"{change[1]} {at}" for at, change in enumerate(CHANGES)],
)
async def test_nothing_is_sent_that_cannot_be_written_down(
    route: str,
    kind: str,
    change: Callable[[TensorPool], Awaitable[object]],
    answer: dict[str, Any],
    odd: TensorPool,
    scripted: ScriptedEngine,
    path: Path,
) -> None:
    del kind
    scripted.answer(route, answer, status=202)
    scripted.answer("GET /cluster/list", {"clusters": []})
    path.write_bytes(b"this is no journal" * 100)
    with pytest.raises(JournalError, match=r"journal\.db"):
        await change(odd)
    assert [seen for seen in scripted.seen if seen.method != "GET"] == []
    assert path.read_bytes() == b"this is no journal" * 100, "it is left as it is"


async def test_nothing_is_sent_once_the_file_has_gone(tp: TensorPool, emulator: Emulator, path: Path) -> None:
    await tp.clusters.create("8xH100", name="first")
    path.unlink()
    with pytest.raises(JournalError, match="removed or replaced"):
        await tp.clusters.create("8xH100", name="second")
    assert emulator.record.by_route[CREATE] == 1


async def test_what_was_accepted_is_given_also_where_it_cannot_be_written_down(
    odd: TensorPool, scripted: ScriptedEngine, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def vanish(_: web.Request) -> web.Response:
        path.unlink()
        return web.json_response({"cluster_id": "c-1"}, status=202)

    scripted.handle(CREATE, vanish)
    scripted.answer("GET /cluster/info/c-1", {"cluster_info": {"id": "c-1", "status": "RUNNING"}})
    cluster = await odd.clusters.create("8xH100").result()
    assert cluster.id == "c-1"
    assert "CLUSTER_CLAIM of c-1 was accepted, and could not be written down" in caplog.text


async def test_the_end_is_written_down(tp: TensorPool, emulator: Emulator) -> None:
    cluster = await tp.clusters.create("8xH100").result()
    entry = await the_entry(tp)
    assert (entry.state, entry.outcome, entry.deleted_at) == (EntryState.ENDED, "COMPLETED", None)
    assert entry.intent.random_name
    emulator.faults.add(Fault(FaultKind.FAILED, method="PATCH"))
    with pytest.raises(OperationFailed):
        await tp.clusters.edit(cluster, name="new").result()
    await tp.clusters.destroy(cluster).result()
    assert await states(tp) == [
        (EntryState.ENDED, "COMPLETED"),
        (EntryState.ENDED, "FAILED: Editing the cluster failed: internal provider error"),
        (EntryState.ENDED, "COMPLETED"),
    ]
    assert all(entry.deleted_at is not None for entry in await tp.journal_entries(ended=True))
    assert await tp.journal_entries() == []


async def test_a_refused_create_is_closed(tp: TensorPool, emulator: Emulator) -> None:
    emulator.balance = 1.0
    with pytest.raises(InsufficientBalance):
        await tp.clusters.create("8xH100")
    entry = await the_entry(tp)
    assert entry.state is EntryState.ENDED
    assert (entry.outcome or "").startswith("refused: ")
    assert "402" in (entry.outcome or "")
    assert await tp.recover() == []
    assert emulator.record.by_route["GET /cluster/list"] == 0, "there is nothing to look for"


async def test_a_key_that_was_revoked_leaves_it_to_be_recovered(
    odd: TensorPool, scripted: ScriptedEngine
) -> None:
    scripted.answer(CREATE, {"cluster_id": "c-1", "request_id": "r-1"}, status=202)
    scripted.answer("GET /request/info/r-1", {"message": "no"}, status=401)
    operation = await odd.clusters.create("8xH100")
    with pytest.raises(Exception, match="no"):
        await operation
    assert await states(odd) == [(EntryState.ACCEPTED, None)]


async def test_cancelled_while_it_queues_it_was_not_made(emulator: Emulator, path: Path) -> None:
    limiter = RateLimiter(max_in_flight=1)
    async with client_of(emulator.url, path, emulator.key, limiter) as tp:
        async with limiter.slot():
            task = asyncio.create_task(tp.clusters.create("8xH100").result())
            await until(lambda: limiter.statistics().waiting[0])
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await states(tp) == [(EntryState.ENDED, NOT_MADE)]
        assert await tp.recover() == []
    assert emulator.record.requests == 0


async def test_cancelled_while_it_is_written_down_it_was_not_made(tp: TensorPool, emulator: Emulator) -> None:
    await tp.journal_entries()  # it is open
    task = asyncio.create_task(tp.clusters.create("8xH100").result())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.1)
    assert all(state == (EntryState.ENDED, NOT_MADE) for state in await states(tp))
    assert emulator.record.requests == 0


async def test_withdrawn_after_it_was_told_to_come_later_it_was_not_made(
    tp: TensorPool, emulator: Emulator
) -> None:
    async def hold() -> None:
        async with tp.clusters.ephemeral("8xH100"):
            await asyncio.sleep(30)

    emulator.faults.add(Fault(FaultKind.RATE_LIMITED, method="POST", path="/cluster/create", seconds=0.1))
    task = asyncio.create_task(hold())
    await until(lambda: emulator.record.faults)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    entry = await the_entry(tp)
    assert (entry.state, entry.outcome, entry.intent.ephemeral) == (EntryState.ENDED, NOT_MADE, True)


async def test_an_unclear_outcome_stays(odd: TensorPool, scripted: ScriptedEngine) -> None:
    scripted.handle(CREATE, drop)
    scripted.answer("GET /cluster/info/mine", "down", status=502)
    with pytest.raises(AmbiguousOutcomeError):
        await odd.clusters.create("8xH100", name="mine")
    assert await states(odd) == [(EntryState.INTENT, None)]


async def test_a_destroy_whose_answers_were_all_lost_stays(odd: TensorPool, scripted: ScriptedEngine) -> None:
    scripted.handle("DELETE /cluster/c-1", drop)
    with pytest.raises(ConnectionFailed):
        await odd.clusters.destroy("c-1")
    assert await states(odd) == [(EntryState.INTENT, None)]


async def test_an_adopted_one_has_its_ids(tp: TensorPool, emulator: Emulator) -> None:
    emulator.faults.add(once(FaultKind.DROP_AFTER, "/cluster/create"))
    operation = await tp.clusters.create("8xH100")
    entry = await the_entry(tp)
    assert entry.ref is not None
    assert (entry.ref.resource_id, entry.ref.request_ids) == (
        operation.resource_id,
        operation.request_ids,
    )


async def test_without_a_journal_there_is_nothing_to_recover(emulator: Emulator) -> None:
    async with TensorPool(emulator.key, base_url=emulator.url) as tp:
        for work in (tp.recover, tp.leftovers, tp.journal_entries):
            with pytest.raises(ConfigurationError, match="journal"):
                await work()
        with pytest.raises(ConfigurationError, match="journal"):
            tp.clusters.create("8xH100", ttl=60)
        with pytest.raises(ConfigurationError, match="journal"):
            tp.clusters.ensure("mine", "8xH100", ttl=60)
        with pytest.raises(ConfigurationError, match="journal"):
            tp.clusters.ephemeral("8xH100", ttl=60)
        with pytest.raises(ConfigurationError, match="journal"):
            tp.storage.create(10, ttl=60)
    assert emulator.record.requests == 0


@pytest.mark.parametrize("ttl", [0, -1, float("inf"), float("nan")])
async def test_a_time_to_live_is_above_0(ttl: float, tp: TensorPool) -> None:
    with pytest.raises(ValueError, match="ttl"):
        tp.clusters.create("8xH100", ttl=ttl)


async def test_the_key_is_in_no_file(scripted: ScriptedEngine, tmp_path: Path) -> None:
    path = tmp_path / "journal.db"

    async def quote_key(request: web.Request) -> web.Response:
        return web.json_response({"message": f"no: {request.headers['Authorization']}"}, status=402)

    scripted.handle(CREATE, quote_key)
    failed = {
        "request_id": "r-1",
        "request_type": "STORAGE_CREATE",
        "status": "FAILED",
        "object_id": "s-1",
        "external_message": "out of disks",
    }
    scripted.answer("GET /request/info/r-1", failed)
    scripted.answer("POST /storage/create", {"storage_id": "s-1", "request_id": "r-1"}, status=202)
    async with client_of(scripted.url, path) as tp:
        with pytest.raises(InsufficientBalance):
            await tp.clusters.create("8xH100", name="mine", public_keys=[PUBLIC_KEY])
        with pytest.raises(OperationFailed):
            await tp.storage.create(10).result()
        await tp.journal_entries()
        files = [file for file in tmp_path.rglob("*") if file.is_file()]
        assert {file.name for file in files} >= {"journal.db", "journal.db-wal"}
        assert any(file.parent.name == "journal.db-owners" for file in files)
        assert all(KEY.encode() not in file.read_bytes() for file in files)
        assert all(b"AAAAC3" not in file.read_bytes() for file in files)
    assert all(KEY.encode() not in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert b"no: Bearer" in path.read_bytes(), "the refusal is not there at all, so the test shows nothing"


async def test_a_client_that_is_closed_leaves_what_is_in_flight(emulator: Emulator, path: Path) -> None:
    async with client_of(emulator.url, path, emulator.key) as tp:
        await asyncio.gather(*(tp.clusters.create("8xH100") for _ in range(3)))
    assert [row["ended_at"] for row in rows(path)] == [None] * 3
    async with client_of(emulator.url, path, emulator.key) as tp:
        entries = await tp.journal_entries()
        assert [(entry.state, entry.owner_alive) for entry in entries] == [(EntryState.ACCEPTED, False)] * 3


async def test_a_journal_of_ones_own(emulator: Emulator, path: Path) -> None:
    journal = SQLiteJournal(path)
    async with TensorPool(emulator.key, base_url=emulator.url, journal=journal) as tp:
        await tp.clusters.create("8xH100")
        assert len(await tp.journal_entries()) == 1
