"""The dispatcher: it delivers events in order, and isolates listeners from the client and from each other."""

from __future__ import annotations

import asyncio
import logging

import pytest

from tensorpool_async.events import CommandEnded, Dispatcher, Event
from tensorpool_async.events.dispatcher import LONGEST_QUEUE, MOST_WARNINGS


ENDED = CommandEnded(arguments=("rsync",), exit_code=0)


def event(code: int) -> CommandEnded:
    return CommandEnded(arguments=("rsync",), exit_code=code)


async def test_a_plain_listener_is_called_at_once() -> None:
    received: list[Event] = []
    Dispatcher(received.append).emit(ENDED)
    assert received == [ENDED]


async def test_an_asynchronous_listener_receives_all_events_in_order() -> None:
    received: list[int] = []

    async def listen(one: CommandEnded) -> None:
        await asyncio.sleep(0)
        received.append(one.exit_code)

    dispatcher = Dispatcher(listen)
    for code in range(50):
        dispatcher.emit(event(code))
    while len(received) < 50:
        await asyncio.sleep(0)
    assert received == list(range(50))
    dispatcher.emit(event(50))
    await asyncio.sleep(0.01)
    assert received[-1] == 50, "events after a pause are delivered as well"
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


async def test_a_full_listener_queue_drops_events() -> None:
    async def listen(_: Event) -> None:
        await asyncio.sleep(60)

    dispatcher = Dispatcher(listen)
    for _ in range(LONGEST_QUEUE + 5):
        dispatcher.emit(ENDED)
    assert dispatcher.dropped == 5
    await asyncio.sleep(0)
    await dispatcher.aclose()
    assert dispatcher.dropped == LONGEST_QUEUE + 4, (
        "closing drops the queued calls, but not the one that runs"
    )


async def test_a_dispatcher_without_listeners_accepts_events() -> None:
    dispatcher = Dispatcher(None)
    dispatcher.emit(ENDED)
    await dispatcher.aclose()
    assert (dispatcher.failures, dispatcher.dropped) == (0, 0)


async def test_an_error_of_one_listener_does_not_affect_the_others() -> None:
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


async def test_a_cancellation_raised_by_a_listener_counts_as_its_failure() -> None:
    received: list[int] = []

    def fail(_: Event) -> None:
        raise asyncio.CancelledError

    async def fail_later(one: CommandEnded) -> None:
        received.append(one.exit_code)
        raise asyncio.CancelledError

    dispatcher = Dispatcher([fail, fail_later])
    dispatcher.emit(event(1))
    dispatcher.emit(event(2))
    await dispatcher.aclose()
    assert received == [1, 2]
    assert dispatcher.failures == 4


async def test_an_event_after_close_is_dropped_and_starts_no_task() -> None:
    async def listen(_: Event) -> None:
        pytest.fail("it was called")

    dispatcher = Dispatcher(listen)
    await dispatcher.aclose()
    before = asyncio.all_tasks()
    dispatcher.emit(ENDED)
    assert asyncio.all_tasks() == before
    assert dispatcher.dropped == 1


async def test_the_warnings_about_one_listener_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: Event) -> None:
        raise ZeroDivisionError

    dispatcher = Dispatcher(fail)
    for _ in range(MOST_WARNINGS + 5):
        dispatcher.emit(ENDED)
    assert dispatcher.failures == MOST_WARNINGS + 5
    assert len(caplog.records) == MOST_WARNINGS
