"""The fleet file: TOML, read into a `Fleet`, with the key and the line of every mistake."""

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
from tensorpool_async.fleet.public_keys import read_public_key
from tensorpool_async.fleet.spec import ClusterGroup, Fleet, VolumeGroup
from tensorpool_async.fleet.toml_lines import KeyLines, KeyPath


_Group = TypeVar("_Group", ClusterGroup, VolumeGroup)

_PARSER_PLACE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


def load(path: str | os.PathLike[str]) -> Fleet:
    """Read a fleet file.

    Public keys that are given as paths are read too, relative to the fleet file.

    Raises:
        FleetFileError: The file cannot be read, or has a mistake. It has the path, and where they are known the line
            and the dotted key, such as `clusters.trainer.count`.
    """
    return _Reader(Path(path)).fleet()


class _Reader:
    """One fleet file while it is read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = KeyLines("")

    def fleet(self) -> Fleet:
        document = self._parse(self._text())
        self._check_keys(document, (), Fleet)
        if "name" not in document:
            self._fail('the fleet has no name: name = "…" belongs at the top', ("name",), line=1)
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
            self._fail_as(error, ())

    def _text(self) -> str:
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
        self._lines = KeyLines(text)
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            self._fail_to_parse(str(error), text)
        except RecursionError:
            self._fail("the file is no valid TOML: it is nested too deeply")

    def _fail_to_parse(self, message: str, text: str) -> NoReturn:
        place = _PARSER_PLACE.search(message)
        line = int(place[1]) if place and place[1] else text.rstrip().count("\n") + 1
        reason = message[: place.start()] if place else message
        if reason.startswith(("Cannot declare", "Cannot overwrite", "Duplicate", "Cannot mutate")):
            reason = f"is there twice ({reason[0].lower()}{reason[1:]})"
        else:
            reason = f"the file is no valid TOML: {reason}"
        self._fail(reason, self._lines.key_before(line) or (), line=line)

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
            # A name that will not do is that of the table itself.
            self._fail_as(error, path[:-1] if error.key == "name" else path, instead_of_name=str(path[-1]))

    def _public_keys(self, entries: list[Any], path: KeyPath) -> list[str]:
        keys: list[str] = []
        for index, entry in enumerate(entries):
            if not isinstance(entry, str):
                self._fail("must be a list of paths or keys, each a text", (*path, index))
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
                hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(fields)}"
                self._fail(f"unknown key; {hint}", (*path, key))
        for name, field in fields.items():
            if path and field.default is attrs.NOTHING and name not in table:
                self._fail("is missing", (*path, name))

    def _fail_as(self, error: FleetFileError, path: KeyPath, *, instead_of_name: str = "") -> NoReturn:
        """Say where in the file a mistake is that was found by one of the classes."""
        key = error.key or ""
        text = str(error).removeprefix(f"{key}: ")
        if key == "name" and instead_of_name:
            key = instead_of_name
        parts = tuple(key.split(".")) if not path else (key,)
        self._fail(text, path + parts)

    def _fail(self, message: str, path: KeyPath = (), *, line: int | None = None) -> NoReturn:
        key = ".".join(part for part in path if isinstance(part, str))
        raise FleetFileError(
            message, path=str(self._path), line=line or self._lines.line_of(path), key=key or None
        )
