"""Events: whoever listens harms nothing (design, `events.py`)."""

from __future__ import annotations

import asyncio
import logging

import pytest

from tensorpool_async import TensorPool
from tensorpool_async.emulator import Emulator
from tensorpool_async.events import LONGEST_QUEUE, BytesPulled, CommandEnded, Dispatcher, Event


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
