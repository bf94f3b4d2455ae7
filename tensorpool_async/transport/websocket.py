"""The two WebSockets of jobs: to push a job, and to listen to its output.

The client's first message is always the key; no header carries it. The engine does not confirm it: it refuses a key by a
message with the status `error`, or by closing with a code of its own.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import aiohttp
from yarl import URL

from tensorpool_async.errors import StreamError, TensorPoolError
from tensorpool_async.protocol.requests import Request
from tensorpool_async.protocol.responses import Response, error_of, printable
from tensorpool_async.protocol.streams import close_error
from tensorpool_async.secrets import MaskedHeader, Secret
from tensorpool_async.transport.attempts import Transport
from tensorpool_async.transport.bodies import MIN_RATE
from tensorpool_async.transport.failures import connection_failed


HEARTBEAT = 10.0
"""Largest number of seconds between pings. A ping without an answer for half of it means a lost connection."""

WS_TIMEOUT = aiohttp.ClientWSTimeout(ws_close=2.0)  # pyright: ignore[reportCallIssue] - declared as attr.ib, without types
"""Two seconds for the engine's answer to a close. No bound for the next message, because a job may be silent for hours."""

LARGEST_MESSAGE = 16 * 1024 * 1024
"""Bytes of one message."""

LONGEST_CLOSE = 3.0
"""Seconds that closing may take, also where the engine reads nothing."""

ABNORMAL = 1006
"""The close code of a connection that was lost."""


class Stream:
    """An open WebSocket.

    Attributes:
        received: Bytes of all messages received so far.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, key: Secret, seconds: float) -> None:
        """Bound the sending of each message by `seconds`, plus the time that `MIN_RATE` allows for its length."""
        self.received: int = 0
        self._socket = socket
        self._key = key
        self._seconds = seconds

    async def send(self, message: dict[str, Any]) -> None:
        """Send a message.

        Raises:
            StreamError: The connection was lost, or the message was not sent in time.
        """
        lost = False
        text = MaskedHeader(json.dumps(message))
        try:
            async with asyncio.timeout(self._seconds + len(text) / MIN_RATE):
                await self._socket.send_str(text)
        except (OSError, aiohttp.ClientError):
            lost = True
        except asyncio.CancelledError as error:
            raise error.with_traceback(None)  # noqa: B904 - the same error, without the frames that hold what is sent
        if lost:
            raise close_error(ABNORMAL, "")

    async def receive(self) -> dict[str, Any] | int:
        """Wait for the next message; return it with the key masked, or 1000 if the engine closed with that code.

        Raises:
            StreamError: The connection was lost or closed with another code, or the message is no JSON object.
        """
        kind, text = await self._next()
        if kind is aiohttp.WSMsgType.TEXT:
            return _object_of(text)
        code = self._socket.close_code or ABNORMAL
        if code == aiohttp.WSCloseCode.OK and kind is not aiohttp.WSMsgType.ERROR:
            return code
        raise close_error(code, text)

    async def _next(self) -> tuple[aiohttp.WSMsgType, str]:
        """Return the type of the next message and its text with the key masked.

        The unmasked text stays in this frame, which raises nothing afterwards, so no traceback shows it.
        """
        message = await self._socket.receive()
        if message.type in {aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY}:
            self.received += len(message.data)
        if message.type is aiohttp.WSMsgType.TEXT:
            return message.type, self._key.mask_text(message.data)
        if message.type is aiohttp.WSMsgType.BINARY:
            return aiohttp.WSMsgType.TEXT, self._key.mask(message.data).decode(errors="replace")
        reason = str(message.extra or "") if message.type is aiohttp.WSMsgType.CLOSE else ""
        return message.type, printable(self._key.mask_text(reason))


def _object_of(data: str) -> dict[str, Any]:
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        raise StreamError("the engine sent a message that is no JSON") from None
    if not isinstance(message, dict):
        raise StreamError("the engine sent a message that is no JSON object")
    return cast("dict[str, Any]", message)


class Sockets:
    """Opens the WebSockets of one client."""

    def __init__(self, transport: Transport, key: Secret) -> None:
        self._transport = transport
        self._key = key
        timeouts = transport.sessions.timeouts
        self._seconds = timeouts.connect + timeouts.read
        # aiohttp notices a lost connection after 1.5 heartbeats.
        self._heartbeat = min(HEARTBEAT, self._seconds / 1.5)

    @asynccontextmanager
    async def open(self, request: Request[Any]) -> AsyncGenerator[Stream]:
        """Open a WebSocket, send the key, and close the socket at the end of the block.

        The handshake takes a slot like any request, and is retried like a GET, because the engine does nothing before
        the first message. The open socket holds no slot.

        Raises:
            StatusError: The engine refused the handshake.
            ConnectionFailed: There is no connection.
            StreamError: The connection was lost before the key was sent.
        """
        socket = await self._connect(request)
        try:
            stream = Stream(socket, self._key, self._seconds)
            await stream.send({"TENSORPOOL_KEY": MaskedHeader(self._key.reveal())})
            yield stream
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(LONGEST_CLOSE):
                    await socket.close()

    async def _connect(self, request: Request[Any]) -> aiohttp.ClientWebSocketResponse:
        opened: list[aiohttp.ClientWebSocketResponse] = []

        async def exchange(session: aiohttp.ClientSession, request: Request[Any]) -> Response:
            opened.append(await self._handshake(session, request))
            return Response(200, {}, b"")

        await self._transport.send(request, exchange=exchange)
        return opened[-1]

    async def _handshake(
        self, session: aiohttp.ClientSession, request: Request[Any]
    ) -> aiohttp.ClientWebSocketResponse:
        transport, sessions = self._transport, self._transport.sessions
        options, headers = await sessions.connection_options(sessions.base_url)
        refused: TensorPoolError
        try:
            async with asyncio.timeout(self._seconds):
                return await session.ws_connect(
                    _socket_url(sessions.base_url, request.path),
                    heartbeat=self._heartbeat,
                    max_msg_size=LARGEST_MESSAGE,
                    timeout=WS_TIMEOUT,
                    headers={**sessions.external_headers, **headers},
                    **options,
                )
        except aiohttp.WSServerHandshakeError as error:
            refused = error_of(transport.received(error, b""), method=request.method, path=request.path)
        except Exception as error:  # noqa: BLE001 - an external session may raise anything; `connection_failed` says what it means
            refused = connection_failed(error, transport.instrumentation.clean)
        raise refused


def _socket_url(base_url: str, path: str) -> URL:
    url = URL(base_url)
    scheme = "wss" if url.scheme == "https" else "ws"
    return url.with_scheme(scheme).with_path(url.raw_path.rstrip("/") + path, encoded=True)
