"""Who owns what: the living keep theirs, the dead leave it to one, and a kill at any moment loses nothing."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from tensorpool_async.journal import EntryState, Journal, JournalError, SQLiteJournal
from tests.journal.entries import ENGINE, TICKET, finish, intent, start


WRITE = """
async def write(journal, name):
    while True:
        number = await journal.intend(intent(name))
        print("I", number, flush=True)
        await journal.accept(number, TICKET, 1.0)
        print("A", number, flush=True)

async def main():
    journal = SQLiteJournal(sys.argv[1])
    await journal.open()
    print("O", 0, flush=True)
    await asyncio.gather(*(write(journal, f"w-{n}") for n in range(8)))
asyncio.run(main())
"""

TAKE_OVER = """
async def main():
    journal = SQLiteJournal(sys.argv[1])
    await journal.open()
    print("ready", flush=True)
    sys.stdin.readline()
    print(*[entry.id for entry in await journal.take_over(ENGINE)], flush=True)
    sys.stdin.readline()
    await journal.aclose()
asyncio.run(main())
"""

FORGET = """
async def main():
    journal = SQLiteJournal(sys.argv[1])
    await journal.open()
    await journal.intend(intent())
    globals()["kept"] = journal
asyncio.run(main())
print("end")
"""

FORK = """
import os, time
async def main():
    journal = SQLiteJournal(sys.argv[1])
    await journal.open()
    await journal.intend(intent())
    child = os.fork()
    if not child:
        try:
            await journal.intend(intent())
        except JournalError as error:
            os.write(1, f"{error}\\n".encode())  # a line at once: two processes write
        journal.end(1, "COMPLETED", 1.0)
        time.sleep(60)
        os._exit(0)
    os.write(1, f"{child}\\n".encode())
    time.sleep(60)
asyncio.run(main())
"""


@pytest.mark.parametrize("seed", range(8))
def test_a_kill_loses_nothing_that_was_promised(path: Path, seed: int) -> None:
    chance = random.Random(seed)
    process = start(WRITE, path)
    assert process.stdout is not None
    assert process.stdout.readline() == "O 0\n"
    time.sleep(chance.uniform(0.0, 0.25))
    process.send_signal(signal.SIGKILL)
    lines = [line.split() for line in finish(process) if line[:1] in {"I", "A"} and len(line.split()) == 2]

    async def read() -> None:
        journal = SQLiteJournal(path)
        await journal.open()
        entries = {entry.id: entry for entry in await journal.take_over(ENGINE)}
        assert {int(number) for _, number in lines[:-1]} <= set(entries)  # the last line may be cut off
        for word, number in lines[:-1]:
            if word == "A":
                assert entries[int(number)].state is EntryState.ACCEPTED
        assert len(list(path.with_name("journal.db-owners").iterdir())) == 1, (
            "the dead one's file is cleaned up"
        )
        await journal.aclose()

    asyncio.run(read())


def test_of_two_processes_that_take_over_at_once_each_entry_goes_to_one(path: Path) -> None:
    async def leave() -> list[int]:
        left: list[int] = []
        for _ in range(10):
            journal = SQLiteJournal(path)
            await journal.open()
            left += await asyncio.gather(*(journal.intend(intent()) for _ in range(10)))
            await journal.aclose()
        return left

    left = asyncio.run(leave())
    processes = [start(TAKE_OVER, path) for _ in range(3)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    shares: list[list[int]] = []
    for process in processes:
        assert process.stdout is not None
        shares.append([int(number) for number in process.stdout.readline().split()])
    for process in processes:
        finish(process, "\n")
    assert sorted(number for share in shares for number in share) == left


async def test_the_living_keep_what_is_theirs(journal: Journal, path: Path) -> None:
    other = SQLiteJournal(path)
    await other.open()
    mine, theirs = await journal.intend(intent("mine")), await other.intend(intent("theirs"))
    ended = await other.intend(intent("ended"))
    other.end(ended, "COMPLETED", 2.0)
    assert [entry.id for entry in await journal.take_over(ENGINE)] == [mine]
    assert [entry.id for entry in await other.take_over(ENGINE)] == [theirs]
    assert not await journal.claim(theirs)
    assert not await journal.claim(ended)
    assert not await journal.claim(999)
    assert await journal.claim(mine)
    assert all(entry.owner_alive for entry in await journal.entries())
    assert len({entry.owner for entry in await journal.entries()}) == 2

    await other.aclose()
    alive = {entry.id: entry.owner_alive for entry in await journal.entries(ended=True)}
    assert alive == {mine: True, theirs: False, ended: False}
    assert await journal.take_over("https://other.example") == []
    assert [entry.id for entry in await journal.take_over(ENGINE)] == [mine, theirs]
    assert await journal.claim(ended)
    assert all(entry.owner_alive for entry in await journal.entries(ended=True))


async def test_taking_over_leaves_what_has_ended_to_those_who_reap(journal: Journal, path: Path) -> None:
    other = SQLiteJournal(path)
    await other.open()
    ended, open_ = await other.intend(intent()), await other.intend(intent())
    other.end(ended, "COMPLETED", 2.0)
    await other.aclose()
    assert [entry.id for entry in await journal.take_over(ENGINE)] == [open_]
    assert {entry.id: entry.owner_alive for entry in await journal.entries(ended=True)} == {
        ended: False,
        open_: True,
    }


async def test_those_who_look_never_take_each_other_for_the_owner(path: Path) -> None:
    left = SQLiteJournal(path)
    await left.open()
    await left.intend(intent())
    await left.aclose()
    owners = path.with_name("journal.db-owners")
    journals = [SQLiteJournal(path) for _ in range(4)]
    for journal in journals:
        await journal.open()
    with closing(sqlite3.connect(path)) as connection:
        (owner,) = connection.execute("SELECT owner FROM intents").fetchone()
    (owners / owner).touch(mode=0o600)  # as a killed process leaves it
    for _ in range(20):
        seen = await asyncio.gather(*(journal.entries() for journal in journals))
        assert [entry.owner_alive for entries in seen for entry in entries] == [False] * 4
    for journal in journals:
        await journal.aclose()


async def test_who_cannot_be_asked_counts_as_alive(journal: Journal, path: Path) -> None:
    left = SQLiteJournal(path)
    await left.open()
    number = await left.intend(intent())
    await left.aclose()
    with closing(sqlite3.connect(path)) as connection:
        (owner,) = connection.execute("SELECT owner FROM intents").fetchone()
    (path.with_name("journal.db-owners") / owner).symlink_to("elsewhere")
    assert not await journal.claim(number)


def test_a_forgotten_journal_does_not_keep_the_interpreter_from_ending(path: Path) -> None:
    process = start(FORGET, path)
    assert finish(process) == ["end"]
    assert process.returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
async def test_a_forked_child_is_not_its_parents_life(path: Path) -> None:
    process = start(FORK, path)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(2)]
    (refusal,) = [line for line in lines if "fork" in line]
    (child,) = [int(line) for line in lines if line.strip().isdigit()]
    try:
        assert "open one of your own in the child" in refusal
        journal = SQLiteJournal(path)
        await journal.open()
        (entry,) = await journal.entries()
        assert entry.owner_alive, "the child's closing does not end the parent's life"
        process.kill()
        process.wait()
        (entry,) = await journal.take_over(ENGINE)
        assert entry.state is EntryState.INTENT
        await journal.aclose()
    finally:
        process.kill()
        os.kill(child, signal.SIGKILL)
        finish(process)


async def test_two_processes_make_the_file_at_once(path: Path) -> None:
    processes = [start(TAKE_OVER, path) for _ in range(4)]
    assert [finish(process, "\n\n") for process in processes] == [["ready", ""]] * 4
    assert {file.name for file in path.parent.iterdir()} == {"journal.db", "journal.db-owners"}
    assert list(path.with_name("journal.db-owners").iterdir()) == []


async def test_what_was_half_made_is_cleaned_up(path: Path) -> None:
    owners = path.with_name("journal.db-owners")
    owners.mkdir(mode=0o700)
    (owners / "0123456789abcdef").touch()
    (owners / "0123456789abcdef.new").write_bytes(b"half a database")
    journal = SQLiteJournal(path)
    await journal.open()
    assert len(list(owners.iterdir())) == 1
    assert await journal.accept(await journal.intend(intent()), TICKET, 1.0) is None
    await journal.aclose()


async def test_an_error_is_each_callers_own(path: Path) -> None:
    journal = SQLiteJournal(path, busy_timeout=0.1)
    await journal.open()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        errors = await asyncio.gather(*(journal.intend(intent()) for _ in range(5)), return_exceptions=True)
        connection.rollback()
    assert all(isinstance(error, JournalError) for error in errors)
    assert len({id(error) for error in errors}) == 5
    await journal.aclose()
