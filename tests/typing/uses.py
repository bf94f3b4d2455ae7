"""Typed uses of the public API. Nothing here runs: mypy and pyright check it, in `nox -s types`.

What a user writes must need no cast, and what comes out must be as exact as the docstrings say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, assert_type

from tensorpool_async import (
    BudgetExceeded,
    Cluster,
    ClusterStatus,
    FleetError,
    Health,
    Job,
    JournalEntry,
    Leftover,
    LimiterStatistics,
    Operation,
    OperationFailed,
    OperationKind,
    OperationTimeout,
    PollPolicy,
    PulledFile,
    Quote,
    RateLimited,
    RateLimiter,
    RequestInfo,
    RequestStatus,
    RetryPolicy,
    SSHKey,
    Statistics,
    StatusError,
    StorageVolume,
    Submission,
    TensorPool,
    TensorPoolError,
    Timeouts,
)
from tensorpool_async.emulator import Emulator, Fault, FaultKind
from tensorpool_async.errors import OperationHandle
from tensorpool_async.fleet import (
    ClusterGroup,
    Fleet,
    FleetIncomplete,
    FleetMembers,
    FleetReport,
    FleetSession,
    MemberReport,
    Plan,
    load,
)
from tensorpool_async.flow import Limiter
from tensorpool_async.redis import RedisRateLimiter
from tensorpool_async.testing import ThreadedEmulator, assert_nothing_left


async def clients() -> None:
    limiter = RateLimiter(max_in_flight=8, max_per_second=50)
    TensorPool("key", limiter=limiter, retry=RetryPolicy(attempts=3), polling=PollPolicy(default=1.0))
    TensorPool(base_url="http://127.0.0.1:8787", timeouts=Timeouts(read=60.0), journal=Path("journal.db"))
    async with TensorPool(journal="journal.db") as tp:
        assert_type(tp, TensorPool)
        assert_type(tp.limiter, Limiter)
        assert_type(tp.statistics(), Statistics)
        assert_type(tp.limiter.statistics(), LimiterStatistics)
        assert_type(await tp.health(), Health)


async def clusters(tp: TensorPool) -> None:
    submission = tp.clusters.create("8xH100", name="trainer", num_nodes=2, ttl=3600)
    assert_type(submission, Submission[Cluster])
    assert_type(submission.name, str | None)
    operation = await submission
    assert_type(operation, Operation[Cluster])
    cluster = await operation
    assert_type(cluster, Cluster)
    assert_type(cluster.status, ClusterStatus | None)
    assert_type(cluster.ip_address, str | None)
    assert_type(await tp.clusters.create("1xH100").result(timeout=600), Cluster)

    assert_type(tp.clusters.ensure("shared", "1xH100"), Submission[Cluster])
    async with tp.clusters.ephemeral("1xH100", cleanup_timeout=60) as scratch:
        assert_type(scratch, Cluster)

    assert_type(tp.clusters.edit(cluster, name="other"), Submission[Cluster])
    assert_type(tp.clusters.destroy(cluster), Submission[None])
    assert_type(await tp.clusters.destroy("c-1"), Operation[None])
    assert_type(await tp.clusters.get("c-1"), Cluster)
    assert_type(await tp.clusters.list(organization=True), list[Cluster])
    assert_type(await tp.clusters.quote("8xB200", 2), Quote)
    assert_type(await tp.clusters.operations(cluster, kind=OperationKind.CLUSTER_EDIT), list[RequestInfo])


async def side_by_side(tp: TensorPool) -> None:
    made = await asyncio.gather(*(tp.clusters.create("8xH100", name=f"w{i}").result() for i in range(20)))
    assert_type(made, list[Cluster])


async def operations(tp: TensorPool, operation: Operation[Cluster]) -> None:
    assert_type(operation.kind, OperationKind | None)
    assert_type(operation.resource_id, str | None)
    assert_type(operation.request_id, str | None)
    assert_type(operation.status, RequestStatus)
    assert_type(operation.token, str)
    assert_type(operation.done(), bool)
    assert_type(operation.exception(), TensorPoolError | None)
    assert_type(await operation.refresh(), RequestInfo)
    assert_type(await operation.result(timeout=1.0), Cluster)
    async for info in operation.updates():
        assert_type(info, RequestInfo)
        assert_type(info.external_message, str | None)

    def ended(operation: Operation[Cluster]) -> None:
        assert_type(operation.done(), bool)

    operation.add_done_callback(ended)
    assert_type(tp.operation("a token or a request id"), Operation[Any])


async def after_a_crash(tp: TensorPool) -> None:
    assert_type(await tp.recover(), list[Operation[Any]])
    assert_type(await tp.journal_entries(ended=True), list[JournalEntry])
    leftovers = await tp.leftovers(older=7200)
    assert_type(leftovers, list[Leftover])
    assert_type(leftovers[0].hourly_rate, float | None)
    assert_type(await tp.reap(leftovers[0]), bool)


async def other_resources(tp: TensorPool, cluster: Cluster) -> None:
    volume = await tp.storage.create(500, name="data").result()
    assert_type(volume, StorageVolume)
    assert_type(tp.storage.attach(volume, cluster), Submission[StorageVolume])
    assert_type(await tp.storage.list(), list[StorageVolume])
    job = await tp.jobs.push(Path("job.tp.toml"), cluster, commands=lambda text: ["upload", text])
    assert_type(job, Job)
    async for line in tp.jobs.listen(job):
        assert_type(line, str)
    assert_type(tp.jobs.cancel(job), Submission[Job])
    assert_type(await tp.jobs.pull(job, to=Path("results")), list[PulledFile])
    assert_type(await tp.ssh.keys.list(), list[SSHKey])
    assert_type(await tp.ssh.command("i-1"), list[str])


async def fleets(tp: TensorPool) -> None:
    fleet = Fleet(name="sweep", clusters=[ClusterGroup("trainer", ["8xB200", "8xH200"], count=4)])
    assert_type(load("fleet.toml"), Fleet)
    session = tp.fleet(fleet)
    assert_type(session, FleetSession)
    assert_type(await session.plan(), Plan)
    assert_type(await session.up(), FleetReport)
    assert_type(await session.status(), FleetReport)
    assert_type((await session.down()).members, tuple[MemberReport, ...])
    async with tp.fleet("fleet.toml", on_failure="keep", min_ready=3, rollback_timeout=60) as members:
        assert_type(members, FleetMembers)
        assert_type(members[0], Cluster)
        assert_type(members["sweep-trainer-0"], Cluster)
        assert_type(members[1:], tuple[Cluster, ...])
        assert_type(members.group("trainer"), list[Cluster])
        assert_type(members.volumes, Mapping[str, StorageVolume])
    async with FleetSession(tp, fleet) as members:
        for cluster in members:
            assert_type(cluster, Cluster)


async def errors(tp: TensorPool) -> None:
    try:
        await tp.fleet("fleet.toml").up()
    except BudgetExceeded as error:
        assert_type(error.hourly_cost, float | None)
        assert_type(error.limit, float)
    except FleetIncomplete as error:
        assert_type(error.report, FleetReport)
        assert_type(error.exceptions, tuple[Exception | ExceptionGroup[Exception], ...])
    except FleetError as error:
        assert_type(error.members, Mapping[str, str])
    except OperationFailed as error:
        assert_type(error.message, str)
        assert_type(error.operation, OperationHandle | None)
    except OperationTimeout as error:
        assert_type(error.token, str | None)
    except RateLimited as error:
        assert_type(error.retry_after, float | None)
    except StatusError as error:
        assert_type(error.status, int)
        assert_type(error.headers, dict[str, str])


async def shared_limits(tp: TensorPool) -> None:
    async with RateLimiter().slot():
        pass
    async with RedisRateLimiter("redis://localhost", key="training", max_per_second=100) as limiter:
        assert_type(limiter.statistics(), LimiterStatistics)
        TensorPool(limiter=limiter)


async def an_engine_to_test_against() -> None:
    async with Emulator(capacity={"8xB200": 2}, faults=[Fault(FaultKind.DROP_AFTER)]) as engine:
        assert_type(engine.url, str)
        assert_type(engine.record.living, list[str])
    with ThreadedEmulator(provision_seconds=0.1) as threaded:
        assert_type(threaded.environment, dict[str, str])
        assert_nothing_left(threaded)
