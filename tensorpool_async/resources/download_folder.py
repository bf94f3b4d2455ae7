"""Putting files below a folder, and never anywhere else: no link is followed there, whoever makes it and whenever.

Each step from the folder to a file's place is made from an open descriptor of the last one, so that what is swapped for a
link meanwhile is not gone through. Where the system cannot do that (Windows), the resolved path is compared instead, right
before a file is opened and right before it gets its name.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import sys
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from tensorpool_async.errors import PathRefused
from tensorpool_async.protocol.paths import FileSystem


BY_DESCRIPTOR: bool = {os.open, os.mkdir, os.rename, os.unlink, os.stat} <= os.supports_dir_fd

UNSUPPORTED_NAME_ERRORS = frozenset(
    {errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}
)
"""What a file system says of a name that it cannot hold, or not at this place."""

_FOLDER_FLAGS = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)
_PART_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


class UnsupportedName(Exception):
    """The file system does not hold a file of this name at this place; the text says why."""


class Folder:
    """The folder that a pull writes to. All methods block, and belong into a thread."""

    def __init__(self, path: Path) -> None:
        self.path: Path = path

    def check(self) -> None:
        """See that it is a folder, or can become one.

        Raises:
            NotADirectoryError: Something else is there.
        """
        if self.path.exists() and not self.path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(self.path))

    def size_of(self, relative: PurePosixPath, name: str) -> int | None:
        """Return the size of the file that is there already; None where there is none.

        Raises:
            PathRefused: A link leads away from its place.
            Unholdable: A folder is there.
        """
        place = self.path
        try:
            for part in relative.parts[:-1]:
                place /= part
                if place.is_symlink():
                    raise _link(place, name)
            place /= relative.name
            status = place.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            _raise_unsupported(error)
            raise
        if stat.S_ISDIR(status.st_mode) and not place.is_symlink():
            raise UnsupportedName("a folder is at its place")
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def open_part(self, relative: PurePosixPath, name: str) -> Part:
        """Make the folders of a file, and open what it is written to until it is complete.

        Raises:
            PathRefused: A link leads away from its place.
            Unholdable: The file system does not hold the file.
            OSError: The file system is full, or is not to be written to.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            return Part(self.path, relative, name)
        except OSError as error:
            _raise_unsupported(error)
            raise

    def file_system(self, *, dry_run: bool) -> FileSystem:
        """Find out what the file system takes for the same name; on a dry run, where nothing is written, guess."""
        windows = os.name == "nt"
        if dry_run:
            mac = sys.platform == "darwin"
            return FileSystem(windows, folds_case=windows or mac, normalizes=mac)
        self.path.mkdir(parents=True, exist_ok=True)
        probe = f".tpa-{secrets.token_hex(8)}-a\u00e9"
        place = self.path / probe
        place.touch()
        try:
            folds_case = (self.path / probe.upper()).exists()
            normalizes = (self.path / probe.replace("\u00e9", "e\u0301")).exists()
        finally:
            place.unlink(missing_ok=True)
        return FileSystem(windows, folds_case, normalizes)


class Part:
    """A file that is not complete: it has a name of its own, beside its place."""

    def __init__(self, folder: Path, relative: PurePosixPath, name: str) -> None:
        self._folder = folder
        self._relative = relative
        self._name = name
        self._part = f".tpa-{secrets.token_hex(12)}.part"
        self._parent = _Parent(folder, relative, name)
        try:
            self.file: BinaryIO = os.fdopen(self._parent.open(self._part), "wb")
        except BaseException:
            self._parent.close()
            raise

    def keep(self) -> None:
        """Give the file its name.

        Raises:
            PathRefused: Its folder is no longer where it was.
            Unholdable: The file system does not hold the name.
        """
        self.file.close()
        place = self._relative.name
        again = _Parent(self._folder, self._relative, self._name)
        try:
            if not self._parent.is_same(again):
                raise PathRefused(
                    f"the folder of {self._name!r} was replaced while the file was downloaded",
                    name=self._name,
                )
            self._parent.rename(self._part, place)
        except OSError as error:
            _raise_unsupported(error)
            raise
        finally:
            again.close()

    def close(self) -> None:
        """Take away what is not kept."""
        try:
            self.file.close()
        finally:
            with suppress(FileNotFoundError):
                self._parent.unlink(self._part)
            self._parent.close()


class _Parent:
    """The folder that a file is put into, below the folder of the pull; it is made where it is not there."""

    def __init__(self, folder: Path, relative: PurePosixPath, name: str) -> None:
        self._path = folder.joinpath(*relative.parts[:-1])
        self._descriptor = _walk(folder, relative.parts[:-1], name) if BY_DESCRIPTOR else None
        if self._descriptor is None:
            self._path.mkdir(parents=True, exist_ok=True)
            if not self._path.resolve().is_relative_to(folder.resolve()):
                raise _link(self._path, name)

    def open(self, part: str) -> int:
        return os.open(self._at(part), _PART_FLAGS, 0o666, dir_fd=self._descriptor)

    def rename(self, part: str, place: str) -> None:
        os.replace(self._at(part), self._at(place), src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)

    def unlink(self, part: str) -> None:
        os.unlink(self._at(part), dir_fd=self._descriptor)

    def is_same(self, other: _Parent) -> bool:
        return os.path.samestat(self._status(), other._status())

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _at(self, name: str) -> str | Path:
        return self._path / name if self._descriptor is None else name

    def _status(self) -> os.stat_result:
        return self._path.stat() if self._descriptor is None else os.fstat(self._descriptor)


def _walk(folder: Path, parts: tuple[str, ...], name: str) -> int:
    """Go down from a folder, without following a link; return the descriptor of the last one."""
    descriptor = os.open(
        folder, _FOLDER_FLAGS & ~os.O_NOFOLLOW
    )  # the folder itself may be a link: it is the caller's
    try:
        for part in parts:
            inner = _step(descriptor, part, name)
            os.close(descriptor)
            descriptor = inner
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _step(descriptor: int, part: str, name: str) -> int:
    with suppress(FileExistsError):
        os.mkdir(part, dir_fd=descriptor)
    if stat.S_ISLNK(os.stat(part, dir_fd=descriptor, follow_symlinks=False).st_mode):
        raise _link(part, name)
    return os.open(part, _FOLDER_FLAGS, dir_fd=descriptor)


def _link(place: Path | str, name: str) -> PathRefused:
    return PathRefused(
        f"the link {str(place)!r} leads {name!r} out of its folder; links are not followed", name=name
    )


def _raise_unsupported(error: OSError) -> None:
    if error.errno in UNSUPPORTED_NAME_ERRORS:
        raise UnsupportedName(
            f"the file system does not hold it: {error.strerror or type(error).__name__}"
        ) from error
