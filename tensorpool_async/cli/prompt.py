"""Confirmation by a person at a terminal."""

from __future__ import annotations

import asyncio
import sys

from tensorpool_async.cli.exit_codes import ExitCode
from tensorpool_async.cli.output import print_err
from tensorpool_async.texts import clean


def has_terminal() -> bool:
    """Whether a prompt_text can be shown and answered: standard input and standard error are a terminal."""
    return sys.stdin.isatty() and sys.stderr.isatty()


async def confirm_destroy(prompt_text: str) -> ExitCode | None:
    """Ask before something is destroyed.

    Returns:
        None if the answer is yes. Otherwise the exit code of the command, after a line on standard error: `SUCCESS` for
        any other answer, `USAGE_ERROR` where there is no terminal.
    """
    if not has_terminal():
        print_err(
            "tpa: nothing was destroyed: there is no terminal to confirm at; use --yes to destroy without asking",
            style="red",
        )
        return ExitCode.USAGE_ERROR
    if await confirm(prompt_text):
        return None
    print_err("Nothing was destroyed.")
    return ExitCode.SUCCESS


async def confirm(prompt_text: str) -> bool:
    """Ask a prompt_text; only `y` and `yes` confirm.

    The event loop runs on meanwhile, so that Ctrl-C is handled at once.
    """
    sys.stderr.write(f"{clean(prompt_text)} [y/N] ")
    sys.stderr.flush()
    answer = await _read_line()
    if not answer.endswith("\n"):
        sys.stderr.write("\n")
    return answer.strip().casefold() in {"y", "yes"}


async def _read_line() -> str:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(sys.stdin, ready.set)
    except NotImplementedError:  # on Windows
        return await asyncio.to_thread(sys.stdin.readline)
    try:
        await ready.wait()
        return sys.stdin.readline()  # a terminal delivers whole lines, so this does not block
    finally:
        loop.remove_reader(sys.stdin)
