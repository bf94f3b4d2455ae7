"""The way of a request: count it, admit it, check its key, answer it, and spoil the answer on demand."""

import asyncio
import hmac
import logging
from urllib.parse import parse_qs

import attrs
from aiohttp import web

from tensorpool_async.emulator.answers import (
    Answer,
    Refusal,
    bad_gateway,
    bad_key,
    broken,
    too_fast,
    unavailable,
)
from tensorpool_async.emulator.call import Call
from tensorpool_async.emulator.engine import Engine
from tensorpool_async.emulator.faults import AFTERWARDS, INSTEAD, Fault, FaultKind, Scope
from tensorpool_async.emulator.pace import RateLimit, tell_seconds
from tensorpool_async.emulator.routes import POLL, Match, find


_log = logging.getLogger(__name__)


@attrs.define(eq=False)
class Gate:
    """Stands between the sockets and the engine."""

    engine: Engine
    key: str
    limit: RateLimit
    latency: float
    url: str = ""
    _closing: asyncio.Event = attrs.field(factory=asyncio.Event, init=False)

    def close(self) -> None:
        """End all stalls and sleeps."""
        self._closing.set()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        record = self.engine.record
        record.arrived()
        try:
            return await self._pass(request)
        finally:
            record.left()

    async def _pass(self, request: web.BaseRequest) -> web.StreamResponse:
        match = find(request.method, request.rel_url.raw_path)
        label = match.route.label if match.route else f"{request.method} unknown"
        self.engine.record.by_route[label] += 1
        polled = match.argument if match.route and match.route.path == POLL else None
        if polled is not None:
            self.engine.record.polled(polled, self.engine.clock.now())
        scope = Scope(self.engine.faults, request.method, request.path)
        if told := self.limit.admit(self.engine.clock.now()):
            return self._send(too_fast(told), polled)
        try:
            self._check_key(request, match)
            if fault := scope.take(*INSTEAD):
                return await self._instead(request, fault, polled)
            answer = await self._ask(request, match, scope)
        except Refusal as refusal:
            answer = refusal.answer
        except Exception:  # noqa: BLE001 - whatever broke: the client gets a 500, the log the trace
            _log.exception("%s %s", request.method, request.path)
            answer = broken()
        if fault := scope.take(*AFTERWARDS):
            return await self._afterwards(request, fault, answer, polled)
        return self._send(answer, polled)

    def _check_key(self, request: web.BaseRequest, match: Match) -> None:
        if match.route and match.route.open:
            return
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        # surrogateescape: aiohttp reads a header's stray bytes so, and they must compare as unequal.
        given = key.strip().encode("utf-8", "surrogateescape")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given, self.key.encode()):
            raise bad_key()

    async def _ask(self, request: web.BaseRequest, match: Match, scope: Scope) -> Answer:
        if match.route is None:
            if match.allowed:
                return Answer(
                    405, {"detail": "Method Not Allowed"}, headers={"Allow": ", ".join(match.allowed)}
                )
            return Answer(404, {"detail": "Not Found"})
        body = await request.read() if request.can_read_body else b""
        if self.latency:
            await self._sleep(self.latency)
        return match.route.handle(self.engine, Call(match.argument, _query(request), body, scope, self.url))

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        except TimeoutError:
            pass

    async def _instead(
        self, request: web.BaseRequest, fault: Fault, polled: str | None
    ) -> web.StreamResponse:
        if fault.kind is FaultKind.STALL:
            await self._sleep(fault.seconds)
        if fault.kind in {FaultKind.STALL, FaultKind.DROP_BEFORE}:
            return self._drop(request)
        return self._send(_spoken(fault), polled)

    async def _afterwards(
        self, request: web.BaseRequest, fault: Fault, answer: Answer, polled: str | None
    ) -> web.StreamResponse:
        match fault.kind:
            case FaultKind.HTML_502_AFTER:
                return self._send(bad_gateway(), polled)
            case FaultKind.CUT_JSON:
                body = answer.encode()
                return self._send(attrs.evolve(answer, body=body[: len(body) // 2]), polled)
            case FaultKind.CUT_BODY:
                return await self._cut(request, answer, polled)
            case _:
                return self._drop(request)

    async def _cut(self, request: web.BaseRequest, answer: Answer, polled: str | None) -> web.StreamResponse:
        body = answer.encode()
        whole = self._send(answer, polled)
        response = web.StreamResponse(status=whole.status, headers=whole.headers)
        response.content_length = len(body) + 1
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
        self._hang_up(request)
        return response

    def _send(self, answer: Answer, polled: str | None) -> web.Response:
        record, headers = self.engine.record, dict(answer.headers)
        record.by_status[answer.status] += 1
        if answer.told:
            headers["Retry-After"] = answer.told.text
        if polled is not None:
            record.told(polled, self.engine.clock.now() + answer.told.seconds if answer.told else None)
        kind = answer.content_type if answer.body is not None else None
        return web.Response(body=answer.encode(), status=answer.status, headers=headers, content_type=kind)

    def _drop(self, request: web.BaseRequest) -> web.StreamResponse:
        self.engine.record.by_status[0] += 1
        self._hang_up(request)
        return web.Response()

    def _hang_up(self, request: web.BaseRequest) -> None:
        if request.transport is not None:
            request.transport.close()


def _query(request: web.BaseRequest) -> dict[str, list[str]]:
    text = request.rel_url.raw_query_string
    return parse_qs(text, keep_blank_values=True) if text else {}


def _spoken(fault: Fault) -> Answer:
    match fault.kind:
        case FaultKind.HTML_502:
            return bad_gateway()
        case FaultKind.RATE_LIMITED:
            return too_fast(tell_seconds(fault.seconds))
        case FaultKind.UNAVAILABLE:
            return unavailable(tell_seconds(fault.seconds))
        case FaultKind.NOT_FOUND:
            return Answer(404, {"detail": "Not Found"})
        case _:
            return broken()
