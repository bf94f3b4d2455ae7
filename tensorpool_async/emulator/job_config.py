"""The job file: what it may hold, and what a job made from it would print and leave."""

import shlex
import tomllib
from collections.abc import Sequence
from typing import Any, TypeGuard

import attrs


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
    """The job file is not one; the text says why."""


@attrs.frozen
class JobConfig:
    """A job file that was read."""

    commands: Sequence[str]
    outputs: Sequence[str] = ()
    ignore: Sequence[str] = ()


def read(text: str) -> JobConfig:
    """Raises ConfigError."""
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"Not TOML: {error}") from None
    commands = _texts(values, "commands")
    if not commands:
        raise ConfigError("commands is missing or empty")
    return JobConfig(commands, _texts(values, "outputs"), _texts(values, "ignore"))


def _texts(values: dict[str, Any], name: str) -> Sequence[str]:
    value: object = values.get(name, [])
    if not _is_texts(value):
        raise ConfigError(f"{name} must be a list of strings")
    return value


def _is_texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)  # pyright: ignore[reportUnknownVariableType]


STEPS = 3


def rehearse(commands: Sequence[str]) -> tuple[list[str], int]:
    """What the commands would print, and the exit code: `echo` is obeyed, `exit 3` and `false` end it."""
    lines: list[str] = []
    for command in commands:
        lines.append(f"$ {command}")
        words = _words(command)
        match words:
            case ["exit", code] if code.isdecimal() and int(code) % 256:
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


def leave(outputs: Sequence[str], job_id: str) -> dict[str, bytes]:
    """A small file for each output; a glob is met by one file, a folder holds one."""
    files: dict[str, bytes] = {}
    for output in outputs:
        path = output.replace("**", "all").replace("*", "0").replace("?", "0")
        path = f"{path}output.txt" if path.endswith("/") else path
        files[path] = f"{path} of job {job_id}\n".encode()
    return files
