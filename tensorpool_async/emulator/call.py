"""One request as the routes see it, and the checks on what it brings, refused in the form of FastAPI."""

import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, TypeGuard, TypeVar, cast

import attrs

from tensorpool_async.emulator.answers import Answer, Refusal, invalid, problem
from tensorpool_async.emulator.faults import Scope


_Choice = TypeVar("_Choice", bound=StrEnum)

# No body that makes sense comes near this, and the parser's recursion never reaches the stack's limit.
MOST_BRACKETS = 500
# Nothing that is counted in nodes, gigabytes or dollars comes near this.
MOST = 1_000_000_000

_TRUE = frozenset({"true", "1", "yes", "on", "t", "y"})
_FALSE = frozenset({"false", "0", "no", "off", "f", "n"})


@attrs.frozen
class Call:
    """What a client asks for.

    Attributes:
        argument: The last part of the path where the route has a parameter there, decoded.
        query: The query, all values.
        body: The bytes of the body.
        scope: The faults that this request may meet.
        url: The emulator's own address, for links to itself.
        has_key: Whether there was a key, right or wrong.
    """

    argument: str
    query: Mapping[str, Sequence[str]]
    body: bytes
    scope: Scope
    url: str
    has_key: bool = True

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
        if not 1 <= number <= MOST:
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
        if self.body.count(b"[") + self.body.count(b"{") > MOST_BRACKETS:
            raise invalid(["body", 0], "JSON decode error", "json_invalid")
        try:
            value: object = json.loads(self.body)
        except ValueError as error:
            at = error.pos if isinstance(error, json.JSONDecodeError) else 0
            raise invalid(["body", at], "JSON decode error", "json_invalid") from None
        if not _is_object(value):
            raise invalid(["body"], "Input should be a valid dictionary or object", "model_attributes_type")
        return Fields(value)


def _out_of_range(number: int) -> tuple[str, str]:
    if number < 1:
        return "Input should be greater than or equal to 1", "greater_than_equal"
    return f"Input should be less than or equal to {MOST}", "less_than_equal"


def _is_object(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


@attrs.define
class Fields:
    """A JSON body that is read field by field; what is wrong is collected and refused at once by `check`."""

    values: Mapping[str, Any]
    problems: list[dict[str, Any]] = attrs.field(factory=list[dict[str, Any]])

    def wrong(self, name: str, message: str, kind: str) -> None:
        self.problems.append(problem(["body", name], message, kind))

    def check(self) -> None:
        """Raises Refusal if any field was wrong."""
        if self.problems:
            raise Refusal(Answer(422, {"detail": self.problems}))

    def some_of(self, *names: str) -> None:
        """At least one of these must have a value."""
        if all(self.values.get(name) is None for name in names):
            text = f"Value error, at least one of {', '.join(names)} must be given"
            self.problems.append(problem(["body"], text, "value_error"))

    def _given(self, name: str, *, required: bool) -> Any:
        value = self.values.get(name)
        if name not in self.values and required:
            self.wrong(name, "Field required", "missing")
        return value

    def text(self, name: str, *, required: bool = False) -> str | None:
        value = self._given(name, required=required)
        if isinstance(value, str):
            if value:
                return value
            self.wrong(name, "String should have at least 1 character", "string_too_short")
        elif value is not None or (required and name in self.values):
            self.wrong(name, "Input should be a valid string", "string_type")
        return None

    def flag(self, name: str) -> bool | None:
        value = self._given(name, required=False)
        if value is None or isinstance(value, bool):
            return value
        self.wrong(name, "Input should be a valid boolean", "bool_type")
        return None

    def whole(self, name: str, *, required: bool = False) -> int | None:
        """A whole number, at least 1."""
        value = self._given(name, required=required)
        if isinstance(value, int) and not isinstance(value, bool):
            if 1 <= value <= MOST:
                return value
            self.wrong(name, *_out_of_range(value))
        elif value is not None or (required and name in self.values):
            self.wrong(name, "Input should be a valid integer", "int_type")
        return None

    def number(self, name: str) -> float | None:
        value = self._given(name, required=False)
        if value is None or (
            isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MOST
        ):
            return value
        self.wrong(name, "Input should be a valid number", "float_type")
        return None

    def texts(self, name: str, *, required: bool = False) -> tuple[str, ...]:
        value = self._given(name, required=required)
        if isinstance(value, list):
            return self._strings(name, cast("list[Any]", value))
        if value is not None or (required and name in self.values):
            self.wrong(name, "Input should be a valid list", "list_type")
        return ()

    def _strings(self, name: str, values: list[Any]) -> tuple[str, ...]:
        for index, value in enumerate(values):
            if not isinstance(value, str):
                text = "Input should be a valid string"
                self.problems.append(problem(["body", name, index], text, "string_type"))
        return tuple(value for value in values if isinstance(value, str))
