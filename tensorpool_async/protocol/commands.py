"""Which of the engine's commands may be run here.

The engine answers some requests with a shell command: an upload when a job is pushed, a download when a live job is
pulled, a login. A shell would run anything that hides in it, so there is none. A policy decides on the text: it refuses it,
makes a list of arguments of it, or reads it into a structure of which the arguments are built when they are used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tensorpool_async.errors import CommandRefused
from tensorpool_async.protocol.command_words import shown, split
from tensorpool_async.protocol.ssh_command import RemoteCommand, login_arguments, parse_ssh
from tensorpool_async.protocol.transfers import Transfer, parse_rsync, parse_scp


CheckedCommand = Transfer | RemoteCommand
"""A command that was read into a structure. Its arguments are built anew when it is run."""

CommandPolicy = Callable[[str], Sequence[str] | CheckedCommand]
"""Decides on a command text of the engine, or raises `CommandRefused`.

A list of arguments is run as it is, in the folder of the push or pull. A command that `transfers_only` has read is run so
that a push only reads from that folder and a pull only writes into it.
"""


def transfers_only(text: str) -> CheckedCommand:
    """Read a command that transfers files by rsync or scp, or connects by ssh; the default policy.

    Raises:
        CommandRefused: It is anything else, or does more than that.
    """
    words = split(text)
    match words[0]:
        case "rsync":
            return parse_rsync(words[1:])
        case "scp":
            return parse_scp(words[1:])
        case "ssh":
            return parse_ssh(words[1:])
        case program:
            raise CommandRefused(
                f"{shown(program)} is not one of rsync, scp and ssh; the command was not run"
            )


def refuse_all(text: str) -> list[str]:
    """Refuse every command: the policy of who runs nothing that others ask for."""
    raise CommandRefused(f"no command is run here: {shown(text)}")


def login(text: str) -> list[str]:
    """Return the arguments of a login that the engine names, built from what was checked.

    Raises:
        CommandRefused: It is no ssh, or does more than connect.
    """
    words = split(text)
    if words[0] != "ssh":
        raise CommandRefused(f"the engine's command is no ssh: {shown(text)}")
    return login_arguments(parse_ssh(words[1:]))
