"""An app on a real socket, and server-sent events as a browser reads them."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import httpx
import uvicorn
from fastapi import FastAPI


@asynccontextmanager
async def serve(app: FastAPI, *, port: int = 0) -> AsyncGenerator[str]:
    """Run an app under uvicorn in this loop, and yield its address."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        port = listening.getsockname()[1]
        config = uvicorn.Config(app, log_level="warning", lifespan="on", timeout_graceful_shutdown=2)
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve([listening]))
        while not server.started:
            assert not task.done(), "the app did not start"
            await asyncio.sleep(0.005)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            await task


def tasks_here() -> set[asyncio.Task[Any]]:
    """Return all tasks but those of the emulator, which keeps a task for each open connection in this same loop."""
    return {task for task in asyncio.all_tasks() if "RequestHandler.start" not in repr(task.get_coro())}


@attrs.frozen
class Event:
    """One server-sent event; `data` is decoded JSON."""

    event: str = "message"
    data: Any = None
    id: str | None = None
    retry: int | None = None
    comment: str | None = None


def parse(block: str) -> Event:
    fields: dict[str, Any] = {}
    for line in block.splitlines():
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        fields[name or "comment"] = json.loads(value) if name in {"data", "retry"} else value
    return Event(**fields)


async def events_of(answer: httpx.Response) -> AsyncGenerator[Event]:
    assert answer.status_code == 200, await answer.aread()
    assert answer.headers["content-type"].startswith("text/event-stream")
    block: list[str] = []
    async for line in answer.aiter_lines():
        if line:
            block.append(line)
        elif block:
            yield parse("\n".join(block))
            block.clear()


async def listen(url: str, **headers: str) -> list[Event]:
    """Read a stream to its end."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    async with httpx.AsyncClient(timeout=20) as http, http.stream("GET", url, headers=sent) as answer:
        return [event async for event in events_of(answer)]
