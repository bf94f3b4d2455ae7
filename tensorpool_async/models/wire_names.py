"""The names that a field goes by on the wire."""

from __future__ import annotations

from functools import cache
from typing import Any, cast

import attrs


WIRE_NAMES = "tensorpool_async.wire_names"


def names(*wire_names: str) -> dict[str, tuple[str, ...]]:
    """Make the metadata of a field that goes by these names on the wire, the preferred one first."""
    return {WIRE_NAMES: wire_names}


def wire_names_of_field(field: attrs.Attribute[Any]) -> tuple[str, ...]:
    """Return the names that a field goes by on the wire, the preferred one first."""
    return cast("tuple[str, ...]", field.metadata.get(WIRE_NAMES, (field.name,)))


@cache
def wire_names_of(kind: type[Any], name: str) -> tuple[str, ...]:
    """Return the names that a field of a class goes by on the wire, the preferred one first."""
    return wire_names_of_field(attrs.fields_dict(kind)[name])
