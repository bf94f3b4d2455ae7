"""A backend under made-up tokens: none leaves anything going, and where there is a secret none is taken."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.sse import EventSourceResponse, ServerSentEvent

from tensorpool_async import OperationKind, TensorPool
from tensorpool_async.emulator import Emulator
from tensorpool_async.events import OperationAccepted, OperationEnded
from tensorpool_async.fastapi import (
    OperationDep,
    TensorPoolDep,
    add_exception_handlers,
    stream_operation,
    tensorpool_lifespan,
)
from tensorpool_async.protocol.tokens import OperationRef, encode
from tests.web.serving import events_of, listen, serve


VISITORS = 500


def forged(number: int) -> str:
    """Make a token of an edit that never ends: nobody has asked for it."""
    return encode(OperationRef(OperationKind.CLUSTER_EDIT, f"c-{number}", expected={"name": "never"}))


def make_app(**options: Any) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI, tp: TensorPool) -> AsyncGenerator[None]:
        app.state.client = tp
        yield

    app = FastAPI(lifespan=tensorpool_lifespan(lifespan, **options))
    add_exception_handlers(app)

    @app.post("/clusters", status_code=202)
    async def create(tp: TensorPoolDep) -> str:
        return (await tp.clusters.create("1xH100")).token

    @app.get("/operations/{token}/events", response_class=EventSourceResponse)  # noqa: FAST003 - OperationDep takes it
    async def watch(operation: OperationDep) -> AsyncIterator[ServerSentEvent]:
        async for event in stream_operation(operation):
            yield event

    return app


async def visit(http: httpx.AsyncClient, url: str, token: str) -> None:
    """Watch an operation for a moment, and go away."""
    async with http.stream("GET", f"{url}/operations/{token}/events") as answer:
        async for _ in events_of(answer):
            await asyncio.sleep(0.5)
            return


@pytest.mark.timeout(120)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # not in debug mode: there are thousands of tasks
async def test_five_hundred_made_up_tokens_leave_nothing_going(
    emulator: Emulator, no_blocking_calls: Any
) -> None:
    no_blocking_calls.deactivate()
    events: list[Any] = []
    app = make_app(api_key=emulator.key, base_url=emulator.url, on_event=events.append)
    async with TensorPool(emulator.key, base_url=emulator.url) as tp:
        clusters = [await tp.clusters.create("1xH100").result() for _ in range(3)]
    tokens = [
        encode(OperationRef(OperationKind.CLUSTER_EDIT, clusters[n % 3].id, expected={"name": f"never-{n}"}))
        for n in range(VISITORS)
    ]
    limits = httpx.Limits(max_connections=100)
    async with serve(app) as url, httpx.AsyncClient(timeout=60, limits=limits) as http:
        await asyncio.gather(*(visit(http, url, token) for token in tokens))
        client: TensorPool = app.state.client
        async with asyncio.timeout(10):
            while client.statistics().operations:
                await asyncio.sleep(0.05)
        polls = client.statistics().polls
        assert polls >= VISITORS / 2, "they were polled while somebody watched"
        await asyncio.sleep(0.5)
        before = client.statistics().polls
        await asyncio.sleep(2.0)
        assert client.statistics().polls == before
        poller: Any = client._poller  # pyright: ignore[reportPrivateUsage] - nothing is left in it
        assert (len(poller), poller._heap, poller._pending, poller._timer) == (0, [], {}, None)
        assert client._transport.instrumentation._operations == {}  # pyright: ignore[reportPrivateUsage]
        gc.collect()
        operations = [one for one in gc.get_objects() if type(one).__name__ == "Operation"]
        assert len(operations) <= 5, "nor in memory"
    accepted = sum(isinstance(event, OperationAccepted) for event in events)
    left = [event for event in events if isinstance(event, OperationEnded)]
    assert accepted == len(left) == VISITORS
    assert {event.outcome for event in left} == {"unknown"}


@pytest.mark.parametrize("secret", ["a secret", ["new", "old"], b"bytes"])
async def test_with_a_secret_only_its_own_tokens_are_taken(emulator: Emulator, secret: Any) -> None:
    app = make_app(api_key=emulator.key, base_url=emulator.url, token_secret=secret)
    async with serve(app) as url, httpx.AsyncClient() as http:
        token = (await http.post(f"{url}/clusters")).json()
        assert token.startswith("tpa2.")
        *_, last = await listen(f"{url}/operations/{token}/events")
        assert last.event == "result"
        while app.state.client.statistics().operations:  # that of the create goes on for a moment
            await asyncio.sleep(0.01)
        polls = emulator.record.requests
        payload, _, signature = token.rpartition(".")
        for bad in (forged(1), "r-1", token[:-1] + ("A" if token[-1] != "A" else "B"), f"{payload}.", signature,
                    "x" * 5000, "%00", "a%0Ab", "..%2F..%2Fx"):  # fmt: skip
            answer = await http.get(f"{url}/operations/{bad}/events")
            assert answer.status_code == 404, bad
            if "2F" not in bad:  # which is no path of the app at all
                assert answer.headers["content-type"] == "application/problem+json"
                assert answer.json()["error"] == "UnknownOperation"
        assert emulator.record.requests == polls, "and the engine is not asked"


async def test_a_token_of_the_last_secret_is_still_taken(emulator: Emulator) -> None:
    async with TensorPool(emulator.key, base_url=emulator.url, token_secret="old") as tp:
        token = (await tp.clusters.create("1xH100")).token
    app = make_app(api_key=emulator.key, base_url=emulator.url, token_secret=["new", "old"])
    async with serve(app) as url:
        *_, last = await listen(f"{url}/operations/{token}/events")
    assert last.event == "result"


async def test_without_handlers_an_unknown_token_is_404_as_well(emulator: Emulator) -> None:
    app = FastAPI(lifespan=tensorpool_lifespan(api_key=emulator.key, base_url=emulator.url))

    @app.get("/operations/{token}")  # noqa: FAST003 - OperationDep takes it
    async def read(operation: OperationDep) -> str:
        return str(operation.status)

    async with serve(app) as url, httpx.AsyncClient() as http:
        answer = await http.get(f"{url}/operations/tpa1.broken!")
        assert (answer.status_code, answer.json()) == (404, {"detail": "There is no such operation."})
