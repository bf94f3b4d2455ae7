"""A cluster for the body of an `async with` is destroyed on the way out, whatever happens (issue: nothing is lost)."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from aiohttp import web

from tensorpool_async import (
    AmbiguousOutcomeError,
    Cluster,
    ConflictError,
    InsufficientBalance,
    OperationFailed,
    PollPolicy,
    RateLimiter,
    RetryPolicy,
    TensorPool,
)
from tensorpool_async.emulator import ClusterStatus, Emulator, Fault, FaultKind
from tensorpool_async.resources import deletion
from tensorpool_async.resources.ephemeral import Ephemeral
from tests.operations.test_operations_lost_answers import LOST, QUICK, once
from tests.support.cancelling import Means, walk
from tests.support.scripted import ScriptedEngine, drop


ROOT = Path(__file__).parents[1]
CREATE = "POST /cluster/create"
DESTROY = "DELETE /cluster/{cluster}"


@pytest.fixture
async def tp(emulator: Emulator) -> AsyncGenerator[TensorPool]:
    async with client_of(emulator) as client:
        yield client


def client_of(
    emulator: Emulator, *, retry: RetryPolicy = QUICK, limiter: RateLimiter | None = None
) -> TensorPool:
    polling = PollPolicy(initial=0.01, default=0.02)
    return TensorPool(emulator.key, base_url=emulator.url, retry=retry, polling=polling, limiter=limiter)


def nothing_is_left(emulator: Emulator, *, made: int = 1) -> None:
    record = emulator.record
    assert record.living == [], "a cluster is left, and costs money"
    assert len(record.clusters_made) == made
    assert record.made_twice == []
    # A destroy in the middle of a creation is refused by this engine (409), and carried out by a worse one.
    assert record.by_status[409] == 0, "it was to be destroyed in the middle of something"
    assert record.destroys_before_ready == 0


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.002)


async def cancelled(task: asyncio.Task[None], *, times: int = 1) -> None:
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0.005)
    with pytest.raises(asyncio.CancelledError):
        await task


def status_of(emulator: Emulator) -> ClusterStatus | None:
    """Return the status of the one cluster that there ever was."""
    return next((cluster.status for cluster in emulator.clusters.values()), None)


async def hold(ephemeral: Ephemeral, seconds: float = 30.0) -> None:
    async with ephemeral:
        await asyncio.sleep(seconds)


async def test_it_runs_in_the_body_and_is_gone_after_it(tp: TensorPool, emulator: Emulator) -> None:
    ephemeral = tp.clusters.ephemeral("8xH100", num_nodes=2)
    async with ephemeral as cluster:
        assert isinstance(cluster, Cluster)
        assert str(cluster.status) == "RUNNING"
        assert cluster.name == ephemeral.name
        assert cluster.num_nodes == 2
        assert emulator.record.living == [cluster.id]
        assert ephemeral.operation is not None
        assert ephemeral.operation.resource_id == cluster.id
    nothing_is_left(emulator)
    with pytest.raises(RuntimeError, match="entered once"):
        await hold(ephemeral)
    nothing_is_left(emulator)


async def test_the_error_of_the_body_goes_on(tp: TensorPool, emulator: Emulator) -> None:
    error = ValueError("of the body")
    with pytest.raises(ValueError, match="of the body") as caught:
        async with tp.clusters.ephemeral("8xH100", name="mine"):
            raise error
    assert caught.value is error
    assert not hasattr(error, "__notes__")
    nothing_is_left(emulator)


async def test_nothing_is_sent_that_is_cancelled_while_it_queues(emulator: Emulator) -> None:
    limiter = RateLimiter(max_in_flight=1)
    async with client_of(emulator, limiter=limiter) as tp:
        async with limiter.slot():
            task = asyncio.create_task(hold(tp.clusters.ephemeral("8xH100")))
            await until(lambda: limiter.statistics().waiting[0])
            await cancelled(task)
        assert limiter.statistics().in_flight == 0
        await tp.clusters.list()  # the slot is free
    assert emulator.record.by_route[CREATE] == 0
    assert emulator.record.by_route[DESTROY] == 0


async def test_nothing_is_sent_where_another_create_of_the_name_is_under_way(
    odd_tp: TensorPool, scripted: ScriptedEngine
) -> None:
    release = asyncio.Event()

    async def refuse_late(_: web.Request) -> web.Response:
        await release.wait()
        return web.json_response({"message": "too little"}, status=402)

    scripted.handle(CREATE, refuse_late)
    first = asyncio.create_task(odd_tp.clusters.create("8xH100", name="mine").result())
    await until(lambda: scripted.count(CREATE))
    await cancelled(asyncio.create_task(hold(odd_tp.clusters.ephemeral("8xH100", name="mine"))))
    release.set()
    with pytest.raises(InsufficientBalance):
        await first
    assert scripted.count(CREATE) == 1


async def test_a_cancelled_creation_in_flight_is_waited_for_and_undone() -> None:
    async with (
        Emulator(provision_seconds=0.1, destroy_seconds=0.02, retry_after=0.02, latency=0.1) as emulator,
        client_of(emulator) as tp,
    ):
        task = asyncio.create_task(hold(tp.clusters.ephemeral("8xH100")))
        await until(lambda: emulator.record.by_route[CREATE])
        assert emulator.record.living == [], "the engine has answered already, so the test shows nothing"
        await cancelled(task)
        nothing_is_left(emulator)


@pytest.mark.parametrize("times", [1, 3])
async def test_cancelled_while_it_is_provisioning(times: int, tp: TensorPool, emulator: Emulator) -> None:
    task = asyncio.create_task(hold(tp.clusters.ephemeral("8xH100")))
    await until(lambda: status_of(emulator) is ClusterStatus.CONFIGURING)
    await cancelled(task, times=times)
    nothing_is_left(emulator)


@pytest.mark.parametrize("times", [1, 3])
async def test_cancelled_in_the_body(times: int, tp: TensorPool, emulator: Emulator) -> None:
    task = asyncio.create_task(hold(tp.clusters.ephemeral("8xH100")))
    await until(lambda: status_of(emulator) is ClusterStatus.RUNNING)
    await cancelled(task, times=times)
    nothing_is_left(emulator)


async def test_cancelled_twice_on_the_way_out(tp: TensorPool, emulator: Emulator) -> None:
    task = asyncio.create_task(hold(tp.clusters.ephemeral("8xH100"), seconds=0))
    await until(lambda: status_of(emulator) is ClusterStatus.DESTROYING)
    await cancelled(task, times=2)
    nothing_is_left(emulator)


@pytest.mark.parametrize("seconds", [0.0, 0.02, 0.12])
async def test_a_timeout_around_it(seconds: float, tp: TensorPool, emulator: Emulator) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(seconds):
            await hold(tp.clusters.ephemeral("8xH100"))
    nothing_is_left(emulator, made=len(emulator.record.clusters_made))


@pytest.mark.parametrize("seconds", [0.02, 0.15])
async def test_a_cancel_scope_around_it(seconds: float, tp: TensorPool, emulator: Emulator) -> None:
    with anyio.move_on_after(seconds) as scope:
        await hold(tp.clusters.ephemeral("8xH100"))
    assert scope.cancelled_caught
    nothing_is_left(emulator)


@pytest.mark.parametrize("in_body", [True, False])
async def test_a_cancel_scope_does_not_keep_the_loop_busy(
    in_body: bool, tp: TensorPool, emulator: Emulator
) -> None:
    emulator.faults.add(Fault(FaultKind.STALL, method="POST" if not in_body else "DELETE", seconds=0.6))
    began, cpu = time.monotonic(), time.thread_time()
    with anyio.CancelScope() as scope:
        task = asyncio.create_task(until(lambda: emulator.record.by_route[CREATE]))
        if in_body:
            async with tp.clusters.ephemeral("8xH100"):
                scope.cancel()
                began, cpu = time.monotonic(), time.thread_time()
                await asyncio.sleep(30)
        else:
            task.add_done_callback(lambda _: scope.cancel())
            await hold(tp.clusters.ephemeral("8xH100"))
    # An interruption that is delivered again and again takes a turn of the loop each time.
    took, busy = time.monotonic() - began, time.thread_time() - cpu
    assert took > 0.6
    assert busy < took / 2, f"{busy:.2f} s of CPU in {took:.2f} s"
    nothing_is_left(emulator)


@pytest.mark.parametrize("kind", LOST)
async def test_lost_answers_on_the_way_in_and_out(
    kind: FaultKind, tp: TensorPool, emulator: Emulator
) -> None:
    emulator.faults.add(once(kind, "/cluster/create", times=2))
    async with tp.clusters.ephemeral("8xH100", deletion_protection=True) as cluster:
        assert emulator.record.living == [cluster.id]
        emulator.faults.add(once(kind, "/cluster/edit/*", method="PATCH"))
        emulator.faults.add(once(kind, "/cluster/c-*", method="DELETE", times=2))
    assert len(emulator.record.faults) >= 4
    assert emulator.record.living == []
    assert len(emulator.record.clusters_made) == 1


@pytest.mark.parametrize("kind", LOST[::2])
async def test_cancelled_while_lost_answers_are_looked_for(
    kind: FaultKind, tp: TensorPool, emulator: Emulator
) -> None:
    emulator.faults.add(once(kind, "/cluster/create", times=2))
    task = asyncio.create_task(hold(tp.clusters.ephemeral("8xH100")))
    await until(lambda: emulator.record.faults)
    await cancelled(task)
    assert emulator.record.living == []
    assert len(emulator.record.clusters_made) <= 1


async def test_an_unclear_creation_is_told_to_who_was_cancelled(
    odd_tp: TensorPool, scripted: ScriptedEngine
) -> None:
    scripted.handle(CREATE, drop)
    scripted.answer("GET /cluster/info/mine", "down", status=502)
    task = asyncio.create_task(hold(odd_tp.clusters.ephemeral("8xH100", name="mine")))
    await until(lambda: scripted.count(CREATE))
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert "look for 'mine'" in "".join(caught.value.__notes__)


async def test_an_unclear_creation_is_raised(odd_tp: TensorPool, scripted: ScriptedEngine) -> None:
    scripted.handle(CREATE, drop)
    scripted.answer("GET /cluster/info/mine", "down", status=502)
    with pytest.raises(AmbiguousOutcomeError) as caught:
        await hold(odd_tp.clusters.ephemeral("8xH100", name="mine"))
    assert caught.value.name == "mine"


async def test_what_was_told_to_come_later_does_not_come_once_it_is_cancelled(
    tp: TensorPool, emulator: Emulator
) -> None:
    emulator.faults.add(Fault(FaultKind.RATE_LIMITED, method="POST", path="/cluster/create", seconds=0.3))
    task = asyncio.create_task(hold(tp.clusters.ephemeral("8xH100")))
    await until(lambda: emulator.record.faults)
    await cancelled(task)
    assert emulator.record.by_route[CREATE] == 1
    nothing_is_left(emulator, made=0)


@pytest.mark.parametrize("kind", [FaultKind.DROP_AFTER, FaultKind.CUT_JSON])
async def test_what_may_have_been_made_is_found_out_also_where_it_is_told_to_come_later(
    kind: FaultKind, tp: TensorPool, emulator: Emulator
) -> None:
    emulator.faults.add(Fault(FaultKind.LIST_LAG, times=None, seconds=0.3))
    emulator.faults.add(once(kind, "/cluster/create"))
    emulator.faults.add(
        Fault(FaultKind.RATE_LIMITED, method="POST", path="/cluster/create", after=1, seconds=0.1)
    )
    task = asyncio.create_task(hold(tp.clusters.ephemeral("8xH100")))
    await until(lambda: emulator.record.by_status[429])
    await cancelled(task)
    assert emulator.record.living == []
    assert len(emulator.record.clusters_made) == 1


@pytest.mark.parametrize("kind", [FaultKind.FAILED, FaultKind.NO_CAPACITY])
async def test_a_cluster_that_failed_is_destroyed(
    kind: FaultKind, tp: TensorPool, emulator: Emulator
) -> None:
    emulator.faults.add(Fault(kind, method="POST", path="/cluster/create"))
    with pytest.raises(OperationFailed) as caught:
        await hold(tp.clusters.ephemeral("8xH100"))
    assert ("No capacity" if kind is FaultKind.NO_CAPACITY else "provider error") in str(caught.value)
    nothing_is_left(emulator)


async def test_a_refused_creation_leaves_nothing(tp: TensorPool, emulator: Emulator) -> None:
    emulator.balance = 1.0
    with pytest.raises(InsufficientBalance):
        await hold(tp.clusters.ephemeral("8xH100"))
    nothing_is_left(emulator, made=0)
    assert emulator.record.by_route[DESTROY] == 0


async def test_a_cluster_of_that_name_that_was_there_before_is_left_alone(
    tp: TensorPool, emulator: Emulator
) -> None:
    theirs = await tp.clusters.create("8xH100", name="mine").result()
    with pytest.raises(ConflictError):
        await hold(tp.clusters.ephemeral("8xH100", name="mine"))
    assert emulator.record.living == [theirs.id]


@pytest.mark.parametrize("waits", [True, False])
async def test_the_body_may_destroy_it_itself(waits: bool, tp: TensorPool, emulator: Emulator) -> None:
    async with tp.clusters.ephemeral("8xH100") as cluster:
        operation = await tp.clusters.destroy(cluster)
        if waits:
            await operation
    assert emulator.record.living == []
    assert len(emulator.record.clusters_made) == 1


async def test_its_protection_is_switched_off_on_the_way_out(tp: TensorPool, emulator: Emulator) -> None:
    async with tp.clusters.ephemeral("8xH100", deletion_protection=True) as cluster:
        assert cluster.deletion_protection
        with pytest.raises(ConflictError):
            await tp.clusters.destroy(cluster)
    assert emulator.record.living == []


@asynccontextmanager
async def protected(tp: TensorPool, *, timeout: float = 60.0) -> AsyncGenerator[Cluster]:
    """Give a cluster that cannot be destroyed: the body has protected it."""
    async with tp.clusters.ephemeral("8xH100", cleanup_timeout=timeout) as cluster:
        await tp.clusters.edit(cluster, deletion_protection=True).result()
        yield cluster


def complains(error: BaseException, cluster_id: str) -> bool:
    return f"({cluster_id}) could not be destroyed, and costs money" in "".join(error.__notes__)


async def test_a_refused_destroy_is_raised_or_told_with_the_error_of_the_body(
    tp: TensorPool, caplog: pytest.LogCaptureFixture
) -> None:
    ids: list[str] = []

    async def body(work: Awaitable[object]) -> None:
        async with protected(tp) as cluster:
            ids.append(cluster.id)
            await work

    async def fail() -> None:
        raise ValueError("of the body")

    with pytest.raises(ConflictError, match="deletion protection") as caught:
        await body(asyncio.sleep(0))
    assert complains(caught.value, ids[0])
    with pytest.raises(ValueError, match="of the body") as of_body:
        await body(fail())
    assert complains(of_body.value, ids[1])
    task = asyncio.create_task(body(asyncio.sleep(30)))
    await until(lambda: len(ids) == 3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as of_cancelled:
        await task
    assert complains(of_cancelled.value, ids[2])
    assert len([record for record in caplog.records if "costs money" in record.message]) == 3


@pytest.mark.parametrize("error", [None, ValueError("of the body")])
async def test_the_way_out_has_a_deadline(
    error: ValueError | None, tp: TensorPool, emulator: Emulator
) -> None:
    async def body() -> None:
        async with tp.clusters.ephemeral("8xH100", cleanup_timeout=0.05):
            emulator.faults.add(Fault(FaultKind.STALL, method="DELETE", seconds=5.0))
            if error is not None:
                raise error

    with pytest.raises(TimeoutError if error is None else ValueError) as caught:
        await body()
    assert complains(caught.value, emulator.record.living[0])


WALKED: list[tuple[Means, int | None]] = [
    ("task", None),
    ("timeout", None),
    ("scope", None),
    ("task", 1),
    ("task", 3),
]


@pytest.mark.parametrize(("by", "again"), WALKED)
async def test_cancelled_at_every_await_nothing_is_left(by: Means, again: int | None) -> None:
    async with Emulator(provision_seconds=0.02, destroy_seconds=0.01, retry_after=0.01) as emulator:

        async def scenario() -> None:
            async with client_of(emulator) as tp, tp.clusters.ephemeral("8xH100"):
                await asyncio.sleep(0)

        walked = await walk(scenario, checker(emulator), by=by, again=again)
        print(f"{walked} suspensions walked by {by}, again after {again}")  # noqa: T201 - shown by pytest -s
        assert walked > 12
        nothing_is_left(emulator, made=len(emulator.record.clusters_made))


async def test_cancelled_at_every_await_with_lost_answers_nothing_is_left() -> None:
    async with Emulator(
        provision_seconds=0.02, destroy_seconds=0.01, edit_seconds=0.01, retry_after=0.01
    ) as emulator:

        async def scenario() -> None:
            emulator.faults.clear()
            emulator.faults.add(
                Fault(FaultKind.LIST_LAG, times=None, seconds=0.01),
                once(FaultKind.CUT_JSON, "/cluster/create"),
                once(FaultKind.DROP_AFTER, "/cluster/c-*", method="DELETE"),
            )
            async with client_of(emulator) as tp, tp.clusters.ephemeral("8xH100", deletion_protection=True):
                await asyncio.sleep(0)

        walked = await walk(scenario, checker(emulator))
        print(f"{walked} suspensions walked with lost answers")  # noqa: T201 - as above
        assert walked > 20


async def test_cancelled_at_every_await_with_a_journal_nothing_is_left(tmp_path: Path) -> None:
    journal = tmp_path / "journal.db"
    async with Emulator(provision_seconds=0.02, destroy_seconds=0.01, retry_after=0.01) as emulator:

        async def scenario() -> None:
            async with (
                TensorPool(
                    emulator.key,
                    base_url=emulator.url,
                    retry=QUICK,
                    polling=PollPolicy(initial=0.01),
                    journal=journal,
                ) as tp,
                tp.clusters.ephemeral("8xH100"),
            ):
                await asyncio.sleep(0)

        walked = await walk(scenario, checker(emulator), again=2)
        print(f"{walked} suspensions walked with a journal")  # noqa: T201 - as above
        assert walked > 18
        async with TensorPool(emulator.key, base_url=emulator.url, retry=QUICK, journal=journal) as tp:
            assert await tp.recover() == []
            assert await tp.leftovers() == []


def checker(emulator: Emulator) -> Callable[[int], Awaitable[None]]:
    async def check(_: int) -> None:
        assert emulator.record.living == [], "a cluster is left, and costs money"
        assert emulator.record.made_twice == []
        assert emulator.record.destroys_before_ready == 0

    return check


PROGRAM = """
import asyncio, signal, sys
from tensorpool_async import PollPolicy, TensorPool

async def main(key, url, journal):
    async with TensorPool(key, base_url=url, polling=PollPolicy(initial=0.01), journal=journal) as tp:
        async with tp.clusters.ephemeral("8xH100") as cluster:
            print("running", flush=True)
            await asyncio.sleep(60)

signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs in the background inherits that it is ignored
print("begun", flush=True)
asyncio.run(main(*sys.argv[1:3], sys.argv[3] if len(sys.argv) > 3 else None))
"""


async def start(emulator: Emulator, *more: object) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        emulator.key,
        emulator.url,
        *map(str, more),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


async def test_control_c_leaves_nothing() -> None:
    async def interrupt(*moments: ClusterStatus) -> None:
        async with Emulator(provision_seconds=0.5, destroy_seconds=0.05, retry_after=0.05) as emulator:
            process = await start(emulator)
            await until(lambda: status_of(emulator) in moments)
            process.send_signal(signal.SIGINT)
            _, errors = await asyncio.wait_for(process.communicate(), 20)
            assert process.returncode == -signal.SIGINT
            assert b"KeyboardInterrupt" in errors
            nothing_is_left(emulator)

    await asyncio.gather(
        interrupt(ClusterStatus.PENDING, ClusterStatus.PROVISIONING),
        interrupt(ClusterStatus.CONFIGURING, ClusterStatus.RUNNING),
        interrupt(ClusterStatus.RUNNING),
    )


async def test_control_c_twice_ends_at_once_and_the_journal_knows_what_is_left(tmp_path: Path) -> None:
    journal = tmp_path / "journal.db"
    async with Emulator(provision_seconds=1.0, destroy_seconds=0.02, retry_after=0.05) as emulator:
        process = await start(emulator, journal)
        await until(lambda: status_of(emulator) is ClusterStatus.PROVISIONING)
        process.send_signal(signal.SIGINT)
        await asyncio.sleep(0.1)
        assert process.returncode is None, "it waits for the end of the creation"
        process.send_signal(signal.SIGINT)
        await asyncio.wait_for(process.communicate(), 20)
        assert process.returncode != 0
        assert emulator.record.by_route[DESTROY] == 0
        async with TensorPool(
            emulator.key,
            base_url=emulator.url,
            retry=QUICK,
            polling=PollPolicy(default=0.02),
            journal=journal,
        ) as tp:
            (leftover,) = await tp.leftovers()
            assert [leftover.resource_id] == emulator.record.living
            assert await tp.reap(leftover)
        nothing_is_left(emulator)


async def test_an_outage_on_the_way_out_is_waited_out(
    tp: TensorPool, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deletion, "RETRY_DELAY", 0.02)
    async with tp.clusters.ephemeral("8xH100") as cluster:
        path = f"/cluster/{cluster.id}"
        emulator.faults.add(Fault(FaultKind.ERROR_500, method="DELETE", path=path, times=12))
    assert emulator.record.by_status[500] == 12
    assert emulator.record.living == []
