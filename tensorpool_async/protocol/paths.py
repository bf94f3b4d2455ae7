"""File names that come from the engine, and must not leave the folder that they are meant for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from tensorpool_async.errors import PathRefused


CONTROL = re.compile(r"[\x00-\x1f\x7f]")
DRIVE = re.compile(r"[A-Za-z]:")


def relative_path(name: str) -> PurePosixPath:
    """Return a file name as a path below a folder.

    Raises:
        PathRefused: It is absolute, leads out of the folder, names no file, or holds characters that no file name
            should: control characters, backslashes.
    """
    problem = _problem_of(name)
    if problem:
        raise PathRefused(f"the file name {name[:200]!r} {problem}; nothing was written", name=name)
    return PurePosixPath(name)


def _problem_of(name: str) -> str | None:
    parts = name.split("/")
    problems = {
        "is empty": not name,
        "is absolute": name.startswith(("/", "~")) or bool(DRIVE.match(name)),
        "holds control characters": bool(CONTROL.search(name)),
        "holds a backslash": "\\" in name,
        "leads out of its folder": ".." in parts,
        "names no file": parts[-1] in {"", "."},
        "is too long": any(len(part.encode("utf-8", "surrogatepass")) > 240 for part in parts),
    }
    return next((problem for problem, is_so in problems.items() if is_so), None)


def relative_paths(names: Iterable[str]) -> Mapping[str, PurePosixPath]:
    """Return all names as paths, by name.

    Raises:
        PathRefused: One of them is no file name below a folder, two are the same file, or one is the folder of another.
    """
    paths = {name: relative_path(name) for name in names}
    seen: dict[str, str] = {}
    for name, path in paths.items():
        folded = str(path).casefold()  # some file systems take them for the same
        if folded in seen:
            raise PathRefused(f"the file names {seen[folded]!r} and {name!r} are the same file", name=name)
        seen[folded] = name
    for name, path in paths.items():
        for parent in path.parents[:-1]:
            if str(parent).casefold() in seen:
                raise PathRefused(f"{str(parent)!r} is a file, and the folder of {name!r}", name=name)
    return paths
