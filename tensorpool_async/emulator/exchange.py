"""One request as the endpoints see it, and the checks on what it brings. Refusals have the form of FastAPI."""

import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import cached_property
from typing import Any, TypeGuard, TypeVar, cast
from urllib.parse import parse_qs

import attrs
from aiohttp import web

from tensorpool_async.emulator.faults import Scope
from tensorpool_async.emulator.limits import (
    MAX_ITEMS,
    MAX_NAME,
    MAX_NUMBER,
    MAX_PROBLEMS,
    MAX_PUBLIC_KEY,
)
from tensorpool_async.emulator.responses import Refusal, Reply, invalid, problem


_Choice = TypeVar("_Choice", bound=StrEnum)

_TRUE = frozenset({"true", "1", "yes", "on", "t", "y"})
_FALSE = frozenset({"false", "0", "no", "off", "f", "n"})


def parse_json(text: str | bytes) -> object:
    """Raises ValueError when the text is not JSON, or is nested too deeply for the parser."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


@attrs.define(slots=False, eq=False)
class Exchange:
    """One request, from its arrival to its answer.

    Attributes:
        request: The request as aiohttp has parsed it.
        label: "METHOD /route/{parameter}", or "METHOD unknown".
        argument: The parameter of the path, decoded.
        scope: The faults that this request may meet.
        polled: The request id, if this is a poll.
        url: The emulator's own address, for links to itself.
        body: The bytes of the body, once they are read.
    """

    request: web.BaseRequest
    label: str
    argument: str
    scope: Scope
    polled: str | None
    url: str
    body: bytes = b""

    @property
    def has_key(self) -> bool:
        """Whether the request carries a key, right or wrong."""
        return "Authorization" in self.request.headers

    @cached_property
    def query(self) -> Mapping[str, Sequence[str]]:
        """The query, with all values of each name."""
        text = self.request.rel_url.raw_query_string
        return parse_qs(text, keep_blank_values=True) if text else {}

    def flag(self, name: str) -> bool:
        """A boolean of the query, false when it is absent. Raises Refusal."""
        text = self.query.get(name, ("false",))[-1].lower()
        if text not in _TRUE | _FALSE:
            raise invalid(
                ["query", name], "Input should be a valid boolean, unable to interpret input", "bool_parsing"
            )
        return text in _TRUE

    def text(self, name: str) -> str:
        """A text of the query that must be there. Raises Refusal."""
        if name not in self.query:
            raise invalid(["query", name], "Field required", "missing")
        return self.query[name][-1]

    def whole(self, name: str, *, default: int | None = None) -> int:
        """A whole number above 0 of the query. Raises Refusal."""
        if name not in self.query and default is not None:
            return default
        text = self.text(name)
        try:
            number = int(text)
        except ValueError:
            raise invalid(
                ["query", name],
                "Input should be a valid integer, unable to parse string as an integer",
                "int_parsing",
            ) from None
        if not 1 <= number <= MAX_NUMBER:
            raise invalid(["query", name], *_out_of_range(number))
        return number

    def choice(self, name: str, allowed: type[_Choice]) -> _Choice | None:
        """A member of this enum, in any letter case, or None when it is absent. Raises Refusal."""
        if name not in self.query:
            return None
        wanted = self.text(name).lower()
        for member in allowed:
            if member.value.lower() == wanted:
                return member
        choices = ", ".join(f"'{member.value}'" for member in allowed)
        raise invalid(["query", name], f"Input should be one of {choices}", "enum")

    def fields(self) -> "Fields":
        """The body, which must be a JSON object. Raises Refusal."""
        if not self.body:
            raise invalid(["body"], "Field required", "missing")
        try:
            value = parse_json(self.body)
        except ValueError as error:
            at = error.pos if isinstance(error, json.JSONDecodeError) else 0
            raise invalid(["body", at], "JSON decode error", "json_invalid") from None
        if not _is_object(value):
            raise invalid(["body"], "Input should be a valid dictionary or object", "model_attributes_type")
        return Fields(value)


def _out_of_range(number: int) -> tuple[str, str]:
    if number < 1:
        return "Input should be greater than or equal to 1", "greater_than_equal"
    return f"Input should be less than or equal to {MAX_NUMBER}", "less_than_equal"


def _is_object(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


@attrs.define
class Fields:
    """A JSON body that is read field by field. Problems are collected, and `check` refuses them all at once."""

    values: Mapping[str, Any]
    problems: list[dict[str, Any]] = attrs.field(factory=list[dict[str, Any]])

    def reject(self, name: str, message: str, kind: str) -> None:
        """Note a problem with a field."""
        self.problems.append(problem(["body", name], message, kind))

    def check(self) -> None:
        """Raises Refusal if any field had a problem."""
        if self.problems:
            raise Refusal(Reply(422, {"detail": self.problems[:MAX_PROBLEMS]}))

    def need_one_of(self, *names: str) -> None:
        """Raises Refusal unless at least one of these fields has a value."""
        if all(self.values.get(name) is None for name in names):
            text = f"Value error, at least one of {', '.join(names)} must be given"
            self.problems.append(problem(["body"], text, "value_error"))
        self.check()

    def _given(self, name: str, *, required: bool) -> Any:
        value = self.values.get(name)
        if name not in self.values and required:
            self.reject(name, "Field required", "missing")
        return value

    def text(self, name: str, *, required: bool = False, limit: int = MAX_NAME) -> str | None:
        value = self._given(name, required=required)
        if isinstance(value, str):
            if 1 <= len(value) <= limit:
                return value
            self.reject(name, *_wrong_length(value, limit))
        elif value is not None or (required and name in self.values):
            self.reject(name, "Input should be a valid string", "string_type")
        return None

    def flag(self, name: str) -> bool | None:
        value = self._given(name, required=False)
        if value is None or isinstance(value, bool):
            return value
        self.reject(name, "Input should be a valid boolean", "bool_type")
        return None

    def whole(self, name: str, *, required: bool = False) -> int | None:
        """A whole number, at least 1."""
        value = self._given(name, required=required)
        if isinstance(value, int) and not isinstance(value, bool):
            if 1 <= value <= MAX_NUMBER:
                return value
            self.reject(name, *_out_of_range(value))
        elif value is not None or (required and name in self.values):
            self.reject(name, "Input should be a valid integer", "int_type")
        return None

    def number(self, name: str) -> float | None:
        value = self._given(name, required=False)
        if value is None or (
            isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MAX_NUMBER
        ):
            return value
        self.reject(name, "Input should be a valid number", "float_type")
        return None

    def texts(self, name: str, *, required: bool = False) -> tuple[str, ...]:
        """A list of texts, each of which may be as long as an SSH public key."""
        value = self._given(name, required=required)
        if isinstance(value, list):
            return self._strings(name, cast("list[Any]", value))
        if value is not None or (required and name in self.values):
            self.reject(name, "Input should be a valid list", "list_type")
        return ()

    def _strings(self, name: str, values: list[Any]) -> tuple[str, ...]:
        if len(values) > MAX_ITEMS:
            self.reject(name, f"List should have at most {MAX_ITEMS} items after validation", "too_long")
            return ()
        for index, value in enumerate(values):
            if not isinstance(value, str):
                self.problems.append(
                    problem(["body", name, index], "Input should be a valid string", "string_type")
                )
            elif len(value) > MAX_PUBLIC_KEY:
                self.problems.append(problem(["body", name, index], *_wrong_length(value, MAX_PUBLIC_KEY)))
        return tuple(value for value in values if isinstance(value, str))


def _wrong_length(text: str, limit: int) -> tuple[str, str]:
    if not text:
        return "String should have at least 1 character", "string_too_short"
    return f"String should have at most {limit} characters", "string_too_long"
