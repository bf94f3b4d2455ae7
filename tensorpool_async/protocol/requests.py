"""Requests as data."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import attrs

from tensorpool_async.models.enums import OperationKind
from tensorpool_async.protocol.responses import Answer
from tensorpool_async.protocol.send_stats import SendStats


T = TypeVar("T")

_PLAIN = re.compile(r"[A-Za-z0-9_.~-]+")


class Lane(IntEnum):
    """Who goes first where requests queue: changes before reads before polls."""

    CHANGE = 0
    READ = 1
    POLL = 2


def path_of(*segments: str, under: str = "") -> str:
    """Join the segments to a path, each quoted as one segment.

    Args:
        segments: The segments.
        under: A path that stands before them.

    Raises:
        ValueError: A segment is empty, or is a dot segment, which URLs resolve to another path.
    """
    for segment in segments:
        if not segment or segment in {".", ".."}:
            raise ValueError(f"{segment!r} cannot be part of a path")
    return f"{under}/{'/'.join([_quoted(segment) for segment in segments])}"


def _quoted(segment: str) -> str:
    # Most need no quoting, and to see that costs a quarter of what quoting them does.
    return segment if _PLAIN.fullmatch(segment) else quote(segment, safe="")


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


@attrs.define  # and not frozen, which doubles what making one costs
class Request(Generic[T]):
    """One request, and how to read its answer.

    Attributes:
        method: The HTTP method.
        path: The quoted path, from the engine's root.
        decode: What makes the result of a 2xx answer. A `DecodeError` that it raises counts as an answer that was
            lost, for the engine did what was asked.
        query: The query, unquoted.
        json: The body, before it is encoded; None sends no body.
        lane: Where it queues.
        safe: Whether it changes nothing although its method is POST, and so can be repeated like a GET.
        any_body: Whether its answer may be something other than JSON, which then counts as an empty one. JSON that was
            cut off was still lost.
        kind: The kind of operation that it begins, where it begins one.
        name: The name of the resource that it makes, where it makes one.
        on_already_deleted: Makes what stands in for the answer of a DELETE that meets 410, or is repeated and meets 404; without
            it that is `NotFound`.
        leaving: Called at each attempt, once it holds a slot and right before it goes on the wire: what is kept of a
            request before it is sent is kept here, and not while it queues. If it raises, nothing is sent.
        stats: What takes down what it goes through. `Submitter.submit` gives each change one: when it was last sent
            decides whether what is found after a lost answer is its own.
    """

    method: str
    path: str
    decode: Callable[[Answer], T] = attrs.field(default=_body)
    query: Mapping[str, str] = attrs.field(default=_NO_QUERY, kw_only=True)
    json: Any = attrs.field(default=None, kw_only=True)
    lane: Lane = attrs.field(default=Lane.READ, kw_only=True)
    safe: bool = attrs.field(default=False, kw_only=True)
    any_body: bool = attrs.field(default=False, kw_only=True)
    kind: OperationKind | None = attrs.field(default=None, kw_only=True)
    name: str | None = attrs.field(default=None, kw_only=True)
    on_already_deleted: Callable[[], T] | None = attrs.field(default=None, kw_only=True)
    leaving: Callable[[], object] | None = attrs.field(default=None, kw_only=True)
    stats: SendStats | None = attrs.field(default=None, kw_only=True)
