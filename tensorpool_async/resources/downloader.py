"""Downloading the output of a job: side by side, each file under a temporary name until it is complete."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath

import anyio
import attrs

from tensorpool_async.errors import ConnectionFailed, DecodeError, RateLimited, TensorPoolError
from tensorpool_async.events import BytesPulled, Dispatcher
from tensorpool_async.models.job import PulledFile
from tensorpool_async.protocol.downloads import Version, check_address, content_of, range_headers
from tensorpool_async.protocol.paths import FOLDING, LocalName, local_names
from tensorpool_async.protocol.retries import AttemptHistory, RetryDecision, backoff, classify, decide
from tensorpool_async.resources.download_folder import Folder, UnsupportedName
from tensorpool_async.texts import logger_of
from tensorpool_async.transport.attempts import Transport
from tensorpool_async.transport.downloads import open_download


AT_A_TIME = 8
"""Downloads side by side. They go to the object store and not to the engine, so no slot of the limiter is taken."""

logger: logging.Logger = logger_of("tensorpool_async")


@attrs.frozen
class Target:
    """A file that is to be downloaded.

    Attributes:
        name: Its name, as the engine gave it.
        relative: Where it goes, below the folder.
        address: Where it is.
        note: Why it goes somewhere else than its name says.
    """

    name: str
    relative: PurePosixPath
    address: str
    note: str


def plan(folder: Folder, names: list[str], *, dry_run: bool) -> list[PulledFile]:
    """Find out where the files go, and what is there already.

    Raises:
        PathRefused: A name, or a link inside of the folder, leads out of it.
    """
    folder.check()
    system = folder.file_system(dry_run=True)
    if not dry_run and local_names(names, system) != local_names(
        names, attrs.evolve(FOLDING, windows=system.windows)
    ):
        system = folder.file_system(
            dry_run=False
        )  # some names differ by little: it depends on the file system
    return [_look(folder, local) for local in local_names(names, system).values()]


def _look(folder: Folder, local: LocalName) -> PulledFile:
    if local.path is None:
        return _skipped(folder, local.name, local.note)
    try:
        size = folder.size_of(local.path, local.name)
    except UnsupportedName as problem:
        return _skipped(folder, local.name, f"skipped: {problem}")
    return PulledFile(local.name, folder.path / local.path, size, downloaded=False, note=local.note)


def _skipped(folder: Folder, name: str, note: str) -> PulledFile:
    return PulledFile(name, folder.path, None, downloaded=False, note=note, skipped=True)


class Downloader:
    """Pulls the files of one job."""

    def __init__(self, transport: Transport, events: Dispatcher, job_id: str) -> None:
        self._transport = transport
        self._events = events
        self._job_id = job_id

    async def pull(
        self, addresses: Mapping[str, str | None], path: Path, *, overwrite: bool, dry_run: bool
    ) -> list[PulledFile]:
        """Download what is not there yet.

        All names and addresses are checked before the first byte is asked for. The first file that fails stops the
        others; what is complete stays, and is skipped the next time.
        """
        folder = Folder(path)
        files = await anyio.to_thread.run_sync(partial(plan, folder, list(addresses), dry_run=dry_run))
        pulled = {file.name: file for file in files}
        if not dry_run:
            wanted = [file for file in files if not file.skipped and (overwrite or file.size is None)]
            targets = [_target(file, path, addresses[file.name]) for file in wanted]
            await self._download(folder, targets, pulled)
        self._tell_notes([file for file in pulled.values() if file.note])
        return list(pulled.values())

    async def _download(self, folder: Folder, targets: list[Target], pulled: dict[str, PulledFile]) -> None:
        queue = iter(targets)
        errors: list[Exception] = []
        async with anyio.create_task_group() as workers:

            async def work(files: Iterator[Target]) -> None:
                try:
                    for target in files:
                        pulled[target.name] = await self._fetch(folder, target)
                except Exception as error:  # noqa: BLE001 - raised below, as itself and not in a group
                    errors.append(error)
                    workers.cancel_scope.cancel()

            for _ in range(min(AT_A_TIME, len(targets))):
                workers.start_soon(work, queue)
        if errors:
            raise errors[0]

    async def _fetch(self, folder: Folder, target: Target) -> PulledFile:
        try:
            size = await self._fetch_whole(folder, target)
        except UnsupportedName as problem:
            return _skipped(folder, target.name, f"skipped: {problem}")
        except TensorPoolError as error:
            error.add_note(f"while {target.name!r} of job {self._job_id!r} was downloaded")
            raise
        self._emit_progress(target.name, size, size, done=True)
        return PulledFile(target.name, folder.path / target.relative, size, downloaded=True, note=target.note)

    async def _fetch_whole(self, folder: Folder, target: Target) -> int:
        part = await anyio.to_thread.run_sync(folder.open_part, target.relative, target.name)
        try:
            size = await self._fetch_into(anyio.wrap_file(part.file), target)
            await anyio.to_thread.run_sync(part.keep)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(part.close)
        return size

    async def _fetch_into(self, file: anyio.AsyncFile[bytes], target: Target) -> int:
        history = AttemptHistory()
        attempt = _FileDownload(
            self._transport, file, target.address, partial(self._emit_progress, target.name)
        )
        while True:
            try:
                await attempt.go()
            except TensorPoolError as caught:
                error = caught
            else:
                return attempt.received
            history = await self._wait_after(error, history)

    def _emit_progress(self, name: str, received: int, total: int | None, *, done: bool = False) -> None:
        progress = BytesPulled(job_id=self._job_id, name=name, received=received, total=total, done=done)
        self._events.emit(progress)

    def _tell_notes(self, files: list[PulledFile]) -> None:
        if files:
            first = f"{files[0].name[:200]!r} is {files[0].note}"
            logger.warning(
                "%d files of a job do not have the names that they had there: %s", len(files), first
            )

    async def _wait_after(self, error: TensorPoolError, history: AttemptHistory) -> AttemptHistory:
        policy = self._transport.retry
        if decide(error, "GET", history, policy) is RetryDecision.RAISE:
            raise error
        history = history.after(classify(error))
        pause = backoff(policy, history.failed + history.rate_limited, self._transport.random.random())
        if isinstance(error, RateLimited) and error.retry_after is not None:
            pause = error.retry_after
        await anyio.sleep(pause)
        return history


def _target(file: PulledFile, folder: Path, address: str | None) -> Target:
    if address is None:
        raise DecodeError(f"the engine gave no address for {file.name!r}")
    check_address(address, f"the address of {file.name[:200]!r}")
    return Target(file.name, PurePosixPath(file.path.relative_to(folder).as_posix()), address, file.note)


class _FileDownload:
    """One file, over as many connections as it takes; each goes on where the last one broke, if the server lets it."""

    def __init__(
        self,
        transport: Transport,
        file: anyio.AsyncFile[bytes],
        address: str,
        progress: Callable[[int, int | None], None],
    ) -> None:
        self._transport = transport
        self._file = file
        self._address = address
        self._progress = progress
        self._version = Version()
        self.received = 0

    async def go(self) -> None:
        """Download the rest, or everything."""
        headers = range_headers(self.received, self._version)
        async with open_download(self._transport, self._address, headers) as download:
            try:
                content = content_of(download.status, download.headers, self.received, self._version)
            except DecodeError:
                self._version = Version()  # nothing here is certain to go with what comes next
                raise
            self._version = content.version
            if content.start != self.received:
                await self._begin_again()
            async for chunk in download.chunks():
                await self._file.write(chunk)
                self.received += len(chunk)
                self._progress(self.received, content.version.size)
        if content.version.size not in {None, self.received}:
            raise ConnectionFailed(f"a download ended after {self.received} of {content.version.size} bytes")

    async def _begin_again(self) -> None:
        await self._file.seek(0)
        await self._file.truncate()
        self.received = 0
