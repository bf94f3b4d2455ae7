"""Destroying what a run has made: never what was there before, and never while its creation goes on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

import anyio

from tensorpool_async.client import TensorPool
from tensorpool_async.errors import (
    AmbiguousOutcomeError,
    ConflictError,
    ConnectionFailed,
    DecodeError,
    NotFound,
    OperationFailed,
    OperationTimeout,
    RateLimited,
    ServerError,
    TensorPoolError,
)
from tensorpool_async.fleet.created import CreatedMember, CreatedResources
from tensorpool_async.fleet.progress import FleetProgress, sentence
from tensorpool_async.fleet.report import MemberState
from tensorpool_async.models import Cluster, StorageVolume
from tensorpool_async.operations.operation import Operation
from tensorpool_async.texts import logger_of


T = TypeVar("T")

MAX_LOOKUPS = 6
"""How often something is looked for whose creation had no answer: the lists of an engine may lag behind."""
LOOK_DELAY = 0.5
"""Seconds between the first two looks; each further pause is twice as long."""
REFUSALS = 3
"""How often the engine is asked to destroy what it refuses, or fails, to destroy."""
RETRY_DELAY = 1.0
"""Seconds until what failed is tried again; each further pause is twice as long."""
LONGEST_DELAY = 30.0

logger: logging.Logger = logger_of(__name__)


class Rollback:
    """The way down of what is in a ledger. It is run in a task that nobody cancels."""

    def __init__(self, tp: TensorPool, progress: FleetProgress, created: CreatedResources) -> None:
        self._tp = tp
        self._progress = progress
        self._created = created

    async def run(
        self, records: Iterable[CreatedMember], *, timeout: float, patient: bool = True
    ) -> list[Exception]:
        """Destroy what was made for some members; return an error for each of them of which something is left.

        Args:
            records: Those of the members.
            timeout: Seconds that it may take.
            patient: Try again, until the time is up, where the engine cannot be reached.
        """
        # The time may be short: requests go in the order in which they were asked for, and what costs most goes first.
        records = sorted((record for record in records if not record.is_empty), key=_rate_of, reverse=True)
        for record in records:
            record.problem = None
            record.over.clear()
        with anyio.move_on_after(timeout):
            async with anyio.create_task_group() as tasks:
                for record in records:
                    tasks.start_soon(self._take_down, record, patient)
        for record in records:
            if not record.over.is_set():
                await self._give_up(record, timeout)
        return [record.problem for record in records if record.problem is not None]

    async def _take_down(self, record: CreatedMember, patient: bool) -> None:  # noqa: FBT001 - a task group passes no keywords
        waits = any(operation is not None and not operation.done() for operation in record.made.values())
        message = "waiting for the end of its creation" if waits or record.sending else ""
        self._progress.begins_to_go(record.name, message)
        try:
            await self._learn(record)
            if record.unclear:
                await self._find_by_name(record, patient=patient)
            made = list(record.made)
            for resource_id in made:
                self._progress.change(record.name, MemberState.DESTROYING, id=resource_id)
                await self._persist(partial(self._destroy, record, resource_id), patient=patient)
                del record.made[resource_id]
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not keep the others from being destroyed
            self._fails(record, error)
        else:
            end = MemberState.DESTROYED if made else MemberState.ABSENT
            self._progress.change(record.name, end, hourly_rate=None)
        record.over.set()

    async def _learn(self, record: CreatedMember) -> None:
        """Wait for the answer to a creation that was on its way; what it says is in the record then."""
        if record.sending is not None:
            await asyncio.wait([record.sending])
            if not record.sending.cancelled():
                record.sending.exception()  # a refusal made nothing; after a lost answer the record is unclear
            record.sending = None

    async def _find_by_name(self, record: CreatedMember, *, patient: bool) -> None:
        """Look for what a creation without an answer may have made."""
        delay = LOOK_DELAY
        for look in range(MAX_LOOKUPS):
            if look:
                await anyio.sleep(delay)
                delay *= 2
            found = await self._persist(partial(self._list, record), patient=patient)
            if record.finds(one for one in found if one.name == record.name):
                return
        logger.warning("the creation of %s had no answer, and nothing of that name shows", record.name)
        record.unclear = False

    async def _list(self, record: CreatedMember) -> Sequence[Cluster | StorageVolume]:
        return await (self._tp.storage.list() if record.is_volume else self._tp.clusters.list())

    async def _destroy(self, record: CreatedMember, resource_id: str) -> None:
        with contextlib.suppress(OperationFailed, NotFound):  # it has ended, which is all that matters here
            await self._end_of_creation(record, resource_id)
        self._progress.change(record.name, MemberState.DESTROYING, "")
        if record.is_volume:
            await self._free(resource_id)
        with contextlib.suppress(NotFound):
            if record.protected:
                await self._unprotect(record, resource_id)
            if record.is_volume:
                await (await self._tp.storage.for_exit.destroy(resource_id)).settled()
            else:
                await self._tp.clusters.for_exit.lifecycle.destroy(Cluster(resource_id))

    async def _end_of_creation(self, record: CreatedMember, resource_id: str) -> None:
        operation = record.made[resource_id]
        if operation is None or (operation.done() and not _has_ended(operation)):
            operation = await self._operation_of(record, resource_id)
            record.made[resource_id] = operation
        await operation.settled()

    async def _operation_of(self, record: CreatedMember, resource_id: str) -> Operation[Any]:
        if record.is_volume:
            # No endpoint tells which request makes a volume, so the volume itself is watched.
            return self._tp.storage.creation_of(resource_id)
        return await self._tp.clusters.lifecycle.creation_of(resource_id)

    async def _unprotect(self, record: CreatedMember, resource_id: str) -> None:
        if record.is_volume:
            await (await self._tp.storage.for_exit.edit(resource_id, deletion_protection=False)).settled()
        else:
            await (await self._tp.clusters.for_exit.edit(resource_id, deletion_protection=False)).settled()

    async def _free(self, volume_id: str) -> None:
        """Wait until the clusters are gone that a volume was attached to; detach it from those that stay."""
        for cluster_id in sorted(self._created.attached[volume_id]):
            maker = self._created.maker_of(cluster_id)
            if maker is not None:
                await maker.over.wait()
        try:
            attached = (await self._tp.storage.get(volume_id)).attached_clusters
        except NotFound:
            return
        for cluster_id in attached:
            # Where somebody else has attached it, the engine refuses to destroy it, and that is told.
            if cluster_id in self._created.attached[volume_id]:
                await (await self._tp.storage.for_exit.detach(volume_id, cluster_id)).settled()

    async def _persist(self, attempt: Callable[[], Awaitable[T]], *, patient: bool) -> T:
        """Try until it succeeds, or cannot; the time of the whole is what ends it where the engine is out of reach."""
        delay, refusals = RETRY_DELAY, 0
        while True:
            try:
                return await attempt()
            except TensorPoolError as error:
                refusals += isinstance(error, ConflictError | OperationFailed)
                if not patient or refusals == REFUSALS or not _may_pass(error):
                    raise
                logger.warning("a rollback tries again in %g s, after: %s", delay, sentence(error))
            await anyio.sleep(delay)
            delay = min(2 * delay, LONGEST_DELAY)

    async def _give_up(self, record: CreatedMember, timeout: float) -> None:
        if record.sending is not None:
            record.sending.cancel()
            await asyncio.wait([record.sending])
            record.sending = None
        text = f"{record.remnant} was not gone within {timeout:g} s"
        self._fails(record, OperationTimeout(text))
        record.over.set()

    def _fails(self, record: CreatedMember, error: Exception) -> None:
        record.problem = error
        self._progress.fails(record.name, error)
        logger.error("%s", left_behind(record))


def left_behind(record: CreatedMember) -> str:
    """Say what is left of a member that could not be destroyed, and why."""
    return record.remnant.left("" if record.problem is None else sentence(record.problem))


def _rate_of(record: CreatedMember) -> float:
    return record.hourly_rate or 0.0


def _has_ended(operation: Operation[Any]) -> bool:
    error = operation.exception()
    return error is None or isinstance(error, OperationFailed | NotFound)


def _may_pass(error: TensorPoolError) -> bool:
    """Whether it may go well another time."""
    if isinstance(error, ConnectionFailed):
        return not error.permanent
    return isinstance(
        error,
        ServerError | RateLimited | DecodeError | AmbiguousOutcomeError | ConflictError | OperationFailed,
    )
