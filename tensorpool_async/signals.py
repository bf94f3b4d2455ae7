"""SIGTERM, treated as Ctrl-C is, for as long as a client that asks for it is open.

There is no state but the handler that is installed: whoever else asks for one finds it there.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from types import FrameType

from tensorpool_async.texts import logger_of


logger: logging.Logger = logger_of("tensorpool_async")


BLOCKED = 1.0
"""Seconds after which a loop that has not handled a signal is taken for blocked, so that the next one interrupts it."""


class SigtermHandler:
    """Does at SIGTERM what this process does at Ctrl-C, on the event loop that it was made for.

    `asyncio.run` cancels the main task at the first Ctrl-C, and ends the loop at the second. Where nothing on the loop
    handles Ctrl-C (it is ignored, or the loop was not started by `asyncio.run`), the tasks that asked for this are
    cancelled instead.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._process = os.getpid()
        self._tasks: list[asyncio.Task[object]] = []
        self._waits_since: float | None = None
        self._handled = 0

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        """Take a signal; it is handled on the loop, so that it never interrupts a task in the middle of a step."""
        if os.getpid() != self._process:  # a child that was forked has not asked for this
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)
            return
        now = time.monotonic()
        if self._waits_since is not None and now > self._waits_since + BLOCKED:
            raise KeyboardInterrupt
        self._waits_since = self._waits_since or now
        self._loop.call_soon_threadsafe(self._handle)

    def is_for(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether it handles the signals of this process on that loop."""
        return self._loop is loop and self._process == os.getpid()

    def add(self, task: asyncio.Task[object]) -> None:
        """Have one more task that asks for it."""
        self._tasks.append(task)

    def remove(self, task: asyncio.Task[object]) -> None:
        """Forget a task; after the last one the signal does again what it did before."""
        self._tasks.remove(task)
        if not self._tasks and signal.getsignal(signal.SIGTERM) is self:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _handle(self) -> None:
        self._waits_since = None
        self._handled += 1
        if self._handled == 1:
            logger.warning(
                "SIGTERM: everything is cancelled, and open blocks destroy what they have made; a second SIGTERM "
                "cuts that short"
            )
        handler = signal.getsignal(signal.SIGINT)
        if handler not in {signal.default_int_handler, signal.SIG_IGN, signal.SIG_DFL, None}:
            signal.raise_signal(signal.SIGINT)
        elif self._handled > 1:
            raise KeyboardInterrupt
        else:
            for task in self._tasks:
                task.cancel()


def handle_sigterm() -> Callable[[], None]:
    """Treat SIGTERM as Ctrl-C, for the task that calls this.

    It is left as it is where the program or its server handles or ignores it already, outside of the main thread, and on
    Windows, which has no such signal.

    Returns:
        What ends this again.
    """
    task = asyncio.current_task()
    if sys.platform == "win32" or task is None:
        return _nothing
    if threading.current_thread() is not threading.main_thread():
        logger.warning("SIGTERM is not handled: Python handles signals in the main thread only")
        return _nothing
    loop = asyncio.get_running_loop()
    current = signal.getsignal(signal.SIGTERM)
    if isinstance(current, SigtermHandler) and current.is_for(loop):
        handler = current
    elif current is signal.SIG_DFL:
        handler = SigtermHandler(loop)
        signal.signal(signal.SIGTERM, handler)
    else:
        logger.info("SIGTERM is left to what handles it already: %r", current)
        return _nothing
    handler.add(task)
    return partial(handler.remove, task)


def _nothing() -> None:
    """Nothing has to be ended."""
