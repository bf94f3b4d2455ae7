"""The volumes of a fleet: planned, created, attached, and destroyed."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from tensorpool_async import BudgetExceeded, FleetError, PollPolicy, TensorPool
from tensorpool_async.emulator import Emulator, Fault, FaultKind
from tensorpool_async.fleet import ClusterGroup, Fleet, VolumeGroup
from tensorpool_async.fleet.plan import Action, plan_volumes
from tensorpool_async.models import StorageStatus, StorageVolume


TRAINERS = ClusterGroup("trainer", "8xH200", count=2, num_nodes=2)
DATA = VolumeGroup("data", 500, attach_to=["trainer"])
FLEET = Fleet("s", [TRAINERS], [DATA, VolumeGroup("logs", 10)])


@pytest.fixture
async def engine() -> AsyncGenerator[Emulator]:
    async with Emulator(
        provision_seconds=0.1,
        destroy_seconds=0.05,
        storage_seconds=0.05,
        attach_seconds=0.05,
        retry_after=0.02,
    ) as emulator:
        yield emulator


@pytest.fixture
async def client(engine: Emulator) -> AsyncGenerator[TensorPool]:
    polling = PollPolicy(default=0.02, initial=0.01)
    async with TensorPool(engine.key, base_url=engine.url, polling=polling) as tp:
        yield tp


async def test_volumes_are_created_and_attached_and_destroyed_with_the_fleet(
    client: TensorPool, engine: Emulator
) -> None:
    plan = await client.fleet(FLEET).plan()
    assert [(entry.name, str(entry.action)) for entry in plan.members[2:]] == [
        ("s-data", "CREATE"),
        ("s-logs", "CREATE"),
    ]
    assert engine.record.living_volumes == []
    report = await client.fleet(FLEET).up()
    assert [member.state for member in report.members] == ["RUNNING"] * 4
    data = next(volume for volume in await client.storage.list() if volume.name == "s-data")
    assert len(data.attached_clusters) == 2
    status = await client.fleet(FLEET).status()
    assert [member.state for member in status.members] == ["RUNNING", "RUNNING", "READY", "READY"]
    down = await client.fleet(FLEET).down()
    assert {member.state for member in down.members} == {"DESTROYED"}
    assert (engine.record.living, engine.record.living_volumes) == ([], [])
    absent = await client.fleet(FLEET).status()
    assert [member.state for member in absent.members] == ["ABSENT"] * 4


async def test_up_can_be_run_again(client: TensorPool, engine: Emulator) -> None:
    await client.fleet(FLEET).up()
    restarts = engine.record.by_route["POST /storage/attach"]
    report = await client.fleet(FLEET).up()
    assert [member.state for member in report.members] == ["RUNNING"] * 4
    assert len(engine.record.volumes_made) == 2
    assert engine.record.by_route["POST /storage/attach"] == restarts, (
        "what is attached is not attached again"
    )


async def test_a_failed_volume_does_not_affect_the_clusters(client: TensorPool, engine: Emulator) -> None:
    engine.faults.add(Fault(FaultKind.FAILED, path="/storage/create", times=1))
    with pytest.raises(FleetError) as caught:
        await client.fleet(Fleet("s", [TRAINERS], [DATA])).up()
    assert caught.value.members.keys() == {"s-trainer-0", "s-trainer-1", "s-data"}
    assert len(caught.value.exceptions) == 1
    assert len(engine.record.living) == 2


async def test_a_protected_volume_is_left_and_reported(client: TensorPool, engine: Emulator) -> None:
    fleet = Fleet("s", [TRAINERS], [VolumeGroup("data", 500, deletion_protection=True)])
    await client.fleet(fleet).up()
    with pytest.raises(FleetError):
        await client.fleet(fleet).down()
    assert engine.record.living == []
    assert len(engine.record.living_volumes) == 1


async def test_the_price_of_volumes_counts(client: TensorPool, engine: Emulator) -> None:
    clusters = (await client.clusters.quote("8xH200", 2)).hourly_rate * 2
    volume = (await client.storage.quote(500)).hourly_rate
    fleet = Fleet("s", [TRAINERS], [DATA], max_hourly_cost=clusters + volume / 2)
    assert (await client.fleet(fleet).plan()).hourly_cost_after == pytest.approx(clusters + volume)
    with pytest.raises(BudgetExceeded):
        await client.fleet(fleet).up()
    assert engine.record.clusters_made == []
    assert engine.record.volumes_made == []


READY = StorageVolume(id="s-1", name="s-data", size_gb=500, status=StorageStatus.READY, hourly_rate=0.5)


@pytest.mark.parametrize(
    ("found", "action", "problem"),
    [
        ([], Action.CREATE, ""),
        ([READY], Action.KEEP, ""),
        ([StorageVolume(id="s-1", name="s-data", size_gb=500)], Action.JOIN, ""),
        ([StorageVolume(id="s-1", name="s-data", size_gb=100)], Action.CONFLICT, "100 GB"),
        ([READY, StorageVolume(id="s-2", name="s-data")], Action.CONFLICT, "s-1 and s-2"),
        ([StorageVolume(id="s-1", name="t-data")], Action.CREATE, ""),
    ],
)
def test_the_action_for_a_volume(found: list[StorageVolume], action: Action, problem: str) -> None:
    (planned,) = plan_volumes(Fleet("s", [TRAINERS], [DATA]), found, {500: 0.25})
    assert planned.action is action
    assert problem in planned.problem
    assert planned.hourly_rate == (0.5 if found and found[0] is READY else 0.25)


async def test_a_volume_that_differs_is_left_alone(client: TensorPool, engine: Emulator) -> None:
    foreign = await client.storage.create(7, name="s-data").result()
    with pytest.raises(FleetError) as caught:
        await client.fleet(Fleet("s", [TRAINERS], [DATA])).up()
    assert "left alone" in str(caught.value.exceptions[0])
    assert engine.record.living_volumes == [foreign.id]


async def test_a_volume_that_is_being_created_is_joined(client: TensorPool, engine: Emulator) -> None:
    await client.storage.create(500, name="s-data")
    report = await client.fleet(Fleet("s", [TRAINERS], [DATA])).up()
    assert [member.state for member in report.members] == ["RUNNING"] * 3
    assert len(engine.record.volumes_made) == 1
