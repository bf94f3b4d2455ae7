"""The pages of the documentation, as programs: every block of a page runs, in order, in a place of its own.

A page has a folder, a home, an emulated engine and an environment that names it, an event loop, and an open client `tp`.
Python blocks may await at their top level. Blocks whose first line is a comment with a file's name, such as
`# fleet.toml`, are saved under it, too. Blocks that define tests are run by pytest. Console blocks run in a shell; what is printed below a command must come.
"""

from __future__ import annotations

import ast
import asyncio
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Generator, Iterator
from configparser import ConfigParser
from contextlib import ExitStack, contextmanager
from html.parser import HTMLParser
from pathlib import Path
from textwrap import dedent
from types import TracebackType
from typing import Any, Self

import attrs
import pytest
from sybil import Document, Example
from sybil.parsers.markdown import CodeBlockParser

from tensorpool_async import PollPolicy, TensorPool
from tensorpool_async.fleet import load
from tensorpool_async.testing import ThreadedEmulator


ROOT = Path(__file__).parent.parent.parent
LANGUAGES = ("console", "html", "ini", "json", "python", "sh", "text", "toml")

NOT_RUN = {
    "python -m pip install": "the tests change no environment; .ci/run installs in the same way",
    "python3 -m venv": "the tests run in an environment",
    ". .venv/bin/activate": "the tests run in an environment",
    "python -m nox -s tests": "it is these tests",
    "python -m nox -s bench": "takes ten minutes and both cores; tests/benchmarks has tests of its own",
    "python -m nox -s demo": "makes an environment; what it runs in it is the line of noxfile.py that is run instead",
}
"""Commands that are not run, by how they begin, and why."""

RUN_INSTEAD = {"python -m nox -s demo": "tpa up docs/examples/fleet.toml --emulate --speed 300"}

PLUGINS_OFF = "-p no:cacheprovider -p no:schemathesis -p no:hypothesispytest"
"""What the pages' own tests do not need, and what takes longer to import than they take to run."""

PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f reader@example"

_FILE_NAME = re.compile(r"# (?P<name>[\w./-]+\.\w+)\n")
_LITERAL_BLOCK = re.compile(r"(?m)^.*::\n\n((?:(?:    .*)?\n)+)")
_PORT = re.compile(r"--port[ =](\d+)")


@attrs.define
class Block:
    """One block: a Sybil example, and whether it has run."""

    example: Example
    language: str
    has_run: bool = False

    @property
    def source(self) -> str:
        return str(self.example.parsed)

    @property
    def file_name(self) -> str | None:
        """The file that its first line names."""
        found = _FILE_NAME.match(self.source)
        return None if found is None else found["name"]

    @property
    def commands(self) -> list[str]:
        """The commands of a console block, one by one."""
        if self.language == "sh":
            whole = [without_comment(line) for line in self.source.splitlines()]
        elif self.language == "console":
            whole = [command for command, _ in commands_of(self.source)]
        else:
            whole = []
        return [command for commands in whole for command in commands.split(" && ")]


class Page:
    """A page, its blocks, and the place where they run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path.relative_to(ROOT))
        parsers = [CodeBlockParser(language, self._evaluate) for language in LANGUAGES]
        document = Document.parse(str(path), *parsers)
        self.blocks = [
            Block(example, str(example.region.lexemes["arguments"])) for example in document.examples()
        ]
        self._place: Place | None = None

    def run(self, index: int, folder: Path) -> None:
        """Run a block, after those before it that have not run."""
        if self._place is None:
            self._place = Place(folder)
            self._place.__enter__()
        for block in self.blocks[: index + 1]:
            if not block.has_run:
                block.has_run = True
                block.example.evaluate()

    def close(self) -> None:
        """End what the page has begun."""
        place, self._place = self._place, None
        if place is not None:
            place.__exit__(None, None, None)

    def _evaluate(self, example: Example) -> None:
        assert self._place is not None
        block = next(block for block in self.blocks if block.example.region is example.region)
        with self._place.entered():
            self._place.evaluate(block)


class Place:
    """Where the blocks of one page run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.namespace: dict[str, Any] = {"__name__": "__main__"}
        self.environment = {
            "HOME": str(folder / "home"),
            "PATH": os.pathsep.join(
                [str(folder / "programs"), str(Path(sys.executable).parent), os.environ["PATH"]]
            ),
            "COLUMNS": "120",
        }
        self._clients: list[TensorPool] = []
        self._undo = ExitStack()
        self._runner: asyncio.Runner
        self._ports: dict[str, str] = {}

    def __enter__(self) -> Self:
        self._make_folder()
        emulator = self._undo.enter_context(ThreadedEmulator(provision_seconds=0.2, retry_after=0.05))
        self.environment |= {"TENSORPOOL_ENGINE": emulator.url, "TENSORPOOL_KEY": emulator.key}
        self._runner = self._undo.enter_context(asyncio.Runner())
        self._clients.append(
            TensorPool(emulator.key, base_url=emulator.url, polling=PollPolicy(initial=0.01))
        )
        self._undo.callback(lambda: self._runner.run(self._close_clients()))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._undo.close()

    @contextmanager
    def entered(self) -> Generator[None]:
        """Have the page's environment and folder for a while."""
        before, here = dict(os.environ), Path.cwd()
        os.environ.update(self.environment)
        os.chdir(self.folder)
        try:
            yield
        finally:
            os.chdir(here)
            os.environ.clear()
            os.environ.update(before)

    def evaluate(self, block: Block) -> None:
        """Run a block in the way of its language."""
        if block.file_name is not None:
            file = self.folder / block.file_name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.source)
        getattr(self, f"_{block.language}")(block)

    def _make_folder(self) -> None:
        keys = self.folder / "home" / ".ssh"
        keys.mkdir(parents=True)
        (keys / "id_ed25519.pub").write_text(PUBLIC_KEY + "\n")
        (self.folder / "docs").symlink_to(ROOT / "docs")
        programs = self.folder / "programs"
        programs.mkdir()
        for name in ("my-upload", "rsync"):  # what the engine asks for when a job is pushed leads nowhere
            (programs / name).write_text("#!/bin/sh\n")
            (programs / name).chmod(0o755)

    def _python(self, block: Block) -> None:
        if re.search(r"(?m)^(async )?def test_", block.source):
            file = self.folder / (block.file_name or f"test_line_{block.example.line}.py")
            file.write_text(block.source)
            self._shell(f"python -m pytest -q {PLUGINS_OFF} {file.name}")
        elif block.file_name != "conftest.py":
            self._execute(block)

    def _execute(self, block: Block) -> None:
        example = block.example
        self.execute("\n" * example.line + block.source, example.path)

    def execute(self, source: str, path: str) -> None:
        """Run a text, which may await at its top level."""
        source = self._mapped(source)
        code = compile(source, path, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        left = self.namespace.get("tp")
        if left is None or left.closed:
            self.namespace["tp"] = self._clients[0]
        try:
            waiting = eval(code, self.namespace)
            if waiting is not None:
                self._runner.run(waiting)
        finally:
            self._clients += [value for value in self.namespace.values() if isinstance(value, TensorPool)]

    async def _close_clients(self) -> None:
        for client in self._clients:
            await client.aclose()

    def _toml(self, block: Block) -> None:
        document = tomllib.loads(block.source)
        if block.file_name is None or block.file_name == "fleet.toml":
            file = self.folder / "fleet.toml"
            file.write_text(block.source)
            assert load(file).name == document["name"]

    def _ini(self, block: Block) -> None:
        parser = ConfigParser()
        parser.read_string(block.source)
        if parser.has_section("pytest"):  # it holds for the tests below it on the page
            (self.folder / "pytest.ini").write_text(block.source)

    @staticmethod
    def _json(block: Block) -> None:
        json.loads(block.source)

    @staticmethod
    def _html(block: Block) -> None:
        HTMLParser().feed(block.source)

    def _text(self, block: Block) -> None:
        """Nothing runs: it is what something prints, or the content of a file."""

    def _console(self, block: Block) -> None:
        for command, expected in commands_of(block.source):
            output = self._command(command)
            for line in expected:
                pattern = ".*".join(re.escape(part) for part in line.split("…"))
                assert re.search(rf"(?m)^{pattern}\s*$", output), f"{line!r} is not in the output:\n{output}"

    def _sh(self, block: Block) -> None:
        for command in block.commands:
            self._one_command(command)

    def _command(self, command: str) -> str:
        outputs = [self._one_command(part) for part in command.split(" && ")]
        return "".join(outputs)

    def _one_command(self, command: str) -> str:
        for beginning in NOT_RUN:
            if command.startswith(beginning):
                instead = RUN_INSTEAD.get(beginning)
                return self._shell(instead) if instead else ""
        if command.startswith("export "):
            for assignment in shlex.split(self._mapped(command))[1:]:
                name, _, value = assignment.partition("=")
                if value != "…":  # the reader's own
                    self.environment[name] = os.environ[name] = value
            return ""
        if command.startswith(("tpa emulator", "uvicorn")):
            self._begin(command)
            return ""
        return self._shell(self._mapped(command))

    def _shell(self, command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", command],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=50,
        )
        assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def _begin(self, command: str) -> None:
        """Start a server on a free port, which stands for the one on the page from now on."""
        named = _PORT.search(command)
        port = str(free_port())
        self._ports[named[1] if named else "8000"] = port
        command = _PORT.sub(f"--port {port}", command) if named else f"{command} --port {port}"
        server = subprocess.Popen(
            shlex.split(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
        )
        self._undo.callback(lambda: (server.terminate(), server.wait(10)))
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", int(port)), timeout=1).close()
            except OSError:
                assert server.poll() is None, f"{command} ended with {server.returncode}"
                assert time.monotonic() < deadline, f"{command} does not listen"
                time.sleep(0.05)
            else:
                return

    def _mapped(self, text: str) -> str:
        """Put the ports, and the Redis server, that there really are in place of those on the page."""
        for port, real in self._ports.items():
            text = re.sub(rf":{port}\b", f":{real}", text)
        if "redis://localhost" in text:
            if "redis" not in self._ports:
                self._ports["redis"] = self._begin_redis()
            text = re.sub(r"redis://localhost(:\d+)?", self._ports["redis"], text)
        return text

    def _begin_redis(self) -> str:
        from tests.redis.server import RedisServer

        program = shutil.which("redis-server") or shutil.which("valkey-server")
        if program is None:
            pytest.skip("neither redis-server nor valkey-server is installed")
        return self._undo.enter_context(RedisServer(program, self.folder)).url


def commands_of(source: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each command of a console block, with the lines that are printed below it."""
    command: str | None = None
    expected: list[str] = []
    for line in source.splitlines():
        if line.startswith("$ "):
            if command is not None:
                yield command, expected
            command, expected = without_comment(line[2:]), []
        elif command is not None and command.endswith("\\"):
            command = command[:-1] + line.strip()
        elif line.strip():
            expected.append(line.rstrip())
    assert command is not None, "a console block without a command: `$ ` begins one"
    yield command, expected


def docstring_examples() -> list[tuple[str, int, str]]:
    """Return the module, the line and the text of each example in a docstring of the package."""
    found: list[tuple[str, int, str]] = []
    for path in sorted((ROOT / "tensorpool_async").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = (ast.get_docstring(node) or "") + "\n"
                line = node.body[0].lineno if node.body else 0
                found += [(module, line, dedent(block)) for block in _LITERAL_BLOCK.findall(text)]
    return found


def without_comment(command: str) -> str:
    """Return a command without what is written behind it for the reader."""
    return re.sub(r"\s+# .*", "", command)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def all_pages() -> list[Page]:
    """Return README and the pages of the documentation that have blocks."""
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    pages = [Page(path) for path in paths if "_build" not in path.parts]
    return [page for page in pages if page.blocks]
