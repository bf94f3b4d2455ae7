"""The two converters of `structure`: quick, and exact about what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import GenericAlias, NoneType
from typing import Any, cast, get_args, get_origin

import attrs
from cattrs import BaseValidationError, Converter, transform_error
from cattrs.gen import make_dict_structure_fn, override

from tensorpool_async.models.enums import OpenEnum
from tensorpool_async.models.wire_names import wire_names_of_field


FAILURES: tuple[type[Exception], ...] = (
    BaseValidationError,
    TypeError,
    ValueError,
    AttributeError,
    LookupError,
    ArithmeticError,
)

quick: Converter = Converter(detailed_validation=False)
converter: Converter = Converter()

Structure = Callable[[Any], Any]


def problems_of(error: Exception) -> list[str]:
    """Say what is wrong, and where."""
    if isinstance(error, BaseValidationError):
        return transform_error(error)
    return [f"{str(error) or type(error).__name__} @ $"]


def _has_extra(kind: Any) -> bool:
    return attrs.has(kind) and "extra" in attrs.fields_dict(kind)


def _make_structure_hook(kind: type[Any]) -> Callable[[Any, Any], Any]:
    fields = [field for field in attrs.fields(attrs.resolve_types(kind)) if field.name != "extra"]
    absent = {
        field.name: None
        for field in fields
        if field.default is attrs.NOTHING and NoneType in get_args(field.type)
    }
    build = make_dict_structure_fn(kind, converter, extra=override(omit=True))

    def hook(data: Any, _: Any) -> Any:
        if not isinstance(data, Mapping):
            raise TypeError(f"expected an object, not {type(data).__name__}")
        extra = dict(cast("Mapping[str, Any]", data))
        known: dict[str, Any] = dict(absent)
        for field in fields:
            for name in wire_names_of_field(field):
                if extra.get(name) is None:
                    extra.pop(name, None)
                elif known.get(field.name) is None:
                    known[field.name] = extra.pop(name)
        model = build(known, kind)
        if extra:
            object.__setattr__(model, "extra", extra)  # frozen for its users, not yet for its maker
        return model

    return hook


def _make_quick_hook(kind: type[Any]) -> Callable[[Any, Any], Any]:
    fields = [field for field in attrs.fields(attrs.resolve_types(kind)) if field.name != "extra"]
    recipes = [(field.name, wire_names_of_field(field), _quick_structure(field.type)) for field in fields]
    preferred = {wire[0]: (name, make) for name, wire, make in recipes}
    alternatives = [(name, wire[1:], make) for name, wire, make in recipes if len(wire) > 1]
    absent = {
        field.name: None
        for field in fields
        if field.default is attrs.NOTHING and NoneType in get_args(field.type)
    }

    def hook(data: Any, _: Any) -> Any:
        if not isinstance(data, dict):
            raise TypeError("expected an object")
        extra: dict[str, Any] = {}
        known: dict[str, Any] = absent.copy()
        for wire_name, value in cast("dict[str, Any]", data).items():
            if wire_name not in preferred:
                extra[wire_name] = value
            elif value is not None:
                name, make = preferred[wire_name]
                known[name] = make(value)
        if extra:
            for name, wire_names, make in alternatives:
                _take_alternative(extra, known, name, wire_names, make)
            known["extra"] = extra
        return kind(**known)

    return hook


def _take_alternative(
    extra: dict[str, Any], known: dict[str, Any], name: str, wire_names: tuple[str, ...], make: Structure
) -> None:
    for wire_name in wire_names:
        if extra.get(wire_name) is None:
            extra.pop(wire_name, None)
        elif known.get(name) is None:
            known[name] = make(extra.pop(wire_name))


def _quick_structure(kind: Any) -> Structure:
    """Return what makes a value of this type; the value is never None."""
    arguments = [argument for argument in get_args(kind) if argument is not NoneType]
    if NoneType in get_args(kind) and len(arguments) == 1:
        kind = arguments[0]
    if kind is str:
        return _quick_text
    if isinstance(kind, type) and issubclass(kind, OpenEnum):
        return _quick_enum(kind)
    hook = quick.get_structure_hook(kind)
    return lambda value: hook(value, kind)


def _quick_text(value: Any) -> str:
    return value if type(value) is str else str(value)


def _quick_enum(kind: type[OpenEnum]) -> Structure:
    members: dict[Any, OpenEnum] = {member.value: member for member in kind}

    def make(value: Any) -> OpenEnum:
        return members.get(value) or kind(value)

    return make


def _make_unstructure_hook(kind: type[Any]) -> Callable[[Any], dict[str, Any]]:
    fields = [
        (field.name, wire_names_of_field(field)[0]) for field in attrs.fields(kind) if field.name != "extra"
    ]

    def hook(model: Any) -> dict[str, Any]:
        data = {wire: converter.unstructure(getattr(model, name)) for name, wire in fields}
        return {**data, **model.extra}

    return hook


def _tuple_hook_maker(using: Converter) -> Callable[[Any], Callable[[Any, Any], Any]]:
    def make(kind: Any) -> Callable[[Any, Any], tuple[Any, ...]]:
        of_list: Any = GenericAlias(list, get_args(kind)[:1])
        structure_items = using.get_structure_hook(of_list)

        def hook(data: Any, _: Any) -> tuple[Any, ...]:
            if not isinstance(data, list | tuple):
                raise TypeError(f"expected a list, not {type(data).__name__}")
            return tuple(structure_items(data, of_list))

        return hook

    return make


def _structure_bool(value: Any, _: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"expected true or false, not {type(value).__name__}")
    return value


def _open_enum_text(member: OpenEnum) -> str:
    return str(member)


def _is_tuple(kind: Any) -> bool:
    return get_origin(kind) is tuple


converter.register_structure_hook_factory(_has_extra)(_make_structure_hook)
quick.register_structure_hook_factory(_has_extra)(_make_quick_hook)
for _each in (converter, quick):
    _each.register_structure_hook_factory(_is_tuple)(_tuple_hook_maker(_each))
    _each.register_structure_hook(bool, _structure_bool)
converter.register_unstructure_hook_factory(_has_extra)(_make_unstructure_hook)
converter.register_unstructure_hook(OpenEnum, _open_enum_text)
