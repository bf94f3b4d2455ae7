"""Sending creations so that a caller who is cancelled still learns what became of those that were sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from tensorpool_async.errors import AmbiguousOutcomeError, TensorPoolError
from tensorpool_async.fleet.created import CreatedMember
from tensorpool_async.flow.shielding import wait_uncancelled
from tensorpool_async.operations.operation import Operation
from tensorpool_async.operations.submission import Submission


T = TypeVar("T")

GRACE = 5.0
"""Seconds that a cancelled caller still waits for answers to what was sent."""


class SendQueue:
    """Sends submissions, so many at a time.

    Those that wait for their turn are dropped when the caller is cancelled. The others are under way, and a cluster
    whose answer nobody reads is a cluster that nobody knows: their answers are still waited for, shortly, or handed over
    to somebody with more time.
    """

    def __init__(self, max_in_flight: int, *, detach_on_cancel: bool = False) -> None:
        """Make one.

        Args:
            max_in_flight: How many submissions may be on their way at a time.
            detach_on_cancel: Leave what is on its way in the record, as `sending`, when the caller is cancelled.
        """
        self._turns = asyncio.Semaphore(max_in_flight)
        self._hands_over = detach_on_cancel

    async def send(
        self,
        make: Callable[[], Submission[T]],
        record: CreatedMember,
        learn: Callable[[Operation[T]], object],
    ) -> Operation[T]:
        """Send a submission and return its operation.

        Args:
            make: Makes the submission, when its turn has come.
            record: Where what it makes is taken down, also where the caller was cancelled meanwhile.
            learn: Is told of the operation, in the same way.

        Raises:
            TensorPoolError: As the submission does.
        """
        async with self._turns:
            sending = asyncio.ensure_future(_send(make, record, learn))
            try:
                return await asyncio.shield(sending)
            except asyncio.CancelledError:
                if not record.unclear and not sending.done():
                    sending.cancel()  # it has not begun
                elif self._hands_over:
                    record.sending = sending
                else:
                    await wait_uncancelled(asyncio.ensure_future(_wait_for_answer(sending)))
                raise


async def _send(
    make: Callable[[], Submission[T]], record: CreatedMember, learn: Callable[[Operation[T]], object]
) -> Operation[T]:
    submission = make()
    record.unclear = True
    try:
        operation = await submission
    except AmbiguousOutcomeError:
        raise
    except TensorPoolError:
        record.unclear = False
        raise
    record.adds(operation)
    learn(operation)
    return operation


async def _wait_for_answer(sending: asyncio.Future[Operation[T]]) -> None:
    await asyncio.wait([sending], timeout=GRACE)
    if not sending.done():
        sending.cancel()
        await asyncio.wait([sending])
    if not sending.cancelled():
        sending.exception()  # an answer that nobody asks for any more may be an error
