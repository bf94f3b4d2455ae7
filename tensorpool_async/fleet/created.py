"""Send the creates of a run, and record what they created or may have created.

A rollback destroys only what is recorded here. So a create is recorded before it is sent, and its answer is recorded
also when the caller is cancelled meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import attrs

from tensorpool_async.errors import AmbiguousOutcomeError, TensorPoolError
from tensorpool_async.flow.shielding import wait_uncancelled
from tensorpool_async.models import Cluster, StorageVolume
from tensorpool_async.operations.operation import Operation
from tensorpool_async.operations.submission import Submission
from tensorpool_async.resources.exits import UndeletedResource


T = TypeVar("T")

GRACE = 5.0
"""Seconds that a cancelled caller waits for the answers to creates that were sent."""


@attrs.define(eq=False)
class CreatedMember:
    """What a run created for one member.

    Attributes:
        name: The member's name.
        is_volume: Whether the member is a volume.
        before: The ids of what had the member's name before the run.
        protected: Whether what the run creates is protected from deletion.
        made: The accepted creates by the id of the resource; None where only the id is known.
        unclear: Whether a create was sent whose outcome is not known.
        requested: What the last create asked for: instance type and number of nodes, or size in GB.
        pending_send: The create that was in flight when the caller was cancelled, for the rollback to wait for.
        hourly_rate: What it costs, in USD per hour, as known when the rollback begins; None where that is not known.
        error: Why the rollback could not destroy everything.
        finished: Set when the rollback has ended for this member.
    """

    name: str
    is_volume: bool = False
    before: frozenset[str] = frozenset()
    protected: bool = False
    made: dict[str, Operation[Any] | None] = attrs.field(factory=dict[str, "Operation[Any] | None"])
    unclear: bool = False
    requested: tuple[object, ...] = ()
    pending_send: asyncio.Future[Any] | None = None
    hourly_rate: float | None = None
    error: Exception | None = None
    finished: asyncio.Event = attrs.field(factory=asyncio.Event)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was created, and nothing may have been created."""
        return not self.made and not self.unclear and self.pending_send is None

    @property
    def undeleted(self) -> UndeletedResource:
        """What the run created, as log lines name it."""
        kind = "volume" if self.is_volume else "cluster"
        return UndeletedResource(
            kind=kind, name=self.name, ids=tuple(self.made), hourly_rate=self.hourly_rate
        )

    def record_accepted(self, operation: Operation[Any]) -> None:
        """Record that the engine accepted a create."""
        self.unclear = False
        if operation.resource_id is not None:
            self.made[operation.resource_id] = operation

    def adopt(self, found: Iterable[Cluster | StorageVolume]) -> bool:
        """Record resources of the member's name as created by a create whose answer was lost.

        A resource that existed before the run, or differs from what was requested, is left out.

        Returns:
            Whether any was recorded.
        """
        ours = [one.id for one in found if one.id not in self.before and self._matches(one)]
        for resource_id in ours:
            self.made.setdefault(resource_id, None)
        self.unclear = self.unclear and not ours
        return bool(ours)

    def _matches(self, one: Cluster | StorageVolume) -> bool:
        actual = (one.instance_type, one.num_nodes) if isinstance(one, Cluster) else (one.size_gb,)
        # A field that the engine leaves out is no difference.
        return all(
            value is None or value == requested
            for value, requested in zip(actual, self.requested, strict=True)
        )


class CreatedResources:
    """What a run created for all members.

    Attributes:
        owned: Whether the resources belong to this process, so that `reap` may destroy them if the process is killed.
        attached: The ids of the clusters that this run attached a volume to, or tried to, by the volume's id.
    """

    def __init__(self, *, owned: bool = False) -> None:
        self.owned = owned
        self.attached: defaultdict[str, set[str]] = defaultdict(set)
        self._records: dict[str, CreatedMember] = {}

    @property
    def records(self) -> tuple[CreatedMember, ...]:
        """The records of all members, in the order in which they were added."""
        return tuple(self._records.values())

    def add(self, record: CreatedMember) -> None:
        """Add the record of a member."""
        self._records[record.name] = record

    def __getitem__(self, name: str) -> CreatedMember:
        return self._records[name]

    def record_of_cluster(self, cluster_id: str) -> CreatedMember | None:
        """Return the record of the member that a cluster was created for, or None if this run did not create it."""
        return next((record for record in self._records.values() if cluster_id in record.made), None)


class SendQueue:
    """Sends creates, a limited number at a time.

    When a caller is cancelled while its create waits in the queue, the create is dropped. When the create is in flight,
    its answer is still awaited, because the id of the cluster would be lost without it.
    """

    def __init__(self, max_in_flight: int, *, detach_on_cancel: bool = False) -> None:
        """Make a queue.

        Args:
            max_in_flight: The number of creates that may be in flight at a time.
            detach_on_cancel: Whether a cancelled caller leaves its create in flight, as the record's `pending_send`.
                Otherwise it waits for the answer, `GRACE` seconds at most, and then cancels the create.
        """
        self._slots = asyncio.Semaphore(max_in_flight)
        self._detach_on_cancel = detach_on_cancel

    async def send(
        self,
        submit: Callable[[], Submission[T]],
        record: CreatedMember,
        on_accepted: Callable[[Operation[T]], object],
    ) -> Operation[T]:
        """Send a create and return its operation.

        Args:
            submit: Makes the submission; called when the create leaves the queue.
            record: Where the outcome is recorded, also when the caller is cancelled.
            on_accepted: Called with the operation when the engine has accepted the create, also when the caller is
                cancelled.

        Raises:
            TensorPoolError: Sending failed, or the outcome is not known; then the record stays `unclear`.
        """
        async with self._slots:
            send_task = asyncio.ensure_future(_send(submit, record, on_accepted))
            try:
                return await asyncio.shield(send_task)
            except asyncio.CancelledError:
                if not record.unclear and not send_task.done():
                    send_task.cancel()  # it has not started
                elif self._detach_on_cancel:
                    record.pending_send = send_task
                else:
                    await wait_uncancelled(asyncio.ensure_future(_wait_for_answer(send_task)))
                raise


async def _send(
    submit: Callable[[], Submission[T]],
    record: CreatedMember,
    on_accepted: Callable[[Operation[T]], object],
) -> Operation[T]:
    submission = submit()
    record.unclear = True
    try:
        operation = await submission
    except AmbiguousOutcomeError:
        raise
    except TensorPoolError:
        record.unclear = False
        raise
    record.record_accepted(operation)
    on_accepted(operation)
    return operation


async def _wait_for_answer(send_task: asyncio.Future[Operation[T]]) -> None:
    await asyncio.wait([send_task], timeout=GRACE)
    if not send_task.done():
        send_task.cancel()
        await asyncio.wait([send_task])
    if not send_task.cancelled():
        send_task.exception()  # marks the exception as retrieved, so that asyncio does not log it
