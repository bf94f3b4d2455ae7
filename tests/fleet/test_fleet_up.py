from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from itertools import pairwise

import attrs
import pytest

from tensorpool_async import (
    AmbiguousOutcomeError,
    AuthenticationError,
    BudgetExceeded,
    Cluster,
    ConfigurationError,
    ConflictError,
    FleetError,
    InsufficientBalance,
    OperationFailed,
    PollPolicy,
    RetryPolicy,
    TensorPool,
    ValidationError,
)
from tensorpool_async.emulator import Emulator, Fault, FaultKind
from tensorpool_async.events import FleetMemberChanged
from tensorpool_async.fleet import ClusterGroup, Fleet, FleetIncomplete, provisioning
from tests.support.scripted import ScriptedEngine


CREATE = "/cluster/create"


@pytest.fixture
async def slow() -> AsyncGenerator[Emulator]:
    """Run an engine whose clusters take half a second."""
    async with Emulator(provision_seconds=0.5, destroy_seconds=0.1, retry_after=0.05) as engine:
        yield engine


@pytest.fixture
async def slow_tp(slow: Emulator) -> AsyncGenerator[TensorPool]:
    polling = PollPolicy(default=0.05)  # where the engine sends no Retry-After: polls of a cluster
    async with TensorPool(slow.key, base_url=slow.url, polling=polling) as client:
        yield client


def fleet_of(count: int = 3, *types: str, limit: float | None = None) -> Fleet:
    return Fleet("s", [ClusterGroup("t", types or ("1xH100",), count=count)], max_hourly_cost=limit)


async def test_all_members_are_brought_up_concurrently(slow: Emulator, slow_tp: TensorPool) -> None:
    begin = time.monotonic()
    report = await slow_tp.fleet(fleet_of(20)).up()
    assert time.monotonic() - begin < 3.0
    assert [member.name for member in report.members] == [f"s-t-{index}" for index in range(20)]
    assert {member.id for member in report.members} == set(slow.record.living)
    assert len(slow.record.clusters_made) == 20
    assert report.sequential_seconds > 20 * 0.5
    assert report.seconds < 3.0
    assert report.hourly_cost == pytest.approx(20 * 2.49)
    assert report.requests == slow.record.requests


async def test_a_report_has_the_result_of_a_member(emulator: Emulator, tp: TensorPool) -> None:
    (member,) = (await tp.fleet(fleet_of(1)).up()).members
    (cluster,) = emulator.clusters.values()
    assert (member.id, member.state, member.group) == (cluster.id, "RUNNING", "t")
    assert member.ip == cluster.instances[0].ip_address
    assert (member.instance_type, member.hourly_rate) == ("1xH100", 2.49)
    assert member.seconds >= 0.05
    assert member.polls >= 1
    assert member.error is None
    assert member.tried == ("1xH100",)


async def test_the_options_of_a_group_reach_the_engine(emulator: Emulator, tp: TensorPool) -> None:
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA ada"
    group = ClusterGroup(
        "t", "8xH200", num_nodes=2, public_keys=[key], container="image:1", deletion_protection=True
    )
    await tp.fleet(Fleet("s", [group])).up()
    (cluster,) = emulator.clusters.values()
    assert (cluster.num_nodes, cluster.container, cluster.deletion_protection) == (2, "image:1", True)
    assert key in cluster.public_keys


async def test_running_clusters_are_left_alone(emulator: Emulator, tp: TensorPool) -> None:
    first = await tp.fleet(fleet_of()).up()
    again = await tp.fleet(fleet_of()).up()
    assert [member.id for member in again.members] == [member.id for member in first.members]
    assert all(member.polls == 0 and not member.tried for member in again.members)
    assert len(emulator.record.clusters_made) == 3


async def test_a_raised_count_only_adds(emulator: Emulator, tp: TensorPool) -> None:
    first = await tp.fleet(fleet_of(2)).up()
    second = await tp.fleet(fleet_of(4)).up()
    assert [member.id for member in second.members[:2]] == [member.id for member in first.members]
    assert len(emulator.record.living) == 4


@pytest.mark.parametrize("hidden", [None, "/cluster/operations/*", "/request/info/*"])
async def test_creates_in_progress_are_joined(
    hidden: str | None, slow: Emulator, slow_tp: TensorPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation = await slow_tp.clusters.create("1xH100", name="s-t-1")
    if hidden:
        slow.faults.add(Fault(FaultKind.NOT_FOUND, path=hidden, times=None))
    report = await slow_tp.fleet(fleet_of(2)).up()
    assert report.members[1].id == operation.resource_id
    assert report.members[1].tried == ()
    assert report.members[1].polls >= 1
    assert len(slow.record.clusters_made) == 2


async def test_an_engine_without_request_ids_is_supported() -> None:
    async with (
        Emulator(provision_seconds=0.2, retry_after=0.05, no_request_ids=True) as engine,
        TensorPool(engine.key, base_url=engine.url) as tp,
    ):
        report = await tp.fleet(fleet_of(2)).up()
        assert [member.state for member in report.members] == ["RUNNING", "RUNNING"]


async def test_one_failure_does_not_stop_the_others(emulator: Emulator, tp: TensorPool) -> None:
    emulator.faults.add(Fault(FaultKind.FAILED, path=CREATE))
    with pytest.raises(FleetError, match="1 of 3 members of s could not be brought up") as caught:
        await tp.fleet(fleet_of()).up()
    assert isinstance(caught.value, FleetIncomplete)
    (failure,) = caught.value.exceptions
    assert isinstance(failure, OperationFailed)
    (failed,) = caught.value.report.failed
    assert failure.operation is not None
    assert failure.__notes__ == [failure.operation.explain(), f"fleet member {failed.name}"]
    assert "internal provider error" in str(failed.error)
    states = [member.state for member in caught.value.report.members]
    assert sorted(states) == ["FAILED", "RUNNING", "RUNNING"]
    assert caught.value.members[failed.name].startswith(f"FAILED ({failed.id}): ")
    assert len(caught.value.members) == 3


async def test_up_again_replaces_what_failed(emulator: Emulator, tp: TensorPool) -> None:
    emulator.faults.add(Fault(FaultKind.FAILED, path=CREATE))
    session = tp.fleet(fleet_of())
    with pytest.raises(FleetError):
        await session.up()
    report = await session.up()
    assert [member.state for member in report.members] == ["RUNNING"] * 3
    assert len(emulator.record.living) == 3
    assert len(emulator.record.clusters_made) == 4
    assert emulator.record.made_twice == []


async def test_a_destroy_of_the_same_name_is_awaited(slow: Emulator, slow_tp: TensorPool) -> None:
    old = await slow_tp.clusters.create("1xH100", name="s-t-0").result()
    destroy = await slow_tp.clusters.destroy(old)
    (member,) = (await slow_tp.fleet(fleet_of(1)).up()).members
    assert destroy.done()
    assert member.id != old.id
    assert slow.record.living == [member.id]


async def test_a_cluster_that_differs_is_left_alone_and_reported(emulator: Emulator, tp: TensorPool) -> None:
    other = await tp.clusters.create("1xL40S", name="s-t-0").result()
    with pytest.raises(FleetIncomplete) as caught:
        await tp.fleet(fleet_of(2)).up()
    (failure,) = caught.value.exceptions
    assert isinstance(failure, ConfigurationError)
    assert other.id in str(failure)
    assert emulator.clusters[other.id].status == "RUNNING"
    assert [member.state for member in caught.value.report.members] == ["FAILED", "RUNNING"]


@pytest.mark.parametrize("protected", [False, True])
async def test_without_capacity_the_next_type_is_requested(
    protected: bool, emulator: Emulator, tp: TensorPool
) -> None:
    emulator.capacity.update({"8xB300": 1, "8xB200": 2})
    group = ClusterGroup("t", ["8xB300", "8xB200", "8xH200"], count=5, deletion_protection=protected)
    report = await tp.fleet(Fleet("s", [group])).up()
    assert sorted(member.instance_type or "" for member in report.members) == [
        "8xB200",
        "8xB200",
        "8xB300",
        "8xH200",
        "8xH200",
    ]
    assert {member.id for member in report.members} == set(emulator.record.living)
    for member in report.members:
        assert (
            member.tried == group.instance_type[: group.instance_type.index(member.instance_type or "") + 1]
        )
    assert emulator.record.made_twice == []


async def test_a_joined_create_may_fall_back_too(slow: Emulator, slow_tp: TensorPool) -> None:
    slow.capacity["8xB200"] = 0
    await slow_tp.clusters.create("8xB200", name="s-t-0")
    (member,) = (await slow_tp.fleet(fleet_of(1, "8xB200", "8xH200")).up()).members
    assert member.instance_type == "8xH200"
    assert slow.record.living == [member.id]
    assert member.tried == ("8xH200",)


async def test_without_any_capacity_all_tried_types_are_reported(emulator: Emulator, tp: TensorPool) -> None:
    emulator.capacity.update({"8xB200": 0, "8xH200": 0})
    with pytest.raises(FleetIncomplete) as caught:
        await tp.fleet(fleet_of(1, "8xB200", "8xH200")).up()
    (failure,) = caught.value.exceptions
    assert isinstance(failure, OperationFailed)
    assert "8xB200 (No capacity" in str(failure)
    assert "8xH200 (No capacity" in str(failure)
    assert caught.value.report.members[0].tried == ("8xB200", "8xH200")
    assert emulator.record.living == []


async def test_a_fleet_over_its_budget_is_refused_before_any_create(
    emulator: Emulator, tp: TensorPool
) -> None:
    session = tp.fleet(fleet_of(4, limit=4 * 2.49 - 0.01))
    with pytest.raises(BudgetExceeded):
        await session.up()
    assert emulator.record.clusters_made == []
    assert session.report is None
    plan = await session.plan()
    assert plan.hourly_cost_after == pytest.approx(4 * 2.49)


async def test_no_fallback_exceeds_the_limit(emulator: Emulator, tp: TensorPool) -> None:
    emulator.capacity["8xH200"] = 0
    # 4 x 8xH200 are $111.68, and two of 8xB200 instead make $135.68.
    with pytest.raises(FleetIncomplete) as caught:
        await tp.fleet(fleet_of(4, "8xH200", "8xB200", limit=124.0)).up()
    assert {type(failure) for failure in caught.value.exceptions} == {BudgetExceeded}
    made = [member for member in caught.value.report.members if member.state == "RUNNING"]
    assert {member.instance_type for member in made} == {"8xB200"}
    assert 1 <= len(made) <= 3
    assert sum(emulator.clusters[key].hourly_rate for key in emulator.record.living) <= 124.0


async def test_a_cheaper_type_is_requested_where_a_dearer_one_would_exceed_the_limit(
    emulator: Emulator, tp: TensorPool
) -> None:
    emulator.capacity["8xH200"] = 0
    report = await tp.fleet(fleet_of(1, "8xH200", "8xB200", "8xH100", limit=30.0)).up()
    assert report.members[0].instance_type == "8xH100"


async def test_each_price_is_requested_once(emulator: Emulator, tp: TensorPool) -> None:
    groups = [ClusterGroup(name, ["8xB200", "8xH200"], count=5) for name in ("a", "b")]
    await tp.fleet(Fleet("s", [*groups, ClusterGroup("c", "8xH200", num_nodes=2)])).plan()
    assert emulator.record.by_route["GET /cluster/quote"] == 3


async def test_an_engine_without_prices_is_supported_without_a_limit(
    emulator: Emulator, tp: TensorPool
) -> None:
    emulator.faults.add(Fault(FaultKind.NOT_FOUND, path="/cluster/quote", times=None))
    with pytest.raises(BudgetExceeded, match="no price"):
        await tp.fleet(fleet_of(1, limit=100.0)).up()
    assert emulator.record.clusters_made == []
    plan = await tp.fleet(fleet_of(1)).plan()
    assert plan.hourly_cost_after is None
    report = await tp.fleet(fleet_of(1)).up()
    assert report.members[0].hourly_rate == 2.49


async def test_an_unknown_instance_type_is_refused_before_any_create(
    emulator: Emulator, tp: TensorPool
) -> None:
    fleet = Fleet("s", [ClusterGroup("good", "1xH100"), ClusterGroup("bad", ["1xH100", "9xZ9"])])
    for attempt in (tp.fleet(fleet).plan, tp.fleet(fleet).up):
        with pytest.raises(ConfigurationError, match=r"clusters\.bad: .*9xZ9") as caught:
            await attempt()
        assert "choose from" in str(caught.value)
    assert emulator.record.clusters_made == []


async def test_an_instance_type_that_only_the_create_refuses(emulator: Emulator, tp: TensorPool) -> None:
    emulator.faults.add(Fault(FaultKind.NOT_FOUND, path="/cluster/quote", times=None))
    fleet = Fleet("s", [ClusterGroup("good", "1xH100"), ClusterGroup("bad", "9xZ9", count=2)])
    with pytest.raises(FleetIncomplete) as caught:
        await tp.fleet(fleet).up()
    assert [type(failure) for failure in caught.value.exceptions] == [ValidationError, ValidationError]
    assert [member.state for member in caught.value.report.members] == ["RUNNING", "FAILED", "FAILED"]
    assert "unknown instance type '9xZ9'" in str(caught.value.report.members[1].error)


async def test_a_wrong_key_is_raised_as_one_error_before_any_create(emulator: Emulator) -> None:
    async with TensorPool("wrong", base_url=emulator.url) as tp:
        with pytest.raises(AuthenticationError):
            await tp.fleet(fleet_of()).up()
    assert emulator.record.by_route["POST /cluster/create"] == 0


async def test_an_insufficient_balance_is_no_lack_of_capacity(emulator: Emulator, tp: TensorPool) -> None:
    emulator.balance = 1.0
    with pytest.raises(FleetIncomplete) as caught:
        await tp.fleet(fleet_of(1, "8xB200", "8xH200")).up()
    assert isinstance(caught.value.exceptions[0], InsufficientBalance)
    assert caught.value.report.members[0].tried == ("8xB200",)


FEW_ATTEMPTS = RetryPolicy(attempts=2, backoff=0.01, longest_backoff=0.02)


@pytest.mark.parametrize("fault", [FaultKind.DROP_AFTER, FaultKind.DROP_BEFORE, FaultKind.CUT_JSON])
async def test_a_lost_answer_makes_no_second_cluster(fault: FaultKind, emulator: Emulator) -> None:
    emulator.faults.add(Fault(fault, path=CREATE, times=2))
    async with TensorPool(emulator.key, base_url=emulator.url, retry=FEW_ATTEMPTS) as tp:
        report = await tp.fleet(fleet_of(3)).up()
    assert {member.id for member in report.members} == set(emulator.record.living)
    assert len(emulator.record.clusters_made) == 3


async def test_what_a_lost_create_made_is_found_by_its_name(emulator: Emulator) -> None:
    # The answer is lost and the lookup of the client fails, so the client raises AmbiguousOutcomeError.
    emulator.faults.add(
        Fault(FaultKind.DROP_AFTER, path=CREATE),
        Fault(FaultKind.NOT_FOUND, path="/cluster/info/*"),
        Fault(FaultKind.NOT_FOUND, path="/cluster/list", after=1),
    )
    retry = RetryPolicy(attempts=1)
    async with TensorPool(emulator.key, base_url=emulator.url, retry=retry) as tp:
        report = await tp.fleet(fleet_of(1)).up()
    assert [member.id for member in report.members] == emulator.record.living
    assert report.members[0].tried == ("1xH100",)
    assert emulator.record.by_route["GET /cluster/list"] == 3


async def test_answers_that_are_always_lost_end_in_an_error(emulator: Emulator) -> None:
    emulator.faults.add(Fault(FaultKind.DROP_BEFORE, path=CREATE, times=None))
    async with TensorPool(emulator.key, base_url=emulator.url, retry=FEW_ATTEMPTS) as tp:
        with pytest.raises(FleetIncomplete) as caught:
            await tp.fleet(fleet_of(1)).up()
    assert isinstance(caught.value.exceptions[0], AmbiguousOutcomeError)
    assert "s-t-0" in str(caught.value.report.members[0].error)


async def test_a_name_that_is_in_use_and_not_listed_is_requested_again(
    emulator: Emulator, tp: TensorPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provisioning, "NAME_CONFLICT_DELAY", 0.1)
    await tp.clusters.create("1xH100", name="s-t-0")
    emulator.faults.add(Fault(FaultKind.LIST_LAG, path="/cluster/list", times=2, seconds=10.0))
    report = await tp.fleet(fleet_of(1)).up()
    assert [member.id for member in report.members] == emulator.record.living
    assert emulator.record.by_status[409] == 2


async def test_a_name_that_stays_in_use_fails_the_member(
    emulator: Emulator, tp: TensorPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provisioning, "NAME_CONFLICT_DELAY", 0.01)
    await tp.clusters.create("1xH100", name="s-t-0")
    emulator.faults.add(Fault(FaultKind.LIST_LAG, path="/cluster/list", times=None, seconds=100.0))
    with pytest.raises(FleetIncomplete) as caught:
        await tp.fleet(fleet_of(1)).up()
    assert isinstance(caught.value.exceptions[0], ConflictError)


async def test_a_create_that_is_refused_for_lack_of_capacity_falls_back_too(
    scripted: ScriptedEngine, odd_tp: TensorPool
) -> None:
    cluster = {"id": "c-1", "name": "s-t-0", "status": "RUNNING", "instance_type": "8xH200"}
    scripted.answer("GET /cluster/list", {"clusters": []})
    scripted.answer("GET /cluster/quote", status=404)
    scripted.answer("POST /cluster/create", {"detail": "8xB200 is sold out"}, status=409)
    scripted.answer(
        "POST /cluster/create", {"cluster_id": "c-1", "message": "", "request_id": None}, status=202
    )
    scripted.answer("GET /cluster/info/c-1", {"cluster_info": cluster})
    (member,) = (await odd_tp.fleet(fleet_of(1, "8xB200", "8xH200")).up()).members
    assert (member.id, member.instance_type) == ("c-1", "8xH200")
    assert member.tried == ("8xB200", "8xH200")
    assert scripted.count("GET /cluster/list") == 1


async def test_a_failed_request_of_a_price_is_raised(scripted: ScriptedEngine, odd_tp: TensorPool) -> None:
    scripted.answer("GET /cluster/list", {"clusters": []})
    scripted.answer("GET /cluster/quote", {"error": "revoked"}, status=401)
    with pytest.raises(AuthenticationError):
        await odd_tp.fleet(fleet_of(1)).up()
    assert scripted.count("POST /cluster/create") == 0


async def test_an_invalid_price_is_no_price(scripted: ScriptedEngine, odd_tp: TensorPool) -> None:
    scripted.answer("GET /cluster/list", {"clusters": []})
    scripted.answer("GET /cluster/quote", {"hourly_rate": -1.0})
    with pytest.raises(BudgetExceeded, match="no price"):
        await odd_tp.fleet(fleet_of(1, limit=100.0)).up()


async def test_two_runs_at_once_create_each_member_once(slow: Emulator, slow_tp: TensorPool) -> None:
    slow.capacity["8xB200"] = 2
    async with TensorPool(slow.key, base_url=slow.url) as other:
        fleet = fleet_of(6, "8xB200", "8xH200")
        first, second = await asyncio.gather(slow_tp.fleet(fleet).up(), other.fleet(fleet).up())
    assert [member.id for member in first.members] == [member.id for member in second.members]
    assert {member.id for member in first.members} == set(slow.record.living)
    assert slow.record.made_twice == []


async def test_the_client_makes_the_session(emulator: Emulator, tp: TensorPool) -> None:
    fleet = fleet_of()
    session = tp.fleet(fleet)
    assert session.fleet is fleet
    assert session.report is None


async def test_events_show_the_progress_of_a_member(emulator: Emulator, tp: TensorPool) -> None:
    events: list[FleetMemberChanged] = []
    emulator.capacity["8xB200"] = 0
    await tp.fleet(fleet_of(1, "8xB200", "8xH200")).up(on_event=events.append)
    states = [event.state for event in events]
    assert list(dict.fromkeys(states)) == ["WAITING", "CREATING", "CLEARING", "RUNNING"]
    distinct = [attrs.evolve(event, seconds=0.0) for event in events]
    assert all(before != after for before, after in pairwise(distinct))
    clearing = events[states.index("CLEARING")]
    assert "No capacity" in clearing.message
    last = events[-1]
    assert (last.fleet, last.member, last.group) == ("s", "s-t-0", "t")
    assert (last.instance_type, last.hourly_rate) == ("8xH200", 27.92)
    assert last.resource_id in emulator.record.living
    seconds = [event.seconds for event in events]
    assert seconds == sorted(seconds)


async def test_a_listener_that_raises_does_not_affect_the_run(
    emulator: Emulator, tp: TensorPool, caplog: pytest.LogCaptureFixture
) -> None:
    def listener(_: FleetMemberChanged) -> None:
        raise RuntimeError("listener")

    report = await tp.fleet(fleet_of()).up(on_event=listener)
    assert [member.state for member in report.members] == ["RUNNING"] * 3
    assert "a listener of the fleet s failed" in caplog.text


async def cancelled(session_up: asyncio.Task[object], after: float) -> None:
    await asyncio.sleep(after)
    session_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await session_up


async def test_cancelling_destroys_nothing_and_reports_what_was_created(
    slow: Emulator, slow_tp: TensorPool
) -> None:
    session = slow_tp.fleet(fleet_of(8))
    await cancelled(asyncio.create_task(session.up()), after=0.25)
    assert session.report is not None
    assert [member.state for member in session.report.members] == ["CREATING"] * 8
    assert {member.id for member in session.report.existing} == set(slow.record.living)
    assert session.report.hourly_cost == pytest.approx(8 * 2.49)
    assert slow.record.by_route["DELETE /cluster/{cluster}"] == 0
    before = session.report.seconds
    await asyncio.sleep(0.02)
    assert session.report.seconds == before

    report = await session.up()
    assert {member.id for member in report.members} == set(slow.record.living)
    assert len(slow.record.clusters_made) == 8


async def test_cancelling_waits_for_answers() -> None:
    async with (
        Emulator(provision_seconds=5.0, latency=0.3) as engine,
        TensorPool(engine.key, base_url=engine.url) as tp,
    ):
        session = tp.fleet(fleet_of(8))
        # The list and the price take 0.3 s each: after 0.75 s the creates are in flight, and the clusters not yet created.
        task = asyncio.create_task(session.up())
        while not engine.record.by_route["POST /cluster/create"]:
            await asyncio.sleep(0.01)
        await cancelled(task, after=0.05)
        assert session.report is not None
        assert len(engine.record.living) == 8
        assert {member.id for member in session.report.existing} == set(engine.record.living)


async def test_cancelling_drops_creates_in_the_queue() -> None:
    async with (
        Emulator(provision_seconds=5.0, latency=0.2) as engine,
        TensorPool(engine.key, base_url=engine.url) as tp,
    ):
        session = tp.fleet(fleet_of(100))
        task = asyncio.create_task(session.up())
        while not engine.record.by_route["POST /cluster/create"]:
            await asyncio.sleep(0.01)
        await cancelled(task, after=0.05)
        assert session.report is not None
        assert len(engine.record.living) <= tp.limiter.max_in_flight
        assert {member.id for member in session.report.existing} == set(engine.record.living)


async def test_cancelling_waits_a_bounded_time_for_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tensorpool_async.fleet.created.GRACE", 0.2)
    stall = Fault(FaultKind.STALL, path=CREATE, seconds=20.0)
    async with (
        Emulator(faults=[stall]) as engine,
        TensorPool(engine.key, base_url=engine.url) as tp,
    ):
        session = tp.fleet(fleet_of(1))
        begin = time.monotonic()
        await cancelled(asyncio.create_task(session.up()), after=0.3)
        assert time.monotonic() - begin < 2.0
        assert session.report is not None
        assert session.report.existing == ()


async def test_members_are_found_among_other_clusters(emulator: Emulator, tp: TensorPool) -> None:
    names = ("other-t-0", "s-t-00", "s-t", "s-t-0-0")
    others: list[Cluster] = [await tp.clusters.create("1xL40S", name=name).result() for name in names]
    report = await tp.fleet(fleet_of(1)).up()
    assert report.members[0].id not in {other.id for other in others}
    assert len(emulator.record.living) == 5
