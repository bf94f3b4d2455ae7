"""What can go wrong, by what it means for the caller.

::

    TensorPoolError
    ├── ConfigurationError        no key, an unusable base URL, a fleet file with a mistake: nothing was sent
    │   └── FleetFileError        with the path, the line and the key of the file
    ├── WrongEventLoopError       a client used on another event loop than that of its first use
    ├── ConnectionFailed          no answer; `.sent` says whether the engine may have seen the request
    │   ├── RequestTimeout        no answer in time
    │   └── LimiterUnavailable    the limiter shared with other processes cannot be used: nothing was sent
    ├── StatusError               the engine's answer was a refusal
    │   ├── BadRequest            400
    │   ├── AuthenticationError   401: the key is missing, wrong or revoked
    │   ├── InsufficientBalance   402
    │   ├── PermissionDenied      403: a valid key that may not do this
    │   ├── NotFound              404, 410
    │   ├── ConflictError         409: a name that is taken, deletion protection, a change in progress
    │   ├── ValidationError       422
    │   ├── RateLimited           429, with `.retry_after` in seconds
    │   └── ServerError           5xx
    ├── DecodeError               an answer that says success and cannot be read
    ├── OperationError            the end of a wait for an operation
    │   ├── OperationFailed       the engine ended the operation as FAILED
    │   └── OperationTimeout      the caller's timeout ended the wait; the operation lives on (also a TimeoutError)
    ├── AmbiguousOutcomeError     a change was sent, its answer was lost, and whether it was made is not known
    ├── JournalError              the journal cannot be read or written, so nothing was sent
    ├── CommandRefused            the engine asked for a command that the caller's policy does not allow
    ├── PathRefused               the engine named a file outside of the folder that it is meant for
    ├── StreamError               the end of a job's stream before its last word; `.retryable` says what to do
    ├── FleetError                members of a fleet failed (also an ExceptionGroup)
    └── BudgetExceeded            a fleet would cost more per hour than its `max_hourly_cost`

Every error that has to do with an operation carries it as `.operation`, and its token as `.token`, so that a failed wait
never loses what it waited for. No error ever holds the API key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike, fspath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from tensorpool_async.texts import clean


if TYPE_CHECKING:
    from tensorpool_async.operations.operation import Operation


UNPICKLED = frozenset({"operation", "operations"})
"""Attributes that are bound to a client, and so belong to its process."""

NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class TensorPoolError(Exception):
    """The base of every error that this package raises on purpose.

    Attributes:
        operation: The operation that this error belongs to, if there is one. An operation is bound to its client, so
            an error that was pickled has None here and still has the `token`.
        token: The token of that operation: `TensorPool.operation(token)` goes on with it, also in another process.
    """

    operation: Operation[Any] | None = None
    token: str | None = None

    def __str__(self) -> str:
        # It may quote the engine, and ends in logs and on terminals. `args` and `body` have the text as it came.
        return clean(super().__str__())

    def bind(self, operation: Operation[Any]) -> Self:
        """Note which operation this error belongs to, and return the error."""
        self.operation = operation
        self.token = operation.token
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in UNPICKLED}

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        return _rebuild, (type(self), self.args), self.__getstate__()


def _rebuild(kind: type[TensorPoolError], args: tuple[Any, ...]) -> TensorPoolError:
    # The state that follows restores every attribute, so the constructor's own signature need not be met.
    error = kind.__new__(kind, *args)
    error.args = (
        args  # OSError's __new__, behind TimeoutError, leaves them to an __init__ that is not called here
    )
    return error


class ConfigurationError(TensorPoolError):
    """The client cannot work with what it was given. Nothing was sent."""


class FleetFileError(ConfigurationError):
    """A fleet file has a mistake.

    Attributes:
        path: The file.
        line: The line of the mistake, counted from 1, where it is known.
        key: The dotted key, such as `clusters.trainer.count`, where there is one.
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
    """A client, a limiter or an operation was used on another event loop than that of its first use."""


class ConnectionFailed(TensorPoolError):
    """The engine gave no answer.

    Attributes:
        sent: Whether the engine may have received the request. False only where that is certain, since nothing of any
            attempt was written to a connection: an address that was not found, a connection that was refused or not made in
            time, a proxy or a session that cannot be used.
        permanent: Whether trying again cannot help, as with a TLS certificate that is not trusted.
    """

    def __init__(self, message: str, *, sent: bool = True, permanent: bool = False) -> None:
        super().__init__(message)
        self.sent = sent
        self.permanent = permanent


class RequestTimeout(ConnectionFailed, TimeoutError):
    """The engine gave no answer in time (see `Timeouts`)."""


class LimiterUnavailable(ConnectionFailed):
    """The rate limit that is shared with other processes cannot be used, or its limiter is closed. Nothing was sent.

    Attributes:
        sent: Always False.
        permanent: Whether trying again cannot help, as with a wrong password.
    """

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        super().__init__(message, sent=False, permanent=permanent)


class StatusError(TensorPoolError):
    """The engine answered, and its answer is a refusal.

    Attributes:
        status: The HTTP status.
        message: What the engine says, as a sentence for a person.
        body: The whole body: the decoded JSON, or the text where it is none.
        headers: The headers of the answer.
        method: The method of the request.
        path: The path of the request.
        retry_after: Seconds until the engine wants to be asked again, or None where it did not say.
    """

    retry_after: float | None = None

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

    by_status: ClassVar[dict[int, type[StatusError]]] = {}

    def __init_subclass__(cls, *, status: int | None = None) -> None:
        if status is not None:
            StatusError.by_status[status] = cls


class BadRequest(StatusError, status=400):
    """400: the engine could not make sense of the request."""


class AuthenticationError(StatusError, status=401):
    """401: the API key is missing, wrong or revoked."""


class InsufficientBalance(StatusError, status=402):
    """402: the balance does not cover what was asked for."""


class PermissionDenied(StatusError, status=403):
    """403: the key is valid, and may not do this."""


class NotFound(StatusError, status=404):
    """404 or 410: there is no such object, or it is no longer there."""


StatusError.by_status[410] = NotFound


class ConflictError(StatusError, status=409):
    """409: refused in the present state: a name that is taken, deletion protection, a change in progress."""


class ValidationError(StatusError, status=422):
    """422: a value that the engine does not accept; the message names the field."""


class RateLimited(StatusError, status=429):
    """429: too many requests, also after waiting as often as the retry policy allows; see `retry_after`.

    It is raised at once where `retry_after` is longer than `RetryPolicy.longest_pause`.
    """


class ServerError(StatusError):
    """5xx: the engine, or something in front of it, failed."""


class DecodeError(TensorPoolError):
    """An answer says success, and cannot be read: no JSON, cut off, too large, or without what it must hold.

    Attributes:
        path: The path of the request.
        too_large: Whether it is larger than `TensorPool(max_response_bytes=…)`; it is not asked for again.
    """

    def __init__(self, message: str, *, path: str = "", too_large: bool = False) -> None:
        super().__init__(f"{message} ({path})" if path else message)
        self.path = path
        self.too_large = too_large


class OperationError(TensorPoolError):
    """A wait for an operation ended without its result; `.operation` and `.token` say which, and how to go on."""


class OperationFailed(OperationError):
    """The engine ended the operation as FAILED.

    Attributes:
        message: The reason that the engine gives (its `external_message`).
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.message: str = reason or message


class OperationTimeout(OperationError, TimeoutError):
    """The timeout of a wait ran out. The operation lives on and can be awaited again."""


class AmbiguousOutcomeError(TensorPoolError):
    """A change was sent and its answer was lost: the engine may have made it, or not.

    Attributes:
        name: The name that the resource has if it was made.
        method: The method of the request.
        path: The path of the request.
        operations: From `TensorPool.recover`: the operations that were found all the same; not kept by pickle.
    """

    operations: tuple[Operation[Any], ...] = ()

    def __init__(self, message: str, *, name: str | None = None, method: str = "", path: str = "") -> None:
        super().__init__(message)
        self.name = name
        self.method = method
        self.path = path


class JournalError(TensorPoolError):
    """The journal cannot be read or written. What was to be noted in it was not sent, unless it ends a cost on the way out.

    Attributes:
        path: The file.
        problem: What is wrong with it.
        advice: What to do about it.
    """

    def __init__(self, path: str | PathLike[str], problem: str, advice: str) -> None:
        super().__init__(f"the journal {path} {problem}; {advice}")
        self.path: str = fspath(path)
        self.problem = problem
        self.advice = advice

    def again(self) -> Self:
        """Make the same error for one more caller, so that no two share a traceback."""
        return type(self)(self.path, self.problem, self.advice)


class CommandRefused(TensorPoolError):
    """The engine asked for a command to be run here that the policy does not allow; it was not run."""


class PathRefused(TensorPoolError):
    """The engine named a file that would leave the folder that it is meant for, or a link leads it out; it was not written.

    Attributes:
        name: The file's name, as the engine gave it.
    """

    def __init__(self, message: str, *, name: str) -> None:
        super().__init__(message)
        self.name = name


class StreamError(TensorPoolError):
    """A WebSocket ended before its last word.

    Attributes:
        code: The code that it was closed with; 1006 where the connection was lost, None where the engine said `error`.
        retryable: Whether trying again may help: the connection was lost, not refused.
    """

    def __init__(self, message: str, *, code: int | None = None, retryable: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.retryable = retryable


class FleetError(TensorPoolError, ExceptionGroup[Exception]):
    """Members of a fleet failed; `.exceptions` holds one error for each of them.

    Attributes:
        members: What became of each member, by name, also of those that are well.
    """

    members: Mapping[str, str]

    def __new__(
        cls, message: str, exceptions: Sequence[Exception], members: Mapping[str, str] | None = None
    ) -> Self:
        group = super().__new__(cls, message, exceptions)
        group.members = dict(members or {})
        return group

    def __init__(
        self,
        message: str,
        exceptions: Sequence[Exception],
        members: Mapping[str, str] | None = None,  # noqa: ARG002 - __new__ has kept them
    ) -> None:
        super().__init__(message, exceptions)

    def derive(self, excs: Sequence[Exception]) -> FleetError:  # type: ignore[override]
        """Make a group of some of the errors, as `split` and `except*` ask for."""
        return FleetError(self.message, excs, self.members)


class BudgetExceeded(TensorPoolError):
    """What was asked for would cost more than allowed; nothing was created.

    Attributes:
        hourly_cost: What it would cost, in USD per hour; None where the engine names no price.
        limit: What is allowed, in USD per hour.
    """

    def __init__(self, message: str, *, hourly_cost: float | None, limit: float) -> None:
        super().__init__(message)
        self.hourly_cost = hourly_cost
        self.limit = limit
