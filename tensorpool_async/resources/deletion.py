"""Join or delete clusters whose creation or deletion was started elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

from tensorpool_async.errors import (
    AmbiguousOutcomeError,
    ConflictError,
    DecodeError,
    NotFound,
    OperationFailed,
    TensorPoolError,
)
from tensorpool_async.models import Cluster, ClusterStatus, OperationKind
from tensorpool_async.operations.executor import Executor
from tensorpool_async.operations.operation import Operation
from tensorpool_async.protocol.operation_specs import CLUSTER
from tensorpool_async.resources.changes import cluster_deletion
from tensorpool_async.texts import logger_of


T = TypeVar("T")

ATTEMPTS = 5
CONFLICT_DELAY = 1.0
"""Seconds before a deletion is retried while an unknown change of the cluster is in progress."""

RETRY_DELAY = 1.0
"""Seconds before a step of a deletion is retried after an outage; each further delay is twice as long."""
MAX_RETRY_DELAY = 30.0
"""Seconds that no such delay exceeds."""

logger: logging.Logger = logger_of("tensorpool_async")

COMING = frozenset({ClusterStatus.PENDING, ClusterStatus.PROVISIONING, ClusterStatus.CONFIGURING})


async def delete_with_retries(step: Callable[[], Awaitable[T]], subject: str, *, rejections: int = 0) -> T:
    """Run one step of a deletion, and again after each outage. The caller bounds the time.

    Every step may be repeated: reads, edits to a given value, and destroys.

    Args:
        step: The step.
        subject: What is deleted, for the log.
        rejections: How often the engine may refuse with 409, or accept the step and fail, and is asked again.

    Raises:
        TensorPoolError: The step cannot succeed, or was rejected too often.
    """
    delay, rejected = RETRY_DELAY, 0
    while True:
        try:
            return await step()
        except TensorPoolError as error:
            is_rejection = isinstance(error, ConflictError | OperationFailed)
            rejected += is_rejection
            if rejected > rejections or not (is_rejection or _is_outage(error)):
                raise
            logger.warning("the deletion of %s is retried in %g s, after: %s", subject, delay, error)
        await asyncio.sleep(delay)
        delay = min(2 * delay, MAX_RETRY_DELAY)


def _is_outage(error: TensorPoolError) -> bool:
    # A second DELETE does no harm where the response to the first was lost or cannot be decoded.
    return error.retryable or isinstance(error, AmbiguousOutcomeError | DecodeError)


class ClusterDeletion:
    """Creations and deletions of clusters that another caller may have started."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    async def creation_of(self, cluster_id: str) -> Operation[Cluster]:
        """Return the operation that creates a cluster."""
        return await self._operation_of(cluster_id, OperationKind.CLUSTER_CLAIM)

    async def destruction_of(self, cluster_id: str) -> Operation[None]:
        """Return the operation that destroys a cluster."""
        return await self._operation_of(cluster_id, OperationKind.CLUSTER_RELEASE)

    async def join(
        self, resource_id: str, name: str | None, *, kind: OperationKind, ephemeral: bool = False
    ) -> None:
        """Record in the journal, if there is one, that this client uses an existing cluster or volume.

        Args:
            resource_id: The id.
            name: The name.
            kind: The kind of its creation: `CLUSTER_CLAIM` or `STORAGE_CREATE`.
            ephemeral: Whether `tpa reap` may destroy the resource once this client's process has ended.

        Raises:
            JournalError: The journal cannot be written.
        """
        await self._executor.recorder.record_use(kind, resource_id, name, ephemeral=ephemeral)

    async def destroy(self, cluster: Cluster) -> None:
        """Destroy a cluster and wait until it no longer exists. A cluster that does not exist is no error.

        A creation in progress is waited for first, since the engine may refuse to destroy the cluster, or complete the
        creation afterwards. If the engine refuses because the cluster is busy, the request is sent again after a delay.

        Raises:
            ConflictError: The cluster is protected from deletion, or stays busy.
            OperationFailed: The engine failed to destroy the cluster.
        """
        await self._let_settle(cluster)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                operation = await self._executor.execute(cluster_deletion(cluster.id))
                await operation.settled()
            except NotFound:
                return
            except ConflictError:
                now = await self._look(cluster)
                if now is None:
                    return
                if now.deletion_protection or attempt == ATTEMPTS:
                    raise
                if not await self._let_settle(now):
                    await asyncio.sleep(CONFLICT_DELAY)
            else:
                return

    async def _look(self, cluster: Cluster) -> Cluster | None:
        try:
            return cast("Cluster", await self._executor.transport.send(CLUSTER.read(cluster.id)))
        except NotFound:
            return None

    async def _let_settle(self, cluster: Cluster) -> bool:
        """Wait for the end of a creation or deletion in progress. Return whether there was one."""
        operation: Operation[Any]
        if cluster.status in COMING:
            operation = await self.creation_of(cluster.id)
        elif cluster.status is ClusterStatus.DESTROYING:
            operation = await self.destruction_of(cluster.id)
        else:
            return False
        with contextlib.suppress(OperationFailed, NotFound):  # only the end matters here
            await operation.settled()
        return True

    async def _operation_of(self, cluster_id: str, kind: OperationKind) -> Operation[Any]:
        return self._executor.poll(await self._executor.lookup.ref_of(cluster_id, kind))
