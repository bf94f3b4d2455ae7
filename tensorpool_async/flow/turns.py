"""Turns: one at a time for each key, first come, first served."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Hashable
from contextlib import asynccontextmanager


class Turns:
    """A lock for each key, which costs an entry of a dictionary as long as nobody has to wait.

    Tens of thousands of keys may be in use at a time, and hardly ever does anybody wait for one.
    """

    __slots__ = ("_queues",)

    def __init__(self) -> None:
        self._queues: dict[Hashable, deque[asyncio.Future[None]] | None] = {}

    async def take(self, key: Hashable) -> None:
        """Wait for the turn of a key, if somebody has it. Whoever is cancelled here has taken nobody's."""
        if key not in self._queues:
            self._queues[key] = None
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue = self._queues[key]
        if queue is None:
            queue = self._queues[key] = deque()
        queue.append(turn)
        try:
            await turn
        except BaseException:  # a coroutine may be closed as well as cancelled
            if turn.done() and not turn.cancelled():
                self.give_back(key)  # it came in the same moment, and is passed on
            else:
                turn.cancel()
            raise

    def give_back(self, key: Hashable) -> None:
        """Give the turn to whoever has waited longest, if anybody does."""
        queue = self._queues[key]
        while queue:
            turn = queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        del self._queues[key]

    @asynccontextmanager
    async def of(self, key: Hashable) -> AsyncGenerator[None]:
        """Have the turn of a key for the body of an `async with`."""
        await self.take(key)
        try:
            yield
        finally:
            self.give_back(key)
