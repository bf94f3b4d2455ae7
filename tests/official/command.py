"""The engine's own command `tp` as a person has it: a program, a folder, an environment, and what it says."""

from __future__ import annotations

import asyncio
import functools
import re
import stat
from asyncio.subprocess import PIPE
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from tensorpool_async.emulator import Emulator


SECONDS = 30
PROGRESS = "* "
"""How the command begins a line that is a spinner on a terminal."""

TESTED: set[str] = set()
"""The subcommands that have a test."""


@attrs.frozen
class Run:
    """One run of the command."""

    arguments: tuple[str, ...]
    exit_code: int
    output: str
    errors: str

    @property
    def progress(self) -> list[str]:
        lines = self.output.splitlines()
        return [line.removeprefix(PROGRESS) for line in lines if line.startswith(PROGRESS)]

    @property
    def said(self) -> str:
        """What it printed, without the progress."""
        lines = self.output.splitlines()
        return "\n".join(line for line in lines if not line.startswith(PROGRESS))


@attrs.frozen
class Official:
    """The command, run in `folder` as a user whose home is `home`."""

    program: str
    folder: Path
    home: Path
    environment: Mapping[str, str]
    ran: list[Run] = attrs.field(factory=list[Run])

    async def __call__(self, *arguments: str, typed: str = "", **environment: str | None) -> Run:
        """Run it with what is typed at its prompts; an `environment` of None takes a variable away."""
        changed = {**self.environment, **environment}
        process = await asyncio.create_subprocess_exec(
            self.program,
            *arguments,
            cwd=self.folder,
            env={name: value for name, value in changed.items() if value is not None},
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
        )
        try:
            async with asyncio.timeout(SECONDS):
                output, errors = await process.communicate(typed.encode())
        except TimeoutError:
            process.kill()
            await process.wait()
            raise
        assert process.returncode is not None
        run = Run(arguments, process.returncode, output.decode(), errors.decode())
        self.ran.append(run)
        return run

    async def ok(self, *arguments: str, typed: str = "", **environment: str | None) -> Run:
        """Run it, and see that it ends well and without a word on standard error."""
        run = await self(*arguments, typed=typed, **environment)
        assert (run.exit_code, run.errors) == (0, ""), run
        return run

    async def refused(self, *arguments: str, typed: str = "", **environment: str | None) -> str:
        """Run it, see that it fails as a program should and not with a trace, and return what it said."""
        run = await self(*arguments, typed=typed, **environment)
        assert run.exit_code == 1, run
        assert "Traceback" not in run.errors, run.errors
        return run.said


@attrs.frozen
class FakeProgram:
    """A program that does nothing but write down how it was called."""

    log: Path

    @classmethod
    def install(cls, folder: Path, name: str, *, says: str = "", exit_code: int = 0) -> FakeProgram:
        folder.mkdir(exist_ok=True)
        path, log = folder / name, folder / f"{name}.log"
        path.write_text(
            f"#!/bin/sh\nprintf '%s\\n' \"$PWD\" \"$@\" '' >> '{log}'\necho '{says}'\nexit {exit_code}\n"
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return cls(log)

    @property
    def calls(self) -> list[list[str]]:
        """The folder and the arguments of each call."""
        if not self.log.exists():
            return []
        return [call.split("\n") for call in self.log.read_text().removesuffix("\n\n").split("\n\n")]


def runs(*subcommands: str) -> Callable[[Callable[..., Awaitable[None]]], Callable[..., Awaitable[None]]]:
    """Say which subcommands a test is for; it fails if it did not really run them, and with success."""
    TESTED.update(subcommands)

    def decorate(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        @functools.wraps(test)
        async def checked(**fixtures: Any) -> None:
            await test(**fixtures)
            official: Official = fixtures["official"]
            for subcommand in subcommands:
                words = tuple(subcommand.split())
                assert any(
                    run.arguments[: len(words)] == words and run.exit_code == 0 for run in official.ran
                ), f"tp {subcommand} did not succeed in the test that is for it"

        return checked

    return decorate


def subcommands_in(usage: str) -> list[list[str]]:
    """The subcommands that a page of help lists, each with its aliases."""
    found = re.search(r"^positional arguments:\n +\{([^}]*)\}", usage, re.MULTILINE)
    names = found[1].split(",") if found else []
    aliases = dict(re.findall(r"^ {4}(\S+) \(([^)]+)\)", usage, re.MULTILINE))
    known = {alias for text in aliases.values() for alias in text.split(", ")}
    return [[name, *filter(None, aliases.get(name, "").split(", "))] for name in names if name not in known]


async def settled(emulator: Emulator) -> None:
    """Wait until nothing is on its way at the engine any more."""
    while not all(request.done for request in emulator.requests.values()):
        await asyncio.sleep(0.01)
