"""The only place for the two WebSockets: pushing a job, and listening to one.

The first message of the client is always the key; no header carries it. Nothing is confirmed: a refusal shows as a
message with the status `error`, or as a close with a code of its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

import aiohttp

from tensorpool_async.errors import StreamError, TensorPoolError
from tensorpool_async.protocol.requests import Request
from tensorpool_async.protocol.responses import Response, error_of
from tensorpool_async.protocol.streams import close_error
from tensorpool_async.secrets import Secret
from tensorpool_async.transport import Transport, connection_failed


HEARTBEAT = 10.0
"""Seconds between pings; half of it without an answer counts as a lost connection."""

WS_TIMEOUT = aiohttp.ClientWSTimeout(ws_close=2.0)  # pyright: ignore[reportCallIssue] - declared as attr.ib, without types
"""Two seconds for the other side's answer to a close; none for the next message, since a job may be silent for hours."""

LARGEST_MESSAGE = 16 * 1024 * 1024
"""Bytes."""

ABNORMAL = 1006


class Stream:
    """An open WebSocket that has told its key."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket

    async def send(self, message: dict[str, Any]) -> None:
        """Send a message.

        Raises:
            StreamError: The connection is lost.
        """
        try:
            await self._socket.send_str(json.dumps(message))
        except (ConnectionError, aiohttp.ClientError):
            raise close_error(ABNORMAL, "") from None

    async def receive(self) -> dict[str, Any] | int:
        """Return the next message, or the code of a close that was in order (1000).

        Raises:
            StreamError: The connection was lost, or closed with another code, or a message is no JSON object.
        """
        message = await self._socket.receive()
        if message.type in {aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY}:
            return _object_of(message.data)
        code = self._socket.close_code or ABNORMAL
        reason = str(message.extra or "") if message.type is aiohttp.WSMsgType.CLOSE else ""
        if code == aiohttp.WSCloseCode.OK and message.type is not aiohttp.WSMsgType.ERROR:
            return code
        raise close_error(code, reason)


def _object_of(data: str | bytes) -> dict[str, Any]:
    try:
        message = json.loads(data)
    except ValueError:
        raise StreamError("the engine sent a message that is no JSON") from None
    if not isinstance(message, dict):
        raise StreamError("the engine sent a message that is no JSON object")
    return cast("dict[str, Any]", message)


class Sockets:
    """Opens WebSockets for one client."""

    def __init__(self, transport: Transport, key: Secret) -> None:
        self._transport = transport
        self._key = key

    @asynccontextmanager
    async def open(self, path: str) -> AsyncGenerator[Stream]:
        """Open a WebSocket, tell the key, and close it again at the end.

        The handshake takes a slot like any request, and is tried again like a GET: before the first message, nothing
        is done. The open socket holds no slot.

        Raises:
            StatusError: The engine refused the handshake.
            ConnectionFailed: There is no connection.
            StreamError: The connection was lost at once.
        """
        socket = await self._connect(path)
        try:
            stream = Stream(socket)
            await stream.send({"TENSORPOOL_KEY": self._key.reveal()})
            yield stream
        finally:
            await socket.close()

    async def _connect(self, path: str) -> aiohttp.ClientWebSocketResponse:
        opened: list[aiohttp.ClientWebSocketResponse] = []

        async def exchange(session: aiohttp.ClientSession, request: Request[Any]) -> Response:
            opened.append(await self._handshake(session, request))
            return Response(200, {}, b"")

        await self._transport.send(Request("GET", path), exchange)
        return opened[-1]

    async def _handshake(
        self, session: aiohttp.ClientSession, request: Request[Any]
    ) -> aiohttp.ClientWebSocketResponse:
        url = "ws" + self._transport.base_url.removeprefix("http") + request.path
        options = await self._transport.connection_options(url)
        refused: TensorPoolError
        try:
            return await session.ws_connect(
                url,
                heartbeat=HEARTBEAT,
                max_msg_size=LARGEST_MESSAGE,
                timeout=WS_TIMEOUT,
                **options,
            )
        except aiohttp.WSServerHandshakeError as error:
            response = Response(error.status, error.headers or {}, b"", time.time())
            refused = error_of(response, method=request.method, path=request.path)
        except (aiohttp.ClientError, OSError) as error:
            refused = connection_failed(error)
        raise refused
