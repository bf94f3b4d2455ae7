"""Generated command texts of a hostile engine, run by the real programs between decoys.

`TENSORPOOL_COMMAND_TEXTS=20000` sets how many texts are generated; each is tried as a push and as a pull. For
`TENSORPOOL_COMMAND_SECONDS` each pair of options and operands is run once, after that only what has not been run at all.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import attrs
import pytest
from hypothesis import HealthCheck, given, settings

from tensorpool_async import CommandRefused, PathRefused
from tensorpool_async.events import CommandStarted, Dispatcher, Event
from tensorpool_async.protocol.command_words import RemotePath
from tensorpool_async.protocol.commands import CheckedCommand, transfers_only
from tensorpool_async.protocol.ssh_command import RemoteCommand
from tensorpool_async.protocol.transfers import Direction, Transfer
from tensorpool_async.resources.commands import CommandRunner
from tests.support.command_texts import command_texts
from tests.support.decoys import Decoys
from tests.support.sshd import SSHServer, make_key, missing, public_key, running


REASON = missing("rsync", "scp")
pytestmark = [
    pytest.mark.skipif(REASON is not None, reason=REASON or ""),
    pytest.mark.timeout(0 if "TENSORPOOL_COMMAND_TEXTS" in os.environ else 180),
]
TEXTS = int(os.environ.get("TENSORPOOL_COMMAND_TEXTS", "100"))
SECONDS_FOR_PAIRS = int(os.environ.get("TENSORPOOL_COMMAND_SECONDS", "10"))
SECONDS = 60


@attrs.define
class Trial:
    """Runs texts: each command with a part that is new, and for some time each in which two parts meet for the first time."""

    decoys: Decoys
    key: Path
    counts: Counter[str] = attrs.field(factory=Counter[str], repr=False)
    end: float = attrs.field(factory=lambda: time.monotonic() + SECONDS_FOR_PAIRS)
    parts: set[object] = attrs.field(factory=set[object], repr=False)
    pairs: set[object] = attrs.field(factory=set[object], repr=False)
    unprintable: list[str] = attrs.field(factory=list[str], repr=False)
    run: asyncio.Runner = attrs.field(factory=asyncio.Runner)

    def take(self, text: str) -> None:
        filled = self.decoys.fill_in(text.replace("HOME", str(self.decoys.home)))
        for direction in Direction:
            self.counts["texts"] += 1
            if self.counts["texts"] % 1000 == 0:
                print(self.counts, flush=True)  # noqa: T201 - a long run is followed with -s
            try:
                command = transfers_only(filled)
            except CommandRefused as refusal:
                self.unprintable += [] if str(refusal).isprintable() else [filled]
                self.counts["refused"] += 1
                continue
            pairs = {
                (direction, command.program, frozenset(pair)) for pair in combinations(parts_of(command), 2)
            }
            parts = {(direction, command.program, part) for part in parts_of(command)}
            is_new = parts - self.parts or (pairs - self.pairs and time.monotonic() < self.end)
            if leaves_its_home(command) or not is_new:
                self.counts["accepted, and not run"] += 1
                continue
            try:
                self.carry_out(direction, filled)
            except BaseException as error:
                error.add_note(f"{direction}: {filled}")
                self.decoys.restore()  # the next text is judged by what it does itself
                self.decoys.refill()
                raise
            self.pairs |= pairs
            self.parts |= parts

    def carry_out(self, direction: Direction, text: str) -> None:
        events: list[Event] = []
        runner = CommandRunner(
            transfers_only, direction, self.decoys.folder, Dispatcher(events.append), self.key
        )
        self.decoys.fill_other_side(links=direction is Direction.PULL)
        inside = self.decoys.inside()
        told = ""
        try:
            result = self.run.run(asyncio.wait_for(runner.run(text, shown=True), SECONDS))
            told = result.stdout + result.stderr
            self.counts["succeeded" if result.exit_code == 0 else "failed"] += 1
        except PathRefused:
            self.counts["not put into place"] += 1
        except CommandRefused:
            self.counts["refused"] += 1
        if any(isinstance(event, CommandStarted) for event in events):
            self.counts["run"] += 1
            self.decoys.check(told)
        if direction is Direction.PUSH:
            assert self.decoys.inside() == inside, "a push has written"
        elif self.decoys.inside() != inside:
            self.decoys.refill()
        assert not list(self.decoys.folder.glob(".tensorpool-*"))


def leaves_its_home(command: CheckedCommand) -> bool:
    """Whether the other side would write outside of its folder, which is on this machine."""
    ends = (*command.sources, command.destination) if isinstance(command, Transfer) else ()
    return any(isinstance(end, RemotePath) and end.path.startswith("/") for end in ends)


def parts_of(command: CheckedCommand) -> set[object]:
    """Return what a program may take differently: each option, each operand, and how it connects."""
    ssh = command.ssh
    parts: set[object] = {name for name, _ in ssh.settings}
    parts |= {("port", ssh.port), ("user", bool(ssh.user)), *ssh.jumps, *ssh.keys}
    if isinstance(command, RemoteCommand):
        return parts | {command.host, ("words", len(command.words))}
    parts |= {option.partition("=")[0] for option in command.options}
    parts |= {("rule", rule.include) for rule in command.rules} | {("ignores", command.ignores)}
    return parts | {("source", source) for source in command.sources} | {("destination", command.destination)}


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    folder = tmp_path_factory.mktemp("trial")
    key = make_key(folder / "keys" / "id")
    with (
        running(SSHServer(folder / "sshd", [public_key(key)], forced=True)) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        decoys = Decoys(folder / "user" / "home", server)
        decoys.make(patch)
        made = Trial(decoys, key)
        with made.run:
            yield made
        print(made.counts)  # noqa: T201 - shown with -s


@settings(
    max_examples=TEXTS,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(text=command_texts())
def test_a_generated_text_does_nothing_but_what_is_allowed(trial: Trial, text: str) -> None:
    trial.take(text)


def test_texts_of_both_kinds_were_among_them(trial: Trial) -> None:
    assert trial.counts["refused"] > TEXTS // 2
    assert trial.counts["run"] > 0
    assert trial.counts["succeeded"] > 0
    assert trial.unprintable == []
