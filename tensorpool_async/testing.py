"""For the tests of what is built on this package: an engine for each test, faults by a marker, and an account at the end.

The fixtures and markers are there once the package is installed with the extra `testing`; see the guide on testing. What
is here can also be used without pytest::

    with ThreadedEmulator() as emulator:
        ...
        assert_nothing_left(emulator)
"""

from __future__ import annotations

import asyncio
import difflib
import inspect
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import Any, ParamSpec, Self, TypeVar

import attrs

from tensorpool_async.emulator import Emulator, Fault, FaultKind


__all__ = ["QUICK", "Fault", "FaultKind", "ThreadedEmulator", "assert_nothing_left"]

P = ParamSpec("P")
T = TypeVar("T")

QUICK: Mapping[str, Any] = {
    "provision_seconds": 0.05,
    "destroy_seconds": 0.05,
    "edit_seconds": 0.02,
    "storage_seconds": 0.05,
    "attach_seconds": 0.05,
    "job_seconds": 0.1,
    "cancel_seconds": 0.05,
    "retry_after": 0.02,
}
"""The settings of the fixture's emulator: everything takes a few hundredths of a second."""

SECONDS_TO_BE_GONE = 5.0
"""How long the check after a test waits for what is being destroyed."""


class ThreadedEmulator(Emulator):
    """An emulator in a thread of its own, so that tests of any kind can use it: async or not, or other processes.

    It takes the settings of `Emulator`, and its times are those of `QUICK` where none are given. What it holds can be
    read from the test's thread, and faults be added; what starts something there goes through `call`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{**QUICK, **settings})
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What leads a client in another process here: `TENSORPOOL_ENGINE` and `TENSORPOOL_KEY`."""
        return {"TENSORPOOL_ENGINE": self.url, "TENSORPOOL_KEY": self.key}

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function in the emulator's thread, such as `emulator.jobs.add`, and return its result."""
        if self._loop is None:
            raise RuntimeError("the emulator is not running")

        async def called() -> T:
            return function(*args, **kwargs)

        return asyncio.run_coroutine_threadsafe(called(), self._loop).result()

    def __enter__(self) -> Self:
        started: Future[None] = Future()
        # A test that is interrupted must not be kept from ending by its emulator.
        self._thread = threading.Thread(
            target=self._run, args=(started,), name="tensorpool-emulator", daemon=True
        )
        self._thread.start()
        started.result()
        return self

    def __exit__(self, *_: object) -> None:
        loop, stop, thread = self._loop, self._stop, self._thread
        if loop is not None and stop is not None and thread is not None:
            self._loop = None
            loop.call_soon_threadsafe(stop.set)
            thread.join()

    def _run(self, started: Future[None]) -> None:
        asyncio.run(self._live(started))

    async def _live(self, started: Future[None]) -> None:
        try:
            await self.__aenter__()
        except Exception as error:  # noqa: BLE001 - whoever starts it hears of it
            started.set_exception(error)
            return
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        started.set_result(None)
        try:
            await self._stop.wait()
        finally:
            await self.__aexit__(None, None, None)


def assert_nothing_left(emulator: Emulator, *, timeout: float = 0.0) -> None:
    """Check that every cluster and every volume that was made is destroyed.

    Args:
        emulator: The engine that they were made at.
        timeout: Seconds to wait for those that are being destroyed. This blocks, so it helps only where the emulator is
            a `ThreadedEmulator`.

    Raises:
        AssertionError: Something is left; the message names it.
    """
    end = time.monotonic() + timeout
    while any(status == "DESTROYING" for _, status in _left(emulator)) and time.monotonic() < end:
        time.sleep(0.005)
    left = _left(emulator)
    if left:
        lines = "\n".join(f"  {name} ({status}{_advice(status)})" for name, status in left)
        raise AssertionError(f"left at the engine, and paid for:\n{lines}")


def _left(emulator: Emulator) -> list[tuple[str, str]]:
    record = emulator.record
    clusters = [emulator.clusters[one] for one in record.living]
    volumes = [emulator.volumes[one] for one in record.living_volumes]
    found = [(f"cluster {cluster.name}, {cluster.id}", cluster.status.value) for cluster in clusters]
    return found + [(f"volume {volume.name}, {volume.id}", volume.status.value) for volume in volumes]


def _advice(status: str) -> str:
    return ": wait for the operation that destroys it" if status == "DESTROYING" else ""


@attrs.frozen
class EmulatorSetup:
    """What the markers and settings of one test ask for.

    Attributes:
        settings: Those of its emulator, with its faults in the order in which they are written.
        nothing_left: Whether to check at the end that nothing is left; None leaves that to the ini option.
    """

    settings: Mapping[str, Any]
    nothing_left: bool | None

    def start(self) -> ThreadedEmulator:
        """Make the emulator."""
        return ThreadedEmulator(**self.settings)


MarkerArgs = tuple[tuple[object, ...], Mapping[str, Any]]
"""The positional and the named arguments of a marker."""


def setup_of(
    settings: Mapping[str, Any], emulators: Iterable[MarkerArgs], faults: Iterable[MarkerArgs]
) -> EmulatorSetup:
    """Put together what the markers of a test say; what is nearer to the test comes later and wins.

    Raises:
        ValueError: A setting, or a kind of fault, that does not exist.
    """
    merged = dict(settings)
    for positional, named in emulators:
        if positional:
            raise ValueError(f"tensorpool_emulator takes settings by name, not {positional[0]!r}")
        merged.update(named)
    nothing_left = merged.pop("nothing_left", None)
    known = [*list(inspect.signature(Emulator.__init__).parameters)[1:], "nothing_left"]
    _check_names("tensorpool_emulator", merged, known)
    marked = [fault_of(positional, named) for positional, named in faults]
    merged["faults"] = [*merged.get("faults", ()), *marked]
    return EmulatorSetup(merged, nothing_left)


def fault_of(positional: tuple[object, ...], named: Mapping[str, Any]) -> Fault:
    """Make a fault of what a marker says.

    Raises:
        ValueError: There is no such kind, or it takes no such argument.
    """
    if len(positional) != 1:
        raise ValueError('tensorpool_fault takes the kind, and the rest by name: ("DROP_AFTER", times=2)')
    kinds = [kind.value for kind in FaultKind]
    kind = str(positional[0])
    if kind not in kinds:
        raise ValueError(
            f"there is no fault {kind!r}{_meant(kind.upper(), kinds)}. There are {', '.join(kinds)}"
        )
    known = [field.name for field in attrs.fields(Fault) if field.name != "kind"]
    _check_names("tensorpool_fault", named, known)
    return Fault(FaultKind(kind), **named)


def _check_names(marker: str, given: Iterable[str], known: list[str]) -> None:
    for name in given:
        if name not in known:
            raise ValueError(f"{marker} has no {name!r}{_meant(name, known)}. It has {', '.join(known)}")


def _meant(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
