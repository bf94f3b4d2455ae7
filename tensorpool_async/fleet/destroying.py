"""Destroying a cluster whatever it is in the middle of: what the engine refuses now is asked for again later."""

from __future__ import annotations

import contextlib
from typing import Any

import anyio

from tensorpool_async.client import TensorPool
from tensorpool_async.errors import ConflictError, NotFound, OperationFailed
from tensorpool_async.fleet.following import claim_of, release_of
from tensorpool_async.models import Cluster, ClusterStatus
from tensorpool_async.operations import Operation


ATTEMPTS = 5
CONFLICT_DELAY = 1.0
"""Seconds to wait where something is changing the cluster, and nothing tells what."""

COMING = frozenset({ClusterStatus.PENDING, ClusterStatus.PROVISIONING, ClusterStatus.CONFIGURING})


async def destroy_cluster(tp: TensorPool, cluster: Cluster) -> None:
    """Destroy a cluster and wait until it is gone; one that is gone already is fine.

    What is on its way up is waited for first: the engine refuses to destroy it, or, worse, finishes it afterwards.

    Raises:
        ConflictError: It is protected from deletion, or lastingly busy.
        OperationFailed: The engine failed to destroy it.
    """
    await _let_settle(tp, cluster)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            await tp.clusters.destroy(cluster.id).result()
        except NotFound:
            return
        except ConflictError:
            now = await _look(tp, cluster)
            if now is None:
                return
            if now.deletion_protection or attempt == ATTEMPTS:
                raise
            if not await _let_settle(tp, now):
                await anyio.sleep(CONFLICT_DELAY)
        else:
            return


async def _look(tp: TensorPool, cluster: Cluster) -> Cluster | None:
    try:
        return await tp.clusters.get(cluster)
    except NotFound:
        return None


async def _let_settle(tp: TensorPool, cluster: Cluster) -> bool:
    """Wait for the end of what the engine is doing with a cluster; say whether there was anything."""
    operation: Operation[Any]
    if cluster.status in COMING:
        operation = await claim_of(tp, cluster.id)
    elif cluster.status is ClusterStatus.DESTROYING:
        operation = await release_of(tp, cluster.id)
    else:
        return False
    with contextlib.suppress(OperationFailed, NotFound):  # it has ended, which is all that matters here
        await operation
    return True
