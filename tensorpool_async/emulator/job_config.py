"""The job file: its content, and what a job made from it would print and leave."""

import re
import shlex
import tomllib
from collections.abc import Sequence
from typing import Any, TypeGuard

import attrs

from tensorpool_async.emulator.limits import (
    MAX_COMMAND,
    MAX_COMMANDS,
    MAX_JOB_CONFIG,
    MAX_JOB_CONFIG_DOTS,
    MAX_NAME,
    clip,
)


TEMPLATE = """\
# What to run, in this order, in a fresh virtual environment
commands = [
  "python --version",
]

# Files, folders and globs that are kept when the job ends
outputs = []

# What is not uploaded
ignore = [
  ".git/",
  ".venv/",
  "__pycache__/",
]
"""


class ConfigError(ValueError):
    """The text is no job file. The message says why."""


@attrs.frozen
class JobConfig:
    """The content of a job file."""

    commands: Sequence[str]
    outputs: Sequence[str] = ()
    ignore: Sequence[str] = ()


def read(text: str) -> JobConfig:
    """Raises ConfigError."""
    if len(text) > MAX_JOB_CONFIG or text.count(".") > MAX_JOB_CONFIG_DOTS:
        raise ConfigError(
            f"A job file has at most {MAX_JOB_CONFIG} characters, {MAX_JOB_CONFIG_DOTS} of them dots"
        )
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a ValueError also for integers of too many digits
        raise ConfigError(f"Not TOML: {clip(str(error), MAX_NAME)}") from None
    commands = _texts(values, "commands")
    if not commands:
        raise ConfigError("commands is missing or empty")
    return JobConfig(commands, _texts(values, "outputs"), _texts(values, "ignore"))


def _texts(values: dict[str, Any], name: str) -> Sequence[str]:
    value: object = values.get(name, [])
    if not _is_texts(value):
        raise ConfigError(f"{name} must be a list of strings")
    if len(value) > MAX_COMMANDS or any(len(item) > MAX_COMMAND for item in value):
        raise ConfigError(f"{name} has at most {MAX_COMMANDS} items of {MAX_COMMAND} characters")
    return value


def _is_texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)  # pyright: ignore[reportUnknownVariableType]


STEPS = 3
_EXIT_CODE = re.compile(r"[0-9]{1,9}")


def rehearse(commands: Sequence[str]) -> tuple[list[str], int]:
    """What the commands would print, and their exit code. `echo` prints, `exit 3` and `false` end the job."""
    lines: list[str] = []
    for command in commands:
        lines.append(f"$ {command}")
        words = _words(command)
        match words:
            case ["exit", code] if _EXIT_CODE.fullmatch(code) and int(code) % 256:
                return lines, int(code) % 256
            case ["false"]:
                return lines, 1
            case ["echo", *rest]:
                lines.append(" ".join(rest))
            case _:
                lines.extend(
                    f"{words[0] if words else ''}: step {step} of {STEPS}" for step in range(1, STEPS + 1)
                )
    return lines, 0


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:
        return command.split()


def example_files(outputs: Sequence[str], job_id: str) -> dict[str, bytes]:
    """A small file for each output. One file stands for a glob, and one file is in each folder."""
    files: dict[str, bytes] = {}
    for output in outputs:
        path = output.replace("**", "all").replace("*", "0").replace("?", "0")
        path = f"{path}output.txt" if path.endswith("/") else path
        files[path] = f"{path} of job {job_id}\n".encode()
    return files
