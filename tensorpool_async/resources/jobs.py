"""Jobs: push, listen, read, cancel, pull, delete."""

from __future__ import annotations

import os
import platform
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import anyio
import attrs
from anyio.streams.memory import MemoryObjectSendStream

from tensorpool_async.errors import CommandRefused, StreamError, TensorPoolError
from tensorpool_async.events import Dispatcher, JobMessage
from tensorpool_async.models.enums import OperationKind
from tensorpool_async.models.job import Job, JobPull, PulledFile
from tensorpool_async.operations.executor import Change, Executor
from tensorpool_async.operations.submission import Submission
from tensorpool_async.protocol.command_words import LocalPath
from tensorpool_async.protocol.commands import CheckedCommand, CommandPolicy, transfers_only
from tensorpool_async.protocol.decoders import as_list, as_model, as_nothing, as_text
from tensorpool_async.protocol.operation_specs import JOB
from tensorpool_async.protocol.requests import Request, query_of
from tensorpool_async.protocol.responses import Answer
from tensorpool_async.protocol.streams import close_error, is_last, lines_of
from tensorpool_async.protocol.tokens import AcceptedOperation, OperationRef
from tensorpool_async.protocol.transfers import Direction
from tensorpool_async.resources.arguments import ClusterLike, JobLike, id_of
from tensorpool_async.resources.commands import CommandRunner, excluded_rules
from tensorpool_async.resources.downloader import Downloader
from tensorpool_async.resources.subprocesses import CommandResult
from tensorpool_async.transport.attempts import Transport
from tensorpool_async.transport.websocket import Sockets, Stream


REFUSED = 126
"""The exit code that is reported for a refused command. Shells use it for a command that cannot be executed."""

MOST_WAITING, MOST_BYTES_WAITING = 10_000, 32 * 1024 * 1024
"""The most messages, and bytes of messages, of one push that wait for the commands before them."""


class Jobs:
    """Jobs on clusters, as `tp.jobs`. Every method that takes a job accepts its id or the model."""

    def __init__(
        self, transport: Transport, executor: Executor, sockets: Sockets, events: Dispatcher
    ) -> None:
        self._transport = transport
        self._executor = executor
        self._sockets = sockets
        self._events = events

    async def template(self) -> str:
        """Return a template of a job configuration as TOML text (`GET /job/init`)."""
        return await self._transport.send(Request("GET", "/job/init", as_text("empty_tp_config")))

    async def push(
        self,
        config: str | os.PathLike[str],
        cluster: ClusterLike,
        *,
        teardown: bool = False,
        commands: CommandPolicy = transfers_only,
        folder: str | os.PathLike[str] = ".",
        exclude: str | Iterable[str] = (),
        private_key: str | os.PathLike[str] | None = None,
    ) -> Job:
        """Start a job on a cluster (WebSocket `/job/push`).

        The engine answers with commands to run on this machine, such as an upload with `rsync`. They run in `folder`,
        one after the other, as argument lists and without a shell. Their output is emitted as events.

        Args:
            config: The configuration as TOML text, or the path of a file with the configuration. The engine checks it.
            cluster: The cluster that runs the job.
            teardown: Whether the cluster is destroyed when the job ends.
            commands: The policy: it returns the command to run for a command text, or raises `CommandRefused`. The
                default accepts `rsync`, `scp` and `ssh` only, and lets them read only from `folder`.
            folder: The folder to upload. Links in the folder are not followed.
            exclude: `rsync` patterns, such as `".env"` or `"/data/"`, of files that are never uploaded. A policy of your
                own does not apply them.
            private_key: The path of the SSH key for the cluster; None for the default keys of ssh.

        Raises:
            CommandRefused: The policy refused a command. The refusal was reported to the engine, and the job was not
                started.
            ValueError: A pattern of `exclude` is empty or has several lines.
            StreamError: The engine ended the push with an error, or the connection was lost. After a lost connection, the
                job may run or not.
            OSError: The configuration file cannot be read.
        """
        policy = self._without_key(commands)
        runner = CommandRunner(
            policy, Direction.PUSH, Path(folder), self._events, private_key, excluded_rules(exclude)
        )
        text = config if isinstance(config, str) else await anyio.Path(config).read_text(encoding="utf-8")
        opening = {
            "tp_config": text,
            "system": platform.system(),
            "cluster_id": id_of(cluster),
            "teardown_cluster": teardown,
        }
        async with self._sockets.open(Request("GET", "/job/push")) as stream:
            await stream.send(opening)
            job_id = await _Push(stream, runner, self._events).run()
        return await self.get(job_id)

    async def get(self, job: JobLike) -> Job:
        """Read a job (`GET /job/info/{job_id}`).

        Raises:
            NotFound: The job does not exist, or was deleted.
        """
        return cast("Job", await self._transport.send(JOB.read(id_of(job))))

    async def listen(self, job: JobLike) -> AsyncGenerator[str]:
        """Iterate over the output lines of a job until the job ends (WebSocket `/job/listen/{job_id}`).

        The engine's documentation does not say whether earlier output is sent as well. If the loop is left early, the
        socket is closed when the generator is; use `contextlib.aclosing` to close both at a defined point.

        Raises:
            StreamError: The engine ended the stream with an error, or the connection was lost before the end of the job.
                If `.retryable` is set, call `listen` again.
            NotFound: The job does not exist.
        """
        async with self._sockets.open(Request("GET", "/job/listen/{id}", key=id_of(job))) as stream:
            while True:
                message = await stream.receive()
                if isinstance(message, int):
                    raise close_error(message, "")
                last = is_last(message)
                for line in lines_of(message):
                    yield line
                if last:
                    return

    def cancel(self, job: JobLike) -> Submission[Job]:
        """Cancel a job (`POST /job/cancel/{job_id}`).

        The engine returns no request id for this, so the job itself is polled. If the job ends before it is canceled,
        the operation ends too; `Job.canceled` tells the two cases apart.

        Raises:
            ConflictError: The job has ended already (409).
            NotFound: The job does not exist.
        """
        job_id = id_of(job)
        ref = OperationRef(OperationKind.JOB_CANCEL, job_id)

        def decode(answer: Answer) -> AcceptedOperation:
            return AcceptedOperation(ref, answer.retry_after)

        change = Change(Request("POST", "/job/cancel/{id}", decode, key=job_id), ref)
        return Submission(f"canceling job {job_id}", self._executor.execute, change)

    async def delete(self, job: JobLike) -> None:
        """Delete a job that has ended from the API (`DELETE /job/delete/{job_id}`).

        Raises:
            ConflictError: The job has not ended (409).
            NotFound: The job does not exist.
        """
        await self._transport.send(Request("DELETE", "/job/delete/{id}", as_nothing, key=id_of(job)))

    async def pull(
        self,
        job: JobLike,
        to: str | os.PathLike[str] = ".",
        *,
        overwrite: bool = False,
        private_key: str | os.PathLike[str] | None = None,
        dry_run: bool = False,
        commands: CommandPolicy = transfers_only,
    ) -> list[PulledFile]:
        """Download the output of a job (`GET /job/pull/{job_id}`).

        The files of a job that has ended are downloaded concurrently. Each file has a temporary name until it is
        complete, and is stored as the object store holds it, without decompression. Existing files are skipped, so that
        a second call downloads only what is missing. A file whose name the file system does not support gets another
        name, or is skipped; its `note` gives the reason. For a running job, the engine names a command such as `rsync`,
        which is run under the same policy as in `push`. The command writes into a new folder inside `to`; the files are
        moved to their places when the command has ended.

        Args:
            job: The job.
            to: The target folder; it is created if it does not exist. Links inside the folder are not followed.
            overwrite: Whether existing files are downloaded again.
            private_key: The path of the SSH key for the cluster of a running job.
            dry_run: Whether to return the files without downloading them.
            commands: The policy, as in `push`; the default lets commands write only into `to`.

        Returns:
            The files, including those that were skipped; an empty list for a running job.

        Raises:
            PathRefused: A file name, or a link inside the folder, leads outside the folder. No such file was written.
            CommandRefused: The policy refused the command. Nothing was run.
            StreamError: The command failed.
            StatusError: The engine, or the object store, answered with an error status.
            ConnectionFailed: A download was interrupted more often than the retry policy allows, or the engine gave a
                URL that cannot be downloaded from.
            DecodeError: The object store repeatedly sent something else than the whole file.
            OSError: The folder cannot be written to, or the disk is full.
        """
        job_id = id_of(job)
        query = query_of(
            system=platform.system().lower(),
            private_key_path=None if private_key is None else os.fspath(private_key),
            dry_run=dry_run,
        )
        answer = await self._transport.send(
            Request("GET", "/job/pull/{id}", as_model(JobPull), key=job_id, query=query)
        )
        folder = Path(to)
        if answer.command and not dry_run:
            runner = CommandRunner(
                self._without_key(commands), Direction.PULL, folder, self._events, private_key
            )
            await _run_pull(runner, answer.command, shown=bool(answer.command_show_stdout))
        downloader = Downloader(self._transport, self._events, job_id)
        return await downloader.pull(answer.download_map or {}, folder, overwrite=overwrite, dry_run=dry_run)

    # The last public method, since its name hides the builtin `list` from annotations that follow.
    async def list(self, *, organization: bool = False) -> list[Job]:
        """List the jobs (`GET /job/list`).

        Args:
            organization: Whether to list the jobs of the organization instead of the user's.
        """
        decode = as_list("jobs", Job)
        return await self._transport.send(
            Request("GET", "/job/list", decode, query=query_of(include_org=organization))
        )

    def _without_key(self, commands: CommandPolicy) -> CommandPolicy:
        """Return a policy that also refuses a command that holds the API key, even if quotes split the key."""
        key = self._transport.key

        def policy(text: str) -> Sequence[str] | CheckedCommand:
            try:
                command = commands(text)
            except CommandRefused as refused:
                if key.mask_text(str(refused)) == str(refused):
                    raise
                key.mask_error(refused)
                raise refused.with_traceback(None)  # noqa: B904 - the frames of the traceback hold the key
            words = _words_of(command)
            if key.mask_all(words) == words:
                return command
            command, words = (), []  # a traceback may show the variables of each frame
            raise CommandRefused("the command holds the API key; it was not run")

        return policy


def _words_of(value: object) -> list[str]:
    """Return all texts of a command, a path both by its names and as a whole."""
    if isinstance(value, str):
        return [value]
    parts: Iterable[object] = ()
    kind: type[Any] = type(value)
    if attrs.has(kind):
        parts = [getattr(value, field.name) for field in attrs.fields(kind)]
    elif isinstance(value, Sequence):
        parts = cast("Sequence[object]", value)
    whole = [value.text] if isinstance(value, LocalPath) else []
    return whole + [word for part in parts for word in _words_of(part)]


async def _run_pull(runner: CommandRunner, command: str, *, shown: bool) -> None:
    result = await runner.run(command, shown=shown)
    if result.exit_code:
        detail = result.stderr.strip().splitlines()[-1:] or ["no message"]
        program = command.split(maxsplit=1)[0]
        raise StreamError(f"{program} ended with {result.exit_code}: {detail[0]}", retryable=True)


Waiting = tuple[dict[str, Any], int]
"""A message of a push, and the number of bytes that the stream had received with it."""


class _Push:
    """One push: it receives the engine's messages and runs the commands in them."""

    def __init__(self, stream: Stream, runner: CommandRunner, events: Dispatcher) -> None:
        self._stream = stream
        self._runner = runner
        self._events = events
        self._job_id: str | None = None
        self._handled = 0  # bytes of the stream

    async def run(self) -> str:
        """Run the engine's commands until it closes the stream, and return the id of the job."""
        to_do, messages = anyio.create_memory_object_stream[Waiting](MOST_WAITING)
        errors: list[TensorPoolError] = []

        async def receive() -> None:
            # A command may take minutes, and pings are answered only while a task receives.
            with to_do:
                try:
                    while isinstance(message := await self._stream.receive(), dict):
                        self._put(to_do, message)
                except StreamError as error:
                    errors.append(error)
                    group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(receive)
            with messages:
                try:
                    async for message, received in messages:
                        await self._handle(message)
                        self._handled = received
                except TensorPoolError as error:
                    errors.append(error)
                    group.cancel_scope.cancel()
        if errors:
            raise errors[0]
        if self._job_id is None:
            raise StreamError("the engine ended the push without naming a job", code=1000)
        return self._job_id

    def _put(self, to_do: MemoryObjectSendStream[Waiting], message: dict[str, Any]) -> None:
        received = self._stream.received
        try:
            to_do.send_nowait((message, received))
        except anyio.WouldBlock:
            full = True
        else:
            full = received - self._handled > MOST_BYTES_WAITING
        if full:
            raise StreamError("the engine sends more than the commands that it sends can keep up with")

    async def _handle(self, message: dict[str, Any]) -> None:
        job_id = message.get("job_id")
        if self._job_id is None and isinstance(job_id, str) and job_id:
            self._job_id = job_id
        text = message.get("message")
        if isinstance(text, str) and text:
            self._events.emit(JobMessage(job_id=self._job_id, message=text))
        command = message.get("command")
        if isinstance(command, str) and command:
            await self._run(command, shown=bool(message.get("command_show_stdout")))

    async def _run(self, command: str, *, shown: bool) -> None:
        try:
            result = await self._runner.run(command, shown=shown)
        except CommandRefused as refusal:
            with suppress(StreamError):  # the refusal matters more than a closed stream
                await self._report(command, CommandResult(REFUSED, stderr=str(refusal)))
            raise
        await self._report(command, result)

    async def _report(self, command: str, result: CommandResult) -> None:
        report = {
            "type": "command_result",
            "command": command,
            "exit_code": result.exit_code,
            "command_stdout": result.stdout,
            "command_stderr": result.stderr,
        }
        await self._stream.send(report)
