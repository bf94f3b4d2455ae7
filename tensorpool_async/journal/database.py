"""The journal's tables in SQLite. All of this runs on the journal's own thread.

What happens is only ever added, a row for each: an intent, what was accepted, how it ended, what is gone. The view
`entries` puts them together. So writes need not know of each other, and many become one statement.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Generator, Hashable, Sequence
from pathlib import Path

import attrs

from tensorpool_async.errors import JournalError
from tensorpool_async.journal.files import check, identity, make_folders, narrow, sync_folder
from tensorpool_async.journal.owners import Owner, is_owner
from tensorpool_async.journal.records import DESTROYED, NOT_MADE, REFUSED, JournalEntry
from tensorpool_async.journal.rows import Row, entry_of
from tensorpool_async.texts import logger_of


APPLICATION_ID = 0x74706131
"""`tpa1` in the header of the file: this is a journal, and no other database."""

VERSION = 1

_SCHEMA = """
CREATE TABLE intents (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    owner TEXT NOT NULL,
    engine TEXT NOT NULL,
    kind TEXT NOT NULL,
    method TEXT NOT NULL,
    path TEXT NOT NULL,
    name TEXT,
    random_name INTEGER NOT NULL,
    resource_id TEXT,
    expected TEXT NOT NULL,
    details TEXT NOT NULL,
    ephemeral INTEGER NOT NULL,
    ttl REAL,
    sent_at REAL NOT NULL
);
CREATE TABLE accepted (
    entry INTEGER PRIMARY KEY,
    kind TEXT,
    resource_id TEXT,
    request_ids TEXT NOT NULL,
    expected TEXT NOT NULL,
    at REAL NOT NULL
);
CREATE TABLE ended (entry INTEGER PRIMARY KEY, outcome TEXT NOT NULL, at REAL NOT NULL);
CREATE TABLE gone (
    engine TEXT NOT NULL,
    resource_id TEXT NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (engine, resource_id)
) WITHOUT ROWID;
CREATE VIEW entries AS
SELECT
    intents.*,
    accepted.kind AS ticket_kind,
    accepted.resource_id AS ticket_resource_id,
    accepted.request_ids AS ticket_request_ids,
    accepted.expected AS ticket_expected,
    accepted.at AS accepted_at,
    ended.outcome AS outcome,
    ended.at AS ended_at,
    gone.at AS gone_at
FROM intents
LEFT JOIN accepted ON accepted.entry = intents.id
LEFT JOIN ended ON ended.entry = intents.id
LEFT JOIN gone
    ON gone.engine = intents.engine
    AND gone.resource_id = coalesce(accepted.resource_id, intents.resource_id);
"""

_NAMES = frozenset({"intents", "accepted", "ended", "gone", "entries"})
_INSERT = {
    "intents": "INSERT INTO intents VALUES ",
    "accepted": "INSERT OR REPLACE INTO accepted VALUES ",
    "ended": "INSERT OR REPLACE INTO ended VALUES ",
    "gone": "INSERT OR REPLACE INTO gone VALUES ",
}
_MOMENT = 0.05  # seconds
_MOST_VALUES = 900  # an SQLite from before 3.32 takes 999 in one statement

_PRUNE = (
    """DELETE FROM intents WHERE id IN (
        SELECT id FROM entries
        WHERE ended_at < :before
        AND (gone_at < :before OR outcome IN (:not_made, :destroyed) OR outcome LIKE :refused)
    )""",
    "DELETE FROM accepted WHERE entry NOT IN (SELECT id FROM intents)",
    "DELETE FROM ended WHERE entry NOT IN (SELECT id FROM intents)",
    """DELETE FROM gone WHERE at < :before AND NOT EXISTS (
        SELECT 1 FROM entries WHERE entries.gone_at = gone.at AND entries.engine = gone.engine
    )""",
)

_ANOTHER = "move it away, or name another path; it is left as it is"
DAMAGED = "move it away, together with its -wal file, and keep both; `tpa ls` shows what runs at the engine; it is left as it is"
_FULL = "make room on the disk"
_WRITABLE = "make the file and its folder writable for this user"
_LOCAL = "name a path on a local disk: its file system lacks what SQLite needs"
_THERE = "see that its folder exists and can be written"
_ADVICE = {
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_READONLY: _WRITABLE,
    sqlite3.SQLITE_PERM: _WRITABLE,
    sqlite3.SQLITE_AUTH: _WRITABLE,
    sqlite3.SQLITE_BUSY: "another process holds it; end that, or try again",
    sqlite3.SQLITE_LOCKED: "another process holds it; end that, or try again",
    sqlite3.SQLITE_CORRUPT: DAMAGED,
    sqlite3.SQLITE_NOTADB: DAMAGED,
    sqlite3.SQLITE_ERROR: DAMAGED,
    sqlite3.SQLITE_CONSTRAINT: DAMAGED,
    sqlite3.SQLITE_MISMATCH: DAMAGED,
    sqlite3.SQLITE_SCHEMA: DAMAGED,
    sqlite3.SQLITE_CANTOPEN: _THERE,
    sqlite3.SQLITE_PROTOCOL: _LOCAL,
    sqlite3.SQLITE_NOLFS: _LOCAL,
    sqlite3.SQLITE_IOERR: f"see that its disk works and has room, or {_LOCAL}",
}
"""What to do, by the code of SQLite."""
_ADVICE_OF_SYSTEM = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: _FULL,
    errno.EACCES: _WRITABLE,
    errno.EPERM: f"{_WRITABLE}, or {_LOCAL}",
    errno.EROFS: _WRITABLE,
    errno.ENOLCK: _LOCAL,
    errno.ENOSYS: _LOCAL,
    errno.ENOTSUP: _LOCAL,
    errno.EOPNOTSUPP: _LOCAL,
    errno.EMFILE: "close files, or allow this process more of them",
    errno.ENFILE: "close files, or allow this machine more of them",
}
"""What to do, by the error of the system."""

logger: logging.Logger = logger_of("tensorpool_async")


@attrs.define
class WriteBatch:
    """What is to be written in one transaction.

    Attributes:
        intents: Rows of intents, without their id and owner.
        others: The rows of the other tables, by what they are about: of two about one thing, the later holds.
    """

    intents: list[Row] = attrs.field(factory=list[Row])
    others: dict[str, dict[Hashable, Row]] = attrs.field(
        factory=lambda: {"accepted": {}, "ended": {}, "gone": {}}
    )

    def __bool__(self) -> bool:
        return bool(self.intents) or any(self.others.values())

    def add(self, table: str, row: Row) -> None:
        """Add a row of another table than that of the intents."""
        self.others[table][row[:2] if table == "gone" else row[0]] = row


class Database:
    """The journal's file, opened by one owner."""

    def __init__(
        self, path: Path, *, busy_timeout: float, keep_for: float, now: Callable[[], float] = time.time
    ) -> None:
        """Open the file, or make it where there is none.

        Args:
            path: The file.
            busy_timeout: Seconds to wait for another process that writes.
            keep_for: Seconds for which entries are kept that are of no more use.
            now: The clock, in seconds since the epoch.

        Raises:
            JournalError: It cannot be used; a file that was there is left as it is.
        """
        self.path: Path = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow the link that is refused
        self._busy_timeout = busy_timeout
        if "\0" in str(path):
            raise JournalError(self.path, "has a name that no file can have", "name another path")
        with self._explained(), contextlib.ExitStack() as undo:
            make_folders(self.path.parent)
            found = check(self.path)
            if found:
                self._inspect()  # before anything is done to it: a mistaken path may be any file
                self._narrow()
            self.owner: Owner = Owner(self.path.with_name(self.path.name + "-owners"))
            undo.callback(self.owner.release)
            if not found:
                self._make()
            self._connection = self._connect()
            undo.callback(self._connection.close)
            self._settle(now() - keep_for)
            self._identities = self._look()
            undo.pop_all()

    @property
    def wal(self) -> Path:
        """The file that SQLite writes to first."""
        return self.path.with_name(self.path.name + "-wal")

    def write(self, batch: WriteBatch) -> list[int]:
        """Write all of it, or nothing, so that it survives a crash; return the ids of the intents.

        Raises:
            JournalError: Nothing was written, or it was written to a file that is no longer at its place.
        """
        with self._explained():
            with self._transaction():
                ids = self._next_ids(len(batch.intents))
                rows = [(id_, self.owner.id, *row) for id_, row in zip(ids, batch.intents, strict=True)]
                self._insert("intents", rows)
                for table, by_key in batch.others.items():
                    self._insert(table, list(by_key.values()))
            self._check_place()
        return ids

    def take_over(self, engine: str) -> list[JournalEntry]:
        """As `Journal.take_over`."""
        with self._explained():
            with self._transaction():
                owners = self._connection.execute(
                    "SELECT DISTINCT owner FROM entries WHERE engine = ? AND ended_at IS NULL", (engine,)
                ).fetchall()
                for (owner,) in owners:
                    if not self._is_alive(owner):
                        self._connection.execute(
                            "UPDATE intents SET owner = ? WHERE engine = ? AND owner = ?"
                            " AND NOT EXISTS (SELECT 1 FROM ended WHERE entry = intents.id)",
                            (self.owner.id, engine, owner),
                        )
            self._check_place()
        return [entry for entry in self.entries(engine, ended=False) if entry.owner == self.owner.id]

    def claim(self, entry: int) -> bool:
        """As `Journal.claim`."""
        with self._explained():
            with self._transaction():
                found = self._connection.execute(
                    "SELECT owner FROM intents WHERE id = ?", (entry,)
                ).fetchone()
                taken = found is not None and not self._is_others(found[0])
                if taken:
                    self._connection.execute(
                        "UPDATE intents SET owner = ? WHERE id = ?", (self.owner.id, entry)
                    )
            self._check_place()
        return taken

    def entries(self, engine: str | None, *, ended: bool) -> list[JournalEntry]:
        """As `Journal.entries`."""
        with self._explained():
            rows = self._connection.execute(
                "SELECT * FROM entries WHERE (?1 IS NULL OR engine = ?1) AND (?2 OR ended_at IS NULL) ORDER BY id",
                (engine, ended),
            ).fetchall()
            alive = {owner: self._is_alive(owner) for owner in {row["owner"] for row in rows}}
        return [self._entry_of(row, alive=alive[row["owner"]]) for row in rows]

    def close(self) -> None:
        """Close the file and end the owner's life."""
        try:
            self._connection.close()
        finally:
            self.owner.release()

    def _entry_of(self, row: sqlite3.Row, *, alive: bool) -> JournalEntry:
        try:
            return entry_of(row, alive=alive)
        except (ValueError, IndexError) as error:
            raise JournalError(self.path, f"is damaged (entry {row['id']!r}: {error})", DAMAGED) from error

    def _is_alive(self, owner: object) -> bool:
        if not isinstance(owner, str) or not is_owner(owner):
            raise JournalError(self.path, "is damaged (an owner is none)", DAMAGED)
        return self.owner.is_alive(owner)

    def _is_others(self, owner: object) -> bool:
        return self._is_alive(owner) and owner != self.owner.id

    def _next_ids(self, count: int) -> list[int]:
        """Return the ids of the next intents; none of them was used before, also where the table of sequences lies."""
        (sequence, highest) = self._connection.execute(
            "SELECT (SELECT max(seq) FROM sqlite_sequence WHERE name = 'intents'), (SELECT max(id) FROM intents)"
        ).fetchone()
        if not isinstance(sequence, int | None):
            raise JournalError(self.path, "is damaged (its sequence is no number)", DAMAGED)
        last = max(sequence or 0, highest or 0)
        return list(range(last + 1, last + 1 + count))

    def _connect(self, mode: str = "rw", path: Path | None = None) -> sqlite3.Connection:
        # With `rw` SQLite makes no new file in place of one that has gone.
        uri = f"{(path or self.path).as_uri()}?mode={mode}"
        connection = sqlite3.connect(uri, uri=True, timeout=self._busy_timeout, isolation_level=None)
        connection.row_factory = sqlite3.Row
        return connection

    def _inspect(self) -> None:
        """See that the file is a journal, and whole, without changing a byte of it."""
        if not self.path.stat().st_size:
            raise JournalError(self.path, "is empty, and no journal", _ANOTHER)
        wal, shm = (check(self.path.with_name(self.path.name + suffix)) for suffix in ("-wal", "-shm"))
        if shm and not wal:
            time.sleep(_MOMENT)  # a process that ends removes the one right before the other
            if check(self.path.with_name(self.path.name + "-shm")) and not check(self.wal):
                text = "%s is missing: what was written to the journal last is lost; `tpa ls` shows what runs"
                logger.warning(text, self.wal)
        # One that only reads also leaves a `-wal` file that another version has left behind.
        with contextlib.closing(self._connect("ro")) as connection:
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if application != APPLICATION_ID:
                raise JournalError(self.path, "is a database of something else", _ANOTHER)
            if version > VERSION:
                raise JournalError(
                    self.path,
                    f"is of version {version}, and this package reads {VERSION}",
                    "install a newer tensorpool-async, or name another path; it is left as it is",
                )
            if version < VERSION:
                raise JournalError(self.path, f"is damaged (its version is {version})", DAMAGED)
            names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
            if not names >= _NAMES:
                missing = ", ".join(sorted(_NAMES - names))
                raise JournalError(self.path, f"is damaged (it has no {missing})", DAMAGED)
            (decision,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if decision != "ok":
                raise JournalError(self.path, f"is damaged ({' '.join(str(decision).split())})", DAMAGED)

    def _make(self) -> None:
        """Make the file beside its place, whole, and link it there; so nobody ever sees half of one."""
        new = self.owner.path.with_suffix(".new")
        os.close(os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        try:
            with contextlib.closing(self._connect(path=new)) as connection:
                self._durable(connection)
                connection.executescript(
                    f"BEGIN; {_SCHEMA} PRAGMA application_id = {APPLICATION_ID};"
                    f" PRAGMA user_version = {VERSION}; COMMIT;"
                )
            with contextlib.suppress(FileExistsError):  # another process was first
                os.link(new, self.path)
        finally:
            new.unlink()
        sync_folder(self.path.parent)
        check(self.path)
        self._narrow()

    def _narrow(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                narrow(self.path.with_name(self.path.name + suffix))

    def _durable(self, connection: sqlite3.Connection) -> None:
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise JournalError(
                self.path,
                "is on a file system that SQLite's write-ahead log cannot use",
                "name a path on a local disk",
            )
        for pragma in ("synchronous = FULL", "fullfsync = ON", "checkpoint_fullfsync = ON"):
            connection.execute(f"PRAGMA {pragma}")

    def _settle(self, before: float) -> None:
        self._durable(self._connection)
        self._connection.execute("PRAGMA trusted_schema = OFF")
        values = {"before": before, "not_made": NOT_MADE, "destroyed": DESTROYED, "refused": f"{REFUSED}%"}
        with self._transaction():
            for statement in _PRUNE:
                self._connection.execute(statement, values)
        self.owner.sweep()

    def _insert(self, table: str, rows: Sequence[Row]) -> None:
        # Each statement gives the interpreter's lock away, and a busy event loop is slow to give it back; so few.
        if not rows:
            return
        width = len(rows[0])
        group = f"({', '.join('?' * width)})"
        step = _MOST_VALUES // width
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            values = [value for row in part for value in row]
            self._connection.execute(_INSERT[table] + ", ".join([group] * len(part)), values)

    @contextlib.contextmanager
    def _transaction(self) -> Generator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # SQLite itself goes back where the disk is full
                self._connection.execute("ROLLBACK")
            raise

    def _look(self) -> list[tuple[int, int]]:
        return [identity(path) for path in (self.path, self.wal, self.owner.path)]

    def _check_place(self) -> None:
        """See that the files are still at their places: SQLite goes on writing into one that was removed."""
        try:
            here = self._look()
        except OSError:
            here = None
        if here != self._identities:
            raise JournalError(
                self.path,
                "was removed or replaced, or a file of its own beside it was",
                "open it again, and leave its files alone while it is open",
            )

    @contextlib.contextmanager
    def _explained(self) -> Generator[None]:
        try:
            yield
        except sqlite3.Error as error:
            # A code may be extended: its low byte is the sort of error.
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
            advice = _ADVICE.get(code, "see that its disk works")
            # Some texts quote what the file holds.
            why = "".join(letter if letter.isprintable() else "\ufffd" for letter in str(error))
            raise JournalError(self.path, f"cannot be read or written: {why}", advice) from error
        except OSError as error:
            advice = _ADVICE_OF_SYSTEM.get(error.errno or 0, _THERE)
            raise JournalError(
                self.path, f"cannot be read or written: {error.strerror or error}", advice
            ) from error
