"""The life of an operation, as a state machine without I/O.

An operation is in one of four phases:

- FOLLOWING: its request is polled until the engine says COMPLETED or FAILED. An operation with several requests
  follows one after the other.
- WATCHING: the engine named no request, or no longer knows it, so the resource itself is polled.
- READING: the engine is done, and the resource is read, since it is the result.
- DONE: there is a result, or an error.

What moves it between them is one of the events below; the table says where to. Answers that are cut off, errors of
the server and lost connections are no events: the same poll is made again, later. So only the engine's word, a lasting
refusal, or the caller ends an operation's wait. Also lasting is a resource that is answered whole, and time and again is
none that this package can read.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, cast

import attrs

from tensorpool_async.errors import (
    AuthenticationError,
    DecodeError,
    NotFound,
    OperationFailed,
    PermissionDenied,
    StatusError,
    TensorPoolError,
)
from tensorpool_async.models.enums import OperationKind, RequestStatus
from tensorpool_async.models.request import RequestInfo
from tensorpool_async.models.structure import structure
from tensorpool_async.protocol.operation_specs import (
    DELETE_STARTED,
    OPERATION_SPECS,
    OperationSpec,
    Outcome,
    is_deleting,
    status_text,
)
from tensorpool_async.protocol.polling import PollPolicy, delay_after, first_delay
from tensorpool_async.protocol.requests import Request, is_id
from tensorpool_async.protocol.responses import Answer, Response, answer_of
from tensorpool_async.protocol.tokens import OperationRef


REQUEST_INFO = "/request/info/{id}"

LASTING_404 = 5
"""The number of 404 responses in a row that count as final. A new resource may not be visible everywhere at once."""

LASTING_404_SECONDS = 2.0
"""Seconds that these polls must span as well, since an engine may ask to be polled without a delay."""

SHORTEST_404_DELAY = 0.05
"""The shortest delay in seconds between two of these polls, once there were enough of them."""

LONGEST_PAUSE = 120.0
"""The longest delay in seconds that an error response can cause; the default of `longest_pause`."""

LASTING_NONSENSE = 20
"""The number of complete but undecodable responses in a row that count as final."""


LARGEST_INFO = 64 * 1024
"""Bytes of a response about a request. Of a larger one, only the beginnings of its texts are kept."""

LONGEST_INFO_TEXT = 4096
"""Characters that are kept of a text in such a response."""


class Phase(Enum):
    """The phase of an operation: what its polls read."""

    FOLLOWING = "following its request"
    WATCHING = "watching the resource"
    READING = "reading the result"
    DONE = "done"


class MachineInput(Enum):
    """The meaning of a response for an operation."""

    PROGRESS = "not done yet"
    NEXT_REQUEST = "one of several requests completed"
    COMPLETED = "the last request completed; the resource is the result"
    COMPLETED_WITHOUT_RESULT = "the last request completed; there is no result to read"
    FAILED = "the engine failed"
    MISSING = "the request is lastingly unknown; the resource is known"
    LOST = "nothing is left to ask"
    REFUSED = "401 or 403"
    UNREADABLE = "lastingly nothing that this package can read"
    RESULT = "the result was read"


TRANSITIONS: dict[tuple[Phase, MachineInput], Phase] = {
    (Phase.FOLLOWING, MachineInput.PROGRESS): Phase.FOLLOWING,
    (Phase.FOLLOWING, MachineInput.NEXT_REQUEST): Phase.FOLLOWING,
    (Phase.FOLLOWING, MachineInput.COMPLETED): Phase.READING,
    (Phase.FOLLOWING, MachineInput.COMPLETED_WITHOUT_RESULT): Phase.DONE,
    (Phase.FOLLOWING, MachineInput.FAILED): Phase.DONE,
    (Phase.FOLLOWING, MachineInput.MISSING): Phase.WATCHING,
    (Phase.FOLLOWING, MachineInput.LOST): Phase.DONE,
    (Phase.FOLLOWING, MachineInput.REFUSED): Phase.DONE,
    (Phase.WATCHING, MachineInput.PROGRESS): Phase.WATCHING,
    (Phase.WATCHING, MachineInput.RESULT): Phase.DONE,
    (Phase.WATCHING, MachineInput.COMPLETED_WITHOUT_RESULT): Phase.DONE,
    (Phase.WATCHING, MachineInput.FAILED): Phase.DONE,
    (Phase.WATCHING, MachineInput.LOST): Phase.DONE,
    (Phase.WATCHING, MachineInput.REFUSED): Phase.DONE,
    (Phase.WATCHING, MachineInput.UNREADABLE): Phase.DONE,
    (Phase.READING, MachineInput.RESULT): Phase.DONE,
    (Phase.READING, MachineInput.LOST): Phase.DONE,
    (Phase.READING, MachineInput.REFUSED): Phase.DONE,
    (Phase.READING, MachineInput.UNREADABLE): Phase.DONE,
}


class OperationMachine:
    """The state machine of one operation, without I/O.

    `next_request()` returns the request to poll with. Pass the response to `receive`, or a failure to `receive_failure`;
    both return the seconds until the next poll, or None at the end. `result` and `error` then hold the outcome.
    """

    __slots__ = (
        "_failures",
        "_index",
        "_longest_pause",
        "_missing",
        "_missing_for",
        "_policy",
        "_request",
        "_seen",
        "_unreadable",
        "error",
        "expected",
        "info",
        "kind",
        "phase",
        "polls",
        "request_ids",
        "resource_id",
        "result",
    )

    def __init__(
        self, ref: OperationRef, policy: PollPolicy, *, longest_pause: float = LONGEST_PAUSE
    ) -> None:
        """Start or resume an operation.

        Args:
            ref: The reference to the operation.
            policy: How often the operation is polled.
            longest_pause: The longest delay in seconds that an error response can cause (`RetryPolicy.longest_pause`).
        """
        self.kind: OperationKind | None = ref.kind
        self.resource_id: str | None = ref.resource_id
        self.request_ids: tuple[str, ...] = ref.request_ids
        self.expected: dict[str, Any] = ref.expected
        self.phase = Phase.FOLLOWING if ref.request_ids else Phase.WATCHING
        self.info: RequestInfo | None = None if ref.kind is None else self._own_info(RequestStatus.PENDING)
        self.result: Any = None
        self.error: TensorPoolError | None = None
        self.polls: int = 0
        self._policy = policy
        self._longest_pause = longest_pause
        self._index = 0
        self._failures = 0
        self._missing = 0
        self._missing_for = 0.0
        self._unreadable = 0
        self._request: Request[Any] | None = None
        self._seen: int | None = None

    @property
    def ref(self) -> OperationRef:
        """The reference with which another process can resume the operation."""
        return OperationRef(self.kind, self.resource_id, self.request_ids, self.expected)

    @property
    def done(self) -> bool:
        """Whether the operation has ended."""
        return self.phase is Phase.DONE

    def first_delay(self, retry_after: float | None, jitter: float) -> float:
        """Return the seconds until the first poll; `retry_after` is that of the 202."""
        return first_delay(self._policy, retry_after, jitter)

    def next_request(self) -> Request[Any]:
        """Return the request of the next poll. It is the same object until the request changes."""
        request = self._request
        if request is None:
            if self.phase is Phase.FOLLOWING:
                request = Request("GET", REQUEST_INFO, key=self.request_ids[self._index])
            else:
                request = self._spec().resource.read(self.resource_id or "")
            self._request = request
        return request

    def receive(
        self, response: Response, jitter: float, *, asked: Request[Any] | None = None
    ) -> float | None:
        """Process a response of any status. Return the seconds until the next poll, or None at the end.

        Args:
            response: The response.
            jitter: A random number between 0 and 1.
            asked: The request of the response, if another response may have been processed in between. A response to
                a request that is no longer current is ignored, since it would be decoded as something else.
        """
        self.polls += 1
        if self.phase is Phase.DONE:
            return None
        request = self._request or self.next_request()
        if asked is not None and asked is not request and asked.path != request.path:
            return 0.0
        if response.status == 200 and hash(response.body) == self._seen:
            # Nearly every response equals the previous one, and then has the same meaning.
            self._failures = self._missing = self._unreadable = 0
            return delay_after(self._policy, response.retry_after, failures=0, jitter=jitter)
        return self._process(request, response, jitter)

    def _process(self, request: Request[Any], response: Response, jitter: float) -> float | None:
        try:
            answer = answer_of(response, method=request.method, path=request.path)
        except NotFound as error:
            return self._not_found(error, response, jitter)
        except (AuthenticationError, PermissionDenied) as error:
            self.error = error
            return self._advance(MachineInput.REFUSED, None, jitter)
        except StatusError as error:
            return self.receive_failure(error, jitter, retry_after=response.retry_after)
        except DecodeError as error:
            return self.receive_failure(error, jitter)
        try:
            event = self._read(request, answer, is_large=len(response.body) > LARGEST_INFO)
        except DecodeError as error:
            return self._not_understood(error, answer, jitter)
        self._failures = self._missing = self._unreadable = 0
        if event is MachineInput.PROGRESS:
            self._seen = hash(
                response.body
            )  # not the body, since tens of thousands of operations may be in flight
        return self._advance(event, answer.retry_after, jitter)

    def _not_understood(self, error: DecodeError, answer: Answer, jitter: float) -> float | None:
        if self.phase is Phase.FOLLOWING or answer.body is None:
            return self.receive_failure(error, jitter)  # an empty response may have been truncated
        self._unreadable += 1
        if self._unreadable < LASTING_NONSENSE:
            return self.receive_failure(error, jitter)
        self.error = error
        return self._advance(MachineInput.UNREADABLE, None, jitter)

    def receive_failure(
        self,
        error: TensorPoolError,  # noqa: ARG002 - every failure is handled alike
        jitter: float,
        *,
        retry_after: float | None = None,
    ) -> float:
        """Process a poll without a response. Return the seconds until the next poll."""
        retry_after = self._believed(retry_after)
        self._failures += 1
        return delay_after(self._policy, retry_after, failures=self._failures, jitter=jitter)

    def _read(self, request: Request[Any], answer: Answer, *, is_large: bool) -> MachineInput:
        if self.phase is Phase.FOLLOWING:
            self._reuse_texts(answer.body)
            info = structure(answer.body, RequestInfo, path=request.path)
            return self._read_request(_shortened(info) if is_large else info)
        model = request.decode(answer)
        if self.phase is Phase.READING:
            self.result = model
            return MachineInput.RESULT
        return self._read_resource(model)

    def _reuse_texts(self, body: Any) -> None:
        """Replace the ids of a response by the strings that are stored already, to save memory."""
        if isinstance(body, dict):
            fields = cast("dict[str, Any]", body)
            for name, known in (
                ("request_id", self.request_ids[self._index]),
                ("object_id", self.resource_id),
            ):
                if known is not None and fields.get(name) == known:
                    fields[name] = known

    def _read_request(self, info: RequestInfo) -> MachineInput:
        if self.kind is None:
            self.kind = info.request_type
        if self.resource_id is None and is_id(info.object_id):
            self.resource_id = info.object_id
        is_last = self._index + 1 == len(self.request_ids)
        if info.status is RequestStatus.COMPLETED and not is_last:
            self.info = attrs.evolve(info, status=RequestStatus.PROCESSING)
            self._index += 1
            return MachineInput.NEXT_REQUEST
        self.info = info
        if info.status is RequestStatus.FAILED:
            self.error = self._failure(info.external_message)
            return MachineInput.FAILED
        if info.status is not RequestStatus.COMPLETED:
            return MachineInput.PROGRESS
        spec = OPERATION_SPECS.get(self.kind)
        readable = spec is not None and spec.has_result and self.resource_id
        return MachineInput.COMPLETED if readable else MachineInput.COMPLETED_WITHOUT_RESULT

    def _read_resource(self, model: Any) -> MachineInput:
        spec = self._spec()
        outcome = spec.outcome(model, self.expected)
        text = status_text(model)[:LONGEST_INFO_TEXT]
        if outcome is Outcome.PENDING:
            self.info = self._own_info(RequestStatus.PROCESSING, text)
            if spec.done_when_gone and is_deleting(model):
                self.expected = {**self.expected, DELETE_STARTED: True}
            return MachineInput.PROGRESS
        if outcome is Outcome.FAILED:
            self.info = self._own_info(RequestStatus.FAILED, text)
            self.error = self._failure(f"it is {text}")
            return MachineInput.FAILED
        self.info = self._own_info(RequestStatus.COMPLETED, text)
        self.result = model if spec.has_result else None
        return MachineInput.RESULT

    def _not_found(self, error: NotFound, response: Response, jitter: float) -> float | None:
        if self.phase is Phase.WATCHING and self._spec().done_when_gone:
            self.info = self._own_info(RequestStatus.COMPLETED, "it is gone")
            return self._advance(MachineInput.COMPLETED_WITHOUT_RESULT, None, jitter)
        self._missing_for = self._missing_for if self._missing else 0.0
        self._missing += 1
        if self._missing < LASTING_404 or self._missing_for < LASTING_404_SECONDS:
            pause = self._believed(response.retry_after)
            delay = delay_after(self._policy, pause, failures=0, jitter=jitter)
            if self._missing >= LASTING_404:
                delay = max(delay, SHORTEST_404_DELAY)
            self._missing_for += delay
            return delay
        spec = OPERATION_SPECS.get(self.kind or OperationKind(""))
        can_watch = spec is not None and spec.can_watch(self.resource_id, self.expected)
        if self.phase is Phase.FOLLOWING and can_watch:
            self._missing = 0
            return self._advance(MachineInput.MISSING, 0.0, jitter)
        self.error = error
        return self._advance(MachineInput.LOST, None, jitter)

    def _advance(self, event: MachineInput, retry_after: float | None, jitter: float) -> float | None:
        if event is MachineInput.PROGRESS:  # nearly every poll, and it changes no phase
            return delay_after(self._policy, retry_after, failures=0, jitter=jitter)
        self.phase = TRANSITIONS[self.phase, event]
        self._request = self._seen = None
        # The engine has named no pace for the new request.
        return None if self.phase is Phase.DONE else 0.0

    def _believed(self, retry_after: float | None) -> float | None:
        """Return the Retry-After of an error response, limited to `longest_pause`, since the engine may be wrong."""
        return None if retry_after is None else min(retry_after, self._longest_pause)

    def _spec(self) -> OperationSpec:
        return OPERATION_SPECS[self.kind or OperationKind("")]

    def _own_info(self, status: RequestStatus, message: str | None = None) -> RequestInfo:
        return RequestInfo(
            request_id=self.request_ids[0] if self.request_ids else None,
            request_type=self.kind or OperationKind(""),
            status=status,
            object_id=self.resource_id,
            external_message=message,
        )

    def _failure(self, reason: str | None) -> OperationFailed:
        what = f"{self.kind} of {self.resource_id or 'an unknown resource'}"
        reason = reason or "the engine gives no reason"
        return OperationFailed(f"{what} failed: {reason}", reason)


def _shortened(info: RequestInfo) -> RequestInfo:
    """Cut the texts of a response: each operation keeps its last one, and thousands may be in flight."""
    end = LONGEST_INFO_TEXT
    return attrs.evolve(
        info,
        request_id=info.request_id and info.request_id[:end],
        request_type=OperationKind(info.request_type[:end]),
        status=RequestStatus(info.status[:end]),
        created_at=info.created_at[:end],
        object_id=info.object_id and info.object_id[:end],
        external_message=info.external_message and info.external_message[:end],
        extra={},
    )
