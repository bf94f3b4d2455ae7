"""A lock for each key: one holder at a time, first come, first served."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Hashable
from contextlib import asynccontextmanager


class KeyedLock:
    """A lock for each key. A key in use costs one entry of a dictionary as long as nobody waits for it.

    Tens of thousands of keys may be in use at a time, and hardly any of them is ever waited for.
    """

    __slots__ = ("_waiters",)

    def __init__(self) -> None:
        self._waiters: dict[Hashable, deque[asyncio.Future[None]] | None] = {}

    async def acquire(self, key: Hashable) -> None:
        """Wait until the lock of a key is free, and take it. A waiter that is cancelled does not hold the lock."""
        if key not in self._waiters:
            self._waiters[key] = None
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters = self._waiters[key]
        if waiters is None:
            waiters = self._waiters[key] = deque()
        waiters.append(waiter)
        try:
            await waiter
        except BaseException:  # a coroutine may be closed as well as cancelled
            if waiter.done() and not waiter.cancelled():
                self.release(key)  # the lock came in the same moment, and is passed on
            else:
                waiter.cancel()
            raise

    def release(self, key: Hashable) -> None:
        """Pass the lock to whoever has waited longest; free it where nobody waits."""
        waiters = self._waiters[key]
        while waiters:
            waiter = waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        del self._waiters[key]

    @asynccontextmanager
    async def hold(self, key: Hashable) -> AsyncGenerator[None]:
        """Hold the lock of a key for the body of an `async with`."""
        await self.acquire(key)
        try:
            yield
        finally:
            self.release(key)
