"""Destroy members: of a whole fleet (`Teardown`), or only what one run created (`Rollback`).

A rollback never destroys what existed before its run. Nothing is destroyed while it is still being created.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

import anyio
import attrs

from tensorpool_async.errors import NotFound, OperationFailed, OperationTimeout
from tensorpool_async.fleet.client_protocol import FleetClient
from tensorpool_async.fleet.created import CreatedMember, CreatedResources
from tensorpool_async.fleet.progress import FleetProgress, sentence
from tensorpool_async.fleet.report import MemberState
from tensorpool_async.models import Cluster, StorageVolume
from tensorpool_async.operations.operation import Operation
from tensorpool_async.resources.deletion import COMING, delete_with_retries
from tensorpool_async.texts import logger_of


T = TypeVar("T")

MAX_LOOKUPS = 6
"""How often the lists are read for a resource whose create had no answer; the engine's lists may lag."""
LOOKUP_DELAY = 0.5
"""Seconds between the first two lookups; each further pause is twice as long."""
MAX_REJECTIONS = 2
"""How often a destroy that is refused with 409, or accepted and fails, is sent again."""

logger: logging.Logger = logger_of(__name__)


@attrs.frozen
class Teardown:
    """Destroys clusters and volumes for `down`, also those that other runs created. Their keys in the progress are their ids.

    Attributes:
        tp: The client.
        progress: Where the progress of each member is recorded.
    """

    tp: FleetClient
    progress: FleetProgress

    async def destroy_cluster(self, cluster: Cluster) -> None:
        """Destroy one cluster. A failure is recorded as the member's and not raised."""
        message = "waiting until it is created" if cluster.status in COMING else ""
        self.progress.record_destroying(cluster.id, message)
        try:
            await self.tp.clusters.for_exit.lifecycle.destroy(cluster)
        except Exception as error:  # noqa: BLE001 - an error of one member must not stop the others
            self.progress.record_failure(cluster.id, error)
        else:
            self.progress.update(cluster.id, MemberState.DESTROYED, hourly_rate=None)

    async def destroy_volume(self, volume: StorageVolume) -> None:
        """Destroy one volume once it is created. A failure is recorded as the member's and not raised."""
        self.progress.record_destroying(volume.id, "")
        try:
            with contextlib.suppress(NotFound):
                if volume.status != "READY":
                    await self.tp.storage.creation_of(volume.id).settled()
                # If the volume is still attached, the cluster is not destroyed. The engine then refuses this destroy,
                # and a detach would restart the nodes of that cluster.
                await (await self.tp.storage.for_exit.destroy(volume.id)).settled()
        except Exception as error:  # noqa: BLE001 - an error of one member must not stop the others
            self.progress.record_failure(volume.id, error)
        else:
            self.progress.update(volume.id, MemberState.DESTROYED, hourly_rate=None)


class Rollback:
    """Destroys what a run created. It runs in a task of its own, which is not cancelled with the caller."""

    def __init__(self, tp: FleetClient, progress: FleetProgress, created: CreatedResources) -> None:
        self._tp = tp
        self._progress = progress
        self._created = created

    async def run(
        self, records: Iterable[CreatedMember], *, timeout: float, retry: bool = True
    ) -> list[Exception]:
        """Destroy what was created for some members, the most expensive first.

        Args:
            records: The records of the members.
            timeout: Seconds that all may take together.
            retry: Whether a step that failed is retried until the time is up, if the error may be temporary.

        Returns:
            An error for each member of which something could not be destroyed.
        """
        # The process may be killed before all is destroyed, and requests are sent in this order.
        records = sorted((record for record in records if not record.is_empty), key=_rate_of, reverse=True)
        for record in records:
            record.error = None
            record.finished.clear()
        with anyio.move_on_after(timeout):
            async with anyio.create_task_group() as tasks:
                for record in records:
                    tasks.start_soon(self._destroy_member, record, retry)
        for record in records:
            if not record.finished.is_set():
                await self._record_timeout(record, timeout)
        return [record.error for record in records if record.error is not None]

    async def _destroy_member(self, record: CreatedMember, retry: bool) -> None:  # noqa: FBT001 - a task group passes no keywords
        waits = any(operation is not None and not operation.done() for operation in record.made.values())
        message = "waiting until it is created" if waits or record.pending_send else ""
        self._progress.record_destroying(record.name, message)
        try:
            await self._wait_for_answer(record)
            if record.unclear:
                await self._find_by_name(record, retry=retry)
            made = list(record.made)
            for resource_id in made:
                self._progress.update(record.name, MemberState.DESTROYING, id=resource_id)
                await self._with_retries(record, partial(self._destroy, record, resource_id), retry=retry)
                del record.made[resource_id]
        except Exception as error:  # noqa: BLE001 - an error of one member must not stop the others
            self._record_failure(record, error)
        else:
            end = MemberState.DESTROYED if made else MemberState.ABSENT
            self._progress.update(record.name, end, hourly_rate=None)
        record.finished.set()

    async def _wait_for_answer(self, record: CreatedMember) -> None:
        """Wait for the answer to a create in flight; the answer is then in the record."""
        if record.pending_send is not None:
            await asyncio.wait([record.pending_send])
            if not record.pending_send.cancelled():
                record.pending_send.exception()  # marks it as retrieved; after a lost answer the record is unclear
            record.pending_send = None

    async def _find_by_name(self, record: CreatedMember, *, retry: bool) -> None:
        """Record what a create without an answer created, if a list shows it."""
        delay = LOOKUP_DELAY
        for lookup in range(MAX_LOOKUPS):
            if lookup:
                await anyio.sleep(delay)
                delay *= 2
            found = await self._with_retries(record, partial(self._list, record), retry=retry)
            if record.adopt(one for one in found if one.name == record.name):
                return
        logger.warning("the create of %s had no answer, and no resource of that name is listed", record.name)
        record.unclear = False

    async def _list(self, record: CreatedMember) -> Sequence[Cluster | StorageVolume]:
        return await (self._tp.storage.list() if record.is_volume else self._tp.clusters.list())

    async def _destroy(self, record: CreatedMember, resource_id: str) -> None:
        with contextlib.suppress(OperationFailed, NotFound):  # a create that failed has ended too
            await self._wait_for_create(record, resource_id)
        self._progress.update(record.name, MemberState.DESTROYING, "")
        if record.is_volume:
            await self._detach(resource_id)
        with contextlib.suppress(NotFound):
            if record.protected:
                await self._unprotect(record, resource_id)
            if record.is_volume:
                await (await self._tp.storage.for_exit.destroy(resource_id)).settled()
            else:
                await self._tp.clusters.for_exit.lifecycle.destroy(Cluster(resource_id))

    async def _wait_for_create(self, record: CreatedMember, resource_id: str) -> None:
        operation = record.made[resource_id]
        if operation is None or (operation.done() and not _has_ended(operation)):
            operation = await self._create_operation(record, resource_id)
            record.made[resource_id] = operation
        await operation.settled()

    async def _create_operation(self, record: CreatedMember, resource_id: str) -> Operation[Any]:
        if record.is_volume:
            return self._tp.storage.creation_of(resource_id)
        return await self._tp.clusters.lifecycle.creation_of(resource_id)

    async def _unprotect(self, record: CreatedMember, resource_id: str) -> None:
        if record.is_volume:
            await (await self._tp.storage.for_exit.edit(resource_id, deletion_protection=False)).settled()
        else:
            await (await self._tp.clusters.for_exit.edit(resource_id, deletion_protection=False)).settled()

    async def _detach(self, volume_id: str) -> None:
        """Wait until the clusters that this run created are destroyed; detach the volume from those that stay."""
        for cluster_id in sorted(self._created.attached[volume_id]):
            creator = self._created.record_of_cluster(cluster_id)
            if creator is not None:
                await creator.finished.wait()
        try:
            attached = (await self._tp.storage.get(volume_id)).attached_clusters
        except NotFound:
            return
        for cluster_id in attached:
            # Attachments by others are kept, and the engine then refuses to destroy the volume.
            if cluster_id in self._created.attached[volume_id]:
                await (await self._tp.storage.for_exit.detach(volume_id, cluster_id)).settled()

    async def _with_retries(
        self, record: CreatedMember, step: Callable[[], Awaitable[T]], *, retry: bool
    ) -> T:
        if not retry:
            return await step()
        return await delete_with_retries(step, record.name, rejections=MAX_REJECTIONS)

    async def _record_timeout(self, record: CreatedMember, timeout: float) -> None:
        if record.pending_send is not None:
            record.pending_send.cancel()
            await asyncio.wait([record.pending_send])
            record.pending_send = None
        text = f"{record.undeleted} was not destroyed within {timeout:g} s"
        self._record_failure(record, OperationTimeout(text))
        record.finished.set()

    def _record_failure(self, record: CreatedMember, error: Exception) -> None:
        record.error = error
        self._progress.record_failure(record.name, error)
        logger.error("%s", left_behind(record))


def left_behind(record: CreatedMember) -> str:
    """Return a sentence about what could not be destroyed of a member: its price, why, and the command that does it."""
    return record.undeleted.deletion_failed("" if record.error is None else sentence(record.error))


def _rate_of(record: CreatedMember) -> float:
    return record.hourly_rate or 0.0


def _has_ended(operation: Operation[Any]) -> bool:
    error = operation.exception()
    return error is None or isinstance(error, OperationFailed | NotFound)
