"""One at a time for each key (design, section 7)."""

from __future__ import annotations

import asyncio

import pytest

from tensorpool_async.flow.keyed_lock import KeyedLock


async def let_run() -> None:
    """Let each task come as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


class Line:
    """Tasks that want the turn of one key, and what they did."""

    def __init__(self, locks: KeyedLock) -> None:
        self.locks = locks
        self.done: list[str] = []
        self.leave = asyncio.Event()

    def join(self, name: str, key: str = "key") -> asyncio.Task[None]:
        """Have a task that takes the turn and holds it until `leave`."""

        async def work() -> None:
            async with self.locks.hold(key):
                self.done.append(name)
                await self.leave.wait()

        return asyncio.create_task(work())


async def test_first_come_first_served_one_at_a_time() -> None:
    line = Line(KeyedLock())
    tasks = [line.join(name) for name in "abc"]
    await let_run()
    assert line.done == ["a"]
    line.leave.set()
    await asyncio.gather(*tasks)
    assert line.done == ["a", "b", "c"]


async def test_keys_do_not_wait_for_each_other() -> None:
    line = Line(KeyedLock())
    tasks = [line.join(name, key=name) for name in "abc"]
    await let_run()
    assert line.done == ["a", "b", "c"]
    line.leave.set()
    await asyncio.gather(*tasks)


async def test_who_comes_while_the_turn_is_passed_on_waits_for_it() -> None:
    locks = KeyedLock()
    await locks.acquire("key")
    waiting = asyncio.create_task(locks.acquire("key"))
    await let_run()
    locks.release("key")  # granted, and the task has not run yet
    late = asyncio.create_task(locks.acquire("key"))
    await let_run()
    assert waiting.done()
    assert not late.done()
    locks.release("key")
    await late
    locks.release("key")


async def test_who_is_cancelled_while_waiting_is_passed_over() -> None:
    line = Line(KeyedLock())
    tasks = [line.join(name) for name in "abc"]
    await let_run()
    tasks[1].cancel()
    await let_run()
    line.leave.set()
    await asyncio.gather(tasks[0], tasks[2])
    assert line.done == ["a", "c"]
    assert tasks[1].cancelled()


async def test_a_turn_that_comes_in_the_moment_of_the_cancellation_is_passed_on() -> None:
    locks = KeyedLock()
    await locks.acquire("key")
    waiting, next_one = (asyncio.create_task(locks.acquire("key")) for _ in range(2))
    await let_run()
    locks.release("key")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.wait_for(next_one, 1)
    locks.release("key")
    await asyncio.wait_for(locks.acquire("key"), 1)


async def test_an_error_gives_the_turn_back() -> None:
    locks = KeyedLock()
    with pytest.raises(RuntimeError, match="oops"):
        async with locks.hold("key"):
            raise RuntimeError("oops")
    await asyncio.wait_for(locks.acquire("key"), 1)


async def test_nothing_is_kept_of_keys_that_nobody_uses() -> None:
    line = Line(KeyedLock())
    line.leave.set()
    await asyncio.gather(*(line.join(str(number), key=str(number % 3)) for number in range(9)))
    with pytest.raises(KeyError):
        line.locks.release("0")


async def test_who_is_closed_while_waiting_is_passed_over() -> None:
    locks = KeyedLock()
    await locks.acquire("key")
    closed = locks.acquire("key")
    closed.send(None)
    late = asyncio.create_task(locks.acquire("key"))
    await let_run()
    closed.close()
    locks.release("key")
    await asyncio.wait_for(late, 1)
