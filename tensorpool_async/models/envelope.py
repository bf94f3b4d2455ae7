"""What is wrapped around a model in an answer.

Only `job_info` and `buckets` are certain keys; the others come from third parties (API notes, "Unknown"). So each is
looked for under the name that is reported, and else taken from the only place where it can be.
"""

from __future__ import annotations

from typing import Any, TypeVar, cast

from tensorpool_async.errors import DecodeError
from tensorpool_async.models.structure import structure
from tensorpool_async.models.wire_names import wire_names_of


T = TypeVar("T")


def unwrap(body: Any, key: str, kind: type[T], *, known_id: str | None = None, path: str = "") -> T:
    """Return the model under `key`, or the only object in the answer, or the answer itself.

    Args:
        body: The decoded answer.
        key: Where the model is reported to be.
        kind: The model's class.
        known_id: The id that was asked for; it stands in where the answer names none.
        path: The path of the request, for the error.

    Raises:
        DecodeError: There is no such model in the answer.
    """
    data = _find_object(_as_object(body, path), key)
    if known_id is not None and _names_no_id(data, kind):
        data = {**data, "id": known_id}
    return structure(data, kind, path=path)


def unwrap_list(body: Any, key: str, kind: type[T], *, path: str = "") -> list[T]:
    """Return the models of the list under `key`, or of the only list in the answer.

    Raises:
        DecodeError: There is no such list in the answer.
    """
    if not isinstance(body, list):
        body = _find_list(_as_object(body, path), key, path)
    return [structure(item, kind, path=path) for item in cast("list[Any]", body)]


def _names_no_id(data: dict[str, Any], kind: type[Any]) -> bool:
    return all(data.get(name) is None for name in wire_names_of(cast("Any", kind), "id"))


def _as_object(body: Any, path: str) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise DecodeError(f"the answer is no object but {type(body).__name__}", path=path)
    return cast("dict[str, Any]", body)


def _find_object(body: dict[str, Any], key: str) -> dict[str, Any]:
    if isinstance(body.get(key), dict):
        return cast("dict[str, Any]", body[key])
    objects: list[dict[str, Any]] = [value for value in body.values() if isinstance(value, dict)]
    if len(objects) == 1 and set(body) <= {"message", *(name for name in body if body[name] is objects[0])}:
        return objects[0]
    return body


def _find_list(body: dict[str, Any], key: str, path: str) -> list[Any]:
    if isinstance(body.get(key), list):
        return cast("list[Any]", body[key])
    if key in body and body[key] is None:
        return []
    lists: list[list[Any]] = [value for value in body.values() if isinstance(value, list)]
    if len(lists) == 1:
        return lists[0]
    raise DecodeError(f"the answer has no list {key!r}", path=path)
