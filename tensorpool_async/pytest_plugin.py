"""What pytest loads when it starts: hooks and fixtures, and nothing of the package before one of them is used.

This is a module beside the package because importing one of the package's own would import all of it, and aiohttp with
it, in every run of pytest on the machine. What is done is written in `tensorpool_async.testing`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import pytest


if TYPE_CHECKING:
    from tensorpool_async import TensorPool
    from tensorpool_async.testing import EmulatorSetup, ThreadedEmulator

MARKERS = (
    "tensorpool_emulator(**settings, nothing_left): settings of the test's emulator; whether to check what is left",
    "tensorpool_fault(kind, *, method, path, times, probability, after, seconds): what goes wrong at the test's emulator",
)
NOTHING_LEFT = "tensorpool_nothing_left"
SCOPES = ("function", "class", "module", "package", "session")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the ini option."""
    parser.addini(
        NOTHING_LEFT,
        type="bool",
        default=False,
        help="fail each test with the fixture tensorpool_emulator that leaves a cluster or a volume at the engine",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Add the markers, and what pytest-asyncio needs where it is there."""
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    if config.pluginmanager.has_plugin("asyncio"):
        config.pluginmanager.register(_for_pytest_asyncio(), "tensorpool-async-asyncio")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Refuse a marker that would do nothing."""
    names = getattr(item, "fixturenames", ())
    for marker in item.own_markers:
        if marker.name in {"tensorpool_emulator", "tensorpool_fault"} and "tensorpool_emulator" not in names:
            pytest.fail(
                f"the marker {marker.name} does nothing here: the test uses neither the fixture tensorpool_emulator "
                "nor tensorpool",
                pytrace=False,
            )


@pytest.fixture
def tensorpool_emulator_settings() -> dict[str, Any]:
    """Return settings for the emulators of all tests below; to be overridden."""
    return {}


@pytest.fixture
def tensorpool_emulator(
    request: pytest.FixtureRequest, tensorpool_emulator_settings: dict[str, Any]
) -> Iterator[ThreadedEmulator]:
    """Run an engine for one test, where everything is quick; its markers say what is different."""
    from tensorpool_async import testing

    plan = _plan(request, tensorpool_emulator_settings)
    with plan.start() as emulator:
        yield emulator
        wanted = plan.nothing_left
        if request.config.getini(NOTHING_LEFT) if wanted is None else wanted:
            testing.assert_nothing_left(emulator, timeout=testing.SECONDS_TO_BE_GONE)


@pytest.fixture
def tensorpool(request: pytest.FixtureRequest, tensorpool_emulator: ThreadedEmulator) -> TensorPool:  # noqa: ARG001 - the markers look for it
    """Give a client of the test's emulator, which is closed at the end; it belongs to the loop of the test."""
    return cast("TensorPool", request.getfixturevalue(_client_fixture(request)))


@pytest.fixture
def _tensorpool_without_loop(tensorpool_emulator: ThreadedEmulator) -> TensorPool:
    # Nothing but the test itself knows on which loop it will be used, so the test has to close it.
    return _client(tensorpool_emulator)


@pytest.fixture
async def _tensorpool_on_anyio(
    tensorpool_emulator: ThreadedEmulator, anyio_backend_name: str
) -> AsyncIterator[TensorPool]:
    if anyio_backend_name != "asyncio":
        pytest.fail(
            f"the fixture tensorpool needs asyncio, and this test runs on {anyio_backend_name}: override the fixture "
            'anyio_backend to return "asyncio"',
            pytrace=False,
        )
    async with _client(tensorpool_emulator) as client:
        yield client


def _client(emulator: ThreadedEmulator) -> TensorPool:
    from tensorpool_async import PollPolicy, TensorPool

    return TensorPool(emulator.key, base_url=emulator.url, polling=PollPolicy(initial=0.01), trust_env=False)


def _client_fixture(request: pytest.FixtureRequest) -> str:
    """Return the fixture that opens and closes the client on the loop of this test, whoever runs it."""
    item, config = request.node, request.config
    if config.pluginmanager.has_plugin("asyncio"):
        from pytest_asyncio import is_async_test

        if is_async_test(item):
            marker = item.get_closest_marker("asyncio")
            scope = marker.kwargs.get("loop_scope") if marker else None
            return f"_tensorpool_on_asyncio_{scope or config.getini('asyncio_default_test_loop_scope')}"
    if "anyio_backend" in request.fixturenames:
        return "_tensorpool_on_anyio"
    return "_tensorpool_without_loop"


def _for_pytest_asyncio() -> ModuleType:
    """Make the client's fixtures for each scope that pytest-asyncio has loops of."""
    import pytest_asyncio

    def made(scope: Any) -> Callable[..., Any]:
        async def client(tensorpool_emulator: ThreadedEmulator) -> AsyncIterator[TensorPool]:
            async with _client(tensorpool_emulator) as opened:
                yield opened

        return pytest_asyncio.fixture(client, loop_scope=scope, name=f"_tensorpool_on_asyncio_{scope}")

    holder = ModuleType("tensorpool_async_fixtures")
    for scope in SCOPES:
        setattr(holder, f"on_{scope}", made(scope))
    return holder


def _plan(request: pytest.FixtureRequest, settings: dict[str, Any]) -> EmulatorSetup:
    from tensorpool_async import testing

    def words(name: str) -> list[testing.MarkerArgs]:
        # pytest gives the nearest first, and of one test's own the last first.
        return [(marker.args, marker.kwargs) for marker in reversed(list(request.node.iter_markers(name)))]

    try:
        return testing.setup_of(settings, words("tensorpool_emulator"), words("tensorpool_fault"))
    except ValueError as error:
        mistake = str(error)
    pytest.fail(mistake, pytrace=False)
