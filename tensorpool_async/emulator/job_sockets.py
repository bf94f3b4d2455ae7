"""The two WebSockets: push a job, and listen to one."""

import asyncio
import hmac
import json
from collections.abc import Sequence
from typing import Any, cast

import attrs
from aiohttp import WSMessage, WSMsgType, web

from tensorpool_async.emulator.clusters import Cluster, ClusterStatus, ClusterStore
from tensorpool_async.emulator.engine import Engine
from tensorpool_async.emulator.exchange import Exchange, parse_json
from tensorpool_async.emulator.faults import FaultKind
from tensorpool_async.emulator.job_config import ConfigError, JobConfig, read
from tensorpool_async.emulator.jobs import Job, JobStatus, JobStore, harmless_rsync
from tensorpool_async.emulator.limits import MAX_NAME
from tensorpool_async.emulator.responses import Refusal


NORMAL, POLICY, INTERNAL = 1000, 1008, 1011
SECONDS_TO_AUTHENTICATE = 10.0
# A close frame holds at most this many bytes of a reason.
MAX_REASON = 123
# Lines that come closer than this (seconds) are sent together.
TICK = 0.01
# Other tasks run after so many lines, also where the client reads as fast as the lines come.
LINES_AT_ONCE = 100


class Disconnected(Exception):
    """The client is gone, or it broke the protocol and was told so."""


@attrs.frozen
class JobSocket:
    """A WebSocket that was accepted. Its key is not checked yet."""

    socket: web.WebSocketResponse
    exchange: Exchange
    key: str

    async def receive(self) -> dict[str, Any]:
        """The next message. Raises Disconnected."""
        message: WSMessage = await self.socket.receive()
        if message.type is not WSMsgType.TEXT:
            raise Disconnected
        try:
            value = parse_json(message.data)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            await self.close(POLICY, "Expected a JSON object")
            raise Disconnected
        return cast("dict[str, Any]", value)

    async def send(self, **fields: Any) -> None:
        """Raises Disconnected when the client is gone."""
        try:
            await self.socket.send_str(json.dumps(fields, separators=(",", ":")))
        except ConnectionError:
            raise Disconnected from None

    async def authenticate(self) -> bool:
        """Whether the first message has the right key. Raises Disconnected when no message comes."""
        try:
            async with asyncio.timeout(SECONDS_TO_AUTHENTICATE):
                first = await self.receive()
        except TimeoutError:
            await self.close(POLICY, "No key was sent")
            raise Disconnected from None
        given = first.get("TENSORPOOL_KEY")
        return isinstance(given, str) and hmac.compare_digest(
            given.encode("utf-8", "surrogatepass"), self.key.encode()
        )

    async def drain(self) -> None:
        """Read until the client leaves. aiohttp answers pings only while somebody reads."""
        while (await self.socket.receive()).type not in {
            WSMsgType.CLOSE,
            WSMsgType.CLOSING,
            WSMsgType.CLOSED,
            WSMsgType.ERROR,
        }:
            pass

    async def close(self, code: int, reason: str) -> None:
        """Close with as much of the reason as fits, cut between two characters."""
        cut = reason.encode("utf-8", "replace")[:MAX_REASON].decode("utf-8", "ignore")
        await self.socket.close(code=code, message=cut.encode())

    def cut(self) -> None:
        """Break the connection without a close frame. Clients see the code 1006."""
        if self.exchange.request.transport is not None:
            self.exchange.request.transport.abort()
        raise Disconnected


class _Rejected(Exception):
    """The push cannot be accepted. The message says why."""


@attrs.define(eq=False)
class JobSockets:
    """The WebSockets under /job.

    Attributes:
        push_commands: The commands that the next pushes ask their client to run. None is a harmless rsync.
    """

    engine: Engine
    clusters: ClusterStore
    jobs: JobStore
    push_commands: Sequence[str | None] | None = None

    async def push(self, socket: JobSocket) -> None:
        if not await socket.authenticate():
            await socket.close(POLICY, "Invalid API key")
            return
        asked = await socket.receive()
        try:
            config, cluster, teardown = self._understand(asked)
            job = self.jobs.push(config, cluster, teardown=teardown)
        except (_Rejected, ConfigError, Refusal) as error:
            reason = error.reply.body["message"] if isinstance(error, Refusal) else str(error)
            await socket.send(message=reason)
            await socket.close(POLICY, reason)
            return
        try:
            await self._upload(socket, job, config)
        except BaseException:
            self.jobs.fail(job, "The connection was lost during the upload")
            raise

    def _understand(self, asked: dict[str, Any]) -> tuple[JobConfig, Cluster, bool]:
        text, cluster_id = asked.get("tp_config"), asked.get("cluster_id")
        teardown = asked.get("teardown_cluster", False)
        if not isinstance(text, str) or not isinstance(cluster_id, str) or not isinstance(teardown, bool):
            raise _Rejected("tp_config and cluster_id must be strings, teardown_cluster a boolean")
        config = read(text)
        try:
            cluster = self.clusters.registry.find(cluster_id)
        except Refusal:
            raise _Rejected(f"Cluster {cluster_id[:MAX_NAME]} not found") from None
        if cluster.status is not ClusterStatus.RUNNING:
            raise _Rejected(f"Cluster {cluster.id} is {cluster.status}, not RUNNING")
        return config, cluster, teardown

    async def _upload(self, socket: JobSocket, job: Job, config: JobConfig) -> None:
        scope = socket.exchange.scope
        if scope.take(FaultKind.DROP_AFTER):
            socket.cut()
        await socket.send(job_id=job.id, message=f"Job {job.id} was created, uploading")
        if scope.take(FaultKind.CUT_BODY):
            socket.cut()
        commands = self.push_commands
        if commands is None:
            commands = [harmless_rsync(ignore=config.ignore)]
        if await _run_all(socket, job, commands):
            self.jobs.uploaded(job, scope)
            await socket.send(message=f"Job {job.id} was submitted")
            await socket.close(NORMAL, "")
        else:
            self.jobs.fail(job, "The upload failed")
            await socket.close(INTERNAL, "The upload failed")

    async def listen(self, socket: JobSocket) -> None:
        if not await socket.authenticate():
            await _refuse(socket, "Invalid API key")
            return
        try:
            job = self.jobs.find(socket.exchange.argument)
        except Refusal as refusal:
            await _refuse(socket, str(refusal.reply.body["detail"]))
            return
        reader = asyncio.create_task(socket.drain())
        writer = asyncio.create_task(self._stream(socket, job))
        try:
            await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            reader.cancel()
            writer.cancel()
            ended = await asyncio.gather(reader, writer, return_exceptions=True)
        for outcome in ended:
            if isinstance(outcome, Exception) and not isinstance(outcome, Disconnected):
                raise outcome
        await socket.close(NORMAL, "")

    async def _stream(self, socket: JobSocket, job: Job) -> None:
        cut = socket.exchange.scope.take(FaultKind.DROP_AFTER, FaultKind.CUT_BODY)
        clock = self.engine.clock
        sent = 0
        while True:
            changed, done, printed = job.changed, job.done, job.printed(clock.now())
            for line in job.lines[sent:printed]:
                if cut and sent >= len(job.lines) // 2:
                    socket.cut()
                await socket.send(message=line)
                sent += 1
                if sent % LINES_AT_ONCE == 0:
                    await asyncio.sleep(0)
            if done:
                break
            await _wait(changed, job.until_next(sent, clock.now()))
        if cut:
            socket.cut()
        await _send_end(socket, job)


async def _run_all(socket: JobSocket, job: Job, commands: Sequence[str | None]) -> bool:
    """Whether the client ran all of the commands with success. A command that fails ends the push."""
    for command in commands:
        await socket.send(command=command, command_show_stdout=True)
        if not command:
            continue
        result = await socket.receive()
        job.results.append(result)
        if result.get("type") != "command_result" or result.get("command") != command:
            await socket.close(POLICY, "Expected the result of the command")
            raise Disconnected
        if result.get("exit_code") != 0:
            return False
    return True


async def _refuse(socket: JobSocket, reason: str) -> None:
    await socket.send(status="error", message=reason)
    await socket.close(POLICY, reason)


async def _wait(changed: asyncio.Event, seconds: float | None) -> None:
    try:
        async with asyncio.timeout(None if seconds is None else max(TICK, seconds)):
            await changed.wait()
    except TimeoutError:
        pass


async def _send_end(socket: JobSocket, job: Job) -> None:
    match job.status:
        case JobStatus.COMPLETED:
            await socket.send(status="success")
        case JobStatus.ERROR:
            await socket.send(status="error", message=f"Job {job.id} ended with exit code {job.exit_code}")
        case _:
            await socket.send(status="error", message=job.public_message or f"Job {job.id} is {job.status}")
