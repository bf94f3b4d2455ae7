"""What a client tells of its requests and operations: events to who listens, lines to the log.

Everything here runs only where somebody listens, or where it is rare: an operation begins or ends, a request is sent
again, the engine asks for a pause. Each text that may come from the engine has the key masked.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any
from urllib.parse import unquote

import attrs

from tensorpool_async.errors import OperationFailed, RateLimited, StatusError, TensorPoolError
from tensorpool_async.events import (
    Dispatcher,
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
from tensorpool_async.protocol.operation import OperationMachine
from tensorpool_async.protocol.rate_limits import Limits, is_quota
from tensorpool_async.protocol.requests import Lane, Request
from tensorpool_async.protocol.responses import Response
from tensorpool_async.secrets import Secret
from tensorpool_async.texts import logger_of


WITH_ID = {
    "/cluster",
    "/cluster/edit",
    "/cluster/info",
    "/cluster/operations",
    "/job/cancel",
    "/job/delete",
    "/job/info",
    "/job/listen",
    "/job/pull",
    "/object-storage/bucket/create",
    "/object-storage/bucket/delete",
    "/request/info",
    "/ssh",
    "/storage",
    "/storage/edit",
    "/storage/info",
    "/user/ssh-key/remove",
}
"""The beginnings of paths that are followed by an id."""

WITHOUT_ID = {
    "/cluster/create",
    "/cluster/list",
    "/cluster/quote",
    "/storage/attach",
    "/storage/create",
    "/storage/detach",
    "/storage/list",
    "/storage/quote",
}
"""Paths that look as if they had an id, and have none."""

LONGER_PAUSE = 0.25
"""By which share of its seconds a pause must become longer to be told again."""

LONGEST_TEXT = 500
"""Characters of an engine's words that are told."""

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
"""What is written to the log of an event, and at which level. The record has the event itself as `event`."""

LEFT = "nobody waits for it here any more; it goes on at the engine"

NO_LINE = (logging.NOTSET, "")

LONG_PAUSE = 5.0
"""Seconds. A pause that is longer is a warning: to whoever waits, the program seems to hang."""

logger: logging.Logger = logger_of("tensorpool_async")


def route_of(path: str) -> tuple[str, str | None]:
    """Return a path with `{id}` in place of its id, and the id; the path itself and None where it has none."""
    beginning, _, last = path.rpartition("/")
    if beginning not in WITH_ID or path in WITHOUT_ID:
        return path, None
    return f"{beginning}/{{id}}", unquote(last)


class AttemptRecorder:
    """One HTTP attempt, as it is told."""

    __slots__ = ("_began", "_instrumentation", "_sent")

    def __init__(self, instrumentation: Instrumentation, sent: RequestSent) -> None:
        self._instrumentation = instrumentation
        self._sent = sent
        self._began = time.perf_counter()

    def answered(self, response: Response) -> None:
        """Tell that the engine has answered."""
        self._instrumentation.emit(
            RequestAnswered(
                **_fields(self._sent),
                status=response.status,
                seconds=time.perf_counter() - self._began,
                retry_after=response.retry_after,
            )
        )

    def failed(self, error: BaseException) -> None:
        """Tell that there is no answer."""
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
    """Tells what happens to the requests and operations of one client."""

    def __init__(self, events: Dispatcher, *, key: Secret, engine: str) -> None:
        self.listened_to: bool = events.listens
        self._events = events
        self._key = key
        self._engine = engine
        self._followed: dict[str, OperationEvent] = {}
        self._paused_until = 0.0

    def mask(self, text: str) -> str:
        """Return a text without the key."""
        return self._key.mask_text(text)

    def clean(self, text: str) -> str:
        """Return a text without the key, and not longer than anybody reads."""
        return self.mask(text)[:LONGEST_TEXT]

    def emit(self, event: Event) -> None:
        """Tell one thing."""
        _log(event)
        self._events.emit(event)

    def sent(self, request: Request[Any], attempt: int) -> AttemptRecorder:
        """Tell that an attempt goes on the wire; return what tells how it goes on."""
        sent = RequestSent(**self._about(request, attempt))
        if logger.isEnabledFor(logging.DEBUG) and (request.query or request.json is not None):
            fields: list[str] = sorted(request.json or ())  # names only: values may be secrets
            query = self.clean(str(dict(request.query)))
            logger.debug("%s %s has the query %s, and in its body: %s", sent.method, sent.path, query, fields)
        self.emit(sent)
        return AttemptRecorder(self, sent)

    def retried(self, request: Request[Any], error: TensorPoolError, attempt: int, delay: float) -> None:
        """Tell that a request is sent again."""
        pause = error.retry_after if isinstance(error, StatusError) else None
        if request.stats is not None:
            asked_to_wait = isinstance(error, RateLimited) or (pause is not None and delay == 0.0)
            request.stats.record_requeue(
                asyncio.get_running_loop().time() + delay, asked_to_wait=asked_to_wait
            )
        if self._is_heard(logging.INFO):
            why, delay = self.clean(str(error)), delay or pause or 0.0
            self.emit(RequestRetried(**self._about(request, attempt), why=why, delay=delay))

    def paused(self, retry_after: float | None, limits: Limits | None, *, asked: float | None = None) -> None:
        """Tell that everybody has to wait, if that is news; `asked` is for how long the engine asks."""
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

    def accepted(self, machine: OperationMachine, *, resumed: bool) -> None:
        """Tell that an operation is followed from now on."""
        if not self._is_heard(logging.INFO):
            return
        event = OperationAccepted(**self._subject(machine), resumed=resumed)
        self._follow(event)
        self.emit(event)

    def changed(self, machine: OperationMachine) -> None:
        """Tell that the engine says something new about an operation."""
        info = machine.info
        if info is not None and self._is_heard(logging.DEBUG):
            message = self.clean(info.external_message or "")
            status = str(info.status)
            event = OperationChanged(**self._subject(machine), status=status, message=message)
            self._follow(event)  # of some operations, more is known now
            self.emit(event)

    def ended(self, machine: OperationMachine, seconds: float, *, left: bool = False) -> None:
        """Tell that an operation is followed no longer; with `left`, since nobody waits for it here."""
        if not self._is_heard(logging.INFO):
            return
        error = machine.error
        word = "failed" if isinstance(error, OperationFailed) else "unknown"
        event = OperationEnded(
            **self._subject(machine),
            outcome="completed" if error is None and not left else word,
            seconds=seconds,
            polls=machine.polls,
            error=LEFT if left else None if error is None else self.clean(str(error)),
            error_type=None if error is None else type(error).__name__,
        )
        for one in _ids(event):
            followed = self._followed.get(one)
            if followed is not None and followed.request_ids == event.request_ids:
                del self._followed[one]
        self.emit(event)

    def _follow(self, event: OperationEvent) -> None:
        """Keep what the polls of an operation are known by, so that their events can name it."""
        if self.listened_to:
            for one in _ids(event):
                self._followed[one] = event

    def _is_heard(self, level: int) -> bool:
        return self.listened_to or logger.isEnabledFor(level)

    def _subject(self, machine: OperationMachine) -> dict[str, Any]:
        ids = tuple(self.clean(one) for one in machine.request_ids)
        return {
            "engine": self._engine,
            "kind": None if machine.kind is None else str(machine.kind),
            "resource_id": None if machine.resource_id is None else self.clean(machine.resource_id),
            "request_id": ids[0] if ids else None,
            "request_ids": ids,
        }

    def _about(self, request: Request[Any], attempt: int) -> dict[str, Any]:
        route, found = route_of(self.clean(request.path))
        polls = route == "/request/info/{id}"
        followed = self._followed.get(found or "") if request.lane is Lane.POLL else None
        kind = request.kind if followed is None else followed.kind
        return {
            "engine": self._engine,
            "method": request.method,
            "path": self.clean(request.path),
            "route": route,
            "lane": request.lane.name.lower(),
            "attempt": attempt,
            "kind": None if kind is None else str(kind),
            "name": None if request.name is None else self.clean(request.name),
            "resource_id": (None if polls else found) if followed is None else followed.resource_id,
            "request_id": found if polls else None if followed is None else followed.request_id,
        }


def _ids(about: OperationEvent) -> tuple[str, ...]:
    """Return by what the polls of an operation are known."""
    return about.request_ids if about.resource_id is None else (*about.request_ids, about.resource_id)


def _fields(event: Any) -> dict[str, Any]:
    return attrs.asdict(event, recurse=False)


def _log(event: Event) -> None:
    """Write an event to the log, if anybody reads that."""
    level, line = LINES.get(type(event), NO_LINE)
    more = ""
    if isinstance(event, RequestsPaused):
        level = logging.WARNING if event.seconds > LONG_PAUSE else level
        more = "" if event.asked is None else f"; the engine asks for {event.asked:.0f} s"
    if level and logger.isEnabledFor(level):
        logger.log(level, "%s", line.format(event, more), extra={"event": event})
