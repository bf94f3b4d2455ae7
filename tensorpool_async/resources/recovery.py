"""What follows a crash: what was in flight is found again, and what outlived its owner is destroyed.

Looking changes nothing at the engine: recovery adopts and follows. Only reaping destroys, and only what it is told to.
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
from tensorpool_async.operations.executor import MAX_LOOKUPS, Found, Reconciler
from tensorpool_async.operations.operation import Operation
from tensorpool_async.operations.submission import Submitter
from tensorpool_async.protocol.operation_specs import DELETE_STARTED, OPERATION_SPECS, Outcome, is_deleting
from tensorpool_async.protocol.ownership import Ownership, epoch_of, ownership_of
from tensorpool_async.protocol.tokens import OperationRef
from tensorpool_async.resources.clusters import Clusters
from tensorpool_async.resources.storage import Storage
from tensorpool_async.texts import logger_of


CREATIONS = (OperationKind.CLUSTER_CLAIM, OperationKind.STORAGE_CREATE)
DESTRUCTIONS = (OperationKind.CLUSTER_RELEASE, OperationKind.STORAGE_DESTROY)

FRESH = 900.0
"""Seconds. What was to be sent longer ago than this is either visible by now, or was never made: it may have waited for
its turn and for pauses, and lists lag behind. What was made later under its name may be anybody's."""

NO_CLAIMS = 60.0
"""Seconds for which nothing more is claimed, once the journal could not be written: each try may take it 10 s."""

logger: logging.Logger = logger_of("tensorpool_async")


@attrs.frozen(kw_only=True)
class Leftover:
    """Something that was made as ephemeral or with a time to live, and that outlived its owner.

    Attributes:
        entry: Its entry in the journal.
        kind: `CLUSTER_CLAIM` for a cluster, `STORAGE_CREATE` for a volume.
        resource_id: Its id.
        name: Its name.
        age: Seconds since its creation was sent.
        hourly_rate: What it costs, in USD per hour; None where the engine does not say.
    """

    entry: int
    kind: OperationKind
    resource_id: str
    name: str | None
    age: float
    hourly_rate: float | None = None


class Recovery:
    """Finds again what the journal says was in flight."""

    def __init__(
        self,
        recorder: JournalRecorder,
        submitter: Submitter,
        reconciler: Reconciler,
        clusters: Clusters,
        storage: Storage,
    ) -> None:
        self._recorder = recorder
        self._submitter = submitter
        self._transport = submitter.transport
        self._reconciler = reconciler
        self._clusters = clusters
        self._storage = storage
        self._recovered: set[int] = set()
        self._adopted: dict[str, int] = {}
        self._turn = asyncio.Lock()
        self._claiming = asyncio.Lock()
        self._unclaimable_until = float("-inf")

    async def recover(self) -> list[Operation[Any]]:
        """Return the operations that were in flight when their processes ended, followed from here on.

        Raises:
            ConfigurationError: The client has no journal.
            JournalError: The journal cannot be read or written.
            AmbiguousOutcomeError: For some of them the engine could not be asked, or does not say enough. They stay in
                the journal; the others are in its `.operations`, and are given by the next call as well.
        """
        async with self._turn:
            with self._recorder.ending() as ended:
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
        """Return what was made as ephemeral, or with a time to live that is over, and outlived its owner.

        Args:
            older: Seconds; only what was sent longer ago than this.

        Raises:
            ConfigurationError: The client has no journal.
            JournalError: The journal cannot be read.
            TensorPoolError: The engine could not be asked.
        """
        entries = await (await self._recorder.opened()).entries(self._recorder.engine, ended=True)
        now = self._transport.now()
        overdue = [entry for entry in entries if self._is_overdue(entry, now - max(older, 0.0), now)]
        held = self._held(entries)
        kept = _kept(entries)
        living = await self._living({entry.intent.kind for entry in overdue})
        left: dict[str, Leftover] = {}
        for entry in overdue:
            ref = entry.ref or await self._made_or_unclear(entry)
            if ref is None or ref.resource_id is None or ref.resource_id in held:
                continue
            if kept.get(ref.resource_id, 0) > entry.id:
                continue  # a fleet goes on with it
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
        """Destroy something that outlived its owner; say whether it was this call that did.

        What is still being created is waited for first. Where the journal can be read and not written, it is destroyed
        all the same.

        Raises:
            JournalError: The journal cannot be read.
            ConflictError: It is protected from deletion, or lastingly busy.
            TensorPoolError: It could not be destroyed.
        """
        journal = await self._recorder.opened()
        entries = await journal.entries(self._recorder.engine, ended=True)
        entry = next((entry for entry in entries if entry.id == leftover.entry), None)
        if entry is None or leftover.resource_id in self._held(entries):
            return False
        if not await self._claim(journal, entry):
            return False
        self._recovered.add(entry.id)  # if it fails, it is still listed
        destroyed = await self._destroy(entry, leftover)
        if entry.state is not EntryState.ENDED:
            self._recorder.close_entry(entry, DESTROYED)
        self._recorder.mark_deleted(leftover.resource_id)
        return destroyed

    async def _claim(self, journal: Journal, entry: JournalEntry) -> bool:
        """Make an entry this client's own; also where that cannot be written down: what nobody living holds has to go."""
        async with self._claiming:
            loop = asyncio.get_running_loop()
            if loop.time() < self._unclaimable_until:
                return True
            try:
                return await journal.claim(entry.id)
            except JournalError as error:
                self._unclaimable_until = loop.time() + NO_CLAIMS
                logger.error("%s; what has outlived its owner is destroyed without being claimed", error)  # noqa: TRY400 - the error says all that its traceback would
                return True

    def _is_lost(self, entry: JournalEntry) -> bool:
        """Whether nobody in this process follows it, or only because it was recovered before."""
        operation = self._recorder.operation_of(entry)
        return not self._recorder.is_sending(entry) and (operation is None or entry.id in self._recovered)

    def _is_held(self, entry: JournalEntry) -> bool:
        """Whether a living client, and not this one's recovery, has begun it."""
        return entry.owner_alive and entry.id not in self._recovered

    def _held(self, entries: Iterable[JournalEntry]) -> set[str]:
        """Return the ids of the resources that living clients use: what they made, joined, or are changing."""
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
            return False  # it was never made
        expired = intent.ttl is not None and intent.sent_at + intent.ttl <= now
        return (intent.ephemeral or expired) and intent.sent_at <= before

    async def _living(self, kinds: Iterable[OperationKind]) -> dict[str, float | None]:
        """Return what there is of these kinds, with its price."""
        living: dict[str, float | None] = {}
        if OperationKind.CLUSTER_CLAIM in kinds:
            living |= {cluster.id: cluster.hourly_rate for cluster in await self._clusters.list()}
        if OperationKind.STORAGE_CREATE in kinds:
            living |= {volume.id: volume.hourly_rate for volume in await self._storage.list()}
        return living

    async def _look_closer(
        self, entry: JournalEntry, resource_id: str, living: dict[str, float | None]
    ) -> None:
        """See whether what no list shows is gone: lists lag behind, and what is written off is never looked for again."""
        try:
            model = await self._transport.send(OPERATION_SPECS[entry.intent.kind].resource.read(resource_id))
        except NotFound:
            if self._transport.now() - entry.intent.sent_at > FRESH:
                self._recorder.mark_deleted(resource_id)
        else:
            living[resource_id] = model.hourly_rate

    async def _destroy(self, entry: JournalEntry, leftover: Leftover) -> bool:
        """Destroy a resource once its creation has ended; say whether it was there."""
        rule, resource_id = OPERATION_SPECS[leftover.kind], leftover.resource_id
        if entry.ref is not None and entry.state is not EntryState.ENDED:
            with contextlib.suppress(OperationFailed, NotFound):
                await self._submitter.follow(entry.ref)
        try:
            model = await self._transport.send(rule.resource.read(resource_id))
            if isinstance(model, Cluster):
                await self._clusters.for_exit.lifecycle.destroy(model)
            else:
                await self._storage.for_exit.destroy(resource_id).result()
        except NotFound:
            return False
        return True

    async def _find(self, entry: JournalEntry) -> Operation[Any] | None:
        """Find out what became of an entry; None where nothing is in flight."""
        operation = self._recorder.operation_of(entry)
        if operation is not None:
            return operation
        ref = entry.ref or await self._search(entry)
        if ref is None:
            return None
        await self._recorder.adopt(entry, ref)
        operation = self._submitter.follow(ref)
        self._recorder.follow(entry.id, operation)
        return operation

    async def _search(self, entry: JournalEntry) -> OperationRef | None:
        """Look at the engine for what became of a change whose answer never came."""
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
        """Return what identifies the resource that a creation without an answer has made; None where it made none.

        Raises:
            AmbiguousOutcomeError: There is one of its name, and nothing says when it was made.
        """
        intent = entry.intent
        name = intent.name or ""
        find = (
            self._clusters.find_by_name
            if intent.kind is OperationKind.CLUSTER_CLAIM
            else self._storage.find_by_name
        )
        found: Found | None = await self._reconciler.look(find, name, until_seen=self._is_fresh(entry))
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
            text = f"{found.resource_id} is called {name!r}, and nothing says whether it was made by this"
            raise AmbiguousOutcomeError(text, name=name, method=intent.method, path=intent.path)
        request_ids = () if found.request_id is None else (found.request_id,)
        return OperationRef(intent.kind, found.resource_id, request_ids)

    async def _made_or_unclear(self, entry: JournalEntry) -> OperationRef | None:
        """As `_made_by`, but what is unclear is left alone: the rest can be reaped nevertheless."""
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
        rule, resource_id = OPERATION_SPECS.get(intent.kind), intent.resource_id
        if rule is None or resource_id is None:
            self._recorder.close_entry(entry, "unknown: nothing shows whether it was carried out")
            return None
        for look in range(1, (MAX_LOOKUPS if self._is_fresh(entry) else 1) + 1):
            if look > 1:
                await self._reconciler.pause(look)  # what was just sent takes its time until it shows
            try:
                model = await self._transport.send(rule.resource.read(resource_id))
            except NotFound:
                outcome = "COMPLETED" if rule.done_when_gone else "not carried out: it is gone"
                self._recorder.close_entry(entry, outcome)
                if intent.kind in DESTRUCTIONS:
                    self._recorder.mark_deleted(resource_id)
                return None
            has_begun = intent.kind in DESTRUCTIONS and is_deleting(model)
            if has_begun or rule.outcome(model, intent.expected) is Outcome.SUCCEEDED:
                expected = {**intent.expected, DELETE_STARTED: True} if has_begun else intent.expected
                return OperationRef(intent.kind, resource_id, expected=expected)
        logger.warning(
            "%s of %s was not carried out: its process ended before the engine took it",
            intent.kind,
            resource_id,
        )
        self._recorder.close_entry(entry, "not carried out")
        return None


def _kept(entries: Iterable[JournalEntry]) -> dict[str, int]:
    """Return the last entry of each resource by which a fleet that lasts has taken it over."""
    return {
        entry.resource_id: entry.id
        for entry in sorted(entries, key=lambda entry: entry.id)
        if entry.resource_id is not None
        and entry.intent.kind in CREATIONS
        and not entry.intent.method  # nothing was sent: it was there
        and not entry.intent.ephemeral
        and entry.intent.ttl is None
    }


def _unclear(problems: list[BaseException]) -> AmbiguousOutcomeError:
    first = problems[0]
    text = f"{len(problems)} entries of the journal could not be cleared up; the first: {first}"
    problem = AmbiguousOutcomeError(
        text, name=first.name if isinstance(first, AmbiguousOutcomeError) else None
    )
    problem.__cause__ = first
    return problem
