"""The pytest plugin, in suites of their own: under anyio's plugin, under pytest-asyncio, and with neither."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tensorpool_async.emulator import Emulator, FaultKind
from tensorpool_async.testing import ThreadedEmulator, assert_nothing_left, fault_of, setup_of


pytest_plugins = ("pytester",)

ANYIO = """
[pytest]
addopts = -p no:asyncio
anyio_mode = auto
filterwarnings = error
"""
PYTEST_ASYNCIO = """
[pytest]
addopts = -p no:anyio
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
filterwarnings = error
"""
STRICT = PYTEST_ASYNCIO.replace("auto", "strict")
BOTH = PYTEST_ASYNCIO.replace("addopts = -p no:anyio\n", "")
WORLDS = {"anyio": ANYIO, "pytest-asyncio": PYTEST_ASYNCIO, "strict": STRICT, "both": BOTH}
CONFTEST = """
import pytest

@pytest.fixture
def anyio_backend():
    return "asyncio"
"""
Run = Callable[..., pytest.RunResult]


@pytest.fixture(params=sorted(WORLDS))
def run(request: pytest.FixtureRequest, pytester: pytest.Pytester) -> Run:
    def run_suite(text: str, *options: str, ini: str = "") -> pytest.RunResult:
        pytester.makeini(WORLDS[request.param] + ini)
        pytester.makeconftest(CONFTEST)
        mark = "import pytest\n" + ("pytestmark = pytest.mark.asyncio\n" if request.param == "strict" else "")
        pytester.makepyfile(mark + text)
        return pytester.runpytest_inprocess("-p", "no:cacheprovider", *options)

    return run_suite


@pytest.fixture
def run_sync(pytester: pytest.Pytester) -> Run:
    def run_suite(text: str, *options: str, ini: str = "") -> pytest.RunResult:
        pytester.makeini(ANYIO + ini)
        pytester.makeconftest(CONFTEST)
        pytester.makepyfile("import pytest\n" + text)
        return pytester.runpytest_inprocess("-p", "no:cacheprovider", *options)

    return run_suite


CLIENT = """
async def test_one(tensorpool, tensorpool_emulator):
    cluster = await tensorpool.clusters.create("8xH100", name="w").result()
    assert tensorpool_emulator.record.living == [cluster.id]
    await tensorpool.clusters.destroy(cluster).result()

async def test_two_has_an_engine_of_its_own(tensorpool, tensorpool_emulator):
    assert await tensorpool.clusters.list() == []
    assert not tensorpool_emulator.record.clusters_made

async def test_unused(tensorpool):
    pass
"""


def test_a_client_and_its_engine(run: Run) -> None:
    run(CLIENT).assert_outcomes(passed=3)


FAULTS = """
@pytest.mark.tensorpool_fault("DROP_AFTER", path="/cluster/create", times=1)
@pytest.mark.tensorpool_fault("HTML_502", path="/request/info/*")
async def test_faults(tensorpool, tensorpool_emulator):
    assert [fault.kind for fault in tensorpool_emulator.faults.armed] == ["DROP_AFTER", "HTML_502"]
    await tensorpool.clusters.create("8xH100", name="w").result()
    fired = [fault.kind for fault in tensorpool_emulator.record.faults]
    assert "DROP_AFTER" in fired and "HTML_502" in fired
    assert len(tensorpool_emulator.record.clusters_made) == 1
"""


def test_faults_by_a_marker(run: Run) -> None:
    run(FAULTS).assert_outcomes(passed=1)


USERS_FIXTURE = """
if CONDITION:
    import pytest_asyncio
    fixture = pytest_asyncio.fixture
else:
    fixture = pytest.fixture

@fixture
async def cluster(tensorpool):
    made = await tensorpool.clusters.create("8xH100").result()
    yield made
    await tensorpool.clusters.destroy(made).result()

@pytest.mark.tensorpool_emulator(nothing_left=True)
async def test_it(cluster, tensorpool):
    assert (await tensorpool.clusters.get(cluster)).id == cluster.id
"""


def test_async_fixtures_of_the_user_still_have_it_at_their_end(
    run: Run, request: pytest.FixtureRequest
) -> None:
    world = request.node.callspec.params["run"]
    run(USERS_FIXTURE.replace("CONDITION", str(world == "strict"))).assert_outcomes(passed=1)


def test_loops_of_a_wider_scope(pytester: pytest.Pytester) -> None:
    pytester.makeini(PYTEST_ASYNCIO + "asyncio_default_test_loop_scope = module\n")
    pytester.makepyfile(
        "import pytest\n" + CLIENT + "\n@pytest.mark.asyncio(loop_scope='session')\n"
        "async def test_three(tensorpool):\n    assert await tensorpool.clusters.list() == []\n"
    )
    pytester.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(passed=4)


LEFT = """
async def test_leaves(tensorpool):
    await tensorpool.clusters.create("8xH100", name="forgotten").result()
    await tensorpool.storage.create(10, name="volume-too").result()

async def test_is_still_destroying(tensorpool):
    cluster = await tensorpool.clusters.create("8xH100").result()
    await tensorpool.clusters.destroy(cluster)
"""


def test_the_ini_option_finds_what_is_left(run: Run) -> None:
    result = run(LEFT, ini="tensorpool_nothing_left = true\n")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*left at the engine, and paid for*", "*cluster forgotten, *(RUNNING)*"])
    result.stdout.fnmatch_lines(["*volume volume-too, *(READY)*"])


def test_nothing_is_checked_unasked_and_a_marker_has_the_last_word(run_sync: Run) -> None:
    run_sync(LEFT).assert_outcomes(passed=2)
    text = LEFT.replace(
        "async def test_leaves", "@pytest.mark.tensorpool_emulator(nothing_left=False)\nasync def test_leaves"
    )
    run_sync(text, ini="tensorpool_nothing_left = true\n").assert_outcomes(passed=2)


SETTINGS = """
@pytest.fixture
def tensorpool_emulator_settings():
    return {"provision_seconds": 7.5, "balance": 1.0, "organization": "Fixture"}

@pytest.mark.tensorpool_emulator(balance=2.0, capacity={"8xH100": 1})
class TestClass:
    @pytest.mark.tensorpool_emulator(balance=3.0)
    def test_all_of_them(self, tensorpool_emulator):
        assert tensorpool_emulator.balance == 3.0
        assert tensorpool_emulator.capacity == {"8xH100": 1}

    def test_the_class(self, tensorpool_emulator):
        assert tensorpool_emulator.balance == 2.0

def test_the_fixture(tensorpool_emulator):
    assert tensorpool_emulator.balance == 1.0
"""


def test_settings_by_fixture_and_marker(run_sync: Run) -> None:
    run_sync(SETTINGS).assert_outcomes(passed=3)


PROCESS = """
import os, subprocess, sys

def test_another_process(tensorpool_emulator):
    result = subprocess.run(
        [sys.executable, "-m", "tensorpool_async", "ls", "--json"],
        env={**os.environ, **tensorpool_emulator.environment}, capture_output=True, text=True, check=True,
    )
    assert "clusters" in result.stdout
    assert tensorpool_emulator.record.requests

def test_a_loop_of_its_own(tensorpool):
    import asyncio
    async def main():
        async with tensorpool:
            return await tensorpool.clusters.list()
    assert asyncio.run(main()) == []
"""


def test_sync_tests_and_other_processes(run_sync: Run) -> None:
    run_sync(PROCESS).assert_outcomes(passed=2)


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        (
            'tensorpool_fault("DROP_AFTR")',
            "*no fault 'DROP_AFTR'; did you mean 'DROP_AFTER'*DROP_BEFORE, STALL,*",
        ),
        ('tensorpool_fault("drop_after")', "*did you mean 'DROP_AFTER'*"),
        ("tensorpool_fault()", "*takes the kind, and the rest by name*"),
        ('tensorpool_fault("STALL", second=1)', "*tensorpool_fault has no 'second'; did you mean 'seconds'*"),
        (
            "tensorpool_emulator(provison_seconds=1)",
            "*no 'provison_seconds'; did you mean 'provision_seconds'*",
        ),
        ("tensorpool_emulator(1)", "*takes settings by name*"),
    ],
)
def test_mistakes_in_markers_are_named(run_sync: Run, marker: str, message: str) -> None:
    result = run_sync(f"@pytest.mark.{marker}\ndef test_it(tensorpool_emulator):\n    pass\n")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([message])
    assert "pytest_plugin.py" not in result.stdout.str(), "no stack of the plugin's own"


def test_a_marker_that_does_nothing_is_refused(run_sync: Run) -> None:
    result = run_sync('@pytest.mark.tensorpool_fault("STALL")\ndef test_it():\n    pass\n')
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*the marker tensorpool_fault does nothing here*"])


def test_another_backend_than_asyncio_is_refused(pytester: pytest.Pytester) -> None:
    pytester.makeini(ANYIO)
    pytester.makepyfile(
        "import pytest\n\n@pytest.fixture\ndef anyio_backend_name():\n    return 'trio'\n\n"
        "@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\n\nasync def test_it(tensorpool):\n    pass\n"
    )
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*needs asyncio, and this test runs on trio*"])


def test_markers_and_options_are_documented(run_sync: Run) -> None:
    result = run_sync("", "--markers")
    result.stdout.fnmatch_lines(["@pytest.mark.tensorpool_emulator*", "", "@pytest.mark.tensorpool_fault*"])


def test_pytest_starts_without_aiohttp(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import sys, json\ndef test_it():\n"
        "    print(json.dumps([name for name in ('aiohttp', 'attrs', 'tensorpool_async.client') if name in sys.modules]))\n"
    )
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-s",
            "-W",
            "error",
            "-p",
            "no:asyncio",
            "--trace-config",
            ".",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "tensorpool_async.pytest_plugin" in result.stdout, "the entry point is loaded"
    found = re.search(r"^\[.*\]$", result.stdout, re.MULTILINE)
    assert found
    assert json.loads(found[0]) == []


def test_an_emulator_in_a_thread_without_pytest() -> None:
    with ThreadedEmulator(organization=None) as emulator:
        assert emulator.environment == {"TENSORPOOL_ENGINE": emulator.url, "TENSORPOOL_KEY": emulator.key}
        assert emulator.call(max, 1, 2) == 2
        assert_nothing_left(emulator)
        with pytest.raises(ZeroDivisionError):
            emulator.call(lambda: 1 / 0)
    with pytest.raises(RuntimeError, match="not running"):
        emulator.call(max, 1, 2)


def test_an_emulator_that_cannot_start_says_so() -> None:
    with ThreadedEmulator() as emulator:
        port = int(emulator.url.rpartition(":")[2])
        with pytest.raises(OSError, match="in use"), ThreadedEmulator(port=port):
            pass


async def test_what_is_being_destroyed_is_left_until_it_is_gone(emulator: Emulator, tp: Any) -> None:
    cluster = await tp.clusters.create("8xH100").result()
    operation = await tp.clusters.destroy(cluster)
    with pytest.raises(AssertionError, match="wait for the operation that destroys it"):
        assert_nothing_left(emulator)
    await operation
    assert_nothing_left(emulator)


def test_kinds_may_be_given_as_they_are() -> None:
    assert fault_of((FaultKind.STALL,), {"times": None}).kind is FaultKind.STALL
    plan = setup_of({"faults": [fault_of(("STALL",), {})]}, [], [(("HTML_502",), {})])
    assert [fault.kind for fault in plan.settings["faults"]] == ["STALL", "HTML_502"]


DOCS = Path(__file__).parent.parent / "docs"


def test_the_guide_on_testing_is_true(pytester: pytest.Pytester) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / "testing.md").read_text(), re.MULTILINE | re.DOTALL)
    pytester.makeini("[pytest]\nanyio_mode = strict\naddopts = -p no:asyncio\n")
    pytester.makepyfile(**{f"test_block_{number}": block for number, block in enumerate(blocks)})
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=7)
