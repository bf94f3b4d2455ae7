"""Downloading the output of a job: side by side, each file under a temporary name until it is complete."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath

import anyio
import attrs

from tensorpool_async.errors import (
    ConnectionFailed,
    DecodeError,
    PathRefused,
    RateLimited,
    TensorPoolError,
)
from tensorpool_async.events import BytesPulled, Dispatcher
from tensorpool_async.models.job import PulledFile
from tensorpool_async.protocol.paths import relative_paths
from tensorpool_async.protocol.retries import Tries, Verdict, backoff, classify, judge
from tensorpool_async.transport import Transport


AT_A_TIME = 8
"""Downloads side by side. They go to the object store and not to the engine, so no slot of the limiter is taken."""


@attrs.frozen
class Target:
    """Where one file goes.

    Attributes:
        name: Its name, as the engine gave it.
        path: Where it goes.
        size: The size in bytes of what is there already; None where nothing is.
    """

    name: str
    path: Path
    size: int | None


def targets_in(folder: Path, names: Mapping[str, PurePosixPath]) -> list[Target]:
    """Find out where the files go and what is there; nothing is written.

    Raises:
        PathRefused: A link inside of the folder leads a file out of it, or a folder is where a file should be.
    """
    root = folder.resolve()
    return [_target(root, folder, name, relative) for name, relative in names.items()]


def _target(root: Path, folder: Path, name: str, relative: PurePosixPath) -> Target:
    path = folder / relative
    if not path.parent.resolve().is_relative_to(root):
        raise PathRefused(f"a link leads {name!r} out of {str(folder)!r}; nothing was written", name=name)
    if path.is_dir() and not path.is_symlink():
        raise PathRefused(f"{str(path)!r} is a folder, and should be a file; nothing was written", name=name)
    return Target(name, path, path.stat().st_size if path.is_file() else None)


class Puller:
    """Pulls the files of one job."""

    def __init__(self, transport: Transport, events: Dispatcher, job_id: str) -> None:
        self._transport = transport
        self._events = events
        self._job_id = job_id

    async def pull(
        self, addresses: Mapping[str, str | None], folder: Path, *, overwrite: bool, dry_run: bool
    ) -> list[PulledFile]:
        """Download what is not there yet.

        All names are checked before the first byte is asked for. The first file that fails stops the others; what is
        complete stays, and is skipped the next time.
        """
        names = relative_paths(addresses)
        targets = await anyio.to_thread.run_sync(targets_in, folder, names)
        pulled = {
            target.name: PulledFile(target.name, target.path, target.size, downloaded=False)
            for target in targets
        }
        if dry_run:
            return list(pulled.values())
        wanted = [target for target in targets if overwrite or target.size is None]
        missing = [target.name for target in wanted if not addresses[target.name]]
        if missing:
            raise DecodeError(f"the engine gave no address for {missing[0]!r}")
        queue = iter(wanted)
        errors: list[TensorPoolError] = []
        async with anyio.create_task_group() as workers:

            async def work(files: Iterator[Target]) -> None:
                try:
                    for target in files:
                        pulled[target.name] = await self._fetch(target, addresses[target.name] or "")
                except TensorPoolError as error:
                    errors.append(error)
                    workers.cancel_scope.cancel()

            for _ in range(min(AT_A_TIME, len(wanted))):
                workers.start_soon(work, queue)
        if errors:
            raise errors[0]
        return list(pulled.values())

    async def _fetch(self, target: Target, url: str) -> PulledFile:
        part = target.path.with_name(f".{target.path.name[:100]}.{secrets.token_hex(4)}.part")
        await anyio.to_thread.run_sync(lambda: target.path.parent.mkdir(parents=True, exist_ok=True))
        try:
            size = await self._fetch_into(part, target.name, url)
            await anyio.to_thread.run_sync(os.replace, part, target.path)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(lambda: part.unlink(missing_ok=True))
        self._events.emit(
            BytesPulled(job_id=self._job_id, name=target.name, received=size, total=size, done=True)
        )
        return PulledFile(target.name, target.path, size, downloaded=True)

    async def _fetch_into(self, part: Path, name: str, url: str) -> int:
        tries = Tries()
        async with await anyio.open_file(part, "wb") as file:
            attempt = _Attempt(self._transport, file, url, partial(self._tell, name))
            while True:
                try:
                    await attempt.go()
                except TensorPoolError as caught:
                    error = caught
                else:
                    return attempt.received
                tries = await self._wait_after(error, tries)

    def _tell(self, name: str, received: int, total: int | None) -> None:
        progress = BytesPulled(job_id=self._job_id, name=name, received=received, total=total, done=False)
        self._events.emit(progress)

    async def _wait_after(self, error: TensorPoolError, tries: Tries) -> Tries:
        policy = self._transport.retry
        if judge(error, "GET", tries, policy) is Verdict.RAISE:
            raise error
        tries = tries.after(classify(error))
        pause = backoff(policy, tries.failed + tries.rate_limited, self._transport.random.random())
        if isinstance(error, RateLimited) and error.retry_after is not None:
            pause = error.retry_after
        await anyio.sleep(pause)
        return tries


class _Attempt:
    """One file, over as many connections as it takes; each goes on where the last one broke, if the server lets it."""

    def __init__(
        self,
        transport: Transport,
        file: anyio.AsyncFile[bytes],
        url: str,
        progress: Callable[[int, int | None], None],
    ) -> None:
        self._transport = transport
        self._file = file
        self._url = url
        self._progress = progress
        self._etag: str | None = None
        self.received = 0

    async def go(self) -> None:
        """Download the rest, or everything."""
        async with self._transport.download(self._url, start=self.received, etag=self._etag) as download:
            if not download.resumed:
                await self._file.seek(0)
                await self._file.truncate()
                self.received = 0
            self._etag = download.etag
            total = None if download.size is None else self.received + download.size
            async for chunk in download.chunks():
                await self._file.write(chunk)
                self.received += len(chunk)
                self._progress(self.received, total)
        if total is not None and self.received != total:
            raise ConnectionFailed(f"a download ended after {self.received} of {total} bytes")
