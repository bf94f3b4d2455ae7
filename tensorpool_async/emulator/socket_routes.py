"""The two WebSockets: push a job, and listen to one."""

import asyncio
from collections.abc import Sequence
from typing import Any

from tensorpool_async.emulator.answers import Refusal
from tensorpool_async.emulator.cluster import Cluster, ClusterStatus
from tensorpool_async.emulator.engine import Engine
from tensorpool_async.emulator.faults import FaultKind
from tensorpool_async.emulator.job import Job, JobStatus
from tensorpool_async.emulator.job_config import ConfigError, JobConfig, read
from tensorpool_async.emulator.job_routes import harmless_rsync
from tensorpool_async.emulator.wire import POLICY, HungUp, Wire


NORMAL = 1000
INTERNAL = 1011
# Lines that come closer than this are sent together.
TICK = 0.01


class _Unfit(Exception):
    """The push cannot be accepted, and why."""


async def push(engine: Engine, wire: Wire) -> None:
    if not await wire.greeted():
        await wire.close(POLICY, "Invalid API key")
        return
    asked = await wire.hear()
    try:
        config, cluster, teardown = _understood(engine, asked)
    except (_Unfit, ConfigError) as error:
        await wire.say(message=str(error))
        await wire.close(POLICY, str(error))
        return
    job = engine.jobs.push(config, cluster, teardown=teardown)
    try:
        await _upload(engine, wire, job, config)
    except BaseException:
        engine.jobs.fail(job, "The connection was lost during the upload")
        raise


def _understood(engine: Engine, asked: dict[str, Any]) -> tuple[JobConfig, Cluster, bool]:
    text, cluster_id, teardown = (
        asked.get("tp_config"),
        asked.get("cluster_id"),
        asked.get("teardown_cluster", False),
    )
    if not isinstance(text, str) or not isinstance(cluster_id, str) or not isinstance(teardown, bool):
        raise _Unfit("tp_config and cluster_id must be strings, teardown_cluster a boolean")
    config = read(text)
    try:
        cluster = engine.clusters.find(cluster_id)
    except Refusal:
        raise _Unfit(f"Cluster {cluster_id} not found") from None
    if cluster.status is not ClusterStatus.RUNNING:
        raise _Unfit(f"Cluster {cluster.id} is {cluster.status}, not RUNNING")
    return config, cluster, teardown


async def _upload(engine: Engine, wire: Wire, job: Job, config: JobConfig) -> None:
    if wire.scope.take(FaultKind.DROP_AFTER):
        wire.cut()
    await wire.say(job_id=job.id, message=f"Job {job.id} was created, uploading")
    if wire.scope.take(FaultKind.CUT_BODY):
        wire.cut()
    commands = engine.push_commands
    if commands is None:
        commands = [harmless_rsync(ignore=tuple(config.ignore))]
    if await _obeyed(wire, job, commands):
        engine.jobs.uploaded(job, wire.scope)
        await wire.say(message=f"Job {job.id} was submitted")
        await wire.close(NORMAL, "")
    else:
        engine.jobs.fail(job, "The upload failed")
        await wire.close(INTERNAL, "The upload failed")


async def _obeyed(wire: Wire, job: Job, commands: Sequence[str | None]) -> bool:
    """Whether the client ran all of them with success; one that failed ends the push."""
    for command in commands:
        await wire.say(command=command, command_show_stdout=True)
        if not command:
            continue
        result = await wire.hear()
        job.results.append(result)
        if result.get("type") != "command_result" or result.get("command") != command:
            await wire.close(POLICY, "Expected the result of the command")
            raise HungUp
        if result.get("exit_code") != 0:
            return False
    return True


async def listen(engine: Engine, wire: Wire) -> None:
    try:
        if not await wire.greeted():
            await _refuse(wire, "Invalid API key")
            return
        job = engine.jobs.find(wire.argument)
    except Refusal as refusal:
        await _refuse(wire, str(refusal.answer.body["detail"]))
        return
    reader = asyncio.create_task(wire.drain())
    writer = asyncio.create_task(_tell(engine, wire, job))
    try:
        await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        reader.cancel()
        writer.cancel()
        ended = await asyncio.gather(reader, writer, return_exceptions=True)
    for outcome in ended:
        if isinstance(outcome, Exception) and not isinstance(outcome, HungUp):
            raise outcome
    await wire.close(NORMAL, "")


async def _refuse(wire: Wire, reason: str) -> None:
    await wire.say(status="error", message=reason)
    await wire.close(POLICY, reason)


async def _tell(engine: Engine, wire: Wire, job: Job) -> None:
    cut = wire.scope.take(FaultKind.DROP_AFTER, FaultKind.CUT_BODY)
    told = 0
    while True:
        now = engine.clock.now()
        changed, done, printed = job.changed, job.done, job.printed(now)
        for line in job.lines[told:printed]:
            if cut and told >= len(job.lines) // 2:
                wire.cut()
            await wire.say(message=line)
            told += 1
        if done:
            break
        await _wait(changed, job.until_next(told, engine.clock.now()))
    if cut:
        wire.cut()
    await _finish(wire, job)


async def _wait(changed: asyncio.Event, seconds: float | None) -> None:
    try:
        async with asyncio.timeout(None if seconds is None else max(TICK, seconds)):
            await changed.wait()
    except TimeoutError:
        pass


async def _finish(wire: Wire, job: Job) -> None:
    match job.status:
        case JobStatus.COMPLETED:
            await wire.say(status="success")
        case JobStatus.ERROR:
            await wire.say(status="error", message=f"Job {job.id} ended with exit code {job.exit_code}")
        case _:
            await wire.say(status="error", message=job.public_message or f"Job {job.id} is {job.status}")
