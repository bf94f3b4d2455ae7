"""Work that is brought to its end also where its caller is cancelled.

A cluster that is still being created when its owner is cancelled costs money until somebody destroys it. That somebody
is the owner, before it passes the cancellation on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import anyio


T = TypeVar("T")


async def run_shielded(work: Awaitable[T]) -> T:
    """Run work in a task of its own and wait for its end, however often the caller is cancelled meanwhile.

    A caller that was cancelled is told so afterwards: with the `CancelledError`, whose cause is the error of the work,
    if it had one. Only what cancels every task (the end of the event loop: a second Ctrl-C) stops the work itself.

    Raises:
        asyncio.CancelledError: The caller was cancelled, and the work has ended; or the work itself was cancelled.
        Exception: What the work raised.
    """
    task = asyncio.ensure_future(work)
    interruption = await wait_uncancelled(task)
    if interruption is not None:
        raise interruption from (None if task.cancelled() else task.exception())
    return task.result()


async def wait_uncancelled(task: asyncio.Future[T]) -> asyncio.CancelledError | None:
    """Wait for the end of a task, however often the caller is cancelled meanwhile; return the last such interruption.

    Whoever calls this raises what it returns, once nothing is left to be done.
    """
    interruption: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):  # a cancel scope would interrupt again and again
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:
                interruption = error
    return interruption
