"""Strategies for what an engine might send: documents for each model, made of its own annotations."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import attrs
from hypothesis import strategies as st

from tensorpool_async import models
from tensorpool_async.models.cluster import Instance
from tensorpool_async.models.enums import OpenEnum
from tensorpool_async.models.wire_names import wire_names_of


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and attrs.has(kind) and "extra" in attrs.fields_dict(kind)


PUBLIC: list[Any] = [getattr(models, name) for name in models.__all__]
MODELS: list[Any] = sorted({Instance, *filter(_is_model, PUBLIC)}, key=lambda kind: kind.__name__)
ENUMS: list[type[OpenEnum]] = [
    kind for kind in PUBLIC if isinstance(kind, type) and issubclass(kind, OpenEnum) and kind is not OpenEnum
]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)

PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(),
    int: st.integers(),
    bool: st.booleans(),
    float: st.floats(allow_nan=False) | st.integers(-(2**50), 2**50),
    Any: json_values,
}


def fields_of(kind: Any) -> dict[str, attrs.Attribute[Any]]:
    attrs.resolve_types(kind)
    return {name: field for name, field in attrs.fields_dict(kind).items() if name != "extra"}


def is_required(field: attrs.Attribute[Any]) -> bool:
    return field.default is attrs.NOTHING and NoneType not in get_args(field.type)


def any_case(text: str) -> st.SearchStrategy[str]:
    return st.lists(st.booleans(), min_size=len(text), max_size=len(text)).map(
        lambda upper: "".join(
            c.upper() if is_upper else c.lower() for c, is_upper in zip(text, upper, strict=True)
        )
    )


def wire_values(annotation: Any) -> st.SearchStrategy[Any]:
    """What may stand on the wire for a field of this type."""
    arguments = get_args(annotation)
    if get_origin(annotation) in {Union, UnionType}:
        return st.one_of([st.none() if one is NoneType else wire_values(one) for one in arguments])
    if get_origin(annotation) is tuple:
        return st.lists(wire_values(arguments[0]), max_size=3)
    if get_origin(annotation) is dict:
        return st.dictionaries(st.text(), wire_values(arguments[1]), max_size=3)
    if annotation in ENUMS:
        return st.sampled_from([member.value for member in annotation]).flatmap(any_case) | st.text()
    if _is_model(annotation):
        return documents(annotation)
    return PLAIN[annotation]


def known_parts(kind: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Documents of nothing but known fields, each under its preferred name."""
    required: dict[str, Any] = {}
    optional: dict[str, Any] = {}
    for name, field in fields_of(kind).items():
        group = required if is_required(field) else optional
        group[wire_names_of(kind, name)[0]] = wire_values(field.type)
    return st.fixed_dictionaries(required, optional=optional)


def unknown_parts(kind: Any) -> st.SearchStrategy[dict[str, Any]]:
    known = {wire for name in fields_of(kind) for wire in wire_names_of(kind, name)}
    names = st.sampled_from(["extra", "owner", "Name", "ID", ""]) | st.text()
    return st.dictionaries(names.filter(lambda name: name not in known), json_values, max_size=3)


def documents(kind: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.tuples(known_parts(kind), unknown_parts(kind)).map(lambda parts: parts[0] | parts[1])
