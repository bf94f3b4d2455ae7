"""Whatever has become of the file, the error says what is wrong with which file, and what to do."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeAlias

import pytest

from tensorpool_async import AmbiguousOutcomeError, Cluster, ConnectionFailed, JournalError, TensorPool
from tensorpool_async.cli import app
from tensorpool_async.emulator import Emulator
from tensorpool_async.journal import SQLiteJournal, owners
from tensorpool_async.journal.database import APPLICATION_ID
from tests.journal.entries import TICKET, intent


Damage: TypeAlias = Callable[[Path], object]

NOBODY = 65534
NOWHERE = "http://127.0.0.1:9"


def sql(*statements: str) -> Damage:
    def run(path: Path) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            for statement in statements:
                connection.execute(statement)

    return run


def header(at: int, content: bytes) -> Damage:
    def write(path: Path) -> None:
        whole = path.read_bytes()
        path.write_bytes(whole[:at] + content + whole[at + len(content) :])

    return write


def only(part: float) -> Damage:
    return lambda path: path.write_bytes(
        path.read_bytes()[: part if isinstance(part, int) else int(path.stat().st_size * part)]
    )


def is_another(path: Path) -> None:
    path.unlink()
    sql("CREATE TABLE mine (x)")(path)


def is_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def is_a_stranger_in_disguise(path: Path) -> None:
    path.unlink()
    sql("CREATE TABLE mine (x)", f"PRAGMA application_id = {APPLICATION_ID}", "PRAGMA user_version = 1")(path)


def owners_are_a_file(path: Path) -> None:
    folder = path.with_name(f"{path.name}-owners")
    shutil.rmtree(folder)
    folder.write_text("x")


FILES: dict[str, Damage] = {
    "no bytes": lambda path: path.write_bytes(b""),
    "one byte": lambda path: path.write_bytes(b"S"),
    "zeros": lambda path: path.write_bytes(bytes(8192)),
    "random": lambda path: path.write_bytes(random.Random(1).randbytes(20_000)),
    "header only": only(100),
    "first page only": only(4096),
    "half": only(0.5),
    "page size 0": header(16, b"\0\0"),
    "page size 512": header(16, b"\2\0"),
    "page size 3": header(16, b"\0\3"),
    "page size 64 KiB": header(16, b"\0\1"),
    "reads only by a newer SQLite": header(18, b"\7\7"),
    "another database": is_another,
    "another database that looks like one": is_a_stranger_in_disguise,
    "newer": sql("PRAGMA user_version = 9"),
    "version 0": sql("PRAGMA user_version = 0"),
    "version below 0": sql("PRAGMA user_version = -5"),
    "no view": sql("DROP VIEW entries"),
    "no table": sql("DROP TABLE ended"),
    "a folder": is_a_folder,
    "its owners a file": owners_are_a_file,
    "its log a folder": lambda path: path.with_name(f"{path.name}-wal").mkdir(),
    "its index a folder": lambda path: path.with_name(f"{path.name}-shm").mkdir(),
}
"""What cannot even be opened."""

ROWS: dict[str, Damage] = {
    "sent at no time": sql("UPDATE intents SET sent_at = 'soon'"),
    "sent at infinity": sql("UPDATE intents SET sent_at = 9e999"),
    "a ttl that is none": sql("UPDATE intents SET ttl = x'00ff'"),
    "a kind that is no text": sql("UPDATE intents SET kind = x'ff00'"),
    "no JSON": sql("UPDATE intents SET expected = '{'"),
    "empty JSON": sql("UPDATE intents SET expected = ''"),
    "deep JSON": sql(f"UPDATE intents SET details = '{'[' * 100_000}'"),
    "JSON with NaN": sql("""UPDATE intents SET details = '{"a": NaN}'"""),
    "JSON of another sort": sql("UPDATE intents SET details = '[1]'"),
    "ids that are no list": sql("""UPDATE accepted SET request_ids = '{"a": 1}'"""),
    "ids that are null": sql("UPDATE accepted SET request_ids = '[null]'"),
    "ids that are numbers": sql("UPDATE accepted SET request_ids = '[1, 2]'"),
    "a resource that is no text": sql("UPDATE accepted SET resource_id = x'01'"),
    "an owner elsewhere": sql("UPDATE intents SET owner = '../../../etc/passwd'"),
    "an owner with a NUL": sql("UPDATE intents SET owner = 'a' || char(0)"),
    "no owner": sql("UPDATE intents SET owner = ''"),
    "no UTF-8": sql("UPDATE intents SET name = CAST(x'ff1b5b324a' AS TEXT)"),
    "a flag that is none": sql("UPDATE intents SET ephemeral = 'yes'"),
    "columns that are missing": sql(
        "DROP VIEW entries",
        "CREATE VIEW entries AS SELECT id, owner, engine, NULL AS ended_at, NULL AS gone_at, '' AS outcome FROM intents",
    ),
}
"""What can be opened, and not be read."""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make one journal that is whole, for all tests to damage a copy of."""
    folder = tmp_path_factory.mktemp("template")
    asyncio.run(fill(folder / "journal.db"))
    return folder


@pytest.fixture
def path(tmp_path: Path, template: Path) -> Path:
    shutil.copytree(template, tmp_path / "folder")
    (tmp_path / "folder").chmod(0o700)
    return tmp_path / "folder" / "journal.db"


async def fill(path: Path) -> None:
    journal = SQLiteJournal(path)
    await journal.open()
    intents = [intent(f"c-{number}", engine=NOWHERE, ephemeral=True) for number in range(40)]
    numbers = await asyncio.gather(*map(journal.intend, intents))
    await asyncio.gather(*(journal.accept(number, TICKET, 2000.0) for number in numbers))
    await journal.aclose()


def check(error: JournalError, path: Path) -> None:
    """See that an error is of use."""
    assert str(path) in error.path
    assert str(path) in str(error)
    assert error.problem
    assert any(word in error.advice for word in ("name another path", "move it away", "make ", "local disk"))
    for word in ("unexpected", "report", "Traceback"):
        assert word not in str(error)
    assert str(error).isprintable()


async def refusals(path: Path) -> list[JournalError]:
    """Do with a client all that can be done with a journal, and return what it raised."""
    raised: list[JournalError] = []
    journal = SQLiteJournal(path, busy_timeout=0.1)
    no_engine = (ConnectionFailed, AmbiguousOutcomeError)
    async with TensorPool("key", base_url=NOWHERE, journal=journal) as tp:
        for action in (
            tp.recover,
            tp.leftovers,
            lambda: tp.journal_entries(ended=True),
            lambda: tp.clusters.lifecycle.join("c-1", "c", kind=TICKET.kind or intent().kind),
            lambda: tp.clusters.create("8xH100").result(),
        ):
            try:
                await action()
            except JournalError as error:
                raised.append(error)
            except no_engine:
                pass  # that is all that may be told otherwise
    return raised


@pytest.mark.parametrize("damage", FILES.values(), ids=FILES)
async def test_a_file_that_is_damaged_is_refused_whatever_it_is_for(damage: Damage, path: Path) -> None:
    damage(path)
    before = path.read_bytes() if path.is_file() else None
    raised = await refusals(path)
    assert len(raised) == 5
    for error in raised:
        check(error, path)
    assert before == (path.read_bytes() if path.is_file() else None), "it is left as it is"


@pytest.mark.parametrize("damage", ROWS.values(), ids=ROWS)
async def test_rows_that_are_damaged_are_refused_by_who_reads_them(damage: Damage, path: Path) -> None:
    damage(path)
    raised = await refusals(path)
    assert len(raised) >= 2
    for error in raised:
        check(error, path)


@pytest.mark.parametrize("seed", range(6))
async def test_bytes_that_have_changed_are_an_error_or_do_no_harm(seed: int, path: Path) -> None:
    chance = random.Random(seed)
    whole = bytearray(path.read_bytes())
    for _ in range(chance.choice((1, 10, 400))):
        whole[chance.randrange(len(whole))] = chance.randrange(256)
    path.write_bytes(whole)
    for error in await refusals(path):
        check(error, path)


ALL = FILES | ROWS


@pytest.mark.parametrize("damage", ALL.values(), ids=ALL)
def test_the_command_says_so_in_one_line(
    damage: Damage,
    path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TENSORPOOL_KEY", "k")
    monkeypatch.setenv("TENSORPOOL_ENGINE", NOWHERE)
    damage(path)
    fleet = tmp_path / "fleet.toml"
    fleet.write_text('name = "s"\n[clusters.t]\ninstance_type = "1xH100"\n')
    commands = [["ops", "--all"], ["recover"], ["reap", "--yes"]]
    if damage in FILES.values():
        commands.append(["up", str(fleet)])
    for words in commands:
        assert app.run([*words, "--journal", str(path)]) in {1, 2}, words
        out, err = capsys.readouterr()
        assert out == ""
        assert len(err.splitlines()) == 1, err
        assert str(path) in err
        assert not {"Traceback", "unexpected", "bug", "report"} & set(err.replace(",", "").split())


async def test_a_kind_that_nobody_knows_is_read_and_left(path: Path) -> None:
    sql("UPDATE intents SET kind = 'NONSENSE'")(path)
    journal = SQLiteJournal(path)
    await journal.open()
    assert {str(entry.intent.kind) for entry in await journal.entries()} == {"NONSENSE"}
    await journal.aclose()


@pytest.mark.parametrize(
    "statement", ["DELETE FROM sqlite_sequence", "UPDATE sqlite_sequence SET seq = 2 WHERE name = 'intents'"]
)
async def test_no_number_is_given_twice(statement: str, path: Path) -> None:
    sql(statement)(path)
    journal = SQLiteJournal(path)
    await journal.open()
    assert await journal.intend(intent()) == 41
    await journal.aclose()


async def test_a_log_that_is_missing_is_told_of(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As where a person has removed what seemed superfluous after a crash."""
    path.with_name(f"{path.name}-shm").write_bytes(bytes(32768))
    await fill(path)
    assert "journal.db-wal is missing" in caplog.text
    assert "`tpa ls` shows what runs" in caplog.text
    caplog.clear()
    await fill(path)
    assert "is missing" not in caplog.text, "and it is well again"


@contextmanager
def as_nobody() -> Generator[None]:
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() != 0, reason="only root can become somebody with fewer rights"
)
@pytest.mark.parametrize("what", ["file", "folder", "both"])
async def test_what_cannot_be_written_says_so(what: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        path = folder / "inner" / "journal.db"
        await fill(path)
        places = [path.parent, *path.parent.rglob("*")]
        for place in places:
            os.chown(place, NOBODY, NOBODY)
        if what != "folder":
            path.chmod(0o400)
        if what != "file":
            path.parent.chmod(0o500)
            path.with_name("journal.db-owners").chmod(0o500)
        with as_nobody():
            journal = SQLiteJournal(path)
            with pytest.raises(JournalError) as caught:
                await journal.open()
            await journal.aclose()
        assert "make the file and its folder writable for this user" in caught.value.advice
        path.parent.chmod(0o700)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
async def test_a_file_system_without_locks_is_named(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> bool:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(owners, "_lock", refuse)
    path = tmp_path / "journal.db"
    journal = SQLiteJournal(path)
    with pytest.raises(JournalError) as caught:
        await journal.open()
    assert "local disk" in caught.value.advice
    await journal.aclose()
    assert list((tmp_path / "journal.db-owners").iterdir()) == []


async def test_a_name_that_no_file_can_have() -> None:
    for path in ("/tmp/a\0b", f"/tmp/{'x' * 300}"):
        journal = SQLiteJournal(path)
        with pytest.raises(JournalError):
            await journal.open()
        await journal.aclose()


async def test_a_journal_that_another_process_holds_for_long_does_not_prevent_reading(path: Path) -> None:
    journal = SQLiteJournal(path, busy_timeout=0.1)
    await journal.open()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        journal.end(1, "COMPLETED", 3000.0)
        assert len(await journal.entries()) == 40
        with pytest.raises(JournalError, match="another process holds it; end that, or try again"):
            await journal.take_over(NOWHERE)
        late = SQLiteJournal(path, busy_timeout=0.1)
        with pytest.raises(JournalError, match="another process holds it"):
            await late.open()
        await late.aclose()
        other.execute("ROLLBACK")
    assert len(await journal.entries()) == 39
    await journal.aclose()


async def test_a_damaged_journal_does_not_prevent_what_has_to_end(
    emulator: Emulator, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with TensorPool(emulator.key, base_url=emulator.url) as tp:
        cluster = await tp.clusters.create("8xH100").result()
    path.write_bytes(random.Random(1).randbytes(9000))
    async with TensorPool(emulator.key, base_url=emulator.url, journal=path) as tp:
        await tp.clusters.for_exit.lifecycle.destroy(Cluster(cluster.id))
    assert emulator.record.living == []
    assert "not a database" in caplog.text
