"""Requests as data."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import attrs

from tensorpool_async.protocol.responses import Answer


T = TypeVar("T")

LONGEST_ID = 512
"""Characters of an id that is asked for; ids of the engine have a few dozen."""

_PLAIN = re.compile(r"[A-Za-z0-9_.~-]+")


class Lane(IntEnum):
    """Who goes first where requests queue: changes before reads before polls."""

    CHANGE = 0
    READ = 1
    POLL = 2


def path_of(route: str, key: str | None = None) -> str:
    """Fill a route such as `/cluster/info/{id}` with what is asked about, quoted as one segment.

    Raises:
        ValueError: The key is empty, or a dot segment, which URLs resolve to another path.
    """
    if key is None:
        return route
    if not key or key in {".", ".."}:
        raise ValueError(f"{key!r} cannot be part of a path")
    # Most keys need no quoting, and to see that costs a quarter of what quoting costs.
    return route.replace("{id}", key if _PLAIN.fullmatch(key) else quote(key, safe=""))


def is_id(value: Any) -> bool:
    """Whether a value can stand in a path, and so can be asked for."""
    try:
        return isinstance(value, str) and len(value) <= LONGEST_ID and bool(path_of("{id}", value))
    except ValueError:
        return False


def query_of(**values: str | int | bool | None) -> dict[str, str]:
    """Make a query of the values that are not None; the engine takes `true` and `false` in any case."""
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in values.items()
        if value is not None
    }


_NO_QUERY: Mapping[str, str] = MappingProxyType({})


def _body(answer: Answer) -> Any:
    return answer.body


def _path_of_request(request: Request[Any]) -> str:
    return path_of(request.route, request.key)


@attrs.frozen
class Request(Generic[T]):
    """One request, and how to read its answer.

    Attributes:
        method: The HTTP method.
        route: The path from the engine's root, with `{id}` in place of an id: there are few of them.
        decode: Makes the result of a 2xx answer. A `DecodeError` that it raises counts as a lost answer, since the
            engine did what was asked.
        key: What stands in place of `{id}`, unquoted: an id, or where the engine takes one, a name.
        query: The query, unquoted.
        json: The body, before it is encoded; None sends no body.
        name: The name of what it makes, where it makes something.
        safe: Whether it changes nothing although its method is POST, and so can be repeated like a GET.
        any_body: Whether its answer may be something other than JSON, which then counts as an empty one. JSON that was
            cut off was still lost. Of a DELETE, any answer will do.
        path: The quoted path.
    """

    method: str
    route: str
    decode: Callable[[Answer], T] = attrs.field(default=_body)
    key: str | None = attrs.field(default=None, kw_only=True)
    query: Mapping[str, str] = attrs.field(default=_NO_QUERY, kw_only=True)
    json: Any = attrs.field(default=None, kw_only=True)
    name: str | None = attrs.field(default=None, kw_only=True)
    safe: bool = attrs.field(default=False, kw_only=True)
    any_body: bool = attrs.field(default=False, kw_only=True)
    path: str = attrs.field(init=False, default=attrs.Factory(_path_of_request, takes_self=True))

    @property
    def changes_something(self) -> bool:
        """Whether the engine may be different after it."""
        return self.method != "GET" and not self.safe
