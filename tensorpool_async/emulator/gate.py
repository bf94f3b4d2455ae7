"""The way of a request: count it, admit it, check its key, answer it, and spoil the answer on demand."""

import asyncio
import hmac
import logging
from typing import Literal, cast
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
from tensorpool_async.emulator.delivery import cut_body, hang_up, respond, send_file
from tensorpool_async.emulator.engine import Engine
from tensorpool_async.emulator.faults import AFTERWARDS, INSTEAD, Fault, FaultKind, Scope
from tensorpool_async.emulator.pace import RateLimit, tell_seconds
from tensorpool_async.emulator.routes import POLL, Match, Route, find
from tensorpool_async.emulator.wire import HungUp, Wire


_log = logging.getLogger(__name__)

# A client that has not closed its WebSocket by then is cut off.
SECONDS_TO_CLOSE = 0.5


@attrs.frozen
class Visit:
    """One request on its way through the gate."""

    request: web.BaseRequest
    match: Match
    scope: Scope

    @property
    def label(self) -> str:
        return self.match.route.label if self.match.route else f"{self.request.method} unknown"

    @property
    def polled(self) -> str | None:
        """The request id, if this is a poll."""
        return self.match.argument if self.match.route and self.match.route.path == POLL else None


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
        """End all stalls, sleeps and WebSockets."""
        self._closing.set()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        scope = Scope(self.engine.faults, request.method, request.path)
        visit = Visit(request, find(request.method, request.rel_url.raw_path), scope)
        self.engine.record.arrived()
        try:
            response = await self._pass(visit)
        finally:
            self.engine.record.left()
        if isinstance(response, web.WebSocketResponse):
            await self._converse(visit, cast("web.WebSocketResponse[Literal[True]]", response))
        return cast("web.StreamResponse", response)

    async def _pass(self, visit: Visit) -> web.StreamResponse:
        record, clock = self.engine.record, self.engine.clock
        record.by_route[visit.label] += 1
        if visit.polled is not None:
            record.polled(visit.polled, clock.now())
        outside = visit.match.route is not None and visit.match.route.outside
        if not outside and (told := self.limit.admit(clock.now())):
            return self._send(visit, too_fast(told))
        try:
            self._check_key(visit)
            if fault := visit.scope.take(*INSTEAD):
                return await self._instead(visit, fault)
            if visit.match.route and visit.match.route.socket:
                return await self._upgrade(visit)
            answer = await self._ask(visit)
        except Refusal as refusal:
            answer = refusal.answer
        except ConnectionError:
            # The client left before its body was whole: nothing was done, and nobody is there to be told.
            return self._drop(visit)
        except Exception:  # noqa: BLE001 - whatever broke: the client gets a 500, the log the trace
            _log.exception("%s %s", visit.request.method, visit.request.path)
            answer = broken()
        return await self._deliver(visit, answer, visit.scope.take(*AFTERWARDS))

    def _check_key(self, visit: Visit) -> None:
        route = visit.match.route
        if route and route.open:
            return
        scheme, _, key = visit.request.headers.get("Authorization", "").partition(" ")
        # aiohttp reads a header's stray bytes as surrogates, and they must compare as unequal.
        given = key.strip().encode("utf-8", "surrogateescape")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given, self.key.encode()):
            raise bad_key(health=visit.request.path == "/health")

    async def _ask(self, visit: Visit) -> Answer:
        request, match = visit.request, visit.match
        if match.route is None or match.route.handle is None:
            return _nowhere(match)
        body = await _body(request)
        if self.latency:
            await self._sleep(self.latency)
        call = Call(
            match.argument,
            _query(request),
            body,
            visit.scope,
            self.url,
            has_key="Authorization" in request.headers,
        )
        return match.route.handle(self.engine, call)

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        except TimeoutError:
            pass

    async def _instead(self, visit: Visit, fault: Fault) -> web.StreamResponse:
        if fault.kind is FaultKind.STALL:
            await self._sleep(fault.seconds)
        if fault.kind in {FaultKind.STALL, FaultKind.DROP_BEFORE}:
            return self._drop(visit)
        return self._send(visit, _spoken(fault))

    async def _deliver(self, visit: Visit, answer: Answer, fault: Fault | None) -> web.StreamResponse:
        kind = fault.kind if fault else None
        if kind is FaultKind.DROP_AFTER:
            return self._drop(visit)
        if kind is FaultKind.HTML_502_AFTER:
            return self._send(visit, bad_gateway())
        if answer.file is not None:
            response = await send_file(visit.request, answer.file, cut=kind is not None)
            self.engine.record.by_status[response.status] += 1
            return response
        if kind is FaultKind.CUT_BODY:
            self._told(visit, answer)
            return await cut_body(visit.request, answer)
        if kind is FaultKind.CUT_JSON:
            body = answer.encode()
            answer = attrs.evolve(answer, body=body[: len(body) // 2])
        return self._send(visit, answer)

    def _send(self, visit: Visit, answer: Answer) -> web.Response:
        self._told(visit, answer)
        return respond(answer)

    def _told(self, visit: Visit, answer: Answer) -> None:
        record = self.engine.record
        record.by_status[answer.status] += 1
        if visit.polled is not None:
            until = self.engine.clock.now() + answer.told.seconds if answer.told else None
            record.told(visit.polled, until)

    def _drop(self, visit: Visit) -> web.StreamResponse:
        self.engine.record.by_status[0] += 1
        return hang_up(visit.request)

    async def _upgrade(self, visit: Visit) -> web.StreamResponse:
        socket = web.WebSocketResponse(timeout=SECONDS_TO_CLOSE, compress=False)
        if not socket.can_prepare(visit.request):
            return self._send(
                visit, Answer(426, {"detail": "Upgrade Required"}, headers={"Upgrade": "websocket"})
            )
        await socket.prepare(visit.request)
        self.engine.record.by_status[101] += 1
        return socket

    async def _converse(self, visit: Visit, socket: web.WebSocketResponse) -> None:
        wire = Wire(socket, visit.request, visit.match.argument, visit.scope, self.key)
        talk = asyncio.create_task(self._talk(visit.match.route, wire))
        end = asyncio.create_task(self._closing.wait())
        try:
            await asyncio.wait({talk, end}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            talk.cancel()
            end.cancel()
            await asyncio.gather(talk, end, return_exceptions=True)
        if not socket.closed:
            await wire.close(1001, "The engine is going away")

    async def _talk(self, route: Route | None, wire: Wire) -> None:
        if route is None or route.socket is None:
            return
        try:
            await route.socket(self.engine, wire)
        except HungUp:
            return
        except Exception:  # noqa: BLE001 - as above, with a close frame for the 500
            _log.exception("WebSocket %s", route.path)
            await wire.close(1011, "Internal error")


def _nowhere(match: Match) -> Answer:
    if match.allowed:
        return Answer(405, {"detail": "Method Not Allowed"}, headers={"Allow": ", ".join(match.allowed)})
    return Answer(404, {"detail": "Not Found"})


async def _body(request: web.BaseRequest) -> bytes:
    try:
        return await request.read() if request.can_read_body else b""
    except web.HTTPRequestEntityTooLarge:
        raise Refusal(Answer(413, {"detail": "Request Entity Too Large"})) from None


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
