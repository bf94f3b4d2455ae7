"""Which of the engine's commands may be run here.

The engine answers some requests with a shell command: an upload when a job is pushed, a download when a live job is
pulled, a login. A shell would run anything that hides in it, so there is none: the text is split into arguments, and
what only a shell would understand is refused. What is left must be `rsync`, `scp` or `ssh`, with options that are known to
neither run other programs here nor write outside of the folder, and with local paths inside of the folder that the
command is run in.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath

from tensorpool_async.errors import CommandRefused


CommandPolicy = Callable[[str], Sequence[str]]
"""Makes the arguments of a command text, or raises `CommandRefused`."""

SHELL_ONLY = re.compile(r"[\x00-\x08\x0b-\x1f\x7f`$\n\r]")
OPERATORS = frozenset("();<>|&")

SSH_FLAGS = frozenset("46CNTnqtvx")
SSH_WITH_VALUE = frozenset("ilpJ")
SSH_OPTIONS = frozenset(
    {
        "batchmode",
        "compression",
        "connectionattempts",
        "connecttimeout",
        "globalknownhostsfile",
        "identitiesonly",
        "identityfile",
        "loglevel",
        "passwordauthentication",
        "port",
        "preferredauthentications",
        "proxyjump",
        "requesttty",
        "serveralivecountmax",
        "serveraliveinterval",
        "stricthostkeychecking",
        "tcpkeepalive",
        "user",
        "userknownhostsfile",
    }
)
"""Options of `ssh -o`. Those that run something here, such as ProxyCommand and LocalCommand, are not among them."""

RSYNC_FLAGS = frozenset("0AEHIKLPRSWXabcdghiklmnopqrtuvxyzDO")
RSYNC_LONG = frozenset(
    {
        "append-verify",
        "archive",
        "bwlimit",
        "checksum",
        "chmod",
        "compress",
        "compress-level",
        "contimeout",
        "copy-links",
        "cvs-exclude",
        "delete",
        "dirs",
        "dry-run",
        "exclude",
        "exclude-from",
        "executability",
        "existing",
        "filter",
        "group",
        "human-readable",
        "ignore-errors",
        "ignore-existing",
        "include",
        "info",
        "inplace",
        "itemize-changes",
        "links",
        "list-only",
        "max-size",
        "min-size",
        "mkpath",
        "no-compress",
        "no-group",
        "no-motd",
        "no-owner",
        "no-perms",
        "no-relative",
        "no-times",
        "omit-dir-times",
        "out-format",
        "owner",
        "partial",
        "perms",
        "progress",
        "prune-empty-dirs",
        "quiet",
        "recursive",
        "relative",
        "safe-links",
        "size-only",
        "stats",
        "timeout",
        "times",
        "update",
        "verbose",
        "whole-file",
    }
)
RSYNC_VALUES_APART = frozenset(
    {"exclude", "include", "filter", "exclude-from", "info", "chmod", "timeout", "bwlimit"}
)
SCP_FLAGS = frozenset("346BCOTpqrv")
SCP_WITH_VALUE = frozenset("ilPJ")


def transfers_only(text: str) -> list[str]:
    """Return the arguments of a command that transfers files or logs in; the default policy.

    Raises:
        CommandRefused: It is anything else, or does more than that.
    """
    arguments = split(text)
    check = {"rsync": _check_rsync, "scp": _check_scp, "ssh": _check_ssh}.get(arguments[0])
    if check is None:
        raise CommandRefused(f"{arguments[0]!r} is not one of rsync, scp and ssh; the command was not run")
    check(arguments[1:])
    return arguments


def refuse_all(text: str) -> list[str]:
    """Refuse every command: the policy of who runs nothing that others ask for."""
    raise CommandRefused(f"no command is run here: {_shown(text)}")


def split(text: str) -> list[str]:
    """Split a command text as a shell would, and refuse what only a shell could carry out.

    Raises:
        CommandRefused: It is empty, cannot be split, or needs a shell.
    """
    if SHELL_ONLY.search(text):
        raise CommandRefused(f"the command needs a shell, or holds control characters: {_shown(text)}")
    try:
        lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        lexer.commenters = ""
        tokens = list(lexer)
    except ValueError as error:
        raise CommandRefused(f"the command cannot be read ({error}): {_shown(text)}") from None
    if not tokens:
        raise CommandRefused("the command is empty")
    if any(token and set(token) <= OPERATORS for token in tokens):
        raise CommandRefused(f"the command needs a shell: {_shown(text)}")
    return tokens


def _shown(text: str) -> str:
    return repr(text if len(text) <= 120 else text[:119] + "…")


def _refuse(program: str, argument: str) -> CommandRefused:
    return CommandRefused(f"{program} with {_shown(argument)} is not allowed; the command was not run")


def _check_ssh(arguments: Sequence[str]) -> None:
    rest = iter(arguments)
    operands = list(_without_options("ssh", rest, SSH_FLAGS, SSH_WITH_VALUE))
    # What follows the host is run on the other side, which is the engine's own.
    if not operands:
        raise CommandRefused("ssh without a host is not allowed; the command was not run")


def _without_options(
    program: str, arguments: Iterator[str], flags: frozenset[str], with_value: frozenset[str]
) -> Iterator[str]:
    """Check the options of ssh or scp, and yield what is no option.

    ssh takes options before and after its host. The second argument that is no option begins the remote command.
    """
    operands = 0
    for argument in arguments:
        if not argument.startswith("-") or argument == "-":
            yield argument
            operands += 1
            if program == "ssh" and operands == 2:
                yield from arguments
            continue
        letter, value = argument[1:2], argument[2:]
        if letter == "o":
            _check_ssh_option(program, value or next(arguments, ""))
        elif letter in with_value:
            if (value or next(arguments, "")).startswith("-"):
                raise _refuse(program, argument)
        elif not letter or not set(argument[1:]) <= flags:
            raise _refuse(program, argument)


def _check_ssh_option(program: str, option: str) -> None:
    name = re.split(r"[\s=]", option.strip(), maxsplit=1)[0].casefold()
    if name not in SSH_OPTIONS:
        raise _refuse(program, f"-o {option}")


def _check_scp(arguments: Sequence[str]) -> None:
    _check_operands("scp", list(_without_options("scp", iter(arguments), SCP_FLAGS, SCP_WITH_VALUE)))


def _check_rsync(arguments: Sequence[str]) -> None:
    rest = iter(arguments)
    operands: list[str] = []
    for argument in rest:
        if argument.startswith("--"):
            _check_rsync_long(argument, rest)
        elif argument.startswith("-") and len(argument) > 1:
            _check_rsync_flags(argument, rest)
        else:
            operands.append(argument)
    _check_operands("rsync", operands)
    if "--delete" in arguments and not _is_remote(operands[-1]):
        raise CommandRefused(
            "rsync --delete in a folder of this machine is not allowed; the command was not run"
        )


def _check_rsync_flags(argument: str, rest: Iterator[str]) -> None:
    flags, has_shell, value = argument[1:].partition("e")
    if not set(flags) <= RSYNC_FLAGS:
        raise _refuse("rsync", argument)
    if has_shell:
        _check_rsync_shell(value.removeprefix("=") or next(rest, ""))


def _check_rsync_long(argument: str, rest: Iterator[str]) -> None:
    name, has_value, value = argument[2:].partition("=")
    if name == "rsh":
        _check_rsync_shell(value if has_value else next(rest, ""))
        return
    if name not in RSYNC_LONG:
        raise _refuse("rsync", argument)
    if name in RSYNC_VALUES_APART and not has_value:
        value = next(rest, "")
    if name == "exclude-from" and not _stays_inside(value):
        raise _refuse("rsync", argument)
    if name == "filter" and not value.lstrip().startswith(("+", "-", "include", "exclude", ":- .gitignore")):
        raise _refuse("rsync", argument)


def _check_rsync_shell(command: str) -> None:
    arguments = split(command)
    if arguments[0] != "ssh":
        raise _refuse("rsync", f"-e {command}")
    operands = list(_without_options("ssh", iter(arguments[1:]), SSH_FLAGS, SSH_WITH_VALUE))
    if operands:
        raise _refuse("rsync", f"-e {command}")


def _check_operands(program: str, operands: Sequence[str]) -> None:
    """See that there are a source and a destination, and that local paths stay inside."""
    if len(operands) < 2:
        raise CommandRefused(f"{program} needs a source and a destination; the command was not run")
    for operand in operands:
        if not _is_remote(operand) and not _stays_inside(operand):
            raise _refuse(program, operand)


def _is_remote(operand: str) -> bool:
    host, colon, _ = operand.partition(":")
    return bool(colon) and "/" not in host


def _stays_inside(path: str) -> bool:
    """Whether a local path is below the folder that the command is run in."""
    pure = PurePosixPath(path)
    return bool(path) and not pure.is_absolute() and ".." not in pure.parts and not path.startswith("~")
