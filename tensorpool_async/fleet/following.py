"""Operations that somebody else began: found at the engine, or followed by watching the cluster itself."""

from __future__ import annotations

from typing import Any

from tensorpool_async.client import TensorPool
from tensorpool_async.errors import DecodeError, StatusError
from tensorpool_async.models import Cluster, OperationKind, RequestInfo, RequestStatus
from tensorpool_async.operations import Operation
from tensorpool_async.protocol import tokens
from tensorpool_async.protocol.tokens import Ticket


async def claim_of(tp: TensorPool, cluster_id: str) -> Operation[Cluster]:
    """Return the creation of a cluster that is on its way."""
    return await _operation_of(tp, cluster_id, OperationKind.CLUSTER_CLAIM)


async def release_of(tp: TensorPool, cluster_id: str) -> Operation[None]:
    """Return the end of a cluster that is being destroyed."""
    return await _operation_of(tp, cluster_id, OperationKind.CLUSTER_RELEASE)


async def _operation_of(tp: TensorPool, cluster_id: str, kind: OperationKind) -> Operation[Any]:
    request_ids = _telling(await _requests(tp, cluster_id, kind), kind)
    # A ticket without a request makes an operation that watches the cluster itself.
    return tp.operation(tokens.encode(Ticket(kind, cluster_id, request_ids)))


async def _requests(tp: TensorPool, cluster_id: str, kind: OperationKind) -> list[RequestInfo]:
    try:
        return await tp.clusters.operations(cluster_id, kind=kind)
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
