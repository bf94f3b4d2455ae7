"""Who is alive: each open journal holds a lock on a file of its own, which the system gives up when its process ends.

No process ids are compared: they are used again, and containers that share a volume each count their own. The lock is
`flock` (on Windows `msvcrt.locking`), which belongs to the open file and not to the process, so two journals in one
process are two owners.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import sys
import weakref
from pathlib import Path

from tensorpool_async.journal.files import check, identity, narrow


if sys.platform == "win32":  # pragma: no cover - the tests run where there is flock
    import msvcrt

    _NO_FOLLOW = os.O_NOINHERIT

    def _lock(file: int, *, exclusive: bool) -> bool:  # noqa: ARG001 - Windows has one sort of lock
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    _NO_FOLLOW = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

    def _lock(file: int, *, exclusive: bool) -> bool:
        try:
            fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


_NAME = re.compile(r"[0-9a-f]{16}")


def is_owner(name: str) -> bool:
    """Whether this can be the id of an owner, which is also the name of a file."""
    return _NAME.fullmatch(name) is not None


class Owner:
    """A life: the lock on a file of its own.

    A child that was forked inherits the open file, and would keep its parent alive after its end; so the child closes
    it first thing (where the fork is Python's; a fork in C is not noticed). A child that was started as a program of
    its own does not inherit it.
    """

    def __init__(self, folder: Path) -> None:
        """Begin a life in a folder, which is made where it is missing.

        Raises:
            JournalError: The folder cannot be trusted.
            OSError: It cannot be written.
        """
        self.folder = folder
        if check(folder, folder=True):
            narrow(folder, folder=True)
        else:
            folder.mkdir(mode=0o700, exist_ok=True)
        self.id: str
        self.id, self._file = self._begin()
        if sys.platform != "win32":
            # A registration cannot be taken back, so it must not keep this object: it is one small record each.
            os.register_at_fork(after_in_child=_Forked(weakref.ref(self)))

    def _begin(self) -> tuple[str, int]:
        while True:
            name = secrets.token_hex(8)
            path = self.folder / name
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_FOLLOW, 0o600)
            # Between making the file and locking it, another process may take it for a dead one's and remove it.
            try:
                if _lock(file, exclusive=True) and identity(path)[1] == os.fstat(file).st_ino:
                    return name, file
            except FileNotFoundError:  # pragma: no cover - needs another process at that very moment
                pass
            except OSError:
                os.close(file)
                path.unlink(missing_ok=True)
                raise
            os.close(file)  # pragma: no cover - as above

    @property
    def path(self) -> Path:
        """The file that is locked."""
        return self.folder / self.id

    def is_alive(self, other: str) -> bool:
        """Whether an owner, this or another, still lives. One whose file is missing does not."""
        return other == self.id or _is_held(self.folder / other)

    def sweep(self) -> None:
        """Remove the files of those who are dead; a missing file says the same."""
        for path in list(self.folder.iterdir()):
            # A database that was never finished is called after its owner, `<id>.new`.
            if not self.is_alive(path.name.partition(".")[0]):
                path.unlink(missing_ok=True)

    def release(self) -> None:
        """End this life."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)
        self.forget()
        if sys.platform == "win32":  # pragma: no cover - which cannot remove a file that is open
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)

    def forget(self) -> None:
        """Close the file. In a child this does not end the parent's life."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)


class _Forked:
    def __init__(self, owner: weakref.ref[Owner]) -> None:
        self._owner = owner

    def __call__(self) -> None:
        owner = self._owner()
        if owner is not None:
            owner.forget()


def _is_held(path: Path) -> bool:
    try:
        # Shared locks do not exclude each other, so those who only look never take each other for the owner.
        file = os.open(path, os.O_RDWR | _NO_FOLLOW)
    except FileNotFoundError:
        return False
    except OSError:
        return True  # who cannot be asked may live
    try:
        return not _lock(file, exclusive=False)
    except OSError:
        return True
    finally:
        os.close(file)
