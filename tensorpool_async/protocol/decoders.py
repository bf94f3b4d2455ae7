"""What makes models of answers: the second half of a request."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from tensorpool_async.errors import DecodeError
from tensorpool_async.models.envelope import unwrap_list
from tensorpool_async.models.structure import structure
from tensorpool_async.protocol.requests import Lane, Request
from tensorpool_async.protocol.responses import Answer


T = TypeVar("T")


def as_model(kind: type[T], path: str) -> Callable[[Answer], T]:
    """Read the whole answer as a model."""
    return lambda answer: structure(answer.body, kind, path=path)


def as_list(key: str, kind: type[T], path: str) -> Callable[[Answer], list[T]]:
    """Read the list under `key`, or the only list there is."""
    return lambda answer: unwrap_list(answer.body, key, kind, path=path)


def as_text(key: str, path: str) -> Callable[[Answer], str]:
    """Read the text under `key`."""

    def decode(answer: Answer) -> str:
        text = answer.field(key)
        if not isinstance(text, str) or not text:
            raise DecodeError(f"the answer names no {key}", path=path)
        return text

    return decode


def as_nothing(answer: Answer) -> None:
    """Read nothing: that the answer is a success is all that counts."""
    del answer


def delete_request(path: str) -> Request[None]:
    """Make a DELETE whose answer says nothing; one that is repeated and finds nothing has succeeded."""
    return Request(
        "DELETE", path, as_nothing, lane=Lane.CHANGE, any_body=True, on_already_deleted=lambda: None
    )
