"""The client's life in an app, beside the app's own."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request, WebSocket

from tensorpool_async import TensorPool
from tensorpool_async.emulator import Emulator
from tensorpool_async.fastapi import TensorPoolDep, tensorpool, tensorpool_lifespan
from tests.web.serving import serve


async def ask(app: FastAPI) -> Any:
    async with serve(app) as url, httpx.AsyncClient() as http:
        return (await http.get(url)).json()


async def test_a_client_lives_as_long_as_the_app(emulator: Emulator) -> None:
    app = FastAPI(lifespan=tensorpool_lifespan(api_key=emulator.key, base_url=emulator.url))
    clients: list[TensorPool] = []

    @app.get("/")
    async def endpoint(tp: TensorPoolDep) -> bool:
        clients.append(tp)
        await tp.clusters.list()
        return tp.closed

    assert await ask(app) is False
    assert clients[0].closed
    assert await ask(app) is False, "an app that is started again has a client of its own"
    assert clients[0] is not clients[1]


@pytest.mark.parametrize("generator", [True, False])
async def test_the_apps_own_lifespan_runs_within(emulator: Emulator, generator: bool) -> None:
    seen: list[str] = []

    async def own(app: FastAPI, tp: TensorPool) -> AsyncGenerator[dict[str, object]]:
        seen.append(f"start {len(await tp.clusters.list())} {tp.closed}")
        yield {"greeting": app.title}
        seen.append(f"end {tp.closed}")

    lifespan = own if generator else asynccontextmanager(own)
    app = FastAPI(
        title="mine", lifespan=tensorpool_lifespan(lifespan, api_key=emulator.key, base_url=emulator.url)
    )

    @app.get("/")
    async def endpoint(request: Request, tp: TensorPoolDep) -> str:
        assert request.state.tensorpool is tp
        return str(request.state.greeting)

    assert await ask(app) == "mine"
    assert seen == ["start 0 False", "end False"]


async def test_a_client_is_closed_also_where_the_apps_own_lifespan_fails(emulator: Emulator) -> None:
    clients: list[TensorPool] = []

    @asynccontextmanager
    async def own(app: FastAPI, tp: TensorPool) -> AsyncGenerator[None]:
        clients.append(tp)
        raise OSError("no disk")
        yield

    run = tensorpool_lifespan(own, api_key=emulator.key, base_url=emulator.url)
    with pytest.raises(OSError, match="no disk"):
        async with run(FastAPI()):
            pass
    assert clients[0].closed


def test_an_option_that_does_not_exist_is_told_where_it_is_written() -> None:
    with pytest.raises(TypeError, match="bas_url"):
        tensorpool_lifespan(bas_url="http://127.0.0.1:1")


async def test_a_test_puts_its_own_client_in_the_apps_place(tp: TensorPool) -> None:
    app = FastAPI()
    app.dependency_overrides[tensorpool] = lambda: tp

    @app.get("/")
    async def endpoint(client: TensorPoolDep) -> bool:
        return client is tp

    assert await ask(app) is True


async def test_a_mounted_app_has_the_same_client(emulator: Emulator) -> None:
    app = FastAPI(lifespan=tensorpool_lifespan(api_key=emulator.key, base_url=emulator.url))
    inner = FastAPI()
    app.mount("/inner", inner)

    @inner.get("/")
    async def endpoint(tp: TensorPoolDep) -> str:
        return tp.base_url

    async with serve(app) as url, httpx.AsyncClient() as http:
        assert (await http.get(f"{url}/inner/")).json() == emulator.url


async def test_a_websocket_has_the_client_too(emulator: Emulator) -> None:
    app = FastAPI(lifespan=tensorpool_lifespan(api_key=emulator.key, base_url=emulator.url))

    @app.websocket("/")
    async def endpoint(socket: WebSocket, tp: TensorPoolDep) -> None:
        await socket.accept()
        await socket.send_text(tp.base_url)
        await socket.close()

    # A WebSocket as ASGI has it: uvicorn would need a package of its own for it.
    async with app.router.lifespan_context(app) as state:
        sent: list[object] = []
        scope: dict[str, Any] = {
            "type": "websocket",
            "path": "/",
            "headers": [],
            "query_string": b"",
            "state": dict(state or {}),
        }

        async def receive() -> dict[str, str]:
            return {"type": "websocket.connect"}

        async def send(message: object) -> None:
            sent.append(message)

        await app(scope, receive, send)
    assert {"type": "websocket.send", "text": emulator.url} in sent
