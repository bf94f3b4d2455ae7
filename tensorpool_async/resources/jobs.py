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
from tensorpool_async.operations.submission import Submission, Submitter
from tensorpool_async.protocol.command_words import LocalPath
from tensorpool_async.protocol.commands import CheckedCommand, CommandPolicy, transfers_only
from tensorpool_async.protocol.decoders import as_list, as_model, as_text, delete_request
from tensorpool_async.protocol.operation_specs import JOB
from tensorpool_async.protocol.requests import Lane, Request, path_of, query_of
from tensorpool_async.protocol.responses import Answer
from tensorpool_async.protocol.streams import close_error, is_last, lines_of
from tensorpool_async.protocol.tokens import AcceptedOperation, OperationRef
from tensorpool_async.protocol.transfers import Direction
from tensorpool_async.resources.clusters import ClusterLike, id_of
from tensorpool_async.resources.commands import CommandRunner, excluded_rules
from tensorpool_async.resources.downloader import Downloader
from tensorpool_async.resources.subprocesses import CommandResult
from tensorpool_async.transport import Transport
from tensorpool_async.transport.websocket import Sockets, Stream


REFUSED = 126
"""The exit code that the engine is told for a command that was not run: what a shell says of one it may not run."""

MOST_WAITING, MOST_BYTES_WAITING = 10_000, 32 * 1024 * 1024
"""Messages of a push that wait for the commands before them, at most."""

JobLike = Job | str
"""A job, or its id."""


def job_id_of(job: JobLike) -> str:
    """Return the id of what is a job or an id."""
    return job.id if isinstance(job, Job) else job


class Jobs:
    """Jobs on clusters, as `tp.jobs`. Wherever a job is asked for, its id or the model itself will do."""

    def __init__(
        self, transport: Transport, submitter: Submitter, sockets: Sockets, events: Dispatcher
    ) -> None:
        self._transport = transport
        self._submitter = submitter
        self._sockets = sockets
        self._events = events

    async def template(self) -> str:
        """Return a job configuration to start from, as TOML text (`GET /job/init`)."""
        path = path_of("job", "init")
        return await self._transport.send(Request("GET", path, as_text("empty_tp_config", path)))

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

        The engine answers with commands that are to be run here, an upload with `rsync` for example. They are run in
        `folder`, one after the other, as lists of arguments and without a shell; what they write is told as events.

        Args:
            config: The configuration as TOML text, or the path of a file with it. The engine checks it.
            cluster: Where to run it.
            teardown: Whether the cluster is destroyed when the job ends.
            commands: Decides on each command text, or raises `CommandRefused`. The default reads `rsync`, `scp` and
                `ssh`, runs nothing else here, and only reads from `folder`.
            folder: What is uploaded. Links in it are not followed.
            exclude: Patterns of `rsync`, such as `".env"` or `"/data/"`, of what is not uploaded, whatever the engine
                says. A policy of your own does without them.
            private_key: The path of the SSH key with which the cluster is reached; None for those that ssh tries.

        Raises:
            CommandRefused: The policy refused a command; the engine was told so, and the job is not started.
            ValueError: A pattern of `exclude` is empty or has several lines.
            StreamError: The engine ended the push with an error, or the connection was lost. The engine does not
                say whether a job whose push was lost goes on.
            OSError: The file with the configuration cannot be read.
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
        async with self._sockets.open(path_of("job", "push")) as stream:
            await stream.send(opening)
            job_id = await _Push(stream, runner, self._events).follow()
        return await self.get(job_id)

    async def get(self, job: JobLike) -> Job:
        """Read one job (`GET /job/info/{job_id}`).

        Raises:
            NotFound: There is none, or it was deleted.
        """
        return cast("Job", await self._transport.send(JOB.read(job_id_of(job))))

    async def listen(self, job: JobLike) -> AsyncGenerator[str]:
        """Iterate over the lines that a job writes (WebSocket `/job/listen/{job_id}`), until it ends.

        Whether the engine sends what was written before is not documented. Leaving the loop early closes the socket;
        `contextlib.aclosing` closes it at a known moment.

        Raises:
            StreamError: The engine ended the stream with an error, or the connection was lost before the job's end;
                `.retryable` says whether listening again may help.
            NotFound: There is no such job.
        """
        async with self._sockets.open(path_of("job", "listen", job_id_of(job))) as stream:
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

        The engine names no request for this, so the job itself is polled. If it ends by itself before the cancel wins,
        the operation ends with it: `Job.canceled` says which it was.

        Raises:
            ConflictError: It has ended already (409).
            NotFound: There is no such job.
        """
        job_id = job_id_of(job)

        def accepted(answer: Answer) -> AcceptedOperation:
            return AcceptedOperation(OperationRef(OperationKind.JOB_CANCEL, job_id), answer.retry_after)

        request = Request("POST", path_of("job", "cancel", job_id), accepted, lane=Lane.CHANGE)
        ref = OperationRef(OperationKind.JOB_CANCEL, job_id)
        return Submission(f"canceling job {job_id}", lambda: self._submitter.submit(request, ref))

    async def delete(self, job: JobLike) -> None:
        """Hide a job that has ended from the API (`DELETE /job/delete/{job_id}`).

        Raises:
            ConflictError: It has not ended (409).
            NotFound: There is no such job.
        """
        path = path_of("job", "delete", job_id_of(job))
        await self._transport.send(delete_request(path))

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
        """Bring the output of a job here (`GET /job/pull/{job_id}`).

        Of a job that has ended, the files are downloaded side by side, each under a temporary name until it is
        complete, as the object store holds them: nothing is decompressed. What is there already is skipped, so that
        running it again brings what is missing. A file whose name the file system cannot hold gets another one, or is
        skipped; its `note` says why. Of a live job, the engine gives a command such as `rsync`, which is run under the
        same policy as in `push`. It writes into a new folder in `to`, and what it has brought is put into place when it
        has ended.

        Args:
            job: Which one.
            to: The folder to bring it to; it is made if it is not there. Links inside of it are not followed.
            overwrite: Whether files that are there already are downloaded again.
            private_key: The path of the SSH key with which a live instance is reached.
            dry_run: Only tell which files there are.
            commands: As in `push`; the default only writes into `to`.

        Returns:
            The files, also those that were skipped; none for a live job, of which the command brings what there is.

        Raises:
            PathRefused: A file name, or a link inside of the folder, leads out of it; no such file was written.
            CommandRefused: The policy refused the command; nothing was run.
            StreamError: The command failed.
            StatusError: The engine, or the object store, refused.
            ConnectionFailed: A download broke off more often than the retry policy allows, or the engine gave an
                address that nothing can be downloaded from.
            DecodeError: The object store sends what is not the whole file, time and again.
            OSError: The folder cannot be written to, or the disk is full.
        """
        job_id = job_id_of(job)
        path = path_of("job", "pull", job_id)
        query = query_of(
            system=platform.system().lower(),
            private_key_path=None if private_key is None else os.fspath(private_key),
            dry_run=dry_run,
        )
        answer = await self._transport.send(Request("GET", path, as_model(JobPull, path), query=query))
        folder = Path(to)
        if answer.command and not dry_run:
            runner = CommandRunner(
                self._without_key(commands), Direction.PULL, folder, self._events, private_key
            )
            await _run_pull(runner, answer.command, shown=bool(answer.command_show_stdout))
        puller = Downloader(self._transport, self._events, job_id)
        return await puller.pull(answer.download_map or {}, folder, overwrite=overwrite, dry_run=dry_run)

    # Last of the public methods, since within the class its name hides the type from what follows.
    async def list(self, *, organization: bool = False) -> list[Job]:
        """List the jobs (`GET /job/list`).

        Args:
            organization: List those of the organization instead of one's own.
        """
        path = path_of("job", "list")
        decode = as_list("jobs", Job, path)
        return await self._transport.send(
            Request("GET", path, decode, query=query_of(include_org=organization))
        )

    def _without_key(self, commands: CommandPolicy) -> CommandPolicy:
        """Have a policy refuse what holds the key: quotes may hide it in the text of the command."""
        key = self._transport.key

        def policy(text: str) -> Sequence[str] | CheckedCommand:
            try:
                command = commands(text)
            except CommandRefused as refused:
                if key.mask_text(str(refused)) == str(refused):
                    raise
                key.mask_error(refused)
                raise refused.with_traceback(None)  # noqa: B904 - the same error, without the frames that hold the key
            words = _words_of(command)
            if key.mask_all(words) == words:
                return command
            command, words = (), []  # an error may be shown with the variables of its frames
            raise CommandRefused("the command holds the API key; it was not run")

        return policy


def _words_of(value: object) -> list[str]:
    """Return all texts of a command, a path both by its names and as a whole."""
    if isinstance(value, str):
        return [value]
    parts: Iterable[object] = ()
    if attrs.has(type(value)):
        parts = [getattr(value, field.name) for field in attrs.fields(type(value))]
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
"""A message of a push, and how many bytes of the stream had come with it."""


class _Push:
    """One push: the engine's messages, and the commands that it wants to be run."""

    def __init__(self, stream: Stream, runner: CommandRunner, events: Dispatcher) -> None:
        self._stream = stream
        self._runner = runner
        self._events = events
        self._job_id: str | None = None
        self._handled = 0  # of the stream's bytes

    async def follow(self) -> str:
        """Do what the engine says until it closes; return the job's id."""
        to_do, messages = anyio.create_memory_object_stream[Waiting](MOST_WAITING)
        errors: list[TensorPoolError] = []

        async def receive() -> None:
            # Beside the commands, which may take minutes: pings are only answered while somebody receives.
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
            with suppress(StreamError):  # where nobody listens any more, the refusal says more than that
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
