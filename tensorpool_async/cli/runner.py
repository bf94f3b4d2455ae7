"""Runs the coroutine of a command: signals, errors as one line, and the exit code."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import TypeAlias

from tensorpool_async.cli.exit_codes import SIGNAL_EXIT_CODES, ExitCode
from tensorpool_async.cli.output import print_err
from tensorpool_async.errors import ConfigurationError, TensorPoolError
from tensorpool_async.fleet.progress import sentence
from tensorpool_async.texts import logger_of


CommandFactory: TypeAlias = "Callable[[], Coroutine[None, None, ExitCode]]"
"""Makes the coroutine of a command. An error that it raises is reported like one of the coroutine."""

logger: logging.Logger = logger_of(__name__)
package_logger: logging.Logger = logger_of("tensorpool_async")


class StderrHandler(logging.Handler):
    """Prints log records as lines on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        print_err(f"tpa: {' '.join(record.getMessage().split())}", style="yellow")


def run_command(factory: CommandFactory) -> ExitCode:
    """Run a command and return its exit code. Warnings of the package are printed to standard error.

    The first SIGINT or SIGTERM cancels the command, so that it can report what exists; the second ends the process at
    once.
    """
    handler = StderrHandler(logging.WARNING)
    package_logger.addHandler(handler)
    signals = _SignalHandler()
    try:
        return signals.exit_code(asyncio.run(_run_with_signals(factory(), signals)))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print_err("Interrupted. Nothing was changed.")  # a command that changes something handles this itself
        return signals.exit_code(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        # The reader of the output is gone; the interpreter would report an error when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAILURE
    except Exception as error:  # noqa: BLE001 - a person gets one line; the traceback goes to the debug log
        return report_error(error)
    finally:
        package_logger.removeHandler(handler)


def report_error(error: Exception) -> ExitCode:
    """Print an error as one line to standard error and return its exit code."""
    logger.debug("failed", exc_info=error)
    if isinstance(error, (TensorPoolError, OSError)):
        print_err(f"tpa: {sentence(error)}", style="red")
    else:
        print_err(
            f"tpa: this is a bug, please report it: {type(error).__name__}: {sentence(error)}", style="red"
        )
    return ExitCode.USAGE_ERROR if isinstance(error, ConfigurationError) else ExitCode.FAILURE


class _SignalHandler:
    """Cancels the command at the first signal, and ends the process at the second."""

    def __init__(self) -> None:
        self._first: signal.Signals | None = None

    def handle(self, number: signal.Signals, task: asyncio.Task[object]) -> None:
        """Handle a signal."""
        if self._first is None:
            self._first = number
            task.cancel()
            return
        if sys.stderr.isatty():
            sys.stderr.write("\x1b[?25h\n")  # the live display may have hidden the cursor
            sys.stderr.flush()
        os._exit(SIGNAL_EXIT_CODES[number])

    def exit_code(self, code: ExitCode) -> ExitCode:
        """Return the exit code of the process for the one that the command returned."""
        if code is not ExitCode.INTERRUPTED:
            return code
        return SIGNAL_EXIT_CODES.get(self._first or signal.SIGINT, code)


async def _run_with_signals(command: Coroutine[None, None, ExitCode], signals: _SignalHandler) -> ExitCode:
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()
    if task is not None:
        for number in SIGNAL_EXIT_CODES:
            with contextlib.suppress(
                NotImplementedError
            ):  # on Windows, where Ctrl-C cancels without a handler
                loop.add_signal_handler(number, signals.handle, number, task)
    return await command
