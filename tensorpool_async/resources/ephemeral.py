"""A cluster that lives as long as an `async with` block, and is destroyed however the block ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from types import TracebackType
from typing import Any

from tensorpool_async.errors import AmbiguousOutcomeError, NotFound, TensorPoolError
from tensorpool_async.flow.shielding import run_shielded, wait_uncancelled
from tensorpool_async.models import Cluster
from tensorpool_async.operations.executor import Change, Executor
from tensorpool_async.operations.operation import Operation
from tensorpool_async.protocol.send_context import SendContext
from tensorpool_async.resources.changes import cluster_edit
from tensorpool_async.resources.deletion import ClusterDeletion, delete_with_retries
from tensorpool_async.resources.exits import UndeletedResource, log_deletions
from tensorpool_async.texts import logger_of


CLEANUP_TIMEOUT = 3600.0
"""Seconds that the cleanup may take: the rest of a creation, and then the deletion."""

logger: logging.Logger = logger_of("tensorpool_async")


class Ephemeral:
    """A cluster that lives as long as an `async with` block. It can be entered once.

    Attributes:
        operation: The creation; None until the engine has accepted it.
    """

    def __init__(
        self,
        executor: Executor,
        creation: Change,
        *,
        timeout: float,
    ) -> None:
        self.operation: Operation[Cluster] | None = None
        self._executor = executor
        self._creation = creation
        self._timeout = timeout
        self._context: SendContext | None = None
        self._used = False
        self._over = False
        self._hourly_rate: float | None = None

    @property
    def name(self) -> str | None:
        """The name of the cluster, known before the cluster is created."""
        return self._creation.request.name

    async def __aenter__(self) -> Cluster:
        if self._used:
            raise RuntimeError(
                f"the ephemeral cluster {self.name!r} was entered already; it can be entered once"
            )
        self._used = True
        # A task of its own survives a cancellation of this one, so that the cleanup learns whether there is a cluster.
        self._context = SendContext(asyncio.get_running_loop().time(), self._creation.ref.kind)
        creation = asyncio.ensure_future(self._executor.execute(self._creation, self._context))
        try:
            await asyncio.wait([creation])
            self.operation = creation.result()
            cluster = await self.operation
        except BaseException as error:
            await self._undo(creation, error)
            raise
        self._hourly_rate = cluster.hourly_rate
        return cluster

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._exit(error)

    async def _undo(self, creation: asyncio.Task[Operation[Cluster]], error: BaseException) -> None:
        """Destroy the cluster, made or still being made, after the block could not be entered."""
        context = self._context or SendContext(0.0)
        context.cancelled = True  # no further attempt is sent
        if not context.attempts:
            creation.cancel()  # nothing was sent yet
        interruption = await wait_uncancelled(creation)
        if creation.cancelled():
            if context.attempts:  # the event loop ends, so the response is not read
                self._report_failure(error, error)
        else:
            problem = creation.exception()
            if problem is None:
                self.operation = creation.result()
            elif isinstance(problem, AmbiguousOutcomeError) and problem is not error:
                logger.error("%s", problem)
                error.add_note(str(problem))  # a caller that was cancelled sees only this error
        await self._exit(error)
        if interruption is not None:
            raise interruption

    async def _exit(self, error: BaseException | None) -> None:
        """Destroy the cluster. A failure becomes a note of the body's exception, or is raised if there is none."""
        if self.operation is not None:
            log_deletions([self._undeleted], error)
        try:
            await run_shielded(self._delete())
        except (TensorPoolError, TimeoutError) as problem:
            self._report_failure(problem, error)
            if error is None:
                raise
        except asyncio.CancelledError as interruption:
            if interruption.__cause__ is not None:
                self._report_failure(interruption.__cause__, interruption)
            elif not self._over:  # the event loop ends before the cleanup does
                self._report_failure(interruption, interruption)
            raise
        except (KeyboardInterrupt, SystemExit) as interruption:  # a second Ctrl-C during the cleanup
            self._report_failure(interruption, interruption)
            raise

    def _report_failure(self, problem: BaseException, error: BaseException | None) -> None:
        text = self._undeleted.deletion_failed(str(problem) or type(problem).__name__)
        logger.error("%s", text)
        (error or problem).add_note(text)

    @property
    def _undeleted(self) -> UndeletedResource:
        ids = () if self._resource_id is None else (self._resource_id,)
        return UndeletedResource(kind="cluster", name=self.name, ids=ids, hourly_rate=self._hourly_rate)

    @property
    def _resource_id(self) -> str | None:
        return None if self.operation is None else self.operation.resource_id

    async def _delete(self) -> None:
        if self.operation is not None and self._resource_id is not None:
            async with asyncio.timeout(self._timeout):
                with contextlib.suppress(TensorPoolError):  # a failed or unknown creation is deleted as well
                    await (
                        self.operation.settled()
                    )  # the engine may complete a creation that is deleted halfway
                delete_once = partial(self._delete_once, self._resource_id)
                await delete_with_retries(delete_once, f"cluster {self._resource_id}")
        self._over = True

    async def _delete_once(self, cluster_id: str) -> None:
        executor = self._executor.for_exit()
        if self._is_protected():
            with contextlib.suppress(NotFound):
                change = cluster_edit(cluster_id, deletion_protection=False)
                await (await executor.execute(change)).settled()
        await ClusterDeletion(executor).destroy(Cluster(cluster_id))

    def _is_protected(self) -> bool:
        body: dict[str, Any] = self._creation.request.json or {}
        return bool(body.get("deletion_protection"))
