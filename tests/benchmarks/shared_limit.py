"""Several processes under one Redis limiter against an engine that allows just as much.

Run it with `python -m tests.benchmarks.shared_limit`. It needs `redis-server` or `valkey-server`. Engine, server and each
of the clients are processes of their own.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from tensorpool_async import TensorPool
from tensorpool_async.emulator import Emulator
from tensorpool_async.redis import RedisRateLimiter
from tests.redis.server import RedisServer


PROCESSES = 4
PER_SECOND = 100.0
SECONDS = 10.0
BURST = 10.0
"""Requests that the engine allows at once: a tenth of a second's worth, so that it forgives little."""


@contextmanager
def redis_server() -> Generator[str]:
    """Run a server for as long as the benchmark takes, and give its URL."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        sys.exit("neither redis-server nor valkey-server is installed")
    with tempfile.TemporaryDirectory() as folder, RedisServer(program, Path(folder)) as server:
        yield server.url


async def engine() -> None:
    """Run an engine until standard input ends, then print how many requests it allowed and refused."""
    async with Emulator(rate_limit=PER_SECOND, rate_burst=BURST) as emulator:
        print(emulator.url, emulator.key, flush=True)
        await asyncio.to_thread(sys.stdin.read)
        statuses = emulator.record.by_status
        print(statuses[200], statuses[429], flush=True)


async def client(redis_url: str, url: str, key: str) -> None:
    """Send as much as the limiter allows, with 20 requests waiting at any time; print how many were answered."""
    async with (
        RedisRateLimiter(redis_url, key="bench", max_per_second=PER_SECOND) as limiter,
        TensorPool(key, base_url=url, limiter=cast("Any", limiter)) as tp,
    ):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        end = time.monotonic() + SECONDS

        async def ask() -> int:
            answered = 0
            while time.monotonic() < end:
                await tp.clusters.list()
                answered += 1
            return answered

        print(sum(await asyncio.gather(*(ask() for _ in range(20)))), flush=True)


async def start(*words: str) -> asyncio.subprocess.Process:
    """Start this module again, as one of its parts."""
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.benchmarks.shared_limit", *words, stdin=pipe, stdout=pipe
    )


async def line_of(process: asyncio.subprocess.Process) -> list[str]:
    """Return the words of the next line that a part prints."""
    if process.stdout is None:
        raise RuntimeError("its output is not ours to read")
    return (await process.stdout.readline()).decode().split()


def tell(process: asyncio.subprocess.Process) -> None:
    """Let a part go on."""
    if process.stdin is not None:
        process.stdin.write(b"go\n")


async def main() -> None:
    """Print the figures."""
    with redis_server() as redis_url:
        emulator = await start("engine")
        url, key = await line_of(emulator)
        clients = [await start("client", redis_url, url, key) for _ in range(PROCESSES)]
        for process in clients:
            await line_of(process)
        begun = time.monotonic()
        for process in clients:
            tell(process)
        counts = sorted([int((await line_of(process))[0]) for process in clients])
        seconds = time.monotonic() - begun
        if emulator.stdin is not None:
            emulator.stdin.close()
        answered, refused = (int(word) for word in await line_of(emulator))
        for process in (*clients, emulator):
            await process.wait()
    print(
        f"{PROCESSES} processes, one Redis limiter of {PER_SECOND:g}/s, engine allows {PER_SECOND:g}/s "
        f"(burst {BURST:g}): {answered} answered in {seconds:.2f} s, {answered / seconds:.1f}/s in all; "
        f"{refused} answered 429 ({refused / (answered + refused):.2%}); by process {counts}"
    )


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["engine"]:
            asyncio.run(engine())
        case ["client", redis_url, url, key]:
            asyncio.run(client(redis_url, url, key))
        case _:
            asyncio.run(main())
