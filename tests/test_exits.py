"""A journal that fails keeps nothing alive: what ends a cost is sent all the same, and nothing else is."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import sqlite3
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from tensorpool_async import (
    FleetError,
    JournalError,
    NotFound,
    PollPolicy,
    RateLimiter,
    RetryPolicy,
    TensorPool,
)
from tensorpool_async.emulator import Emulator
from tensorpool_async.events import ChangeUnrecorded, RequestSent
from tensorpool_async.fleet import ClusterGroup, Fleet, VolumeGroup
from tensorpool_async.journal import EntryState, JournalEntry, SQLiteJournal, recorder
from tensorpool_async.resources import recovery


DESTROY = "DELETE /cluster/{cluster}"
EDIT = "PATCH /cluster/edit/{cluster}"
QUICK = RetryPolicy(backoff=0.005, longest_backoff=0.01)
PATIENCE = 0.15
WHOLE = Fleet(
    "s",
    [ClusterGroup("t", "8xH200", count=2, num_nodes=2, deletion_protection=True)],
    [VolumeGroup("data", 10, attach_to=["t"], deletion_protection=True)],
)

Break: TypeAlias = "Callable[[Path], object]"


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "EXIT_PATIENCE", PATIENCE)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "journal.db"


@pytest.fixture
async def engine() -> AsyncGenerator[Emulator]:
    async with Emulator(
        provision_seconds=0.02,
        destroy_seconds=0.02,
        edit_seconds=0.005,
        storage_seconds=0.01,
        attach_seconds=0.01,
        retry_after=0.01,
    ) as emulator:
        yield emulator


def client(engine: Emulator, path: Path, **options: Any) -> TensorPool:
    journal = SQLiteJournal(path, busy_timeout=0.5)
    polling = PollPolicy(initial=0.01, default=0.02)
    return TensorPool(
        engine.key, base_url=engine.url, retry=QUICK, polling=polling, journal=journal, **options
    )


@contextmanager
def locked(path: Path) -> Generator[None]:
    """Hold the journal, as another process would that hangs in the middle of a transaction."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


def remove(path: Path) -> None:
    path.unlink()


def remove_all(path: Path) -> None:
    shutil.rmtree(path.parent)


def remove_owners(path: Path) -> None:
    shutil.rmtree(path.with_name(f"{path.name}-owners"))


def replace(path: Path) -> None:
    path.rename(path.with_suffix(".old"))
    path.write_bytes(b"something else" * 1000)


BREAKS: list[Break] = [remove, remove_all, remove_owners, replace]


def nothing_is_left(engine: Emulator) -> None:
    assert engine.record.living == []
    assert list(engine.volumes) == [] or all(
        str(volume.status) == "DESTROYED" for volume in engine.volumes.values()
    )
    assert engine.record.destroys_before_ready == 0


def errors_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


async def entries_of(engine: Emulator, path: Path) -> list[JournalEntry]:
    """Read all entries as another process would, after it has recovered what there is to recover."""
    async with client(engine, path) as tp:
        for operation in await tp.recover():
            with contextlib.suppress(NotFound):  # it is gone, and that could not be written down
                await operation
        assert await tp.leftovers() == []
        return await tp.journal_entries(ended=True)


@pytest.mark.parametrize("break_", BREAKS)
@pytest.mark.parametrize("protected", [False, True])
async def test_an_ephemeral_cluster_goes(
    break_: Break, protected: bool, engine: Emulator, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[object] = []
    async with client(engine, path, on_event=heard.append) as tp:
        async with tp.clusters.ephemeral("8xH100", deletion_protection=protected) as cluster:
            break_(path)
        nothing_is_left(engine)
    unrecorded = [event for event in heard if isinstance(event, ChangeUnrecorded)]
    kinds = ["CLUSTER_EDIT", "CLUSTER_RELEASE"] if protected else ["CLUSTER_RELEASE"]
    assert [(event.kind, event.resource_id) for event in unrecorded] == [(kind, cluster.id) for kind in kinds]
    assert "removed or replaced" in unrecorded[0].why
    (error,) = errors_of(caplog)
    assert "without an entry in the journal" in error
    assert str(path) in error


@pytest.mark.parametrize("break_", [*BREAKS, None])
async def test_the_block_of_a_fleet_leaves_neither_clusters_nor_volumes(
    break_: Break | None, engine: Emulator, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with client(engine, path) as tp:
        async with tp.fleet(WHOLE):
            assert len(engine.record.living) == 2
            if break_ is not None:
                break_(path)
        nothing_is_left(engine)
    assert len(errors_of(caplog)) == (break_ is not None)


async def test_a_volume_is_detached_from_a_cluster_that_stays(engine: Emulator, path: Path) -> None:
    async with client(engine, path) as tp:
        await tp.fleet(Fleet(WHOLE.name, WHOLE.clusters)).up()
        async with tp.fleet(WHOLE) as members:
            (volume,) = members.volumes.values()
            assert len(volume.attached_clusters) == 2
            remove(path)
        assert len(engine.record.living) == 2
    assert [str(one.status) for one in engine.volumes.values()] in ([], ["DESTROYED"])


async def test_a_fleet_whose_journal_fails_on_the_way_up_is_rolled_back(engine: Emulator, path: Path) -> None:
    big = Fleet("s", [ClusterGroup("t", "1xH100", count=8)])
    # One after the other, so that it fails in between.
    async with client(engine, path, limiter=RateLimiter(max_in_flight=1)) as tp:

        async def break_it() -> None:
            while len(engine.record.clusters_made) < 2:
                await asyncio.sleep(0.001)
            remove(path)

        breaking = asyncio.create_task(break_it())
        with pytest.raises((FleetError, JournalError)):
            async with tp.fleet(big):
                raise AssertionError("some members cannot have been asked for")
        await breaking
    assert 2 <= len(engine.record.clusters_made) < 8
    nothing_is_left(engine)


async def test_on_the_way_in_nothing_is_sent(engine: Emulator, path: Path) -> None:
    async with client(engine, path) as tp:
        await tp.journal_entries()
        remove(path)
        with pytest.raises(JournalError):
            async with tp.clusters.ephemeral("8xH100"):
                raise AssertionError("it has no cluster")
        with pytest.raises(FleetError):
            async with tp.fleet(WHOLE):
                raise AssertionError("it has no clusters")
    assert engine.record.clusters_made == []
    assert engine.record.by_route[DESTROY] == 0


async def test_a_journal_that_is_locked_holds_nothing_up(
    engine: Emulator, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with client(engine, path) as tp:
        async with tp.clusters.ephemeral("8xH100", name="mine") as cluster:
            hold = locked(path)
            hold.__enter__()
            began = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - began < 3 * PATIENCE + 1
        nothing_is_left(engine)
        hold.__exit__(None, None, None)
        # The journal is well again, and takes what was kept for it: nothing is recovered or destroyed once more.
        other = await tp.clusters.create("8xH100", name="mine").result()
    assert "cannot be written within" in errors_of(caplog)[0]
    (first, *_, last) = await entries_of(engine, path)
    assert (first.resource_id, first.deleted_at is not None) == (cluster.id, True)
    assert (last.resource_id, last.deleted_at) == (other.id, None)
    assert engine.record.living == [other.id]
    assert engine.record.by_route[DESTROY] == 1


async def test_an_entry_that_is_written_late_learns_how_it_ended(engine: Emulator, path: Path) -> None:
    async with client(engine, path) as tp:
        cluster = await tp.clusters.create("8xH100").result()
        with locked(path):
            operation = await tp.clusters.for_exit.destroy(cluster)
        await operation
        entries: list[JournalEntry] = []
        async with asyncio.timeout(10):
            while len(entries) < 2 or entries[1].state is not EntryState.ENDED:
                entries = await tp.journal_entries(ended=True)
                await asyncio.sleep(0.02)
        assert (entries[1].intent.kind, entries[1].outcome) == ("CLUSTER_RELEASE", "COMPLETED")
        assert entries[0].deleted_at is not None


async def test_an_entry_that_is_written_late_learns_of_a_refusal(engine: Emulator, path: Path) -> None:
    async with client(engine, path) as tp:
        await tp.journal_entries()
        with locked(path), pytest.raises(NotFound):
            await tp.clusters.for_exit.destroy("c-none")
        entries: list[JournalEntry] = []
        async with asyncio.timeout(10):
            while not entries or entries[0].state is not EntryState.ENDED:
                entries = await tp.journal_entries(ended=True)
                await asyncio.sleep(0.02)
        assert (entries[0].outcome or "").startswith("refused: 404")


async def test_cancelled_while_it_waits_for_the_journal_it_is_not_sent(engine: Emulator, path: Path) -> None:
    async with client(engine, path) as tp:
        cluster = await tp.clusters.create("8xH100").result()
        with locked(path):
            sending = asyncio.create_task(tp.clusters.for_exit.destroy(cluster).result())
            await asyncio.sleep(PATIENCE / 3)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
        await tp.clusters.destroy(cluster).result()
        entries = await tp.journal_entries(ended=True)
    assert [entry.outcome for entry in entries] in (
        ["COMPLETED", "not made", "COMPLETED"],
        ["COMPLETED", "COMPLETED"],
    )
    assert engine.record.by_route[DESTROY] == 1


async def test_an_acceptance_that_cannot_be_written_holds_nothing_up(engine: Emulator, path: Path) -> None:
    async with client(engine, path) as tp:
        creating = asyncio.create_task(tp.clusters.create("8xH100").result())
        while not engine.record.clusters_made:
            await asyncio.sleep(0)
        with locked(path):
            began = asyncio.get_running_loop().time()
            cluster = await creating
            assert asyncio.get_running_loop().time() - began < PATIENCE + 0.3
    (entry,) = await entries_of(engine, path)
    assert (entry.resource_id, entry.outcome) == (cluster.id, "COMPLETED")


async def test_what_others_change_is_still_not_sent(engine: Emulator, path: Path) -> None:
    async with client(engine, path) as tp:
        cluster = await tp.clusters.create("8xH100").result()
        remove(path)
        for change in (tp.clusters.destroy(cluster), tp.clusters.edit(cluster, name="x")):
            with pytest.raises(JournalError):
                await change
        assert engine.record.by_route[DESTROY] == 0
        await tp.clusters.for_exit.destroy(cluster).result()
    nothing_is_left(engine)


async def test_it_is_told_again_once_the_journal_was_well_in_between(
    engine: Emulator, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with client(engine, path) as tp:
        clusters = [await tp.clusters.create("8xH100").result() for _ in range(4)]
        for at, cluster in enumerate(clusters):
            if at == 2:
                await tp.clusters.for_exit.destroy(cluster).result()
                continue
            with locked(path):
                await tp.clusters.for_exit.destroy(cluster).result()
            await tp.journal_entries()
            await asyncio.sleep(0.6)
    assert len([text for text in errors_of(caplog) if "without an entry" in text]) == 2
    nothing_is_left(engine)


@pytest.mark.parametrize("content", [None, b"", b"no journal\n" * 500], ids=["missing", "empty", "other"])
async def test_down_goes_ahead_with_a_journal_that_cannot_even_be_opened(
    content: bytes | None, engine: Emulator, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = Fleet("s", [ClusterGroup("t", "8xH200", count=2)], [VolumeGroup("data", 10)])
    async with TensorPool(engine.key, base_url=engine.url, retry=QUICK) as tp:
        await tp.fleet(fleet).up()
    if content is None:
        path.parent.parent.joinpath("folder").write_text("no folder")
    else:
        path.parent.mkdir()
        path.write_bytes(content)
    async with client(engine, path) as tp:
        report = await tp.fleet(fleet).down()
    assert {str(member.state) for member in report.members} == {"DESTROYED"}
    nothing_is_left(engine)
    assert len(errors_of(caplog)) == 1
    assert content is None or path.read_bytes() == content


async def left_behind(engine: Emulator, path: Path, count: int) -> None:
    """Leave ephemeral clusters whose owner is gone."""
    async with client(engine, path) as tp:
        for _ in range(count):
            await tp.clusters.create("8xH100", owned=True).result()


@pytest.mark.parametrize("break_", BREAKS[:1])
async def test_what_has_outlived_its_owner_is_reaped(
    break_: Break, engine: Emulator, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await left_behind(engine, path, 3)
    async with client(engine, path) as tp:
        leftovers = await tp.leftovers()
        break_(path)
        assert [await tp.reap(leftover) for leftover in leftovers] == [True, True, True]
    nothing_is_left(engine)
    assert any("without being claimed" in text for text in errors_of(caplog))


async def test_what_has_outlived_its_owner_is_reaped_from_a_locked_journal_and_known_to_be_gone(
    engine: Emulator, path: Path
) -> None:
    await left_behind(engine, path, 3)
    async with client(engine, path) as tp:
        leftovers = await tp.leftovers()
        with locked(path):
            async with asyncio.timeout(8):
                reaped = [await tp.reap(leftover) for leftover in leftovers]
        assert reaped == [True, True, True]
    nothing_is_left(engine)
    assert engine.record.by_route[DESTROY] == 3
    assert all(entry.deleted_at for entry in await entries_of(engine, path))
    assert engine.record.by_route[DESTROY] == 3


async def test_claims_are_tried_again_after_a_while(
    engine: Emulator, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "NO_CLAIMS", 0.0)
    await left_behind(engine, path, 2)
    async with client(engine, path) as tp:
        first, second = await tp.leftovers()
        with locked(path):
            assert await tp.reap(first)
        assert await tp.reap(second)
        mine = [entry.id for entry in await tp.journal_entries(ended=True) if entry.owner_alive]
    assert second.entry in mine


async def test_what_ended_while_nothing_could_be_written_is_found_gone_and_never_destroyed_again(
    engine: Emulator, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a process that ends while its journal is still locked: not even the end gets on disk."""
    async with client(engine, path) as tp:
        ephemeral = tp.clusters.ephemeral("8xH100", name="mine")
        async with ephemeral as cluster:
            hold = locked(path)
            hold.__enter__()
        await tp.aclose()
        hold.__exit__(None, None, None)
    nothing_is_left(engine)
    async with TensorPool(engine.key, base_url=engine.url, retry=QUICK) as stranger:
        theirs = await stranger.clusters.create("8xH100", name="mine").result()
    monkeypatch.setattr(recovery, "FRESH", 0.0)
    entries = await entries_of(engine, path)
    assert entries[0].resource_id == cluster.id
    assert engine.record.living == [theirs.id], "what somebody else has made under the name is left alone"
    assert engine.record.by_route[DESTROY] == 1
    assert all(entry.deleted_at for entry in entries if entry.resource_id == cluster.id)


async def test_what_costs_most_goes_first(path: Path) -> None:
    names: list[str | None] = []
    fleet = Fleet(
        "s",
        [
            ClusterGroup("cheap", "1xL40S", count=2),
            ClusterGroup("dear", "8xB200", count=2),
            ClusterGroup("middle", "1xH100", count=2),
        ],
    )
    limiter = RateLimiter(max_in_flight=1)
    slow = Emulator(provision_seconds=0.02, destroy_seconds=0.3, retry_after=0.05, latency=0.01)

    def hear(event: object) -> None:
        if isinstance(event, RequestSent) and event.method == "DELETE":
            names.append(slow.clusters[event.resource_id or ""].name)

    async with slow, client(slow, path, on_event=hear, limiter=limiter) as tp:
        async with tp.fleet(fleet):
            assert len(slow.record.living) == 6
        in_block = list(names)
        names.clear()
        await tp.fleet(fleet).up()
        await tp.fleet(fleet).down()
    for order in (in_block, names):
        groups = [(name or "").split("-")[1] for name in order]
        assert groups == ["dear", "dear", "middle", "middle", "cheap", "cheap"]
