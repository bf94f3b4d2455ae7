"""A reverse proxy that writes down what a client says and what it is answered."""

from __future__ import annotations

import asyncio
import json
from types import TracebackType
from typing import Any, Self

import aiohttp
import attrs
from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL


PASSED_ON = ("Content-Type", "Retry-After", "WWW-Authenticate")


@attrs.define
class Exchange:
    """One request and its answer, as they came over the wire; of a WebSocket, the messages."""

    method: str
    path: str
    query: list[tuple[str, str]]
    headers: dict[str, str]
    body: bytes
    status: int = 0
    answer_headers: dict[str, str] = attrs.field(factory=dict[str, str])
    answer: bytes = b""
    said: list[Any] = attrs.field(factory=list[Any])
    heard: list[Any] = attrs.field(factory=list[Any])
    close_code: int | None = None


class Recorder:
    """Stands between a client and the engine at `target`."""

    def __init__(self, target: str) -> None:
        self.exchanges: list[Exchange] = []
        self._target = target
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._pass_on)
        self._server = TestServer(app)
        self._session: aiohttp.ClientSession | None = None

    @property
    def url(self) -> str:
        return str(self._server.make_url("")).removesuffix("/")

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(auto_decompress=False)
        await self._server.start_server()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._server.close()
        if self._session is not None:
            await self._session.close()

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        path, _, _ = request.raw_path.partition("?")
        query = [(name, value) for name, value in request.query.items()]
        is_socket = request.headers.get("Upgrade", "").lower() == "websocket"
        exchange = Exchange(
            "WEBSOCKET" if is_socket else request.method,
            path,
            query,
            dict(request.headers),
            await request.read(),
        )
        self.exchanges.append(exchange)
        return await (self._talk(request, exchange) if is_socket else self._ask(request, exchange))

    async def _ask(self, request: web.Request, exchange: Exchange) -> web.Response:
        assert self._session is not None
        passed = {
            name: value
            for name, value in exchange.headers.items()
            if name in {"Authorization", "Content-Type"}
        }
        url = URL(self._target + request.raw_path, encoded=True)
        async with self._session.request(
            request.method, url, headers=passed, data=exchange.body or None
        ) as answer:
            exchange.status, exchange.answer = answer.status, await answer.read()
            exchange.answer_headers = dict(answer.headers)
        told = {name: value for name, value in exchange.answer_headers.items() if name in PASSED_ON}
        return web.Response(status=exchange.status, body=exchange.answer, headers=told)

    async def _talk(self, request: web.Request, exchange: Exchange) -> web.WebSocketResponse:
        assert self._session is not None
        client = web.WebSocketResponse()
        async with self._session.ws_connect(self._target + request.raw_path) as engine:
            await client.prepare(request)
            exchange.status = 101
            pump = asyncio.create_task(self._pump(client, engine, exchange))
            async for message in engine:
                exchange.heard.append(json.loads(message.data))
                await client.send_str(message.data)
            exchange.close_code = engine.close_code
            await client.close(code=engine.close_code or 1000)
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)
        return client

    async def _pump(
        self, client: web.WebSocketResponse, engine: aiohttp.ClientWebSocketResponse, exchange: Exchange
    ) -> None:
        async for message in client:
            exchange.said.append(json.loads(message.data))
            await engine.send_str(message.data)
        await engine.close()
