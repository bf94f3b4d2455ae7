"""What the engine says, as frozen attrs classes."""

from tensorpool_async.models.account import (
    Health,
    Organization,
    OrganizationMember,
    SSHKey,
    UserInfo,
    UserPreferences,
)
from tensorpool_async.models.cluster import Cluster, Instance, Quote
from tensorpool_async.models.enums import (
    ClusterStatus,
    JobStatus,
    OpenEnum,
    OperationKind,
    RequestStatus,
    StorageStatus,
)
from tensorpool_async.models.job import Job, JobPull, PulledFile
from tensorpool_async.models.object_storage import AwsConfig, Bucket, ObjectStorageCredentials, RcloneConfig
from tensorpool_async.models.request import RequestInfo
from tensorpool_async.models.storage import StorageVolume
from tensorpool_async.models.structure import structure, unstructure


__all__ = [
    "AwsConfig",
    "Bucket",
    "Cluster",
    "ClusterStatus",
    "Health",
    "Instance",
    "Job",
    "JobPull",
    "JobStatus",
    "ObjectStorageCredentials",
    "OpenEnum",
    "OperationKind",
    "Organization",
    "OrganizationMember",
    "PulledFile",
    "Quote",
    "RcloneConfig",
    "RequestInfo",
    "RequestStatus",
    "SSHKey",
    "StorageStatus",
    "StorageVolume",
    "UserInfo",
    "UserPreferences",
    "structure",
    "unstructure",
]
