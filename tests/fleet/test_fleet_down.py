from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncGenerator

import pytest

from tensorpool_async import (
    AuthenticationError,
    ConflictError,
    FleetError,
    OperationFailed,
    PollPolicy,
    TensorPool,
)
from tensorpool_async.emulator import Emulator, Fault, FaultKind
from tensorpool_async.events import FleetMemberChanged
from tensorpool_async.fleet import ClusterGroup, Fleet, FleetIncomplete
from tensorpool_async.resources import deletion


FLEET = Fleet("s", [ClusterGroup("t", "1xH100", count=2), ClusterGroup("u", "1xL40S", count=11)])
PAIR = Fleet("s", [ClusterGroup("t", "1xH100", count=2)])


@pytest.fixture
async def slow() -> AsyncGenerator[Emulator]:
    """Run an engine whose clusters take 0.4 seconds."""
    async with Emulator(provision_seconds=0.4, destroy_seconds=0.2, retry_after=0.05) as engine:
        yield engine


@pytest.fixture
async def slow_tp(slow: Emulator) -> AsyncGenerator[TensorPool]:
    polling = PollPolicy(default=0.05)  # where the engine sends no Retry-After: polls of a cluster
    async with TensorPool(slow.key, base_url=slow.url, polling=polling) as client:
        yield client


async def test_all_of_a_fleet_is_destroyed_and_nothing_else(emulator: Emulator, tp: TensorPool) -> None:
    other = await tp.clusters.create("1xH100", name="s-other-0").result()
    await tp.fleet(FLEET).up()
    report = await tp.fleet(FLEET).down()
    assert emulator.record.living == [other.id]
    assert len(report.members) == 13
    assert {member.state for member in report.members} == {"DESTROYED"}
    assert report.existing == ()
    assert report.hourly_cost == 0.0
    assert min(member.seconds for member in report.members) >= 0.04


async def test_down_can_be_repeated(emulator: Emulator, tp: TensorPool) -> None:
    await tp.fleet(PAIR).up()
    await tp.fleet(PAIR).down()
    report = await tp.fleet(PAIR).down()
    assert report.members == ()


async def test_members_beyond_a_lowered_count_are_destroyed_too(emulator: Emulator, tp: TensorPool) -> None:
    await tp.fleet(Fleet("s", [ClusterGroup("t", "1xH100", count=5)])).up()
    await tp.fleet(PAIR).down()
    assert emulator.record.living == []


async def test_failed_members_are_destroyed_too(emulator: Emulator, tp: TensorPool) -> None:
    emulator.faults.add(Fault(FaultKind.FAILED, path="/cluster/create"))
    with pytest.raises(FleetError):
        await tp.fleet(PAIR).up()
    await tp.fleet(PAIR).down()
    assert emulator.record.living == []


async def test_creates_in_progress_are_awaited_first(slow: Emulator, slow_tp: TensorPool) -> None:
    for index in range(2):
        await slow_tp.clusters.create("1xH100", name=f"s-t-{index}")
    events: list[FleetMemberChanged] = []
    await slow_tp.fleet(PAIR).down(on_event=events.append)
    assert slow.record.living == []
    assert slow.record.destroys_before_ready == 0
    assert slow.record.by_status[409] == 0
    assert "waiting until it is created" in [event.message for event in events]


async def test_destroys_in_progress_are_awaited(slow: Emulator, slow_tp: TensorPool) -> None:
    await slow_tp.fleet(PAIR).up()
    destroy = await slow_tp.clusters.destroy("s-t-0")
    report = await slow_tp.fleet(PAIR).down()
    await destroy  # it is polled on its own
    assert [member.state for member in report.members] == ["DESTROYED", "DESTROYED"]


async def test_two_downs_may_run_at_once(slow: Emulator, slow_tp: TensorPool) -> None:
    await slow_tp.fleet(FLEET).up()
    async with TensorPool(slow.key, base_url=slow.url) as other:
        await asyncio.gather(slow_tp.fleet(FLEET).down(), other.fleet(FLEET).down())
    assert slow.record.living == []


async def test_protected_clusters_are_left_and_reported(emulator: Emulator, tp: TensorPool) -> None:
    group = ClusterGroup("t", "1xH100", count=2)
    await tp.fleet(Fleet("s", [group])).up()
    protected = await tp.clusters.edit("s-t-1", deletion_protection=True).result()
    session = tp.fleet(PAIR)
    with pytest.raises(FleetIncomplete, match="1 of 2 members of s could not be destroyed") as caught:
        await session.down()
    assert isinstance(caught.value.exceptions[0], ConflictError)
    assert "protection" in str(caught.value.report.failed[0].error)
    assert emulator.record.living == [protected.id]
    assert [member.id for member in caught.value.report.existing] == [protected.id]
    assert session.report == caught.value.report


async def test_a_busy_cluster_is_retried(
    slow: Emulator, slow_tp: TensorPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deletion, "CONFLICT_DELAY", 0.3)
    await slow_tp.fleet(PAIR).up()
    await slow_tp.clusters.edit("s-t-0", name="s-t-7")
    report = await slow_tp.fleet(PAIR).down()
    assert slow.record.by_status[409] >= 1
    assert slow.record.living == []
    assert len(report.members) == 2


async def test_a_failed_destroy_is_reported(emulator: Emulator, tp: TensorPool) -> None:
    await tp.fleet(PAIR).up()
    emulator.faults.add(Fault(FaultKind.FAILED, method="DELETE"))
    with pytest.raises(FleetIncomplete) as caught:
        await tp.fleet(PAIR).down()
    assert isinstance(caught.value.exceptions[0], OperationFailed)
    assert len(emulator.record.living) == 1
    await tp.fleet(PAIR).down()
    assert emulator.record.living == []


async def test_a_wrong_key_is_raised_as_one_error(emulator: Emulator) -> None:
    async with TensorPool("wrong", base_url=emulator.url) as tp:
        for attempt in (tp.fleet(PAIR).down, tp.fleet(PAIR).status):
            with pytest.raises(AuthenticationError):
                await attempt()


async def test_status_reports_what_exists_and_changes_nothing(slow: Emulator, slow_tp: TensorPool) -> None:
    fleet = Fleet("s", [ClusterGroup("t", "1xH100", count=3), ClusterGroup("u", "1xL40S")])
    first = await slow_tp.clusters.create("1xH100", name="s-t-1").result()
    operation = await slow_tp.clusters.create("1xH100", name="s-t-12")
    await slow_tp.clusters.create("1xH100", name="somebody-else")
    report = await slow_tp.fleet(fleet).status()
    assert not operation.done()
    status = report.members[3].state
    assert status in {"PENDING", "PROVISIONING", "CONFIGURING"}
    assert [(member.name, member.state) for member in report.members] == [
        ("s-t-0", "ABSENT"),
        ("s-t-1", "RUNNING"),
        ("s-t-2", "ABSENT"),
        ("s-t-12", status),
        ("s-u-0", "ABSENT"),
    ]
    assert report.members[1].id == first.id
    assert report.members[1].ip == first.ip_address
    assert report.hourly_cost == pytest.approx(2 * 2.49)
    assert slow.record.by_route["POST /cluster/create"] == 3
    assert slow.record.by_route["DELETE /cluster/{cluster}"] == 0


async def test_an_error_of_a_fleet_survives_pickling_and_splitting(
    emulator: Emulator, tp: TensorPool
) -> None:
    emulator.faults.add(Fault(FaultKind.FAILED, path="/cluster/create"))
    with pytest.raises(FleetIncomplete) as caught:
        await tp.fleet(PAIR).up()
    copy = pickle.loads(pickle.dumps(caught.value))
    assert copy.report == caught.value.report
    assert copy.members == caught.value.members
    part, rest = caught.value.split(OperationFailed)
    assert isinstance(part, FleetIncomplete)
    assert part.report == caught.value.report
    assert rest is None
    assert emulator.key not in repr(copy) + str(copy.report)
