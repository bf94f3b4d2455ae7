"""What the journal does with files that are not as they should be, and with disks that do not write."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import random
import shutil
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from tensorpool_async.journal import Journal, JournalError, SQLiteJournal
from tests.journal.entries import ENGINE, TICKET, finish, intent, start


async def refusal(path: Path, pattern: str) -> JournalError:
    journal = SQLiteJournal(path, busy_timeout=0.2)
    with pytest.raises(JournalError, match=pattern):
        await journal.open()
    with pytest.raises(JournalError, match=pattern) as caught:  # what was refused once can be tried again
        await journal.open()
    assert path.name in str(caught.value)
    with pytest.raises(JournalError, match="not open"):
        await journal.intend(intent())
    await journal.aclose()
    return caught.value


async def filled(path: Path, entries: int = 300) -> bytes:
    journal = SQLiteJournal(path)
    await journal.open()
    await asyncio.gather(
        *(journal.intend(intent(f"c-{n}", details={"x": "y" * 200})) for n in range(entries))
    )
    await journal.aclose()
    return path.read_bytes()


async def test_the_files_are_their_owners_alone(tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        path = tmp_path / "new" / "newer" / "journal.db"
        journal = SQLiteJournal(path)
        await journal.open()
        await journal.intend(intent())
    finally:
        os.umask(mask)
    owners = path.with_name("journal.db-owners")
    (owner,) = owners.iterdir()
    modes = {
        file.name: stat.S_IMODE(file.stat().st_mode)
        for file in (path, path.with_name("journal.db-wal"), path.with_name("journal.db-shm"), owner)
    }
    assert set(modes.values()) == {0o600}, modes
    for folder in (owners, path.parent, path.parent.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {file.name for file in path.parent.iterdir()} == {*modes, "journal.db-owners"} - {owner.name}
    await journal.aclose()


async def test_wider_permissions_are_taken_away(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    await filled(path, 1)
    path.chmod(0o644)
    path.with_name("journal.db-owners").chmod(0o755)
    journal = SQLiteJournal(path)
    with caplog.at_level(logging.WARNING, "tensorpool_async"):
        await journal.open()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.with_name("journal.db-owners").stat().st_mode) == 0o700
    for told in ("journal.db", "journal.db-owners"):
        assert f"{told} could be read by others" in caplog.text
    await journal.aclose()


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-owners"])
async def test_a_link_in_place_of_a_file_is_refused(path: Path, tmp_path: Path, suffix: str) -> None:
    before = await filled(path)
    place = path.with_name(path.name + suffix)
    target = tmp_path / "target"
    if suffix == "-owners":
        shutil.rmtree(place)
        target.mkdir()
    elif suffix:
        target.write_bytes(b"precious")
    else:
        place.rename(target)
    place.symlink_to(target)
    await refusal(path, "is a symbolic link")
    assert (target if suffix == "" else path).read_bytes() == before
    assert target.is_dir() or target.read_bytes() in {before, b"precious"}


async def test_a_link_to_nowhere_makes_nothing(path: Path, tmp_path: Path) -> None:
    path.symlink_to(tmp_path / "nowhere")
    await refusal(path, "is a symbolic link")
    assert not (tmp_path / "nowhere").exists()


async def test_a_folder_and_a_pipe_are_refused(path: Path) -> None:
    path.mkdir()
    await refusal(path, "is not a file")
    path.rmdir()
    os.mkfifo(path)
    await refusal(path, "is not a file")


async def test_a_path_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    error = await refusal(tmp_path / "file" / "journal.db", "cannot be read or written")
    assert error.advice
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.path) == (str(error), error.path)


@pytest.mark.parametrize("content", [b"", b"x", b"no database at all\n" * 1000], ids=["empty", "x", "text"])
async def test_a_file_that_is_no_database_is_left_as_it_is(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o644)
    await refusal(path, r"empty|not a database|something else")
    assert path.read_bytes() == content
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [file.name for file in path.parent.iterdir()] == ["journal.db"]


async def test_a_database_of_something_else_is_left_as_it_is(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE precious (x)")
        connection.commit()
    path.chmod(0o640)
    before = path.read_bytes()
    await refusal(path, "database of something else")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert path.read_bytes() == before


async def test_a_newer_journal_is_left_as_it_is_also_what_it_had_not_moved_yet(path: Path) -> None:
    await filled(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 2")
        connection.execute("CREATE TABLE something_new (x)")
        connection.commit()
        # As a crash leaves it: the write-ahead log is there, and holds what is newest.
        kept = {file: file.read_bytes() for file in path.parent.iterdir() if file.is_file()}
    for file, content in kept.items():
        if not file.name.endswith("-shm"):
            file.write_bytes(content)
    error = await refusal(path, "is of version 2, and this package reads 1")
    assert "newer tensorpool-async" in error.advice
    assert {file.name: file.read_bytes() for file in kept if not file.name.endswith("-shm")} == {
        file.name: content for file, content in kept.items() if not file.name.endswith("-shm")
    }


@pytest.mark.parametrize("part", [0.3, 0.7, 0.99])
async def test_a_truncated_journal_is_left_as_it_is(path: Path, part: float) -> None:
    whole = await filled(path)
    cut = whole[: int(len(whole) * part)]
    path.write_bytes(cut)
    error = await refusal(path, "damaged|malformed|not a database")
    assert "left as it is" in error.advice
    assert path.read_bytes() == cut


@pytest.mark.parametrize("seed", range(4))
async def test_a_journal_with_garbage_in_it_is_left_as_it_is(path: Path, seed: int) -> None:
    chance = random.Random(seed)
    whole = bytearray(await filled(path))
    for page in range(4096, len(whole), 4096):
        whole[page : page + 300] = chance.randbytes(300)
    path.write_bytes(whole)
    await refusal(path, "damaged|malformed")
    assert path.read_bytes() == whole


async def test_a_row_that_cannot_be_read_is_an_error_and_not_a_guess(path: Path) -> None:
    await filled(path, 1)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE intents SET details = '[1]'")
        connection.commit()
    journal = SQLiteJournal(path)
    await journal.open()
    with pytest.raises(JournalError, match="damaged"):
        await journal.entries()
    await journal.aclose()


async def test_a_file_that_is_held_too_long_stops_the_sending(path: Path) -> None:
    await filled(path, 1)
    journal = SQLiteJournal(path, busy_timeout=0.1)
    await journal.open()
    number = await journal.intend(intent())
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        journal.end(number, "COMPLETED", 3.0)
        with pytest.raises(JournalError, match=r"locked.*another process holds it"):
            await journal.intend(intent("never"))
        with pytest.raises(JournalError, match="locked"):
            await journal.accept(1, TICKET, 4.0)
        with pytest.raises(JournalError, match="locked"):
            await journal.claim(1)
        connection.rollback()
    # The end and the ids were kept, the intent was not: nothing was sent for it.
    assert await journal.intend(intent("later")) == number + 1
    first, second, third = await journal.entries(ended=True)
    assert (first.ref, second.outcome, third.intent.name) == (TICKET, "COMPLETED", "later")
    await journal.aclose()


async def test_closing_while_the_file_is_held_ends_nevertheless(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await filled(path, 1)
    journal = SQLiteJournal(path, busy_timeout=0.1)
    await journal.open()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        journal.mark_deleted(ENGINE, "c-1", 3.0)
        with caplog.at_level(logging.WARNING, "tensorpool_async"):
            await journal.aclose()
        connection.rollback()
    assert "locked" in caplog.text


@pytest.mark.parametrize("mark_deleted", ["journal.db", "journal.db-wal", "journal.db-owners", "."])
async def test_files_that_were_removed_stop_the_sending(tmp_path: Path, mark_deleted: str) -> None:
    path = tmp_path / "folder" / "journal.db"
    journal = SQLiteJournal(path)
    await journal.open()
    await journal.intend(intent())
    place = path.parent / mark_deleted
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink()
    for _ in range(2):
        with pytest.raises(JournalError, match="removed or replaced"):
            await journal.intend(intent())
    await journal.aclose()
    assert not place.exists(), "nothing is made in its place"


FULL = """
async def main():
    journal = SQLiteJournal(sys.argv[1])
    await journal.open()
    number = await journal.intend(intent())
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
    written = 0
    try:
        while written < 10_000:
            await journal.intend(intent(details={"x": "y" * 5000}))
            written += 1
    except JournalError as error:
        print("refused", error)
    journal.end(number, "COMPLETED", 2.0)
    try:
        await journal.accept(number, TICKET, 1.5)
        await journal.intend(intent(details={"x": "y" * 50_000}))
    except JournalError:
        print("refused again")
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await journal.intend(intent("after"))
    entries = await journal.entries(ended=True)
    print(len(entries) - 2 == written, entries[0].outcome, entries[0].ref == TICKET, entries[-1].intent.name)
    await journal.aclose()
asyncio.run(main())
"""


def test_a_full_disk_stops_the_sending_and_loses_nothing(path: Path) -> None:
    refused, again, after = finish(start(FULL, path))
    assert refused.startswith("refused the journal"), refused
    assert again == "refused again"
    assert after == "True COMPLETED True after"


async def test_two_journals_of_one_process_use_one_file(journal: Journal, path: Path) -> None:
    async with asyncio.timeout(30):
        second = SQLiteJournal(path)
        await second.open()
        numbers = await asyncio.gather(
            *(one.intend(intent(f"c-{n}")) for n in range(50) for one in (journal, second))
        )
        await second.aclose()
    assert len(set(numbers)) == 100
    assert len(await journal.entries()) == 100
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
