"""Sending creations so that a caller who is cancelled still learns what became of those that were sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import anyio

from tensorpool_async.operations import Operation
from tensorpool_async.submissions import Submission


T = TypeVar("T")

GRACE = 5.0
"""Seconds that a cancelled caller still waits for answers to what was sent."""


class Sender:
    """Sends submissions, so many at a time.

    Those that wait for their turn are dropped when the caller is cancelled. The others are under way, and a cluster
    whose answer nobody reads is a cluster that nobody knows: their answers are still waited for, shortly.
    """

    def __init__(self, max_in_flight: int) -> None:
        self._turns = asyncio.Semaphore(max_in_flight)

    async def send(
        self, make: Callable[[], Submission[T]], learn: Callable[[Operation[T]], object]
    ) -> Operation[T]:
        """Send a submission and return its operation.

        Args:
            make: Makes the submission, when its turn has come.
            learn: Is told of the operation, also where the caller was cancelled meanwhile.

        Raises:
            TensorPoolError: As the submission does.
        """
        async with self._turns:
            sending = asyncio.ensure_future(_send(make()))
            try:
                operation = await asyncio.shield(sending)
            except asyncio.CancelledError:
                with anyio.CancelScope(shield=True):
                    await _wait_for_answer(sending, learn)
                raise
        learn(operation)
        return operation


async def _send(submission: Submission[T]) -> Operation[T]:
    return await submission


async def _wait_for_answer(
    sending: asyncio.Future[Operation[T]], learn: Callable[[Operation[T]], object]
) -> None:
    await asyncio.wait([sending], timeout=GRACE)
    if not sending.done():
        sending.cancel()
        await asyncio.wait([sending])
    if not sending.cancelled() and sending.exception() is None:
        learn(sending.result())
