"""Something that speaks as little of Redis' protocol as a test needs: a server that is wrong, and an address that moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress


@asynccontextmanager
async def answering(answer: bytes | None) -> AsyncGenerator[str]:
    """Serve connections that are set up as ever, and answer each script call so; None closes the connection."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (line := await reader.readline()).startswith(b"*"):
            words = [await read_word(reader) for _ in range(int(line[1:]))]
            if words[0].upper() in {b"EVALSHA", b"EVAL"}:
                if answer is None:
                    break
                writer.write(answer)
            elif words[0].upper() == b"HELLO":
                writer.write(b"%1\r\n$5\r\nproto\r\n:3\r\n")
            else:
                writer.write(b"+OK\r\n")
            await writer.drain()
        writer.close()

    async with serving(serve, tasks) as url:
        yield url


async def read_word(reader: asyncio.StreamReader) -> bytes:
    length = int((await reader.readline())[1:])
    return (await reader.readexactly(length + 2))[:-2]


class Address:
    """Forwards connections to a port that can change, as an address does that follows the primary.

    Connections that were made before stay where they are.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = ""
        self.made = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Address]:
        async with serving(self._forward, self._tasks) as self.url:
            yield self

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.made += 1
        there, back = await asyncio.open_connection("127.0.0.1", self.port)
        await asyncio.gather(pump(reader, back), pump(there, writer))


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


@asynccontextmanager
async def serving(handler: object, tasks: set[asyncio.Task[None]]) -> AsyncGenerator[str]:
    """Listen, and end what still runs afterwards."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with suppress(OSError, asyncio.CancelledError, asyncio.IncompleteReadError):
            await handler(reader, writer)  # type: ignore[operator]
        writer.close()

    listener = await asyncio.start_server(handle, "127.0.0.1", 0)
    host, port = listener.sockets[0].getsockname()
    try:
        yield f"redis://{host}:{port}"
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
