"""The public names: each has a docstring, complete types, and a place in the reference."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import tensorpool_async
from tests.public_api import BASELINE, breaks, modules, names_in, write


ROOT = Path(__file__).parent.parent
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


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stubs")
    write(folder)
    return folder


def test_nothing_of_the_public_api_is_broken(stubs: Path) -> None:
    """A break that is meant is agreed to by `python -m tests.public_api --renew`."""
    assert breaks(BASELINE, stubs) == []


@pytest.mark.parametrize(
    ("file", "before", "after", "broken"),
    [
        ("__init__", "def destroy(self, cluster: ClusterLike)", "def remove(self, cluster: ClusterLike)", "destroy"),
        ("__init__", "instance_type: str, *, num_nodes: int = 1", "instance_type: str, *, num_nodes: int", "num_nodes"),
        ("__init__", "name: str, instance_type: str, *,", "name: str, instance_type: str, zone: str, *,", "zone"),
        ("__init__", "class RateLimited(StatusError):", "class RateLimited:", "RateLimited"),
        ("__init__", "class OperationTimeout(", "class OperationTookLong(", "OperationTimeout"),
        ("__init__", "    PROVISIONING = 'PROVISIONING'\n", "", "PROVISIONING"),
        ("fleet", "def load(path: str", "def load(file: str", "fleet.load"),
    ],
)  # fmt: skip
def test_what_breaks_the_api_is_found(
    file: str, before: str, after: str, broken: str, stubs: Path, tmp_path: Path
) -> None:
    shutil.copytree(stubs, tmp_path, dirs_exist_ok=True)
    changed = tmp_path / "tensorpool_async" / f"{file}.pyi"
    assert before in changed.read_text()
    changed.write_text(changed.read_text().replace(before, after))
    found = breaks(stubs, tmp_path)
    assert any(broken in line for line in found), found


def test_what_is_added_breaks_nothing(stubs: Path, tmp_path: Path) -> None:
    shutil.copytree(stubs, tmp_path, dirs_exist_ok=True)
    assert breaks(stubs, tmp_path) == []
    changed = tmp_path / "tensorpool_async" / "__init__.pyi"
    more = changed.read_text().replace("num_nodes: int = 1,", "zone: str = '', num_nodes: int = 1,")
    changed.write_text(more + "def new() -> None: ...\n")
    assert breaks(stubs, tmp_path) == []
