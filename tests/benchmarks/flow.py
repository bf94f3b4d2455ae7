"""How the client finds a limit that nobody has told it: `python -m tests.benchmarks.flow [--json] [NAME …]`.

A real client against a lean engine in a process of its own, behind a token bucket of 50 requests/s with a burst of 10.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs

from tensorpool_async import RateLimiter, RetryPolicy, TensorPool


RATE, BURST = 50.0, 10.0
ROOT = Path(__file__).parents[2]
CREATES = 500
LOW, LOW_FOR = 10.0, 20.0
POLLED = 5000
DESTROYS = 100
CLIENTS = 20
SLOTS = 32


@attrs.frozen
class Figure:
    """One line of the result."""

    name: str
    value: float
    target: str
    holds: bool

    def __str__(self) -> str:
        return f"{self.name:<78} {self.value:>8.3f}   target {self.target:<10} {'ok' if self.holds else 'MISSED'}"


@attrs.define
class Engine:
    """The engine's process."""

    process: asyncio.subprocess.Process
    url: str

    async def order(self, order: object) -> None:
        """Send an order."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        await self.process.stdin.drain()

    async def answers(self) -> list[tuple[float, int, str]]:
        """Return when and how each request since the last report was answered, and what it was."""
        await self.order("report")
        assert self.process.stdout is not None
        answers: list[tuple[float, int, str]] = json.loads(await self.process.stdout.readline())
        return answers


@asynccontextmanager
async def engine(retry_after: str = "1") -> AsyncGenerator[Engine]:
    """Start an engine."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.benchmarks.lean_server", str(RATE), str(BURST), retry_after),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 26,
        cwd=ROOT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        port = int(await process.stdout.readline())
        yield Engine(process, f"http://127.0.0.1:{port}")
    finally:
        process.stdin.close()
        await process.wait()


def client(url: str, limiter: RateLimiter | None = None) -> TensorPool:
    """Return a client that is patient: a request may be refused as often as it takes."""
    return TensorPool("key", base_url=url, limiter=limiter, retry=RetryPolicy(attempts=5), trust_env=False)


async def creates() -> list[Figure]:
    """Create many clusters at once."""
    async with engine() as server, client(server.url) as tp:
        results = await asyncio.gather(
            *(tp.clusters.create("8xH100", name=f"w{index}").result() for index in range(CREATES)),
            return_exceptions=True,
        )
        answers = await server.answers()
    begun, ended = answers[0][0], answers[-1][0]
    served = sum(status != 429 for _, status, _ in answers)
    later = [status for at, status, _ in answers if at > begun + 5.0]
    used = served / (RATE * (ended - begun) + BURST)
    settled = sum(status != 429 for status in later) / (RATE * (ended - begun - 5.0))
    refused = later.count(429) / len(later)
    failed = sum(isinstance(result, BaseException) for result in results)
    what = f"{CREATES} creates, 3 polls each:"
    return [
        Figure(f"{what} share of the allowed rate used", used, ">= 0.9", used >= 0.9),
        Figure(f"{what} the same after the first 5 s", settled, ">= 0.9", settled >= 0.9),
        Figure(f"{what} share answered 429 after the first 5 s", refused, "<= 0.02", refused <= 0.02),
        Figure(f"{what} failures", failed, "0", failed == 0),
    ]


async def fall() -> list[Figure]:
    """Let the limit fall for a while, with always something to send."""
    failures = 0
    async with engine() as server, client(server.url) as tp:

        async def work() -> None:
            nonlocal failures
            while True:
                try:
                    await tp.clusters.get("c-1")
                except Exception as error:  # noqa: BLE001 - it is counted, whatever it is
                    failures += 1
                    print(repr(error), file=sys.stderr)

        workers = [asyncio.create_task(work()) for _ in range(100)]
        await asyncio.sleep(20.0)
        await server.order(LOW)
        await asyncio.sleep(LOW_FOR)
        await server.order(RATE)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        while (tp.limiter.statistics().per_second or RATE) < 0.8 * RATE and loop.time() < begun + 60.0:
            await asyncio.sleep(0.1)
        back = loop.time() - begun
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    what = f"limit {LOW:g}/s for {LOW_FOR:g} s:"
    return [
        Figure(f"{what} seconds until the pace is back above 0.8", back, "<= 15", back <= 15.0),
        Figure(f"{what} failures", failures, "0", failures == 0),
    ]


async def destroys() -> list[Figure]:
    """Destroy clusters among thousands of operations that are polled as fast as they may be."""
    async with engine(retry_after="0") as server, client(server.url) as tp:
        operations = [tp.operation(f"endless-{index}") for index in range(POLLED)]
        waiting = [asyncio.create_task(operation.result()) for operation in operations]
        await asyncio.sleep(6.0)
        loop = asyncio.get_running_loop()
        begun: list[float] = []
        paused: list[bool] = []
        await server.answers()
        for index in range(DESTROYS):
            before = tp.limiter.statistics()
            begun.append(loop.time())
            await tp.clusters.destroy(f"endless-{index}")
            after = tp.limiter.statistics()
            paused.append(bool(before.paused_for) or before.rate_limited != after.rate_limited)
            await asyncio.sleep(0.1)
        sent = [at for at, status, what in await server.answers() if what[:6] == "DELETE" and status != 429]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    # Both processes read the same clock. Nothing is sent in a pause, so what met one is counted apart.
    waits = [at - start for at, start, met in zip(sent, begun, paused, strict=True) if not met]
    p99 = sorted(waits)[int(len(waits) * 0.99)]
    what = f"a destroy among {POLLED} polls:"
    return [
        Figure(f"{what} seconds until it is there, p99", p99, "<= 0.06", p99 <= 0.06),
        Figure(
            f"{what} of {DESTROYS}, how many met a pause", sum(paused), "few", sum(paused) <= DESTROYS / 5
        ),
    ]


async def storm() -> list[Figure]:
    """Let many clients with one limiter send at once."""
    limiter = RateLimiter(SLOTS)
    async with engine() as server, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client(server.url, limiter)) for _ in range(CLIENTS)]
        gets = (tp.clusters.get(f"c-{index}") for tp in clients for index in range(50))
        await asyncio.gather(*gets)
        answers = await server.answers()
    refused = [at for at, status, _ in answers if status == 429]
    pauses: list[list[float]] = []
    for at in refused:
        if not pauses or at > pauses[-1][0] + 1.0:
            pauses.append([])
        pauses[-1].append(at)
    most = max(map(len, pauses), default=0) / SLOTS
    what = f"429 storm of {CLIENTS} clients, one limiter:"
    return [Figure(f"{what} requests refused per slot and pause, at most", most, "<= 1", most <= 1.0)]


SCENARIOS: dict[str, Callable[[], Awaitable[list[Figure]]]] = {
    "creates": creates,
    "fall": fall,
    "destroys": destroys,
    "storm": storm,
}


async def measure(names: list[str]) -> list[dict[str, Any]]:
    """Measure one after the other, and print each figure as it is there."""
    figures: list[Figure] = []
    for name in names:
        for figure in await SCENARIOS[name]():
            print(figure, file=sys.stderr, flush=True)
            figures.append(figure)
    return [attrs.asdict(figure) for figure in figures]


def main() -> None:
    """Print all figures, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=", ".join(SCENARIOS))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures = asyncio.run(measure(arguments.names or list(SCENARIOS)))
    if arguments.json:
        print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
