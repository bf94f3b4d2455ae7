"""Files that only their owner can read, and no detours to the files of others."""

from __future__ import annotations

import logging
import os
import stat
import sys
from pathlib import Path

from tensorpool_async.errors import JournalError
from tensorpool_async.texts import logger_of


logger: logging.Logger = logger_of("tensorpool_async")


def make_folders(path: Path) -> None:
    """Make a folder, and those above it that are missing, for their owner only; leave what is there as it is."""
    if path.exists():
        return
    make_folders(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)


def check(path: Path, *, folder: bool = False) -> bool:
    """See that what stands at a path can be trusted, and leave it as it is; False where nothing stands there.

    Raises:
        JournalError: It is a link, or no file, or another user's.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    if stat.S_ISLNK(found.st_mode):
        raise JournalError(path, "is a symbolic link", "name the file that it points to")
    if not (stat.S_ISDIR if folder else stat.S_ISREG)(found.st_mode):
        raise JournalError(path, "is not a file" if not folder else "is not a folder", "name another path")
    if sys.platform != "win32":
        # Root may look after the files of others: a container often runs as root over a user's volume.
        if os.geteuid() not in {found.st_uid, 0}:
            raise JournalError(path, "belongs to another user", "name a file of your own")
    return True


def narrow(path: Path, *, folder: bool = False) -> None:
    """Take the permissions of others away from what is known to be a journal's, with a warning.

    The file is not opened for it: closing a file gives up all locks that SQLite holds on it in this process.
    """
    if sys.platform != "win32" and stat.S_IMODE(path.lstat().st_mode) & 0o077:
        logger.warning("%s could be read by others; its permissions are taken away from them", path)
        path.chmod(0o700 if folder else 0o600)


def sync_folder(path: Path) -> None:
    """Have the names in a folder survive a loss of power."""
    if sys.platform == "win32":  # pragma: no cover - Windows cannot open a folder, and needs no such call
        return
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def identity(path: Path) -> tuple[int, int]:
    """What tells this file from another one at the same path.

    Raises:
        OSError: There is none.
    """
    found = path.lstat()
    return found.st_dev, found.st_ino
