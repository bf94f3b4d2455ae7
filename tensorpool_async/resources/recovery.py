"""Recovery after a crash: resume operations that were in flight, and destroy resources that outlived their process.

Recovery changes nothing at the engine; it finds and polls operations. Only `reap` destroys, and only what it is given.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from typing import Any

import attrs

from tensorpool_async.errors import (
    AmbiguousOutcomeError,
    JournalError,
    NotFound,
    OperationFailed,
    TensorPoolError,
)
from tensorpool_async.journal import DESTROYED, NOT_MADE, EntryState, Journal, JournalEntry
from tensorpool_async.journal.recorder import JournalRecorder
from tensorpool_async.models.cluster import Cluster
from tensorpool_async.models.enums import OperationKind
from tensorpool_async.operations.executor import MAX_LOOKUPS, Executor
from tensorpool_async.operations.lookup import Found
from tensorpool_async.operations.operation import Operation
from tensorpool_async.protocol.operation_specs import DELETE_STARTED, OPERATION_SPECS, Outcome, is_deleting
from tensorpool_async.protocol.ownership import Ownership, epoch_of, ownership_of
from tensorpool_async.protocol.tokens import OperationRef
from tensorpool_async.resources.clusters import Clusters
from tensorpool_async.resources.storage import Storage
from tensorpool_async.texts import logger_of


CREATIONS = (OperationKind.CLUSTER_CLAIM, OperationKind.STORAGE_CREATE)
DESTRUCTIONS = (OperationKind.CLUSTER_RELEASE, OperationKind.STORAGE_DESTROY)

FRESH = 900.0
"""Seconds after which a recorded create is either visible at the engine or was never made. The time covers the wait for
a slot, the pauses and the delay of the engine's lists. A resource of the same name that is younger may be another's."""

NO_CLAIMS = 60.0
"""Seconds without a claim after the journal could not be written, since each attempt may take 10 seconds."""

logger: logging.Logger = logger_of("tensorpool_async")


@attrs.frozen(kw_only=True)
class Leftover:
    """An ephemeral resource, or one with an expired `ttl`, that outlived the process that made it.

    Attributes:
        entry: The number of its journal entry.
        kind: `CLUSTER_CLAIM` for a cluster, `STORAGE_CREATE` for a volume.
        resource_id: The id.
        name: The name.
        age: Seconds since its create was sent.
        hourly_rate: The price in USD per hour; None where the engine names none.
    """

    entry: int
    kind: OperationKind
    resource_id: str
    name: str | None
    age: float
    hourly_rate: float | None = None


class Recovery:
    """Resumes operations and finds leftovers from the entries of a journal."""

    def __init__(
        self,
        recorder: JournalRecorder[Operation[Any]],
        executor: Executor,
        clusters: Clusters,
        storage: Storage,
    ) -> None:
        self._recorder = recorder
        self._executor = executor
        self._transport = executor.transport
        self._clusters = clusters
        self._storage = storage
        self._recovered: set[int] = set()
        self._adopted: dict[str, int] = {}
        self._turn = asyncio.Lock()
        self._claiming = asyncio.Lock()
        self._unclaimable_until = float("-inf")

    async def recover(self) -> list[Operation[Any]]:
        """Return the operations that were in flight when their processes ended. They are polled from now on.

        Raises:
            ConfigurationError: The client has no journal.
            JournalError: The journal cannot be read or written.
            AmbiguousOutcomeError: The outcome of some entries is not known; they stay in the journal. The operations of
                the other entries are in `.operations` of the error, and the next call returns them as well.
        """
        async with self._turn:
            with self._recorder.collect_ended() as ended:
                entries = await (await self._recorder.opened()).take_over(self._recorder.engine)
            mine = [entry for entry in entries if entry.id not in ended and self._is_lost(entry)]
            found = await asyncio.gather(*(self._find(entry) for entry in mine), return_exceptions=True)
            problems: list[BaseException] = []
            operations: list[Operation[Any]] = []
            for entry, outcome in zip(mine, found, strict=True):
                if isinstance(outcome, BaseException):
                    problems.append(outcome)
                elif outcome is not None:
                    self._recovered.add(entry.id)
                    operations.append(outcome)
        for problem in problems:
            if not isinstance(problem, TensorPoolError):
                raise problem
        if problems:
            problem = _unclear(problems)
            problem.operations = tuple(operations)
            raise problem
        return operations

    async def leftovers(self, *, older: float = 0.0) -> list[Leftover]:
        """Return the ephemeral resources, and those with an expired `ttl`, whose process has ended.

        Args:
            older: Only resources whose create was sent more than this many seconds ago.

        Raises:
            ConfigurationError: The client has no journal.
            JournalError: The journal cannot be read.
            TensorPoolError: A request to the engine failed.
        """
        entries = await (await self._recorder.opened()).entries(self._recorder.engine, ended=True)
        now = self._transport.now()
        overdue = [entry for entry in entries if self._is_overdue(entry, now - max(older, 0.0), now)]
        held = self._held(entries)
        taken_over = _last_takeovers(entries)
        living = await self._living({entry.intent.kind for entry in overdue})
        left: dict[str, Leftover] = {}
        for entry in overdue:
            ref = entry.ref or await self._made_or_unclear(entry)
            if ref is None or ref.resource_id is None or ref.resource_id in held:
                continue
            if taken_over.get(ref.resource_id, 0) > entry.id:
                continue  # a lasting fleet uses it
            resource_id = ref.resource_id
            if resource_id not in living:
                await self._look_closer(entry, resource_id, living)
            if resource_id in living and resource_id not in left:
                left[resource_id] = Leftover(
                    entry=entry.id,
                    kind=entry.intent.kind,
                    resource_id=resource_id,
                    name=entry.intent.name,
                    age=now - entry.intent.sent_at,
                    hourly_rate=living[resource_id],
                )
        return list(left.values())

    async def reap(self, leftover: Leftover) -> bool:
        """Destroy a leftover. Return whether this call destroyed it.

        A creation in progress is waited for first. If the journal can be read but not written, the resource is
        destroyed nevertheless.

        Raises:
            JournalError: The journal cannot be read.
            ConflictError: The resource is protected from deletion, or stays busy.
            TensorPoolError: The resource could not be destroyed.
        """
        journal = await self._recorder.opened()
        entries = await journal.entries(self._recorder.engine, ended=True)
        entry = next((entry for entry in entries if entry.id == leftover.entry), None)
        if entry is None or leftover.resource_id in self._held(entries):
            return False
        if not await self._claim(journal, entry):
            return False
        self._recovered.add(entry.id)  # so that it is still listed if the deletion fails
        destroyed = await self._destroy(entry, leftover)
        if entry.state is not EntryState.ENDED:
            self._recorder.close_entry(entry, DESTROYED)
        self._recorder.mark_deleted(leftover.resource_id)
        return destroyed

    async def _claim(self, journal: Journal, entry: JournalEntry) -> bool:
        """Make this client the owner of an entry. Return False if another running client owns the entry.

        If the journal cannot be written, the deletion goes ahead without a claim, since a leftover costs money.
        """
        async with self._claiming:
            loop = asyncio.get_running_loop()
            if loop.time() < self._unclaimable_until:
                return True
            try:
                return await journal.claim(entry.id)
            except JournalError as error:
                self._unclaimable_until = loop.time() + NO_CLAIMS
                logger.error("%s; leftovers are destroyed without being claimed", error)  # noqa: TRY400 - the traceback adds nothing to the message
                return True

    def _is_lost(self, entry: JournalEntry) -> bool:
        """Whether no task of this process sends or polls the entry, except for an earlier `recover`."""
        operation = self._recorder.operation_of(entry)
        return not self._recorder.is_sending(entry) and (operation is None or entry.id in self._recovered)

    def _is_held(self, entry: JournalEntry) -> bool:
        """Whether a running client owns the entry, and not only through recovery by this client."""
        return entry.owner_alive and entry.id not in self._recovered

    def _held(self, entries: Iterable[JournalEntry]) -> set[str]:
        """Return the ids of the resources that running clients made, use or are changing."""
        return {
            entry.resource_id
            for entry in entries
            if self._is_held(entry)
            and entry.resource_id is not None
            and (entry.intent.kind in CREATIONS or entry.state is not EntryState.ENDED)
        }

    def _is_overdue(self, entry: JournalEntry, before: float, now: float) -> bool:
        intent = entry.intent
        if intent.kind not in CREATIONS or entry.deleted_at is not None or self._is_held(entry):
            return False
        if entry.ref is None and entry.state is EntryState.ENDED:
            return False  # the resource was never made
        expired = intent.ttl is not None and intent.sent_at + intent.ttl <= now
        return (intent.ephemeral or expired) and intent.sent_at <= before

    async def _living(self, kinds: Iterable[OperationKind]) -> dict[str, float | None]:
        """Return the ids of the existing resources of these kinds, with their prices."""
        living: dict[str, float | None] = {}
        if OperationKind.CLUSTER_CLAIM in kinds:
            living |= {cluster.id: cluster.hourly_rate for cluster in await self._clusters.list()}
        if OperationKind.STORAGE_CREATE in kinds:
            living |= {volume.id: volume.hourly_rate for volume in await self._storage.list()}
        return living

    async def _look_closer(
        self, entry: JournalEntry, resource_id: str, living: dict[str, float | None]
    ) -> None:
        """Read a resource that no list shows, since lists lag behind. Record it as deleted if it does not exist."""
        try:
            model = await self._transport.send(OPERATION_SPECS[entry.intent.kind].resource.read(resource_id))
        except NotFound:
            if self._transport.now() - entry.intent.sent_at > FRESH:
                self._recorder.mark_deleted(resource_id)
        else:
            living[resource_id] = model.hourly_rate

    async def _destroy(self, entry: JournalEntry, leftover: Leftover) -> bool:
        """Destroy a resource once its creation has ended. Return whether the resource existed."""
        spec, resource_id = OPERATION_SPECS[leftover.kind], leftover.resource_id
        if entry.ref is not None and entry.state is not EntryState.ENDED:
            with contextlib.suppress(OperationFailed, NotFound):
                await self._executor.poll(entry.ref)
        try:
            model = await self._transport.send(spec.resource.read(resource_id))
            if isinstance(model, Cluster):
                await self._clusters.for_exit.lifecycle.destroy(model)
            else:
                await self._storage.for_exit.destroy(resource_id).result()
        except NotFound:
            return False
        return True

    async def _find(self, entry: JournalEntry) -> Operation[Any] | None:
        """Return the operation of an entry; None where nothing is in flight."""
        operation = self._recorder.operation_of(entry)
        if operation is not None:
            return operation
        ref = entry.ref or await self._search(entry)
        if ref is None:
            return None
        await self._recorder.adopt(entry, ref)
        operation = self._executor.poll(ref)
        self._recorder.record_end_of(entry.id, operation)
        return operation

    async def _search(self, entry: JournalEntry) -> OperationRef | None:
        """Find out at the engine whether a change without a response was carried out."""
        if entry.intent.kind in CREATIONS:
            return await self._search_creation(entry)
        return await self._search_change(entry)

    async def _search_creation(self, entry: JournalEntry) -> OperationRef | None:
        ref = await self._made_by(entry)
        if ref is None:
            self._recorder.close_entry(entry, NOT_MADE)
        elif ref.resource_id is not None:
            self._adopted[ref.resource_id] = entry.id
        return ref

    async def _made_by(self, entry: JournalEntry) -> OperationRef | None:
        """Return the reference to the resource that a create without a response made; None where it made none.

        Raises:
            AmbiguousOutcomeError: A resource has the name, and the engine does not say when it was made.
        """
        intent = entry.intent
        name = intent.name or ""
        found: Found | None = await self._executor.find(intent.kind, name, until_seen=self._is_fresh(entry))
        if found is None:
            return None
        belongs = await self._belongs_to_another(entry, found.resource_id)
        ownership = ownership_of(
            made_at=epoch_of(found.created_at),
            sent_at=self._transport.engine_time(intent.sent_at),
            random_name=intent.random_name,
            taken=belongs or self._adopted.get(found.resource_id, entry.id) != entry.id,
            latest=self._transport.engine_time(intent.sent_at) + FRESH,
        )
        if ownership is Ownership.BEFORE:
            return None
        if ownership is Ownership.UNCLEAR:
            text = f"{found.resource_id} has the name {name!r}, and the engine does not say when it was made"
            raise AmbiguousOutcomeError(text, name=name, method=intent.method, path=intent.path)
        request_ids = () if found.request_id is None else (found.request_id,)
        return OperationRef(intent.kind, found.resource_id, request_ids)

    async def _made_or_unclear(self, entry: JournalEntry) -> OperationRef | None:
        """Return the result of `_made_by`; None where the outcome is not known, so that the rest can be reaped."""
        try:
            return await self._made_by(entry)
        except AmbiguousOutcomeError as error:
            logger.warning("entry %d of the journal is left alone: %s", entry.id, error)
            return None

    def _is_fresh(self, entry: JournalEntry) -> bool:
        return self._transport.now() - entry.intent.sent_at < FRESH

    async def _belongs_to_another(self, entry: JournalEntry, resource_id: str) -> bool:
        entries = await (await self._recorder.opened()).entries(self._recorder.engine, ended=True)
        others = [one for one in entries if one.id != entry.id and one.intent.kind in CREATIONS]
        return any(one.ref is not None and one.ref.resource_id == resource_id for one in others)

    async def _search_change(self, entry: JournalEntry) -> OperationRef | None:
        intent = entry.intent
        spec, resource_id = OPERATION_SPECS.get(intent.kind), intent.resource_id
        if spec is None or resource_id is None:
            self._recorder.close_entry(entry, "unknown: nothing shows whether it was carried out")
            return None
        for look in range(1, (MAX_LOOKUPS if self._is_fresh(entry) else 1) + 1):
            if look > 1:
                await self._executor.pause(look)  # a change takes a while to show
            try:
                model = await self._transport.send(spec.resource.read(resource_id))
            except NotFound:
                outcome = "COMPLETED" if spec.done_when_gone else "not carried out: it is gone"
                self._recorder.close_entry(entry, outcome)
                if intent.kind in DESTRUCTIONS:
                    self._recorder.mark_deleted(resource_id)
                return None
            has_begun = intent.kind in DESTRUCTIONS and is_deleting(model)
            if has_begun or spec.outcome(model, intent.expected) is Outcome.SUCCEEDED:
                expected = {**intent.expected, DELETE_STARTED: True} if has_begun else intent.expected
                return OperationRef(intent.kind, resource_id, expected=expected)
        logger.warning(
            "%s of %s was not carried out: its process ended before the engine accepted it",
            intent.kind,
            resource_id,
        )
        self._recorder.close_entry(entry, "not carried out")
        return None


def _last_takeovers(entries: Iterable[JournalEntry]) -> dict[str, int]:
    """Return, by resource, the number of the last entry with which a lasting fleet has taken the resource over."""
    return {
        entry.resource_id: entry.id
        for entry in sorted(entries, key=lambda entry: entry.id)
        if entry.resource_id is not None
        and entry.intent.kind in CREATIONS
        and not entry.intent.method  # nothing was sent, since the resource existed
        and not entry.intent.ephemeral
        and entry.intent.ttl is None
    }


def _unclear(problems: list[BaseException]) -> AmbiguousOutcomeError:
    first = problems[0]
    text = f"the outcome of {len(problems)} entries of the journal is not known; the first: {first}"
    problem = AmbiguousOutcomeError(
        text, name=first.name if isinstance(first, AmbiguousOutcomeError) else None
    )
    problem.__cause__ = first
    return problem
