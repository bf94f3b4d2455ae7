"""An engine that answers what a test tells it to: for answers that no engine should give."""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

import attrs
from aiohttp import web
from aiohttp.test_utils import TestServer


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@attrs.frozen
class Seen:
    """One request as it came over the wire."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


class ScriptedEngine:
    """Answers each route with its next answer; the last one is repeated."""

    def __init__(self, *, ssl: Any = None) -> None:
        self.seen: list[Seen] = []
        self._answers: dict[tuple[str, str], deque[web.Response | Handler]] = defaultdict(deque)
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._answer)
        self._server = TestServer(app)
        self._ssl = ssl

    def answer(
        self,
        route: str,
        body: Any = None,
        *,
        status: int = 200,
        headers: dict[str, str] | None = None,
        times: int = 1,
    ) -> None:
        """Add `times` answers to a route such as "GET /request/info/r-1"; bytes and text are sent as they are."""
        method, path = route.split(" ")
        raw = (
            body
            if isinstance(body, bytes)
            else body.encode()
            if isinstance(body, str)
            else json.dumps(body).encode()
        )
        for _ in range(times):
            self._answers[method, path].append(web.Response(status=status, body=raw, headers=headers))

    def handle(self, route: str, handler: Handler) -> None:
        """Add an answer that is made when it is asked for."""
        method, path = route.split(" ")
        self._answers[method, path].append(handler)

    def count(self, route: str) -> int:
        """How often a route was asked."""
        method, path = route.split(" ")
        return sum(1 for seen in self.seen if (seen.method, seen.path) == (method, path))

    @property
    def url(self) -> str:
        return str(self._server.make_url("")).removesuffix("/")

    async def __aenter__(self) -> Self:
        await self._server.start_server(ssl=self._ssl)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._server.close()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        text = await request.text()
        self.seen.append(
            Seen(
                request.method,
                request.raw_path.partition("?")[0],
                dict(request.query),
                dict(request.headers),
                json.loads(text) if text else None,
            )
        )
        answers = self._answers[request.method, request.raw_path.partition("?")[0]]
        if not answers:
            return web.json_response({"detail": "not scripted"}, status=404)
        answer = answers.popleft() if len(answers) > 1 else answers[0]
        if isinstance(answer, web.Response):
            return web.Response(status=answer.status, body=answer.body, headers=answer.headers)
        return await answer(request)


async def drop(request: web.Request) -> web.StreamResponse:
    """Close the connection instead of an answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()
