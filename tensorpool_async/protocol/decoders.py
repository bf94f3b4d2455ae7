"""What makes models of answers: the second half of a request."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from tensorpool_async.errors import DecodeError
from tensorpool_async.models.enums import OperationKind
from tensorpool_async.models.envelope import unwrap_list
from tensorpool_async.models.structure import structure
from tensorpool_async.protocol.requests import is_id
from tensorpool_async.protocol.responses import Answer
from tensorpool_async.protocol.tokens import AcceptedOperation, OperationRef


T = TypeVar("T")


def as_model(kind: type[T]) -> Callable[[Answer], T]:
    """Read the whole answer as a model."""
    return lambda answer: structure(answer.body, kind, path=answer.path)


def as_list(key: str, kind: type[T]) -> Callable[[Answer], list[T]]:
    """Read the list under `key`, or the only list there is."""
    return lambda answer: unwrap_list(answer.body, key, kind, path=answer.path)


def as_text(key: str) -> Callable[[Answer], str]:
    """Read the text under `key`."""

    def decode(answer: Answer) -> str:
        text = answer.field(key)
        if not isinstance(text, str) or not text:
            raise DecodeError(f"the answer names no {key}", path=answer.path)
        return text

    return decode


def as_id(key: str) -> Callable[[Answer], str]:
    """Read the id under `key`."""

    def decode(answer: Answer) -> str:
        text = as_text(key)(answer)
        if not is_id(text):
            raise DecodeError(f"the answer's {key} is no id", path=answer.path)
        return text

    return decode


def request_ids_of(values: Iterable[Any]) -> tuple[str, ...]:
    """Return the ids of requests; none, so that the resource is polled instead, if one of them cannot be asked for."""
    ids = tuple(str(value) if isinstance(value, int) else value for value in values if value)
    return ids if all(map(is_id, ids)) else ()


def as_nothing(answer: Answer) -> None:
    """Read nothing: that the answer is a success is all that counts."""
    del answer


def as_accepted(
    kind: OperationKind,
    resource_id: str | None = None,
    expected: dict[str, Any] | None = None,
    *,
    id_field: str = "",
) -> Callable[[Answer], AcceptedOperation]:
    """Read a 202 that names at most one request.

    Args:
        kind: The kind of operation.
        resource_id: What it changes; None where the answer names it.
        expected: What the resource looks like when it is done.
        id_field: The field of the answer that names the resource.
    """

    def decode(answer: Answer) -> AcceptedOperation:
        request_ids = request_ids_of([answer.field("request_id")])
        ref = OperationRef(kind, resource_id or as_id(id_field)(answer), request_ids, expected or {})
        return AcceptedOperation(ref, answer.retry_after)

    return decode
