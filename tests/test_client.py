"""The session manager (design, section 3)."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tensorpool_async import (
    ConfigurationError,
    ConnectionFailed,
    FleetFileError,
    OperationError,
    RateLimiter,
    Secret,
    TensorPool,
)
from tensorpool_async.emulator import Emulator
from tests.support.scripted import ScriptedEngine


async def test_a_client_sends_nothing_until_it_is_used(emulator: Emulator) -> None:
    async with TensorPool(emulator.key, base_url=emulator.url) as tp:
        assert tp.base_url == emulator.url
        assert not tp.closed
    assert tp.closed
    assert emulator.record.requests == 0


def test_a_client_can_be_made_outside_of_a_loop_and_used_in_one() -> None:
    async def main() -> None:
        async with Emulator() as emulator:
            tp = TensorPool(Secret(emulator.key), base_url=emulator.url)
            assert await tp.clusters.list() == []
            await tp.aclose()
            await tp.aclose()

    asyncio.run(main(), debug=True)


def test_without_a_key_nothing_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=r"TENSORPOOL_KEY.*https://tensorpool\.dev"):
        TensorPool()


async def test_key_and_address_come_from_the_environment(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSORPOOL_KEY", emulator.key)
    monkeypatch.setenv("TENSORPOOL_ENGINE", emulator.url)
    async with TensorPool() as tp:
        assert await tp.clusters.list() == []


@pytest.mark.parametrize(
    "url",
    [
        "engine.example",
        "https://engine.example/v1",
        "https://engine.example?x=1",
        "ftp://engine.example",
        "https://",
    ],
)
def test_an_unusable_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="base URL"):
        TensorPool("key", base_url=url)


def test_plain_http_is_for_this_machine_only() -> None:
    with pytest.raises(ConfigurationError, match="unencrypted"):
        TensorPool("key", base_url="http://engine.example")
    TensorPool("key", base_url="http://engine.example", allow_insecure=True)
    TensorPool("key", base_url="http://[::1]:8000")


async def test_a_session_of_ones_own_is_used_and_left_open(emulator: Emulator) -> None:
    async with aiohttp.ClientSession() as session:
        async with TensorPool(emulator.key, base_url=emulator.url, session=session) as tp:
            assert await tp.clusters.list() == []
        assert not session.closed
        async with session.get(f"{emulator.url}/healthz") as answer:
            assert answer.status == 200


async def test_a_limiter_can_be_shared(emulator: Emulator) -> None:
    limiter = RateLimiter(max_in_flight=2)
    async with (
        TensorPool(emulator.key, base_url=emulator.url, limiter=limiter) as one,
        TensorPool(emulator.key, base_url=emulator.url, limiter=one.limiter) as two,
    ):
        await asyncio.gather(*(tp.clusters.list() for tp in (one, two) for _ in range(10)))
        assert two.statistics().requests == 10
        assert limiter.statistics().granted == 20
    assert emulator.record.max_in_flight <= 2


@pytest.mark.parametrize("steps", range(1, 6))
async def test_closing_that_is_cancelled_leaves_nothing_open(steps: int, scripted: ScriptedEngine) -> None:
    hang = asyncio.Event()

    async def stall(_: object) -> Any:
        await hang.wait()

    scripted.handle("GET /request/info/r-1", stall)
    tp = TensorPool("key", base_url=scripted.url)
    waiting = asyncio.create_task(tp.operation("r-1").result())
    while not scripted.count("GET /request/info/r-1"):
        await asyncio.sleep(0.001)
    closing = asyncio.create_task(tp.aclose())
    for _ in range(steps):
        await asyncio.sleep(0)
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)
    with pytest.raises(OperationError, match="closed"):
        await asyncio.wait_for(waiting, 2)
    assert tp.closed
    assert tp.statistics().limiter.in_flight == 0
    hang.set()


async def test_a_closed_client_says_so(emulator: Emulator) -> None:
    async with TensorPool(emulator.key, base_url=emulator.url) as tp:
        pass
    with pytest.raises(ConnectionFailed, match="closed"):
        await tp.clusters.list()
    assert "closed" in repr(tp)


def test_a_forgotten_client_gives_one_warning() -> None:
    async def main() -> None:
        async with Emulator() as emulator:
            tp = TensorPool(emulator.key, base_url=emulator.url)
            await tp.clusters.list()
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                del tp
                gc.collect()
                await asyncio.sleep(0)
                gc.collect()
            assert [warning.category for warning in caught] == [ResourceWarning]
            assert "aclose" in str(caught[0].message)

    asyncio.run(main(), debug=True)


def test_a_client_that_was_never_used_does_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TensorPool("key")
        gc.collect()


async def test_statistics_count_what_was_done(tp: TensorPool) -> None:
    await tp.clusters.create("8xH100").result()
    statistics = tp.statistics()
    assert statistics.requests == statistics.limiter.granted
    assert statistics.polls > 1
    assert (statistics.retries, statistics.rate_limited, statistics.operations) == (0, 0, 0)


def test_a_fleet_file_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(FleetFileError):
        TensorPool("key").fleet(tmp_path / "missing.toml")


UNWANTED = """
import sys
import tensorpool_async
unwanted = {"tensorpool_async.emulator", "tensorpool_async.cli", "tensorpool_async.fleet", "tensorpool_async.testing",
            "cyclopts", "rich", "fastapi", "opentelemetry", "obstore", "redis", "pytest", "aiohttp.web"}
print(sorted(unwanted & set(sys.modules)))
"""


def test_importing_the_package_imports_no_optional_part() -> None:
    output = subprocess.run(
        [sys.executable, "-c", UNWANTED], capture_output=True, text=True, check=True, timeout=30
    )
    assert output.stdout.strip() == "[]"
