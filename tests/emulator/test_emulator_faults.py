import asyncio
import json
import time
from typing import Any

import aiohttp
import pytest

from tensorpool_async.emulator import Emulator, Fault, FaultKind
from tests.emulator.talk import Talk, talk_to


async def made(emulator: Emulator) -> int:
    return len(emulator.record.clusters_made)


@pytest.mark.parametrize(("kind", "done"), [(FaultKind.DROP_BEFORE, 0), (FaultKind.DROP_AFTER, 1)])
async def test_a_dropped_answer(talk: Talk, emulator: Emulator, kind: FaultKind, done: int) -> None:
    emulator.faults.add(Fault(kind, "POST", "/cluster/create"))
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await talk.create()
    assert await made(emulator) == done
    assert emulator.record.by_status == {0: 1}
    assert (await talk.create()).status == 202


@pytest.mark.parametrize(("kind", "done"), [(FaultKind.HTML_502, 0), (FaultKind.HTML_502_AFTER, 1)])
async def test_a_gateway_answers_in_html(talk: Talk, emulator: Emulator, kind: FaultKind, done: int) -> None:
    emulator.faults.add(Fault(kind))
    answer = await talk.create()
    assert answer.status == 502
    assert answer.headers["Content-Type"].startswith("text/html")
    assert b"<title>502 Bad Gateway</title>" in answer.body
    assert await made(emulator) == done


async def test_a_json_that_ends_in_its_middle(talk: Talk, emulator: Emulator) -> None:
    emulator.faults.add(Fault(FaultKind.CUT_JSON))
    answer = await talk.create()
    assert answer.status == 202
    assert answer.body.startswith(b'{"cluster_id"')
    with pytest.raises(json.JSONDecodeError):
        _ = answer.json
    assert await made(emulator) == 1


async def test_a_body_that_is_shorter_than_was_announced(talk: Talk, emulator: Emulator) -> None:
    emulator.faults.add(Fault(FaultKind.CUT_BODY))
    with pytest.raises(aiohttp.ClientPayloadError):
        await talk.create()
    assert await made(emulator) == 1


async def test_a_stall_ends_in_a_closed_connection(talk: Talk, emulator: Emulator) -> None:
    emulator.faults.add(Fault(FaultKind.STALL, seconds=0.1))
    started = time.monotonic()
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await talk.create()
    assert 0.1 <= time.monotonic() - started < 1
    assert await made(emulator) == 0


async def test_a_stall_ends_with_the_client(talk: Talk, emulator: Emulator) -> None:
    emulator.faults.add(Fault(FaultKind.STALL, seconds=3600))
    with pytest.raises(TimeoutError):
        await talk.ask("GET", "/cluster/list", timeout=aiohttp.ClientTimeout(total=0.05))
    await asyncio.sleep(0.02)
    assert emulator.record.in_flight == 0


async def test_a_stall_ends_with_the_emulator() -> None:
    async with Emulator(faults=[Fault(FaultKind.STALL, seconds=3600)]) as emulator, talk_to(emulator) as talk:
        asking = asyncio.create_task(talk.get("/cluster/list"))
        while not emulator.record.in_flight:
            await asyncio.sleep(0.001)
    with pytest.raises(aiohttp.ClientError):
        await asking


@pytest.mark.parametrize(
    ("kind", "status", "retry_after"),
    [
        (FaultKind.RATE_LIMITED, 429, "2.5"),
        (FaultKind.UNAVAILABLE, 503, "2.5"),
        (FaultKind.ERROR_500, 500, None),
        (FaultKind.NOT_FOUND, 404, None),
    ],
)
async def test_answers_in_json_with_nothing_done(
    talk: Talk, emulator: Emulator, kind: FaultKind, status: int, retry_after: str | None
) -> None:
    emulator.faults.add(Fault(kind, seconds=2.5))
    answer = await talk.create()
    assert answer.status == status
    assert answer.headers.get("Retry-After") == retry_after
    assert isinstance(answer.json, dict)
    assert await made(emulator) == 0


async def test_a_pause_that_a_429_asks_for_counts_for_the_polls(talk: Talk, emulator: Emulator) -> None:
    request_id = (await talk.create()).json["request_id"]
    emulator.faults.add(Fault(FaultKind.RATE_LIMITED, path="/request/info/*", seconds=60))
    await talk.get(f"/request/info/{request_id}")
    await asyncio.sleep(0.03)
    await talk.get(f"/request/info/{request_id}")
    assert emulator.record.early_polls == 1


async def test_a_pace_that_was_never_told_cannot_be_broken(talk: Talk, emulator: Emulator) -> None:
    request_id = (await talk.create()).json["request_id"]
    emulator.faults.add(Fault(FaultKind.DROP_AFTER, path="/request/info/*"))
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await talk.get(f"/request/info/{request_id}")
    await talk.get(f"/request/info/{request_id}")
    assert emulator.record.early_polls == 0


async def test_a_202_without_its_request_id(talk: Talk, emulator: Emulator) -> None:
    emulator.faults.add(Fault(FaultKind.NO_REQUEST_ID, times=3))
    created = await talk.create(tp_cluster_name="w0")
    assert (created.status, created.json["request_id"]) == (202, None)
    claim = (await talk.get("/cluster/operations/w0")).json["operations"][0]["request_id"]
    await talk.end_of(claim)
    edited = await talk.patch("/cluster/edit/w0", json={"deletion_protection": False})
    assert edited.json["request_id"] is None
    await asyncio.sleep(0.3)
    assert (await talk.delete("/cluster/w0")).json["request_id"] is None
    assert emulator.faults.armed == []


async def test_an_engine_that_never_gives_request_ids() -> None:
    async with Emulator(no_request_ids=True) as emulator, talk_to(emulator) as talk:
        assert (await talk.create()).json["request_id"] is None


async def test_a_list_that_lags_behind(talk: Talk, emulator: Emulator) -> None:
    emulator.faults.add(Fault(FaultKind.LIST_LAG, times=None, seconds=0.5))
    assert (await talk.get("/cluster/list")).json["clusters"] == []
    assert emulator.record.faults == []
    await talk.create(tp_cluster_name="w0")
    assert (await talk.get("/cluster/list")).json["clusters"] == []
    assert (await talk.get("/cluster/info/w0")).status == 404
    assert (await talk.get("/cluster/operations/w0")).status == 200
    await asyncio.sleep(0.6)
    assert (await talk.get("/cluster/info/w0")).status == 200
    assert [fired.kind for fired in emulator.record.faults] == [FaultKind.LIST_LAG] * 2
    await talk.create(tp_cluster_name="w1")
    assert [cluster["name"] for cluster in (await talk.get("/cluster/list")).json["clusters"]] == ["w0"]


async def test_a_request_that_is_retried_once(talk: Talk, emulator: Emulator) -> None:
    emulator.faults.add(Fault(FaultKind.RETRYING))
    await talk.get("/cluster/list")
    states = [state["status"] for state in await talk.end(await talk.create())]
    assert "RETRYING" in states
    assert states[-1] == "COMPLETED"
    assert "RETRYING" not in [state["status"] for state in await talk.end(await talk.create())]


async def test_capacity_that_runs_out_on_demand(talk: Talk, emulator: Emulator) -> None:
    emulator.faults.add(Fault(FaultKind.NO_CAPACITY))
    last = (await talk.end(await talk.create("8xB200")))[-1]
    assert last["status"] == "FAILED"
    assert "capacity" in last["external_message"]
    await talk.running("8xB200")


async def test_a_creation_that_fails(talk: Talk, emulator: Emulator) -> None:
    emulator.faults.add(Fault(FaultKind.FAILED))
    last = (await talk.end(await talk.create(tp_cluster_name="w0")))[-1]
    assert last["status"] == "FAILED"
    assert "capacity" not in last["external_message"]
    assert (await talk.cluster("w0"))["status"] == "FAILED"
    balance = emulator.balance
    await talk.end(await talk.delete("/cluster/w0"))
    assert emulator.balance == balance
    assert emulator.record.living == []


async def test_a_destroy_that_fails_leaves_the_cluster(talk: Talk, emulator: Emulator) -> None:
    cluster_id = await talk.running()
    emulator.faults.add(Fault(FaultKind.FAILED, "DELETE"))
    assert (await talk.end(await talk.delete(f"/cluster/{cluster_id}")))[-1]["status"] == "FAILED"
    assert (await talk.cluster(cluster_id))["status"] == "FAILED"
    assert emulator.record.living == [cluster_id]
    assert (await talk.end(await talk.delete(f"/cluster/{cluster_id}")))[-1]["status"] == "COMPLETED"


async def test_an_edit_that_fails_changes_nothing(talk: Talk, emulator: Emulator) -> None:
    cluster_id = await talk.running(tp_cluster_name="w0")
    emulator.faults.add(Fault(FaultKind.FAILED))
    edited = await talk.patch("/cluster/edit/w0", json={"cluster_name": "w1"})
    assert (await talk.end(edited))[-1]["status"] == "FAILED"
    cluster = await talk.cluster(cluster_id)
    assert (cluster["name"], cluster["status"]) == ("w0", "RUNNING")


@pytest.mark.parametrize(
    ("fault", "struck"),
    [
        ({}, [1, 0, 0, 0]),
        ({"times": 2}, [1, 1, 0, 0]),
        ({"times": None}, [1, 1, 1, 1]),
        ({"times": 0}, [0, 0, 0, 0]),
        ({"after": 1, "times": 2}, [0, 1, 1, 0]),
        ({"method": "post", "times": None}, [0, 0, 0, 0]),
        ({"method": "get", "times": None}, [1, 1, 1, 1]),
        ({"path": "/cluster/list", "times": None}, [0, 0, 0, 0]),
        ({"path": "/heal*", "times": None}, [1, 1, 1, 1]),
        ({"probability": 0.0, "times": None}, [0, 0, 0, 0]),
    ],
)
async def test_which_requests_a_fault_strikes(
    talk: Talk, emulator: Emulator, fault: dict[str, Any], struck: list[int]
) -> None:
    emulator.faults.add(Fault(FaultKind.ERROR_500, **fault))
    assert [(await talk.get("/healthz")).status == 500 for _ in struck] == struck
    assert [fired.path for fired in emulator.record.faults] == ["/healthz"] * sum(struck)


async def test_chance_follows_from_the_seed() -> None:
    async def strikes(seed: int) -> list[int]:
        fault = Fault(FaultKind.ERROR_500, times=None, probability=0.5)
        async with Emulator(seed=seed, faults=[fault]) as emulator, talk_to(emulator) as talk:
            return [(await talk.get("/healthz")).status for _ in range(40)]

    first = await strikes(3)
    assert first == await strikes(3)
    assert first != await strikes(4)
    assert 10 < first.count(500) < 30


async def test_a_request_meets_one_fault_and_the_next_takes_the_next(talk: Talk, emulator: Emulator) -> None:
    emulator.faults.add(Fault(FaultKind.ERROR_500), Fault(FaultKind.UNAVAILABLE), Fault(FaultKind.HTML_502))
    assert [(await talk.get("/healthz")).status for _ in range(4)] == [500, 503, 502, 200]
    assert [(f.kind, f.method, f.path) for f in emulator.record.faults] == [
        ("ERROR_500", "GET", "/healthz"),
        ("UNAVAILABLE", "GET", "/healthz"),
        ("HTML_502", "GET", "/healthz"),
    ]


async def test_faults_can_be_cleared(talk: Talk, emulator: Emulator) -> None:
    emulator.faults.add(Fault(FaultKind.ERROR_500, times=None))
    assert (await talk.get("/healthz")).status == 500
    emulator.faults.clear()
    assert (await talk.get("/healthz")).status == 200
