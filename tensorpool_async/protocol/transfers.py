"""What the engine may say to rsync and scp, and the arguments that are built of it.

A transfer is read into a structure of checked parts. What is run is made of that structure alone, and always in the same
shape: long options of ours, filter rules with their sign, operands behind `--`.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import attrs

from tensorpool_async.errors import CommandRefused
from tensorpool_async.protocol.command_words import (
    Host,
    LocalPath,
    RemotePath,
    checked,
    operand_of,
    options_of,
    refused,
    split,
)
from tensorpool_async.protocol.filters import FilterRule
from tensorpool_async.protocol.ssh_command import SSHOptions, connection, parse_shell


class Direction(enum.Enum):
    """What a command is run for.

    Attributes:
        PUSH: To read from a folder and send.
        PULL: To receive and write into a folder.
    """

    PUSH = "push"
    PULL = "pull"


SWITCHES: Final[Mapping[str, tuple[str, ...]]] = {
    "E": ("executability",),
    "I": ("ignore-times",),
    "O": ("omit-dir-times",),
    "P": ("partial", "progress"),
    "R": ("relative",),
    "S": ("sparse",),
    "W": ("whole-file",),
    "a": ("recursive", "links", "perms", "times"),
    "c": ("checksum",),
    "d": ("dirs",),
    "h": ("human-readable",),
    "i": ("itemize-changes",),
    "l": ("links",),
    "m": ("prune-empty-dirs",),
    "n": ("dry-run",),
    "p": ("perms",),
    "q": ("quiet",),
    "r": ("recursive",),
    "t": ("times",),
    "u": ("update",),
    "v": ("verbose",),
    "x": ("one-file-system",),
    "z": ("compress",),
}
"""Letters of rsync, and the long options that they stand for."""

LEFT_OUT: Final = {
    "A": "acls",
    "D": "devices",
    "H": "hard-links",
    "X": "xattrs",
    "g": "group",
    "o": "owner",
    "s": "secluded-args",
}
"""Letters of rsync that are taken note of and left out, with the long options that they stand for. Owners, devices and
attributes of the other side mean nothing here."""

LONG_ALONE: Final = frozenset(
    {
        "append-verify",
        "delete",
        "delete-after",
        "delete-before",
        "delete-delay",
        "delete-during",
        "existing",
        "ignore-errors",
        "ignore-existing",
        "inplace",
        "list-only",
        "mkpath",
        "no-inc-recursive",
        "size-only",
        "stats",
    }
)
LONG_LEFT_OUT: Final = frozenset({"devices", "numeric-ids", "protect-args", "safe-links", "specials"})
LONG_NAMES: Final = LONG_ALONE | {name for names in SWITCHES.values() for name in names}
LONG_IGNORED: Final = LONG_LEFT_OUT | frozenset(LEFT_OUT.values()) | {"no-motd"}
VALUES: Final[Mapping[str, str]] = {
    "bwlimit": r"[0-9]+(\.[0-9]+)?[KMGkmg]?",
    "chmod": "[ugoaDFrwxXst0-9+=,-]+",
    "compress-choice": "zstd|lz4|zlibx|zlib|none",
    "compress-level": "[0-9]{1,2}",
    "info": "(progress|name|stats|flist|del)[0-3]?(,(progress|name|stats|flist|del)[0-3]?)*",
    "max-size": r"[0-9]+(\.[0-9]+)?[KMGTkmgt]?[iI]?[Bb]?",
    "min-size": r"[0-9]+(\.[0-9]+)?[KMGTkmgt]?[iI]?[Bb]?",
    "timeout": "[0-9]{1,6}",
}
"""Options of rsync with a value, and what the value may be."""

NOT_IN_A_PULL: Final = frozenset(
    {
        "append-verify",
        "delete",
        "delete-after",
        "delete-before",
        "delete-delay",
        "delete-during",
        "existing",
        "ignore-errors",
        "ignore-existing",
    }
)
ONLY_IN_A_PUSH: Final = frozenset({"checksum", "inplace", "mkpath", "partial", "update", "whole-file"})
"""Options of rsync that a pull does without: it fetches whole files into an empty folder."""

IGNORE_FILE: Final = ".gitignore"
IGNORE_FILTERS: Final = frozenset({f":- {IGNORE_FILE}", f"dir-merge,- {IGNORE_FILE}"})
SHELL: Final = "rsh"
FILTERS: Final = frozenset({"exclude", "include", "filter"})

SCP_FLAGS: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys("46BsCv", ()),
    "C": ("-C",),
    "p": ("-p",),
    "q": ("-q",),
    "r": ("-r",),
}
SCP_VALUED: Final = "ilPJo"


@attrs.frozen
class Transfer:
    """A copy by rsync or scp, read and checked.

    Attributes:
        program: `rsync` or `scp`.
        options: The options, of ours, that are used: those of rsync without the dashes.
        rules: What rsync leaves out.
        ignores: Whether rsync leaves out what the `.gitignore` files name.
        sources: What is copied.
        destination: Where to.
        ssh: How the other side is reached.
    """

    program: str
    options: tuple[str, ...]
    sources: tuple[LocalPath | RemotePath, ...]
    destination: LocalPath | RemotePath
    ssh: SSHOptions
    rules: tuple[FilterRule, ...] = ()
    ignores: bool = False

    @property
    def host(self) -> Host | None:
        """The other side; None where there is none."""
        ends = (*self.sources, self.destination)
        return next((end.host for end in ends if isinstance(end, RemotePath)), None)

    @property
    def local_sources(self) -> tuple[LocalPath, ...]:
        """The sources that are here."""
        return tuple(source for source in self.sources if isinstance(source, LocalPath))

    @property
    def only_tells(self) -> bool:
        """Whether nothing is copied."""
        return not {"dry-run", "list-only"}.isdisjoint(self.options)

    @property
    def follows_folders(self) -> bool:
        """Whether what is in a folder is copied as well."""
        return not {"recursive", "-r"}.isdisjoint(self.options)

    def check(self, direction: Direction) -> None:
        """See that a push sends and a pull receives.

        Raises:
            CommandRefused: It does anything else.
        """
        if self.host is None:
            return
        outwards = isinstance(self.destination, RemotePath)
        if outwards is not (direction is Direction.PUSH):
            raise CommandRefused(
                f"{self.program} would {'send' if outwards else 'receive'} files, and this is a {direction.value}; "
                "the command was not run"
            )


def parse_rsync(words: Sequence[str]) -> Transfer:
    """Read the arguments of rsync.

    Raises:
        CommandRefused: They do more than copy between a folder and a host.
    """
    options: dict[str, None] = {}
    rules: list[FilterRule | None] = []
    shell: tuple[tuple[str, str], ...] = ()
    operands: list[str] = []
    for name, value in _rsync_options(iter(words)):
        if not name:
            operands.append(value)
        elif name == SHELL:
            shell = parse_shell(split(value))
        elif name in FILTERS:
            rules.append(_rule(name, value))
        elif name.startswith("no-") and name != "no-inc-recursive":
            options.pop(name.removeprefix("no-"), None)
        else:
            options[name] = None
    return _transfer(
        "rsync",
        tuple(options),
        operands,
        shell,
        rules=tuple(rule for rule in rules if rule),
        ignores=None in rules,
    )


def parse_scp(words: Sequence[str]) -> Transfer:
    """Read the arguments of scp.

    Raises:
        CommandRefused: They do more than copy between a folder and a host.
    """
    options: dict[str, None] = {}
    operands: list[str] = []
    shell: list[tuple[str, str]] = []
    for letter, value in options_of("scp", iter(words), flags="".join(SCP_FLAGS), valued=SCP_VALUED):
        if not letter:
            operands.append(value)
        elif letter == "l":
            options[f"-l{checked('scp', 'l', value, {'l': '[0-9]{1,9}'})}"] = None
        else:
            options.update(dict.fromkeys(SCP_FLAGS.get(letter, ())))
            shell += [(letter.replace("P", "p"), value)] if value or letter in "46" else []
    transfer = _transfer("scp", tuple(options), operands, shell)
    for source in transfer.sources:
        # scp names a local file after what the other side finds, and `.*` finds `..`.
        if isinstance(source, RemotePath) and re.search(r"(^|/)\.[^/]*[*?]", source.path):
            raise refused("scp", source.path)
    return transfer


def _transfer(
    program: str,
    options: tuple[str, ...],
    operands: Sequence[str],
    shell: Sequence[tuple[str, str]],
    *,
    rules: tuple[FilterRule, ...] = (),
    ignores: bool = False,
) -> Transfer:
    if len(operands) < 2:
        raise CommandRefused(f"{program} needs a source and a destination; the command was not run")
    *sources, destination = (operand_of(program, operand) for operand in operands)
    hosts = {source.host for source in sources if isinstance(source, RemotePath)}
    local = any(isinstance(source, LocalPath) for source in sources)
    if len(hosts) > 1 or (hosts and (local or isinstance(destination, RemotePath))):
        raise refused(program, "several hosts, or sources here and there")
    wrong = NOT_IN_A_PULL.intersection(options) if isinstance(destination, LocalPath) else set[str]()
    if wrong:
        raise CommandRefused(
            f"rsync --{min(wrong)} in a folder of this machine is not allowed; the command was not run"
        )
    if not hosts and isinstance(destination, LocalPath) and "dry-run" not in options:
        raise refused(program, "no host")
    transfer = Transfer(program, options, tuple(sources), destination, SSHOptions(), rules, ignores)
    return attrs.evolve(transfer, ssh=connection(program, shell, transfer.host))


def _rsync_options(words: Iterator[str]) -> Iterator[tuple[str, str]]:
    """Yield the options of rsync by their long names, and operands with no name."""
    for word in words:
        if word == "--":
            yield from (("", operand) for operand in words)
        elif word.startswith("--"):
            yield from _long(word, words)
        elif word.startswith("-") and word != "-":
            yield from _short(word, words)
        else:
            yield "", word


def _short(word: str, words: Iterator[str]) -> Iterator[tuple[str, str]]:
    for end, letter in enumerate(word[1:], 2):
        if letter in "ef":
            value = word[end:].removeprefix("=") or next(words, "")
            yield (SHELL if letter == "e" else "filter"), value
            return
        if letter not in SWITCHES and letter not in LEFT_OUT:
            raise refused("rsync", word)
        yield from ((name, "") for name in SWITCHES.get(letter, ()))


def _long(word: str, words: Iterator[str]) -> Iterator[tuple[str, str]]:
    name, equals, value = word[2:].partition("=")
    if name == SHELL or name in FILTERS:
        yield name, value if equals else next(words, "")
    elif name in VALUES:
        yield f"{name}={checked('rsync', name, value if equals else next(words, ''), VALUES)}", ""
    elif equals:
        raise refused("rsync", word)
    elif name == "archive":
        yield from ((name, "") for name in SWITCHES["a"])
    elif name.startswith("no-") and len(name) == 4 and (name[3] in SWITCHES or name[3] in LEFT_OUT):
        yield from ((f"no-{one}", "") for one in SWITCHES.get(name[3], ()))
    elif name in LONG_NAMES or (name.startswith("no-") and name[3:] in LONG_NAMES):
        yield name, ""
    elif name not in LONG_IGNORED and name.removeprefix("no-") not in LONG_IGNORED:
        raise refused("rsync", word)


def _rule(name: str, value: str) -> FilterRule | None:
    """Read a filter rule; None is the one that reads the `.gitignore` files."""
    if name == "filter" and value in IGNORE_FILTERS:
        return None
    signs = {"- ": False, "+ ": True} | ({"exclude ": False, "include ": True} if name == "filter" else {})
    sign = next((sign for sign in signs if value.startswith(sign)), None)
    if sign is None and name == "filter":
        raise refused("rsync", f"--filter={value}")
    pattern = value.removeprefix(sign or "")
    include = signs[sign] if sign else name == "include"
    if not pattern.strip("/ ") or pattern == "!":
        raise refused("rsync", f"--{name}={value}")
    return FilterRule(pattern, include=include)


def transfer_arguments(
    transfer: Transfer,
    direction: Direction,
    *,
    config: str | None,
    excluded: Iterable[FilterRule] = (),
    compare: str | None = None,
) -> list[str]:
    """Return the arguments of a transfer, all of them built from what was checked.

    Args:
        transfer: What was read.
        direction: What it is for.
        config: The path of ssh's configuration, in which no program finds anything to split; None where nothing is
            connected to.
        excluded: Rules of the user's, which come before those of the engine.
        compare: The folder, relative to the destination, whose files a pull does not fetch again.
    """
    ends = [*(source.text for source in transfer.sources), transfer.destination.text]
    if transfer.program == "scp":
        return ["scp", *(["-F", config] if config else []), *transfer.options, "--", *ends]
    options = [f"--{option}" for option in transfer.options]
    if direction is Direction.PULL:
        options = [option for option in options if option[2:] not in ONLY_IN_A_PUSH]
        options += ["--whole-file", "--safe-links", *([f"--compare-dest={compare}"] if compare else [])]
    rules = [rule.argument for rule in (*excluded, *transfer.rules)]
    rules += [f"--filter=:- {IGNORE_FILE}"] if transfer.ignores else []
    shell = [f"--rsh=ssh -F {config}"] if config else []
    return ["rsync", *options, *rules, *shell, "--", *ends]
