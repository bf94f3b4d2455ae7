"""An asyncio-native client for the TensorPool GPU cloud."""

from importlib import import_module
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from tensorpool_async.client import Statistics, TensorPool
    from tensorpool_async.config import Timeouts
    from tensorpool_async.errors import (
        AmbiguousOutcomeError,
        AuthenticationError,
        BadRequest,
        BudgetExceeded,
        CommandRefused,
        ConfigurationError,
        ConflictError,
        ConnectionFailed,
        DecodeError,
        FleetError,
        FleetFileError,
        InsufficientBalance,
        JournalError,
        LimiterUnavailable,
        NotFound,
        OperationError,
        OperationFailed,
        OperationTimeout,
        PathRefused,
        PermissionDenied,
        RateLimited,
        RequestTimeout,
        ServerError,
        StatusError,
        StreamError,
        TensorPoolError,
        ValidationError,
        WrongEventLoopError,
    )
    from tensorpool_async.flow import LimiterStatistics, RateLimiter
    from tensorpool_async.journal import Entry as JournalEntry
    from tensorpool_async.models import (
        AwsConfig,
        Bucket,
        Cluster,
        ClusterStatus,
        Health,
        Instance,
        Job,
        JobStatus,
        ObjectStorageCredentials,
        OperationKind,
        Organization,
        OrganizationMember,
        PulledFile,
        Quote,
        RcloneConfig,
        RequestInfo,
        RequestStatus,
        SSHKey,
        StorageStatus,
        StorageVolume,
        UserInfo,
        UserPreferences,
    )
    from tensorpool_async.operations import Operation
    from tensorpool_async.protocol.polling import PollPolicy
    from tensorpool_async.protocol.retries import RetryPolicy
    from tensorpool_async.resources.recovery import Leftover
    from tensorpool_async.secrets import Secret
    from tensorpool_async.submissions import Submission


__all__ = [
    "AmbiguousOutcomeError",
    "AuthenticationError",
    "AwsConfig",
    "BadRequest",
    "Bucket",
    "BudgetExceeded",
    "Cluster",
    "ClusterStatus",
    "CommandRefused",
    "ConfigurationError",
    "ConflictError",
    "ConnectionFailed",
    "DecodeError",
    "FleetError",
    "FleetFileError",
    "Health",
    "Instance",
    "InsufficientBalance",
    "Job",
    "JobStatus",
    "JournalEntry",
    "JournalError",
    "Leftover",
    "LimiterStatistics",
    "LimiterUnavailable",
    "NotFound",
    "ObjectStorageCredentials",
    "Operation",
    "OperationError",
    "OperationFailed",
    "OperationKind",
    "OperationTimeout",
    "Organization",
    "OrganizationMember",
    "PathRefused",
    "PermissionDenied",
    "PollPolicy",
    "PulledFile",
    "Quote",
    "RateLimited",
    "RateLimiter",
    "RcloneConfig",
    "RequestInfo",
    "RequestStatus",
    "RequestTimeout",
    "RetryPolicy",
    "SSHKey",
    "Secret",
    "ServerError",
    "Statistics",
    "StatusError",
    "StorageStatus",
    "StorageVolume",
    "StreamError",
    "Submission",
    "TensorPool",
    "TensorPoolError",
    "Timeouts",
    "UserInfo",
    "UserPreferences",
    "ValidationError",
    "WrongEventLoopError",
]

# Each module is loaded when one of its names is first asked for.
_HOMES = {
    "client": (
        "Statistics",
        "TensorPool",
    ),
    "config": ("Timeouts",),
    "errors": (
        "AmbiguousOutcomeError",
        "AuthenticationError",
        "BadRequest",
        "BudgetExceeded",
        "CommandRefused",
        "ConfigurationError",
        "ConflictError",
        "ConnectionFailed",
        "DecodeError",
        "FleetError",
        "FleetFileError",
        "InsufficientBalance",
        "JournalError",
        "LimiterUnavailable",
        "NotFound",
        "OperationError",
        "OperationFailed",
        "OperationTimeout",
        "PathRefused",
        "PermissionDenied",
        "RateLimited",
        "RequestTimeout",
        "ServerError",
        "StatusError",
        "StreamError",
        "TensorPoolError",
        "ValidationError",
        "WrongEventLoopError",
    ),
    "flow.limiter": (
        "LimiterStatistics",
        "RateLimiter",
    ),
    "journal.records": ("JournalEntry",),
    "models.account": (
        "Health",
        "Organization",
        "OrganizationMember",
        "SSHKey",
        "UserInfo",
        "UserPreferences",
    ),
    "models.cluster": (
        "Cluster",
        "Instance",
        "Quote",
    ),
    "models.enums": (
        "ClusterStatus",
        "JobStatus",
        "OperationKind",
        "RequestStatus",
        "StorageStatus",
    ),
    "models.job": (
        "Job",
        "PulledFile",
    ),
    "models.object_storage": (
        "AwsConfig",
        "Bucket",
        "ObjectStorageCredentials",
        "RcloneConfig",
    ),
    "models.request": ("RequestInfo",),
    "models.storage": ("StorageVolume",),
    "operations": ("Operation",),
    "protocol.polling": ("PollPolicy",),
    "protocol.retries": ("RetryPolicy",),
    "resources.recovery": ("Leftover",),
    "secrets": ("Secret",),
    "submissions": ("Submission",),
}
_HOME_OF = {name: f"{__name__}.{home}" for home, names in _HOMES.items() for name in names}

if not TYPE_CHECKING:  # type checkers would take it for a promise that any name is there

    def __getattr__(name: str) -> Any:
        if name not in _HOME_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
        value = getattr(import_module(_HOME_OF[name]), "Entry" if name == "JournalEntry" else name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
