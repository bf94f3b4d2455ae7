"""What the engine may say to ssh, and the configuration file that is made of it.

No option of the engine reaches ssh as it came. The options are read into `SSHOptions`, and ssh is given a configuration of
ours: `-F` passes it on to the ssh of a jump host as well, which options on the command line do not reach.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import attrs

from tensorpool_async.errors import CommandRefused
from tensorpool_async.protocol.command_words import (
    USER,
    Host,
    checked,
    host_of,
    jump_of,
    options_of,
    port_of,
    refused,
    shown,
)


KNOWN_HOSTS_VARIABLE: Final = "TENSORPOOL_SSH_KNOWN_HOSTS"
IDENTITY_VARIABLE: Final = "TENSORPOOL_SSH_IDENTITY"
"""The environment variables that tell ssh its files. A path that ssh takes from there is not split or expanded again."""

DEFAULT_KEYS: Final = frozenset(
    f"~/.ssh/id_{kind}" for kind in ("rsa", "dsa", "ecdsa", "ecdsa_sk", "ed25519", "ed25519_sk")
)
"""Private keys that the engine may name: ssh would offer them by itself."""

FLAGS: Final = "46CTnqtvx"
VALUED: Final = "ilpJo"
AS_SETTING: Final = {
    "4": ("AddressFamily", "inet"),
    "6": ("AddressFamily", "inet6"),
    "C": ("Compression", "yes"),
    "q": ("LogLevel", "QUIET"),
}
"""Letters of ssh that stand for a setting."""

SETTINGS: Final = {
    "AddressFamily": "any|inet|inet6",
    "Compression": "yes|no",
    "ConnectionAttempts": "[0-9]{1,3}",
    "ConnectTimeout": "[1-9][0-9]{0,4}",
    "IdentitiesOnly": "yes|no",
    "LogLevel": "(?i:quiet|fatal|error|info)",
    "PreferredAuthentications": "[a-z-]+(,[a-z-]+)*",
    "ServerAliveCountMax": "[0-9]{1,5}",
    "ServerAliveInterval": "[0-9]{1,5}",
    "StrictHostKeyChecking": "yes|no|ask|off|accept-new",
    "TCPKeepAlive": "yes|no",
}
"""Options of `ssh -o` that are used as the engine gives them, with the values that they may have."""

BY_LOWER_CASE: Final = {name.lower(): name for name in SETTINGS}
HOST_KEYS: Final = "StrictHostKeyChecking"
"""The option that only a login at a terminal takes from the engine."""

OVERRIDDEN: Final = frozenset(
    {
        "batchmode",
        "checkhostip",
        "globalknownhostsfile",
        "kbdinteractiveauthentication",
        "passwordauthentication",
        "requesttty",
        "updatehostkeys",
        "userknownhostsfile",
    }
)
"""Options of `ssh -o` that are taken note of and left out: `OURS` says how it is."""

OURS: Final = f"""\
Host *
    BatchMode yes
    StrictHostKeyChecking accept-new
    UserKnownHostsFile ${{{KNOWN_HOSTS_VARIABLE}}}
    ClearAllForwardings yes
    ForwardAgent no
    ForwardX11 no
    Tunnel no
    PermitLocalCommand no
    RemoteCommand none
    RequestTTY no
    ControlMaster no
    ControlPath none
    ConnectTimeout 30
    ServerAliveInterval 15
    ServerAliveCountMax 4
"""
OWN_KEY: Final = f"    IdentitiesOnly yes\n    IdentityFile ${{{IDENTITY_VARIABLE}}}\n"
"""What a key of the user's adds: no other key of the user's opens a door to the engine."""

USERS: Final = "Include ~/.ssh/config\nInclude /etc/ssh/ssh_config\n"


@attrs.frozen
class SSHOptions:
    """What the engine says about a connection.

    Attributes:
        port: The port; None where the engine does not say.
        user: Who logs in; None where the engine does not say.
        jumps: The hosts that the connection goes through, the first one first.
        keys: The private keys that the engine names, as it names them.
        settings: Options of `ssh -o` with their values, all of them checked.
    """

    port: int | None = None
    user: str | None = None
    jumps: tuple[Host, ...] = ()
    keys: tuple[str, ...] = ()
    settings: tuple[tuple[str, str], ...] = ()


@attrs.frozen
class RemoteCommand:
    """An ssh that logs in, or runs a command on the other side.

    Attributes:
        ssh: How it connects.
        host: The host.
        words: The command for the other side, which ssh joins with spaces; none to log in.
    """

    ssh: SSHOptions
    host: Host
    words: tuple[str, ...] = ()
    program: str = attrs.field(default="ssh", init=False)


def parse_ssh(words: Sequence[str]) -> RemoteCommand:
    """Read the arguments of ssh. It takes options before and after its host.

    Raises:
        CommandRefused: They name no host, or do more than connect.
    """
    rest = iter(words)
    found: list[tuple[str, str]] = []
    operands: list[str] = []
    for letter, value in options_of("ssh", rest, flags=FLAGS, valued=VALUED):
        if letter:
            found.append((letter, value))
            continue
        operands.append(value)
        if len(operands) == 2:
            operands.extend(rest)
    if not operands:
        raise CommandRefused("ssh without a host is not allowed; the command was not run")
    host = host_of("ssh", operands[0])
    return RemoteCommand(connection("ssh", found, host), host, tuple(operands[1:]))


def parse_shell(words: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Read what rsync is to connect with: ssh with options, and nothing else.

    Raises:
        CommandRefused: It is anything else.
    """
    if words[0] != "ssh":
        raise refused("rsync", f"-e {words[0]}")
    found = tuple(options_of("ssh", iter(words[1:]), flags=FLAGS, valued=VALUED))
    if any(not letter for letter, _ in found):
        raise refused("rsync", "a host in -e")
    return found


def connection(program: str, found: Sequence[tuple[str, str]], host: Host | None) -> SSHOptions:
    """Check the options of an ssh, each a letter and a value.

    Raises:
        CommandRefused: An option is not allowed, or its value is not of the option's alphabet.
    """
    options = SSHOptions()
    for letter, value in found:
        options = _with_option(program, options, letter, value)
    names = [jump.name for jump in options.jumps] + ([host.name] if host else [])
    if len(set(names)) < len(names):
        raise refused(program, "a host that is its own jump host")
    return options


def _with_option(program: str, options: SSHOptions, letter: str, value: str) -> SSHOptions:
    """Add what one option says. Of most options ssh believes the first that it meets."""
    if letter in AS_SETTING:
        return _with_setting(options, *AS_SETTING[letter])
    if letter == "o":
        return _with_named(program, options, value)
    if letter == "p":
        port = port_of(program, value)
        return options if options.port else attrs.evolve(options, port=port)
    if letter == "J":
        jumps = tuple(jump_of(program, hop) for hop in value.split(","))
        return options if options.jumps else attrs.evolve(options, jumps=jumps)
    if letter in "il" and (value.startswith("-") or (letter == "l" and not USER.fullmatch(value))):
        raise refused(program, f"-{letter} {value}")
    if letter == "l":
        return options if options.user else attrs.evolve(options, user=value)
    return attrs.evolve(options, keys=(*options.keys, value)) if letter == "i" else options


def _with_named(program: str, options: SSHOptions, text: str) -> SSHOptions:
    """Add what `-o` says: `name=value`, or `name value`."""
    parts = re.split(r" *= *| +", text.strip(" "), maxsplit=1)
    name, value = parts[0].lower(), parts[1] if len(parts) == 2 else ""
    name = BY_LOWER_CASE.get(name, name)
    letters = {"port": "p", "user": "l", "identityfile": "i", "proxyjump": "J"}
    if name in OVERRIDDEN:
        return options
    if name in letters and value:
        return _with_option(program, options, letters[name], value)
    return _with_setting(options, name, checked(program, name, value, SETTINGS))


def _with_setting(options: SSHOptions, name: str, value: str) -> SSHOptions:
    if name in dict(options.settings):  # ssh believes the first
        return options
    return attrs.evolve(options, settings=(*options.settings, (name, value)))


def configuration(options: SSHOptions, host: Host, private_key: str | None) -> str:
    """Return the text of the configuration file with which ssh connects to a host.

    The user's own configuration comes last, so that it decides only what is left open. An alias of the user's does not
    lend its address: `HostName` is the name that the engine has said.

    Args:
        options: How the engine wants to connect.
        host: Where to.
        private_key: The private key that the user has named, as the engine was told; ssh takes its path from the
            environment, and offers no other key.

    Raises:
        CommandRefused: The engine names another private key than the user's and those that ssh tries by itself.
    """
    lines = [f"Host {host.name}", f"    HostName {host.name}"]
    lines += [f"    {name} {value}" for name, value in options.settings if name != HOST_KEYS]
    lines += [f"    IdentityFile {key}" for key in _default_keys(options, private_key)]
    if options.port is not None:
        lines.append(f"    Port {options.port}")
    if options.user is not None:
        lines.append(f"    User {options.user}")
    if options.jumps:
        lines.append(f"    ProxyJump {','.join(jump.bracketed for jump in options.jumps)}")
    for jump in options.jumps:
        lines += [f"Host {jump.name}", f"    HostName {jump.name}"]
    own_key = "" if private_key is None else OWN_KEY
    return "\n".join(lines) + "\n" + OURS + own_key + USERS


def _default_keys(options: SSHOptions, private_key: str | None) -> list[str]:
    for key in options.keys:
        if key != private_key and key not in DEFAULT_KEYS:
            raise CommandRefused(
                f"the engine names the private key {shown(key)}, which is neither the one of private_key= nor one of "
                "ssh's own; the command was not run"
            )
    return [] if private_key is not None else list(options.keys)


LOGIN_KEY: Final = re.compile(r"~(/(?!\.\.(/|$))[\w .@+-]+)+", re.ASCII)


def login_arguments(command: RemoteCommand) -> list[str]:
    """Return the arguments of an ssh that a person runs at a terminal, built from what was checked.

    A private key may be named below the home folder, and how host keys are checked; in which file they are is not for the
    engine to say.

    Raises:
        CommandRefused: The engine names a private key elsewhere, or one whose name ssh would expand.
    """
    ssh = command.ssh
    arguments = ["ssh"]
    if ssh.port is not None:
        arguments += ["-p", str(ssh.port)]
    for key in ssh.keys:
        if not LOGIN_KEY.fullmatch(key):
            raise refused("ssh", f"-i {key}")
        arguments += ["-i", key]
    if ssh.jumps:
        arguments += ["-J", ",".join(jump.bracketed for jump in ssh.jumps)]
    for name, value in ssh.settings:
        arguments += ["-o", f"{name}={value}"]
    if ssh.user is not None and command.host.user is None:
        arguments += ["-l", ssh.user]
    return [*arguments, *(["--"] if command.words else []), command.host.login, *command.words]
