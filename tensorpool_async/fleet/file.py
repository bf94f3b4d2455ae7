"""Read a fleet file (TOML), and the public key files that it names, into a `Fleet`.

Every mistake is reported with the key and the line.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import attrs

from tensorpool_async.errors import FleetFileError
from tensorpool_async.fleet.spec import (
    ClusterGroup,
    Fleet,
    VolumeGroup,
    check_public_key,
    is_key_type,
    is_private_key,
)
from tensorpool_async.fleet.toml_lines import KeyLines, KeyPath


_Group = TypeVar("_Group", ClusterGroup, VolumeGroup)

_MAX_KEY_FILE_BYTES = 64 * 1024
_MAX_PATH_LENGTH = 1024
_PARSER_LOCATION = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


def load(path: str | os.PathLike[str]) -> Fleet:
    """Read a fleet file.

    Public keys that are given as paths are read from their files. Relative paths start at the folder of the fleet file.

    Args:
        path: The path of the fleet file.

    Raises:
        FleetFileError: The file cannot be read or contains a mistake. The error has the path and, where they are known,
            the line and the dotted key, such as `clusters.trainer.count`.
    """
    return _FleetFileReader(Path(path)).read()


class _FleetFileReader:
    """Reads one fleet file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._key_lines = KeyLines("")

    def read(self) -> Fleet:
        document = self._parse(self._read_text())
        self._check_keys(document, (), Fleet)
        if "name" not in document:
            self._fail('the fleet has no name: write name = "…" at the top', ("name",), line=1)
        if "clusters" not in document:
            self._fail("a fleet needs at least one table [clusters.…]", ("clusters",))
        clusters = [
            self._group(ClusterGroup, ("clusters", name), table)
            for name, table in self._tables(document, "clusters").items()
        ]
        volumes = [
            self._group(VolumeGroup, ("volumes", name), table)
            for name, table in self._tables(document, "volumes").items()
        ]
        try:
            return Fleet(document["name"], clusters, volumes, max_hourly_cost=document.get("max_hourly_cost"))
        except FleetFileError as error:
            self._fail_with(error, ())

    def _read_text(self) -> str:
        try:
            data = self._path.read_bytes()
        except OSError as error:
            self._fail(f"the fleet file cannot be read: {error.strerror or error}")
        except ValueError as error:
            self._fail(f"the fleet file cannot be read: {error}")
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            self._fail("the file is not UTF-8 text", line=line)

    def _parse(self, text: str) -> dict[str, Any]:
        self._key_lines = KeyLines(text)
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            self._fail_to_parse(str(error), text)
        except RecursionError:
            self._fail("the file is not valid TOML: it is nested too deeply")

    def _fail_to_parse(self, message: str, text: str) -> NoReturn:
        location = _PARSER_LOCATION.search(message)
        line = int(location[1]) if location and location[1] else text.rstrip().count("\n") + 1
        reason = message[: location.start()] if location else message
        if reason.startswith(("Cannot declare", "Cannot overwrite", "Duplicate", "Cannot mutate")):
            reason = f"is defined twice ({reason[0].lower()}{reason[1:]})"
        else:
            reason = f"the file is not valid TOML: {reason}"
        self._fail(reason, self._key_lines.key_before(line) or (), line=line)

    def _tables(self, document: Mapping[str, Any], key: str) -> dict[str, dict[str, Any]]:
        tables = document.get(key, {})
        if not isinstance(tables, dict):
            self._fail(f"must be tables, such as [{key}.main]", (key,))
        for name, table in cast("dict[str, Any]", tables).items():
            if not isinstance(table, dict):
                self._fail(f"must be a table, such as [{key}.{name}]", (key, name))
        return cast("dict[str, dict[str, Any]]", tables)

    def _group(self, kind: type[_Group], path: KeyPath, table: Mapping[str, Any]) -> _Group:
        self._check_keys(table, path, kind, without="name")
        options = dict(table)
        if kind is ClusterGroup and isinstance(options.get("public_keys"), list):
            options["public_keys"] = self._public_keys(options["public_keys"], (*path, "public_keys"))
        try:
            return kind(name=str(path[-1]), **options)
        except FleetFileError as error:
            # The group's name is the key of its table, so the path of an invalid name is that of the table.
            self._fail_with(error, path[:-1] if error.key == "name" else path, table_name=str(path[-1]))

    def _public_keys(self, entries: list[Any], path: KeyPath) -> list[str]:
        keys: list[str] = []
        for index, entry in enumerate(entries):
            if not isinstance(entry, str):
                self._fail("must be a list of strings, each a path or a key", (*path, index))
            try:
                keys.append(read_public_key(entry, self._path.parent))
            except ValueError as error:
                self._fail(str(error), (*path, index))
        return keys

    def _check_keys(
        self, table: Mapping[str, Any], path: KeyPath, kind: type[Any], *, without: str = ""
    ) -> None:
        fields = {field.name: field for field in attrs.fields(kind) if field.name != without}
        for key in table:
            if key not in fields:
                close = get_close_matches(key, fields, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"the keys are {', '.join(fields)}"
                self._fail(f"unknown key; {hint}", (*path, key))
        for name, field in fields.items():
            if path and field.default is attrs.NOTHING and name not in table:
                self._fail("is missing", (*path, name))

    def _fail_with(self, error: FleetFileError, path: KeyPath, *, table_name: str = "") -> NoReturn:
        """Raise the error of a group or of the fleet again, with the path of the file and the line."""
        key = error.key or ""
        text = str(error).removeprefix(f"{key}: ")
        if key == "name" and table_name:
            key = table_name
        parts = tuple(key.split(".")) if not path else (key,)
        self._fail(text, path + parts)

    def _fail(self, message: str, path: KeyPath = (), *, line: int | None = None) -> NoReturn:
        key = ".".join(part for part in path if isinstance(part, str))
        raise FleetFileError(
            message, path=str(self._path), line=line or self._key_lines.line_of(path), key=key or None
        )


def read_public_key(entry: str, folder: Path) -> str:
    """Return the key of one entry of `public_keys`: the entry itself, or the content of the file that it names.

    Args:
        entry: A key, or the path of a file that contains a key; `~` stands for the home folder.
        folder: The folder where relative paths start.

    Raises:
        ValueError: The file cannot be read, or its content or the entry is not a public key. The message does not
            contain the content.
    """
    words = entry.split(maxsplit=1)
    if len(words) == 2 and is_key_type(words[0]):
        check_public_key(entry)
        return entry.strip()
    if is_private_key(entry) or "\n" in entry.strip() or len(entry) > _MAX_PATH_LENGTH:
        check_public_key(entry)
    return _read_key_file(entry, folder)


def _read_key_file(entry: str, folder: Path) -> str:
    try:
        text = _read_text_file(folder / Path(entry).expanduser())
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise ValueError(f"the public key file {entry!r} cannot be read: {reason or error}") from None
    except ValueError as error:
        raise ValueError(f"the public key file {entry!r} cannot be read: {error}") from None
    try:
        check_public_key(text)
    except ValueError as error:
        raise ValueError(f"the public key file {entry!r} is invalid: {error}") from None
    return text.strip()


def _read_text_file(path: Path) -> str:
    if path.exists() and not path.is_file():
        raise ValueError("it is not a regular file")
    with path.open("rb") as file:
        data = file.read(_MAX_KEY_FILE_BYTES)
    # Bytes that are not UTF-8 are not a key either, and are reported as such.
    return data.decode(errors="replace")
