"""Running a command that the engine asks for: as a list of arguments, never through a shell."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import anyio
import attrs
from anyio.abc import ByteReceiveStream
from anyio.streams.text import TextReceiveStream

from tensorpool_async.events import CommandEnded, CommandOutput, CommandStarted, Dispatcher


NOT_STARTED = 127
"""What a shell would say of a program that is not there."""

LONGEST_OUTPUT = 1024 * 1024
"""Characters of each stream that are kept for the engine; of more, the end is kept."""


@attrs.frozen
class CommandResult:
    """How a command ended.

    Attributes:
        exit_code: Its exit code; 127 where it could not be started.
        stdout: What it wrote to its standard output.
        stderr: What it wrote to its standard error.
    """

    exit_code: int
    stdout: str = ""
    stderr: str = ""


async def run(
    arguments: Sequence[str],
    *,
    folder: Path,
    events: Dispatcher,
    shown: bool,
    environment: Mapping[str, str] | None = None,
) -> CommandResult:
    """Run a command in a folder, with nothing on its standard input, and wait for its end.

    What it writes is told as events while it runs. Who is cancelled here kills it first. Without an environment it has
    the one of this process.
    """
    command = tuple(arguments)
    events.emit(CommandStarted(arguments=command))
    try:
        result = await _run(command, folder, events, environment, shown=shown)
    except (OSError, ValueError) as error:
        result = CommandResult(NOT_STARTED, stderr=f"{command[0]}: {error}")
    events.emit(CommandEnded(arguments=command, exit_code=result.exit_code))
    return result


async def _run(
    command: tuple[str, ...],
    folder: Path,
    events: Dispatcher,
    environment: Mapping[str, str] | None,
    *,
    shown: bool,
) -> CommandResult:
    output: dict[str, str] = {"stdout": "", "stderr": ""}

    async def read(stream: ByteReceiveStream | None, name: str) -> None:
        if stream is None:
            return
        async for text in TextReceiveStream(stream, errors="replace"):
            output[name] = (output[name] + text)[-LONGEST_OUTPUT:]
            events.emit(CommandOutput(arguments=command, stream=name, text=text, shown=shown))

    variables = {**(os.environ if environment is None else environment), "PYTHONUNBUFFERED": "1"}
    # Nothing that the engine may ask for needs the key, and ssh can be configured to pass variables on.
    variables.pop("TENSORPOOL_KEY", None)
    # In a session of its own, a program has no terminal to ask a person at, and is killed with what it has started.
    async with await anyio.open_process(
        command, stdin=subprocess.DEVNULL, cwd=folder, env=variables, start_new_session=True
    ) as process:
        try:
            async with anyio.create_task_group() as readers:
                readers.start_soon(read, process.stdout, "stdout")
                readers.start_soon(read, process.stderr, "stderr")
        except BaseException:
            with contextlib.suppress(ProcessLookupError, PermissionError, AttributeError):
                os.killpg(process.pid, signal.SIGKILL)  # not on Windows
            raise
    return CommandResult(process.returncode or 0, output["stdout"], output["stderr"])
