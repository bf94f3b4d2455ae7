"""What an upload would take along: no links that are followed, and no secrets that nobody has noticed."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tensorpool_async.errors import CommandRefused
from tensorpool_async.protocol.command_words import LocalPath, shown
from tensorpool_async.protocol.filters import FilterRule, is_left_out, rules_of_ignore_file
from tensorpool_async.protocol.transfers import IGNORE_FILE, Transfer


MOST_ENTRIES = 500_000
"""Files and folders of an upload that are looked at."""

LARGEST_KEY = 64 * 1024
"""Bytes of a file that may be a private key."""

PRIVATE_KEY = re.compile(
    rb"^(-----BEGIN [A-Z0-9 ]*PRIVATE KEY( BLOCK)?-----|PuTTY-User-Key-File-)", re.MULTILINE
)
KEY_WORDS = (b"PRIVATE KEY", b"PuTTY-User-Key-File-")
"""One of them is in whatever `PRIVATE_KEY` finds; looking for them is ten times as fast."""

KEY_STORES = frozenset({".p12", ".pfx", ".jks", ".keystore", ".kdbx"})
EXAMPLES = frozenset({".example", ".sample", ".template", ".dist"})


def check_no_link(program: str, folder: Path, operand: LocalPath) -> None:
    """See that a local operand leads through no link. It is called right before the operand is used.

    Raises:
        CommandRefused: It does.
    """
    path = folder
    for part in operand.parts:
        path /= part
        if path.is_symlink():
            raise CommandRefused(
                f"{program} would follow the link {shown(operand.text)}; links are not followed, and the command was "
                "not run"
            )


def check_upload(
    transfer: Transfer,
    folder: Path,
    excluded: Sequence[FilterRule],
    *,
    abandoned: Callable[[], bool] = lambda: False,
) -> list[str]:
    """See that an upload follows no link, and return the paths of private keys and `.env` files that it takes along.

    A large folder takes seconds. The check ends early, with an answer that means nothing, once `abandoned()` is true.

    Raises:
        CommandRefused: It would follow a link, or it would take along what the user excludes.
    """
    for source in transfer.local_sources:
        check_no_link(transfer.program, folder, source)
    if transfer.program == "scp" and excluded:
        raise CommandRefused("scp cannot leave out what exclude= names; the command was not run")
    found: list[str] = []
    if transfer.only_tells:
        return found
    for source in transfer.local_sources:
        for path, mode in _taken_along(transfer, folder, source, [*excluded, *transfer.rules]):
            if abandoned():
                return found
            if stat.S_ISLNK(mode) and transfer.program == "scp":
                raise CommandRefused(
                    f"scp would follow the link {shown(str(path.relative_to(folder)))}; links are not followed, and the "
                    "command was not run"
                )
            if stat.S_ISREG(mode) and is_secret(path):
                found.append(str(path.relative_to(folder)))
    return found


def is_secret(path: Path) -> bool:
    """Whether a file is a `.env` file or holds a private key."""
    name = path.name.lower()
    if name == ".env" or name.startswith(".env.") or name.endswith(".env"):
        return path.suffix.lower() not in EXAMPLES
    if path.suffix.lower() in KEY_STORES:
        return True
    try:
        if path.lstat().st_size > LARGEST_KEY:
            return False
        beginning = _beginning(path)
    except OSError:
        return False
    return any(word in beginning for word in KEY_WORDS) and bool(PRIVATE_KEY.search(beginning))


def _beginning(path: Path) -> bytes:
    """Read the beginning of a file, which is not a link."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with os.fdopen(os.open(path, flags), "rb") as file:
        return file.read(LARGEST_KEY)


def _taken_along(
    transfer: Transfer, folder: Path, source: LocalPath, rules: Sequence[FilterRule]
) -> Iterator[tuple[Path, int]]:
    top = folder.joinpath(*source.parts)
    mode = top.lstat().st_mode if os.path.lexists(top) else 0
    if not stat.S_ISDIR(mode):
        yield top, mode
        return
    if not transfer.follows_folders and not (source.contents and "dirs" in transfer.options):
        return
    waiting = [(top, "" if source.contents else source.parts[-1], list(rules))]
    seen = 0
    while waiting:
        inside, path, here = waiting.pop()
        if transfer.ignores:
            here = [*here, *_ignored(inside, path)]
        for entry in _listed(inside):
            seen += 1
            if seen > MOST_ENTRIES:
                _give_up(transfer)
                return
            inner = f"{path}/{entry.name}".lstrip("/")
            is_folder = entry.is_dir(follow_symlinks=False)
            if is_left_out(here, inner, is_folder=is_folder):
                continue
            yield Path(entry.path), entry.stat(follow_symlinks=False).st_mode
            if is_folder and transfer.follows_folders:
                waiting.append((Path(entry.path), inner, here))


def _listed(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:  # the program will say so
        return []


def _give_up(transfer: Transfer) -> None:
    if transfer.program == "scp":
        raise CommandRefused(f"scp would send more than {MOST_ENTRIES} files, too many to look for links in")


def _ignored(folder: Path, path: str) -> list[FilterRule]:
    if (folder / IGNORE_FILE).is_symlink():
        raise CommandRefused(
            f"rsync would follow the link {shown(f'{path}/{IGNORE_FILE}')}; the command was not run"
        )
    try:
        text = _beginning(folder / IGNORE_FILE)
    except OSError:
        return []
    return rules_of_ignore_file(text.decode(errors="replace"), path)
