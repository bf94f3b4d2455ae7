"""Running the commands that the engine asks for, in one folder and in one direction."""

from __future__ import annotations

import logging
import os
import secrets
import threading
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import attrs

from tensorpool_async.events import Dispatcher, SecretsInUpload
from tensorpool_async.flow.shielding import run_shielded
from tensorpool_async.protocol.command_words import LocalPath
from tensorpool_async.protocol.commands import CommandPolicy
from tensorpool_async.protocol.filters import FilterRule
from tensorpool_async.protocol.ssh_command import RemoteCommand, configuration
from tensorpool_async.protocol.transfers import Direction, Transfer, transfer_arguments
from tensorpool_async.resources.ssh_files import SSHFiles
from tensorpool_async.resources.staging_directory import PREFIX, StagingDirectory
from tensorpool_async.resources.subprocesses import CommandResult, run
from tensorpool_async.resources.uploads import check_no_link, check_upload
from tensorpool_async.texts import logger_of


logger: logging.Logger = logger_of("tensorpool_async")

MOST_NAMED = 100
"""Secrets of an upload that are named."""


def excluded_rules(exclude: str | Iterable[str]) -> tuple[FilterRule, ...]:
    """Return the filter rules for what a user excludes.

    Raises:
        ValueError: A pattern is empty, or holds a line break or a null character.
    """
    patterns = (exclude,) if isinstance(exclude, str) else tuple(exclude)
    for pattern in patterns:
        if not pattern.strip("/ ") or {"\n", "\r", "\0"} & set(pattern):
            raise ValueError(f"exclude= names a pattern that is empty or of several lines: {pattern!r}")
    return tuple(FilterRule(pattern) for pattern in patterns)


@attrs.frozen
class CommandRunner:
    """Runs commands of the engine.

    Attributes:
        policy: Decides on each of them.
        direction: Whether they send or receive.
        folder: The folder that they read or write.
        events: Is told what they do.
        private_key: The private key that the user has named.
        excluded: What the user excludes from uploads.
    """

    policy: CommandPolicy
    direction: Direction
    folder: Path
    events: Dispatcher
    private_key: str | os.PathLike[str] | None = None
    excluded: tuple[FilterRule, ...] = ()

    async def run(self, text: str, *, shown: bool) -> CommandResult:
        """Run a command of the engine.

        Raises:
            CommandRefused: The policy does not allow it, or it would follow a link; it was not run.
            PathRefused: What it has fetched cannot be put into place.
        """
        command = self.policy(text)
        if not isinstance(command, Transfer | RemoteCommand):
            await self._make_folder()
            return await run(command, folder=self.folder, events=self.events, shown=shown)
        if isinstance(command, Transfer):
            command.check(self.direction)
        named = None if self.private_key is None else os.fspath(self.private_key)
        config = configuration(command.ssh, command.host, named) if command.host else ""
        await self._make_folder()
        files = SSHFiles()
        try:
            await run_shielded(anyio.to_thread.run_sync(files.write, config))
            if isinstance(command, Transfer):
                return await self._run_transfer(command, files, shown=shown)
            arguments = ["ssh", "-F", str(files.config), "--", command.host.login, *command.words]
            return await self._run(arguments, self.folder, files, shown=shown)
        finally:
            await run_shielded(anyio.to_thread.run_sync(files.remove))

    async def _run_transfer(self, transfer: Transfer, files: SSHFiles, *, shown: bool) -> CommandResult:
        folder = await anyio.to_thread.run_sync(self.folder.resolve)
        if transfer.host is not None and isinstance(transfer.destination, LocalPath):
            return await self._pull(transfer, transfer.destination, folder, files, shown=shown)
        found = await self._check_upload(transfer, folder)
        if found:
            self._warn(folder, found)
        config = None if transfer.host is None else str(files.config)
        arguments = transfer_arguments(transfer, self.direction, config=config, excluded=self.excluded)
        return await self._run(arguments, folder, files, shown=shown)

    async def _check_upload(self, transfer: Transfer, folder: Path) -> list[str]:
        abandoned = threading.Event()
        check = partial(check_upload, transfer, folder, self.excluded, abandoned=abandoned.is_set)
        try:
            return await anyio.to_thread.run_sync(check, abandon_on_cancel=True)
        finally:
            abandoned.set()

    async def _pull(
        self, transfer: Transfer, destination: LocalPath, folder: Path, files: SSHFiles, *, shown: bool
    ) -> CommandResult:
        staging = StagingDirectory(folder, folder / f"{PREFIX}{secrets.token_hex(8)}")

        def prepare() -> str | None:
            check_no_link(transfer.program, folder, destination)
            return staging.make(destination)

        try:
            compare = await run_shielded(anyio.to_thread.run_sync(prepare))
            arguments = transfer_arguments(
                transfer, self.direction, config=str(files.config), compare=compare
            )
            result = await self._run(arguments, staging.path, files, shown=shown)
            # rsync gives a file its name once it is complete, and clears up unless it is killed.
            if result.exit_code == 0 or (transfer.program == "rsync" and result.exit_code > 0):
                await run_shielded(
                    anyio.to_thread.run_sync(lambda: staging.install(keep_newer="update" in transfer.options))
                )
            return result
        finally:
            await run_shielded(anyio.to_thread.run_sync(staging.remove))

    async def _run(
        self, arguments: Sequence[str], folder: Path, files: SSHFiles, *, shown: bool
    ) -> CommandResult:
        environment = await anyio.to_thread.run_sync(files.environment, self.private_key)
        return await run(arguments, folder=folder, events=self.events, shown=shown, environment=environment)

    async def _make_folder(self) -> None:
        if self.direction is Direction.PULL:
            await anyio.Path(self.folder).mkdir(parents=True, exist_ok=True)

    def _warn(self, folder: Path, found: Sequence[str]) -> None:
        named = tuple(sorted(found)[:MOST_NAMED])
        logger.warning(
            "the upload takes along %d files with secrets, such as %s; exclude= leaves them out",
            len(found),
            ", ".join(map(ascii, named[:5])),
        )
        self.events.emit(SecretsInUpload(folder=str(folder), paths=named))
