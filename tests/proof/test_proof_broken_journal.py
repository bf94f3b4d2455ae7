"""Whatever becomes of the journal while a block is open, everything in the block is destroyed, and nothing twice."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from collections.abc import AsyncGenerator
from contextlib import closing
from pathlib import Path

import pytest

from tensorpool_async import NotFound
from tensorpool_async.emulator import Emulator
from tests.proof import processes
from tests.proof.processes import tell


ROOT = Path(__file__).parents[2]
SOON = 10.0
"""Seconds in which all destroys have to be sent."""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit for the size of files")

PROGRAM = """
import asyncio, logging, os, resource, sys
from tests.proof import processes

logging.basicConfig()
key, url, journal, what, how = sys.argv[1:]

def limit(bytes):
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes, resource.RLIM_INFINITY))

async def main():
    async with processes.client(url, key, journal) as tp:
        block = tp.fleet(processes.BLOCK) if what == "fleet" else tp.clusters.ephemeral(
            "8xH100", name="mine", deletion_protection=True)
        async with block:
            if how.startswith("full"):
                limit(1)  # as on a full disk, not one byte can be written more
            elif how == "removed":
                os.unlink(journal)
            print("broken", flush=True)
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        print("left", flush=True)
        if how == "full for a while":
            limit(resource.RLIM_INFINITY)
            await tp.clusters.create("1xL40S", name="later").result()
    print("closed", flush=True)

asyncio.run(main())
"""


@pytest.fixture
async def engine() -> AsyncGenerator[Emulator]:
    async with processes.engine(1, faults=False) as emulator:
        yield emulator


@pytest.mark.parametrize("what", ["ephemeral", "fleet"])
@pytest.mark.parametrize("how", ["full", "full for a while", "removed", "locked"])
async def test_a_block_whose_journal_breaks_is_destroyed_in_time(
    what: str, how: str, engine: Emulator, tmp_path: Path
) -> None:
    journal = tmp_path / "journal.db"
    process = await _start(engine, journal, what, how)
    assert process.stdin is not None
    made = set(engine.record.living)
    assert len(made) == (24 if what == "fleet" else 1)
    place = journal if how == "locked" else ":memory:"
    with closing(sqlite3.connect(place, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        began = asyncio.get_running_loop().time()
        process.stdin.write(b"\n")
        async with asyncio.timeout(SOON):
            while engine.record.by_route["DELETE /cluster/{cluster}"] < len(made):
                await asyncio.sleep(0.005)
        tell(f"{what}, {how}: all sent after {asyncio.get_running_loop().time() - began:.2f} s")
        out, errors = await asyncio.wait_for(process.communicate(), 50)
    assert out.split() == [b"left", b"closed"], errors.decode()
    assert process.returncode == 0
    assert errors.count(b"ERROR:") == 1, errors.decode()
    assert b"without an entry in the journal" in errors
    await _check(engine, journal, made, later=how == "full for a while")


async def _start(engine: Emulator, journal: Path, what: str, how: str) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        *(engine.key, engine.url, str(journal), what, how),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    async with asyncio.timeout(30):
        assert await process.stdout.readline() == b"broken\n"
    return process


async def _check(engine: Emulator, journal: Path, made: set[str], *, later: bool) -> None:
    """See that the next process finds everything gone, and leaves alone what is there."""
    living = set(engine.record.living)
    assert len(living) == later
    destroys = engine.record.by_route["DELETE /cluster/{cluster}"]
    async with processes.client(engine.url, engine.key, journal) as tp:
        for operation in await tp.recover():
            try:
                await operation
            except NotFound:
                assert operation.resource_id in made
        assert await tp.leftovers() == []
        entries = await tp.journal_entries(ended=True)
    assert all(entry.deleted_at for entry in entries if later and entry.resource_id in made)
    assert [entry.deleted_at for entry in entries if entry.resource_id in living] == [None] * later
    assert set(engine.record.living) == living
    assert engine.record.by_route["DELETE /cluster/{cluster}"] == destroys, "nothing is destroyed twice"
