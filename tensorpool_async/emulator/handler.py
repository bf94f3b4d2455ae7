"""What every request goes through: count it, admit it, check its key, answer it, and spoil the answer on demand."""

import asyncio
import hmac
import logging
from typing import Literal, cast

import attrs
from aiohttp import web

from tensorpool_async.emulator.delivery import cut_body, hang_up, respond, send_file
from tensorpool_async.emulator.engine import Engine
from tensorpool_async.emulator.exchange import Exchange
from tensorpool_async.emulator.faults import AFTERWARDS, INSTEAD, Fault, FaultKind, Faults, Scope
from tensorpool_async.emulator.job_sockets import INTERNAL, Disconnected, JobSocket
from tensorpool_async.emulator.limits import MAX_BODY, MAX_MESSAGE, RateLimit, RetryAfterValue
from tensorpool_async.emulator.responses import (
    Refusal,
    Reply,
    bad_gateway,
    bad_key,
    broken,
    too_fast,
    unavailable,
)
from tensorpool_async.emulator.routes import POLL, ROUTES, Conversation, Endpoints, Route, fill


_log = logging.getLogger(__name__)

# A client that has not closed its WebSocket after so many seconds is cut off.
SECONDS_TO_CLOSE = 0.3
GOING_AWAY = 1001


class RequestHandler:
    """Stands between the sockets and the engine."""

    def __init__(self, engine: Engine, faults: Faults, endpoints: Endpoints, limit: RateLimit) -> None:
        self.limit = limit
        self.url = ""
        self._world = engine.world
        self._clock = engine.clock
        self._record = engine.record
        self._requests = engine.requests
        self._faults = faults
        self._endpoints = {route: route.endpoint(endpoints) for route in ROUTES if route.endpoint}
        self._conversations = {route: route.conversation(endpoints) for route in ROUTES if route.conversation}
        self._router = web.UrlDispatcher()
        self._routes = fill(self._router, self.handle)
        self._closing = asyncio.Event()

    def close(self) -> None:
        """End all stalls, delays and WebSockets."""
        self._closing.set()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        # The router is typed for an application's requests, and uses nothing that others lack.
        match = await self._router.resolve(cast("web.Request", request))
        route = self._routes.get(match.route)
        exchange = self._exchange(request, route, next(iter(match.values()), ""))
        self._record.arrived()
        try:
            response = await self._admit(exchange, route, match.http_exception)
        finally:
            self._record.left()
        if isinstance(response, web.WebSocketResponse):
            await self._converse(exchange, route, cast("web.WebSocketResponse[Literal[True]]", response))
        return cast("web.StreamResponse", response)

    def _exchange(self, request: web.BaseRequest, route: Route | None, argument: str) -> Exchange:
        label = route.label if route else f"{request.method} unknown"
        scope = Scope(self._faults, request.method, request.path)
        polled = argument if route and route.path == POLL else None
        return Exchange(request, label, argument, scope, polled, self.url)

    async def _admit(
        self, exchange: Exchange, route: Route | None, unrouted: web.HTTPException | None
    ) -> web.StreamResponse:
        record, now = self._record, self._clock.now()
        record.by_route[exchange.label] += 1
        if exchange.polled is not None:
            record.polled(exchange.polled, now)
        outside = route is not None and route.outside
        if not outside and (wait := self.limit.admit(now)):
            return self._send(exchange, too_fast(wait))
        try:
            if route is None or not route.open:
                self._check_key(exchange)
            if fault := exchange.scope.take(*INSTEAD):
                return await self._spoil(exchange, fault)
            if route in self._conversations:
                return await self._upgrade(exchange)
            reply = await self._answer(exchange, route, unrouted)
        except Refusal as refusal:
            reply = refusal.reply
        except ConnectionError:
            # The client left before its body was whole. Nothing was done, and nobody is there to be told.
            return self._drop(exchange)
        except Exception:  # noqa: BLE001 - whatever broke: the client gets a 500, the log the trace
            _log.exception("%s %s", exchange.request.method, exchange.request.path)
            reply = broken()
        return await self._deliver(exchange, reply, exchange.scope.take(*AFTERWARDS))

    def _check_key(self, exchange: Exchange) -> None:
        scheme, _, key = exchange.request.headers.get("Authorization", "").partition(" ")
        # aiohttp reads a header's stray bytes as surrogates, and they must compare as unequal.
        given = key.strip().encode("utf-8", "surrogateescape")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given, self._world.key.encode()):
            raise bad_key(health=exchange.request.path == "/health")

    async def _answer(
        self, exchange: Exchange, route: Route | None, unrouted: web.HTTPException | None
    ) -> Reply:
        if route is None:
            return _no_route(exchange, unrouted)
        exchange.body = await _read_body(exchange.request)
        if self._world.latency:
            await self._sleep(self._world.latency)
        return self._endpoints[route](exchange)

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        except TimeoutError:
            pass

    async def _spoil(self, exchange: Exchange, fault: Fault) -> web.StreamResponse:
        if fault.kind is FaultKind.STALL:
            await self._sleep(fault.seconds)
        if fault.kind in {FaultKind.STALL, FaultKind.DROP_BEFORE}:
            return self._drop(exchange)
        return self._send(exchange, _fault_reply(fault))

    async def _deliver(self, exchange: Exchange, reply: Reply, fault: Fault | None) -> web.StreamResponse:
        kind = fault.kind if fault else None
        if kind is FaultKind.DROP_AFTER:
            return self._drop(exchange)
        if kind is FaultKind.HTML_502_AFTER:
            return self._send(exchange, bad_gateway())
        if reply.file is not None:
            response = await send_file(exchange.request, reply.file, cut=kind is not None)
            self._record.by_status[response.status] += 1
            return response
        if kind is FaultKind.CUT_BODY:
            self._note(exchange, reply)
            return await cut_body(exchange.request, reply)
        if kind is FaultKind.CUT_JSON:
            body = reply.encode()
            reply = attrs.evolve(reply, body=body[: len(body) // 2])
        return self._send(exchange, reply)

    def _send(self, exchange: Exchange, reply: Reply) -> web.Response:
        self._note(exchange, reply)
        return respond(reply)

    def _note(self, exchange: Exchange, reply: Reply) -> None:
        self._record.by_status[reply.status] += 1
        if exchange.polled is not None:
            wait = reply.retry_after
            self._record.retry_after_sent(exchange.polled, self._clock.now() + wait.seconds if wait else None)

    def _drop(self, exchange: Exchange) -> web.StreamResponse:
        self._record.by_status[0] += 1
        return hang_up(exchange.request)

    async def _upgrade(self, exchange: Exchange) -> web.StreamResponse:
        socket = web.WebSocketResponse(timeout=SECONDS_TO_CLOSE, compress=False, max_msg_size=MAX_MESSAGE)
        if not socket.can_prepare(exchange.request):
            upgrade = Reply(426, {"detail": "Upgrade Required"}, headers={"Upgrade": "websocket"})
            return self._send(exchange, upgrade)
        await socket.prepare(exchange.request)
        self._record.by_status[101] += 1
        return socket

    async def _converse(self, exchange: Exchange, route: Route | None, socket: web.WebSocketResponse) -> None:
        if route is None:
            return
        talking = JobSocket(socket, exchange, self._world.key)
        talk = asyncio.create_task(_talk(self._conversations[route], talking))
        end = asyncio.create_task(self._closing.wait())
        try:
            await asyncio.wait({talk, end}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            talk.cancel()
            end.cancel()
            await asyncio.gather(talk, end, return_exceptions=True)
        if not socket.closed:
            await talking.close(GOING_AWAY, "The engine is going away")


async def _talk(conversation: Conversation, socket: JobSocket) -> None:
    try:
        await conversation(socket)
    except Disconnected:
        return
    except Exception:  # noqa: BLE001 - as for a 500: the client gets a close frame, the log the trace
        _log.exception("%s", socket.exchange.label)
        await socket.close(INTERNAL, "Internal error")


def _no_route(exchange: Exchange, unrouted: web.HTTPException | None) -> Reply:
    if not isinstance(unrouted, web.HTTPMethodNotAllowed):
        return Reply(404, {"detail": "Not Found"})
    # As in FastAPI, the path itself comes before one with a parameter: PUT /cluster/list may only be GET.
    own = {route.method for route in ROUTES if route.path == exchange.request.path}
    allow = ", ".join(sorted(own or unrouted.allowed_methods))
    return Reply(405, {"detail": "Method Not Allowed"}, headers={"Allow": allow})


async def _read_body(request: web.BaseRequest) -> bytes:
    body = bytearray()
    if not request.can_read_body:
        return b""
    try:
        async for chunk in request.content.iter_any():
            body += chunk
            if len(body) > MAX_BODY:
                raise Refusal(Reply(413, {"detail": "Request Entity Too Large"}))
    except web.RequestPayloadError:
        raise Refusal(Reply(400, {"detail": "The body cannot be decoded"})) from None
    return bytes(body)


def _fault_reply(fault: Fault) -> Reply:
    match fault.kind:
        case FaultKind.HTML_502:
            return bad_gateway()
        case FaultKind.RATE_LIMITED:
            return too_fast(RetryAfterValue.of(fault.seconds))
        case FaultKind.UNAVAILABLE:
            return unavailable(RetryAfterValue.of(fault.seconds))
        case FaultKind.NOT_FOUND:
            return Reply(404, {"detail": "Not Found"})
        case _:
            return broken()
