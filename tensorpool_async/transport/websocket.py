"""The only place for the two WebSockets: pushing a job, and listening to one.

The first message of the client is always the key; no header carries it. Nothing is confirmed: a refusal shows as a
message with the status `error`, or as a close with a code of its own.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import aiohttp

from tensorpool_async.errors import StreamError, TensorPoolError
from tensorpool_async.protocol.requests import Request
from tensorpool_async.protocol.responses import Response, error_of, printable
from tensorpool_async.protocol.streams import close_error
from tensorpool_async.secrets import MaskedHeader, Secret
from tensorpool_async.transport import SLOWEST, Transport


HEARTBEAT = 10.0
"""Seconds between pings at most; half of it without an answer counts as a lost connection."""

WS_TIMEOUT = aiohttp.ClientWSTimeout(ws_close=2.0)  # pyright: ignore[reportCallIssue] - declared as attr.ib, without types
"""Two seconds for the other side's answer to a close; none for the next message, since a job may be silent for hours."""

LARGEST_MESSAGE = 16 * 1024 * 1024
"""Bytes."""

LONGEST_CLOSE = 3.0
"""Seconds that closing takes at most, also where the other side reads nothing."""

ABNORMAL = 1006


class Stream:
    """An open WebSocket that has told its key.

    Attributes:
        received: Bytes of all messages so far.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, key: Secret, seconds: float) -> None:
        """Have each message sent within `seconds`, and somewhat more if it is long."""
        self.received: int = 0
        self._socket = socket
        self._key = key
        self._seconds = seconds

    async def send(self, message: dict[str, Any]) -> None:
        """Send a message.

        Raises:
            StreamError: The connection is lost.
        """
        lost = False
        text = MaskedHeader(json.dumps(message))
        try:
            async with asyncio.timeout(self._seconds + len(text) / SLOWEST):
                await self._socket.send_str(text)
        except (OSError, aiohttp.ClientError):
            lost = True
        except asyncio.CancelledError as error:
            raise error.with_traceback(None)  # noqa: B904 - the same error, without the frames that hold what is sent
        if lost:
            raise close_error(ABNORMAL, "")

    async def receive(self) -> dict[str, Any] | int:
        """Return the next message, without the key, or the code of a close that was in order (1000).

        Raises:
            StreamError: The connection was lost, or closed with another code, or a message is no JSON object.
        """
        kind, text = await self._next()
        if kind is aiohttp.WSMsgType.TEXT:
            return _object_of(text)
        code = self._socket.close_code or ABNORMAL
        if code == aiohttp.WSCloseCode.OK and kind is not aiohttp.WSMsgType.ERROR:
            return code
        raise close_error(code, text)

    async def _next(self) -> tuple[aiohttp.WSMsgType, str]:
        """Return what the next message is, and its text without the key. No frame that raises holds it as it came."""
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
    """Opens WebSockets for one client."""

    def __init__(self, transport: Transport, key: Secret) -> None:
        self._transport = transport
        self._key = key
        timeouts = transport.timeouts
        self._seconds = timeouts.connect + timeouts.read
        self._heartbeat = min(
            HEARTBEAT, self._seconds / 1.5
        )  # a connection that is lost is known after 1.5 of it

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
            stream = Stream(socket, self._key, self._seconds)
            await stream.send({"TENSORPOOL_KEY": MaskedHeader(self._key.reveal())})
            yield stream
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(LONGEST_CLOSE):
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
        transport = self._transport
        options, headers = await transport.connection_options(transport.base_url)
        refused: TensorPoolError
        try:
            async with asyncio.timeout(self._seconds):
                return await session.ws_connect(
                    transport.socket_url(request.path),
                    heartbeat=self._heartbeat,
                    max_msg_size=LARGEST_MESSAGE,
                    timeout=WS_TIMEOUT,
                    headers={**transport.callers_headers, **headers},
                    **options,
                )
        except aiohttp.WSServerHandshakeError as error:
            refused = error_of(transport.received(error, b""), method=request.method, path=request.path)
        except Exception as error:  # noqa: BLE001 - a session of the caller's may raise anything; it is told what it means
            refused = transport.failure(error)
        raise refused
