"""What polling costs, beside other clients: `python -m nox -s bench`, with `-- --quick` and `-- --json PATH`.

Client and server run in processes of their own, each on a core of its own. Each figure is a ratio between two things
that were measured by turns in the same run; the median of the pairs is what counts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlencode

import attrs


PEERS = {"aiohttp": 0.95, "httpx": 0.15, "openai": 0.2, "azure-core": 0.35, "requests": None}
"""The largest share of the other's CPU that one of our polls is to cost."""

SLOW = 5
"""How many times fewer polls are measured of a client that is slow."""

OPERATIONS = 1000
POLLS = 5
RETRY_AFTER = 1
PACKAGES = ("tensorpool-async", "aiohttp", "httpx", "openai", "azure-core", "requests")
IMPORT = "import time; begun = time.process_time(); {}; print(time.process_time() - begun)"


@attrs.frozen
class Row:
    """A line of the table: what was measured, its figure, and what it is to be at most."""

    what: str
    figure: float
    at_most: float | None
    detail: str


@attrs.frozen
class Bench:
    """A server to measure against, and how much to measure."""

    url: str
    pairs: int
    polls: int

    def set_engine(self, **options: str | float) -> dict[str, Any]:
        """Have the server begin anew; return what it has seen."""
        query = urlencode(options)
        with urllib.request.urlopen(f"{self.url}/control/reset?{query}") as answer:
            return dict(json.load(answer))

    def report(self) -> dict[str, Any]:
        """Return what the server has seen."""
        with urllib.request.urlopen(f"{self.url}/control/report") as answer:
            return dict(json.load(answer))

    def measure(self, name: str, **order: Any) -> dict[str, float]:
        """Measure something in a process of its own."""
        order = {"measure": name, "url": self.url, "core": cores()[0], **order}
        return dict(json.loads(run("-m", "tests.benchmarks.polling_clients", json.dumps(order))))

    def polls_of(
        self, client: str, operations: int = OPERATIONS, share: int = 1, *, news: bool = False
    ) -> dict[str, float]:
        """Measure polls of a client, as many operations as there are, so fast that it is never idle."""
        retry_after = 0 if client == "azure-core" else operations / 10_000
        self.set_engine(retry_after=retry_after, news=int(news))
        measured = self.polls // share
        warm_up = max(measured // 4, operations if client == "tensorpool-async" else 0)
        # azure-core runs a task for each operation, and would wait for connections of which aiohttp has 100.
        count = min(operations, 100) if client == "azure-core" else operations
        return self.measure("polls", client=client, operations=count, warm_up=warm_up, measured=measured)


def cores() -> tuple[int, int]:
    """Return the cores of client and server; -1 where there is only one."""
    available = sorted(os.sched_getaffinity(0))
    return (available[0], available[1]) if len(available) > 1 else (-1, -1)


def run(*arguments: str) -> str:
    """Run this Python and return what it prints."""
    return subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


@contextmanager
def server() -> Generator[str]:
    """Run the server; give its address."""
    arguments = [sys.executable, "-m", "tests.benchmarks.polling_server", str(cores()[1])]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.stdin.close()


def against_peers(bench: Bench) -> Iterator[Row]:
    """Compare the CPU of a poll with that of each other client."""
    for peer, at_most in PEERS.items():
        share = 1 if peer == "aiohttp" else SLOW
        pairs = [
            (bench.polls_of("tensorpool-async", share=share), bench.polls_of(peer, share=share))
            for _ in range(bench.pairs)
        ]
        figure = median(ours["cpu"] / theirs["cpu"] for ours, theirs in pairs)
        cpu = [median(pair[side]["cpu"] for pair in pairs) * 1e6 for side in (0, 1)]
        yield Row(f"CPU per poll / {peer}", figure, at_most, f"{cpu[0]:.0f} and {cpu[1]:.0f} us")


def with_news(bench: Bench) -> Iterator[Row]:
    """Compare the CPU of a poll with that of aiohttp where no answer repeats the one before."""
    pairs = [
        (bench.polls_of("tensorpool-async", news=True), bench.polls_of("aiohttp", news=True))
        for _ in range(bench.pairs)
    ]
    figure = median(ours["cpu"] / theirs["cpu"] for ours, theirs in pairs)
    cpu = [median(pair[side]["cpu"] for pair in pairs) * 1e6 for side in (0, 1)]
    yield Row("CPU per poll / aiohttp, each answer new", figure, None, f"{cpu[0]:.0f} and {cpu[1]:.0f} us")


def by_number(bench: Bench, counts: tuple[int, ...]) -> Iterator[Row]:
    """Compare the CPU of a poll where few operations are in flight and where many are."""
    rounds = [
        [bench.polls_of("tensorpool-async", count)["cpu"] * 1e6 for count in counts]
        for _ in range(bench.pairs)
    ]
    cpu = [median(one[index] for one in rounds) for index in range(len(counts))]
    detail = ", ".join(f"{count:,}: {one:.0f} us" for count, one in zip(counts, cpu, strict=True))
    yield Row("CPU per poll, most / least", max(cpu) / min(cpu), 1.3, detail)


def wall_time(bench: Bench, operations: int) -> Iterator[Row]:
    """Compare the time of many creations with what bare aiohttp, or the engine's pace, would take."""
    ratios: list[float] = []
    detail = ""
    for _ in range(bench.pairs):
        bench.set_engine(retry_after=RETRY_AFTER, polls=POLLS)
        bare = bench.measure("provision_bare", operations=operations, polls=POLLS)["wall"]
        asked = bench.report()["requests"]
        bench.set_engine(retry_after=RETRY_AFTER, polls=POLLS)
        ours = bench.measure("provision", operations=operations)
        if asked - 1 != ours["requests"]:
            raise RuntimeError(f"{ours['requests']:.0f} requests, and {asked - 1} with bare aiohttp")
        ratios.append(ours["wall"] / max(ours["create"] + POLLS * RETRY_AFTER, bare))
        detail = (
            f"the last: {ours['requests']:.0f} requests in {ours['wall']:.1f} s, of which creating {ours['create']:.1f} s; "
            f"bare aiohttp {bare:.1f} s; all: {min(ratios):.2f} to {max(ratios):.2f}"
        )
    yield Row(f"time of {operations:,} operations / the least", median(ratios), 1.15, detail)


def memory(bench: Bench, operations: int) -> Iterator[Row]:
    """Measure what an operation in flight takes of memory."""
    for gather, at_most in ((False, 1.5), (True, 4.0)):
        bench.set_engine(retry_after=5)
        kib = bench.measure("memory", operations=operations, gather=gather)["bytes"] / 1024
        how = "under one gather" if gather else "nobody waiting"
        yield Row(f"KiB per operation, {how}", kib, at_most, f"{operations:,} operations")


def lateness(bench: Bench) -> Iterator[Row]:
    """Measure how late polls are at half of what bare aiohttp can send."""
    rate = 1 / bench.polls_of("aiohttp")["wall"]
    operations, pace = int(rate), 2.0
    bench.set_engine(retry_after=pace, record=1)
    bench.measure("lateness", operations=operations, seconds=4 * pace, spread=pace)
    seen = bench.report()
    detail = f"{seen['recorded']} polls at {rate / 2:.0f}/s, p50 {seen['p50'] * 1000:.1f} ms, worst {seen['worst'] * 1000:.0f} ms"
    yield Row("lateness of polls, p99, ms", seen["p99"] * 1000, 50.0, detail)
    yield Row("polls that came early", float(seen["early"]), 0.0, f"of {seen['recorded']}")


def imports(bench: Bench) -> Iterator[Row]:
    """Compare the CPU of imports, each in a fresh interpreter."""
    for ours, at_most in (
        ("import tensorpool_async", 1.25),
        ("from tensorpool_async import TensorPool", None),
    ):
        pairs = [
            [float(run("-c", IMPORT.format(one))) for one in (ours, "import aiohttp")]
            for _ in range(2 * bench.pairs + 1)
        ]
        cpu = [median(pair[side] for pair in pairs) * 1000 for side in (0, 1)]
        figure = median(one / other for one, other in pairs)
        yield Row(f"{ours} / import aiohttp", figure, at_most, f"{cpu[0]:.0f} and {cpu[1]:.0f} ms")


def rows_of(bench: Bench, *, quick: bool, only: str | None) -> Iterator[Row]:
    """Measure everything, or what is asked for."""
    parts: dict[str, Callable[[], Iterator[Row]]] = {
        "imports": lambda: imports(bench),
        "peers": lambda: against_peers(bench),
        "news": lambda: with_news(bench),
        "lateness": lambda: lateness(bench),
        "memory": lambda: memory(bench, 10_000 if quick else 50_000),
        "time": lambda: wall_time(bench, 2000 if quick else 10_000),
        "number": lambda: by_number(bench, (100, 1000, 10_000) if quick else (100, 1000, 10_000, 50_000)),
    }
    for name, part in parts.items():
        if only in {None, name}:
            yield from part()


def main() -> None:
    """Print the table, and write it as JSON where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer pairs, fewer polls: a first impression")
    parser.add_argument(
        "--only",
        metavar="PART",
        help="imports, peers, news, lateness, memory, time or number: that part alone",
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there as well")
    options = parser.parse_args()
    versions = {name: version(name) for name in PACKAGES}
    print(f"Python {platform.python_version()}, {len(os.sched_getaffinity(0))} cores;", versions)
    rows: list[Row] = []
    with server() as url:
        bench = Bench(url, pairs=3 if options.quick else 5, polls=4000 if options.quick else 10_000)
        print("| what | figure | at most | |\n|---|---|---|---|")
        for row in rows_of(bench, quick=options.quick, only=options.only):
            rows.append(row)
            print(
                f"| {row.what} | {row.figure:.3g} | {'' if row.at_most is None else f'{row.at_most:g}'} | {row.detail} |",
                flush=True,
            )
    if options.json:
        document = {
            "python": platform.python_version(),
            "versions": versions,
            "figures": [attrs.asdict(row) for row in rows],
        }
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
