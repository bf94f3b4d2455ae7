"""The words of the engine's commands: where they end, and what a host, a local path and a remote path may hold.

The programs that are run here read their arguments by rules of their own: rsync splits `-e` and takes `host::` for a
daemon, scp takes `:x` for a local file, ssh expands `%h` and `${HOME}`. So a word of the engine is only used where it is of
a small alphabet that every program reads alike.
"""

from __future__ import annotations

import ipaddress
import re
import shlex
from collections.abc import Iterator, Mapping

import attrs

from tensorpool_async.errors import CommandRefused


LONGEST_TEXT = 64 * 1024
"""Characters of a command text; more is refused."""

SHELL_ONLY = frozenset("`$")
OPERATORS = frozenset("();<>|&")

USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
NUMBER = re.compile(r"[0-9]{1,5}")
LOCAL_NAME = re.compile(r"[^/\\:*?\[\]{}\"'<>|]+")
REMOTE_PATH = re.compile(r"[\w ./@%+,=~*?-]*")


@attrs.frozen
class Host:
    """A machine that the engine names.

    Attributes:
        name: Its name or address, in lower case; an IPv6 address without brackets.
        user: Who logs in; None where the engine does not say.
        port: The port of a jump host; None where the engine does not say.
    """

    name: str
    user: str | None = None
    port: int | None = None

    @property
    def login(self) -> str:
        """The host as ssh takes it as an argument."""
        return self._with_user(self.name)

    @property
    def bracketed(self) -> str:
        """The host as it stands before a colon."""
        name = self._with_user(f"[{self.name}]" if ":" in self.name else self.name)
        return name if self.port is None else f"{name}:{self.port}"

    def _with_user(self, name: str) -> str:
        return name if self.user is None else f"{self.user}@{name}"


@attrs.frozen
class RemotePath:
    """A path on a host.

    Attributes:
        host: The host.
        path: The path there; empty for the home folder.
    """

    host: Host
    path: str

    @property
    def text(self) -> str:
        """The operand, which rsync and scp read alike."""
        return f"{self.host.bracketed}:{self.path}"


@attrs.frozen
class LocalPath:
    """A path below the folder of a transfer.

    Attributes:
        parts: Its names; none for the folder itself.
        contents: Whether it ends in a slash: the contents of a folder are meant.
    """

    parts: tuple[str, ...]
    contents: bool = False

    @property
    def text(self) -> str:
        """The operand. It begins with `./`, so no program takes it for an option or for a host."""
        return "./" + "/".join(self.parts) + ("/" if self.parts and self.contents else "")


def split(text: str) -> list[str]:
    """Split a command text as a shell would, and refuse what only a shell could carry out.

    Raises:
        CommandRefused: It is empty or too long, cannot be split, needs a shell or holds control characters.
    """
    text = text.strip()
    if len(text) > LONGEST_TEXT or not text.isprintable() or SHELL_ONLY & set(text):
        raise CommandRefused(
            f"the command needs a shell, is too long or holds control characters: {shown(text)}"
        )
    try:
        lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        lexer.commenters = ""
        tokens = list(lexer)
    except ValueError as error:
        raise CommandRefused(f"the command cannot be read ({error}): {shown(text)}") from None
    if not tokens:
        raise CommandRefused("the command is empty")
    if any(token and set(token) <= OPERATORS for token in tokens):
        raise CommandRefused(f"the command needs a shell: {shown(text)}")
    return tokens


def shown(text: str) -> str:
    """Return a text of the engine as it may stand in a message: short, and without control characters."""
    return ascii(text if len(text) <= 120 else text[:119] + "…")


def refused(program: str, what: str) -> CommandRefused:
    """Make the error for an argument that is not allowed."""
    return CommandRefused(f"{program} with {shown(what)} is not allowed; the command was not run")


def options_of(program: str, words: Iterator[str], *, flags: str, valued: str) -> Iterator[tuple[str, str]]:
    """Yield each option as its letter and value, and each operand with no letter, as getopt reads them.

    Raises:
        CommandRefused: An option is none of `flags` and `valued`, lacks its value, or an operand begins with `-`.
    """
    for word in words:
        if word == "--":
            yield from (("", operand) for operand in words)
        elif word.startswith("-") and word != "-":
            yield from _bundle(program, word, words, flags=flags, valued=valued)
        else:
            yield "", word


def _bundle(
    program: str, word: str, words: Iterator[str], *, flags: str, valued: str
) -> Iterator[tuple[str, str]]:
    for end, letter in enumerate(word[1:], 2):
        if letter in valued:
            value = word[end:] or next(words, "")
            if not value:
                raise refused(program, word)
            yield letter, value
            return
        if letter not in flags:
            raise refused(program, word)
        yield letter, ""


def host_of(program: str, text: str) -> Host:
    """Read `[user@]host`, where the host is a name or an address.

    Raises:
        CommandRefused: It holds anything that is part of neither.
    """
    user, at, name = text.rpartition("@")
    if at and not USER.fullmatch(user):
        raise refused(program, text)
    if name.startswith("[") and name.endswith("]"):
        name = name[1:-1]
    if not HOST.fullmatch(name) and not _is_ipv6(name):
        raise refused(program, text)
    return Host(name.lower(), user if at else None)


def _is_ipv6(name: str) -> bool:
    try:
        return ipaddress.IPv6Address(name).scope_id is None
    except ValueError:
        return False


def jump_of(program: str, text: str) -> Host:
    """Read one hop of ssh's `-J`: `[user@]host[:port]`.

    Raises:
        CommandRefused: It is none.
    """
    before, colon, port = text.rpartition(":")
    if not colon or text.endswith("]") or (before.count(":") and not before.endswith("]")):
        return host_of(program, text)
    return attrs.evolve(host_of(program, before), port=port_of(program, port))


def port_of(program: str, text: str) -> int:
    """Read a port.

    Raises:
        CommandRefused: It is none.
    """
    if not NUMBER.fullmatch(text) or not 0 < int(text) < 65536:
        raise refused(program, f"port {text}")
    return int(text)


def operand_of(program: str, text: str) -> LocalPath | RemotePath:
    """Read a source or a destination. What is neither clearly local nor clearly remote is refused.

    Raises:
        CommandRefused: It begins with `-`, leads out of its folder, or holds characters that a program may interpret.
    """
    if text.startswith("-") or not text:
        raise refused(program, text)
    if ":" not in text:
        return _local(program, text)
    bracket = text.find("]:")
    before, path = (text[: bracket + 1], text[bracket + 2 :]) if bracket > 0 else text.split(":", 1)
    if not REMOTE_PATH.fullmatch(path) or path.startswith(("-", "//")) or ".." in path.split("/"):
        raise refused(program, text)
    if bracket > 0 and not _is_ipv6(before.rpartition("@")[2].removeprefix("[").removesuffix("]")):
        raise refused(program, text)
    return RemotePath(host_of(program, before), path)


def _local(program: str, text: str) -> LocalPath:
    parts = tuple(part for part in text.split("/") if part not in {"", "."})
    if text.startswith(("/", "~")) or ".." in parts:
        raise refused(program, text)
    if any(not LOCAL_NAME.fullmatch(part) or part.startswith("~") for part in parts):
        raise refused(program, text)
    return LocalPath(parts, contents=text.endswith(("/", "/.")) or not parts)


def checked(program: str, name: str, value: str, allowed: Mapping[str, str]) -> str:
    """Return the value of an option that is known and whose value is of its alphabet.

    Raises:
        CommandRefused: The option is unknown, or its value is not of that alphabet.
    """
    if name not in allowed or not re.fullmatch(allowed[name], value, re.ASCII):
        raise refused(program, f"{name}={value}")
    return value
