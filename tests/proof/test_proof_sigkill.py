"""A process is killed at fifty moments of its work, and what it has begun is neither lost nor made twice."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

import pytest

from tensorpool_async import ClusterStatus
from tensorpool_async.emulator import Emulator
from tests.proof import processes
from tests.proof.processes import FLEET, Killer, Moment, tell


SEED = int(os.environ.get("TENSORPOOL_PROOF_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
ROUNDS = 5
LONG_AGO = "2020-01-01T00:00:00+00:00"
MOMENTS = 10
"""So many in each round, so that no round comes near the time that a test may take."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # not in debug mode, which would take most of the time


@pytest.mark.parametrize("round_", range(ROUNDS))
async def test_an_up_that_is_killed_can_be_run_again(round_: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(f"{SEED} up {round_}")
    faults = round_ % 2 == 1
    tell(f"TENSORPOOL_PROOF_SEED={SEED}, round {round_}{', with faults' if faults else ''}")
    with processes.listening(monkeypatch) as killer:
        requests = await _up_again(killer, round_, None, faults=faults)
        killed = 0
        while killed < MOMENTS:
            moment = processes.draw(chance, requests)
            killed += await _up_again(killer, chance.getrandbits(32), moment, faults=faults) > 0


async def _up_again(killer: Killer, seed: int, moment: Moment | None, *, faults: bool) -> int:
    """Kill an `up`, run it again, and count; return the requests of the first, or 0 where it ended too soon."""
    async with processes.engine(seed, faults=faults) as engine:
        killed = await killer.run(processes.bring_up, engine.url, engine.key, moment=moment)
        requests = engine.record.requests
        tell(f"{moment}: {len(engine.record.living)} living")
        _check_members(engine)
        async with processes.client(engine.url, engine.key) as tp:
            report = await tp.fleet(FLEET).up()
        _check_members(engine)
        assert {member.id for member in report.members} == set(engine.record.living)
        assert [str(cluster.status) for cluster in engine.clusters.values()] == ["RUNNING"] * len(
            FLEET.members
        )
        return requests if killed or moment is None else 0


def _check_members(engine: Emulator) -> None:
    """See that each living cluster is a member's, and no member has two."""
    names = Counter(engine.clusters[id_].name for id_ in engine.record.living)
    unknown = names.keys() - {member.name for member in FLEET.members}
    twice = [name for name, times in names.items() if times > 1]
    assert (sorted(unknown), twice, engine.record.made_twice) == ([], [], [])


@pytest.mark.parametrize("round_", range(ROUNDS))
async def test_creates_that_were_killed_are_recovered(
    round_: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    chance = random.Random(f"{SEED} creates {round_}")
    faults, foreign = round_ % 2 == 1, round_ >= 2
    tell(f"TENSORPOOL_PROOF_SEED={SEED}, round {round_}, {faults = }, {foreign = }")
    with processes.listening(monkeypatch) as killer:
        requests = await _recover(killer, round_, None, tmp_path, faults=faults, foreign=foreign)
        killed = 0
        while killed < MOMENTS:
            moment = processes.draw(chance, requests)
            seed = chance.getrandbits(32)
            folder = tmp_path / f"{seed}"
            killed += await _recover(killer, seed, moment, folder, faults=faults, foreign=foreign) > 0


async def _recover(
    killer: Killer, seed: int, moment: Moment | None, folder: Path, *, faults: bool, foreign: bool
) -> int:
    """Kill many creates, recover them, and count; return the requests of the first, or 0 where it ended too soon."""
    folder.mkdir(exist_ok=True)
    journal, results = folder / "journal.db", folder / "results"
    async with processes.engine(seed, faults=faults) as engine:
        before = await _put_there(engine, "w1", "w7") if foreign else set[str]()
        arguments = (engine.url, engine.key, journal, results)
        killed = await killer.run(processes.create_all, *arguments, moment=moment)
        requests = engine.record.requests
        known: set[str | None] = set(results.read_text().split()) if results.exists() else set()
        if faults:
            engine.faults.add(processes.LATE_LISTS)
        patience = processes.LONG_LOOKS
        async with processes.client(engine.url, engine.key, journal, longest_backoff=patience) as tp:
            operations = await tp.recover()
            entries = await tp.journal_entries(ended=True)
            known |= {entry.resource_id for entry in entries if entry.outcome == "COMPLETED"}
            known |= {operation.resource_id for operation in operations}
            living = set(engine.record.living)
            tell(f"{moment}: {len(living)} living, {len(operations)} recovered, {len(known)} known")
            assert living - before == known
            assert len(engine.record.clusters_made) <= processes.CREATES, "one create, one cluster"
            for operation in operations:
                assert (await operation).status is ClusterStatus.RUNNING
        async with processes.client(engine.url, engine.key, journal) as tp:
            assert await tp.recover() == []
        assert set(engine.record.living) == living, "recovery makes nothing, and destroys nothing"
        return requests if killed or moment is None else 0


async def _put_there(engine: Emulator, *names: str) -> set[str]:
    """Make clusters that somebody else had long before, and return their ids."""
    async with processes.client(engine.url, engine.key) as tp:
        ids = {(await tp.clusters.create("1xH100", name=name).result()).id for name in names}
    for cluster in engine.clusters.values():
        cluster.created_at = LONG_AGO
    for request in engine.requests.values():
        request.created_at = LONG_AGO
    return ids
