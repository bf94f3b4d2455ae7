"""What the engine says, as frozen attrs classes."""

from tensorpool_async.models.cluster import Cluster, Instance, Quote
from tensorpool_async.models.enums import (
    ClusterStatus,
    JobStatus,
    OpenEnum,
    OperationKind,
    RequestStatus,
    StorageStatus,
)
from tensorpool_async.models.request import RequestInfo
from tensorpool_async.models.structure import structure, unstructure


__all__ = [
    "Cluster",
    "ClusterStatus",
    "Instance",
    "JobStatus",
    "OpenEnum",
    "OperationKind",
    "Quote",
    "RequestInfo",
    "RequestStatus",
    "StorageStatus",
    "structure",
    "unstructure",
]
