"""Operations as server-sent events, over real sockets: told once, gone on with, cut, and left alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.sse import EventSourceResponse, ServerSentEvent

from tensorpool_async import Operation, PollPolicy, TensorPool
from tensorpool_async.emulator import Emulator
from tensorpool_async.fastapi import (
    LastEventID,
    OperationDep,
    TensorPoolDep,
    add_exception_handlers,
    stream_operation,
    tensorpool_lifespan,
    token_of,
)
from tests.support.scripted import ScriptedEngine
from tests.web.serving import Event, events_of, listen, serve, tasks_here


def make_app(engine_url: str, key: str) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI, tp: TensorPool) -> AsyncGenerator[None]:
        app.state.client = tp
        yield

    app = FastAPI(
        lifespan=tensorpool_lifespan(
            lifespan, api_key=key, base_url=engine_url, polling=PollPolicy(initial=0.01)
        )
    )
    add_exception_handlers(app)

    @app.post("/clusters/{name}", status_code=202)
    async def create(name: str, tp: TensorPoolDep) -> str:
        return (await tp.clusters.create("1xH100", name=name)).token

    @app.get("/operations/{token}/events", response_class=EventSourceResponse)  # noqa: FAST003 - OperationDep takes it
    async def watch(
        operation: OperationDep, last_event_id: LastEventID = None
    ) -> AsyncIterator[ServerSentEvent]:
        async for event in stream_operation(operation, last_event_id=last_event_id, retry=0.5):
            yield event

    return app


@pytest.fixture
async def slow() -> AsyncGenerator[Emulator]:
    """Run an engine whose clusters take long enough for a stream to be cut in between."""
    async with Emulator(provision_seconds=0.5, destroy_seconds=0.05, retry_after=0.05) as engine:
        yield engine


async def create(url: str, name: str) -> str:
    async with httpx.AsyncClient() as http:
        answer = await http.post(f"{url}/clusters/{name}")
        assert answer.status_code == 202, answer.text
        return str(answer.json())


def told(events: list[Event]) -> list[tuple[str, Any]]:
    return [(event.event, event.data.get("status")) for event in events if event.data]


async def test_an_operation_is_told_from_its_first_word_to_its_result(slow: Emulator) -> None:
    async with serve(make_app(slow.url, slow.key)) as url:
        token = await create(url, "w0")
        hello, *events = await listen(f"{url}/operations/{token}/events")
    assert (hello.retry, hello.data) == (500, None)
    assert events[-1].event == "result"
    assert {event.event for event in events[:-1]} == {"update"}
    assert (events[-2].data["kind"], events[-2].data["status"]) == ("CLUSTER_CLAIM", "COMPLETED")
    cluster = events[-1].data["result"]
    assert (cluster["name"], cluster["status"]) == ("w0", "RUNNING")
    assert cluster["id"] == events[-1].data["resource_id"] == events[0].data["resource_id"]
    assert "extra" not in cluster
    assert "extra" not in cluster["instances"][0]
    assert {token_of(event.id) for event in events} == {token}


async def test_an_operation_without_a_result_ends_with_null(tp: TensorPool) -> None:
    cluster = await tp.clusters.create("1xH100").result()
    operation = await tp.clusters.destroy(cluster)
    events = [event async for event in stream_operation(operation)]
    assert events[-1].event == "result"
    assert events[-1].data == {"kind": "CLUSTER_RELEASE", "resource_id": cluster.id, "result": None}


async def test_a_failure_is_told_as_a_problem(odd_tp: TensorPool, scripted: ScriptedEngine) -> None:
    scripted.answer("GET /request/info/r-1", failed_request("no node left"))
    events = [event async for event in stream_operation(odd_tp.operation("r-1"))]
    assert events[-1].event == "failure"
    assert events[-1].data["error"] == "OperationFailed"
    assert events[-1].data["detail"] == "no node left"
    assert token_of(events[-1].id) == events[-1].data["token"]


async def test_the_engines_words_can_be_kept_back(odd_tp: TensorPool, scripted: ScriptedEngine) -> None:
    scripted.answer("GET /request/info/r-1", failed_request("no node left in rack 7"))
    events = [event async for event in stream_operation(odd_tp.operation("r-1"), engine_messages=False)]
    assert events[-1].event == "failure"
    assert "rack" not in repr(events)


async def test_a_key_that_was_revoked_is_a_failure_without_the_engines_words(
    odd_tp: TensorPool, scripted: ScriptedEngine
) -> None:
    scripted.answer("GET /request/info/r-1", {"detail": "tenant 77 is locked"}, status=401)
    *_, last = [event async for event in stream_operation(odd_tp.operation("r-1"))]
    assert (last.event, last.data["status"], last.data["error"]) == ("failure", 502, "AuthenticationError")
    assert "77" not in repr(last)


def failed_request(message: str) -> dict[str, Any]:
    return {
        "request_id": "r-1",
        "request_type": "CREATE",
        "status": "FAILED",
        "created_at": "2026-01-01T00:00:00Z",
        "object_id": "c-1",
        "external_message": message,
    }


async def cut_after_first_update(url: str) -> str:
    """Read a stream as far as its first update, go away, and return the id of that."""
    async with httpx.AsyncClient(timeout=20) as http, http.stream("GET", url) as answer:
        async for event in events_of(answer):
            if event.event == "update" and event.data["status"] != "PENDING":
                assert event.id is not None
                return event.id
    raise AssertionError("nothing was told")


@pytest.mark.parametrize("same_process", [True, False])
async def test_a_browser_that_comes_back_is_told_nothing_twice(slow: Emulator, same_process: bool) -> None:
    async with serve(make_app(slow.url, slow.key)) as url:
        token = await create(url, "w0")
        seen = await cut_after_first_update(f"{url}/operations/{token}/events")
        rest = await listen(f"{url}/operations/{token}/events", Last_Event_ID=seen) if same_process else []
    if not same_process:
        async with serve(make_app(slow.url, slow.key)) as url:
            rest = await listen(f"{url}/operations/{token_of(seen)}/events", Last_Event_ID=seen)
    told_again = [event for event in rest if event.id == seen]
    assert told_again == []
    assert "PENDING" not in [status for _, status in told(rest)], "older than what was seen"
    assert rest[-1].event == "result"


async def test_what_came_in_between_is_told(tp: TensorPool) -> None:
    operation = await tp.clusters.create("1xH100")
    async with aclosing(stream_operation(operation)) as stream:
        first = [await anext(stream), await anext(stream)][1]
    await operation
    rest = [event async for event in stream_operation(operation, last_event_id=first.id)]
    assert [(event.event, event.data.get("status")) for event in rest if event.data] == [
        ("update", "COMPLETED"),
        ("result", None),
    ]


async def test_the_last_event_id_of_another_operation_hides_nothing(tp: TensorPool) -> None:
    first = await tp.clusters.create("1xH100", name="a")
    second = await tp.clusters.create("1xH100", name="b")
    ids = [event.id async for event in stream_operation(first) if event.id]
    for seen in ids:
        events = [event async for event in stream_operation(second, last_event_id=seen)]
        assert [event.event for event in events if event.id][-2:] == ["update", "result"]


@pytest.mark.parametrize("event_id", [None, "", "abc", ":", "tpa1.:", ":end"])
def test_an_id_that_is_none_has_no_token(event_id: str | None) -> None:
    assert token_of(event_id) in {None, "tpa1."}


async def test_a_text_that_is_no_token_is_not_found(slow: Emulator) -> None:
    async with serve(make_app(slow.url, slow.key)) as url, httpx.AsyncClient() as http:
        for text in ("tpa1.broken!", "tpa9.abc"):
            assert (await http.get(f"{url}/operations/{text}/events")).status_code == 404
    assert slow.requests == {}


async def test_silence_is_filled_with_comments(slow: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastapi.routing._PING_INTERVAL", 0.02)
    async with serve(make_app(slow.url, slow.key)) as url:
        token = await create(url, "w0")
        events = await listen(f"{url}/operations/{token}/events")
    assert [event.comment for event in events].count("ping") >= 3


async def test_a_stream_that_the_app_cuts_has_no_last_word(slow: Emulator) -> None:
    app = make_app(slow.url, slow.key)
    async with serve(app) as url:
        token = await create(url, "w0")
        reading = asyncio.create_task(listen(f"{url}/operations/{token}/events"))
        while not streams():
            await asyncio.sleep(0.01)
        await app.state.client.aclose()
        events = await reading
    assert {event.event for event in events if event.data} == {"update"}
    assert token_of(events[-1].id) == token


def streams() -> int:
    return sum("_sse_producer_cm" in repr(task) for task in asyncio.all_tasks())


async def test_who_stops_reading_stops_nothing_else(tp: TensorPool) -> None:
    operation: Operation[Any] = await tp.clusters.create("1xH100")
    stream = stream_operation(operation)
    assert (await anext(stream)).retry == 2000
    assert (await anext(stream)).event == "update"
    await stream.aclose()
    waiting = asyncio.create_task(read(operation))
    await asyncio.sleep(0)
    waiting.cancel()
    assert isinstance((await asyncio.gather(waiting, return_exceptions=True))[0], asyncio.CancelledError)
    assert (await operation).status == "RUNNING"


async def read(operation: Operation[Any]) -> None:
    async for _ in stream_operation(operation):
        pass


async def test_many_who_watch_one_operation_have_it_polled_once(slow: Emulator) -> None:
    app = make_app(slow.url, slow.key)
    async with serve(app) as url:
        token = await create(url, "w0")
        reading = [asyncio.create_task(listen(f"{url}/operations/{token}/events")) for _ in range(10)]
        while streams() < 20 and not all(task.done() for task in reading):
            await asyncio.sleep(0.01)
            assert (
                app.state.client.statistics().operations <= 2
            )  # that of the create, and that of all streams
        for events in await asyncio.gather(*reading):
            assert events[-1].event == "result"


@pytest.mark.timeout(120)
async def test_fifty_streams_of_which_ten_are_cut_leave_nothing_behind(slow: Emulator) -> None:
    app = make_app(slow.url, slow.key)
    async with serve(app) as url:
        tokens = await asyncio.gather(*(create(url, f"w{index}") for index in range(50)))
        before = tasks_here()
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(timeout=30, limits=limits) as http:

            async def watch(token: str, *, cut: bool) -> str:
                async with http.stream("GET", f"{url}/operations/{token}/events") as answer:
                    async for event in events_of(answer):
                        if event.event in {"result", "failure"} or (cut and event.event == "update"):
                            return event.event
                return "nothing"

            ends = await asyncio.gather(
                *(watch(token, cut=index % 5 == 0) for index, token in enumerate(tokens))
            )
        assert (ends.count("update"), ends.count("result")) == (10, 40)
        # Those that were cut still go on here, without anybody who listens.
        async with asyncio.timeout(20):
            while app.state.client.statistics().operations or tasks_here() - before:
                await asyncio.sleep(0.02)
        statistics = app.state.client.statistics()
        assert (statistics.limiter.in_flight, sum(statistics.limiter.waiting)) == (0, 0)
    assert [str(cluster.status) for cluster in slow.clusters.values()] == ["RUNNING"] * 50
