"""FastAPI: a client for the life of an app, errors as problem documents, and operations as server-sent events.

::

    app = FastAPI(lifespan=tensorpool_lifespan())
    add_exception_handlers(app)


    @app.post("/clusters", status_code=202)
    async def create(tp: TensorPoolDep) -> dict[str, str]:
        return {"token": (await tp.clusters.create("8xH100")).token}


    @app.get("/operations/{token}/events", response_class=EventSourceResponse)
    async def watch(operation: OperationDep, last_event_id: LastEventID = None) -> AsyncIterator[ServerSentEvent]:
        async for event in stream_operation(operation, last_event_id=last_event_id):
            yield event
"""

from __future__ import annotations

import inspect
import json
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from hashlib import blake2s
from http import HTTPStatus
from types import MappingProxyType
from typing import Annotated, Any, TypeAlias, cast
from weakref import WeakValueDictionary

import attrs
from fastapi import Depends, FastAPI, Header, HTTPException
from fastapi.requests import HTTPConnection, Request
from fastapi.responses import JSONResponse
from fastapi.sse import ServerSentEvent

from tensorpool_async.client import TensorPool
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
from tensorpool_async.models.request import RequestInfo
from tensorpool_async.operations.operation import Operation
from tensorpool_async.texts import logger_of


logger: logging.Logger = logger_of(__name__)

_CLIENT = "tensorpool"
_OPERATIONS = "tensorpool_operations"

State: TypeAlias = Mapping[str, Any] | None
"""What a lifespan yields: what each request finds in `request.state`."""

OwnLifespan: TypeAlias = (
    Callable[[FastAPI, TensorPool], AbstractAsyncContextManager[State]]
    | Callable[[FastAPI, TensorPool], AsyncIterator[State]]
)
"""A lifespan of the app's own: a context manager, or a function that yields once, of the app and the client."""


def tensorpool_lifespan(
    lifespan: OwnLifespan | None = None, /, **options: Any
) -> Callable[[FastAPI], AbstractAsyncContextManager[Mapping[str, Any]]]:
    """Make a lifespan that opens a client when the app starts, and closes it at its end.

    Args:
        lifespan: The app's own lifespan. It is called with the app and the client, runs within the client's life, and
            the state that it yields is the app's, as ever.
        options: What `TensorPool` takes.

    Raises:
        TypeError: `TensorPool` does not take such an option.
    """
    inspect.signature(TensorPool).bind(
        **options
    )  # a slip is told where it is written, not when the app starts
    own = _no_lifespan if lifespan is None else _as_context(lifespan)

    @asynccontextmanager
    async def run(app: FastAPI) -> AsyncGenerator[Mapping[str, Any]]:
        async with TensorPool(**options) as tp, own(app, tp) as state:
            yield {**(state or {}), _CLIENT: tp, _OPERATIONS: WeakValueDictionary[str, Operation[Any]]()}

    return run


@asynccontextmanager
async def _no_lifespan(app: FastAPI, tp: TensorPool) -> AsyncGenerator[State]:  # noqa: ARG001 - it is called as any other
    yield None


def _as_context(
    lifespan: OwnLifespan,
) -> Callable[[FastAPI, TensorPool], AbstractAsyncContextManager[State]]:
    if inspect.isasyncgenfunction(lifespan):
        return asynccontextmanager(lifespan)
    return cast("Callable[[FastAPI, TensorPool], AbstractAsyncContextManager[State]]", lifespan)


async def tensorpool(connection: HTTPConnection) -> TensorPool:
    """Depend on the app's client; `app.dependency_overrides[tensorpool]` puts another in its place.

    Raises:
        ConfigurationError: The app has no `tensorpool_lifespan`, or its server does not run lifespans.
    """
    tp = getattr(connection.state, _CLIENT, None)
    if not isinstance(tp, TensorPool):
        raise ConfigurationError("the app has no client: it needs FastAPI(lifespan=tensorpool_lifespan(…))")
    return tp


TensorPoolDep: TypeAlias = Annotated[TensorPool, Depends(tensorpool)]
"""The app's client, as a parameter of an endpoint: `async def endpoint(tp: TensorPoolDep)`."""


async def operation_of_path(token: str, tp: TensorPoolDep, connection: HTTPConnection) -> Operation[Any]:
    """Depend on the operation that the path parameter `token` names, by its token or its request id.

    However many browsers watch an operation, it is polled once, and once nobody watches it any more, it is not polled.
    Where the client has a `token_secret`, only tokens that it has signed are taken: else anybody who can reach the
    endpoint can have any operation, and any cluster, of the account looked at. Who may see what is the app's to decide.

    Raises:
        HTTPException: 404: that is no token, or not signed as it should be. With `add_exception_handlers` it is answered
            as a problem document.
    """
    known: WeakValueDictionary[str, Operation[Any]] | None = getattr(connection.state, _OPERATIONS, None)
    operation = None if known is None else known.get(token)
    if operation is None:
        try:
            operation = tp.operation(token, signed=tp.signs_tokens)
        except ConfigurationError as error:
            raise UnknownOperation from error
        if known is not None:
            known[token] = operation
    return operation


class UnknownOperation(HTTPException):
    """404: the path parameter is no token that this app takes."""

    def __init__(self) -> None:
        super().__init__(404, "There is no such operation.")

    def problem(self) -> Problem:
        """Return the problem document."""
        return Problem(status=self.status_code, error=type(self).__name__, detail=self.detail)


OperationDep: TypeAlias = Annotated[Operation[Any], Depends(operation_of_path)]
"""The operation of the path parameter `token`, as a parameter of an endpoint."""

LastEventID: TypeAlias = Annotated[str | None, Header(alias="Last-Event-ID")]
"""The id of the last event that a browser has received, which it sends when it connects again."""


PROBLEMS: Mapping[type[TensorPoolError], tuple[int, str]] = MappingProxyType(
    {
        TensorPoolError: (500, "The GPU cloud could not be used."),
        ConfigurationError: (500, "This service is not set up correctly."),
        FleetFileError: (500, "A fleet file of this service has a mistake."),
        WrongEventLoopError: (500, "This service uses its client wrongly."),
        ConnectionFailed: (502, "The GPU cloud cannot be reached."),
        RequestTimeout: (504, "The GPU cloud did not answer in time."),
        LimiterUnavailable: (503, "The rate limit that several processes share cannot be used."),
        StatusError: (502, "The GPU cloud refused the request."),
        BadRequest: (400, "The GPU cloud could not make sense of what was asked for."),
        AuthenticationError: (502, "The GPU cloud does not accept this service's key."),
        InsufficientBalance: (402, "The account's balance does not cover this."),
        PermissionDenied: (502, "The GPU cloud does not let this service do that."),
        NotFound: (404, "There is no such thing at the GPU cloud, or it is no longer there."),
        ConflictError: (
            409,
            "Not in the present state: a name is taken, it is protected, or a change is under way.",
        ),
        ValidationError: (422, "The GPU cloud does not accept a value of what was asked for."),
        RateLimited: (503, "The GPU cloud asks for fewer requests."),
        ServerError: (502, "The GPU cloud failed."),
        DecodeError: (502, "The GPU cloud's answer cannot be read."),
        OperationError: (
            503,
            "The wait for the operation ended here; the operation goes on at the GPU cloud.",
        ),
        OperationFailed: (502, "The GPU cloud could not carry the operation out."),
        OperationTimeout: (
            504,
            "The operation takes longer than this service waits; it goes on at the GPU cloud.",
        ),
        AmbiguousOutcomeError: (502, "An answer was lost, and whether the change was made is not known."),
        JournalError: (500, "This service cannot note down what it does; nothing was sent."),
        CommandRefused: (502, "The GPU cloud asked for a command that this service does not run."),
        PathRefused: (502, "The GPU cloud named a file that this service does not write."),
        StreamError: (502, "The GPU cloud's stream ended too early."),
        FleetError: (502, "Members of the fleet failed."),
        BudgetExceeded: (422, "This would cost more per hour than allowed; nothing was created."),
    }
)
"""What each error means to who called the app: the HTTP status, and a sentence without the engine's words.

401 and 403 of the engine are about the app's key, and never the browser's affair. An error of a class that is not
here is what its nearest base class is.
"""

_SPEAKING = (BadRequest, NotFound, ConflictError, ValidationError, OperationFailed)


@attrs.frozen(kw_only=True)
class Problem:
    """An error as RFC 9457 has it.

    Attributes:
        status: The HTTP status.
        error: The name of the error's class, for programs.
        detail: What it means, for a person.
        members: What else is known, as further members of the document.
        retry_after: Seconds after which trying again makes sense, where the engine named any.
    """

    status: int
    error: str
    detail: str
    members: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    retry_after: float | None = None

    def document(self) -> dict[str, Any]:
        """Return the problem document; its type is `about:blank`, so the title is that of the status."""
        title = HTTPStatus(self.status).phrase
        return {
            "title": title,
            "status": self.status,
            "detail": self.detail,
            "error": self.error,
            **self.members,
        }

    def response(self) -> JSONResponse:
        """Return the document as an answer, with Retry-After in whole seconds where it is known."""
        headers = {} if self.retry_after is None else {"Retry-After": str(math.ceil(self.retry_after))}
        return _ProblemResponse(self.document(), self.status, headers=headers)


class _ProblemResponse(JSONResponse):
    """A problem document, in ASCII: what an engine says may hold what no encoding has."""

    media_type = "application/problem+json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False).encode("ascii")


def problem_of(error: TensorPoolError, *, engine_messages: bool = False) -> Problem:
    """Say what an error means to who called the app. No key and no body of the engine is in it.

    Args:
        error: The error.
        engine_messages: Whether the engine's own sentence replaces ours where it is about what was asked for: 400, 404,
            409, 422, and why an operation failed.
    """
    cause = error.__cause__
    if isinstance(error, ConfigurationError) and isinstance(cause, StatusError):
        return problem_of(
            cause, engine_messages=engine_messages
        )  # what a fleet asks for, and the engine refuses
    status, detail = next(PROBLEMS[kind] for kind in type(error).__mro__ if kind in PROBLEMS)
    if isinstance(error, FleetFileError) and not error.path:
        status, detail = 422, str(error)  # no file of ours, but what the caller asked for
    if engine_messages and isinstance(error, _SPEAKING):
        detail = error.message
    return Problem(
        status=status,
        error=type(error).__name__,
        detail=detail,
        members=_members_of(error, engine_messages=engine_messages),
        retry_after=error.retry_after,
    )


def _members_of(error: TensorPoolError, *, engine_messages: bool) -> dict[str, Any]:
    members: dict[str, Any] = {}
    if error.token is not None:
        members["token"] = error.token
    if isinstance(error, BudgetExceeded):
        members |= {"hourly_cost": error.hourly_cost, "limit": error.limit}
    elif isinstance(error, FleetError):
        # `RUNNING (c-1)`, or `FAILED: ` and what the engine says.
        outcomes = {
            name: text if engine_messages else text.partition(":")[0] for name, text in error.members.items()
        }
        members["members"] = outcomes
    elif isinstance(error, AmbiguousOutcomeError) and error.name is not None:
        members["name"] = error.name
    elif isinstance(error, FleetFileError) and not error.path and error.key is not None:
        members["key"] = error.key
    return members


def add_exception_handlers(app: FastAPI, *, engine_messages: bool = False) -> None:
    """Let an app answer every error of this package with `application/problem+json`.

    Those that are not the caller's doing are logged with all that is known, under `tensorpool_async.fastapi`.

    Args:
        app: The app.
        engine_messages: As `problem_of`.
    """

    async def answer(request: Request, error: Exception) -> JSONResponse:
        problem = problem_of(cast("TensorPoolError", error), engine_messages=engine_messages)
        if problem.status >= 500:
            logger.warning("%s %s: %s", request.method, request.url.path, problem.error, exc_info=error)
        return problem.response()

    async def answer_unknown(request: Request, error: Exception) -> JSONResponse:  # noqa: ARG001 - it is called as any other
        return cast("UnknownOperation", error).problem().response()

    app.add_exception_handler(TensorPoolError, answer)
    app.add_exception_handler(UnknownOperation, answer_unknown)


async def stream_operation(
    operation: Operation[Any],
    *,
    last_event_id: str | None = None,
    retry: float = 2.0,
    engine_messages: bool = True,
) -> AsyncGenerator[ServerSentEvent]:
    """Tell of an operation as server-sent events, for an endpoint with `response_class=EventSourceResponse`.

    ======== ==============================================================
    event    data
    ======== ==============================================================
    update   `kind`, `resource_id`, `status`, `message`, each time that status or message changes
    result   `kind`, `resource_id`, `result`: the cluster, volume or job, or null. The last event
    failure  a problem document (see `problem_of`). The last event
    ======== ==============================================================

    A browser that goes away ends its stream and nothing else. When it connects again, its `Last-Event-ID` keeps it from
    being told the same twice; the token in it (see `token_of`) is all that another process needs to go on. A stream
    that ends without one of the last two events was cut, because the app shuts down for example, and the operation goes
    on. While there is nothing to tell, FastAPI sends a comment every 15 seconds.

    Args:
        operation: The operation.
        last_event_id: The browser's `Last-Event-ID` (see `LastEventID`).
        retry: Seconds after which a browser should connect again.
        engine_messages: Whether the engine's sentences on its progress and its failures are told.
    """
    yield ServerSentEvent(
        comment="connected", retry=math.ceil(retry * 1000)
    )  # so that a proxy passes the head on
    seen = _mark_in(last_event_id) if token_of(last_event_id) == operation.token else ""
    try:
        async with aclosing(cast("AsyncGenerator[RequestInfo]", operation.updates())) as updates:
            async for info in updates:
                if seen and operation.polls == 0:
                    continue  # what an operation that goes on begins with is older than what was seen
                mark = _mark_of(info)
                if mark != seen:
                    yield _update(operation, info, mark, engine_messages=engine_messages)
                seen = ""
        last = ServerSentEvent(event="result", id=_id(operation, "end"), data=await _result(operation))
    except (OperationFailed, OperationTimeout) as error:
        last = _failure(operation, error, engine_messages=engine_messages)
    except OperationError:
        return  # the client was closed: nobody waits here any more, and the operation goes on
    except TensorPoolError as error:
        last = _failure(operation, error, engine_messages=engine_messages)
    yield last


def token_of(event_id: str | None) -> str | None:
    """Return the operation's token in an event's id, for `TensorPool.operation`; None where there is none."""
    return (event_id or "").rpartition(":")[0] or None


def _id(operation: Operation[Any], mark: str) -> str:
    return f"{operation.token}:{mark}"


def _mark_in(event_id: str | None) -> str:
    return (event_id or "").rpartition(":")[2]


def _mark_of(info: RequestInfo) -> str:
    return blake2s(
        f"{info.status}\n{info.external_message}".encode("utf-8", "surrogatepass"), digest_size=6
    ).hexdigest()


def _update(
    operation: Operation[Any], info: RequestInfo, mark: str, *, engine_messages: bool
) -> ServerSentEvent:
    data = {
        "kind": info.request_type,
        "resource_id": operation.resource_id,
        "status": info.status,
        "message": info.external_message if engine_messages else None,
    }
    return ServerSentEvent(event="update", id=_id(operation, mark), data=data)


async def _result(operation: Operation[Any]) -> dict[str, Any]:
    result: Any = await operation
    return {
        "kind": operation.kind,
        "resource_id": operation.resource_id,
        "result": None if result is None else public(result),
    }


def _failure(operation: Operation[Any], error: TensorPoolError, *, engine_messages: bool) -> ServerSentEvent:
    problem = problem_of(error, engine_messages=engine_messages)
    return ServerSentEvent(event="failure", id=_id(operation, "end"), data=problem.document())


def public(model: Any) -> dict[str, Any]:
    """Return a model's fields, to be made JSON of; what this package does not know of an answer (`extra`) is left out."""
    return attrs.asdict(model, filter=lambda attribute, _: attribute.name != "extra")
