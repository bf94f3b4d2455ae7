"""`explain()`: an operation's summary, and the note of its errors."""

from __future__ import annotations

import asyncio
import pickle
import re
from contextvars import Context, copy_context
from functools import partial

import pytest

from tensorpool_async import (
    NotFound,
    OperationError,
    OperationFailed,
    OperationKind,
    OperationTimeout,
    PollPolicy,
    RateLimiter,
    RequestInfo,
    RequestStatus,
    RetryPolicy,
    TensorPool,
)
from tensorpool_async.emulator import Emulator, Fault, FaultKind
from tensorpool_async.events import Event, OperationAccepted
from tensorpool_async.protocol.operation import OperationMachine
from tensorpool_async.protocol.send_context import SendContext
from tensorpool_async.protocol.summary import PollCounters, summarize
from tensorpool_async.protocol.tokens import OperationRef
from tests.support.echoing import KEY, echo_the_key
from tests.support.scripted import ScriptedEngine


def notes_of(error: BaseException) -> list[str]:
    return getattr(error, "__notes__", [])


async def test_an_operation_that_goes_well_has_a_short_summary(tp: TensorPool) -> None:
    operation = await tp.clusters.create("1xH100")
    first, followed, standing = operation.explain().splitlines()
    assert first == f"CLUSTER_CLAIM of {operation.resource_id} (request {operation.request_id})"
    assert followed == "followed for 0.0 s, not polled yet"
    assert standing == "PENDING; next poll in 0.0 s"
    await operation
    first, followed, standing = operation.explain().splitlines()
    assert re.fullmatch(r"followed for \d\.\d s, polled (twice|\d+ times)", followed)
    assert standing == "completed"
    seconds = followed
    await asyncio.sleep(0.12)
    assert operation.explain().splitlines()[1] == seconds, "after its end, no time goes by"


async def test_the_summary_names_a_wait_for_a_slot(emulator: Emulator) -> None:
    limiter = RateLimiter(max_in_flight=1)
    async with TensorPool(emulator.key, base_url=emulator.url, limiter=limiter) as tp:
        granted_at = await limiter.acquire()
        submitting = asyncio.create_task(tp.clusters.create("1xH100"))
        await asyncio.sleep(0.25)
        limiter.release(granted_at)
        with pytest.raises(OperationTimeout) as caught:
            await (await submitting).result(0)
    (note,) = notes_of(caught.value)
    (waited,) = [line for line in note.splitlines() if "for its turn" in line]
    assert 0.2 <= float(waited.removeprefix("waited ").removesuffix(" s for its turn")) < 2.0


async def test_the_summary_names_429s_and_of_polls_without_an_answer(emulator: Emulator) -> None:
    emulator.faults.add(Fault(FaultKind.RATE_LIMITED, path="/cluster/create", times=2, seconds=0.15))
    emulator.faults.add(Fault(FaultKind.RATE_LIMITED, path="/request/info/*", seconds=0.1))
    emulator.faults.add(Fault(FaultKind.DROP_BEFORE, path="/request/info/*", times=2))
    emulator.faults.add(Fault(FaultKind.ERROR_500, path="/request/info/*"))
    polling = PollPolicy(initial=0.01, default=0.01, maximum=0.02)
    async with TensorPool(emulator.key, base_url=emulator.url, polling=polling) as tp:
        operation = await tp.clusters.create("1xH100")
        await operation
        summary = operation.explain()
    assert "rate-limited twice, 0." in summary
    assert "sent 3 times" in summary
    assert "polls rate-limited once" in summary
    assert "polls without an answer: 3" in summary


async def test_the_summary_counts_how_often_the_engine_began_again(
    scripted: ScriptedEngine, odd_tp: TensorPool
) -> None:
    scripted.answer("POST /cluster/create", {"cluster_id": "c-1", "request_id": "r-1"}, status=202)
    scripted.answer("GET /cluster/info/c-1", {"cluster_info": {"id": "c-1", "status": "RUNNING"}})
    for status in ("RETRYING", "RETRYING", "PROCESSING", "Retrying", "COMPLETED"):
        said = {"request_id": "r-1", "request_type": "CLUSTER_CLAIM", "status": status, "object_id": "c-1"}
        scripted.answer("GET /request/info/r-1", said)
    operation = await odd_tp.clusters.create("1xH100")
    await operation
    assert "polled 6 times; RETRYING twice" in operation.explain()


async def test_a_retry_after_a_lost_connection_is_no_429(emulator: Emulator) -> None:
    emulator.faults.add(Fault(FaultKind.DROP_BEFORE, method="DELETE"))
    retry = RetryPolicy(backoff=0.4, longest_backoff=0.4)
    async with TensorPool(emulator.key, base_url=emulator.url, retry=retry) as tp:
        cluster = await tp.clusters.create("1xH100").result()
        operation = await tp.clusters.destroy(cluster)
        await operation
    summary = operation.explain()
    assert "sent twice" in summary
    assert "rate-limited" not in summary
    assert "for its turn" not in summary, "a backoff is no wait for a slot"


async def test_a_failure_has_the_summary_as_a_note_once(emulator: Emulator, tp: TensorPool) -> None:
    emulator.faults.add(Fault(FaultKind.FAILED, path="/cluster/create"))
    operation = await tp.clusters.create("1xH100")
    for _ in range(3):
        with pytest.raises(OperationFailed) as caught:
            await operation
        assert notes_of(caught.value) == [operation.explain()]
    await asyncio.gather(operation, operation, return_exceptions=True)
    error = operation.exception()
    assert error is not None
    assert notes_of(error) == [operation.explain()]
    assert operation.explain().splitlines()[-1] == f"failed: {error}"
    assert notes_of(pickle.loads(pickle.dumps(error))) == notes_of(error)


async def test_a_timeout_tells_where_the_operation_stands() -> None:
    async with Emulator(provision_seconds=30, retry_after=5) as engine:
        polling = PollPolicy(initial=0.01)
        async with TensorPool(engine.key, base_url=engine.url, polling=polling) as tp:
            operation = await tp.clusters.create("1xH100")
            while not operation.polls:
                await asyncio.sleep(0.01)
            for _ in range(2):
                with pytest.raises(OperationTimeout) as caught:
                    await operation.result(0.01)
                (note,) = notes_of(caught.value)
                assert "polled once" in note
                assert "next poll in " in note
                assert 3.5 < float(note.rpartition("next poll in ")[2].removesuffix(" s")) <= 5.5


async def test_a_closed_client_gives_it_up() -> None:
    async with Emulator(provision_seconds=30, retry_after=30) as engine:
        async with TensorPool(engine.key, base_url=engine.url, polling=PollPolicy(initial=30)) as tp:
            operation = await tp.clusters.create("1xH100")
        with pytest.raises(OperationError) as caught:
            await operation
    (note,) = notes_of(caught.value)
    _, followed, standing = note.splitlines()
    assert re.fullmatch(r"followed for \d\.\d s, not polled yet", followed), (
        "until its end, not until its next poll"
    )
    assert standing.startswith("given up: the client was closed")


async def test_what_is_sent_later_is_no_part_of_the_summary(emulator: Emulator) -> None:
    contexts: list[Context] = []

    def keep_the_context(event: Event) -> None:
        if isinstance(event, OperationAccepted):
            contexts.append(copy_context())

    emulator.faults.add(Fault(FaultKind.RATE_LIMITED, path="/cluster/create", seconds=0.1))
    async with TensorPool(emulator.key, base_url=emulator.url, on_event=keep_the_context) as tp:
        operation = await tp.clusters.create("1xH100")
        await operation
        summary = operation.explain()
        assert "sent twice" in summary
        with pytest.raises(NotFound):
            await asyncio.create_task(tp.jobs.delete("j-none"), context=contexts[0])
    assert operation.explain() == summary


def test_an_operation_that_nobody_follows_tells_what_is_known() -> None:
    tp = TensorPool("some-key")
    assert tp.operation("r-1").explain() == (
        "an operation of a resource that is not known yet (request r-1)\nPENDING; not polled yet"
    )


async def test_the_summary_can_be_read_when_no_loop_runs_any_more(emulator: Emulator) -> None:
    async with TensorPool(emulator.key, base_url=emulator.url) as tp:
        operation = await tp.clusters.create("1xH100")
        summary = await asyncio.to_thread(operation.explain)
    assert "PENDING" in summary


async def test_the_summary_does_not_hold_the_key(scripted: ScriptedEngine) -> None:
    echo_the_key(scripted)
    polling = PollPolicy(default=0.01, initial=0.01)
    async with TensorPool(KEY, base_url=scripted.url, polling=polling) as tp:
        operation = await tp.clusters.create("1xH100")
        with pytest.raises(OperationFailed) as caught:
            await operation
    assert KEY not in operation.explain() + "".join(notes_of(caught.value))
    assert "RETRYING once" in operation.explain()


@pytest.mark.parametrize(("asked", "told"), [("900", 900), ("0", 50)])
async def test_asking_in_between_makes_the_next_poll_later_and_never_earlier(
    scripted: ScriptedEngine, asked: str, told: float
) -> None:
    said = {"request_id": "r-1", "request_type": "CLUSTER_CLAIM", "status": "PROCESSING"}
    for message, pace in (("soon", "50"), ("later", asked)):
        answer = {**said, "external_message": message}
        scripted.answer("GET /request/info/r-1", answer, headers={"Retry-After": pace})
    async with TensorPool(KEY, base_url=scripted.url, polling=PollPolicy(jitter=0)) as tp:
        operation = tp.operation("r-1")
        operation.add_done_callback(lambda _: None)
        while not operation.polls:
            await asyncio.sleep(0.01)
        assert (await operation.refresh()).external_message == "later"
        seconds = float(operation.explain().rpartition("next poll in ")[2].removesuffix(" s"))
    assert told - 10 < seconds <= told


async def test_the_time_of_looking_for_a_lost_create_is_no_wait_for_its_turn(emulator: Emulator) -> None:
    emulator.faults.add(Fault(FaultKind.DROP_BEFORE, path="/cluster/create"))
    retry = RetryPolicy(backoff=0.4, longest_backoff=0.4)
    async with TensorPool(emulator.key, base_url=emulator.url, retry=retry) as tp:
        operation = await tp.clusters.create("1xH100")
        assert "sent twice" in operation.explain()
        assert "for its turn" not in operation.explain()


def test_the_lines_of_a_summary() -> None:
    machine = OperationMachine(OperationRef(None, request_ids=("r-1",)), PollPolicy())
    machine.info = RequestInfo(
        "r-1", OperationKind.CLUSTER_CLAIM, RequestStatus.RETRYING, external_message="hm"
    )
    context = SendContext(0.0)
    context.record_send(2.0, 0.0)
    context.record_requeue(2.5, asked_to_wait=True)
    context.record_send(5.5, 0.0)
    counters = PollCounters(context)
    counters.retrying = 2
    summary = partial(summarize, machine, counters, began=10.0, next_at=25.0)
    assert summary(now=20.0) == (
        "an operation of a resource that is not known yet (request r-1)\n"
        "waited 2.0 s for its turn; rate-limited once, 3.0 s in all; sent twice\n"
        "followed for 10.0 s, not polled yet; RETRYING twice\n"
        "RETRYING: hm; next poll in 5.0 s"
    )
    assert summary(now=26.0).endswith("RETRYING: hm; a poll is due")
