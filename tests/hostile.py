"""Servers that answer in ways that no server should: they hang, drip, or never stop. None of them speaks of HTTP's rules."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import re
import struct
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager


Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

MEGABYTE = 1 << 20
OK = b"HTTP/1.1 200 OK\r\n"


@asynccontextmanager
async def hostile(answer: Answer) -> AsyncGenerator[str]:
    """Run a server that gives this answer on each connection; the address is what is yielded."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await answer(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client is gone, or the test over
        finally:
            tasks.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def request_of(reader: asyncio.StreamReader) -> bytes:
    """Read the head of a request."""
    return await reader.readuntil(b"\r\n\r\n")


async def silence(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    """Read nothing and say nothing."""
    await asyncio.sleep(600)


def after_request(answer: Callable[[], AsyncIterator[bytes]]) -> Answer:
    """Answer each request with pieces, as fast as they are taken."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await request_of(reader)
            async for piece in answer():
                writer.write(piece)
                await writer.drain()

    return serve


def dripping(head: bytes, piece: bytes, seconds: float = 0.3) -> Callable[[], AsyncIterator[bytes]]:
    """Say something at once, and then the same again and again, for ever."""

    async def pieces() -> AsyncIterator[bytes]:
        yield head
        while True:
            yield piece
            await asyncio.sleep(seconds)

    return pieces


def flood(head: bytes, piece: bytes, times: int = 1 << 40) -> Callable[[], AsyncIterator[bytes]]:
    """Say something, and then the same as often as it is taken."""

    async def pieces() -> AsyncIterator[bytes]:
        yield head
        for _ in range(times):
            yield piece

    return pieces


def bomb(
    encoding: str, size: int = 1 << 30, *, status: bytes = b"200 OK"
) -> Callable[[], AsyncIterator[bytes]]:
    """Say a gigabyte of blanks, compressed to a megabyte."""
    wbits = {"gzip": 31, "deflate": 15, "raw": -15}[encoding]
    packer = zlib.compressobj(9, zlib.DEFLATED, wbits)
    body = b"".join(packer.compress(b" " * MEGABYTE) for _ in range(size // MEGABYTE)) + packer.flush()
    name = b"gzip" if encoding == "gzip" else b"deflate"
    head = b"HTTP/1.1 %s\r\nContent-Encoding: %s\r\nContent-Length: %d\r\n\r\n" % (status, name, len(body))
    return flood(head, body, 1)


def many_members(count: int = 200_000) -> Callable[[], AsyncIterator[bytes]]:
    """Say nothing, very often, compressed each time anew."""
    body = gzip.compress(b"") * count
    return flood(OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body), body, 1)


def websocket(pieces: Callable[[], AsyncIterator[bytes]]) -> Answer:
    """Accept a WebSocket, and then send what may be frames, whatever the client says."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        key = re.search(rb"(?i)sec-websocket-key: *(\S+)", await request_of(reader))
        assert key is not None
        digest = hashlib.sha1(key[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n\r\n"
        )
        async for piece in pieces():
            writer.write(piece)
            await writer.drain()
        await asyncio.sleep(600)

    return serve


def frame(data: bytes, *, size: int | None = None, first: int = 0x81) -> bytes:
    """Make a frame of text; `size` is what it says of its length."""
    return struct.pack("!BBQ", first, 127, len(data) if size is None else size) + data
