"""A cluster for the body of an `async with`: whatever happens, it is destroyed on the way out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import attrs

from tensorpool_async.errors import (
    AmbiguousOutcomeError,
    ConnectionFailed,
    DecodeError,
    NotFound,
    RateLimited,
    ServerError,
    TensorPoolError,
)
from tensorpool_async.flow.shielding import run_shielded, wait_uncancelled
from tensorpool_async.models import Cluster
from tensorpool_async.operations.operation import Operation
from tensorpool_async.protocol.requests import Request
from tensorpool_async.protocol.tokens import AcceptedOperation
from tensorpool_async.resources.leaving import Remnant, announce
from tensorpool_async.texts import logger_of


if TYPE_CHECKING:
    from tensorpool_async.resources.clusters import Clusters


RETRY_DELAY = 1.0
"""Seconds until a destroy that met an outage is tried again, doubled each time."""
LONGEST_DELAY = 60.0

CLEANUP_TIMEOUT = 3600.0
"""Seconds that the way out may take: the end of a creation, and then that of the cluster."""

ATTEMPTS = 5
"""How often the protection is switched off whose answers are lost: doing it twice does no harm."""

logger: logging.Logger = logger_of("tensorpool_async")


class Ephemeral:
    """A cluster that lives as long as the body of an `async with`. It is used once.

    Attributes:
        operation: Its creation, once the engine has accepted it.
    """

    def __init__(
        self,
        clusters: Clusters,
        request: Request[AcceptedOperation],
        create: Callable[[Request[AcceptedOperation], Callable[[], bool]], Awaitable[Operation[Cluster]]],
        *,
        timeout: float,
    ) -> None:
        self.operation: Operation[Cluster] | None = None
        self._clusters = clusters
        self._request = request
        self._create = create
        self._timeout = timeout
        self._left = False
        self._given_up = False
        self._used = False
        self._over = False
        self._hourly_rate: float | None = None

    @property
    def name(self) -> str | None:
        """The name of the cluster, known before it is asked for."""
        return self._request.name

    async def __aenter__(self) -> Cluster:
        if self._used:
            raise RuntimeError(f"the ephemeral cluster {self.name!r} was used already; it is used once")
        self._used = True
        # In a task of its own: whoever is cancelled here must still learn whether there is a cluster.
        creation = asyncio.ensure_future(self._send())
        try:
            await asyncio.wait([creation])
            self.operation = creation.result()
            cluster = await self.operation
        except BaseException as error:
            await self._undo(creation, error)
            raise
        self._hourly_rate = cluster.hourly_rate
        return cluster

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._leave(error)

    async def _send(self) -> Operation[Cluster]:
        request = attrs.evolve(self._request, leaving=self._leaves)
        return await self._create(request, lambda: self._given_up)

    def _leaves(self) -> None:
        self._left = True

    async def _undo(self, creation: asyncio.Task[Operation[Cluster]], error: BaseException) -> None:
        """Destroy what there is, or will be, of a cluster that could not be waited for."""
        self._given_up = True  # an attempt that was told to come later does not
        if not self._left:
            creation.cancel()  # it waits for its turn: nothing is made yet
        interruption = await wait_uncancelled(creation)
        if creation.cancelled():
            if self._left:  # the event loop ends, and nobody is left to wait for the answer
                self._report_failure(error, error)
        else:
            problem = creation.exception()
            if problem is None:
                self.operation = creation.result()
            elif isinstance(problem, AmbiguousOutcomeError) and problem is not error:
                logger.error("%s", problem)
                error.add_note(str(problem))  # who was cancelled would not learn of it
        await self._leave(error)
        if interruption is not None:
            raise interruption

    async def _leave(self, error: BaseException | None) -> None:
        """Destroy the cluster; if that fails, tell so with the error that is on its way, or with one of its own."""
        if self.operation is not None:
            announce([self._remnant], error)
        try:
            await run_shielded(self._end())
        except (TensorPoolError, TimeoutError) as problem:
            self._report_failure(problem, error)
            if error is None:
                raise
        except asyncio.CancelledError as interruption:
            if interruption.__cause__ is not None:
                self._report_failure(interruption.__cause__, interruption)
            elif not self._over:  # the event loop ends, and the way out with it
                self._report_failure(interruption, interruption)
            raise
        except (
            KeyboardInterrupt,
            SystemExit,
        ) as interruption:  # a second Ctrl-C, right in the middle of this
            self._report_failure(interruption, interruption)
            raise

    def _report_failure(self, problem: BaseException, error: BaseException | None) -> None:
        text = self._remnant.left(str(problem) or type(problem).__name__)
        logger.error("%s", text)
        (error or problem).add_note(text)

    @property
    def _remnant(self) -> Remnant:
        ids = () if self._resource_id is None else (self._resource_id,)
        return Remnant(kind="cluster", name=self.name, ids=ids, hourly_rate=self._hourly_rate)

    @property
    def _resource_id(self) -> str | None:
        return None if self.operation is None else self.operation.resource_id

    async def _end(self) -> None:
        if self.operation is not None and self._resource_id is not None:
            async with asyncio.timeout(self._timeout):
                with contextlib.suppress(TensorPoolError):  # also where nothing says how it ended
                    await self.operation.settled()  # never in the middle of its creation
                await self._remove(self._resource_id)
        self._over = True

    async def _remove(self, cluster_id: str) -> None:
        """Destroy it, through outages too, for as long as the way out may take."""
        pause = RETRY_DELAY
        while True:
            try:
                if self._is_protected():
                    await self._unprotect(cluster_id)
                await self._clusters.for_exit.lifecycle.destroy(Cluster(cluster_id))
            except (ConnectionFailed, ServerError, RateLimited, DecodeError, AmbiguousOutcomeError) as error:
                if isinstance(error, ConnectionFailed) and error.permanent:
                    raise
                logger.warning("cluster %s is not destroyed yet, and asked for again: %s", cluster_id, error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_DELAY)
            else:
                return

    async def _unprotect(self, cluster_id: str) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                await (await self._clusters.for_exit.edit(cluster_id, deletion_protection=False)).settled()
            except AmbiguousOutcomeError:
                if attempt == ATTEMPTS:
                    raise
            except NotFound:
                return
            else:
                return

    def _is_protected(self) -> bool:
        body: dict[str, Any] = self._request.json or {}
        return bool(body.get("deletion_protection"))
