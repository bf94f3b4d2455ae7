"""The public names: each has a docstring, complete types, and a place in the reference."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, cast, get_type_hints

import pytest

import tensorpool_async


ROOT = Path(__file__).parent.parent
PUBLIC_MODULES = (
    "tensorpool_async",
    "tensorpool_async.emulator",
    "tensorpool_async.events",
    "tensorpool_async.fastapi",
    "tensorpool_async.fleet",
    "tensorpool_async.journal",
    "tensorpool_async.otel",
    "tensorpool_async.redis",
    "tensorpool_async.testing",
)
INTERNAL = {
    "tensorpool_async.events.Dispatcher",  # the client's, which hands events to the listener
    "tensorpool_async.events.LONGEST_QUEUE",
    "tensorpool_async.events.logger",
    "tensorpool_async.fastapi.logger",
    "tensorpool_async.otel.logger",
}
"""Names without an underscore that are nobody's but the package's, in modules without `__all__`."""


def modules() -> list[ModuleType]:
    there = [name for name in PUBLIC_MODULES if importlib.util.find_spec(name) is not None]
    return [importlib.import_module(name) for name in there]


def names_in(module: ModuleType) -> list[str]:
    """Return what a module exports: by `__all__`, else what it defines without an underscore."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    tree = ast.parse(inspect.getsource(module))
    found: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.append(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.append(node.target.id)
        elif isinstance(node, ast.Assign):
            found += [target.id for target in node.targets if isinstance(target, ast.Name)]
    return [
        name for name in found if not name.startswith("_") and f"{module.__name__}.{name}" not in INTERNAL
    ]


PUBLIC = [(module.__name__, name) for module in modules() for name in names_in(module)]


def public_id(public: tuple[str, str]) -> str:
    return ".".join(public).removeprefix("tensorpool_async.")


def members_of(kind: type[Any]) -> Iterator[tuple[str, Any]]:
    """Yield the public methods and properties that a class of this package defines or inherits."""
    for owner in kind.__mro__:
        if not owner.__module__.startswith("tensorpool_async"):
            continue
        for name, member in vars(owner).items():
            plain: Any = getattr(member, "__func__", member)  # of a static or class method
            if not name.startswith("_") and (inspect.isfunction(plain) or isinstance(plain, property)):
                yield name, plain


@pytest.mark.parametrize("public", PUBLIC, ids=public_id)
def test_each_name_has_a_docstring(public: tuple[str, str]) -> None:
    module, name = public
    thing = getattr(importlib.import_module(module), name)
    if isinstance(thing, type) or inspect.isfunction(thing):
        assert vars(thing).get("__doc__") if isinstance(thing, type) else thing.__doc__, f"{name} has none"
    else:
        assert documented_data(module, name), f"{name} has none"
    if isinstance(thing, type):
        bare = {member for member, what in members_of(thing) if not inspect.getdoc(what)}
        overridden = {member for member in bare if inspect.getdoc(getattr(thing, member))}
        assert bare - overridden == set()


def documented_data(module: str, name: str) -> bool:
    """Whether a text stands below the assignment of a name, in the module or in that which it is imported from."""
    tree = ast.parse(inspect.getsource(importlib.import_module(module)))
    for node, following in zip(tree.body, [*tree.body[1:], ast.Pass()], strict=True):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign):
            targets = [node.target]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
    for inner in ast.walk(tree):
        if isinstance(inner, ast.ImportFrom) and any(alias.name == name for alias in inner.names):
            return documented_data(str(inner.module), name)
    return False


@pytest.mark.parametrize("public", PUBLIC, ids=public_id)
def test_each_name_has_complete_types(public: tuple[str, str]) -> None:
    """The session `types` asks pyright as well, which knows more; this is what a test can see."""
    module, name = public
    thing = getattr(importlib.import_module(module), name)
    functions: list[Any] = [thing] if inspect.isfunction(thing) else []
    if isinstance(thing, type):
        functions = [what for _, what in members_of(thing) if inspect.isfunction(what)]
        functions += [what.fget for _, what in members_of(thing) if isinstance(what, property) and what.fget]
    for function in functions:
        parameters = list(inspect.signature(function).parameters.values())
        bare = [
            parameter.name
            for index, parameter in enumerate(parameters)
            if parameter.annotation is inspect.Parameter.empty
            and not (index == 0 and parameter.name in {"self", "cls"})
        ]
        assert bare == [], function.__qualname__
        assert "return" in function.__annotations__, function.__qualname__


def in_the_reference() -> set[str]:
    """Return the dotted names that the pages document, as Sphinx's directives say."""
    found: set[str] = set()
    for page in (ROOT / "docs").glob("*.md"):
        current = ""
        for kind, target, options in directives(page.read_text()):
            if kind == "currentmodule":
                current = target
            elif kind == "automodule":
                found |= members_in(importlib.import_module(target), options)
            else:
                module = current if "." not in target else ""
                found.add(f"{module}.{target}".lstrip("."))
    return found


def directives(text: str) -> Iterator[tuple[str, str, dict[str, str]]]:
    pattern = r"(?m)^\.\. (?:py:)?(auto\w+|data|currentmodule):: (\S+)\n((?:   :.*\n)*)"
    for kind, target, options in re.findall(pattern, text):
        yield kind, target, dict(re.findall(r"   :([\w-]+): *(.*)\n", options))


def members_in(module: ModuleType, options: dict[str, str]) -> set[str]:
    if "members" not in options:
        return set()
    named = [name.strip() for name in options["members"].split(",") if name.strip()]
    if not named:
        excluded = {name.strip() for name in options.get("exclude-members", "").split(",")}
        named = [name for name in names_in(module) if name not in excluded]
    return {f"{module.__name__}.{name}" for name in named}


def test_each_name_has_a_place_in_the_reference() -> None:
    places = in_the_reference()
    missing: list[str] = []
    for module, name in PUBLIC:
        thing = getattr(importlib.import_module(module), name)
        own = f"{getattr(thing, '__module__', module)}.{getattr(thing, '__qualname__', name)}"
        if own not in places and f"{module}.{name}" not in places and not is_data_in(places, name, thing):
            missing.append(f"{module}.{name}")
    assert missing == []


def is_data_in(places: set[str], name: str, thing: Any) -> bool:
    """Whether the reference has this very object under its name in another module."""
    for place in places:
        module, _, own_name = place.rpartition(".")
        if own_name == name and getattr(importlib.import_module(module), name, None) is thing:
            return True
    return False


def test_each_error_is_explained() -> None:
    """Troubleshooting has a section for every error that is exported, and none for others."""
    errors = {
        name
        for name in tensorpool_async.__all__
        if isinstance(kind := getattr(tensorpool_async, name), type) and issubclass(kind, BaseException)
    }
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    assert set(re.findall(r"(?m)^### `(\w+)`$", page)) == errors - {"TensorPoolError"}
    assert "`TensorPoolError`" in page


def test_the_exports_are_sorted() -> None:
    assert tensorpool_async.__all__ == sorted(tensorpool_async.__all__)


def test_annotations_can_be_resolved() -> None:
    """Tools that read annotations at run time, such as dependency injection, get them all."""
    for name in tensorpool_async.__all__:
        thing: Any = getattr(tensorpool_async, name)
        if inspect.isclass(thing) and not issubclass(thing, BaseException):
            for _, what in members_of(cast("type[Any]", thing)):
                if inspect.isfunction(what) and "fleet" not in what.__name__:
                    get_type_hints(what)
