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

from tensorpool_async.cli import FAILED, INTERRUPTED, WRONG_USAGE
from tensorpool_async.cli.printing import say
from tensorpool_async.errors import ConfigurationError, TensorPoolError
from tensorpool_async.fleet.account import sentence
from tensorpool_async.texts import logger_of


Work: TypeAlias = "Callable[[], Coroutine[None, None, int]]"
"""Makes a command's coroutine, which returns the exit code; what it raises is told as if the coroutine had."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)

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
    try:
        return asyncio.run(_with_signals(work()))
    except (KeyboardInterrupt, asyncio.CancelledError):
        say("Interrupted. Nothing was changed.")  # what changes something gives an account of its own
        return INTERRUPTED
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


async def _with_signals(work: Coroutine[None, None, int]) -> int:
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()
    if task is not None:
        interrupt = _interrupter(task)
        for number in SIGNALS:
            with contextlib.suppress(NotImplementedError):  # on Windows; there Ctrl-C still cancels
                loop.add_signal_handler(number, interrupt)
    return await work


def _interrupter(task: asyncio.Task[object]) -> Callable[[], None]:
    seen = 0

    def interrupt() -> None:
        nonlocal seen
        seen += 1
        if seen == 1:
            task.cancel()
            return
        if sys.stderr.isatty():
            sys.stderr.write("\x1b[?25h\n")  # the live display had hidden the cursor
            sys.stderr.flush()
        os._exit(INTERRUPTED)

    return interrupt
