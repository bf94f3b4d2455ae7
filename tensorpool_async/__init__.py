"""An asyncio-native client for the TensorPool GPU cloud."""

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
    NotFound,
    OperationError,
    OperationFailed,
    OperationTimeout,
    PermissionDenied,
    RateLimited,
    RequestTimeout,
    ServerError,
    StatusError,
    TensorPoolError,
    ValidationError,
    WrongEventLoopError,
)
from tensorpool_async.flow import LimiterStatistics, RateLimiter
from tensorpool_async.models import (
    Cluster,
    ClusterStatus,
    Instance,
    OperationKind,
    Quote,
    RequestInfo,
    RequestStatus,
)
from tensorpool_async.operations import Operation
from tensorpool_async.protocol.polling import PollPolicy
from tensorpool_async.protocol.retries import RetryPolicy
from tensorpool_async.secrets import Secret
from tensorpool_async.submissions import Submission


__all__ = [
    "AmbiguousOutcomeError",
    "AuthenticationError",
    "BadRequest",
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
    "Instance",
    "InsufficientBalance",
    "LimiterStatistics",
    "NotFound",
    "Operation",
    "OperationError",
    "OperationFailed",
    "OperationKind",
    "OperationTimeout",
    "PermissionDenied",
    "PollPolicy",
    "Quote",
    "RateLimited",
    "RateLimiter",
    "RequestInfo",
    "RequestStatus",
    "RequestTimeout",
    "RetryPolicy",
    "Secret",
    "ServerError",
    "Statistics",
    "StatusError",
    "Submission",
    "TensorPool",
    "TensorPoolError",
    "Timeouts",
    "ValidationError",
    "WrongEventLoopError",
]
