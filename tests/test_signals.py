"""SIGTERM is treated as Ctrl-C by a client that asks for it, and by no other."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path

import pytest

from tensorpool_async import TensorPool
from tensorpool_async.emulator import Emulator
from tensorpool_async.signals import SigtermHandler


ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to handle")

PROGRAM = """
import asyncio, logging, os, signal, sys, time
from tensorpool_async import PollPolicy, TensorPool
from tensorpool_async.fleet import ClusterGroup, Fleet

logging.basicConfig()
signal.signal(signal.SIGINT, signal.{sigint})
fleet = Fleet("s", [ClusterGroup("t", "8xH100", count=3)])

def client(**options):
    return TensorPool(sys.argv[1], base_url=sys.argv[2], polling=PollPolicy(initial=0.01), **options)

{body}
"""

BLOCK = """
async def main():
    async with client(handle_sigterm={asks}) as tp, {block}:
        print("running", flush=True)
        {wait}

asyncio.run(main())
"""
EPHEMERAL = 'tp.clusters.ephemeral("8xH100", name="mine")'
FLEET = "tp.fleet(fleet)"


def program(
    block: str = EPHEMERAL,
    *,
    asks: bool = True,
    wait: str = "await asyncio.sleep(60)",
    sigint: str = "default_int_handler",
) -> str:
    return PROGRAM.format(sigint=sigint, body=BLOCK.format(asks=asks, block=block, wait=wait))


@pytest.fixture
async def engine() -> AsyncGenerator[Emulator]:
    async with Emulator(provision_seconds=0.05, destroy_seconds=0.3, retry_after=0.02) as emulator:
        yield emulator


async def start(engine: Emulator, text: str, *words: str) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        text,
        engine.key,
        engine.url,
        *words,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
        # A measuring library may set a handler of its own, which ours would leave alone.
        env={k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")}
        | {"PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    async with asyncio.timeout(30):
        assert await process.stdout.readline() == b"running\n"
    return process


async def end(process: asyncio.subprocess.Process, *, times: int = 1, pause: float = 0.1) -> str:
    """Send SIGTERM so many times, and return what the process wrote to standard error."""
    for at in range(times):
        if at:
            await asyncio.sleep(pause)
        process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(20):
        _, errors = await process.communicate()
    return errors.decode()


@pytest.mark.parametrize("block", [EPHEMERAL, FLEET])
async def test_a_block_destroys_what_it_has_made_and_says_so_at_once(block: str, engine: Emulator) -> None:
    process = await start(engine, program(block))
    made = set(engine.record.living)
    errors = await end(process)
    assert engine.record.living == []
    assert process.returncode == -signal.SIGINT, "it ends as it does by Ctrl-C"
    assert "SIGTERM: everything is cancelled" in errors
    (line,) = [line for line in errors.splitlines() if ":destroying " in line]
    assert all(one in line for one in made)
    assert "USD per hour" in line


async def test_without_the_keyword_nothing_is_destroyed(engine: Emulator) -> None:
    process = await start(engine, program(asks=False))
    await end(process)
    assert process.returncode == -signal.SIGTERM
    assert len(engine.record.living) == 1


@pytest.mark.parametrize("block", [EPHEMERAL, FLEET])
async def test_a_second_sigterm_cuts_it_short_and_names_what_is_left_its_price_and_the_command(
    block: str, tmp_path: Path
) -> None:
    async with Emulator(provision_seconds=0.05, destroy_seconds=60.0, retry_after=0.05) as engine:
        process = await start(engine, program(block))
        errors = await end(process, times=2, pause=0.5)
        assert process.returncode == -signal.SIGINT
        lines = [line for line in errors.splitlines() if "could not be destroyed" in line]
        for cluster in engine.clusters.values():
            (line,) = {line.partition("cluster ")[2] for line in lines if f"({cluster.id})" in line}
            assert "USD per hour" in line
            assert f"to destroy it: tpa destroy {cluster.id}" in line


async def test_where_ctrl_c_is_ignored_the_task_is_cancelled_that_asked_for_it(engine: Emulator) -> None:
    """As in the background of a shell that is not interactive."""
    process = await start(engine, program(sigint="SIG_IGN"))
    errors = await end(process)
    assert engine.record.living == []
    assert process.returncode == 1
    assert "CancelledError" in errors


async def test_a_loop_that_is_blocked_can_still_be_ended(engine: Emulator) -> None:
    process = await start(engine, program(wait="time.sleep(60)"))
    await end(process, times=2, pause=1.5)
    assert process.returncode == -signal.SIGINT
    assert engine.record.living == [], "the block is left, and what it has made destroyed"


async def test_a_handler_for_ctrl_c_of_the_program_is_asked(engine: Emulator) -> None:
    wait = (
        "stop = asyncio.Event(); asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set); "
        "await stop.wait()"
    )
    process = await start(engine, program(wait=wait))
    await end(process)
    assert process.returncode == 0
    assert engine.record.living == []


async def test_a_child_that_is_forked_ends_by_sigterm(engine: Emulator) -> None:
    wait = (
        "reader, writer = os.pipe(); child = os.fork()\n"
        "        if not child: os.write(writer, b'.'); time.sleep(60)\n"
        "        os.read(reader, 1)\n"  # Python forgets a signal that comes while it forks
        "        os.kill(child, signal.SIGTERM); code = os.waitpid(child, 0)[1]\n"
        "        assert os.WTERMSIG(code) == signal.SIGTERM, code"
    )
    process = await start(engine, program(wait=wait))
    async with asyncio.timeout(20):
        _, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    assert engine.record.living == []


@pytest.fixture
def sigterm() -> Iterator[Callable[[], object]]:
    """Give what handles SIGTERM now, which is the default at the start, and what was at the end."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield lambda: signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, before)


def client(*, handle_sigterm: bool = True) -> TensorPool:
    return TensorPool("key", base_url="http://127.0.0.1:9", handle_sigterm=handle_sigterm)


async def test_the_signal_does_again_what_it_did(sigterm: Callable[[], object]) -> None:
    async with client(handle_sigterm=False):
        assert sigterm() is signal.SIG_DFL
    outer, inner = client(), client()
    async with outer:
        handler = sigterm()
        assert isinstance(handler, SigtermHandler)
        async with inner:
            assert sigterm() is handler, "one for all"
        assert sigterm() is handler
    assert sigterm() is signal.SIG_DFL
    # They need not end in the order in which they began.
    first, second = client(), client()
    await first.__aenter__()
    await second.__aenter__()
    await first.__aexit__(None, None, None)
    assert isinstance(sigterm(), SigtermHandler)
    await second.__aexit__(None, None, None)
    assert sigterm() is signal.SIG_DFL


def ignore(*_: object) -> None:
    """Handle a signal of a program's own."""


@pytest.mark.parametrize("theirs", [signal.SIG_IGN, ignore])
async def test_what_handles_it_already_is_left(theirs: object, sigterm: Callable[[], object]) -> None:
    signal.signal(signal.SIGTERM, theirs)  # type: ignore[arg-type]
    async with client():
        assert sigterm() is theirs
    assert sigterm() is theirs


async def test_what_handles_it_later_is_left(sigterm: Callable[[], object]) -> None:
    def theirs(*_: object) -> None:
        """Do nothing."""

    async with client():
        signal.signal(signal.SIGTERM, theirs)
    assert sigterm() is theirs


def test_outside_of_the_main_thread_it_is_left_and_told(
    sigterm: Callable[[], object], caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[object] = []

    async def main() -> None:
        async with client():
            seen.append(sigterm())

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]
    assert "main thread only" in caplog.text


SERVER = """
import logging, sys
import uvicorn
from fastapi import FastAPI
from tensorpool_async import PollPolicy
from tensorpool_async.fastapi import tensorpool_lifespan

async def own(app, tp):
    async with tp.clusters.ephemeral("8xH100"):
        print("running", flush=True)
        yield None

lifespan = tensorpool_lifespan(own, api_key=sys.argv[1], base_url=sys.argv[2], handle_sigterm=True,
                               polling=PollPolicy(initial=0.01))
uvicorn.run(FastAPI(lifespan=lifespan), host="127.0.0.1", port=int(sys.argv[3]), log_level="info")
"""


async def test_a_server_that_handles_it_stops_as_ever(engine: Emulator) -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    process = await start(engine, SERVER, str(port))
    await asyncio.sleep(0.3)
    errors = await end(process)
    assert "Application shutdown complete" in errors
    assert engine.record.living == []
    assert "SIGTERM: everything" not in errors
