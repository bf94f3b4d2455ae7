"""An emulator in the environment of the command, and the command as a subprocess."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import TypeAlias

import attrs
import pytest

from tensorpool_async.emulator import Emulator


FLEET = """\
name = "s"

[clusters.t]
count = 3
instance_type = ["8xB200", "8xH200"]

[clusters.u]
instance_type = "1xL40S"
"""


@attrs.frozen
class Outcome:
    """The exit code and output of a process."""

    code: int
    out: str
    err: str


@attrs.frozen
class Tpa:
    """The command as a subprocess: run to its end, or started and sent signals."""

    environment: Mapping[str, str]
    folder: Path

    async def start(
        self, *words: str, stdout: int = asyncio.subprocess.PIPE, **more: str
    ) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tensorpool_async",
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=stdout,
            stderr=asyncio.subprocess.PIPE,
            env={**self.environment, **more},
            cwd=self.folder,
        )

    async def __call__(self, *words: str, **more: str) -> Outcome:
        return await self.end(await self.start(*words, stdout=asyncio.subprocess.PIPE, **more))

    async def end(self, process: asyncio.subprocess.Process) -> Outcome:
        out, err = await process.communicate()
        return Outcome(process.returncode or 0, (out or b"").decode(), err.decode())

    async def interrupt(
        self, process: asyncio.subprocess.Process, number: signal.Signals = signal.SIGINT
    ) -> Outcome:
        process.send_signal(number)
        return await self.end(process)


LeaveBehind: TypeAlias = "Callable[..., Awaitable[Path]]"
"""Runs `left_behind.py` with the names of what it is to leave; gives the path of its journal."""

Until: TypeAlias = "Callable[[Callable[[], bool]], Awaitable[None]]"


@pytest.fixture
def until() -> Until:
    async def wait(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.01)

    return wait


@pytest.fixture
def fleet_file(tmp_path: Path) -> Path:
    path = tmp_path / "fleet.toml"
    path.write_text(FLEET)
    return path


@pytest.fixture
async def engine(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Emulator]:
    """Run an engine, and name it in the environment."""
    async with Emulator(provision_seconds=0.3, destroy_seconds=0.05, retry_after=0.05) as emulator:
        monkeypatch.setenv("TENSORPOOL_ENGINE", emulator.url)
        monkeypatch.setenv("TENSORPOOL_KEY", emulator.key)
        yield emulator


@pytest.fixture
def tpa(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tpa:
    """Make the command, to be run in an empty folder with the environment of the test."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent.parent))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("TENSORPOOL_JOURNAL", raising=False)
    return Tpa(os.environ, tmp_path)


@pytest.fixture
def leave_behind(tpa: Tpa) -> LeaveBehind:
    """Make a program that leaves work behind, in a journal."""
    program = Path(__file__).with_name("left_behind.py")

    async def run(*words: str) -> Path:
        journal = tpa.folder / "journal.db"
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(program), str(journal), *words, env=dict(tpa.environment), cwd=tpa.folder
        )
        assert await process.wait() == -signal.SIGKILL
        return journal

    return run
