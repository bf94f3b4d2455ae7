"""Where the files of a pull go: names from the engine, as paths below a folder.

A name that leads out of the folder is a refusal of the whole pull: no honest engine sends one. A name that the file system
cannot hold is changed, always in the same way, so that a second pull finds what the first one has brought. A name that is
no file's is skipped.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from hashlib import blake2s
from pathlib import PurePosixPath

import attrs

from tensorpool_async.errors import PathRefused


LONGEST_PART = 240
"""Bytes of one part of a path; file systems hold 255, of which a longer suffix of somebody else may need a few."""

LONGEST_PATH = 3000
"""Bytes of a whole path below the folder; Linux holds 4096 with the folder itself."""

LONGEST_SUFFIX = 16
"""Characters behind the last dot that stay where a name is shortened."""

ABSOLUTE = re.compile(r"[/\\]|[A-Za-z]:|~(?:[^/\\]*[/\\]|$)")
UNHELD = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
UNHELD_BY_WINDOWS = re.compile(r'[\x00-\x1f\x7f-\x9f\ud800-\udfff<>:"|?*\\]|[. ]+$')
RESERVED = re.compile(
    r"(?:CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(?:COM|LPT)[0-9\u00b9\u00b2\u00b3])\s*(?:\..*)?", re.IGNORECASE
)


@attrs.frozen
class FileSystem:
    """What a file system cannot tell apart, or cannot hold.

    Attributes:
        windows: Whether it has the reserved names and characters of Windows.
        folds_case: Whether `Model.pt` and `model.PT` are the same file.
        normalizes: Whether the two ways to write an accented letter in Unicode are the same.
    """

    windows: bool = False
    folds_case: bool = False
    normalizes: bool = False

    def key(self, path: str) -> str:
        """Return what is equal for paths that are the same file."""
        if self.normalizes:
            path = unicodedata.normalize("NFC", path)
        return unicodedata.normalize("NFC", path.casefold()) if self.folds_case else path


FOLDING = FileSystem(folds_case=True, normalizes=True)


@attrs.frozen
class LocalName:
    """Where a file of a pull goes.

    Attributes:
        name: Its name, as the engine gave it.
        path: Its path below the folder; None where it is skipped.
        note: Why the path differs from the name, or why the file is skipped; empty for most.
    """

    name: str
    path: PurePosixPath | None
    note: str = ""


def local_names(names: Iterable[str], system: FileSystem) -> dict[str, LocalName]:
    """Return where each file goes, by its name: below the folder, and no two at the same place.

    Raises:
        PathRefused: A name leads out of the folder.
    """
    placed = {name: _placed(name, system) for name in names}
    folders: set[str] = set()
    for local in placed.values():
        if local.path is not None:
            folders |= {system.key(str(parent)) for parent in local.path.parents[:-1]}
    taken: set[str] = set()
    # Names that stay as they are go first, and in an order that is the same at the next pull.
    for local in sorted(placed.values(), key=lambda local: (bool(local.note), local.name)):
        if local.path is not None:
            free = _free(local, system, taken, folders)
            placed[local.name] = free
            taken.add(system.key(str(free.path)))
    return placed


def _placed(name: str, system: FileSystem) -> LocalName:
    pieces = re.split(r"[/\\]", name)
    if ABSOLUTE.match(name) or ".." in pieces:
        problem = "leads out of its folder" if ".." in pieces else "is absolute"
        raise PathRefused(f"the file name {name[:200]!r} {problem}; nothing was written", name=name)
    parts = [part for part in name.split("/") if part not in {"", "."}]
    if not parts or name.rpartition("/")[2] in {"", "."}:
        return LocalName(name, None, "skipped: it names a folder, and no file")
    held = [_held(part, system) for part in parts]
    path = "/".join(part for part, _ in held)
    if len(path.encode()) > LONGEST_PATH:
        return LocalName(name, None, f"skipped: its path is longer than {LONGEST_PATH} bytes")
    notes = dict.fromkeys(note for _, note in held if note)
    return LocalName(name, PurePosixPath(path), f"renamed: it {' and '.join(notes)}" if notes else "")


def _held(part: str, system: FileSystem) -> tuple[str, str]:
    """Return a part of a path as the file system holds it, and why it is another one."""
    held = (UNHELD_BY_WINDOWS if system.windows else UNHELD).sub("_", part)
    note = "holds characters that no file name here may hold" if held != part else ""
    if system.windows and RESERVED.fullmatch(held):
        held, note = f"_{held}", "is a name that Windows keeps for itself"
    if len(held.encode()) > LONGEST_PART:
        note = "is too long"
    return (_marked(held, part), note) if note else (part, "")


def _marked(part: str, original: str) -> str:
    """Put a mark of the original before the suffix, and shorten what is too long."""
    digest = blake2s(original.encode("utf-8", "surrogatepass"), digest_size=5).hexdigest()
    stem, dot, suffix = part.rpartition(".")
    if not stem or not 0 < len(suffix) <= LONGEST_SUFFIX:
        stem, dot, suffix = part, "", ""
    room = LONGEST_PART - len(f"~{digest}{dot}{suffix}".encode())
    stem = stem.encode()[:room].decode(errors="ignore")
    return f"{stem}~{digest}{dot}{suffix}"


def _free(local: LocalName, system: FileSystem, taken: set[str], folders: set[str]) -> LocalName:
    """Give a file another name where its place is another file's, or is a folder."""
    path, note, count = local.path or PurePosixPath(), local.note, 0
    while (key := system.key(str(path))) in taken or key in folders:
        if not note:
            reason = "a folder here" if key in folders else "another file here"
            note = f"renamed: its name is that of {reason}"
        count += 1
        last = (local.path or path).name
        path = path.with_name(_marked(last, f"{local.name}\n{count}"))
    return attrs.evolve(local, path=path, note=note)
