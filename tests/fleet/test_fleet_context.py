"""A fleet as a context manager: all or nothing, after any failure and any cancellation."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from tensorpool_async import (
    BudgetExceeded,
    FleetError,
    InsufficientBalance,
    OperationFailed,
    OperationTimeout,
    PollPolicy,
    RetryPolicy,
    TensorPool,
)
from tensorpool_async.emulator import Emulator, Fault, FaultKind
from tensorpool_async.events import FleetMemberChanged
from tensorpool_async.fleet import ClusterGroup, Fleet, FleetIncomplete, FleetSession, VolumeGroup, teardown
from tensorpool_async.resources import deletion
from tests.support.cancelling import walk, walk_sample


CREATE = "/cluster/create"
PAIR = ClusterGroup("t", "1xH100", count=2)
FLEET = Fleet("s", [PAIR])
WHOLE = Fleet(
    "s", [ClusterGroup("t", "8xH200", count=2, num_nodes=2)], [VolumeGroup("data", 10, attach_to=["t"])]
)
QUICK = RetryPolicy(backoff=0.005, longest_backoff=0.01)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deletion, "RETRY_DELAY", 0.01)
    monkeypatch.setattr(teardown, "LOOKUP_DELAY", 0.01)
    monkeypatch.setattr(deletion, "CONFLICT_DELAY", 0.01)


@pytest.fixture
async def engine() -> AsyncGenerator[Emulator]:
    """Run an engine with very short delays."""
    async with Emulator(
        provision_seconds=0.02,
        destroy_seconds=0.01,
        edit_seconds=0.005,
        storage_seconds=0.01,
        attach_seconds=0.01,
        retry_after=0.005,
    ) as emulator:
        yield emulator


def client_of(engine: Emulator) -> TensorPool:
    polling = PollPolicy(default=0.005, initial=0.005)
    return TensorPool(engine.key, base_url=engine.url, polling=polling, retry=QUICK)


@pytest.fixture
async def client(engine: Emulator) -> AsyncGenerator[TensorPool]:
    async with client_of(engine) as tp:
        yield tp


def assert_nothing_left(engine: Emulator) -> None:
    assert engine.record.living == []
    assert engine.record.living_volumes == []
    assert engine.record.destroys_before_ready == 0
    assert engine.record.made_twice == []


async def test_the_block_has_the_fleet_and_leaves_nothing(engine: Emulator, client: TensorPool) -> None:
    fleet = Fleet(
        "s", [PAIR, ClusterGroup("u", "8xH200", num_nodes=2)], [VolumeGroup("data", 5, attach_to=["u"])]
    )
    events: list[FleetMemberChanged] = []
    session = FleetSession(client, fleet, on_event=events.append)
    async with session as members:
        assert [cluster.name for cluster in members] == ["s-t-0", "s-t-1", "s-u-0"]
        assert {cluster.id for cluster in members} == set(engine.record.living)
        assert members["s-t-1"] is members[1]
        assert members[1:] == (members[1], members[2])
        assert members[0] in members
        assert members.group("t") == list(members[:2])
        with pytest.raises(KeyError):
            members.group("v")
        assert members.volumes["data"].attached_clusters == (members[2].id,)
        assert members[2].storage == (members.volumes["data"].id,)
        assert {member.state for member in members.report.members} == {"RUNNING"}
    assert_nothing_left(engine)
    assert session.report == members.report
    assert {member.state for member in members.report.members} == {"DESTROYED"}
    assert {member.outcome for member in members.report.members} == {"destroyed with the block"}
    states = list(dict.fromkeys(event.state for event in events if event.member == "s-t-0"))
    assert states == ["WAITING", "CREATING", "RUNNING", "DESTROYING", "DESTROYED"]


async def test_an_error_of_the_body_is_raised_and_nothing_is_left(
    engine: Emulator, client: TensorPool
) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with FleetSession(client, WHOLE):
            raise KeyError("mine")
    assert_nothing_left(engine)


async def test_a_session_can_be_entered_again_but_not_twice(engine: Emulator, client: TensorPool) -> None:
    session = FleetSession(client, FLEET)
    for _ in range(2):
        async with session:
            with pytest.raises(RuntimeError, match="entered already"):
                await session.__aenter__()
            assert len(engine.record.living) == 2
    assert_nothing_left(engine)
    assert len(engine.record.clusters_made) == 4


@pytest.mark.parametrize(
    "options", [{"min_ready": 0}, {"min_ready": 3}, {"on_failure": "x"}, {"rollback_timeout": 0}]
)
async def test_options_without_meaning_are_refused(options: dict[str, Any], client: TensorPool) -> None:
    with pytest.raises(ValueError):
        FleetSession(client, FLEET, **options)


async def test_a_failed_member_rolls_back_all(engine: Emulator, client: TensorPool) -> None:
    engine.faults.add(Fault(FaultKind.FAILED, path=CREATE))
    with pytest.raises(FleetIncomplete, match="what was created was rolled back") as caught:
        async with FleetSession(client, WHOLE):
            pytest.fail("the body ran")
    assert_nothing_left(engine)
    (failure,) = caught.value.exceptions
    assert isinstance(failure, OperationFailed)
    results = caught.value.members
    assert len(results) == 3
    assert all("rolled back" in text or "not created" in text for text in results.values()), results
    assert sum("internal provider error" in text for text in results.values()) == 1
    assert caught.value.report.existing == ()


async def test_no_capacity_for_any_type_rolls_back_all(engine: Emulator, client: TensorPool) -> None:
    engine.capacity.update({"8xB200": 1, "8xB300": 0})
    group = ClusterGroup("t", ["8xB200", "8xB300"], count=2, deletion_protection=True)
    with pytest.raises(FleetError) as caught:
        async with FleetSession(client, Fleet("s", [group])):
            pytest.fail("the body ran")
    assert_nothing_left(engine)
    assert "8xB300 (No capacity" in str(caught.value.exceptions[0])


async def test_an_insufficient_balance_rolls_back_all(engine: Emulator, client: TensorPool) -> None:
    engine.balance = 100.0  # for a day of one of the two
    fleet = Fleet("s", [ClusterGroup("t", "1xH100"), ClusterGroup("u", "8xH200")])
    with pytest.raises(FleetError) as caught:
        async with FleetSession(client, fleet):
            pytest.fail("the body ran")
    assert_nothing_left(engine)
    assert isinstance(caught.value.exceptions[0], InsufficientBalance)


async def test_a_failure_stops_creates_that_were_not_sent(engine: Emulator) -> None:
    engine.balance = 0.0
    async with client_of(engine) as tp:
        with pytest.raises(FleetIncomplete) as caught:
            async with FleetSession(tp, Fleet("s", [ClusterGroup("t", "1xH100", count=300)])):
                pytest.fail("the body ran")
    assert engine.record.by_route["POST /cluster/create"] < 200
    assert sum(text.endswith("not created") for text in caught.value.members.values()) == 300


async def test_keep_destroys_nothing(engine: Emulator, client: TensorPool) -> None:
    engine.faults.add(Fault(FaultKind.FAILED, path=CREATE))
    with pytest.raises(FleetIncomplete, match="what was created was kept") as caught:
        async with FleetSession(client, FLEET, on_failure="keep"):
            pytest.fail("the body ran")
    assert len(engine.record.living) == 2
    assert all(text.endswith("; kept") for text in caught.value.members.values())
    async with FleetSession(client, FLEET, on_failure="keep"):
        pass
    assert len(engine.record.living) == 1, (
        "only what the block has made in place of the failed one is destroyed"
    )


async def test_min_ready_clusters_are_enough(engine: Emulator, client: TensorPool) -> None:
    engine.faults.add(Fault(FaultKind.FAILED, path=CREATE))
    fleet = Fleet("s", [ClusterGroup("t", "1xH100", count=3)])
    async with FleetSession(client, fleet, min_ready=2) as members:
        assert len(members) == 2
        assert {cluster.id for cluster in members} == set(engine.record.living), "the failed one is destroyed"
        (failed,) = members.report.failed
        assert failed.state == "DESTROYED"
        with pytest.raises(KeyError):
            members[failed.name]
    assert_nothing_left(engine)
    engine.faults.add(Fault(FaultKind.FAILED, path=CREATE, times=2))
    with pytest.raises(FleetError):
        async with FleetSession(client, fleet, min_ready=2):
            pytest.fail("the body ran")
    assert_nothing_left(engine)


async def test_what_failed_and_cannot_be_destroyed_yet_is_destroyed_at_the_end(
    engine: Emulator, client: TensorPool
) -> None:
    engine.faults.add(Fault(FaultKind.FAILED, path=CREATE), Fault(FaultKind.FAILED, method="DELETE"))
    async with FleetSession(client, FLEET, min_ready=1) as members:
        assert len(members) == 1
        assert len(engine.record.living) == 2
    assert_nothing_left(engine)


async def test_a_fleet_over_its_budget_is_refused_before_any_create(
    engine: Emulator, client: TensorPool
) -> None:
    with pytest.raises(BudgetExceeded):
        async with FleetSession(client, Fleet("s", [PAIR], max_hourly_cost=3.0)):
            pytest.fail("the body ran")
    assert engine.record.clusters_made == []


async def test_what_existed_before_is_left_alone(engine: Emulator, client: TensorPool) -> None:
    cluster = await client.clusters.create("8xH200", num_nodes=2, name="s-t-0").result()
    joined = await client.clusters.create("8xH200", num_nodes=2, name="s-t-1")
    async with FleetSession(client, WHOLE) as members:
        assert [member.id for member in members] == [cluster.id, joined.resource_id]
        assert members.volumes["data"].attached_clusters == (cluster.id, joined.resource_id)
    assert engine.record.living == [cluster.id, joined.resource_id]
    assert engine.record.living_volumes == [], "it was detached from the clusters that were left alone"
    assert members.report.members[0].outcome == "not created by this block, and left alone"
    volume = await client.storage.create(10, name="s-data").result()
    async with FleetSession(client, WHOLE):
        pass
    assert engine.record.living_volumes == [volume.id]


async def test_what_another_block_creates_is_left_alone(engine: Emulator, client: TensorPool) -> None:
    """Two blocks use one fleet, and each destroys what it created."""
    fleet = Fleet("s", [ClusterGroup("t", "1xH100", count=6)])
    both = asyncio.Barrier(2)
    ids: list[set[str]] = []

    async def run_block(tp: TensorPool) -> None:
        async with FleetSession(tp, fleet) as members:
            ids.append({cluster.id for cluster in members})
            await both.wait()

    async with client_of(engine) as other:
        await asyncio.gather(run_block(client), run_block(other))
    assert ids[0] == ids[1]
    assert_nothing_left(engine)
    assert len(engine.record.clusters_made) == 6


async def test_a_foreign_cluster_of_the_same_name_is_left_alone(engine: Emulator, client: TensorPool) -> None:
    # The list lags, so the block requests a cluster of that name, and is refused.
    theirs = await client.clusters.create("1xH100", name="s-t-0").result()
    engine.faults.add(Fault(FaultKind.LIST_LAG, path="/cluster/list", seconds=100.0))
    async with FleetSession(client, FLEET) as members:
        assert members[0].id == theirs.id
    assert engine.record.living == [theirs.id]


async def test_the_body_may_destroy_members(engine: Emulator, client: TensorPool) -> None:
    async with FleetSession(client, WHOLE) as members:
        await client.clusters.destroy(members[0]).result()
        await client.clusters.destroy(members[1])
    assert_nothing_left(engine)


async def test_deletion_protection_of_the_fleet_is_switched_off(engine: Emulator, client: TensorPool) -> None:
    groups = [ClusterGroup("t", "1xH100", deletion_protection=True)]
    fleet = Fleet("s", groups, [VolumeGroup("data", 5, deletion_protection=True)])
    async with FleetSession(client, fleet):
        assert len(engine.record.living) == 1
    assert_nothing_left(engine)


@pytest.mark.parametrize("kind", [FaultKind.DROP_AFTER, FaultKind.DROP_BEFORE, FaultKind.CUT_JSON])
async def test_a_lost_answer_loses_nothing(kind: FaultKind, engine: Emulator, client: TensorPool) -> None:
    engine.faults.add(Fault(kind, path="/*/create", times=2))
    async with FleetSession(client, WHOLE) as members:
        assert {cluster.id for cluster in members} == set(engine.record.living)
    assert_nothing_left(engine)


async def test_what_a_create_with_unknown_outcome_made_is_found(engine: Emulator) -> None:
    # The create has no answer, and the client's own lookup fails. The first lookup of the rollback finds nothing.
    engine.faults.add(
        Fault(FaultKind.DROP_AFTER, path=CREATE),
        Fault(FaultKind.HTML_502, path="/cluster/info/*"),
        Fault(FaultKind.LIST_LAG, path="/cluster/list", seconds=100.0, times=3),
    )
    async with TensorPool(engine.key, base_url=engine.url, retry=RetryPolicy(attempts=1)) as tp:
        with pytest.raises(FleetIncomplete):
            async with FleetSession(tp, Fleet("s", [ClusterGroup("t", "1xH100")])):
                pytest.fail("the body ran")
    assert_nothing_left(engine)


async def test_destroying_is_retried_after_errors(engine: Emulator, client: TensorPool) -> None:
    async with FleetSession(client, WHOLE):
        engine.faults.add(
            Fault(FaultKind.ERROR_500, method="DELETE", times=15), Fault(FaultKind.FAILED, method="DELETE")
        )
    assert_nothing_left(engine)


@pytest.mark.parametrize("raises", [False, True])
async def test_what_cannot_be_destroyed_is_reported(
    raises: bool, engine: Emulator, client: TensorPool, caplog: pytest.LogCaptureFixture
) -> None:
    protected_id = ""

    async def body() -> None:
        nonlocal protected_id
        async with FleetSession(client, FLEET) as members:
            protected_id = members[0].id
            await client.clusters.edit(protected_id, deletion_protection=True).result()
            if raises:
                raise KeyError("mine")

    with pytest.raises(KeyError if raises else FleetIncomplete) as caught:
        await body()
    assert engine.record.living == [protected_id]
    text = caught.value.__notes__[0] if raises else caught.value.members["s-t-0"]  # type: ignore[attr-defined]
    assert protected_id in text
    assert "costs money" in text
    assert protected_id in caplog.text


async def test_the_time_for_destroying_is_bounded(engine: Emulator, client: TensorPool) -> None:
    session = FleetSession(client, FLEET, rollback_timeout=0.3)
    members = await session.__aenter__()
    stall = Fault(FaultKind.STALL, path=f"/cluster/{members[1].id}", seconds=1.0, times=None)
    engine.faults.add(stall)
    with pytest.raises(FleetIncomplete) as caught:
        await session.__aexit__(None, None, None)
    assert engine.record.living == [members[1].id]
    (failure,) = caught.value.exceptions
    assert isinstance(failure, OperationTimeout)
    assert members[1].id in str(failure)
    assert [member.state for member in members.report.members] == ["DESTROYED", "FAILED"]


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("kind", [None, FaultKind.DROP_AFTER, FaultKind.DROP_BEFORE, FaultKind.STALL])
async def test_a_create_in_flight_is_awaited(kind: FaultKind | None) -> None:
    async with (
        Emulator(provision_seconds=0.05, destroy_seconds=0.01, retry_after=0.01, latency=0.1) as engine,
        client_of(engine) as tp,
    ):
        if kind is not None:
            engine.faults.add(Fault(kind, path=CREATE, seconds=0.2))

        async def run_block() -> None:
            async with FleetSession(tp, FLEET):
                pytest.fail("the body ran")

        task = asyncio.create_task(run_block())
        await until(lambda: engine.record.by_route["POST /cluster/create"] == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(engine.record.clusters_made) >= 1
        assert_nothing_left(engine)


async def test_an_answer_that_never_comes_is_reported_with_the_name(engine: Emulator) -> None:
    engine.faults.add(Fault(FaultKind.STALL, path=CREATE, seconds=1.0))
    async with client_of(engine) as tp:

        async def run_block() -> None:
            async with FleetSession(tp, FLEET, rollback_timeout=0.3):
                pytest.fail("the body ran")

        task = asyncio.create_task(run_block())
        await until(lambda: engine.record.by_route["POST /cluster/create"] == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
    assert_nothing_left(engine)
    (note,) = caught.value.__notes__
    assert "s-t-" in note
    assert "costs money" in note


async def test_a_timeout_around_the_block_leaves_nothing(engine: Emulator, client: TensorPool) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1), FleetSession(client, WHOLE):
            await asyncio.sleep(60)
    assert_nothing_left(engine)


def scenario_of(engine: Emulator, fleet: Fleet) -> Callable[[], Awaitable[None]]:
    async def scenario() -> None:
        async with client_of(engine) as tp, FleetSession(tp, fleet):
            await asyncio.sleep(0)

    return scenario


@pytest.mark.parametrize(("by", "again"), [("task", None), ("task", 3), ("timeout", None), ("scope", None)])
async def test_cancelled_at_every_await_it_leaves_nothing(
    by: Literal["task", "timeout", "scope"], again: int | None, engine: Emulator
) -> None:
    def check(_: int) -> None:
        assert_nothing_left(engine)

    every = by == "task" and again is None
    walked = await walk(scenario_of(engine, WHOLE), check, by=by, again=again, step=1 if every else 7)
    assert walked > (50 if every else 6)


async def test_cancelled_at_awaits_of_a_large_fleet_it_leaves_nothing(engine: Emulator) -> None:
    seed = random.randrange(1_000_000)
    print(f"seed {seed}")  # noqa: T201 - so that a failure can be repeated
    fleet = Fleet("s", [ClusterGroup("t", ["1xH100", "1xL40S"], count=20)])
    engine.capacity["1xH100"] = 15
    await walk_sample(scenario_of(engine, fleet), lambda _: assert_nothing_left(engine), size=3, seed=seed)


SCRIPT = """
import asyncio, sys
from tensorpool_async import PollPolicy, TensorPool
from tensorpool_async.fleet import ClusterGroup, Fleet, FleetSession, VolumeGroup

async def main():
    fleet = Fleet("s", [ClusterGroup("t", "8xH200", count=2, num_nodes=2)], [VolumeGroup("d", 5, attach_to=["t"])])
    polling = PollPolicy(default=0.02, initial=0.02)
    async with TensorPool(sys.argv[1], base_url=sys.argv[2], polling=polling) as tp, FleetSession(tp, fleet):
        print("entered", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.parametrize("stage", ["sent", "coming", "entered"])
async def test_ctrl_c_leaves_nothing(stage: str) -> None:
    async with Emulator(
        provision_seconds=0.3,
        destroy_seconds=0.05,
        storage_seconds=0.05,
        attach_seconds=0.05,
        retry_after=0.02,
        latency=0.02,
    ) as engine:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", SCRIPT, engine.key, engine.url, stdout=PIPE, stderr=PIPE
        )
        assert process.stdout is not None
        if stage == "entered":
            assert await process.stdout.readline() == b"entered\n"
        else:
            await until(lambda: engine.record.by_route["POST /cluster/create"] == 2)
            if stage == "coming":
                await until(lambda: len(engine.record.clusters_made) == 2)
        process.send_signal(signal.SIGINT)
        _, errors = await process.communicate()
        assert b"KeyboardInterrupt" in errors
        assert b"was never" not in errors
        assert len(engine.record.clusters_made) == 2
        assert_nothing_left(engine)


async def test_what_a_block_makes_is_owned_and_what_up_makes_is_not(engine: Emulator, tmp_path: Path) -> None:
    journal = tmp_path / "journal.db"
    async with TensorPool(engine.key, base_url=engine.url, journal=journal) as tp:
        await tp.fleet(FLEET).up()
        async with tp.fleet(Fleet("b", WHOLE.clusters, WHOLE.volumes)) as members:
            owned = {
                entry.resource_id for entry in await tp.journal_entries(ended=True) if entry.intent.ephemeral
            }
            assert owned == {*(cluster.id for cluster in members), members.volumes["data"].id}
        async with tp.fleet(Fleet("k", [PAIR]), on_failure="keep") as members:
            entries = await tp.journal_entries(ended=True)
            not_ephemeral = {entry.resource_id for entry in entries if not entry.intent.ephemeral}
            assert not_ephemeral >= {cluster.id for cluster in members}
