"""Events: whoever listens harms nothing (design, `events.py`)."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest
from aiohttp import web

from tensorpool_async import OperationFailed, PollPolicy, RateLimited, RetryPolicy, TensorPool
from tensorpool_async.emulator import Emulator, Fault, FaultKind
from tensorpool_async.events import (
    LONGEST_QUEUE,
    MOST_WARNINGS,
    BytesPulled,
    CommandEnded,
    Dispatcher,
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
from tensorpool_async.events.instrumentation import route_of
from tensorpool_async.fleet import ClusterGroup, Fleet
from tensorpool_async.secrets import MASK
from tests.support.echoing import KEY, echo_the_key, use_what_echoes
from tests.support.scripted import ScriptedEngine


T = TypeVar("T")

ENDED = CommandEnded(arguments=("rsync",), exit_code=0)


def event(code: int) -> CommandEnded:
    return CommandEnded(arguments=("rsync",), exit_code=code)


async def test_a_plain_listener_is_called_at_once() -> None:
    heard: list[Event] = []
    Dispatcher(heard.append).emit(ENDED)
    assert heard == [ENDED]


async def test_an_asynchronous_listener_hears_everything_in_order() -> None:
    heard: list[int] = []

    async def listen(one: CommandEnded) -> None:
        await asyncio.sleep(0)
        heard.append(one.exit_code)

    dispatcher = Dispatcher(listen)
    for code in range(50):
        dispatcher.emit(event(code))
    while len(heard) < 50:
        await asyncio.sleep(0)
    assert heard == list(range(50))
    dispatcher.emit(event(50))
    await asyncio.sleep(0.01)
    assert heard[-1] == 50, "it hears what comes after a pause too"
    await dispatcher.aclose()


async def test_a_listener_that_raises_is_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    def listen(_: Event) -> None:
        raise ZeroDivisionError

    async def listen_later(_: Event) -> None:
        raise ZeroDivisionError

    for listener in (listen, listen_later):
        dispatcher = Dispatcher(listener)
        dispatcher.emit(ENDED)
        dispatcher.emit(ENDED)
        await asyncio.sleep(0.01)
        assert dispatcher.failures == 2
        await dispatcher.aclose()
    assert caplog.messages.count("a listener to events failed; what it listens to goes on") == 4
    assert caplog.records[0].levelno == logging.WARNING


async def test_a_listener_that_is_too_slow_loses_events_and_holds_nothing_up() -> None:
    async def listen(_: Event) -> None:
        await asyncio.sleep(60)

    dispatcher = Dispatcher(listen)
    for _ in range(LONGEST_QUEUE + 5):
        dispatcher.emit(ENDED)
    assert dispatcher.dropped == 5
    await asyncio.sleep(0)
    await dispatcher.aclose()
    assert dispatcher.dropped == LONGEST_QUEUE + 4, (
        "what is left at the end is given up, but for the one under way"
    )


async def test_nobody_listening_costs_nothing() -> None:
    dispatcher = Dispatcher(None)
    dispatcher.emit(ENDED)
    await dispatcher.aclose()
    assert (dispatcher.failures, dispatcher.dropped) == (0, 0)


async def test_a_listener_that_raises_harms_no_pull(
    emulator: Emulator, tmp_path: pytest.TempPathFactory
) -> None:
    heard: list[Event] = []

    def listen(one: Event) -> None:
        heard.append(one)
        raise RuntimeError("a listener's own trouble")

    job = emulator.jobs.add(files={"a": b"data"})
    async with TensorPool(emulator.key, base_url=emulator.url, on_event=listen) as tp:
        (pulled,) = await tp.jobs.pull(job.id, str(tmp_path))
        assert pulled.path.read_bytes() == b"data"
        assert sum(isinstance(one, BytesPulled) for one in heard) == 2
        assert tp.statistics().listener_failures == len(heard)


async def test_several_listeners_hear_the_same_and_harm_each_other_not() -> None:
    plain: list[Event] = []
    later: list[Event] = []

    def fail(_: Event) -> None:
        raise ZeroDivisionError

    async def listen(one: Event) -> None:
        later.append(one)

    dispatcher = Dispatcher([fail, plain.append, listen])
    dispatcher.emit(ENDED)
    await dispatcher.aclose()
    assert plain == later == [ENDED]
    assert (dispatcher.failures, dispatcher.dropped) == (1, 0)


async def test_a_cancellation_that_a_listener_meets_is_its_own() -> None:
    heard: list[int] = []

    def fail(_: Event) -> None:
        raise asyncio.CancelledError

    async def fail_later(one: CommandEnded) -> None:
        heard.append(one.exit_code)
        raise asyncio.CancelledError

    dispatcher = Dispatcher([fail, fail_later])
    dispatcher.emit(event(1))
    dispatcher.emit(event(2))
    await dispatcher.aclose()
    assert heard == [1, 2]
    assert dispatcher.failures == 4


async def test_what_comes_after_the_end_is_dropped_and_starts_no_task() -> None:
    async def listen(_: Event) -> None:
        pytest.fail("it was called")

    dispatcher = Dispatcher(listen)
    await dispatcher.aclose()
    before = asyncio.all_tasks()
    dispatcher.emit(ENDED)
    assert asyncio.all_tasks() == before
    assert dispatcher.dropped == 1


async def test_a_listener_that_always_fails_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: Event) -> None:
        raise ZeroDivisionError

    dispatcher = Dispatcher(fail)
    for _ in range(MOST_WARNINGS + 5):
        dispatcher.emit(ENDED)
    assert dispatcher.failures == MOST_WARNINGS + 5
    assert len(caplog.records) == MOST_WARNINGS


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


async def test_events_tell_an_operation_from_its_submission_to_its_end(emulator: Emulator) -> None:
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
    said = of(OperationChanged, events)
    assert said[-1].status == "COMPLETED"
    assert len(set(said)) == len(said), "what is not new is not told"


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


async def test_an_operation_that_is_found_again_says_so(emulator: Emulator) -> None:
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


async def test_a_failure_and_a_closed_client_are_different_ends(emulator: Emulator) -> None:
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


async def test_retries_and_pauses_are_told(emulator: Emulator) -> None:
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


async def test_a_burst_that_is_refused_together_is_one_pause(
    scripted: ScriptedEngine, odd_tp: TensorPool
) -> None:
    events: list[Event] = []
    scripted.answer("GET /cluster/list", "", status=429, headers={"Retry-After": "1"}, times=10)
    scripted.answer("GET /cluster/list", {"clusters": []})
    async with TensorPool("scripted-key", base_url=scripted.url, on_event=events.append) as tp:
        await asyncio.gather(*(tp.clusters.list() for _ in range(10)))
    assert len(of(RequestsPaused, events)) == 1


async def test_a_quota_that_is_used_up_is_told_apart(
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


async def test_a_caller_that_is_cancelled_ends_its_request(scripted: ScriptedEngine) -> None:
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


async def test_a_fleet_tells_the_client_s_listeners_too(emulator: Emulator) -> None:
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


@pytest.mark.parametrize(
    ("path", "route", "found"),
    [
        ("/cluster/create", "/cluster/create", None),
        ("/cluster/c-1", "/cluster/{id}", "c-1"),
        ("/request/info/r%2F1", "/request/info/{id}", "r/1"),
        ("/storage/list", "/storage/list", None),
        ("/user/ssh-key/remove/k", "/user/ssh-key/remove/{id}", "k"),
        ("/user/organization/info", "/user/organization/info", None),
        ("/healthz", "/healthz", None),
    ],
)
def test_a_route_has_no_ids(path: str, route: str, found: str | None) -> None:
    assert route_of(path) == (route, found)


def test_every_route_of_the_engine_is_known() -> None:
    schema = json.loads((Path(__file__).parent.parent / "openapi.json").read_text())
    for route in schema["paths"]:
        path = re.sub(r"\{[^}]*\}", "an-id", route)
        assert route_of(path)[0] == re.sub(r"\{[^}]*\}", "{id}", route)
