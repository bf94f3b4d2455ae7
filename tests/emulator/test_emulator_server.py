import asyncio
import io
import time
from email.utils import parsedate_to_datetime
from typing import cast

import aiohttp
import pytest

from tensorpool_async.emulator import Cluster, Emulator, endpoints
from tests.emulator.talk import Talk, talk_to


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Basic tp-emulator-key"},
        {"Authorization": "Bearer é"},
    ],
)
async def test_nothing_is_done_without_the_key(
    talk: Talk, emulator: Emulator, headers: dict[str, str]
) -> None:
    refused = await talk.post("/cluster/create", headers=headers, json={"instance_type": "1xH100"})
    assert refused.status == 401
    assert refused.json["error"]
    assert (await talk.get("/no/such/route", headers=headers)).status == 401
    assert emulator.record.clusters_made == []


async def test_healthz_alone_needs_no_key(talk: Talk) -> None:
    assert (await talk.get("/healthz", headers={})).status == 200
    refused = await talk.post("/health", headers={}, json={})
    assert refused.status == 401
    # The official client shows nothing but the message of this one.
    assert refused.json["message"] == refused.json["error"]
    assert (await talk.post("/health", json={"package_version": "0.0.9"})).json == {"message": None}


async def test_unknown_routes_and_methods_and_objects(talk: Talk) -> None:
    for path in (
        "/",
        "/no/such/route",
        "/cluster/info/",
        "/request/info/r-1",
        "/cluster/info/c-1",
        "/cluster/info/a/b",
    ):
        unknown = await talk.get(path)
        assert unknown.status == 404, path
        assert isinstance(unknown.json["detail"], str)
    wrong = await talk.ask("PUT", "/cluster/list")
    assert wrong.status == 405
    assert wrong.headers["Allow"] == "GET"
    assert (await talk.delete("/cluster/list")).status == 404


async def test_an_unexpected_error_is_a_500_in_json(
    talk: Talk, emulator: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    emulator.clusters["w0"] = cast("Cluster", "no cluster")
    broken = await talk.get("/cluster/info/w0")
    assert broken.status == 500
    assert broken.json["detail"]
    assert "AttributeError" in caplog.text


@pytest.mark.parametrize(("seconds", "text"), [(1.0, "1"), (0.25, "0.25"), (0.0, "0"), (90, "90")])
async def test_retry_after_is_sent_as_it_was_given(seconds: float, text: str) -> None:
    async with Emulator(retry_after=seconds) as emulator, talk_to(emulator) as talk:
        created = await talk.create()
        polled = await talk.get(f"/request/info/{created.json['request_id']}")
        assert polled.headers["Retry-After"] == text


async def test_retry_after_as_a_date_is_never_earlier_than_meant() -> None:
    async with Emulator(retry_after=0.7, retry_after_format="date") as emulator, talk_to(emulator) as talk:
        created = await talk.create()
        before = time.time()
        polled = await talk.get(f"/request/info/{created.json['request_id']}")
        date = parsedate_to_datetime(polled.headers["Retry-After"]).timestamp()
        assert before + 0.7 <= date <= time.time() + 1.7


async def test_polls_that_come_early_are_counted(talk: Talk, emulator: Emulator) -> None:
    emulator.retry_after = 0.5
    created = await talk.create()
    request_id = created.json["request_id"]
    for _ in range(3):
        await talk.get(f"/request/info/{request_id}")
    assert emulator.record.polls[request_id] == 3
    assert emulator.record.early_polls == 2
    await asyncio.sleep(0.5)
    await talk.end_of(request_id)
    for _ in range(3):
        await talk.get(f"/request/info/{request_id}")
    assert emulator.record.early_polls == 2


async def test_the_end_of_a_request_asks_for_no_pace(talk: Talk, emulator: Emulator) -> None:
    emulator.retry_after = 60
    request_id = (await talk.create()).json["request_id"]
    await talk.get(f"/request/info/{request_id}")
    await asyncio.sleep(0.3)
    assert (await talk.get(f"/request/info/{request_id}")).json["status"] == "COMPLETED"
    assert emulator.record.early_polls == 1
    await talk.get(f"/request/info/{request_id}")
    assert emulator.record.early_polls == 1


async def test_above_the_rate_limit_requests_are_refused_and_do_nothing() -> None:
    async with Emulator(rate_limit=2, rate_burst=3) as emulator, talk_to(emulator) as talk:
        created = [await talk.create() for _ in range(5)]
        assert [reply.status for reply in created] == [202, 202, 202, 429, 429]
        assert created[-1].headers["Retry-After"] == "1"
        assert len(emulator.record.clusters_made) == 3
        await asyncio.sleep(0.55)
        assert (await talk.create()).status == 202
        emulator.rate_limit = None
        assert (await talk.create()).status == 202
        emulator.rate_limit, emulator.rate_burst = 0.1, None
        assert [(await talk.create()).status for _ in range(2)] == [202, 429]
        assert int((await talk.create()).headers["Retry-After"]) > 5


async def test_the_record_counts_what_came_and_how_it_was_answered(talk: Talk, emulator: Emulator) -> None:
    await talk.create(tp_cluster_name="w0")
    await talk.create(tp_cluster_name="w0")
    await talk.get("/cluster/info/w0")
    await talk.get("/elsewhere")
    assert emulator.record.requests == 4
    assert emulator.record.by_route == {
        "POST /cluster/create": 2,
        "GET /cluster/info/{cluster}": 1,
        "GET unknown": 1,
    }
    assert emulator.record.by_status == {202: 1, 409: 1, 200: 1, 404: 1}


async def test_requests_in_flight_are_counted_while_they_are_handled() -> None:
    async with Emulator(latency=0.05) as emulator, talk_to(emulator) as talk:
        await asyncio.gather(*(talk.get("/cluster/list") for _ in range(7)))
        assert emulator.record.max_in_flight == 7
        await talk.get("/cluster/list")
        assert emulator.record.max_in_flight == 7
        assert emulator.record.in_flight == 0


async def test_two_emulators_of_one_seed_make_the_same() -> None:
    async def ids(seed: int) -> list[str]:
        async with Emulator(seed=seed) as emulator, talk_to(emulator) as talk:
            return [(await talk.create()).json["cluster_id"] for _ in range(3)]

    assert await ids(1) == await ids(1)
    assert await ids(1) != await ids(2)


async def test_it_serves_two_at_once_without_sharing_anything(talk: Talk, emulator: Emulator) -> None:
    async with Emulator(key="other") as other:
        assert other.url != emulator.url
        await talk.create(tp_cluster_name="w0")
        assert not other.clusters
        refused = await talk.get("/cluster/list", url=other.url)
        assert refused.status == 401


async def test_leaving_it_closes_idle_connections_and_its_port() -> None:
    async with aiohttp.ClientSession() as session:
        async with Emulator() as emulator, session.get(emulator.url + "/healthz") as response:
            assert response.status == 200
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.get(emulator.url + "/healthz")


async def test_leaving_it_ends_what_is_in_flight_and_leaves_nothing_running() -> None:
    before = asyncio.all_tasks()
    emulator = Emulator(latency=60, provision_seconds=60)
    async with aiohttp.ClientSession() as session:
        async with emulator:
            url = emulator.url + "/healthz"
            asking = [asyncio.create_task(session.get(url)) for _ in range(20)]
            while emulator.record.in_flight < 20:
                await asyncio.sleep(0.001)
            started = time.monotonic()
        assert time.monotonic() - started < 2
        assert emulator.record.in_flight == 0
        await asyncio.gather(*asking, return_exceptions=True)
        assert asyncio.all_tasks() == before


async def test_leaving_it_stops_its_time() -> None:
    async with Emulator(provision_seconds=0.1) as emulator, talk_to(emulator) as talk:
        cluster_id = (await talk.create()).json["cluster_id"]
    await asyncio.sleep(0.2)
    assert emulator.clusters[cluster_id].status in {"PENDING", "PROVISIONING"}


async def test_leaving_it_while_connections_come_in() -> None:
    for turns in range(6):
        async with Emulator() as emulator:
            host, port = emulator.url.removeprefix("http://").split(":")
            knocking = [asyncio.create_task(asyncio.open_connection(host, int(port))) for _ in range(20)]
            for _ in range(turns):
                await asyncio.sleep(0)
        for ended in await asyncio.gather(*knocking, return_exceptions=True):
            if not isinstance(ended, BaseException):
                ended[1].close()


async def test_a_port_that_is_taken() -> None:
    async with Emulator() as emulator:
        with pytest.raises(OSError, match="in use"):
            async with Emulator(port=int(emulator.url.rpartition(":")[2])):
                pass


async def test_a_body_that_is_too_large(talk: Talk) -> None:
    assert (await talk.post("/cluster/create", data=io.BytesIO(b"x" * 2_000_000))).status == 413


async def test_a_client_that_leaves_in_the_middle_of_its_body(emulator: Emulator) -> None:
    host, port = emulator.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /health HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer tp-emulator-key\r\n")
    writer.write(b"Content-Length: 100\r\n\r\n{")
    while not emulator.record.in_flight:
        await asyncio.sleep(0.001)
    writer.close()
    await writer.wait_closed()
    while emulator.record.in_flight:
        await asyncio.sleep(0.001)
    assert 500 not in emulator.record.by_status


async def test_it_has_no_address_before_it_is_entered_and_is_entered_once() -> None:
    emulator = Emulator()
    with pytest.raises(RuntimeError, match="before it is entered"):
        _ = emulator.url
    async with emulator:
        pass
    with pytest.raises(RuntimeError, match="once"):
        async with emulator:
            pass


def test_a_speed_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="speed"):
        Emulator(speed=0)


def test_nothing_runs_before_it_is_entered() -> None:
    with pytest.raises(RuntimeError, match="not running"):
        Emulator().jobs.add(seconds=1)


def test_the_routes_can_be_listed() -> None:
    assert {("POST", "/cluster/create"), ("GET", "/request/info/{request_id}")} <= endpoints()
