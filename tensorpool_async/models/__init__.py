"""What the engine says, as frozen attrs classes."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tensorpool_async.models.structure import structure, unstructure


if TYPE_CHECKING:
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
    from tensorpool_async.models.object_storage import (
        AwsConfig,
        Bucket,
        ObjectStorageCredentials,
        RcloneConfig,
    )
    from tensorpool_async.models.request import RequestInfo
    from tensorpool_async.models.storage import StorageVolume


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

# Each module is loaded when one of its names is first asked for.
_HOMES = {
    "account": (
        "Health",
        "Organization",
        "OrganizationMember",
        "SSHKey",
        "UserInfo",
        "UserPreferences",
    ),
    "cluster": (
        "Cluster",
        "Instance",
        "Quote",
    ),
    "enums": (
        "ClusterStatus",
        "JobStatus",
        "OpenEnum",
        "OperationKind",
        "RequestStatus",
        "StorageStatus",
    ),
    "job": (
        "Job",
        "JobPull",
        "PulledFile",
    ),
    "object_storage": (
        "AwsConfig",
        "Bucket",
        "ObjectStorageCredentials",
        "RcloneConfig",
    ),
    "request": ("RequestInfo",),
    "storage": ("StorageVolume",),
}
_HOME_OF = {name: f"{__name__}.{home}" for home, names in _HOMES.items() for name in names}

if not TYPE_CHECKING:  # type checkers would take it for a promise that any name is there

    def __getattr__(name: str) -> Any:
        if name not in _HOME_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
        value = getattr(import_module(_HOME_OF[name]), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
