"""The exceptions of this package, named by what they mean to the caller.

::

    TensorPoolError
    ├── ConfigurationError        no key, an unusable base URL, an invalid fleet file; nothing was sent
    │   └── FleetFileError        with the path, line and key of the mistake
    ├── WrongEventLoopError       an object was used on another event loop than its first one
    ├── ConnectionFailed          no response; `.sent` tells whether the engine may have received the request
    │   ├── RequestTimeout        no response in time
    │   └── LimiterUnavailable    a limiter shared with other processes cannot be used; nothing was sent
    ├── StatusError               the engine answered with an error status
    │   ├── BadRequest            400
    │   ├── AuthenticationError   401: the key is missing, wrong or revoked
    │   ├── InsufficientBalance   402
    │   ├── PermissionDenied      403: the key is valid but lacks the permission
    │   ├── NotFound              404, 410
    │   ├── ConflictError         409: the name is taken, deletion protection is on, or a change is in progress
    │   ├── ValidationError       422
    │   ├── RateLimited           429, with `.retry_after` in seconds
    │   └── ServerError           5xx
    ├── DecodeError               a success response that cannot be decoded
    ├── OperationError            a wait for an operation ended without its result
    │   ├── OperationFailed       the engine ended the operation as FAILED
    │   └── OperationTimeout      the caller's timeout ended the wait; the operation continues (also a TimeoutError)
    ├── AmbiguousOutcomeError     a change was sent, its response was lost, and its outcome is unknown
    ├── JournalError              the journal cannot be read or written; nothing was sent
    ├── CommandRefused            the engine asked for a command that the caller's policy does not allow
    ├── PathRefused               the engine named a file outside the target folder
    ├── StreamError               a job's stream ended before its last message
    ├── FleetError                members of a fleet failed (also an ExceptionGroup)
    └── BudgetExceeded            a fleet would cost more per hour than its `max_hourly_cost`

Every error has `.retryable` and `.retry_after` (see `TensorPoolError`). Every error about an operation carries the
operation as `.operation` and the operation's token as `.token`, so that a failed wait can be resumed. No error holds
the API key.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from os import PathLike, fspath
from types import MappingProxyType
from typing import Any, ClassVar, Protocol, Self

from tensorpool_async.texts import clean


UNPICKLED = frozenset({"operation", "operations"})
"""Attributes that are left out of a pickle, since they are bound to a client of this process."""

NO_HEADERS: Mapping[str, str] = MappingProxyType({})

RETRYABLE_REFUSALS = frozenset({408, 429})


class OperationHandle(Protocol):
    """The part of `Operation` that `TensorPoolError.operation` offers."""

    @property
    def kind(self) -> str | None:
        """The kind of the operation, such as `CLUSTER_CLAIM`."""
        ...

    @property
    def resource_id(self) -> str | None:
        """The id of the resource that the operation changes."""
        ...

    @property
    def request_id(self) -> str | None:
        """The engine's id of the request."""
        ...

    @property
    def token(self) -> str:
        """A string without secrets; `TensorPool.operation(token)` resumes the operation in any process."""
        ...

    def done(self) -> bool:
        """Whether the operation has ended."""
        ...

    def explain(self) -> str:
        """Summarize the history of the operation in a few lines."""
        ...

    def __await__(self) -> Generator[Any, None, Any]:
        """Wait for the operation to end and return its result."""
        ...

    async def result(self, timeout: float | None = None) -> Any:
        """Wait at most `timeout` seconds for the operation to end and return its result."""
        ...


class TensorPoolError(Exception):
    """The base class of every error that this package raises on purpose.

    Attributes:
        operation: The operation that the error is about, or None. A pickle leaves the operation out, since an
            operation is bound to its client; the `token` is kept.
        token: The token of that operation. `TensorPool.operation(token)` resumes the operation, also in another process.
        retryable: Whether the same call, repeated unchanged after a pause, may succeed and does nothing twice. It is
            False where a repeated call could do something twice (`AmbiguousOutcomeError`, `OperationTimeout`), where
            something has to be corrected first, and where the engine's answer is final.
        retry_after: Seconds to wait before the call is repeated, as the engine asked; None where the engine named none.
    """

    operation: OperationHandle | None = None
    token: str | None = None
    retryable: bool = False
    retry_after: float | None = None

    def __str__(self) -> str:
        # The message may quote the engine and is printed in logs and terminals. `args` and `body` hold the raw text.
        return clean(super().__str__())

    def bind(self, operation: OperationHandle) -> Self:
        """Set `operation` and `token`, and return the error."""
        self.operation = operation
        self.token = operation.token
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in UNPICKLED}

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        return _rebuild, (type(self), self.args), self.__getstate__()


def _rebuild(kind: type[TensorPoolError], args: tuple[Any, ...]) -> TensorPoolError:
    # Unpickling then restores every attribute, so __init__ is not called.
    error = kind.__new__(kind, *args)
    error.args = args  # OSError.__new__, a base of TimeoutError, leaves `args` to __init__
    return error


class ConfigurationError(TensorPoolError):
    """The configuration cannot be used. Nothing was sent."""


class FleetFileError(ConfigurationError):
    """A fleet file has a mistake.

    Attributes:
        path: The path of the file.
        line: The line of the mistake, counted from 1; None where it is not known.
        key: The dotted key, such as `clusters.trainer.count`; None where the mistake belongs to no key.
    """

    def __init__(
        self, message: str, *, path: str = "", line: int | None = None, key: str | None = None
    ) -> None:
        self.path = path
        self.line = line
        self.key = key
        place = ":".join(str(part) for part in (path, line) if part)
        super().__init__(": ".join(part for part in (place, key, message) if part))


class WrongEventLoopError(TensorPoolError):
    """A client, limiter or operation was used on another event loop than the one of its first use."""


class ConnectionFailed(TensorPoolError):
    """The engine gave no response. It is retryable unless `permanent` is set.

    Attributes:
        sent: Whether the engine may have received the request. It is False only where no attempt wrote anything to a
            connection: the address was not found, the connection was refused or not made in time, or the proxy or the
            session cannot be used.
        permanent: Whether the cause lasts, such as a TLS certificate that is not trusted.
    """

    def __init__(self, message: str, *, sent: bool = True, permanent: bool = False) -> None:
        super().__init__(message)
        self.sent = sent
        self.permanent = permanent
        self.retryable: bool = not permanent


class RequestTimeout(ConnectionFailed, TimeoutError):
    """The engine gave no response in time (see `Timeouts`)."""


class LimiterUnavailable(ConnectionFailed):
    """A limiter shared with other processes cannot be used, or the limiter is closed. Nothing was sent.

    Attributes:
        sent: Always False.
        permanent: Whether the cause lasts, such as a wrong password or a closed limiter.
    """

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        super().__init__(message, sent=False, permanent=permanent)


class StatusError(TensorPoolError):
    """The engine answered with an error status. It is retryable for 408, 429 and 5xx.

    Attributes:
        status: The HTTP status.
        message: The engine's message for a person.
        body: The whole body: the decoded JSON, or the text where the body is not JSON.
        headers: The headers of the response.
        method: The method of the request.
        path: The path of the request.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        body: Any = None,
        headers: Mapping[str, str] = NO_HEADERS,
        method: str = "",
        path: str = "",
    ) -> None:
        request = f" ({method} {path})" if path else ""
        super().__init__(f"{status}: {message}{request}")
        self.status = status
        self.message = message
        self.body = body
        self.headers: dict[str, str] = dict(headers)
        self.method = method
        self.path = path
        self.retryable: bool = status in RETRYABLE_REFUSALS or status >= 500

    by_status: ClassVar[dict[int, type[StatusError]]] = {}

    def __init_subclass__(cls, *, status: int | None = None) -> None:
        if status is not None:
            StatusError.by_status[status] = cls


class BadRequest(StatusError, status=400):
    """400: the engine rejected the request as malformed."""


class AuthenticationError(StatusError, status=401):
    """401: the API key is missing, wrong or revoked."""


class InsufficientBalance(StatusError, status=402):
    """402: the balance does not cover the request."""


class PermissionDenied(StatusError, status=403):
    """403: the key is valid but lacks the permission."""


class NotFound(StatusError, status=404):
    """404 or 410: the object does not exist, or no longer exists."""


StatusError.by_status[410] = NotFound


class ConflictError(StatusError, status=409):
    """409: the state of the resource forbids the request: the name is taken, deletion protection is on, or a change is in progress."""


class ValidationError(StatusError, status=422):
    """422: the engine does not accept a value; the message names the field."""


class RateLimited(StatusError, status=429):
    """429: too many requests, and the retries that `RetryPolicy` allows are used up.

    It is raised without a retry where `retry_after` is longer than `RetryPolicy.longest_pause`.
    """


class ServerError(StatusError):
    """5xx: the engine, or a proxy in front of it, failed."""


class DecodeError(TensorPoolError):
    """A success response cannot be decoded: it is not JSON, truncated, too large, or lacks a required field.

    It is retryable unless `too_large` is set, since the response may have been damaged on its way.

    Attributes:
        path: The path of the request.
        too_large: Whether the response is larger than `TensorPool(max_response_bytes=…)`. It is not requested again.
    """

    def __init__(self, message: str, *, path: str = "", too_large: bool = False) -> None:
        super().__init__(f"{message} ({path})" if path else message)
        self.path = path
        self.too_large = too_large
        self.retryable: bool = not too_large


class OperationError(TensorPoolError):
    """A wait for an operation ended without its result. `.operation` and `.token` identify the operation."""


class OperationFailed(OperationError):
    """The engine ended the operation as FAILED.

    Attributes:
        message: The engine's reason (`external_message`).
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.message: str = reason or message


class OperationTimeout(OperationError, TimeoutError):
    """The timeout of a wait ran out. The operation continues, and `.operation` can be awaited again.

    It is not retryable: to repeat the call that started the operation would start another one.
    """


class AmbiguousOutcomeError(TensorPoolError):
    """A change was sent and its response was lost: the engine may have made the change, or not.

    It is not retryable, since a repeated call could make the change twice. Look for the resource first, by `name` or
    with `TensorPool.recover`.

    Attributes:
        name: The name of the resource, if the change made it.
        method: The method of the request.
        path: The path of the request.
        operations: From `TensorPool.recover`: the operations that were found nevertheless. A pickle leaves them out.
    """

    operations: tuple[OperationHandle, ...] = ()

    def __init__(self, message: str, *, name: str | None = None, method: str = "", path: str = "") -> None:
        super().__init__(message)
        self.name = name
        self.method = method
        self.path = path


class JournalError(TensorPoolError):
    """The journal cannot be read or written. The change was not sent, unless it was a deletion of cleanup code.

    Attributes:
        path: The path of the journal.
        problem: What is wrong with the journal.
        advice: What to do about it.
    """

    def __init__(self, path: str | PathLike[str], problem: str, advice: str) -> None:
        super().__init__(f"the journal {path} {problem}; {advice}")
        self.path: str = fspath(path)
        self.problem = problem
        self.advice = advice

    def again(self) -> Self:
        """Return a copy for another caller, so that no two callers share a traceback."""
        return type(self)(self.path, self.problem, self.advice)


class CommandRefused(TensorPoolError):
    """The engine asked for a local command that the policy does not allow. The command was not run."""


class PathRefused(TensorPoolError):
    """The path of a file that the engine named leads outside the target folder, also through a link. It was not written.

    Attributes:
        name: The name of the file, as the engine gave it.
    """

    def __init__(self, message: str, *, name: str) -> None:
        super().__init__(message)
        self.name = name


class StreamError(TensorPoolError):
    """A WebSocket ended before its last message. It is retryable where the connection was lost, not refused.

    A push whose connection was lost may have started its job: look at `tp.jobs.list()` before it is repeated.

    Attributes:
        code: The close code; 1006 where the connection was lost, None where the engine sent an `error` message.
    """

    def __init__(self, message: str, *, code: int | None = None, retryable: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.retryable = retryable


class FleetError(TensorPoolError, ExceptionGroup[Exception]):
    """Members of a fleet failed; `.exceptions` holds one error for each of them.

    It is retryable where all of its exceptions are; `retry_after` is the longest of theirs.

    Attributes:
        members: The state of every member by name, including the healthy ones.
    """

    members: Mapping[str, str]

    def __new__(
        cls, message: str, exceptions: Sequence[Exception], members: Mapping[str, str] | None = None
    ) -> Self:
        group = super().__new__(cls, message, exceptions)
        group.members = dict(members or {})
        group.retryable = all(isinstance(one, TensorPoolError) and one.retryable for one in exceptions)
        pauses = [one.retry_after for one in exceptions if isinstance(one, TensorPoolError)]
        group.retry_after = max((pause for pause in pauses if pause is not None), default=None)
        return group

    def __init__(
        self,
        message: str,
        exceptions: Sequence[Exception],
        members: Mapping[str, str] | None = None,  # noqa: ARG002 - __new__ stores them
    ) -> None:
        super().__init__(message, exceptions)

    def derive(self, excs: Sequence[Exception]) -> FleetError:  # type: ignore[override]
        """Return a group of some of the exceptions, for `split` and `except*`."""
        return FleetError(self.message, excs, self.members)


class BudgetExceeded(TensorPoolError):
    """The request would cost more than its limit. Nothing was created.

    Attributes:
        hourly_cost: The cost in USD per hour; None where the engine names no price.
        limit: The limit in USD per hour.
    """

    def __init__(self, message: str, *, hourly_cost: float | None, limit: float) -> None:
        super().__init__(message)
        self.hourly_cost = hourly_cost
        self.limit = limit
