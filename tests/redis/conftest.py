"""A real server, Redis or Valkey, that belongs to the tests alone."""

from __future__ import annotations

import asyncio
import shutil
import signal
import uuid
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest
from blockbuster import BlockBuster

from tests.redis.server import RedisServer


@pytest.fixture(scope="session")
def redis_program() -> str:
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    pytest.skip("neither redis-server nor valkey-server is installed")


@pytest.fixture(scope="session")
def common_server(redis_program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(redis_program, tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(redis_program: str, tmp_path: Path) -> Iterator[RedisServer]:
    """Run a server for one test, which may stop it."""
    with RedisServer(redis_program, tmp_path) as server:
        yield server


@pytest.fixture
def url(common_server: RedisServer) -> str:
    return common_server.url


@pytest.fixture
def key() -> str:
    """Return a limit that no other test uses."""
    return uuid.uuid4().hex


@pytest.fixture
async def silent() -> AsyncGenerator[str]:
    """Listen, and never answer."""
    connections: list[asyncio.StreamWriter] = []

    async def listen(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)

    listener = await asyncio.start_server(listen, "127.0.0.1", 0)
    host, port = listener.sockets[0].getsockname()
    yield f"redis://{host}:{port}"
    listener.close()
    for writer in connections:
        writer.close()


@pytest.fixture
def frozen(server: RedisServer) -> Iterator[RedisServer]:
    """Return a server that can be frozen, and is let go at the end, so that it can be stopped."""
    yield server
    server.send(signal.SIGCONT)


@pytest.fixture(autouse=True)
def redis_reads_its_version(no_blocking_calls: BlockBuster) -> None:
    """Let redis-py look up its own version, as it does for each new connection."""
    for name, function in no_blocking_calls.functions.items():
        if name.startswith(("os.", "io.")):
            function.can_block_in("redis/utils.py", {"get_lib_version"})
