"""The life of a cluster as others began it: its creation joined, its end brought about whatever it is in the middle of."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from tensorpool_async.errors import ConflictError, DecodeError, NotFound, OperationFailed, StatusError
from tensorpool_async.models import Cluster, ClusterStatus, OperationKind, RequestInfo, RequestStatus
from tensorpool_async.operations.operation import Operation
from tensorpool_async.operations.submission import Submitter
from tensorpool_async.protocol.operation_specs import DELETE_STARTED
from tensorpool_async.protocol.tokens import OperationRef


if TYPE_CHECKING:
    from tensorpool_async.resources.clusters import Clusters


ATTEMPTS = 5
CONFLICT_DELAY = 1.0
"""Seconds to wait where something is changing the cluster, and nothing tells what."""

COMING = frozenset({ClusterStatus.PENDING, ClusterStatus.PROVISIONING, ClusterStatus.CONFIGURING})


class Lifecycle:
    """Creations and ends of clusters that somebody else may have begun."""

    def __init__(self, clusters: Clusters, submitter: Submitter) -> None:
        self._clusters = clusters
        self._submitter = submitter

    async def creation_of(self, cluster_id: str) -> Operation[Cluster]:
        """Return the creation of a cluster that is on its way."""
        return await self._operation_of(cluster_id, OperationKind.CLUSTER_CLAIM)

    async def destruction_of(self, cluster_id: str) -> Operation[None]:
        """Return the end of a cluster that is being destroyed."""
        return await self._operation_of(cluster_id, OperationKind.CLUSTER_RELEASE)

    async def ref_of(self, cluster_id: str, kind: OperationKind) -> OperationRef:
        """Return what identifies the creation or the end of a cluster that is under way: its request, or else itself."""
        expected = {DELETE_STARTED: True} if kind is OperationKind.CLUSTER_RELEASE else {}
        return OperationRef(
            kind, cluster_id, _telling(await self._requests(cluster_id, kind), kind), expected
        )

    async def join(
        self, resource_id: str, name: str | None, *, kind: OperationKind, ephemeral: bool = False
    ) -> None:
        """Write into the journal, if there is one, that this client uses a cluster or volume that was made before.

        Args:
            resource_id: Its id.
            name: Its name.
            kind: What made it: `CLUSTER_CLAIM` or `STORAGE_CREATE`.
            ephemeral: Whether it may be reaped again once this client is gone.

        Raises:
            JournalError: The journal cannot be written.
        """
        await self._submitter.recorder.join(kind, resource_id, name, ephemeral=ephemeral)

    async def destroy(self, cluster: Cluster) -> None:
        """Destroy a cluster and wait until it is gone; one that is gone already is fine.

        What is on its way up is waited for first: the engine refuses to destroy it, or, worse, finishes it afterwards.
        What the engine refuses because the cluster is busy is asked for again, a little later.

        Raises:
            ConflictError: It is protected from deletion, or lastingly busy.
            OperationFailed: The engine failed to destroy it.
        """
        await self._let_settle(cluster)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                await (await self._clusters.destroy(cluster.id)).settled()
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
            return await self._clusters.get(cluster)
        except NotFound:
            return None

    async def _let_settle(self, cluster: Cluster) -> bool:
        """Wait for the end of what the engine is doing with a cluster; say whether there was anything."""
        operation: Operation[Any]
        if cluster.status in COMING:
            operation = await self.creation_of(cluster.id)
        elif cluster.status is ClusterStatus.DESTROYING:
            operation = await self.destruction_of(cluster.id)
        else:
            return False
        with contextlib.suppress(OperationFailed, NotFound):  # it has ended, which is all that matters here
            await operation.settled()
        return True

    async def _operation_of(self, cluster_id: str, kind: OperationKind) -> Operation[Any]:
        return self._submitter.follow(await self.ref_of(cluster_id, kind))

    async def _requests(self, cluster_id: str, kind: OperationKind) -> list[RequestInfo]:
        try:
            return await self._clusters.operations(cluster_id, kind=kind)
        except (StatusError, DecodeError):
            return []  # the endpoint is hardly documented, and what it would tell can be seen on the cluster


def _telling(requests: list[RequestInfo], kind: OperationKind) -> tuple[str, ...]:
    """Return the request that tells how a cluster's creation or end goes on.

    That is one that has not ended; or a creation that failed, since only its request tells why.
    """
    candidates = [request for request in requests if request.request_id and request.request_type == kind]
    pending = [request for request in candidates if not request.status.is_terminal]
    failed = [request for request in candidates if request.status is RequestStatus.FAILED]
    telling = pending or (failed if kind is OperationKind.CLUSTER_CLAIM else [])
    return tuple(request.request_id for request in telling[:1] if request.request_id)
