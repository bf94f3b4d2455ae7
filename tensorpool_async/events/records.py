"""The event records. They are frozen, and other code may keep them.

No record holds a key, a body, or the query of a signed address. In texts of the engine the key is masked.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs


@attrs.frozen(kw_only=True)
class RequestEvent:
    """The fields of every event of one HTTP attempt.

    Attributes:
        engine: The engine's address.
        method: The HTTP method.
        path: The path, with its ids and without its query.
        route: The path with `{id}` in place of an id. There are few routes, so it can label a metric.
        lane: The queue in which the attempt waits for its slot: `change`, `read` or `poll`.
        attempt: The number of the attempt within its request, from 1 on. Every poll is a request of its own.
        kind: The kind of operation that the request starts or polls, such as `CLUSTER_CLAIM`; None for other requests.
        name: The name of the resource that the request creates; None where it creates none, or one without a name.
        resource_id: The id of the resource; None where it is not known.
        request_id: The engine's id of the request that is polled; None where none is polled.
    """

    engine: str
    method: str
    path: str
    route: str
    lane: str
    attempt: int = 1
    kind: str | None = None
    name: str | None = None
    resource_id: str | None = None
    request_id: str | None = None


@attrs.frozen(kw_only=True)
class RequestSent(RequestEvent):
    """An HTTP attempt has its slot, and is sent now."""


@attrs.frozen(kw_only=True)
class RequestAnswered(RequestEvent):
    """The engine has answered an attempt, with any status.

    Attributes:
        status: The HTTP status.
        seconds: Seconds from sending the attempt until the answer was read.
        retry_after: Seconds that the engine asks to wait before the next request; None where it does not say.
    """

    status: int
    seconds: float
    retry_after: float | None = None


@attrs.frozen(kw_only=True)
class RequestFailed(RequestEvent):
    """An attempt got no answer, or its caller was cancelled.

    Attributes:
        why: What went wrong, as a text for a person.
        error_type: The class of the error, such as `RequestTimeout`; `CancelledError` where the caller was cancelled.
        seconds: Seconds since the attempt was sent.
    """

    why: str
    error_type: str
    seconds: float


@attrs.frozen(kw_only=True)
class RequestRetried(RequestEvent):
    """A request will be sent again.

    Attributes:
        attempt: The number of the next attempt.
        why: Why the last attempt failed, as a text for a person.
        delay: Seconds until the request queues again. After a 429, the seconds that the engine asks to wait.
    """

    why: str
    delay: float


@attrs.frozen(kw_only=True)
class RequestsPaused:
    """The engine asks to wait, and all requests pause. Answers that ask for the same pause give one event.

    Attributes:
        engine: The engine's address.
        seconds: Seconds of the pause, at most `RetryPolicy.longest_pause`.
        reason: `rate` where requests followed each other too fast, `quota` where a quota is used up.
        asked: Seconds that the engine asks to wait; None where that is not longer than `seconds`.
    """

    engine: str
    seconds: float
    reason: str
    asked: float | None = None


@attrs.frozen(kw_only=True)
class OperationEvent:
    """The fields of every event of an operation.

    Attributes:
        engine: The engine's address.
        kind: The kind of the operation, such as `CLUSTER_CLAIM`. None until the first poll of an operation that was
            resumed from a bare request id.
        resource_id: The id of the resource that the operation changes; None where it is not known.
        request_id: The engine's id of the request; None where the engine gave none.
        request_ids: The ids of all its requests. Attaching a volume may have several.
    """

    engine: str
    kind: str | None = None
    resource_id: str | None = None
    request_id: str | None = None
    request_ids: tuple[str, ...] = ()

    @property
    def subject(self) -> str:
        """The kind and the resource, as a text for a person."""
        return f"{self.kind or 'an operation'} of {self.resource_id or 'an unknown resource'}"


@attrs.frozen(kw_only=True)
class OperationAccepted(OperationEvent):
    """An operation is polled from now on.

    Attributes:
        resumed: False where the engine has just answered 202; True where it accepted the operation earlier, in this
            process or in another one.
    """

    resumed: bool = False


@attrs.frozen(kw_only=True)
class OperationChanged(OperationEvent):
    """The engine reports a new status or message of an operation.

    Attributes:
        status: The status, such as `PROCESSING`.
        message: The engine's message for a person; empty where there is none.
    """

    status: str
    message: str = ""


@attrs.frozen(kw_only=True)
class OperationEnded(OperationEvent):
    """An operation is no longer polled.

    Attributes:
        outcome: `completed` or `failed` where the engine reported that. `unknown` where polling ended before: the client
            was closed, the engine keeps refusing the poll, or nobody awaits an operation that was resumed from its
            token. If such an operation is awaited again, it is polled again, with another `OperationAccepted`.
        seconds: Seconds since the `OperationAccepted` of this operation.
        polls: The number of polls that were answered.
        error: Why the operation has no result, as a text for a person; None where it has one.
        error_type: The class of that error; None where there is none.
    """

    outcome: str
    seconds: float
    polls: int
    error: str | None = None
    error_type: str | None = None


@attrs.frozen(kw_only=True)
class FleetMemberChanged:
    """A member of a fleet changed its state, or the engine reported something new about it.

    Attributes:
        fleet: The fleet's name.
        member: The member's name.
        group: The name of the member's group.
        state: The member's state; see `MemberState`.
        message: The engine's message, or why the state changed, as a text for a person; may be empty.
        resource_id: The cluster's id; None until the engine has accepted its creation.
        instance_type: The instance type that the cluster has or was requested with; None where it is not known.
        seconds: Seconds since the fleet started its work.
        hourly_rate: The cluster's price in USD per hour; None where the engine names no price.
    """

    fleet: str
    member: str
    group: str
    state: str
    message: str = ""
    resource_id: str | None = None
    instance_type: str | None = None
    seconds: float = 0.0
    hourly_rate: float | None = None


@attrs.frozen(kw_only=True)
class ChangeUnrecorded:
    """A change that stops a cost is sent although the journal cannot be written.

    Attributes:
        engine: The engine's address.
        kind: The kind of operation, such as `CLUSTER_RELEASE`.
        resource_id: The id of the resource that stops costing money; None where it is not known.
        why: Why the journal cannot be written, as a text for a person.
    """

    engine: str
    kind: str
    resource_id: str | None
    why: str


@attrs.frozen(kw_only=True)
class JobMessage:
    """The engine sent a message while a job was pushed.

    Attributes:
        job_id: The job's id; None until the engine has sent it.
        message: The text of the message.
    """

    job_id: str | None
    message: str


@attrs.frozen(kw_only=True)
class CommandStarted:
    """A command that the engine requested starts on this machine, without a shell.

    Attributes:
        arguments: The program and its arguments.
    """

    arguments: tuple[str, ...]


@attrs.frozen(kw_only=True)
class CommandOutput:
    """A running command has written output.

    Attributes:
        arguments: The program and its arguments.
        stream: `stdout` or `stderr`.
        text: The output as it arrived, which may be a part of a line or several lines.
        shown: Whether the engine requests that the output is shown to the user.
    """

    arguments: tuple[str, ...]
    stream: str
    text: str
    shown: bool


@attrs.frozen(kw_only=True)
class CommandEnded:
    """A command has ended.

    Attributes:
        arguments: The program and its arguments.
        exit_code: The exit code; 127 where the command could not be started.
    """

    arguments: tuple[str, ...]
    exit_code: int


@attrs.frozen(kw_only=True)
class SecretsInUpload:
    """An upload that is about to start contains private keys or `.env` files.

    Attributes:
        folder: The folder that is uploaded.
        paths: The paths of these files, relative to the folder. `exclude=` of `push` leaves files out.
    """

    folder: str
    paths: tuple[str, ...]


@attrs.frozen(kw_only=True)
class BytesPulled:
    """A part of a file was downloaded.

    Attributes:
        job_id: The id of the job whose output the file is.
        name: The engine's name of the file.
        received: Bytes of the file that were received so far.
        total: Bytes of the whole file; None where the server does not say.
        done: Whether the file is complete and has its final name.
    """

    job_id: str
    name: str
    received: int
    total: int | None
    done: bool


Event = (
    RequestSent
    | RequestAnswered
    | RequestFailed
    | RequestRetried
    | RequestsPaused
    | OperationAccepted
    | OperationChanged
    | OperationEnded
    | FleetMemberChanged
    | ChangeUnrecorded
    | JobMessage
    | CommandStarted
    | CommandOutput
    | CommandEnded
    | BytesPulled
    | SecretsInUpload
)
"""Any event that a listener receives."""

Listener = Callable[[Event], object]
"""A function or a coroutine function that is called with each event."""
