"""From JSON to attrs and back, tolerant where the engine's answers are not certain.

- A field that is null counts as absent, so that its default holds; without a default, and where it may be None, it
  is None.
- A field may have several names on the wire (`names(…)`), of which the first that holds something is read, and the
  first of all is written back.
- A list and a truth value must be just that: of a text, Python would make a list of its letters, and "false" true.
- What no field takes is kept in `extra`, and written back from there.
- What cannot be read is a `DecodeError` that names the path, such as `$.instances[0].id`.

There are two converters with the same rules: a quick one that everything goes through, and one that takes its time to
say what is wrong, which is asked only where the quick one failed. What they do for a class is made when it is needed, and
they themselves (see `converters`) are loaded with the first answer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar, cast

from tensorpool_async.errors import DecodeError


T = TypeVar("T")


def structure(data: object, kind: type[T], *, path: str = "") -> T:
    """Make a `kind` of decoded JSON.

    Raises:
        DecodeError: The data does not fit; the message names the place.
    """
    quick, failures = _quick_hook(cast("Any", kind))
    try:
        return cast("T", quick(data, kind))
    except failures:
        pass
    from tensorpool_async.models import converters

    try:
        return converters.converter.structure(data, kind)
    except failures as error:
        problems = "; ".join(converters.problems_of(error))
        raise DecodeError(f"the answer is no {kind.__name__}: {problems}", path=path) from error


@cache
def _quick_hook(kind: type[Any]) -> tuple[Callable[[Any, Any], Any], tuple[type[Exception], ...]]:
    from tensorpool_async.models import converters

    return converters.quick.get_structure_hook(kind), converters.FAILURES


def unstructure(model: object) -> Any:
    """Make plain data of a model, as the wire would have it, with what is in `extra`."""
    from tensorpool_async.models import converters

    return converters.converter.unstructure(model)
