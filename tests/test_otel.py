"""OpenTelemetry: spans and metrics of a client, with the SDK's in-memory exporters."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, Tracer

from tensorpool_async import OperationFailed, PollPolicy, RateLimiter, RetryPolicy, TensorPool
from tensorpool_async.emulator import Emulator, Fault, FaultKind
from tensorpool_async.events import Event, OperationEnded
from tensorpool_async.flow.limiter import LimiterStatistics
from tensorpool_async.otel import REQUEST_SECONDS, OpenTelemetryListener
from tests.support.echoing import KEY, echo_the_key, use_what_echoes
from tests.support.scripted import ScriptedEngine


class Telemetry:
    """Providers of its own, and what has come to them."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.tracer_provider = TracerProvider(shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self._reader], shutdown_on_exit=False)
        self.limiter = RateLimiter()
        self.listener = OpenTelemetryListener(
            tracer_provider=self.tracer_provider, meter_provider=self.meter_provider, limiter=self.limiter
        )

    @property
    def tracer(self) -> Tracer:
        return self.tracer_provider.get_tracer("the caller")

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    def points(self, name: str) -> list[Any]:
        """Return the data points of a metric."""
        data = self._reader.get_metrics_data()
        if data is None:
            return []
        metrics = [
            metric
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]
        return [point for metric in metrics if metric.name == name for point in metric.data.data_points]

    def close(self) -> None:
        self.tracer_provider.shutdown()
        self.meter_provider.shutdown()


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    telemetry = Telemetry()
    yield telemetry
    telemetry.close()


@pytest.fixture
async def watched(emulator: Emulator, telemetry: Telemetry) -> AsyncGenerator[TensorPool]:
    async with client_of(emulator, telemetry) as tp:
        yield tp


@pytest.fixture
async def slow(telemetry: Telemetry) -> AsyncGenerator[TensorPool]:
    """Open a client of an engine whose clusters take a while."""
    async with (
        Emulator(provision_seconds=0.5, retry_after=0.05) as engine,
        client_of(engine, telemetry) as tp,
    ):
        yield tp


def client_of(engine: Emulator, telemetry: Telemetry) -> TensorPool:
    return TensorPool(
        engine.key,
        base_url=engine.url,
        limiter=telemetry.limiter,
        retry=RetryPolicy(backoff=0.01),
        polling=PollPolicy(initial=0.01, default=0.02),
        on_event=telemetry.listener,
    )


def of(span: ReadableSpan) -> Mapping[str, Any]:
    assert span.attributes is not None
    return span.attributes


def is_child_of(span: ReadableSpan, parent: ReadableSpan) -> bool:
    return (
        span.parent is not None
        and parent.context is not None
        and span.context is not None
        and span.parent.span_id == parent.context.span_id
        and span.context.trace_id == parent.context.trace_id
    )


async def test_an_operation_is_a_span_of_whoever_submitted_it(
    telemetry: Telemetry, watched: TensorPool, emulator: Emulator
) -> None:
    with telemetry.tracer.start_as_current_span("train") as _:
        operation = await watched.clusters.create("1xH100")
    await operation
    (train,), (span,) = telemetry.named("train"), telemetry.named("CLUSTER_CLAIM")
    assert is_child_of(span, train)
    assert span.kind is SpanKind.INTERNAL
    assert span.status.status_code is StatusCode.UNSET
    server = urlsplit(emulator.url)
    assert dict(of(span)) == {
        "server.address": server.hostname,
        "server.port": server.port,
        "tensorpool.operation.kind": "CLUSTER_CLAIM",
        "tensorpool.operation.outcome": "completed",
        "tensorpool.operation.polls": operation.polls,
        "tensorpool.operation.resumed": False,
        "tensorpool.request.id": operation.request_id,
        "tensorpool.resource.id": operation.resource_id,
    }
    statuses = [(event.attributes or {})["tensorpool.operation.status"] for event in span.events]
    assert statuses[-1] == "COMPLETED"
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.end_time - span.start_time > 40e6


async def test_a_poll_belongs_to_its_operation_and_to_nobody_else(
    telemetry: Telemetry, watched: TensorPool
) -> None:
    async def submit(name: str) -> None:
        with telemetry.tracer.start_as_current_span(name):
            await watched.clusters.create("1xH100", name=name).result()

    await asyncio.gather(*(submit(f"c{index}") for index in range(5)))
    operations = telemetry.named("CLUSTER_CLAIM")
    assert len(operations) == 5
    for index in range(5):
        (caller,) = telemetry.named(f"c{index}")
        (operation,) = [span for span in operations if is_child_of(span, caller)]
        (create,) = [s for s in telemetry.named("POST /cluster/create") if is_child_of(s, caller)]
        assert create.end_time is not None
        assert operation.start_time is not None
        assert create.end_time <= operation.start_time + 1e6
        polls = [span for span in telemetry.spans if is_child_of(span, operation)]
        assert len(polls) == of(operation)["tensorpool.operation.polls"]
        assert {span.name for span in polls} == {"GET /request/info/{id}", "GET /cluster/info/{id}"}
        mine = of(operation)["tensorpool.resource.id"]
        assert {of(poll)["tensorpool.resource.id"] for poll in polls} == {mine}


async def test_the_attributes_of_a_request_are_those_of_the_conventions(
    telemetry: Telemetry, watched: TensorPool, emulator: Emulator
) -> None:
    with telemetry.tracer.start_as_current_span("caller"):
        await watched.clusters.list()
        with pytest.raises(Exception, match="404"):
            await watched.clusters.get("c-none")
    (caller,) = telemetry.named("caller")
    (well,), (ill,) = telemetry.named("GET /cluster/list"), telemetry.named("GET /cluster/info/{id}")
    server = urlsplit(emulator.url)
    assert well.kind is SpanKind.CLIENT
    assert is_child_of(well, caller)
    assert dict(of(well)) == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "server.address": server.hostname,
        "server.port": server.port,
        "url.full": f"{emulator.url}/cluster/list",
        "url.template": "/cluster/list",
    }
    assert well.status.status_code is StatusCode.UNSET
    assert of(ill)["http.response.status_code"] == 404
    assert of(ill)["error.type"] == "404"
    assert of(ill)["url.template"] == "/cluster/info/{id}"
    assert ill.status.status_code is StatusCode.ERROR


async def test_attempts_are_spans_of_their_own_and_counted(
    telemetry: Telemetry, watched: TensorPool, emulator: Emulator
) -> None:
    emulator.faults.add(Fault(FaultKind.HTML_502, path="/cluster/list"))
    emulator.faults.add(Fault(FaultKind.DROP_BEFORE, path="/cluster/list"))
    await watched.clusters.list()
    first, second, third = telemetry.named("GET /cluster/list")
    assert [of(one).get("http.request.resend_count") for one in (first, second, third)] == [None, 1, 2]
    assert [of(one).get("error.type") for one in (first, second, third)] == ["502", "ConnectionFailed", None]
    assert "http.response.status_code" not in of(second)
    (retries,) = telemetry.points("tensorpool.client.retries")
    assert retries.value == 2
    active = telemetry.points("http.client.active_requests")
    assert [point.value for point in active] == [0]


async def test_a_failure_is_an_error_of_its_span(
    telemetry: Telemetry, watched: TensorPool, emulator: Emulator
) -> None:
    emulator.faults.add(Fault(FaultKind.FAILED, path="/cluster/create"))
    with pytest.raises(OperationFailed):
        await watched.clusters.create("1xH100").result()
    (span,) = telemetry.named("CLUSTER_CLAIM")
    assert span.status.status_code is StatusCode.ERROR
    assert "internal provider error" in str(span.status.description)
    assert of(span)["tensorpool.operation.outcome"] == "failed"
    assert of(span)["error.type"] == "OperationFailed"


async def test_metrics_tell_how_many_are_in_flight_and_how_long_they_took(
    telemetry: Telemetry, slow: TensorPool
) -> None:
    operations = await asyncio.gather(*(slow.clusters.create("1xH100") for _ in range(3)))
    (active,) = telemetry.points("tensorpool.client.operations.active")
    assert active.value == 3
    assert active.attributes["tensorpool.operation.kind"] == "CLUSTER_CLAIM"
    await asyncio.gather(*operations)
    (active,) = telemetry.points("tensorpool.client.operations.active")
    assert active.value == 0
    (ready,) = telemetry.points("tensorpool.client.operation.duration")
    assert ready.count == 3
    assert ready.sum > 1.2
    assert ready.attributes["tensorpool.operation.outcome"] == "completed"
    durations = telemetry.points("http.client.request.duration")
    assert sum(point.count for point in durations) == slow.statistics().requests
    assert {point.attributes["url.template"] for point in durations} == {
        "/cluster/create",
        "/cluster/info/{id}",
        "/request/info/{id}",
    }
    assert durations[0].explicit_bounds == REQUEST_SECONDS
    assert all("c-" not in str(point.attributes) for point in durations), "no ids: they are too many"


async def test_an_operation_of_unknown_kind_is_counted_out_as_it_was_counted_in(
    telemetry: Telemetry, watched: TensorPool
) -> None:
    operation = await watched.clusters.create("1xH100")
    await operation
    again = [watched.operation(str(operation.request_id)) for _ in range(2)]
    await asyncio.gather(*again)
    points = telemetry.points("tensorpool.client.operations.active")
    assert [point.value for point in points] == [0, 0]
    found = telemetry.named("operation")
    assert [of(span)["tensorpool.operation.kind"] for span in found] == ["CLUSTER_CLAIM"] * 2
    assert all(of(span)["tensorpool.operation.resumed"] for span in found)


async def test_a_closed_client_leaves_no_span_open(telemetry: Telemetry, slow: TensorPool) -> None:
    for _ in range(3):
        await slow.clusters.create("1xH100")
    await slow.aclose()
    spans = telemetry.named("CLUSTER_CLAIM")
    assert [of(span)["tensorpool.operation.outcome"] for span in spans] == ["unknown"] * 3
    (active,) = telemetry.points("tensorpool.client.operations.active")
    assert active.value == 0


async def test_pauses_are_recorded(telemetry: Telemetry, watched: TensorPool, emulator: Emulator) -> None:
    emulator.faults.add(Fault(FaultKind.RATE_LIMITED, path="/cluster/list", seconds=0.1))
    await watched.clusters.list()
    (pause,) = telemetry.points("tensorpool.client.pause.duration")
    assert (pause.count, pause.sum) == (1, pytest.approx(0.1))
    assert pause.attributes["tensorpool.pause.reason"] == "rate"


async def test_the_limiter_is_watched(telemetry: Telemetry) -> None:
    limiter = RateLimiter(max_in_flight=2)
    telemetry.listener.watch(limiter, "mine")
    granted = [await limiter.acquire(), await limiter.acquire()]
    waiting = [asyncio.create_task(limiter.acquire()) for _ in range(3)]
    await asyncio.sleep(0)
    used = {
        point.attributes["tensorpool.limiter.name"]: point.value
        for point in telemetry.points("tensorpool.limiter.slots.used")
    }
    assert used == {"default": 0, "mine": 2}
    (most,) = [
        point.value
        for point in telemetry.points("tensorpool.limiter.slots.max")
        if point.attributes["tensorpool.limiter.name"] == "mine"
    ]
    assert most == 2
    waits = {
        point.attributes["tensorpool.lane"]: point.value
        for point in telemetry.points("tensorpool.limiter.waiting")
        if point.attributes["tensorpool.limiter.name"] == "mine"
    }
    assert waits == {"change": 0, "read": 3, "poll": 0}
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    for granted_at in granted:
        limiter.release(granted_at)


def test_a_limiter_that_changes_while_it_is_read_is_passed_over(telemetry: Telemetry) -> None:
    class Busy:
        def statistics(self) -> LimiterStatistics:
            raise RuntimeError("deque mutated during iteration")

    telemetry.listener.watch(Busy(), "busy")
    points: list[Any] = []
    thread = threading.Thread(target=lambda: points.extend(telemetry.points("tensorpool.limiter.slots.used")))
    thread.start()
    thread.join()
    assert [point.attributes["tensorpool.limiter.name"] for point in points] == ["default"]


async def test_the_user_s_own_listener_hears_the_same(emulator: Emulator, telemetry: Telemetry) -> None:
    heard: list[Event] = []
    async with TensorPool(
        emulator.key, base_url=emulator.url, on_event=[telemetry.listener, heard.append]
    ) as tp:
        await tp.clusters.create("1xH100").result()
        assert tp.statistics().listener_failures == 0
    assert sum(isinstance(event, OperationEnded) for event in heard) == 1
    assert len(telemetry.named("CLUSTER_CLAIM")) == 1


async def test_without_an_sdk_nothing_happens_and_nothing_fails(emulator: Emulator) -> None:
    async with TensorPool(emulator.key, base_url=emulator.url, on_event=OpenTelemetryListener()) as tp:
        await tp.clusters.create("1xH100").result()
        assert tp.statistics().listener_failures == 0


async def test_nothing_recorded_holds_the_key_wherever_the_engine_echoes_it(
    scripted: ScriptedEngine, telemetry: Telemetry
) -> None:
    echo_the_key(scripted)
    polling, retry = PollPolicy(default=0.01, initial=0.01), RetryPolicy(backoff=0.01)
    async with TensorPool(
        KEY, base_url=scripted.url, polling=polling, retry=retry, on_event=telemetry.listener
    ) as tp:
        await use_what_echoes(tp)
    shown = "".join(span.to_json() for span in telemetry.spans)
    assert "RETRYING" in shown
    assert KEY not in shown
    assert KEY not in str(telemetry.points("http.client.request.duration"))
