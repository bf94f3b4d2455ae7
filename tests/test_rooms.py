"""The walls between the rooms: which room a module may import, import circles, and who touches the network."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import tensorpool_async


PACKAGE = Path(tensorpool_async.__file__).parent

# From the lowest room to the highest: a room imports only from itself and from rooms above it in this list.
ORDER = (
    "texts",
    "version",
    "secrets",
    "signals",
    "errors",
    "models",
    "protocol",
    "config",
    "flow",
    "events",
    "journal",
    "transport",
    "operations",
    "resources",
    "fleet",
    "client",
    "redis",
    "otel",
    "fastapi",
    "testing",
    "pytest_plugin",
    "cli",
    "__main__",
)
ALONE = {"emulator": {"emulator"}}
"""Rooms that import nothing of the others."""

NEVER = {"redis": {"client", "fleet", "resources"}, "otel": {"client", "fleet", "resources"}}
"""What some rooms could import by their place, and do not need."""

MAY_USE_THE_EMULATOR = {"testing", "pytest_plugin", "cli"}
NO_IO = {"aiohttp", "asyncio", "anyio", "time", "random", "socket", "ssl"}
NETWORK = {"aiohttp", "socket", "ssl"}
NAMES_TYPES_OF_AIOHTTP = {"client", "config"}
EXTRAS = {"cyclopts", "rich", "fastapi", "starlette", "opentelemetry", "obstore", "pytest", "redis"}
HOMES_OF_EXTRAS = {"cli", "fastapi", "otel", "testing", "pytest_plugin", "redis"}
LAZY_EXTRAS = {("resources.object_storage", "obstore")}
"""Imported by the one method that needs it."""


def module_name(path: Path) -> str:
    """Return the dotted name of a module below the package."""
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in PACKAGE.rglob("*.py")}
ROOMS = sorted({name.split(".")[0] for name in MODULES} - {""})


def imports(path: Path) -> Iterator[str]:
    """Yield the names of all that a module imports: at its top, in functions, and under `TYPE_CHECKING`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_modules(path: Path) -> set[str]:
    """Return the modules of the package that a module imports."""
    found: set[str] = set()
    for name in imports(path):
        if name.startswith("tensorpool_async."):
            dotted = name.removeprefix("tensorpool_async.")
            found.add(dotted if dotted in MODULES else dotted.rpartition(".")[0])
    return found - {module_name(path)}


def modules_of(room: str) -> list[str]:
    return [name for name in MODULES if name.split(".")[0] == room]


def allowed_for(room: str) -> set[str]:
    if room in ALONE:
        return ALONE[room]
    below = set(ORDER[: ORDER.index(room) + 1]) - NEVER.get(room, set())
    return below | {""} | ({"emulator"} if room in MAY_USE_THE_EMULATOR else set())


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_below_it(room: str) -> None:
    assert room in {*ORDER, *ALONE}, f"{room} has no place in the order of the rooms"
    for name in modules_of(room):
        found = {one.split(".")[0] for one in imported_modules(MODULES[name])}
        assert found <= allowed_for(room), name


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Return the groups of modules of which each reaches all others, as Tarjan finds them."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in index:
                visit(other)
            if other in stack:
                low[name] = min(low[name], low[other])
        if low[name] == index[name]:
            start = stack.index(name)
            found.append(set(stack[start:]))
            del stack[start:]

    for name in sorted(graph):
        if name not in index:
            visit(name)
    return [group for group in found if len(group) > 1]


def test_there_is_no_import_circle() -> None:
    graph = {name: imported_modules(path) & set(MODULES) for name, path in MODULES.items()}
    assert circles(graph) == []


def test_a_circle_is_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set[str]()}
    assert circles(graph) == [{"a", "b", "c"}]


@pytest.mark.parametrize("room", ["protocol", "models"])
def test_the_pure_rooms_have_neither_io_nor_clock_nor_chance(room: str) -> None:
    for name in modules_of(room):
        assert not {one.split(".")[0] for one in imports(MODULES[name])} & NO_IO, name


def test_only_the_transport_touches_the_network() -> None:
    for name, path in MODULES.items():
        if name.split(".")[0] not in {"transport", "emulator", *NAMES_TYPES_OF_AIOHTTP}:
            assert not {one.split(".")[0] for one in imports(path)} & NETWORK, name


def test_the_core_imports_no_optional_package() -> None:
    for name, path in MODULES.items():
        if name.split(".")[0] not in HOMES_OF_EXTRAS:
            found = {(name, one.split(".")[0]) for one in imports(path)}
            assert not {one for one in found if one[1] in EXTRAS} - LAZY_EXTRAS, name


def test_nothing_is_mocked() -> None:
    for path in Path(__file__).parent.rglob("*.py"):
        words = {name.split(".")[0] for name in imports(path)}
        assert not words & {"aioresponses", "unittest"}, path


def test_no_log_line_can_be_forged() -> None:
    for name, path in MODULES.items():
        if name != "texts" and name.split(".")[0] != "emulator":
            assert "logging.getLogger" not in path.read_text(), (
                f"{name}: texts.logger_of keeps records in one line"
            )
