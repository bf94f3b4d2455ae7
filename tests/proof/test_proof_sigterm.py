"""A process is told to end, as Docker and Kubernetes do it, at fifty moments of a block; nothing of the block is left.

`TENSORPOOL_PROOF_MOMENTS=50` takes all moments; without it there are fewer.
"""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest

from tensorpool_async.emulator import Emulator
from tests.proof import processes
from tests.proof.processes import Killer, Moment, tell


SEED = int(os.environ.get("TENSORPOOL_PROOF_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
MOMENTS = int(os.environ.get("TENSORPOOL_PROOF_MOMENTS", "8"))
ROUND = 10
"""So many in each test at most, so that none comes near the time that a test may take."""
ROUNDS = range(-(-MOMENTS // ROUND))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize("round_", ROUNDS)
@pytest.mark.parametrize("what", ["ephemeral", "fleet"])
async def test_a_block_that_asks_for_it_leaves_nothing_after_sigterm(
    what: str, round_: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with processes.listening(monkeypatch, signal.SIGTERM) as killer:
        for moment in await _moments(killer, what, round_, tmp_path):
            engine, log = await _end(killer, what, moment, tmp_path, again=None)
            assert engine.record.living == [], log
            assert engine.record.made_twice == []
            assert engine.record.destroys_before_ready == 0
            assert "could not be destroyed" not in log


@pytest.mark.parametrize("round_", ROUNDS)
@pytest.mark.parametrize("what", ["ephemeral", "fleet"])
async def test_what_a_second_sigterm_leaves_is_named_and_overdue(
    what: str, round_: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    chance = random.Random(f"{SEED} second {round_}")
    with processes.listening(monkeypatch, signal.SIGTERM) as killer:
        for moment in await _moments(killer, what, round_, tmp_path):
            engine, log = await _end(killer, what, moment, tmp_path, again=chance.uniform(0.0, 0.05))
            left = [engine.clusters[id_] for id_ in engine.record.living]
            unnamed = [
                cluster.id
                for cluster in left
                if not any(
                    ("could not be destroyed" in line and (cluster.id in line or f" {cluster.name} " in line))
                    for line in log.splitlines()
                )
            ]
            tell(f"{moment}: {len(left)} left, all named")
            assert not unnamed, log


async def _moments(killer: Killer, what: str, round_: int, folder: Path) -> list[Moment]:
    """Draw moments that are spread over the whole run, of which a run without a signal says how long it is."""
    tell(f"TENSORPOOL_PROOF_SEED={SEED}, {what}, round {round_}")
    chance = random.Random(f"{SEED} {what} {round_}")
    engine, log = await _end(killer, what, None, folder, again=None)
    assert engine.record.living == [], log
    total, count = engine.record.requests, min(ROUND, MOMENTS - round_ * ROUND)
    steps = [(total * (at + chance.random()) / count) for at in range(count)]
    return [attrs_moment(chance, max(1, min(total, round(step)))) for step in steps]


def attrs_moment(chance: random.Random, request: int) -> Moment:
    drawn = processes.draw(chance, 1)
    return Moment(request, drawn.phase, drawn.seconds)


async def _end(
    killer: Killer, what: str, moment: Moment | None, folder: Path, *, again: float | None
) -> tuple[Emulator, str]:
    """Run a block, end it at a moment, and return what it talked to and what it wrote."""
    log = folder / f"{len(list(folder.iterdir()))}.log"
    journal = log.with_suffix(".db") if moment is None or moment.request % 2 else None
    async with processes.engine(moment.request if moment else 0, faults=False) as engine:
        killer.again = again
        await killer.run(processes.hold, what, engine.url, engine.key, journal, log, moment=moment)
        return engine, log.read_text() if log.exists() else ""
