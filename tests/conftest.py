"""What all tests share: an event loop in debug mode, an emulator, and a client for it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from typing import Any

import pytest
from blockbuster import BlockBuster, blockbuster_ctx

from tensorpool_async import PollPolicy, RetryPolicy, TensorPool
from tensorpool_async.emulator import Emulator
from tests.support.scripted import ScriptedEngine


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"debug": True}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "TENSORPOOL_KEY",
        "TENSORPOOL_ENGINE",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "http_proxy",
        "https_proxy",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def no_blocking_calls() -> Iterator[BlockBuster]:
    """Fail a test in which the package blocks the event loop."""
    with blockbuster_ctx("tensorpool_async") as blockbuster:
        # Coverage takes a lock for each code that it sees first, and other threads may have it just then.
        blockbuster.functions["threading.Lock.acquire"].can_block_in("coverage/collector.py", "lock_data")
        yield blockbuster


@pytest.fixture
async def emulator() -> AsyncGenerator[Emulator]:
    """Run an engine whose clusters are ready after 50 ms and which asks to be polled every 20 ms."""
    async with Emulator(
        provision_seconds=0.05, destroy_seconds=0.05, edit_seconds=0.02, retry_after=0.02
    ) as engine:
        yield engine


@pytest.fixture
async def tp(emulator: Emulator) -> AsyncGenerator[TensorPool]:
    """Open a client of the emulator."""
    async with TensorPool(emulator.key, base_url=emulator.url, polling=PollPolicy(initial=0.01)) as client:
        yield client


@pytest.fixture
async def scripted() -> AsyncGenerator[ScriptedEngine]:
    """Run an engine that answers what the test tells it to."""
    async with ScriptedEngine() as engine:
        yield engine


@pytest.fixture
async def odd_tp(scripted: ScriptedEngine) -> AsyncGenerator[TensorPool]:
    """Open a client of the scripted engine, which tries again quickly."""
    retry = RetryPolicy(backoff=0.01, longest_backoff=0.02)
    polling = PollPolicy(default=0.01, initial=0.01, maximum=0.05)
    async with TensorPool("scripted-key", base_url=scripted.url, retry=retry, polling=polling) as client:
        yield client
