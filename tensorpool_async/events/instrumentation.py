"""Records the requests and operations of a client as events and log lines.

Attempts are recorded only where a listener or the log level asks for it. What is recorded always is rare: a retry, a pause,
the start or the end of an operation. In each text that may come from the engine, the key is masked.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import attrs

from tensorpool_async.errors import OperationFailed, StatusError, TensorPoolError
from tensorpool_async.events.dispatcher import Dispatcher
from tensorpool_async.events.records import (
    Event,
    OperationAccepted,
    OperationChanged,
    OperationEnded,
    OperationEvent,
    RequestAnswered,
    RequestFailed,
    RequestRetried,
    RequestSent,
    RequestsPaused,
)
from tensorpool_async.protocol.operation import REQUEST_INFO, OperationMachine
from tensorpool_async.protocol.rate_limits import Limits, is_quota
from tensorpool_async.protocol.requests import Lane, Request
from tensorpool_async.protocol.responses import Response
from tensorpool_async.protocol.send_context import SendContext
from tensorpool_async.secrets import Secret
from tensorpool_async.texts import logger_of


LONGER_PAUSE = 0.25
"""A longer pause is recorded again if it ends later by more than this share of its seconds."""

LONGEST_TEXT = 500
"""Characters of a text of the engine in an event; the rest is cut off."""

LINES: dict[type[Any], tuple[int, str]] = {
    RequestSent: (logging.DEBUG, "{0.method} {0.path}, attempt {0.attempt}, is sent"),
    RequestAnswered: (
        logging.DEBUG,
        "{0.method} {0.path}, attempt {0.attempt}: {0.status} after {0.seconds:.3f} s",
    ),
    RequestFailed: (
        logging.DEBUG,
        "{0.method} {0.path}, attempt {0.attempt}: {0.error_type} after {0.seconds:.3f} s: {0.why}",
    ),
    RequestRetried: (
        logging.INFO,
        "{0.method} {0.path} is sent again in {0.delay:.1f} s (attempt {0.attempt}), after: {0.why}",
    ),
    RequestsPaused: (logging.INFO, "all requests pause for {0.seconds:.1f} s ({0.reason}){1}"),
    OperationAccepted: (logging.INFO, "{0.subject} is accepted, request {0.request_id}"),
    OperationChanged: (logging.DEBUG, "{0.subject} is {0.status}: {0.message}"),
    OperationEnded: (
        logging.INFO,
        "{0.subject} has ended as {0.outcome} after {0.seconds:.1f} s and {0.polls} polls",
    ),
}
"""The log level and the log line of each event. The log record has the event as its attribute `event`."""

LEFT = "nobody waits for it here any more; it goes on at the engine"

NO_LINE = (logging.NOTSET, "")

LONG_PAUSE = 5.0
"""Seconds. A longer pause is logged as a warning, because the program seems to hang meanwhile."""

logger: logging.Logger = logger_of("tensorpool_async")


class AttemptRecorder:
    """Records the end of one HTTP attempt."""

    __slots__ = ("_began", "_instrumentation", "_sent")

    def __init__(self, instrumentation: Instrumentation, sent: RequestSent) -> None:
        self._instrumentation = instrumentation
        self._sent = sent
        self._began = time.perf_counter()

    def record_answer(self, response: Response) -> None:
        """Record that the engine has answered."""
        self._instrumentation.emit(
            RequestAnswered(
                **_fields(self._sent),
                status=response.status,
                seconds=time.perf_counter() - self._began,
                retry_after=response.retry_after,
            )
        )

    def record_failure(self, error: BaseException) -> None:
        """Record that there is no answer."""
        why = "the caller was cancelled" if isinstance(error, asyncio.CancelledError) else str(error)
        self._instrumentation.emit(
            RequestFailed(
                **_fields(self._sent),
                why=self._instrumentation.clean(why or type(error).__name__),
                error_type=type(error).__name__,
                seconds=time.perf_counter() - self._began,
            )
        )


class Instrumentation:
    """Records what happens to the requests and operations of one client.

    Attributes:
        enabled: Whether there is a listener.
    """

    def __init__(self, events: Dispatcher, *, key: Secret, engine: str) -> None:
        self.enabled: bool = events.listens
        self._events = events
        self._key = key
        self._engine = engine
        self._operations: dict[str, OperationEvent] = {}  # by the keys of their polls
        self._paused_until = 0.0

    def mask(self, text: str) -> str:
        """Return a text with the key masked."""
        return self._key.mask_text(text)

    def clean(self, text: str) -> str:
        """Return a text with the key masked, cut off after `LONGEST_TEXT` characters."""
        return self.mask(text)[:LONGEST_TEXT]

    def emit(self, event: Event) -> None:
        """Write an event to the log, and deliver it to the listeners."""
        _log(event)
        self._events.emit(event)

    def record_send(
        self, request: Request[Any], lane: Lane, context: SendContext | None, attempt: int
    ) -> AttemptRecorder:
        """Record that an attempt is sent; return what records its end."""
        sent = RequestSent(**self._request_fields(request, lane, context, attempt))
        if logger.isEnabledFor(logging.DEBUG) and (request.query or request.json is not None):
            fields: list[str] = sorted(request.json or ())  # names only: values may be secrets
            query = self.clean(str(dict(request.query)))
            logger.debug("%s %s has the query %s, and in its body: %s", sent.method, sent.path, query, fields)
        self.emit(sent)
        return AttemptRecorder(self, sent)

    def record_retry(
        self,
        request: Request[Any],
        error: TensorPoolError,
        *,
        lane: Lane,
        context: SendContext | None,
        attempt: int,
        delay: float,
    ) -> None:
        """Record that a request is sent again in `delay` seconds; if that is 0, after the pause that the engine asked for."""
        if self._is_enabled(logging.INFO):
            pause = error.retry_after if isinstance(error, StatusError) else None
            why, delay = self.clean(str(error)), delay or pause or 0.0
            self.emit(
                RequestRetried(**self._request_fields(request, lane, context, attempt), why=why, delay=delay)
            )

    def record_pause(
        self, retry_after: float | None, limits: Limits | None, *, asked: float | None = None
    ) -> None:
        """Record that all requests pause, unless that pause is already recorded.

        Args:
            retry_after: Seconds of the pause after a 429 or 503; None where the answer was none of these.
            limits: The rate limits that the headers name; they demand a pause where one is used up.
            asked: Seconds that the engine asks to wait, which may be longer than the pause.
        """
        if retry_after is not None:
            seconds, quota = retry_after, is_quota(retry_after, limits)
        elif limits is not None and limits.exhausted:
            seconds, quota, asked = limits.pause, limits.is_quota, limits.reset
        else:
            return
        until = time.monotonic() + seconds
        if seconds > 0 and until > self._paused_until + seconds * LONGER_PAUSE:
            self._paused_until = until
            reason = "quota" if quota else "rate"
            asked = asked if asked is not None and asked > seconds else None
            self.emit(RequestsPaused(engine=self._engine, seconds=seconds, reason=reason, asked=asked))

    def record_accepted(self, machine: OperationMachine, *, resumed: bool) -> None:
        """Record that an operation is polled from now on."""
        if not self._is_enabled(logging.INFO):
            return
        event = OperationAccepted(**self._operation_fields(machine), resumed=resumed)
        self._remember(event)
        self.emit(event)

    def record_changed(self, machine: OperationMachine) -> None:
        """Record that the engine reports a new status or message of an operation."""
        info = machine.info
        if info is not None and self._is_enabled(logging.DEBUG):
            message = self.clean(info.external_message or "")
            status = str(info.status)
            event = OperationChanged(**self._operation_fields(machine), status=status, message=message)
            self._remember(event)  # the kind and resource may be known only now
            self.emit(event)

    def record_ended(self, machine: OperationMachine, seconds: float, *, left: bool = False) -> None:
        """Record that an operation is no longer polled.

        Args:
            machine: The state of the operation.
            seconds: Seconds since `record_accepted`.
            left: Whether the reason is that nobody awaits it here.
        """
        if not self._is_enabled(logging.INFO):
            return
        error = machine.error
        word = "failed" if isinstance(error, OperationFailed) else "unknown"
        event = OperationEnded(
            **self._operation_fields(machine),
            outcome="completed" if error is None and not left else word,
            seconds=seconds,
            polls=machine.polls,
            error=LEFT if left else None if error is None else self.clean(str(error)),
            error_type=None if error is None else type(error).__name__,
        )
        for one in _poll_keys(event):
            known = self._operations.get(one)
            if known is not None and known.request_ids == event.request_ids:
                del self._operations[one]
        self.emit(event)

    def _remember(self, event: OperationEvent) -> None:
        """Keep an operation under the keys of its polls, so that the events of its polls can name it."""
        if self.enabled:
            for one in _poll_keys(event):
                self._operations[one] = event

    def _is_enabled(self, level: int) -> bool:
        return self.enabled or logger.isEnabledFor(level)

    def _operation_fields(self, machine: OperationMachine) -> dict[str, Any]:
        ids = tuple(self.clean(one) for one in machine.request_ids)
        return {
            "engine": self._engine,
            "kind": None if machine.kind is None else str(machine.kind),
            "resource_id": None if machine.resource_id is None else self.clean(machine.resource_id),
            "request_id": ids[0] if ids else None,
            "request_ids": ids,
        }

    def _request_fields(
        self, request: Request[Any], lane: Lane, context: SendContext | None, attempt: int
    ) -> dict[str, Any]:
        key = None if request.key is None else self.clean(request.key)
        polls = request.route == REQUEST_INFO
        operation = self._operations.get(key or "") if lane is Lane.POLL else None
        kind = None if context is None else context.kind
        return {
            "engine": self._engine,
            "method": request.method,
            "path": self.clean(request.path),
            "route": request.route,
            "lane": lane.name.lower(),
            "attempt": attempt,
            "kind": operation.kind if operation is not None else None if kind is None else str(kind),
            "name": None if request.name is None else self.clean(request.name),
            "resource_id": (None if polls else key) if operation is None else operation.resource_id,
            "request_id": key if polls else None if operation is None else operation.request_id,
        }


def _poll_keys(event: OperationEvent) -> tuple[str, ...]:
    """Return the keys of the requests that poll an operation: its request ids, and the id of its resource."""
    return event.request_ids if event.resource_id is None else (*event.request_ids, event.resource_id)


def _fields(event: Any) -> dict[str, Any]:
    return attrs.asdict(event, recurse=False)


def _log(event: Event) -> None:
    """Write an event to the log, if its level is enabled."""
    level, line = LINES.get(type(event), NO_LINE)
    more = ""
    if isinstance(event, RequestsPaused):
        level = logging.WARNING if event.seconds > LONG_PAUSE else level
        more = "" if event.asked is None else f"; the engine asks for {event.asked:.0f} s"
    if level and logger.isEnabledFor(level):
        logger.log(level, "%s", line.format(event, more), extra={"event": event})
