"""The engine's own client beside an emulator that it is told to use."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tensorpool_async.emulator import Emulator
from tests.emulator.talk import Talk, talk_to
from tests.official.command import FakeProgram, Official


VARIABLE = "TENSORPOOL_OFFICIAL_CLIENT"


@pytest.fixture
async def emulator() -> AsyncGenerator[Emulator]:
    """Run an engine with a whole number of seconds between polls, since the official client reads no other."""
    async with Emulator(
        retry_after=1,
        provision_seconds=0.5,
        destroy_seconds=0.5,
        edit_seconds=0.05,
        storage_seconds=0.5,
        attach_seconds=0.5,
        job_seconds=0.2,
        cancel_seconds=0.5,
    ) as engine:
        yield engine


@pytest.fixture
async def talk(emulator: Emulator) -> AsyncGenerator[Talk]:
    async with talk_to(emulator) as talk:
        yield talk


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    return tmp_path / "bin"


@pytest.fixture
def rsync(programs: Path) -> FakeProgram:
    return FakeProgram.install(programs, "rsync", says="sent 0 bytes")


@pytest.fixture
def ssh(programs: Path) -> FakeProgram:
    return FakeProgram.install(programs, "ssh", says="Welcome")


@pytest.fixture
def official(
    emulator: Emulator, tmp_path: Path, programs: Path, rsync: FakeProgram, ssh: FakeProgram
) -> Official:
    program = os.environ.get(VARIABLE)
    if not program:
        pytest.skip(f"{VARIABLE} does not name the command of the engine's own client; nox -s tests sets it")
    folder, home = tmp_path / "project", tmp_path / "home"
    folder.mkdir()
    home.mkdir()
    environment = {
        "TENSORPOOL_ENGINE": emulator.url,
        "TENSORPOOL_KEY": emulator.key,
        "HOME": str(home),
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONUNBUFFERED": "1",
        "PYTHONUTF8": "1",
        "COLUMNS": "200",
        "NO_COLOR": "1",
    }
    return Official(program, folder, home, environment)
