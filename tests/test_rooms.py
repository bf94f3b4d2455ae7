"""The walls between the rooms (design, section 2): a lower room never imports a higher one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import tensorpool_async


PACKAGE = Path(tensorpool_async.__file__).parent
CORE = {"secrets", "errors", "version", "config", "models", "protocol", "flow"}
ALLOWED: dict[str, set[str]] = {
    "texts": set(),  # below all others, and so in no list
    "secrets": set(),
    "version": set(),
    "errors": set(),
    "config": {"errors", "secrets"},
    "models": {"models", "errors"},
    "protocol": {"protocol", "models", "errors"},
    "flow": {"flow", "protocol", "errors"},
    "bodies": {"protocol"},
    "transport": CORE | {"bodies", "events", "telling"},
    "poller": {"transport", "protocol", "errors"},
    "operations": {"poller", "story", "telling", "transport", "protocol", "models", "errors"},
    "bookkeeping": {"events", "journal", "operations", "transport", "protocol", "models", "errors"},
    "submissions": {
        "bookkeeping",
        "operations",
        "poller",
        "transport",
        "protocol",
        "models",
        "errors",
    },
    "websocket": {"transport", "protocol", "secrets", "errors"},
    "journal": {"journal", "models", "protocol", "errors"},
    "events": set(),
    "story": {"protocol", "models", "errors"},
    "telling": {"events", "protocol", "secrets", "errors"},
    "processes": {"events"},
    "cleanup": set(),
    "signals": set(),
    "resources": {
        "resources",
        "submissions",
        "bookkeeping",
        "journal",
        "operations",
        "transport",
        "websocket",
        "processes",
        "cleanup",
        "events",
        "flow",
        "protocol",
        "models",
        "errors",
        "version",
    },
    "emulator": {"emulator"},
}
NO_IO = {"aiohttp", "asyncio", "anyio", "time", "random", "socket", "ssl"}
NETWORK = {"aiohttp", "socket", "ssl"}


def modules(room: str) -> list[Path]:
    single = PACKAGE / f"{room}.py"
    return [single] if single.exists() else sorted((PACKAGE / room).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Yield the names of all modules that one imports when it runs."""
    tree = ast.parse(path.read_text())
    for block in [node for node in ast.walk(tree) if isinstance(node, ast.If)]:
        if ast.unparse(block.test) == "TYPE_CHECKING":
            block.body.clear()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_of(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(path) if name.startswith("tensorpool_async.")} - {"texts"}


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_a_lower_room_never_imports_a_higher_one(room: str) -> None:
    found = modules(room)
    assert found, f"the room {room} has gone"
    for path in found:
        assert rooms_of(path) <= ALLOWED[room], path


@pytest.mark.parametrize("room", ["protocol", "models"])
def test_the_pure_rooms_have_neither_io_nor_clock_nor_chance(room: str) -> None:
    for path in modules(room):
        assert not {name.split(".")[0] for name in imports(path)} & NO_IO, path


def test_only_the_transport_touches_the_network() -> None:
    allowed = {
        "transport.py",
        "websocket.py",
        "client.py",
        "config.py",
    }  # the latter two only name aiohttp's types
    for path in PACKAGE.rglob("*.py"):
        if path.name in allowed or "emulator" in path.parts:
            continue
        assert not {name.split(".")[0] for name in imports(path)} & NETWORK, path


def test_the_core_imports_no_optional_package() -> None:
    extras = {"cyclopts", "rich", "fastapi", "opentelemetry", "obstore", "pytest", "redis"}
    homes = {"cli", "fastapi.py", "otel.py", "testing.py", "redis"}
    lazy = {("object_storage.py", "obstore")}  # imported by the one method that needs it
    for path in PACKAGE.rglob("*.py"):
        if not homes & {path.name, path.relative_to(PACKAGE).parts[0]}:
            found = {(path.name, name.split(".")[0]) for name in imports(path)}
            assert not {one for one in found if one[1] in extras} - lazy, path


def test_nothing_is_mocked_and_nothing_outside_is_read() -> None:
    for path in Path(__file__).parent.rglob("*.py"):
        words = {name.split(".")[0] for name in imports(path)}
        assert not words & {"aioresponses", "unittest"}, path


def test_no_log_can_be_forged_whoever_writes_to_it() -> None:
    for path in PACKAGE.rglob("*.py"):
        if path.name != "texts.py" and "emulator" not in path.parts:
            assert "logging.getLogger" not in path.read_text(), (
                f"{path}: texts.logger_of keeps records in one line"
            )
