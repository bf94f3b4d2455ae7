"""What happened, as small frozen records, to whoever listens."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, cast

import attrs


logger: logging.Logger = logging.getLogger("tensorpool_async")


@attrs.frozen(kw_only=True)
class FleetMemberChanged:
    """A member of a fleet changed its state, or the engine said something new about it.

    Attributes:
        fleet: The fleet's name.
        member: The member's name.
        group: The name of its group.
        state: What the member is now; see `MemberState`.
        message: What the engine says, or why the state changed, as a text for a person; empty where there is nothing
            to say.
        resource_id: The cluster's id; None until the engine has accepted one.
        instance_type: The instance type that it has, or that was asked for.
        seconds: Seconds since the fleet's work began.
        hourly_rate: What it costs in USD per hour; None where the engine names no price.
    """

    fleet: str
    member: str
    group: str
    state: str
    message: str = ""
    resource_id: str | None = None
    instance_type: str | None = None
    seconds: float = 0.0
    hourly_rate: float | None = None


@attrs.frozen(kw_only=True)
class JobMessage:
    """The engine said something while a job was pushed.

    Attributes:
        job_id: The job's id; None until the engine has named it.
        message: The text.
    """

    job_id: str | None
    message: str


@attrs.frozen(kw_only=True)
class CommandStarted:
    """A command that the engine asked for is run here, without a shell.

    Attributes:
        arguments: The program and its arguments.
    """

    arguments: tuple[str, ...]


@attrs.frozen(kw_only=True)
class CommandOutput:
    """A running command has written something.

    Attributes:
        arguments: The program and its arguments.
        stream: `stdout` or `stderr`.
        text: What it has written, as it came: lines, or parts of them.
        shown: Whether the engine means it to be shown.
    """

    arguments: tuple[str, ...]
    stream: str
    text: str
    shown: bool


@attrs.frozen(kw_only=True)
class CommandEnded:
    """A command has ended.

    Attributes:
        arguments: The program and its arguments.
        exit_code: What it ended with; 127 where it could not be started.
    """

    arguments: tuple[str, ...]
    exit_code: int


@attrs.frozen(kw_only=True)
class BytesPulled:
    """A part of a file was downloaded.

    Attributes:
        job_id: The job whose output it is.
        name: The file, as the engine names it.
        received: Bytes of it that are here.
        total: Bytes of it altogether; None where the server does not say.
        done: Whether it is complete and in its place.
    """

    job_id: str
    name: str
    received: int
    total: int | None
    done: bool


Event = FleetMemberChanged | JobMessage | CommandStarted | CommandOutput | CommandEnded | BytesPulled
"""Whatever a listener is told."""

Listener = Callable[[Event], object]
"""What is told of events: a function, or a coroutine function."""

LONGEST_QUEUE = 10_000
"""Events that wait for a slow asynchronous listener; what comes on top is dropped and counted."""


class Dispatcher:
    """Hands events to a listener, and keeps its mistakes away from what the events tell of.

    A plain function is called at once. A coroutine function is called by a task of its own, one event after the other.
    """

    def __init__(self, listener: Callable[[Any], object] | None) -> None:
        self._listener = listener
        self._waiting: deque[Coroutine[Any, Any, object]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self.failures: int = 0
        self.dropped: int = 0

    def emit(self, event: Event) -> None:
        """Tell the listener, if there is one."""
        if self._listener is None:
            return
        try:
            result = self._listener(event)
        except Exception as error:  # noqa: BLE001 - whatever a listener raises is its own affair
            self._failed(error)
            return
        if isinstance(result, Coroutine):
            self._queue(cast("Coroutine[Any, Any, object]", result))

    async def aclose(self) -> None:
        """Give up what an asynchronous listener was not yet told."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        while self._waiting:
            self._drop(self._waiting.popleft())

    def _queue(self, call: Coroutine[Any, Any, object]) -> None:
        if len(self._waiting) >= LONGEST_QUEUE:
            self._drop(call)
            return
        self._waiting.append(call)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.get_running_loop().create_task(self._work(), name="tensorpool-events")

    def _drop(self, call: Coroutine[Any, Any, object]) -> None:
        self.dropped += 1
        call.close()  # never started, and not to be warned of

    async def _work(self) -> None:
        while self._waiting:
            try:
                await self._waiting.popleft()
            except Exception as error:  # noqa: BLE001 - whatever a listener raises is its own affair
                self._failed(error)

    def _failed(self, error: Exception) -> None:
        self.failures += 1
        logger.warning("a listener to events failed; what it listens to goes on", exc_info=error)
