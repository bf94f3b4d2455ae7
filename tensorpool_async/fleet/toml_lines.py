"""On which line of a TOML text each key stands: the standard library's parser does not say.

It reads a text that the parser accepts, and the part before the mistake of one that the parser refuses.
"""

from __future__ import annotations

import contextlib
import re
import tomllib
from bisect import bisect_right
from typing import TypeAlias


KeyPath: TypeAlias = "tuple[str | int, ...]"
"""Keys from the outermost table inward; a number is the place in a list."""

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}'
    r"|'''.*?'{3,5}"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\]}\n#]+")


class _NoSense(Exception):
    """The text is no TOML from here on."""


class KeyLines:
    """The keys of a TOML text in their order, each with its line, counted from 1."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._starts = [match.end() for match in re.finditer("\n", text)]
        self._found: list[tuple[KeyPath, int]] = []
        with contextlib.suppress(_NoSense, RecursionError):  # the parser says what is wrong
            self._document()

    def line_of(self, path: KeyPath) -> int | None:
        """Return the line of a key, or of the innermost table around it that has a line."""
        lines = dict(reversed(self._found))
        for size in range(len(path), 0, -1):
            if path[:size] in lines:
                return lines[path[:size]]
        return None

    def key_before(self, line: int) -> KeyPath | None:
        """Return the last key that stands on this line or before it."""
        return next((path for path, at in reversed(self._found) if at <= line), None)

    def _note(self, path: KeyPath, at: int) -> None:
        self._found.append((path, bisect_right(self._starts, at) + 1))

    def _document(self) -> None:
        table: KeyPath = ()
        while True:
            self._take(_BLANK)
            if self._at >= len(self._text):
                return
            start = self._at
            if self._text[start] == "[":
                table = self._header()
                self._note(table, start)
            else:
                self._pair(table)

    def _header(self) -> KeyPath:
        brackets = "[[" if self._text.startswith("[[", self._at) else "["
        self._expect(brackets)
        path = self._key()
        self._expect("]" * len(brackets))
        return path

    def _pair(self, table: KeyPath) -> None:
        start = self._at
        path = table + self._key()
        self._note(path, start)
        self._expect("=")
        self._value(path)

    def _key(self) -> KeyPath:
        parts: list[str] = []
        while True:
            self._take(_SPACE)
            parts.append(self._key_part())
            self._take(_SPACE)
            if not self._text.startswith(".", self._at):
                return tuple(parts)
            self._at += 1

    def _key_part(self) -> str:
        if self._text[self._at : self._at + 1] in {'"', "'"}:
            quoted = self._take(_STRING)
            try:
                return str(tomllib.loads(f"key = {quoted}")["key"])
            except tomllib.TOMLDecodeError:
                raise _NoSense from None
        return self._take(_BARE_KEY)

    def _value(self, path: KeyPath) -> None:
        self._take(_SPACE)
        match self._text[self._at : self._at + 1]:
            case '"' | "'":
                self._take(_STRING)
            case "[":
                self._list(path)
            case "{":
                self._inline_table(path)
            case _:
                self._take(_SCALAR)

    def _list(self, path: KeyPath) -> None:
        self._expect("[")
        index = 0
        while not self._ends_with("]"):
            self._note((*path, index), self._at)
            self._value((*path, index))
            index += 1
            self._separator("]")

    def _inline_table(self, path: KeyPath) -> None:
        self._expect("{")
        while not self._ends_with("}"):
            self._pair(path)
            self._separator("}")

    def _ends_with(self, end: str) -> bool:
        self._take(_BLANK)
        if not self._text.startswith(end, self._at):
            return False
        self._at += 1
        return True

    def _separator(self, end: str) -> None:
        self._take(_BLANK)
        if not self._text.startswith(end, self._at):
            self._expect(",")

    def _expect(self, token: str) -> None:
        self._take(_SPACE)
        if not self._text.startswith(token, self._at):
            raise _NoSense
        self._at += len(token)

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise _NoSense
        self._at = match.end()
        return match.group()
