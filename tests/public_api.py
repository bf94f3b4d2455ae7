"""The public API as stub files, and what of it a change breaks.

`python -m tests.public_api` compares the package with the stubs in `.ci/api`, and fails if something that they hold is
gone, or can no longer be called as before. It needs no tag and no history, so it works in any clone. `--renew` writes the
stubs anew: that is how a release begins, and how a break that is meant is agreed to, in a change that shows it.

The stubs come from what the modules are once they are imported, so that they hold what attrs makes as well.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import sys
import tempfile
from collections.abc import Iterable, Iterator
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import attrs
import griffe


ROOT = Path(__file__).parent.parent
BASELINE = ROOT / ".ci" / "api"
PACKAGE = "tensorpool_async"

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
    "tensorpool_async.fastapi.logger",
    "tensorpool_async.otel.logger",
}
"""Names without an underscore that are nobody's but the package's, in modules without `__all__`."""

REACHED = {
    "tensorpool_async": (
        "tensorpool_async.resources.account.Account",
        "tensorpool_async.resources.clusters.Clusters",
        "tensorpool_async.resources.ephemeral.Ephemeral",
        "tensorpool_async.resources.jobs.Jobs",
        "tensorpool_async.resources.object_storage.Buckets",
        "tensorpool_async.resources.object_storage.ObjectStorage",
        "tensorpool_async.resources.ssh.SSH",
        "tensorpool_async.resources.ssh.SSHKeys",
        "tensorpool_async.resources.storage.Storage",
    )
}
"""Classes that are not exported, and whose methods users call all the same: `tp.clusters` and its like."""

MADE_ELSEWHERE = {"Operation", "Submission", "FleetMembers"}
"""Exported classes that users never make, so that how they are made is no promise."""

SPECIAL = {
    "__aenter__",
    "__aexit__",
    "__aiter__",
    "__anext__",
    "__await__",
    "__call__",
    "__enter__",
    "__exit__",
    "__getitem__",
    "__init__",
    "__iter__",
    "__len__",
}
"""The special methods that users call, by what they write."""

SIMPLE = (str, int, float, bool, bytes, type(None))


def modules() -> list[ModuleType]:
    """Return the public modules that there are."""
    there = [name for name in PUBLIC_MODULES if importlib.util.find_spec(name) is not None]
    return [importlib.import_module(name) for name in there]


def names_in(module: ModuleType) -> list[str]:
    """Return what a module exports: by `__all__`, else what it defines without an underscore."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    found: list[str] = []
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.append(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.append(node.target.id)
        elif isinstance(node, ast.Assign):
            found += [target.id for target in node.targets if isinstance(target, ast.Name)]
    return [
        name for name in found if not name.startswith("_") and f"{module.__name__}.{name}" not in INTERNAL
    ]


def stubs_of(module: ModuleType) -> str:
    """Return the stub file of a module."""
    things = {name: getattr(module, name) for name in names_in(module)}
    for path in REACHED.get(module.__name__, ()):
        owner, _, name = path.rpartition(".")
        things[name] = getattr(importlib.import_module(owner), name)
    lines = [line for name in sorted(things) for line in stub_of(name, things[name])]
    return "\n".join(lines) + "\n"


def stub_of(name: str, thing: Any) -> Iterator[str]:
    """Yield the lines of one name."""
    if inspect.isclass(thing):
        yield from class_stub(name, cast("type[Any]", thing))
    elif inspect.isfunction(thing):
        yield function_stub(name, thing)
    elif isinstance(thing, SIMPLE):
        yield f"{name} = {thing!r}"
    else:
        yield f"{name}: {type(thing).__name__}"


def class_stub(name: str, kind: type[Any]) -> Iterator[str]:
    """Yield the lines of a class, with what it inherits from classes of this package."""
    bases = [
        base.__name__ for base in kind.__bases__ if base.__name__ not in {"object", "Generic", "Protocol"}
    ]
    yield f"class {name}({', '.join(bases)}):" if bases else f"class {name}:"
    body = [*values_of(kind), *methods_of(kind)]
    yield from (f"    {line}" for line in body or ["..."])


def values_of(kind: type[Any]) -> Iterator[str]:
    """Yield the members of an enumeration, and the fields of an attrs class."""
    if issubclass(kind, Enum):
        yield from (f"{member.name} = {member.value!r}" for member in kind)
    if attrs.has(kind):
        for field in attrs.fields(kind):
            if not field.name.startswith("_"):
                yield f"{field.name}: {field.type if isinstance(field.type, str) else 'object'}"


def methods_of(kind: type[Any]) -> Iterator[str]:
    """Yield the methods and properties, each as the first class in the order of inheritance has it."""
    seen: dict[str, Any] = {}
    for owner in kind.__mro__:
        if owner.__module__.startswith(PACKAGE):
            for name, member in vars(owner).items():
                seen.setdefault(name, member)
    for name, member in sorted(seen.items()):
        if name.startswith("_") and (name not in SPECIAL or (name == "__init__" and not is_made(kind))):
            continue
        if isinstance(member, property):
            yield "@property"
            yield function_stub(name, member.fget)
        elif hasattr(member, "__func__"):
            yield f"@{type(member).__name__}"  # staticmethod or classmethod
            yield function_stub(name, member.__func__)
        elif inspect.isfunction(member):
            yield function_stub(name, member)


def is_made(kind: type[Any]) -> bool:
    """Whether users make such an object themselves."""
    reached = {path for paths in REACHED.values() for path in paths}
    return kind.__name__ not in MADE_ELSEWHERE and f"{kind.__module__}.{kind.__qualname__}" not in reached


def function_stub(name: str, function: Any) -> str:
    """Return a function as one line."""
    signature = inspect.signature(function)
    parameters = [
        parameter.replace(
            annotation=annotation_of(parameter.annotation), default=default_of(parameter.default)
        )
        for parameter in signature.parameters.values()
    ]
    signature = signature.replace(
        parameters=parameters, return_annotation=annotation_of(signature.return_annotation)
    )
    begin = "async def" if inspect.iscoroutinefunction(function) else "def"
    return f"{begin} {name}{signature}: ..."


@attrs.frozen
class Text:
    """Something that is written into a signature as it is."""

    text: str

    def __repr__(self) -> str:
        return self.text


def annotation_of(annotation: Any) -> Any:
    """Return an annotation as it stands in the source."""
    if annotation is inspect.Signature.empty:
        return annotation
    return Text(annotation if isinstance(annotation, str) else inspect.formatannotation(annotation))


def default_of(default: Any) -> Any:
    """Return a default that can be read back; of what is no simple value only that there is one."""
    if default is inspect.Parameter.empty:
        return default
    is_simple = isinstance(default, SIMPLE) and not isinstance(default, Enum)
    return Text(repr(default) if is_simple or default == () else "...")


def write(folder: Path) -> None:
    """Write the stubs of all public modules."""
    for module in modules():
        _, _, name = module.__name__.partition(".")
        file = folder / PACKAGE / f"{name or '__init__'}.pyi"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(stubs_of(module))


def breaks(before: Path, after: Path) -> list[str]:
    """Return what of the stubs in one folder is broken in those of another."""
    old, new = (
        griffe.load(PACKAGE, search_paths=[folder], try_relative_path=False, allow_inspection=False)
        for folder in (before, after)
    )
    return [one_line(breakage) for breakage in griffe.find_breaking_changes(old, new)]


def one_line(breakage: griffe.Breakage) -> str:
    """Say what is broken, and where."""
    values = [str(value) for value in (breakage.old_value, breakage.new_value) if value is not None]
    return f"{breakage.obj.path}: {breakage.kind.value} ({' -> '.join(values)})"


def difference(before: Path, after: Path) -> Iterable[str]:
    """Return the lines that are new, file by file."""
    for file in sorted((after / PACKAGE).glob("*.pyi")):
        known = before / PACKAGE / file.name
        lines = set(known.read_text().splitlines()) if known.exists() else set[str]()
        yield from (f"{file.name}: {line}" for line in file.read_text().splitlines() if line not in lines)


def main(arguments: list[str]) -> int:
    """Compare the package with the stubs, or write them."""
    if "--renew" in arguments:
        write(BASELINE)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        broken = breaks(BASELINE, Path(folder))
        new = list(difference(BASELINE, Path(folder)))
    if broken:
        advice = "This breaks the public API. If that is meant: python -m tests.public_api --renew"
        sys.stderr.write("\n".join([*broken, "", advice, ""]))
        return 1
    sys.stderr.write(f"Nothing of the public API is broken; {len(new)} lines are new or say more.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
