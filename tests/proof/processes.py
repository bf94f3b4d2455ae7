"""Processes that are killed at a moment of their talk with the emulator, and what runs in them.

The emulator runs in the test's own process, so its state survives. The client's process is forked from a server that
has imported everything already, so that fifty of them cost little.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import random
import signal
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal, TypeAlias

import attrs
import pytest

from tensorpool_async import PollPolicy, RetryPolicy, TensorPool, TensorPoolError
from tensorpool_async.emulator import Emulator, Fault, FaultKind, Record
from tensorpool_async.fleet import ClusterGroup, Fleet


Phase: TypeAlias = 'Literal["arrived", "handled", "later"]'

CREATES = 40
FLEET = Fleet("s", [ClusterGroup("t", "1xH100", count=CREATES)])
NAMES = tuple(f"w{index}" if index % 2 else None for index in range(CREATES))
"""Of creates outside of a fleet: every second one is named."""

LOST_ANSWERS = tuple(
    Fault(kind, method="POST", path="/cluster/create", times=None, probability=probability)
    for kind, probability in (
        (FaultKind.DROP_AFTER, 0.10),
        (FaultKind.DROP_BEFORE, 0.10),
        (FaultKind.HTML_502, 0.05),
        (FaultKind.HTML_502_AFTER, 0.05),
        (FaultKind.CUT_JSON, 0.05),
        (FaultKind.NO_REQUEST_ID, 0.05),
    )
)
LATE_LISTS = Fault(FaultKind.LIST_LAG, times=None, seconds=0.1)
"""Nothing shows at once. That is shorter than a client looks whose longest pause is `LONG_LOOKS`."""
LONG_LOOKS = 0.2

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["tensorpool_async.fleet", "tests.proof.processes"])


def tell(text: str) -> None:
    """Say what was drawn, for who looks into a failure."""
    print(text)  # noqa: T201 - pytest shows it where a test fails


def engine(seed: int, *, faults: bool) -> Emulator:
    """Make an engine whose clusters are quick; with faults, four of ten answers to creates are spoilt."""
    return Emulator(
        seed=seed,
        provision_seconds=(0.02, 0.1),
        destroy_seconds=0.02,
        retry_after=0.03,
        faults=LOST_ANSWERS if faults else (),
    )


def client(
    url: str,
    key: str,
    journal: Path | None = None,
    *,
    longest_backoff: float = 0.05,
    handle_sigterm: bool = False,
) -> TensorPool:
    """Make a client that tries again quickly."""
    retry = RetryPolicy(backoff=0.01, longest_backoff=longest_backoff)
    polling = PollPolicy(default=0.03, initial=0.02)
    return TensorPool(
        key, base_url=url, retry=retry, polling=polling, journal=journal, handle_sigterm=handle_sigterm
    )


def bring_up(url: str, key: str) -> None:
    """Bring the fleet up, in a process of its own."""
    asyncio.run(_bring_up(url, key))


async def _bring_up(url: str, key: str) -> None:
    async with client(url, key) as tp:
        await tp.fleet(FLEET).up()


def create_all(url: str, key: str, journal: Path, results: Path, names: Sequence[str | None] = NAMES) -> None:
    """Create clusters, in a process of its own; each result is put into a file as it comes."""
    asyncio.run(_create_all(url, key, journal, results, names))


async def _create_all(url: str, key: str, journal: Path, results: Path, names: Sequence[str | None]) -> None:
    file = os.open(results, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def create(name: str | None) -> None:
        try:
            cluster = await tp.clusters.create("1xH100", name=name).result()
        except TensorPoolError:
            return  # the name was taken; what is unknown after that is for the test to find
        os.write(file, f"{cluster.id}\n".encode())
        os.fsync(file)

    async with client(url, key, journal) as tp:
        await asyncio.gather(*(create(name) for name in names))


BLOCK = Fleet("s", [ClusterGroup("t", "8xH100", count=16), ClusterGroup("u", "1xL40S", count=8)])
"""24 clusters, of two prices."""


def hold(what: str, url: str, key: str, journal: Path | None, log: Path) -> None:
    """Hold a block open for a moment, in a process of its own that asks for SIGTERM; its log goes into a file."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the server of these processes may have another one
    signal.signal(signal.SIGINT, signal.default_int_handler)
    logging.basicConfig(filename=log, level=logging.INFO)
    asyncio.run(_hold(what, url, key, journal))


async def _hold(what: str, url: str, key: str, journal: Path | None) -> None:
    async with client(url, key, journal, handle_sigterm=True) as tp:
        block = tp.fleet(BLOCK) if what == "fleet" else tp.clusters.ephemeral("8xH100", name="mine")
        async with block:
            for _ in range(5):
                await tp.clusters.list()  # so that a part of the moments is in the body


@attrs.frozen
class Moment:
    """When to kill: at the n-th request, when it arrives, when it was handled and not answered, or some time later.

    What the process has sent by then may still be carried out, as at any engine.
    """

    request: int
    phase: Phase
    seconds: float = 0.0


def draw(chance: random.Random, requests: int) -> Moment:
    """Draw a moment of a talk of so many requests."""
    phase: Phase = chance.choice(("arrived", "handled", "later"))
    seconds = chance.uniform(0, 0.02) if phase == "later" else 0.0
    return Moment(chance.randint(1, requests), phase, seconds)


class Killer:
    """Kills a process at a moment; it hears of requests from the emulator's own record.

    Attributes:
        number: The signal that it sends.
        again: How many seconds later it sends that once more; None for never.
    """

    def __init__(self, number: signal.Signals = signal.SIGKILL) -> None:
        self.number = number
        self.again: float | None = None
        self._seen = {"arrived": 0, "handled": 0}
        self._moment: Moment | None = None
        self._process: BaseProcess | None = None

    async def run(self, target: Callable[..., object], *args: Any, moment: Moment | None) -> bool:
        """Run a function in a process, and kill it at a moment; say whether it was killed, and had not ended before."""
        self._seen = {"arrived": 0, "handled": 0}
        process = _processes.Process(target=target, args=args, daemon=True)
        self._process, self._moment = process, moment
        process.start()
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(process.sentinel, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(process.sentinel)
            self._moment = None
            process.kill()
            process.join()
        code = process.exitcode
        process.close()
        if self.number is not signal.SIGKILL:
            return code != 0
        assert code in {0, -9}, f"the process ended by itself, with {code}"
        return code == -9

    def hears(self, phase: Literal["arrived", "handled"]) -> None:
        """Kill if this is the moment."""
        self._seen[phase] += 1
        moment = self._moment
        if moment is None or self._process is None:
            return
        wanted = "handled" if moment.phase == "later" else moment.phase
        if (wanted, moment.request) != (phase, self._seen[phase]):
            return
        if moment.phase == "later":
            asyncio.get_running_loop().call_later(moment.seconds, self._kill, self._process)
        else:
            self._kill(self._process)

    def _kill(self, process: BaseProcess) -> None:
        if process is self._process and self._moment is not None:
            os.kill(process.pid or 0, self.number)
            if self.again is not None:
                delay, self.again = self.again, None
                asyncio.get_running_loop().call_later(delay, self._kill, process)


@contextmanager
def listening(monkeypatch: pytest.MonkeyPatch, number: signal.Signals = signal.SIGKILL) -> Generator[Killer]:
    """Let a killer hear of every request that arrives at an emulator, and of each that was handled."""
    killer = Killer(number)
    arrived, left = Record.arrived, Record.left

    def on_arrival(record: Record) -> None:
        arrived(record)
        killer.hears("arrived")

    def on_leaving(record: Record) -> None:
        left(record)
        killer.hears("handled")

    with monkeypatch.context() as patch:
        patch.setattr(Record, "arrived", on_arrival)
        patch.setattr(Record, "left", on_leaving)
        yield killer
