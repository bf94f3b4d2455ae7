"""What the journal costs: `python -m nox -s bench`, or `python -m tests.benchmarks.journal [--pairs N] [--folder PATH]`.

The wall time of many creates together, with the journal and without, by turns. The emulator has a process and a core of
its own. The disk decides over the journal's part, so it is measured as well: what one write costs that must last.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

import attrs

from tensorpool_async import TensorPool
from tensorpool_async.emulator import Emulator


CREATES = 1000
AT_MOST = 1.15
ROOT = Path(__file__).parents[2]
CORES = sorted(os.sched_getaffinity(0))


@attrs.frozen
class Engine:
    """How an engine's clusters come up: seconds until they run, and between polls."""

    what: str
    ready: float
    retry_after: float


REALISTIC = Engine("ready after 3 s, Retry-After 1 s", 3.0, 1.0)
INSTANT = Engine("ready at once", 0.0, 0.02)


@attrs.frozen
class Cost:
    """What one run took, in seconds."""

    wall: float
    cpu: float


@asynccontextmanager
async def serving(engine: Engine) -> AsyncGenerator[tuple[str, str]]:
    """Run an emulator in a process of its own; give its address and key."""
    arguments = ["-m", "tests.benchmarks.journal", "--serve", f"{engine.ready}", f"{engine.retry_after}"]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        url, key = (await process.stdout.readline()).decode().split()
        yield url, key
    finally:
        process.terminate()
        await process.wait()


async def serve(ready: float, retry_after: float) -> None:
    """Be the emulator's process, until it is ended."""
    os.sched_setaffinity(0, CORES[-1:])
    async with Emulator(provision_seconds=ready, retry_after=retry_after) as emulator:
        print(emulator.url, emulator.key, flush=True)
        await asyncio.Event().wait()


async def measure(engine: Engine, journal: Path | None) -> Cost:
    """Create many clusters together."""
    async with serving(engine) as (url, key), TensorPool(key, base_url=url, journal=journal) as tp:
        await tp.alive()
        gc.collect()
        wall, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(tp.clusters.create("8xH100").result() for _ in range(CREATES)))
        return Cost(time.perf_counter() - wall, time.process_time() - cpu)


def syncs(folder: Path, times: int = 50) -> float:
    """Return the seconds that a write takes until it is on the disk, the median of some."""
    took: list[float] = []
    with (folder / "sync").open("wb", buffering=0) as file:
        for _ in range(times):
            begun = time.perf_counter()
            file.write(b"x" * 4096)
            os.fsync(file.fileno())
            took.append(time.perf_counter() - begun)
    return median(took)


async def compare(engine: Engine, pairs: int, folder: Path) -> float:
    """Print what the journal costs with an engine, and return the ratio of the wall times."""
    with_journal: list[Cost] = []
    without: list[Cost] = []
    for pair in range(pairs):
        without.append(await measure(engine, None))
        with_journal.append(await measure(engine, folder / f"{engine.ready:g}-{pair}.db"))
    ratios = [one.wall / other.wall for one, other in zip(with_journal, without, strict=True)]
    cpu = [one.cpu / other.cpu for one, other in zip(with_journal, without, strict=True)]
    print(
        f"{CREATES} creates, {engine.what}: {median(one.wall for one in without):.2f} s without the journal, "
        f"{median(one.wall for one in with_journal):.2f} s with it: {median(ratios):.3f} of the time "
        f"({min(ratios):.3f} to {max(ratios):.3f}), {median(cpu):.2f} of the CPU"
    )
    return median(ratios)


async def main(pairs: int, folder: Path) -> None:
    """Print all figures."""
    os.sched_setaffinity(0, CORES[:1])
    print(f"a write that lasts takes {1000 * syncs(folder):.2f} ms here")
    ratio = await compare(REALISTIC, pairs, folder)
    print(f"target: at most {AT_MOST}: {'met' if ratio <= AT_MOST else 'MISSED'}")
    await compare(INSTANT, pairs, folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the journals are put; the disk matters")
    parser.add_argument("--serve", type=float, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(*options.serve))
    else:
        with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
            asyncio.run(main(options.pairs, Path(temporary)))
