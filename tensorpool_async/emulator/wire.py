"""One WebSocket as the routes of jobs see it."""

import asyncio
import hmac
import json
from typing import Any, cast

import attrs
from aiohttp import WSMessage, WSMsgType, web

from tensorpool_async.emulator.faults import Scope


POLICY = 1008
SECONDS_TO_SPEAK = 10.0


class HungUp(Exception):
    """The client is gone, or has broken the protocol and been told so."""


@attrs.frozen
class Wire:
    """A WebSocket that was accepted, before its key was seen."""

    socket: web.WebSocketResponse
    request: web.BaseRequest
    argument: str
    scope: Scope
    key: str

    async def hear(self) -> dict[str, Any]:
        """The next message. Raises HungUp."""
        message: WSMessage = await self.socket.receive()
        if message.type is not WSMsgType.TEXT:
            raise HungUp
        try:
            value: object = json.loads(message.data)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            await self.close(POLICY, "Expected a JSON object")
            raise HungUp
        return cast("dict[str, Any]", value)

    async def say(self, **fields: Any) -> None:
        """Raises HungUp when nobody listens."""
        try:
            await self.socket.send_str(json.dumps(fields, separators=(",", ":")))
        except ConnectionError:
            raise HungUp from None

    async def greeted(self) -> bool:
        """Whether the first message holds the right key. Raises HungUp when none comes."""
        try:
            async with asyncio.timeout(SECONDS_TO_SPEAK):
                first = await self.hear()
        except TimeoutError:
            await self.close(POLICY, "No key was sent")
            raise HungUp from None
        given = first.get("TENSORPOOL_KEY")
        return isinstance(given, str) and hmac.compare_digest(
            given.encode("utf-8", "surrogatepass"), self.key.encode()
        )

    async def drain(self) -> None:
        """Read until the client leaves, which also answers its pings."""
        while (await self.socket.receive()).type not in {
            WSMsgType.CLOSE,
            WSMsgType.CLOSING,
            WSMsgType.CLOSED,
        }:
            pass

    async def close(self, code: int, reason: str) -> None:
        """The reason is cut to what a close frame holds."""
        await self.socket.close(code=code, message=reason.encode()[:120])

    def cut(self) -> None:
        """Break the connection without a close frame; clients see that as 1006."""
        if self.request.transport is not None:
            self.request.transport.abort()
        raise HungUp
