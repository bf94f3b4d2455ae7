"""Runs a command's coroutine: signals, errors in one line, and the exit code."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import TypeAlias

from tensorpool_async.cli import FAILED, INTERRUPTED, TERMINATED, WRONG_USAGE
from tensorpool_async.cli.printing import say
from tensorpool_async.errors import ConfigurationError, TensorPoolError
from tensorpool_async.fleet.progress import sentence
from tensorpool_async.texts import logger_of


Work: TypeAlias = "Callable[[], Coroutine[None, None, int]]"
"""Makes a command's coroutine, which returns the exit code; what it raises is told as if the coroutine had."""

CODES = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED}
"""The signals that interrupt a command, and the exit code that says so."""

logger: logging.Logger = logger_of(__name__)
package_logger: logging.Logger = logger_of("tensorpool_async")


class Warnings(logging.Handler):
    """Shows what the package warns of as lines on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        """Show one."""
        say(f"tpa: {' '.join(record.getMessage().split())}", style="yellow")


def run(work: Work) -> int:
    """Run a command to its end and return its exit code.

    The first SIGINT or SIGTERM cancels it, so that it can give an account; the second ends the process at once.
    """
    handler = Warnings(logging.WARNING)
    package_logger.addHandler(handler)
    interruption = _Interruption()
    try:
        return interruption.code_of(asyncio.run(_with_signals(work(), interruption)))
    except (KeyboardInterrupt, asyncio.CancelledError):
        say("Interrupted. Nothing was changed.")  # what changes something gives an account of its own
        return interruption.code_of(INTERRUPTED)
    except BrokenPipeError:
        # Whoever read the output has gone; the interpreter would complain about its last flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:  # noqa: BLE001 - a person gets a line, and the traceback goes to the debug log
        return fail(error)
    finally:
        package_logger.removeHandler(handler)


def fail(error: Exception) -> int:
    """Say what went wrong, in one line, and return the exit code for it."""
    logger.debug("failed", exc_info=error)
    if isinstance(error, (TensorPoolError, OSError)):
        say(f"tpa: {sentence(error)}", style="red")
    else:
        say(f"tpa: this is a bug, please report it: {type(error).__name__}: {sentence(error)}", style="red")
    return WRONG_USAGE if isinstance(error, ConfigurationError) else FAILED


class _Interruption:
    """The first signal cancels the command, the second ends the process."""

    def __init__(self) -> None:
        self._first: signal.Signals | None = None

    def take(self, number: signal.Signals, task: asyncio.Task[object]) -> None:
        """Take a signal."""
        if self._first is None:
            self._first = number
            task.cancel()
            return
        if sys.stderr.isatty():
            sys.stderr.write("\x1b[?25h\n")  # the live display had hidden the cursor
            sys.stderr.flush()
        os._exit(CODES[number])

    def code_of(self, code: int) -> int:
        """Return the exit code of the process, after a command that returned this one."""
        return CODES.get(self._first or signal.SIGINT, code) if code == INTERRUPTED else code


async def _with_signals(work: Coroutine[None, None, int], interruption: _Interruption) -> int:
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()
    if task is not None:
        for number in CODES:
            with contextlib.suppress(NotImplementedError):  # on Windows; there Ctrl-C still cancels
                loop.add_signal_handler(number, interruption.take, number, task)
    return await work
