"""Find the line of each key in a TOML text; `tomllib` does not report lines.

The reader accepts every text that `tomllib` accepts. In a text that `tomllib` refuses, it reads up to the mistake.
"""

from __future__ import annotations

import contextlib
import re
import tomllib
from bisect import bisect_right
from typing import TypeAlias


KeyPath: TypeAlias = "tuple[str | int, ...]"
"""The keys from the outermost table inward; an int is an index into a list."""

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


class _InvalidTOML(Exception):
    """The text is not valid TOML from this position on."""


class KeyLines:
    """The keys of a TOML text in their order, each with its line, counted from 1."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0
        self._line_starts = [match.end() for match in re.finditer("\n", text)]
        self._keys: list[tuple[KeyPath, int]] = []
        with contextlib.suppress(_InvalidTOML, RecursionError):  # tomllib reports the mistake
            self._read_document()

    def line_of(self, path: KeyPath) -> int | None:
        """Return the line of a key, else of the innermost table around it that has a line, else None."""
        line_by_key = dict(reversed(self._keys))
        for size in range(len(path), 0, -1):
            if path[:size] in line_by_key:
                return line_by_key[path[:size]]
        return None

    def key_before(self, line: int) -> KeyPath | None:
        """Return the last key that stands on this line or before it."""
        return next((path for path, key_line in reversed(self._keys) if key_line <= line), None)

    def _record_key(self, path: KeyPath, position: int) -> None:
        self._keys.append((path, bisect_right(self._line_starts, position) + 1))

    def _read_document(self) -> None:
        table: KeyPath = ()
        while True:
            self._consume(_BLANK)
            if self._position >= len(self._text):
                return
            start = self._position
            if self._text[start] == "[":
                table = self._read_header()
                self._record_key(table, start)
            else:
                self._read_pair(table)

    def _read_header(self) -> KeyPath:
        brackets = "[[" if self._text.startswith("[[", self._position) else "["
        self._expect(brackets)
        path = self._read_key()
        self._expect("]" * len(brackets))
        return path

    def _read_pair(self, table: KeyPath) -> None:
        start = self._position
        path = table + self._read_key()
        self._record_key(path, start)
        self._expect("=")
        self._read_value(path)

    def _read_key(self) -> KeyPath:
        parts: list[str] = []
        while True:
            self._consume(_SPACE)
            parts.append(self._read_key_part())
            self._consume(_SPACE)
            if not self._text.startswith(".", self._position):
                return tuple(parts)
            self._position += 1

    def _read_key_part(self) -> str:
        if self._text[self._position : self._position + 1] in {'"', "'"}:
            quoted = self._consume(_STRING)
            try:
                return str(tomllib.loads(f"key = {quoted}")["key"])
            except tomllib.TOMLDecodeError:
                raise _InvalidTOML from None
        return self._consume(_BARE_KEY)

    def _read_value(self, path: KeyPath) -> None:
        self._consume(_SPACE)
        match self._text[self._position : self._position + 1]:
            case '"' | "'":
                self._consume(_STRING)
            case "[":
                self._read_list(path)
            case "{":
                self._read_inline_table(path)
            case _:
                self._consume(_SCALAR)

    def _read_list(self, path: KeyPath) -> None:
        self._expect("[")
        index = 0
        while not self._consume_end("]"):
            self._record_key((*path, index), self._position)
            self._read_value((*path, index))
            index += 1
            self._consume_separator("]")

    def _read_inline_table(self, path: KeyPath) -> None:
        self._expect("{")
        while not self._consume_end("}"):
            self._read_pair(path)
            self._consume_separator("}")

    def _consume_end(self, end: str) -> bool:
        self._consume(_BLANK)
        if not self._text.startswith(end, self._position):
            return False
        self._position += 1
        return True

    def _consume_separator(self, end: str) -> None:
        self._consume(_BLANK)
        if not self._text.startswith(end, self._position):
            self._expect(",")

    def _expect(self, token: str) -> None:
        self._consume(_SPACE)
        if not self._text.startswith(token, self._position):
            raise _InvalidTOML
        self._position += len(token)

    def _consume(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._position)
        if match is None:
            raise _InvalidTOML
        self._position = match.end()
        return match.group()
