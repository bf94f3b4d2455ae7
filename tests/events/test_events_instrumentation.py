"""The events of requests, operations and fleets: which are emitted, and what they hold."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TypeVar

import pytest
from aiohttp import web

from tensorpool_async import OperationFailed, PollPolicy, RateLimited, RetryPolicy, TensorPool
from tensorpool_async.emulator import Emulator, Fault, FaultKind
from tensorpool_async.events import (
    BytesPulled,
    Event,
    FleetMemberChanged,
    OperationAccepted,
    OperationChanged,
    OperationEnded,
    RequestAnswered,
    RequestFailed,
    RequestRetried,
    RequestSent,
    RequestsPaused,
)
from tensorpool_async.fleet import ClusterGroup, Fleet
from tensorpool_async.secrets import MASK
from tests.support.echoing import KEY, echo_the_key, use_what_echoes
from tests.support.scripted import ScriptedEngine


T = TypeVar("T")


@asynccontextmanager
async def listening(emulator: Emulator) -> AsyncGenerator[tuple[TensorPool, list[Event]]]:
    events: list[Event] = []
    async with TensorPool(
        emulator.key,
        base_url=emulator.url,
        retry=RetryPolicy(backoff=0.01),
        polling=PollPolicy(initial=0.01, default=0.02),
        on_event=events.append,
    ) as tp:
        yield tp, events


def of(kind: type[T], events: list[Event]) -> list[T]:
    return [one for one in events if isinstance(one, kind)]


async def test_an_operation_has_events_from_its_submission_to_its_end(emulator: Emulator) -> None:
    async with listening(emulator) as (tp, events):
        operation = await tp.clusters.create("1xH100", name="mine")
        await operation
    sent, answered = events[:2]
    assert isinstance(sent, RequestSent)
    assert isinstance(answered, RequestAnswered)
    assert (sent.method, sent.path, sent.route) == ("POST", "/cluster/create", "/cluster/create")
    assert (sent.lane, sent.attempt, sent.kind, sent.name) == ("change", 1, "CLUSTER_CLAIM", "mine")
    assert (answered.status, answered.engine) == (202, emulator.url)
    assert answered.seconds > 0
    accepted = events[2]
    assert isinstance(accepted, OperationAccepted)
    assert not accepted.resumed
    for one in (accepted, events[-1]):
        assert isinstance(one, OperationAccepted | OperationEnded)
        assert (one.kind, one.resource_id) == ("CLUSTER_CLAIM", operation.resource_id)
        assert (one.request_id, one.request_ids) == (operation.request_id, operation.request_ids)
    ended = events[-1]
    assert isinstance(ended, OperationEnded)
    assert (ended.outcome, ended.polls, ended.error) == ("completed", operation.polls, None)
    assert ended.seconds > 0.04
    changes = of(OperationChanged, events)
    assert changes[-1].status == "COMPLETED"
    assert len(set(changes)) == len(changes), "an unchanged status is not emitted again"


async def test_each_poll_names_its_operation(emulator: Emulator) -> None:
    async with listening(emulator) as (tp, events):
        operation = await tp.clusters.create("1xH100")
        await operation
    polls = [one for one in of(RequestAnswered, events) if one.lane == "poll"]
    assert len(polls) == operation.polls
    assert {one.route for one in polls} == {"/request/info/{id}", "/cluster/info/{id}"}
    assert {(one.kind, one.resource_id, one.request_id) for one in polls} == {
        ("CLUSTER_CLAIM", operation.resource_id, operation.request_id)
    }
    assert len(of(RequestSent, events)) == len(of(RequestAnswered, events))


async def test_a_resumed_operation_is_marked_as_resumed(emulator: Emulator) -> None:
    async with listening(emulator) as (tp, events):
        operation = await tp.clusters.create("1xH100")
        await operation
        events.clear()
        assert operation.request_id is not None
        again = tp.operation(operation.request_id)
        await asyncio.gather(again, again)
    (accepted,) = of(OperationAccepted, events)
    assert accepted.resumed
    assert (accepted.kind, accepted.request_id) == (None, operation.request_id)
    (ended,) = of(OperationEnded, events)
    assert (ended.kind, ended.resource_id) == ("CLUSTER_CLAIM", operation.resource_id)
    assert of(RequestAnswered, events)[-1].kind == "CLUSTER_CLAIM", "by then it is known"


async def test_a_failure_and_a_closed_client_have_different_outcomes(emulator: Emulator) -> None:
    emulator.faults.add(Fault(FaultKind.FAILED, path="/cluster/create"))
    emulator.faults.add(Fault(FaultKind.RETRYING, path="/storage/create"))
    async with listening(emulator) as (tp, events):
        failing = await tp.clusters.create("1xH100")
        with pytest.raises(OperationFailed):
            await failing
        await tp.clusters.create("1xH100")
    failed, unknown = of(OperationEnded, events)
    assert (failed.outcome, failed.error_type, failed.error) == (
        "failed",
        "OperationFailed",
        str(failing.exception()),
    )
    assert (unknown.outcome, unknown.error_type) == ("unknown", "OperationError")
    assert "the client was closed" in str(unknown.error)


async def test_retries_and_pauses_are_emitted(emulator: Emulator) -> None:
    emulator.faults.add(Fault(FaultKind.HTML_502, path="/cluster/list"))
    emulator.faults.add(Fault(FaultKind.RATE_LIMITED, path="/cluster/list", seconds=0.2))
    emulator.faults.add(Fault(FaultKind.DROP_BEFORE, path="/storage/list"))
    async with listening(emulator) as (tp, events):
        await tp.clusters.list()
        await tp.storage.list()
        assert tp.statistics().retries == len(of(RequestRetried, events)) == 3
    first, second, third = of(RequestRetried, events)
    assert [one.attempt for one in of(RequestSent, events)] == [1, 2, 3, 1, 2]
    assert (first.attempt, second.attempt, third.attempt) == (2, 3, 2)
    assert "502" in first.why
    assert 0 < first.delay <= 0.02
    assert "429" in second.why
    assert second.delay == pytest.approx(0.2)
    assert "connection was lost" in third.why
    (paused,) = of(RequestsPaused, events)
    assert paused.seconds == pytest.approx(0.2)
    assert paused.reason == "rate"
    (failed,) = of(RequestFailed, events)
    assert (failed.path, failed.error_type) == ("/storage/list", "ConnectionFailed")


async def test_a_burst_of_429_is_one_pause(scripted: ScriptedEngine, odd_tp: TensorPool) -> None:
    events: list[Event] = []
    scripted.answer("GET /cluster/list", "", status=429, headers={"Retry-After": "1"}, times=10)
    scripted.answer("GET /cluster/list", {"clusters": []})
    async with TensorPool("scripted-key", base_url=scripted.url, on_event=events.append) as tp:
        await asyncio.gather(*(tp.clusters.list() for _ in range(10)))
    assert len(of(RequestsPaused, events)) == 1


async def test_an_exhausted_quota_is_the_reason_of_its_pause(
    scripted: ScriptedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    events: list[Event] = []
    scripted.answer("GET /cluster/list", "", status=429, headers={"Retry-After": "600"})
    async with TensorPool("scripted-key", base_url=scripted.url, on_event=events.append) as tp:
        with pytest.raises(RateLimited) as caught:
            await tp.clusters.list()
    assert caught.value.retry_after == 600
    (paused,) = of(RequestsPaused, events)
    assert (paused.seconds, paused.reason, paused.asked) == (120, "quota", 600)
    (line,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert line.getMessage() == "all requests pause for 120.0 s (quota); the engine asks for 600 s"


async def test_a_cancelled_request_is_recorded_as_failed(scripted: ScriptedEngine) -> None:
    events: list[Event] = []

    async def never(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(30)
        return web.Response()

    scripted.handle("GET /cluster/list", never)
    async with TensorPool("scripted-key", base_url=scripted.url, on_event=events.append) as tp:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(tp.clusters.list(), 0.1)
        assert tp.statistics().limiter.in_flight == 0
    (failed,) = of(RequestFailed, events)
    assert failed.error_type == "CancelledError"


async def test_fleet_events_reach_the_listeners_of_the_client(emulator: Emulator) -> None:
    own: list[Event] = []
    fleet = Fleet("s", [ClusterGroup("t", ("1xH100",), count=2)])
    async with listening(emulator) as (tp, events):
        await tp.fleet(fleet).up(on_event=own.append)
    assert own
    assert of(FleetMemberChanged, events) == own


async def test_no_event_holds_the_key_wherever_the_engine_echoes_it(scripted: ScriptedEngine) -> None:
    events: list[Event] = []
    echo_the_key(scripted)
    async with TensorPool(
        KEY,
        base_url=scripted.url,
        on_event=events.append,
        retry=RetryPolicy(backoff=0.01),
        polling=PollPolicy(default=0.01, initial=0.01),
    ) as tp:
        await use_what_echoes(tp)
    assert {type(one).__name__ for one in events} >= {
        "OperationChanged",
        "OperationEnded",
        "RequestRetried",
        "RequestAnswered",
    }
    assert KEY not in repr(events)
    assert MASK in repr(of(OperationChanged, events))


async def test_a_listener_that_raises_harms_no_pull(
    emulator: Emulator, tmp_path: pytest.TempPathFactory
) -> None:
    received: list[Event] = []

    def listen(one: Event) -> None:
        received.append(one)
        raise RuntimeError("a listener's own trouble")

    job = emulator.jobs.add(files={"a": b"data"})
    async with TensorPool(emulator.key, base_url=emulator.url, on_event=listen) as tp:
        (pulled,) = await tp.jobs.pull(job.id, str(tmp_path))
        assert pulled.path.read_bytes() == b"data"
        assert sum(isinstance(one, BytesPulled) for one in received) == 2
        assert tp.statistics().listener_failures == len(received)
