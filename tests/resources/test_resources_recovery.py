"""After a crash, what was in flight is found again, and what outlived its owner can be destroyed."""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
from aiohttp import web

from tensorpool_async import (
    AmbiguousOutcomeError,
    Cluster,
    ConflictError,
    NotFound,
    Operation,
    OperationFailed,
    PollPolicy,
    TensorPool,
)
from tensorpool_async.emulator import ClusterStatus, Emulator, Fault, FaultKind
from tensorpool_async.fleet import ClusterGroup, Fleet
from tensorpool_async.journal import DESTROYED, NOT_MADE, EntryState, Intent, SQLiteJournal
from tensorpool_async.models.enums import OperationKind
from tests.operations.test_operations_lost_answers import QUICK, once
from tests.support.scripted import ScriptedEngine, drop


ROOT = Path(__file__).parents[1]
CREATE = "POST /cluster/create"
DESTROY = "DELETE /cluster/{cluster}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
async def emulator() -> AsyncGenerator[Emulator]:
    """Run an engine that takes long enough for a client to end in the middle."""
    async with Emulator(
        provision_seconds=1.0,
        destroy_seconds=0.5,
        edit_seconds=0.05,
        storage_seconds=0.2,
        attach_seconds=0.05,
        retry_after=0.03,
    ) as engine:
        yield engine


def client_of(engine: Emulator | ScriptedEngine, path: Path, key: str | None = None) -> TensorPool:
    polling = PollPolicy(initial=0.01, default=0.02, maximum=0.05)
    key = engine.key if isinstance(engine, Emulator) else "scripted-key"
    return TensorPool(key, base_url=engine.url, retry=QUICK, polling=polling, journal=path)


@pytest.fixture
async def tp(emulator: Emulator, path: Path) -> AsyncGenerator[TensorPool]:
    """Open the client that comes after the crash."""
    async with client_of(emulator, path) as client:
        yield client


@asynccontextmanager
async def crashing(engine: Emulator | ScriptedEngine, path: Path) -> AsyncGenerator[TensorPool]:
    """Open a client that is gone after the body, with whatever is in flight."""
    async with client_of(engine, path) as client:
        yield client


async def cut_off(work: Any, condition: Callable[[], object]) -> None:
    """Cancel something once a condition holds: it knows no end, as in a process that was killed."""
    task = asyncio.ensure_future(work)
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0)  # no answer is read in between
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.002)


async def outcomes(tp: TensorPool) -> list[str | None]:
    return [entry.outcome for entry in await tp.journal_entries(ended=True)]


def ids(operations: Iterable[Operation[Any]]) -> list[str | None]:
    return sorted((operation.resource_id for operation in operations), key=str)


async def test_what_was_accepted_is_followed(tp: TensorPool, emulator: Emulator, path: Path) -> None:
    async with crashing(emulator, path) as crashed:
        clusters = await asyncio.gather(*(crashed.clusters.create("8xH100") for _ in range(3)))
        begun: list[Operation[Any]] = [*clusters, await crashed.storage.create(10)]
    operations = await tp.recover()
    assert ids(operations) == ids(begun)
    assert {one.request_id for one in operations} == {one.request_id for one in begun}
    await asyncio.gather(*operations)
    assert await outcomes(tp) == ["COMPLETED"] * 4
    assert await tp.recover() == []


async def test_twice_gives_the_same(tp: TensorPool, emulator: Emulator, path: Path) -> None:
    async with crashing(emulator, path) as crashed:
        await crashed.clusters.create("8xH100")
        await cut_off(
            crashed.clusters.create("8xH100", name="lost").result(),
            lambda: emulator.record.by_route[CREATE] == 2,
        )
    first, second, third = await tp.recover(), *await asyncio.gather(tp.recover(), tp.recover())
    assert len(first) == 2
    assert list(map(id, first)) == list(map(id, second)) == list(map(id, third))
    assert sorted(emulator.record.living) == ids(first)


@pytest.mark.parametrize("name", [None, "mine"])
async def test_a_create_cancelled_in_flight_is_given_by_the_same_client(
    name: str | None, tp: TensorPool, emulator: Emulator
) -> None:
    emulator.faults.add(Fault(FaultKind.LIST_LAG, times=None, seconds=0.1))
    await cut_off(tp.clusters.create("8xH100", name=name).result(), lambda: emulator.record.clusters_made)
    (operation,) = await tp.recover()
    assert [operation.resource_id] == emulator.record.living
    assert operation.request_id in emulator.requests
    assert str((await operation).status) == "RUNNING"
    assert await outcomes(tp) == ["COMPLETED"]
    assert emulator.record.made_twice == []


async def test_what_never_arrived_is_written_off(tp: TensorPool, emulator: Emulator, path: Path) -> None:
    emulator.faults.add(Fault(FaultKind.STALL, method="POST", times=None, seconds=30))
    async with crashing(emulator, path) as crashed:
        await cut_off(
            asyncio.gather(crashed.clusters.create("8xH100").result(), crashed.storage.create(10).result()),
            lambda: len(emulator.record.faults) == 2,
        )
    assert await tp.recover() == []
    assert await outcomes(tp) == [NOT_MADE] * 2
    assert emulator.record.by_route[CREATE] == 1, "recovery sends nothing again"


async def test_what_is_under_way_in_this_process_is_left_alone(tp: TensorPool, emulator: Emulator) -> None:
    async def recover_again_and_again() -> list[Operation[Any]]:
        found: list[Operation[Any]] = []
        while not all(task.done() for task in tasks):
            found += await tp.recover()
        return found

    # The journal is written and read all the time, so that reading comes between any two steps of a create.
    tasks = [asyncio.create_task(tp.clusters.create("8xH100", name=f"w{at}").result()) for at in range(10)]
    assert await recover_again_and_again() == []
    clusters = await asyncio.gather(*tasks)
    assert sorted(cluster.id for cluster in clusters) == sorted(emulator.record.living)
    assert await outcomes(tp) == ["COMPLETED"] * 10


class SlowJournal(SQLiteJournal):
    """Tells late that an intent was written down."""

    async def intend(self, intent: Intent) -> int:
        entry = await super().intend(intent)
        await asyncio.sleep(0.1)
        return entry


async def test_what_is_about_to_be_sent_is_left_alone(emulator: Emulator, path: Path) -> None:
    async with TensorPool(emulator.key, base_url=emulator.url, journal=SlowJournal(path), retry=QUICK) as tp:
        task = asyncio.create_task(tp.clusters.create("8xH100", name="mine").result())
        while not await tp.journal_entries():
            await asyncio.sleep(0)
        assert await tp.recover() == []
        assert emulator.record.requests == 0, "it was sent, so the test shows nothing"
        await task
        assert await outcomes(tp) == ["COMPLETED"]


async def test_what_another_living_client_holds_is_left_alone(
    tp: TensorPool, emulator: Emulator, path: Path
) -> None:
    async with client_of(emulator, path) as living:
        operation = await living.clusters.create("8xH100", name="theirs")
        await cut_off(living.clusters.create("8xH100").result(), lambda: len(emulator.record.living) == 2)
        assert await tp.recover() == []
        assert [entry.owner_alive for entry in await tp.journal_entries()] == [True, True]
        assert ids([operation, *await living.recover()]) == sorted(emulator.record.living)
    assert ids(await tp.recover()) == sorted(emulator.record.living)


async def test_two_who_recover_at_once_share_them_out(emulator: Emulator, path: Path) -> None:
    async with crashing(emulator, path) as crashed:
        await asyncio.gather(*(crashed.clusters.create("8xH100") for _ in range(6)))
    async with client_of(emulator, path) as one, client_of(emulator, path) as other:
        shares = await asyncio.gather(one.recover(), other.recover())
        assert ids([*shares[0], *shares[1]]) == sorted(emulator.record.living)


async def test_a_cluster_of_that_name_that_was_there_before_is_not_adopted(
    tp: TensorPool, emulator: Emulator, path: Path
) -> None:
    theirs = await tp.clusters.create("8xH100", name="taken").result()
    await note(path, emulator.url, sent_at=-10.0, name="older")
    await note(path, emulator.url, sent_at=10.0, name="taken")
    assert await tp.recover() == []
    assert emulator.record.living == [theirs.id]
    assert await outcomes(tp) == ["COMPLETED", NOT_MADE, NOT_MADE]


async def note(path: Path, url: str, *, sent_at: float, **fields: Any) -> None:
    """Write down an intent as a process that died at once; `sent_at` is in seconds from now."""
    journal = SQLiteJournal(path)
    await journal.open()
    given: dict[str, Any] = {
        "engine": url,
        "kind": OperationKind.CLUSTER_CLAIM,
        "method": "POST",
        "path": "/cluster/create",
        "sent_at": time.time() + sent_at,
        **fields,
    }
    await journal.intend(Intent(**given))
    await journal.aclose()


async def test_of_two_lost_creates_of_one_name_one_is_given(
    tp: TensorPool, emulator: Emulator, path: Path
) -> None:
    async with crashing(emulator, path) as crashed:
        await cut_off(
            crashed.clusters.create("8xH100", name="mine").result(), lambda: emulator.record.clusters_made
        )
    await note(path, emulator.url, sent_at=-1.0, name="mine")
    (operation,) = await tp.recover()
    assert [operation.resource_id] == emulator.record.living
    await operation
    assert sorted(map(str, await outcomes(tp))) == ["COMPLETED", NOT_MADE]


async def test_a_cluster_of_unknown_age_stays_unclear(scripted: ScriptedEngine, path: Path) -> None:
    scripted.handle(CREATE, drop)
    scripted.answer("GET /cluster/info/mine", "down", status=502)
    async with crashing(scripted, path) as crashed:
        with pytest.raises(AmbiguousOutcomeError):
            await crashed.clusters.create("8xH100", name="mine")
    async with client_of(scripted, path) as tp:
        with pytest.raises(
            AmbiguousOutcomeError, match="the outcome of 1 entries of the journal is not known"
        ):
            await tp.recover()  # the engine is still down
        scripted.answer("GET /cluster/info/mine", {"cluster_info": {"id": "c-1", "name": "mine"}})
        with pytest.raises(AmbiguousOutcomeError, match="c-1 has the name 'mine'") as caught:
            await tp.recover()
        assert caught.value.name == "mine"
        made_at = datetime.now(UTC).isoformat()
        cluster = {"id": "c-1", "name": "mine", "status": "RUNNING", "created_at": made_at}
        scripted.answer("GET /cluster/info/mine", {"cluster_info": cluster})
        await tp.clusters.get("mine")  # takes the answer before this one
        scripted.answer("GET /cluster/info/c-1", {"cluster_info": cluster})
        (operation,) = await tp.recover()
        assert (await operation).id == "c-1"


async def test_what_cannot_be_cleared_up_does_not_keep_the_rest(
    tp: TensorPool, emulator: Emulator, path: Path
) -> None:
    async with crashing(emulator, path) as crashed:
        operation = await crashed.clusters.create("8xH100")
        await cut_off(
            crashed.clusters.create("8xH100", name="lost").result(), lambda: len(emulator.clusters) == 2
        )
    emulator.faults.add(Fault(FaultKind.ERROR_500, method="GET", path="/cluster/info/lost", times=5))
    with pytest.raises(AmbiguousOutcomeError) as caught:
        await tp.recover()
    assert [one.resource_id for one in caught.value.operations] == [operation.resource_id]
    assert pickle.loads(pickle.dumps(caught.value)).operations == ()
    found = await tp.recover()
    assert len(found) == 2
    assert operation.resource_id in ids(found)


CHANGES: dict[str, Callable[[TensorPool, Any, Any], Any]] = {
    "edit": lambda tp, cluster, _: tp.clusters.edit(cluster, name="new"),
    "attach": lambda tp, cluster, volume: tp.storage.attach(volume, cluster),
    "grow": lambda tp, _, volume: tp.storage.edit(volume, size_gb=20),
    "destroy": lambda tp, cluster, _: tp.clusters.destroy(cluster),
    "destroy volume": lambda tp, _, volume: tp.storage.destroy(volume),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_whose_answer_never_came(
    change: str, tp: TensorPool, emulator: Emulator, path: Path
) -> None:
    cluster, volume = await asyncio.gather(
        tp.clusters.create("8xH200", num_nodes=2).result(), tp.storage.create(10).result()
    )
    before = len(emulator.requests)
    async with crashing(emulator, path) as crashed:
        await cut_off(
            CHANGES[change](crashed, cluster, volume).result(), lambda: len(emulator.requests) > before
        )
    (operation,) = await tp.recover()
    result = await operation
    assert (await outcomes(tp))[-1] == "COMPLETED"
    match change:
        case "edit":
            assert result.name == "new"
        case "attach":
            assert result.attached_clusters == (cluster.id,)
        case "grow":
            assert result.size_gb == 20
        case "destroy":
            assert emulator.record.living == []
        case _:
            assert emulator.record.living_volumes == []
    assert len(emulator.requests) == before + 1, "nothing is sent again"


@pytest.mark.parametrize("change", ["edit", "destroy"])
async def test_a_change_that_never_arrived(
    change: str, tp: TensorPool, emulator: Emulator, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cluster, volume = await tp.clusters.create("8xH100").result(), None
    emulator.faults.add(Fault(FaultKind.STALL, method="PATCH", seconds=30))
    emulator.faults.add(Fault(FaultKind.STALL, method="DELETE", seconds=30))
    async with crashing(emulator, path) as crashed:
        await cut_off(CHANGES[change](crashed, cluster, volume).result(), lambda: emulator.record.faults)
    assert await tp.recover() == []
    assert (await outcomes(tp))[-1] == "not carried out"
    assert f"of {cluster.id} was not carried out" in caplog.text
    assert emulator.record.living == [cluster.id]


async def test_a_destroy_that_fails_although_its_answer_never_came(
    tp: TensorPool, emulator: Emulator, path: Path
) -> None:
    cluster = await tp.clusters.create("8xH100").result()
    emulator.faults.add(Fault(FaultKind.FAILED, method="DELETE"))
    async with crashing(emulator, path) as crashed:
        await cut_off(crashed.clusters.destroy(cluster).result(), lambda: emulator.record.by_route[DESTROY])
    (operation,) = await tp.recover()
    with pytest.raises(OperationFailed, match="it is FAILED"):
        await operation.result(5)
    assert (await outcomes(tp))[-1] == "FAILED: it is FAILED"


async def stall(_: web.Request) -> web.Response:
    await asyncio.sleep(30)
    return web.Response()


async def test_a_destroy_that_fails_between_being_found_and_being_polled(
    scripted: ScriptedEngine, path: Path
) -> None:
    scripted.handle("DELETE /cluster/c-1", stall)
    for status in ("DESTROYING", "FAILED"):
        scripted.answer("GET /cluster/info/c-1", {"cluster_info": {"id": "c-1", "status": status}})
    async with crashing(scripted, path) as crashed:
        await cut_off(crashed.clusters.destroy("c-1").result(), lambda: scripted.count("DELETE /cluster/c-1"))
    async with client_of(scripted, path) as tp:
        (operation,) = await tp.recover()
        with pytest.raises(OperationFailed, match="it is FAILED"):
            await operation.result(5)


async def test_a_destroy_that_has_ended_meanwhile(tp: TensorPool, emulator: Emulator, path: Path) -> None:
    cluster = await tp.clusters.create("8xH100").result()
    async with crashing(emulator, path) as crashed:
        await cut_off(crashed.clusters.destroy(cluster).result(), lambda: emulator.record.by_route[DESTROY])
    await until(lambda: not emulator.record.living)
    assert await tp.recover() == []
    assert await outcomes(tp) == ["COMPLETED", "COMPLETED"]
    assert all(entry.deleted_at is not None for entry in await tp.journal_entries(ended=True))


async def test_what_was_accepted_and_is_gone_ends(scripted: ScriptedEngine, path: Path) -> None:
    scripted.answer(CREATE, {"cluster_id": "c-1", "request_id": "r-1"}, status=202)
    async with crashing(scripted, path) as crashed:
        await crashed.clusters.create("8xH100")
    async with client_of(scripted, path) as tp:
        (operation,) = await tp.recover()
        with pytest.raises(NotFound):
            await operation
        assert await outcomes(tp) == ["the engine no longer knows it"]
        assert await tp.recover() == []


async def test_a_journal_of_two_engines(tp: TensorPool, emulator: Emulator, path: Path) -> None:
    async with Emulator(provision_seconds=0.1, retry_after=0.02) as another:
        async with crashing(emulator, path) as crashed, crashing(another, path) as crashed_too:
            await crashed.clusters.create("8xH100", name="same")
            await crashed_too.clusters.create("8xH100", name="same")
        assert ids(await tp.recover()) == emulator.record.living
        assert len(await tp.journal_entries()) == 1
        async with client_of(another, path) as other:
            assert ids(await other.recover()) == another.record.living


async def test_ephemeral_ones_outlive_their_owner_and_are_reaped(
    tp: TensorPool, emulator: Emulator, path: Path
) -> None:
    owner = client_of(emulator, path)
    ephemeral = owner.clusters.ephemeral("8xH100", deletion_protection=False)
    cluster = await ephemeral.__aenter__()
    await owner.clusters.create("8xH100", name="kept").result()
    assert await tp.leftovers() == [], "its owner lives"
    await owner.aclose()  # as if it had been killed in the body
    (leftover,) = await tp.leftovers()
    assert (leftover.resource_id, leftover.name) == (cluster.id, ephemeral.name)
    assert leftover.kind is OperationKind.CLUSTER_CLAIM
    assert leftover.hourly_rate == cluster.hourly_rate
    assert 0 < leftover.age < 60
    assert await tp.leftovers(older=60) == []
    assert await tp.reap(leftover)
    assert [emulator.clusters[living].name for living in emulator.record.living] == ["kept"]
    assert await tp.leftovers() == []
    assert not await tp.reap(leftover), "it is gone"
    assert emulator.record.by_status[409] == 0


async def test_an_ephemeral_one_whose_answer_never_came_is_reaped(
    tp: TensorPool, emulator: Emulator, path: Path
) -> None:
    await note(path, emulator.url, sent_at=-0.1, name="mine", ephemeral=True)
    async with TensorPool(emulator.key, base_url=emulator.url) as killed:
        await killed.clusters.create("8xH100", name="mine")
    (leftover,) = await tp.leftovers()
    assert [leftover.resource_id] == emulator.record.living
    assert [entry.owner_alive for entry in await tp.journal_entries()] == [False], (
        "looking takes nothing over"
    )
    assert await tp.reap(leftover)
    assert emulator.record.living == []
    assert emulator.record.by_status[409] == 0, "it was destroyed in the middle of its creation"
    assert (await outcomes(tp))[0] == DESTROYED
    assert await tp.recover() == []


async def test_what_has_a_time_to_live_is_reaped_once_that_is_over(
    tp: TensorPool, emulator: Emulator, path: Path
) -> None:
    async with crashing(emulator, path) as owner:
        cluster, volume, *_ = await asyncio.gather(
            owner.clusters.create("8xH100", ttl=0.05).result(),
            owner.storage.create(10, ttl=0.05).result(),
            owner.clusters.create("8xH100", ttl=3600).result(),
            owner.storage.create(10).result(),
        )
        assert await tp.leftovers() == [], "its owner lives"
    left = await tp.leftovers()
    assert {leftover.resource_id for leftover in left} == {cluster.id, volume.id}
    assert [leftover.kind for leftover in left if leftover.resource_id == volume.id] == [
        OperationKind.STORAGE_CREATE
    ]
    assert await asyncio.gather(*map(tp.reap, left)) == [True, True]
    assert (len(emulator.record.living), len(emulator.record.living_volumes)) == (1, 1)
    assert await tp.leftovers() == []


async def test_what_is_still_being_made_is_waited_for(tp: TensorPool, emulator: Emulator, path: Path) -> None:
    async with crashing(emulator, path) as owner:
        await asyncio.gather(owner.clusters.create("8xH100", ttl=0.001), owner.storage.create(10, ttl=0.001))
    left = await tp.leftovers()
    assert {cluster.status for cluster in emulator.clusters.values()} <= {
        ClusterStatus.PENDING,
        ClusterStatus.PROVISIONING,
        ClusterStatus.CONFIGURING,
    }
    assert await asyncio.gather(*map(tp.reap, left)) == [True, True]
    assert (emulator.record.living, emulator.record.living_volumes) == ([], [])
    assert emulator.record.by_status[409] == 0, "they were destroyed in the middle of their creation"
    assert [entry.state for entry in await tp.journal_entries(ended=True)] == [EntryState.ENDED] * 4


async def test_what_another_living_client_has_joined_is_left_alone(
    tp: TensorPool, emulator: Emulator, path: Path
) -> None:
    async with crashing(emulator, path) as owner:
        await owner.clusters.ensure("trainer", "8xH100", ttl=0.01).result()
    (stale,) = await tp.leftovers()
    async with client_of(emulator, path) as living:
        joined = await living.clusters.ensure("trainer", "8xH100").result()
        assert await tp.leftovers() == []
        assert not await tp.reap(stale)
        assert emulator.record.living == [joined.id]
    (leftover,) = await tp.leftovers()
    assert await tp.reap(leftover)
    assert emulator.record.living == []


async def test_a_time_to_live_does_not_hold_for_what_was_there(
    tp: TensorPool, emulator: Emulator, path: Path
) -> None:
    async with crashing(emulator, path) as owner:
        await owner.clusters.create("8xH100", name="trainer").result()
    async with crashing(emulator, path) as joining:
        await joining.clusters.ensure("trainer", "8xH100", ttl=0.001).result()
    assert await tp.leftovers() == []


async def test_what_somebody_else_recovered_is_not_reaped(
    tp: TensorPool, emulator: Emulator, path: Path
) -> None:
    async with crashing(emulator, path) as owner:
        await owner.clusters.create("8xH100", ttl=0.001)
    (stale,) = await tp.leftovers()
    async with client_of(emulator, path) as living:
        (operation,) = await living.recover()
        assert await tp.leftovers() == []
        assert not await tp.reap(stale)
        # Who has recovered it may reap it.
        (leftover,) = await living.leftovers()
        assert await living.reap(leftover)
        assert operation.done()
    assert emulator.record.living == []


async def test_of_two_who_reap_at_once_one_does(emulator: Emulator, path: Path) -> None:
    async with crashing(emulator, path) as owner:
        await owner.clusters.create("8xH100", ttl=0.001).result()
    async with client_of(emulator, path) as one, client_of(emulator, path) as other:
        ((leftover,), (same,)) = await one.leftovers(), await other.leftovers()
        assert leftover == attrs.evolve(same, age=leftover.age)
        assert sorted(await asyncio.gather(one.reap(leftover), other.reap(same))) == [False, True]
    assert emulator.record.living == []


async def test_a_protected_one_is_refused_and_still_listed(
    tp: TensorPool, emulator: Emulator, path: Path
) -> None:
    async with crashing(emulator, path) as owner:
        cluster = await owner.clusters.create("8xH100", deletion_protection=True, ttl=0.001).result()
    (leftover,) = await tp.leftovers()
    with pytest.raises(ConflictError, match="protection"):
        await tp.reap(leftover)
    assert [left.resource_id for left in await tp.leftovers()] == [cluster.id]


async def test_a_list_that_lags_behind_writes_nothing_off(
    tp: TensorPool, emulator: Emulator, path: Path
) -> None:
    async with crashing(emulator, path) as owner:
        operation = await owner.clusters.create("8xH100", ttl=0.001)
    emulator.faults.add(Fault(FaultKind.LIST_LAG, seconds=60), Fault(FaultKind.LIST_LAG, seconds=60))
    assert await tp.leftovers() == [], "neither list nor cluster is shown"
    emulator.faults.add(Fault(FaultKind.LIST_LAG, path="/cluster/list", seconds=60))
    assert [left.resource_id for left in await tp.leftovers()] == [operation.resource_id]
    assert [left.resource_id for left in await tp.leftovers()] == [operation.resource_id]


PROGRAM = """
import asyncio, sys
from tensorpool_async import PollPolicy, RateLimiter, RetryPolicy, TensorPool

async def main(key, url, journal, queue):
    limiter = RateLimiter(max_in_flight=1)
    retry = RetryPolicy(backoff=0.1, longest_backoff=0.1)
    async with TensorPool(key, base_url=url, retry=retry, journal=journal, limiter=limiter) as tp:
        if queue == "queue":
            await limiter.acquire()
        creating = asyncio.create_task(tp.clusters.create("8xH100", name="mine").result())
        while not await tp.journal_entries():
            pass
        print("written down", flush=True)
        await creating

asyncio.run(main(*sys.argv[1:]))
"""


@attrs.frozen
class Moment:
    """When a process is killed, and what is then to be recovered."""

    faults: tuple[Fault, ...]
    come: Callable[[Emulator], object]
    queue: bool = False
    made: int = 1


LAG = Fault(FaultKind.LIST_LAG, times=None, seconds=60)
MOMENTS = [
    Moment((), lambda emulator: True, queue=True, made=0),
    Moment((Fault(FaultKind.STALL, seconds=60),), lambda emulator: emulator.record.faults, made=0),
    Moment(
        (LAG, once(FaultKind.DROP_AFTER, "/cluster/create")), lambda emulator: emulator.record.clusters_made
    ),
    Moment((), lambda emulator: emulator.record.polls),
]


async def kill_at(moment: Moment, path: Path) -> None:
    async with Emulator(provision_seconds=2.0, retry_after=0.1) as emulator:
        emulator.faults.add(*moment.faults)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            PROGRAM,
            emulator.key,
            emulator.url,
            str(path),
            "queue" if moment.queue else "",
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 40) == b"written down\n"
        await until(lambda: moment.come(emulator))
        async with client_of(emulator, path) as tp:
            assert await tp.recover() == [], "the process lives"
            process.kill()
            await process.communicate()
            emulator.faults.clear()
            operations = await tp.recover()
            assert len(operations) == moment.made
            assert ids(operations) == emulator.record.living
            clusters: list[Cluster] = await asyncio.gather(*operations)
            assert all(cluster.name == "mine" for cluster in clusters)
            assert await outcomes(tp) == ["COMPLETED" if moment.made else NOT_MADE]
        assert len(emulator.record.clusters_made) == moment.made


async def test_a_process_that_was_killed(tmp_path: Path) -> None:
    await asyncio.gather(
        *(kill_at(moment, tmp_path / str(at) / "journal.db") for at, moment in enumerate(MOMENTS))
    )


async def test_a_strangers_cluster_of_an_old_name_is_never_reaped(
    tp: TensorPool, emulator: Emulator, path: Path
) -> None:
    await note(path, emulator.url, sent_at=-7 * 86400.0, name="web", ephemeral=True)
    async with TensorPool(emulator.key, base_url=emulator.url) as stranger:
        cluster = await stranger.clusters.create("8xH100", name="web").result()
    assert await tp.leftovers() == []
    with pytest.raises(AmbiguousOutcomeError, match="does not say when"):
        await tp.recover()
    assert emulator.record.living == [cluster.id]


async def test_members_that_a_fleet_goes_on_with_are_not_reaped(
    tp: TensorPool, emulator: Emulator, path: Path
) -> None:
    fleet = Fleet("s", [ClusterGroup("t", "8xH100", count=2)])
    async with crashing(emulator, path) as crashed:
        for member in fleet.members:
            await crashed.clusters.create("8xH100", name=member.name, owned=True).result()
    assert len(await tp.leftovers()) == 2
    async with client_of(emulator, path) as other:
        async with other.fleet(fleet):
            assert await tp.leftovers() == []
        assert await tp.leftovers() == []  # it is still there, and uses them
    assert len(await tp.leftovers()) == 2, "a block leaves what was there before as it was"
    async with client_of(emulator, path) as other:
        await other.fleet(fleet).up()
    assert await tp.leftovers() == [], "what `up` has joined is to stay"


async def test_an_ensure_that_loses_the_race_gives_its_ttl_to_nobody(
    scripted: ScriptedEngine, path: Path
) -> None:
    cluster = {"id": "c-1", "name": "web", "status": "RUNNING", "instance_type": "8xH100"}
    scripted.answer("GET /cluster/info/web", {"error": "no such cluster"}, status=404)
    scripted.answer("GET /cluster/info/web", {"cluster_info": cluster})
    scripted.answer("GET /cluster/list", {"clusters": []})
    scripted.answer("GET /cluster/list", {"clusters": [cluster]})
    scripted.answer("GET /cluster/info/c-1", {"cluster_info": cluster})
    scripted.answer(CREATE, {"error": "the name is taken"}, status=409)
    async with client_of(scripted, path) as owner:
        assert (await owner.clusters.ensure("web", "8xH100", ttl=0.01).result()).id == "c-1"
        await asyncio.sleep(0.02)
    async with client_of(scripted, path) as tp:
        assert await tp.leftovers() == []
        ttls = [(entry.outcome, entry.intent.ttl) for entry in await tp.journal_entries(ended=True)]
        assert ttls == [(NOT_MADE, 0.01), ("COMPLETED", None)]


async def test_a_name_that_looks_like_an_id_is_found_in_the_list(
    scripted: ScriptedEngine, path: Path
) -> None:
    cluster = {"id": "c-1", "name": "c-train", "status": "RUNNING", "created_at": "2999-01-01T00:00:00Z"}
    scripted.answer("GET /cluster/info/c-train", {"error": "no such cluster"}, status=404)
    scripted.answer("GET /cluster/list", {"clusters": [cluster]})
    scripted.answer("GET /cluster/info/c-1", {"cluster_info": cluster})
    await note(path, scripted.url, sent_at=-1.0, name="c-train", random_name=True)
    async with client_of(scripted, path) as tp:
        (operation,) = await tp.recover()
        assert (await operation).id == "c-1"


async def test_a_creation_that_waited_long_is_looked_for_more_than_once(
    scripted: ScriptedEngine, path: Path
) -> None:
    made_at = (datetime.now(UTC) - timedelta(seconds=5)).isoformat()
    cluster = {"id": "c-1", "name": "late", "status": "RUNNING", "created_at": made_at}
    scripted.answer("GET /cluster/info/late", {"error": "no such cluster"}, status=404)
    scripted.answer("GET /cluster/list", {"clusters": []}, times=2)  # it lags behind
    scripted.answer("GET /cluster/list", {"clusters": [cluster]})
    scripted.answer("GET /cluster/info/c-1", {"cluster_info": cluster})
    await note(path, scripted.url, sent_at=-90.0, name="late")
    async with client_of(scripted, path) as tp:
        (operation,) = await tp.recover()
        assert (await operation).id == "c-1"
