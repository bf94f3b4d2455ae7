"""Traces and metrics for OpenTelemetry: a listener to a client's events.

::

    tp = TensorPool(on_event=OpenTelemetryListener())

The names of what is recorded are those of OpenTelemetry's conventions for HTTP clients, and for what they do not know,
begin with `tensorpool.`. Nothing that is recorded holds a key, a body or a query.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Protocol
from urllib.parse import urlsplit

import attrs
from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation, get_meter
from opentelemetry.trace import (
    Span,
    SpanKind,
    StatusCode,
    Tracer,
    TracerProvider,
    get_tracer,
    set_span_in_context,
)

from tensorpool_async.events import (
    Event,
    OperationAccepted,
    OperationChanged,
    OperationEnded,
    OperationEvent,
    RequestAnswered,
    RequestEvent,
    RequestFailed,
    RequestRetried,
    RequestSent,
    RequestsPaused,
)
from tensorpool_async.flow.limiter import LimiterStatistics
from tensorpool_async.version import VERSION


__all__ = ["OpenTelemetryListener", "WatchedLimiter"]

SCOPE = "tensorpool_async"

REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""The buckets that the conventions advise for the duration of an HTTP request."""

OPERATION_SECONDS = (1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0)
"""The buckets that are advised for the duration of an operation: a cluster takes minutes."""

LANES = ("change", "read", "poll")

Attributes = dict[str, str | int | bool]


class WatchedLimiter(Protocol):
    """What the listener needs of a limiter; `RateLimiter` and `RedisRateLimiter` have it."""

    def statistics(self) -> LimiterStatistics:
        """Return what the limiter is doing now."""
        ...


@attrs.frozen
class _Operation:
    """An operation that has not ended, with its span and what its metrics are counted under."""

    span: Span
    attributes: Attributes


class OpenTelemetryListener:
    """Records a span for each operation and each HTTP attempt, and metrics; to be given to a client as `on_event`.

    One can serve several clients. The span of an operation lasts from its 202 to its end, and is a child of what was
    current where the submission was awaited. The span of an attempt is a child of what is current; that of a poll is
    one of its operation.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        limiter: WatchedLimiter | None = None,
    ) -> None:
        """Make a listener.

        Args:
            tracer_provider: Where spans go; None for the global provider.
            meter_provider: Where metrics go; None for the global provider.
            limiter: A limiter to watch from the beginning; see `watch`.
        """
        self._tracer: Tracer = get_tracer(SCOPE, VERSION, tracer_provider)
        self._metrics = _Metrics(get_meter(SCOPE, VERSION, meter_provider))
        self._operations: dict[tuple[str, str], list[_Operation]] = {}
        if limiter is not None:
            self.watch(limiter)

    def watch(self, limiter: WatchedLimiter, name: str = "default") -> None:
        """Report the slots and the queues of a limiter each time that metrics are collected.

        Args:
            limiter: The limiter, such as `tp.limiter`. It is kept as long as the meter provider.
            name: What tells it from other limiters that are watched.
        """
        self._metrics.limiters[name] = limiter

    def __call__(self, event: Event) -> None:
        """Record an event; those that tell nothing to OpenTelemetry are passed over."""
        match event:
            case RequestSent():
                self._metrics.requests_active.add(1, _server(event.engine))
            case RequestAnswered() | RequestFailed():
                self._request_ended(event)
            case RequestRetried():
                self._metrics.retries.add(1, _route(event))
            case RequestsPaused():
                self._metrics.pauses.record(
                    event.seconds, {**_server(event.engine), "tensorpool.pause.reason": event.reason}
                )
            case OperationAccepted():
                self._accepted(event)
            case OperationChanged():
                self._changed(event)
            case OperationEnded():
                self._ended(event)
            case _:
                pass

    def _request_ended(self, event: RequestAnswered | RequestFailed) -> None:
        self._metrics.requests_active.add(-1, _server(event.engine))
        attributes = _route(event)
        error = None
        if isinstance(event, RequestAnswered):
            attributes["http.response.status_code"] = event.status
            error = str(event.status) if event.status >= 400 else None
        else:
            error = event.error_type
        if error is not None:
            attributes["error.type"] = error
        self._metrics.request_duration.record(event.seconds, attributes)
        self._record_request(event, attributes, error)

    def _record_request(
        self, event: RequestAnswered | RequestFailed, attributes: Attributes, error: str | None
    ) -> None:
        now = time.time_ns()
        # It is made at its end, so that nothing of it has to be kept meanwhile.
        span = self._tracer.start_span(
            f"{event.method} {event.route}",
            self._context_of(event),
            SpanKind.CLIENT,
            {**attributes, "url.full": event.engine + event.path, **_ids(event)},
            start_time=now - int(event.seconds * 1e9),
        )
        if event.attempt > 1:
            span.set_attribute("http.request.resend_count", event.attempt - 1)
        if error is not None:
            span.set_status(StatusCode.ERROR, event.why if isinstance(event, RequestFailed) else None)
        span.end(now)

    def _context_of(self, event: RequestEvent) -> Context | None:
        """Return the parent of an attempt; None for what is current."""
        if event.lane != "poll":
            return None
        # A poll is sent by whichever task is free, and what is current there belongs to somebody else.
        operation = self._find(event.engine, event.request_id or event.resource_id)
        return Context() if operation is None else set_span_in_context(operation.span, Context())

    def _accepted(self, event: OperationAccepted) -> None:
        attributes = _server(event.engine)
        if event.kind is not None:
            attributes["tensorpool.operation.kind"] = event.kind
        self._metrics.operations_active.add(1, attributes)
        span = self._tracer.start_span(
            event.kind or "operation",
            attributes={**attributes, **_ids(event), "tensorpool.operation.resumed": event.resumed},
        )
        for key in _keys(event):
            self._operations.setdefault(key, []).append(_Operation(span, attributes))

    def _changed(self, event: OperationChanged) -> None:
        operation = self._find(event.engine, *event.request_ids, event.resource_id)
        if operation is not None:
            said: Attributes = {"tensorpool.operation.status": event.status}
            if event.message:
                said["tensorpool.operation.message"] = event.message
            operation.span.add_event("tensorpool.operation.changed", said)

    def _ended(self, event: OperationEnded) -> None:
        operation = self._forget(event)
        if operation is None:
            return
        self._metrics.operations_active.add(-1, operation.attributes)
        known: Attributes = {"tensorpool.operation.outcome": event.outcome}
        if event.kind is not None:
            known["tensorpool.operation.kind"] = event.kind
        if event.error_type is not None:
            known["error.type"] = event.error_type
            operation.span.set_status(StatusCode.ERROR, event.error)
        self._metrics.operation_duration.record(event.seconds, {**operation.attributes, **known})
        operation.span.set_attributes({**known, **_ids(event), "tensorpool.operation.polls": event.polls})
        operation.span.end()

    def _find(self, engine: str, *ids: str | None) -> _Operation | None:
        for one in ids:
            found = self._operations.get((engine, one or ""))
            if found:
                return found[0]
        return None

    def _forget(self, event: OperationEnded) -> _Operation | None:
        forgotten: _Operation | None = None
        for key in _keys(event):
            found = self._operations.get(key)
            if found:
                forgotten = found.pop(0)
                if not found:
                    del self._operations[key]
        return forgotten


class _Metrics:
    """The instruments."""

    def __init__(self, meter: Meter) -> None:
        self.limiters: dict[str, WatchedLimiter] = {}
        self.request_duration = meter.create_histogram(
            "http.client.request.duration",
            unit="s",
            description="Duration of HTTP client requests.",
            explicit_bucket_boundaries_advisory=REQUEST_SECONDS,
        )
        self.requests_active = meter.create_up_down_counter(
            "http.client.active_requests",
            unit="{request}",
            description="HTTP attempts under way; each holds a slot of the limiter.",
        )
        self.retries = meter.create_counter(
            "tensorpool.client.retries", unit="{request}", description="Requests that were sent again."
        )
        self.pauses = meter.create_histogram(
            "tensorpool.client.pause.duration",
            unit="s",
            description="For how long the engine asked all requests to wait.",
            explicit_bucket_boundaries_advisory=(*REQUEST_SECONDS, 30.0, 60.0),
        )
        self.operations_active = meter.create_up_down_counter(
            "tensorpool.client.operations.active",
            unit="{operation}",
            description="Operations that were accepted and have not ended.",
        )
        self.operation_duration = meter.create_histogram(
            "tensorpool.client.operation.duration",
            unit="s",
            description="From the 202 to the end of an operation: of a creation, the time until it is ready.",
            explicit_bucket_boundaries_advisory=OPERATION_SECONDS,
        )
        meter.create_observable_gauge(
            "tensorpool.limiter.slots.used",
            [self._slots_used],
            unit="{slot}",
            description="Slots that are held.",
        )
        meter.create_observable_gauge(
            "tensorpool.limiter.slots.max",
            [self._slots_max],
            unit="{slot}",
            description="Slots that there are.",
        )
        meter.create_observable_gauge(
            "tensorpool.limiter.waiting",
            [self._waiting],
            unit="{request}",
            description="Attempts that wait for their turn.",
        )

    def _slots_used(self, _: CallbackOptions) -> Iterable[Observation]:
        return [Observation(now.in_flight, about) for now, about in self._look()]

    def _slots_max(self, _: CallbackOptions) -> Iterable[Observation]:
        return [Observation(now.max_in_flight, about) for now, about in self._look()]

    def _waiting(self, _: CallbackOptions) -> Iterable[Observation]:
        return [
            Observation(count, {**about, "tensorpool.lane": lane})
            for now, about in self._look()
            for lane, count in zip(LANES, now.waiting, strict=True)
        ]

    def _look(self) -> Iterator[tuple[LimiterStatistics, dict[str, str]]]:
        for name, limiter in list(self.limiters.items()):
            try:
                now = limiter.statistics()
            except RuntimeError:
                continue  # the queue has changed in the event loop's thread just now; there will be a next time
            yield now, {"tensorpool.limiter.name": name}


def _server(engine: str) -> Attributes:
    parts = urlsplit(engine)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return {"server.address": parts.hostname or engine, "server.port": port}


def _route(event: RequestEvent) -> Attributes:
    return {**_server(event.engine), "http.request.method": event.method, "url.template": event.route}


def _ids(event: RequestEvent | OperationEvent) -> Attributes:
    known = {
        "tensorpool.operation.kind": event.kind,
        "tensorpool.resource.id": event.resource_id,
        "tensorpool.request.id": event.request_id,
    }
    return {name: value for name, value in known.items() if value is not None}


def _keys(event: OperationEvent) -> list[tuple[str, str]]:
    """Return what an operation is known by, from its beginning to its end."""
    ids = event.request_ids or (event.resource_id or "",)
    return [(event.engine, one) for one in ids]
