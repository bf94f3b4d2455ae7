"""Operations (design: any number of awaiters, one poll loop, the engine's pace, nothing lost)."""

from __future__ import annotations

import asyncio
import gc
import logging
import pickle
import time
import traceback
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiohttp import web

from tensorpool_async import (
    AuthenticationError,
    Cluster,
    ClusterStatus,
    ConfigurationError,
    NotFound,
    Operation,
    OperationError,
    OperationFailed,
    OperationKind,
    OperationTimeout,
    PermissionDenied,
    PollPolicy,
    RequestInfo,
    RequestStatus,
    ServerError,
    TensorPool,
    WrongEventLoopError,
)
from tensorpool_async.emulator import Emulator, Fault, FaultKind
from tensorpool_async.operations.operation import MOST_UNREAD, UpdateQueue
from tests.support.scripted import ScriptedEngine, drop


def request_info(
    status: str, message: str | None = None, *, kind: str = "CLUSTER_CLAIM", object_id: str = "c-1"
) -> dict[str, Any]:
    return {
        "request_id": "r-1",
        "request_type": kind,
        "status": status,
        "created_at": "2026-01-01T00:00:00Z",
        "object_id": object_id,
        "external_message": message,
    }


ACCEPTED = {"cluster_id": "c-1", "message": "ok", "request_id": "r-1"}
RUNNING = {"message": "", "cluster_info": {"id": "c-1", "status": "RUNNING"}}


def script_create(engine: ScriptedEngine, *statuses: str) -> None:
    engine.answer("POST /cluster/create", ACCEPTED, status=202)
    engine.answer("GET /cluster/info/c-1", RUNNING)
    for status in statuses:
        engine.answer("GET /request/info/r-1", request_info(status))


async def test_an_accepted_operation_knows_its_ids(tp: TensorPool, emulator: Emulator) -> None:
    op = await tp.clusters.create("8xH100", name="one")
    assert op.resource_id in emulator.clusters
    assert op.request_id in emulator.requests
    assert op.kind is OperationKind.CLUSTER_CLAIM
    assert str(op.status) == "PENDING"
    assert op.info is not None
    assert not op.done()
    cluster = await op
    assert isinstance(cluster, Cluster)
    assert cluster.status is ClusterStatus.RUNNING
    assert cluster.id == op.resource_id
    assert op.done()
    assert op.exception() is None
    assert op.status is RequestStatus.COMPLETED


async def test_two_hundred_creates_of_one_gather_are_never_polled_early() -> None:
    async with (
        Emulator(provision_seconds=1.0, retry_after=0.25) as emulator,
        TensorPool(emulator.key, base_url=emulator.url) as tp,
    ):
        names = [f"w{index}" for index in range(200)]
        clusters = await asyncio.gather(*(tp.clusters.create("8xH100", name=name).result() for name in names))
        assert [cluster.name for cluster in clusters] == names
        assert {cluster.status for cluster in clusters} == {ClusterStatus.RUNNING}
        assert emulator.record.early_polls == 0
        assert len(emulator.record.clusters_made) == 200
        assert tp.statistics().operations == 0


async def test_creates_under_a_rate_limit_all_succeed_once() -> None:
    async with (
        Emulator(provision_seconds=1.0, retry_after=1.0, rate_limit=30.0, rate_burst=5.0) as emulator,
        TensorPool(emulator.key, base_url=emulator.url) as tp,
    ):
        clusters = await asyncio.gather(*(tp.clusters.create("8xH100").result() for _ in range(60)))
        assert len({cluster.id for cluster in clusters}) == 60
        assert len(emulator.record.clusters_made) == 60
        assert emulator.record.by_status[429] > 0, "the limit was never met, so the test shows nothing"
        assert emulator.record.early_polls == 0


@pytest.mark.parametrize(
    "kind",
    [
        FaultKind.HTML_502,
        FaultKind.CUT_JSON,
        FaultKind.CUT_BODY,
        FaultKind.DROP_BEFORE,
        FaultKind.RATE_LIMITED,
    ],
)
async def test_polls_that_fail_three_times_in_a_row_do_no_harm(kind: FaultKind) -> None:
    seconds = 0.05
    async with (
        Emulator(provision_seconds=0.05, retry_after=0.02) as emulator,
        TensorPool(emulator.key, base_url=emulator.url, polling=PollPolicy(default=0.01)) as tp,
    ):
        emulator.faults.add(Fault(kind, path="/request/info/*", times=3, seconds=seconds))
        cluster = await tp.clusters.create("8xH100").result()
        assert cluster.status is ClusterStatus.RUNNING
        assert len(emulator.record.faults) == 3


async def test_reading_the_result_may_fail_too(odd_tp: TensorPool, scripted: ScriptedEngine) -> None:
    scripted.answer("POST /cluster/create", ACCEPTED, status=202)
    scripted.answer("GET /request/info/r-1", request_info("COMPLETED"))
    scripted.answer("GET /cluster/info/c-1", "<html>", status=502)
    scripted.handle("GET /cluster/info/c-1", drop)
    scripted.answer("GET /cluster/info/c-1", {"detail": "not yet"}, status=404)
    scripted.answer("GET /cluster/info/c-1", '{"cluster_info": {"id": "c-1", "sta')
    scripted.answer("GET /cluster/info/c-1", RUNNING)
    assert (await odd_tp.clusters.create("8xH100").result()).status is ClusterStatus.RUNNING
    assert scripted.count("GET /request/info/r-1") == 1


async def test_ten_awaiters_share_one_poll_loop_and_one_may_be_cancelled(
    tp: TensorPool, emulator: Emulator
) -> None:
    op = await tp.clusters.create("8xH100")
    awaiters = [asyncio.create_task(op.result()) for _ in range(10)]
    await asyncio.sleep(0.03)
    awaiters[4].cancel()
    results = await asyncio.gather(*awaiters, return_exceptions=True)
    clusters = [result for result in results if isinstance(result, Cluster)]
    assert isinstance(results[4], asyncio.CancelledError)
    assert len(clusters) == 9
    assert all(cluster is clusters[0] for cluster in clusters)
    assert await op is clusters[0]
    assert emulator.record.early_polls == 0, "a second poll loop would come early"


async def test_cancelling_the_only_awaiter_stops_nothing_else(tp: TensorPool, emulator: Emulator) -> None:
    op = await tp.clusters.create("8xH100")
    awaiter = asyncio.create_task(op.result())
    await asyncio.sleep(0)
    awaiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await awaiter
    assert (await op).status is ClusterStatus.RUNNING
    assert len(emulator.record.living) == 1


async def test_an_operation_ends_although_nobody_waits(tp: TensorPool) -> None:
    op = await tp.clusters.create("8xH100")
    async with asyncio.timeout(5):
        while not op.done():
            await asyncio.sleep(0.01)
    assert op.exception() is None


async def test_a_failed_operation_says_why_and_carries_itself(tp: TensorPool, emulator: Emulator) -> None:
    emulator.faults.add(Fault(FaultKind.NO_CAPACITY))
    op = await tp.clusters.create("8xH100")
    with pytest.raises(OperationFailed, match="capacity") as caught:
        await op
    assert caught.value.operation is op
    assert caught.value.token == op.token
    assert op.exception() is caught.value
    assert "capacity" in caught.value.message
    with pytest.raises(OperationFailed):
        await op.result()
    revived = pickle.loads(pickle.dumps(caught.value))
    assert (revived.operation, revived.token, str(revived)) == (None, op.token, str(caught.value))


async def test_an_error_that_many_raise_keeps_a_short_traceback(tp: TensorPool, emulator: Emulator) -> None:
    emulator.faults.add(Fault(FaultKind.NO_CAPACITY))
    op = await tp.clusters.create("8xH100")
    lengths: list[int] = []
    for _ in range(5):
        with pytest.raises(OperationFailed) as caught:
            await op
        lengths.append(len(traceback.extract_tb(caught.value.__traceback__)))
    assert lengths[-1] == lengths[1]


async def test_a_timeout_ends_the_wait_and_not_the_operation(tp: TensorPool, emulator: Emulator) -> None:
    op = await tp.clusters.create("8xH100")
    with pytest.raises(OperationTimeout) as caught:
        await op.result(timeout=0.001)
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.operation is op
    with pytest.raises(OperationTimeout):
        await op.result(timeout=0)
    assert (await op.result(timeout=5)).status is ClusterStatus.RUNNING
    assert len(emulator.record.living) == 1


async def test_a_timeout_after_the_202_leaves_the_operation_alive() -> None:
    async with (
        Emulator(provision_seconds=2.0, retry_after=0.1) as emulator,
        TensorPool(emulator.key, base_url=emulator.url) as tp,
    ):
        with pytest.raises(OperationTimeout) as caught:
            await tp.clusters.create("8xH100").result(timeout=1.0)
        assert caught.value.operation is not None
        assert (await caught.value.operation).status is ClusterStatus.RUNNING


async def test_a_timeout_before_anything_was_sent_says_so(tp: TensorPool, emulator: Emulator) -> None:
    with pytest.raises(OperationTimeout, match="nothing was sent that the engine carries out") as caught:
        await tp.clusters.create("8xH100", name="unsent").result(timeout=0)
    assert caught.value.operation is None
    assert emulator.record.clusters_made == []
    assert tp.statistics().limiter.in_flight == 0


async def test_a_timeout_counts_the_wait_for_a_slot(tp: TensorPool, emulator: Emulator) -> None:
    async with AsyncExitStack() as slots:
        for _ in range(tp.limiter.max_in_flight):
            await slots.enter_async_context(tp.limiter.slot())
        with pytest.raises(OperationTimeout, match="nothing was sent"):
            await tp.clusters.create("8xH100").result(timeout=0.05)
    assert emulator.record.requests == 0


@pytest.mark.parametrize("how", ["timeout", "cancel"])
async def test_a_create_that_nobody_waits_for_is_named_once(
    how: str, scripted: ScriptedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    arrived, hang = asyncio.Event(), asyncio.Event()

    async def stall(_: web.Request) -> web.StreamResponse:
        arrived.set()
        await hang.wait()
        return web.Response()

    scripted.handle("POST /cluster/create", stall)
    async with TensorPool("scripted-key", base_url=scripted.url) as tp:
        creating = tp.clusters.create("8xH100", name="mine")
        if how == "timeout":
            with pytest.raises(OperationTimeout, match=r"was sent.* look for 'mine'"):
                await creating.result(timeout=0.3)
        else:
            task = asyncio.ensure_future(creating.result())
            await arrived.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        hang.set()
        assert tp.statistics().limiter.in_flight == 0
    (warning,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "'mine'" in warning.getMessage()


async def test_a_create_that_was_refused_before_it_was_cancelled_warns_of_nothing(
    scripted: ScriptedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    scripted.answer("POST /cluster/create", {}, status=429, headers={"Retry-After": "3"})
    async with TensorPool("scripted-key", base_url=scripted.url) as tp:
        with pytest.raises(OperationTimeout, match="nothing was sent that the engine carries out"):
            await tp.clusters.create("8xH100", name="mine").result(timeout=0.3)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_exception_before_the_end_is_an_invalid_state(tp: TensorPool) -> None:
    op = await tp.clusters.create("8xH100")
    with pytest.raises(asyncio.InvalidStateError):
        op.exception()


async def test_done_callbacks_are_called_once_with_the_operation(tp: TensorPool) -> None:
    op = await tp.clusters.create("8xH100")
    called: list[Operation[Any]] = []
    op.add_done_callback(called.append)
    op.add_done_callback(removed := called.extend)  # type: ignore[arg-type]
    assert op.remove_done_callback(removed) == 1  # type: ignore[arg-type]
    await op
    await asyncio.sleep(0)
    assert called == [op]
    op.add_done_callback(called.append)
    assert called == [op], "a callback is not called from within add_done_callback"
    await asyncio.sleep(0)
    assert called == [op, op]


async def test_refresh_asks_once_and_now(odd_tp: TensorPool, scripted: ScriptedEngine) -> None:
    scripted.answer("POST /cluster/create", ACCEPTED, status=202, headers={"Retry-After": "60"})
    scripted.answer("GET /request/info/r-1", request_info("PROCESSING", "half way"))
    scripted.answer("GET /cluster/info/c-1", RUNNING)
    async with TensorPool("scripted-key", base_url=scripted.url) as tp:
        op = await tp.clusters.create("8xH100")
        info = await op.refresh()
        assert isinstance(info, RequestInfo)
        assert info.external_message == "half way"
        assert scripted.count("GET /request/info/r-1") == 1


async def test_no_poll_comes_earlier_than_a_refresh_was_told(scripted: ScriptedEngine) -> None:
    for pace, message in (("0.1", "soon"), ("0.8", "later"), ("60", "much later")):
        scripted.answer(
            "GET /request/info/r-1", request_info("PROCESSING", message), headers={"Retry-After": pace}
        )
    loop = asyncio.get_running_loop()
    async with TensorPool("scripted-key", base_url=scripted.url) as tp:
        op = tp.operation("r-1")
        op.add_done_callback(lambda _: None)
        while not op.polls:
            await asyncio.sleep(0.005)
        assert (await op.refresh()).external_message == "later"
        refreshed_at = loop.time()
        while op.polls < 3:
            await asyncio.sleep(0.005)
        assert loop.time() - refreshed_at >= 0.75


async def test_refresh_may_end_the_operation(scripted: ScriptedEngine) -> None:
    scripted.answer("POST /cluster/create", ACCEPTED, status=202, headers={"Retry-After": "60"})
    scripted.answer("GET /request/info/r-1", request_info("FAILED", "broken"))
    async with TensorPool("scripted-key", base_url=scripted.url) as tp:
        op = await tp.clusters.create("8xH100")
        waiting = asyncio.create_task(op.result())
        await asyncio.sleep(0)
        assert (await op.refresh()).status is RequestStatus.FAILED
        with pytest.raises(OperationFailed, match="broken"):
            await waiting
        assert (await op.refresh()).status is RequestStatus.FAILED
        assert scripted.count("GET /request/info/r-1") == 1


async def test_a_refresh_that_fails_raises_and_does_no_harm(
    odd_tp: TensorPool, scripted: ScriptedEngine
) -> None:
    script_create(scripted)
    scripted.answer("GET /request/info/r-1", "<title>down</title>", status=502)
    scripted.answer("GET /request/info/r-1", request_info("COMPLETED"))
    op = await odd_tp.clusters.create("8xH100")
    with pytest.raises(ServerError, match="down") as caught:
        await op.refresh()
    assert caught.value.operation is op
    assert (await op).id == "c-1"


async def test_a_refresh_that_comes_late_is_not_taken_for_the_result(
    odd_tp: TensorPool, scripted: ScriptedEngine
) -> None:
    let_go = asyncio.Event()

    async def late(_: object) -> Any:
        await let_go.wait()
        return web.json_response(request_info("PROCESSING", "stale"))

    scripted.answer("POST /cluster/create", ACCEPTED, status=202, headers={"Retry-After": "0.2"})
    scripted.handle("GET /request/info/r-1", late)
    scripted.answer("GET /request/info/r-1", request_info("COMPLETED"))
    reading = asyncio.Event()

    async def result(_: object) -> Any:
        let_go.set()
        await reading.wait()
        return web.json_response(RUNNING)

    scripted.handle("GET /cluster/info/c-1", result)
    op = await odd_tp.clusters.create("8xH100")
    await op.refresh()
    reading.set()
    assert (await op).status is ClusterStatus.RUNNING
    assert op.status is RequestStatus.COMPLETED


async def test_updates_give_each_change_and_the_end(odd_tp: TensorPool, scripted: ScriptedEngine) -> None:
    script_create(scripted)
    for status, message in [
        ("PENDING", None),
        ("PROCESSING", "a"),
        ("PROCESSING", "a"),
        ("PROCESSING", "b"),
        ("RETRYING", "b"),
        ("NOVEL", "b"),
        ("completed", "ready"),
    ]:
        scripted.answer("GET /request/info/r-1", request_info(status, message))
    op = await odd_tp.clusters.create("8xH100")
    seen = [(str(info.status), info.external_message) async for info in op.updates()]
    assert seen == [
        ("PENDING", None),
        ("PROCESSING", "a"),
        ("PROCESSING", "b"),
        ("RETRYING", "b"),
        ("NOVEL", "b"),
        ("COMPLETED", "ready"),
    ]
    await op
    assert [str(info.status) async for info in op.updates()] == ["COMPLETED"]


async def test_a_slow_reader_of_updates_misses_the_oldest() -> None:
    queue = UpdateQueue()
    for number in range(MOST_UNREAD + 5):
        queue.put(RequestInfo(str(number), OperationKind.CLUSTER_CLAIM, RequestStatus.PENDING))
    queue.end()
    seen = [info.request_id async for info in queue]
    assert seen == [str(number) for number in range(5, MOST_UNREAD + 5)]


async def test_a_repr_is_printable_whatever_the_engine_calls_things(
    odd_tp: TensorPool, scripted: ScriptedEngine
) -> None:
    ids = {"cluster_id": "c\x1b[2J\n\u202e", "request_id": "r\x9b\r"}
    scripted.answer("POST /cluster/create", ids, status=202)
    op = await odd_tp.clusters.create("8xH100")
    assert op.resource_id == ids["cluster_id"]
    destruction = odd_tp.clusters.destroy(ids["cluster_id"])
    assert repr(op).isprintable()
    assert repr(destruction).isprintable()
    destruction.close()


async def test_updates_of_a_failure_end_without_an_exception(tp: TensorPool, emulator: Emulator) -> None:
    emulator.faults.add(Fault(FaultKind.FAILED))
    op = await tp.clusters.create("8xH100")
    statuses = [info.status async for info in op.updates()]
    assert statuses[-1] is RequestStatus.FAILED


async def test_updates_of_a_revoked_key_raise(odd_tp: TensorPool, scripted: ScriptedEngine) -> None:
    script_create(scripted)
    scripted.answer("GET /request/info/r-1", {"error": "revoked"}, status=401)
    op = await odd_tp.clusters.create("8xH100")
    with pytest.raises(AuthenticationError, match="revoked"):
        _ = [info async for info in op.updates()]


async def test_leaving_updates_early_leaves_nothing_behind(tp: TensorPool) -> None:
    op = await tp.clusters.create("8xH100")
    updates = op.updates()
    async for _ in updates:
        break
    await updates.aclose()  # type: ignore[attr-defined]
    assert (await op).status is ClusterStatus.RUNNING


@pytest.mark.parametrize(
    ("status", "error"), [(401, AuthenticationError), (403, PermissionDenied), (404, NotFound)]
)
async def test_a_lasting_refusal_ends_the_wait(
    status: int, error: type[Exception], odd_tp: TensorPool, scripted: ScriptedEngine
) -> None:
    scripted.answer("GET /request/info/r-9", {"detail": "no"}, status=status)
    op = odd_tp.operation("r-9")
    with pytest.raises(error) as caught:
        await op
    assert getattr(caught.value, "operation", None) is op


async def test_a_404_that_passes_is_waited_for(odd_tp: TensorPool, scripted: ScriptedEngine) -> None:
    script_create(scripted)
    scripted.answer("GET /request/info/r-1", {"detail": "not yet"}, status=404, times=4)
    scripted.answer("GET /request/info/r-1", request_info("COMPLETED"))
    assert (await odd_tp.clusters.create("8xH100").result()).id == "c-1"


async def test_a_request_that_is_forgotten_is_found_by_its_resource(
    odd_tp: TensorPool, scripted: ScriptedEngine
) -> None:
    scripted.answer("POST /cluster/create", ACCEPTED, status=202)
    scripted.answer("GET /cluster/info/c-1", {"cluster_info": {"id": "c-1", "status": "configuring"}})
    scripted.answer("GET /cluster/info/c-1", RUNNING)
    assert (await odd_tp.clusters.create("8xH100").result()).id == "c-1"
    assert scripted.count("GET /request/info/r-1") > 5  # 2 s pass before it is believed


async def test_the_order_of_polls_follows_the_engines_pace(
    odd_tp: TensorPool, scripted: ScriptedEngine
) -> None:
    script_create(scripted)
    scripted.answer("GET /request/info/r-1", request_info("PENDING"), headers={"Retry-After": "0.2"})
    scripted.answer("GET /request/info/r-1", request_info("COMPLETED"))
    async with TensorPool("key", base_url=scripted.url) as tp:
        op = await tp.clusters.create("8xH100")
        await op.refresh()
        begun = time.monotonic()
        await op
        assert time.monotonic() - begun >= 0.15


@pytest.mark.parametrize("no_request_ids", [False, True])
async def test_a_token_gives_the_same_result_in_another_client(no_request_ids: bool) -> None:
    async with Emulator(
        provision_seconds=0.05, destroy_seconds=0.05, retry_after=0.02, no_request_ids=no_request_ids
    ) as emulator:
        async with TensorPool(emulator.key, base_url=emulator.url) as first:
            token = (await first.clusters.create("8xH100", name="kept")).token
        assert token.isascii()
        assert emulator.key not in token
        polling = PollPolicy(default=0.01)
        async with TensorPool(emulator.key, base_url=emulator.url, polling=polling) as second:
            op: Operation[Cluster] = second.operation(token)
            assert op.kind is OperationKind.CLUSTER_CLAIM
            assert op.resource_id in emulator.clusters
            assert (op.request_id is None) is no_request_ids
            cluster = await op
            assert cluster.name == "kept"
            assert cluster.status is ClusterStatus.RUNNING
            assert await second.clusters.destroy(cluster).result() is None
            assert emulator.record.living == []


async def test_a_request_id_alone_is_enough(tp: TensorPool) -> None:
    begun = await tp.clusters.create("8xH100")
    assert begun.request_id is not None
    op = tp.operation(begun.request_id)
    assert [op.kind, op.info, str(op.status)] == [None, None, "PENDING"]
    cluster = await op
    assert isinstance(cluster, Cluster)
    assert (op.kind, op.resource_id) == (OperationKind.CLUSTER_CLAIM, cluster.id)
    destroyed = await tp.clusters.destroy(cluster)
    assert destroyed.request_id is not None
    assert await tp.operation(destroyed.request_id) is None


async def test_a_request_of_an_unknown_kind_can_be_followed(
    odd_tp: TensorPool, scripted: ScriptedEngine
) -> None:
    scripted.answer("GET /request/info/r-1", request_info("PENDING", kind="CLUSTER_TELEPORT"))
    scripted.answer("GET /request/info/r-1", request_info("COMPLETED", kind="CLUSTER_TELEPORT"))
    op = odd_tp.operation("r-1")
    assert await op is None
    assert str(op.kind) == "CLUSTER_TELEPORT"


async def test_a_bad_token_is_a_configuration_error(odd_tp: TensorPool) -> None:
    with pytest.raises(ConfigurationError):
        odd_tp.operation("tpa1.????")


def test_an_operation_can_be_made_before_the_loop_runs(capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        async with Emulator(provision_seconds=0.05, retry_after=0.02) as emulator:
            async with TensorPool(emulator.key, base_url=emulator.url) as tp:
                tokens.append((await tp.clusters.create("8xH100")).token)
            urls.append(emulator.url)
            late = TensorPool(emulator.key, base_url=emulator.url)
            op = await asyncio.to_thread(late.operation, tokens[0])
            assert (await op).status is ClusterStatus.RUNNING
            await late.aclose()

    tokens: list[str] = []
    urls: list[str] = []
    asyncio.run(main(), debug=True)


async def test_without_request_ids_a_failed_cluster_fails_its_operation() -> None:
    async with (
        Emulator(provision_seconds=0.05, retry_after=0.02, no_request_ids=True) as emulator,
        TensorPool(emulator.key, base_url=emulator.url, polling=PollPolicy(default=0.01)) as tp,
    ):
        emulator.faults.add(Fault(FaultKind.FAILED))
        op = await tp.clusters.create("8xH100")
        assert op.request_id is None
        with pytest.raises(OperationFailed):
            await op
        assert op.status is RequestStatus.FAILED


async def test_closing_the_client_wakes_who_waits(emulator: Emulator) -> None:
    tp = TensorPool(emulator.key, base_url=emulator.url)
    op = await tp.clusters.create("8xH100")
    waiting = asyncio.create_task(op.result())
    await asyncio.sleep(0.01)
    await tp.aclose()
    with pytest.raises(OperationError, match="closed") as caught:
        await waiting
    assert caught.value.token == op.token
    async with TensorPool(emulator.key, base_url=emulator.url) as other:
        assert (await other.operation(op.token)).status is ClusterStatus.RUNNING


async def test_an_operation_of_a_closed_client_says_so(emulator: Emulator) -> None:
    async with TensorPool(emulator.key, base_url=emulator.url) as tp:
        pass
    with pytest.raises(OperationError, match="closed"):
        await tp.operation("r-1")


async def test_an_operation_on_another_loop_is_refused(tp: TensorPool) -> None:
    op = await tp.clusters.create("8xH100")

    def elsewhere() -> None:
        async def wait() -> None:
            await op.result()

        asyncio.run(wait())

    with pytest.raises(WrongEventLoopError):
        await asyncio.to_thread(elsewhere)
    await op


async def test_a_bug_in_the_poller_reaches_who_waits(
    odd_tp: TensorPool, scripted: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_create(scripted, "PENDING")
    op = await odd_tp.clusters.create("8xH100")

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("tensorpool_async.operations.operation.Operation.receive", broken)
    with pytest.raises(OperationError, match="ZeroDivisionError"):
        await op


async def test_a_submission_sends_nothing_until_it_is_awaited(tp: TensorPool, emulator: Emulator) -> None:
    submission = tp.clusters.create("8xH100", name="later")
    assert submission.name == "later"
    assert "not sent" in repr(submission)
    await asyncio.sleep(0.02)
    assert emulator.record.requests == 0
    await submission
    assert "used" in repr(submission)
    with pytest.raises(RuntimeError, match="once"):
        await submission
    with pytest.raises(RuntimeError, match="once"):
        await submission.result()


async def test_a_forgotten_submission_warns_like_a_coroutine(tp: TensorPool) -> None:
    tp.clusters.create("8xH100", name="used").close()
    with pytest.warns(RuntimeWarning, match=r"forgotten.*never awaited"):
        tp.clusters.create("8xH100", name="forgotten")


async def test_a_submission_that_is_given_up_does_not_warn(tp: TensorPool, emulator: Emulator) -> None:
    submission = tp.clusters.create("8xH100")
    submission.close()
    del submission
    gc.collect()
    assert emulator.record.requests == 0


async def test_repr_tells_where_an_operation_stands(tp: TensorPool) -> None:
    op = await tp.clusters.create("8xH100")
    assert str(op.resource_id) in repr(op)
    assert "PENDING" in repr(op)
    await op
    assert "done" in repr(op)
    assert op.polls > 0
    assert op.request_ids == (op.request_id,)


async def test_a_poll_that_falls_due_as_a_worker_ends_is_not_forgotten() -> None:
    async with (
        Emulator(provision_seconds=0.02, retry_after=0.001) as emulator,
        TensorPool(emulator.key, base_url=emulator.url, polling=PollPolicy(initial=0.001, jitter=1.0)) as tp,
    ):
        for _ in range(40):
            ops = [await tp.clusters.create("8xH100") for _ in range(3)]
            await asyncio.wait_for(asyncio.gather(*ops), 5)


async def test_a_poll_that_hangs_does_not_hold_up_the_others(
    odd_tp: TensorPool, scripted: ScriptedEngine
) -> None:
    hang = asyncio.Event()

    async def stall(_: object) -> Any:
        await hang.wait()

    scripted.handle("GET /request/info/r-2", stall)
    script_create(scripted, "PENDING", "PENDING", "COMPLETED")
    stuck = odd_tp.operation("r-2")
    stuck.add_done_callback(lambda _: None)
    while not scripted.count("GET /request/info/r-2"):
        await asyncio.sleep(0.001)
    cluster = await asyncio.wait_for(odd_tp.clusters.create("8xH100").result(), 5)
    assert cluster.id == "c-1"
    assert not stuck.done()
    hang.set()
