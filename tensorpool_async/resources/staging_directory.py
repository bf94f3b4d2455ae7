"""An empty folder for what a command fetches, and the way from there into the folder of the user.

rsync and scp write through links that they find, and what they find depends on what the other side has sent before. So
they write into a folder that is new, and what they leave there is put into place here, where links are not followed.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import shutil
import stat
from pathlib import Path

import attrs

from tensorpool_async.errors import PathRefused
from tensorpool_async.protocol.command_words import LocalPath
from tensorpool_async.texts import logger_of


logger: logging.Logger = logger_of("tensorpool_async")

PREFIX = ".tensorpool-"
FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)


@attrs.frozen
class StagingDirectory:
    """A folder in the user's folder, for one command.

    Attributes:
        target: The folder of the user, with all links resolved.
        path: The new folder.
    """

    target: Path
    path: Path

    def make(self, destination: LocalPath) -> str | None:
        """Make the folder, and in it the folder that the command writes to, where the user has it.

        Returns:
            The path from the destination to the same folder of the user; None where the destination is not a folder.
        """
        self.path.mkdir(mode=0o700)
        inside = self.path.joinpath(*destination.parts)
        there = self.target.joinpath(*destination.parts)
        if there.is_dir() or destination.contents:
            inside.mkdir(parents=True, exist_ok=True)
        else:
            inside.parent.mkdir(parents=True, exist_ok=True)
        if not there.is_dir():
            return None
        return "/".join([".."] * (len(destination.parts) + 1) + list(destination.parts))

    def install(self, *, keep_newer: bool) -> None:
        """Put what has come into its place. Links that lead out of the folder, and what is no file, are left out.

        Args:
            keep_newer: Whether a file that is there stays if it is newer.

        Raises:
            PathRefused: A link or a file of the user's is where a folder should be, or the other way round; nothing was
                put into place.
            OSError: Something could not be put into its place.
        """
        self._check(self.path)
        folder = os.open(self.target, FOLDER)
        try:
            self._install(self.path, folder, keep_newer=keep_newer)
        finally:
            os.close(folder)

    def remove(self) -> None:
        """Remove the folder with what is left in it."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _check(self, folder: Path) -> None:
        folder.chmod(stat.S_IRWXU)
        for entry in folder.iterdir():
            mode = entry.lstat().st_mode
            name = str(entry.relative_to(self.path))
            there = _mode(self.target / name)
            if there is not None and stat.S_ISDIR(mode) is not stat.S_ISDIR(there):
                raise PathRefused(
                    f"{name!a} is {_kind(there)} in {str(self.target)!r} and should be {_kind(mode)}; nothing was written",
                    name=name,
                )
            if stat.S_ISDIR(mode):
                self._check(entry)

    def _install(self, folder: Path, place: int, *, keep_newer: bool) -> None:
        """Move what is in a folder to the open folder `place`, which nobody can replace by a link meanwhile."""
        for entry in sorted(folder.iterdir()):
            mode = entry.lstat().st_mode
            if stat.S_ISDIR(mode):
                with contextlib.suppress(FileExistsError):
                    os.mkdir(entry.name, dir_fd=place)
                inner = os.open(entry.name, FOLDER, dir_fd=place)
                try:
                    self._install(entry, inner, keep_newer=keep_newer)
                finally:
                    os.close(inner)
            elif stat.S_ISREG(mode) and not (keep_newer and _is_newer(entry, place)):
                entry.chmod(stat.S_IMODE(mode) & 0o777)
                _move(entry, place)
            elif stat.S_ISLNK(mode):
                self._install_link(entry, place)

    def _install_link(self, entry: Path, place: int) -> None:
        name = entry.relative_to(self.path)
        if _leads_inside(str(entry.readlink()), (self.target / name).parent, self.target):
            os.rename(entry, entry.name, dst_dir_fd=place)
        else:
            logger.warning("a link that leads out of its folder was left out: %a", str(name))


def _move(entry: Path, place: int) -> None:
    """Move a file to an open folder, which may be on another file system."""
    try:
        os.rename(entry, entry.name, dst_dir_fd=place)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        temporary = f"{PREFIX}{secrets.token_hex(8)}"
        mode = stat.S_IMODE(entry.lstat().st_mode)
        target = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode, dir_fd=place)
        with os.fdopen(target, "wb") as copy, entry.open("rb") as source:
            shutil.copyfileobj(source, copy)
        os.rename(temporary, entry.name, src_dir_fd=place, dst_dir_fd=place)


def _is_newer(entry: Path, place: int) -> bool:
    """Whether the file that is there is newer than the one that has come."""
    try:
        there = os.stat(entry.name, dir_fd=place, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return there.st_mtime > entry.lstat().st_mtime


def _mode(path: Path) -> int | None:
    try:
        return path.lstat().st_mode
    except FileNotFoundError:
        return None


def _kind(mode: int) -> str:
    return "a folder" if stat.S_ISDIR(mode) else "a link" if stat.S_ISLNK(mode) else "a file"


def _leads_inside(link: str, folder: Path, target: Path) -> bool:
    """Whether a link stays inside: by its text, in which `..` only comes first, and by what is there now."""
    parts = [part for part in link.split("/") if part not in {"", "."}]
    upwards = next((at for at, part in enumerate(parts) if part != ".."), len(parts))
    if link.startswith("/") or ".." in parts[upwards:] or upwards > len(folder.relative_to(target).parts):
        return False
    return Path(os.path.realpath(folder / link)).is_relative_to(target)
