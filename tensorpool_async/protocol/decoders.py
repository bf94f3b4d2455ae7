"""What makes models of answers: the second half of a request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from tensorpool_async.errors import DecodeError
from tensorpool_async.models.enums import OperationKind
from tensorpool_async.models.envelope import unwrap_list
from tensorpool_async.models.structure import structure
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
        request_id = answer.field("request_id")
        request_ids = (str(request_id),) if request_id else ()
        ref = OperationRef(kind, resource_id or as_text(id_field)(answer), request_ids, expected or {})
        return AcceptedOperation(ref, answer.retry_after)

    return decode
