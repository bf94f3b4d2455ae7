"""What follows when the answer to a change was lost: look for what it made, and never make it twice.

A create is looked for by its name, which is unique among what lives. What is found is adopted if this call made it;
what was there before is a conflict. What is not found was not made, or not yet: the same name is posted again, and the
engine itself sees to it that there is only one. Other changes are not sent again: what they change is looked at.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NoReturn

import attrs

from tensorpool_async.errors import (
    AmbiguousOutcomeError,
    ConflictError,
    ConnectionFailed,
    DecodeError,
    NotFound,
    StatusError,
    TensorPoolError,
)
from tensorpool_async.flow.keyed_lock import KeyedLock
from tensorpool_async.journal.recorder import NO_TAGS, CreateTags, SendCancelled
from tensorpool_async.operations.operation import Operation
from tensorpool_async.operations.submission import Submitter
from tensorpool_async.protocol.operation_specs import OPERATION_SPECS, Outcome
from tensorpool_async.protocol.ownership import Ownership, epoch_of, ownership_of
from tensorpool_async.protocol.requests import Request
from tensorpool_async.protocol.retries import backoff
from tensorpool_async.protocol.tokens import AcceptedOperation, OperationRef


MAX_LOOKUPS = 6
"""How often a change that was lost is looked for: the lists of an engine may lag behind what it has done."""


LONGEST_PAUSE = 2.0
"""Seconds between two looks. Somebody waits, and each round is a handful of requests."""


@attrs.frozen
class Found:
    """A resource that has the name of one whose creation was lost.

    Attributes:
        resource_id: Its id.
        created_at: When it was made, as ISO 8601 text; None where nothing says.
        request_id: The request that made it; None where nothing says.
    """

    resource_id: str
    created_at: str | None = None
    request_id: str | None = None


Find = Callable[[str], Awaitable[Found | None]]


class Reconciler:
    """Sends changes of one client whose answers may be lost."""

    def __init__(self, submitter: Submitter) -> None:
        self._submitter = submitter
        self._transport = submitter.transport
        self._ours: set[str] = set()
        self._locks = KeyedLock()

    async def create(
        self,
        request: Request[AcceptedOperation],
        find: Find,
        tags: CreateTags,
        send_cancelled: Callable[[], bool] | None = None,
    ) -> Operation[Any]:
        """Create a resource: exactly one, whatever becomes of the answers.

        Creates of one name go one after the other, so that none takes another's resource for its own.

        Args:
            request: What creates it.
            find: Finds a resource by its name.
            tags: Whether the name was given at random, and what else the journal is told.
            send_cancelled: Whether it is no longer wanted; asked before each attempt, as long as none can have made it. None
                where it is wanted in any case.

        Raises:
            ConflictError: A resource of that name was there before, or is another call's.
            WrongEventLoopError: The client belongs to another event loop.
            AmbiguousOutcomeError: Whether it was made cannot be found out.
            SendCancelled: It was withdrawn, and is not made.
        """
        self._transport.check_loop()  # before it waits for its turn, of which another loop would never tell
        # Of these, tens of thousands may wait for a slot: no frame and no closure more than it takes.
        send = partial(self._create, find=find, random_name=tags.random_name, send_cancelled=send_cancelled)
        key = _lock_key(request)
        await self._locks.acquire(key)
        try:
            return await self._submitter.submit(request, OperationRef(request.kind), send, tags)
        finally:
            self._locks.release(key)

    async def ensure(
        self,
        request: Request[AcceptedOperation],
        join: Callable[[], Awaitable[AcceptedOperation | None]],
        tags: CreateTags,
    ) -> Operation[Any]:
        """Join the resource of a name, or create it: whoever else does the same at the same time, there is one.

        Args:
            request: What creates it.
            join: Returns the creation of the resource that has the name; None where there is none (any more). It raises
                where what is there is not what is wanted.
            tags: What else the journal is told.

        Raises:
            ConflictError: The name is lastingly taken by something that cannot be seen.
            AmbiguousOutcomeError: Whether it was made cannot be found out.
        """

        async def send(request: Request[AcceptedOperation]) -> AcceptedOperation:
            accepted = there or await self._ensure(request, join, tags)
            self._remember(accepted)
            return accepted

        self._transport.check_loop()
        ref = OperationRef(request.kind)
        async with self._locks.hold(_lock_key(request)):
            there = await join()
            # What is there already is another's: how long it may live is not for this call to say.
            try:
                return await self._submitter.submit(request, ref, send, NO_TAGS if there else tags)
            except _Joined as joined:
                there = joined.accepted
            return await self._submitter.submit(request, ref, send)

    async def change(self, request: Request[AcceptedOperation], ref: OperationRef) -> Operation[Any]:
        """Change a resource; if the answer is lost, see on the resource whether the change was made.

        Args:
            request: The change.
            ref: What to follow where no answer names a request.

        Raises:
            AmbiguousOutcomeError: The resource does not show the change, and nothing says whether it will.
        """

        async def send(request: Request[AcceptedOperation]) -> AcceptedOperation:
            try:
                return await self._transport.send(request)
            except AmbiguousOutcomeError as lost:
                if not await self._shows(ref, lost):
                    raise
            return AcceptedOperation(ref)

        return await self._submitter.submit(request, ref, send)

    def _remember(self, accepted: AcceptedOperation) -> None:
        if accepted.ref.resource_id is not None:
            self._ours.add(accepted.ref.resource_id)

    async def _ensure(
        self,
        request: Request[AcceptedOperation],
        join: Callable[[], Awaitable[AcceptedOperation | None]],
        tags: CreateTags,
    ) -> AcceptedOperation:
        lost: AmbiguousOutcomeError | None = None
        setback: TensorPoolError | None = None
        for attempt in range(1, MAX_LOOKUPS + self._rounds() + 1):
            try:
                return await self._transport.send(request)
            except AmbiguousOutcomeError as error:
                setback = lost = error
            except ConflictError as error:
                setback = error  # somebody was faster, and the lists may lag behind
            except TensorPoolError as error:
                _refused_after(lost, error)
            await self.pause(attempt)
            try:
                joined = await join()
            except TensorPoolError as error:
                _refused_after(lost, error)
            if joined is not None:
                if lost is None and tags != NO_TAGS:
                    raise _Joined(joined)
                return joined
            _queue_again(request)
        raise lost or setback or AmbiguousOutcomeError(f"{request.name!r} was not sent", name=request.name)

    async def _create(
        self,
        request: Request[AcceptedOperation],
        *,
        find: Find,
        random_name: bool,
        send_cancelled: Callable[[], bool] | None,
    ) -> AcceptedOperation:
        first = request if send_cancelled is None else _cancellable(request, send_cancelled)
        sent_at = 0.0
        lost: AmbiguousOutcomeError | None = None
        for attempt in range(1, self._rounds() + 1):
            try:
                accepted = await self._transport.send(first if lost is None else request)
            except AmbiguousOutcomeError as error:
                # Attempts before the first that was lost were refused: what is older than that one is not ours.
                sent_at = sent_at if lost is not None else self._sent_at(request)
                lost, taken = error, False
            except ConflictError:
                if lost is None:
                    raise
                taken = True  # by this call's own lost attempt, or by another's
            except TensorPoolError as error:
                _refused_after(lost, error)
            else:
                self._remember(accepted)
                return accepted
            try:
                found = await self.look(find, request.name or "", until_seen=taken)
            except TensorPoolError as error:
                lost.add_note(f"looking for it failed as well: {error}")
                raise lost from None
            if found is not None:
                return self._adopt(request, found, sent_at, lost, random_name=random_name)
            await self.pause(attempt)
            _queue_again(request)
        raise lost or AmbiguousOutcomeError(
            f"{request.method} {request.path} was not sent", name=request.name
        )

    def _rounds(self) -> int:
        attempts = self._transport.retry.attempts
        return 1 if attempts == 1 else 2 * attempts

    async def look(self, find: Find, name: str, *, until_seen: bool) -> Found | None:
        """Look for a resource by its name.

        Args:
            find: Looks once.
            name: The name.
            until_seen: Whether to look again for a while: the engine's lists may lag behind.

        Raises:
            TensorPoolError: The engine could not be asked.
        """
        for look in range(1, MAX_LOOKUPS + 1):
            found = await find(name)
            if found is not None or not until_seen:
                return found
            await self.pause(look)
        return None

    def _adopt(
        self,
        request: Request[AcceptedOperation],
        found: Found,
        sent_at: float,
        lost: AmbiguousOutcomeError,
        *,
        random_name: bool,
    ) -> AcceptedOperation:
        ownership = ownership_of(
            made_at=epoch_of(found.created_at),
            sent_at=self._transport.engine_time(sent_at),
            random_name=random_name,
            taken=found.resource_id in self._ours,
        )
        if ownership is Ownership.BEFORE:
            text = f"{request.name!r} is taken by {found.resource_id}, which was there before"
            raise ConflictError(409, text, method=request.method, path=request.path) from lost
        if ownership is Ownership.UNCLEAR:
            lost.add_note(f"{found.resource_id} has that name, and nothing says when it was made")
            raise lost
        kind = request.kind
        request_ids = () if found.request_id is None else (found.request_id,)
        accepted = AcceptedOperation(OperationRef(kind, found.resource_id, request_ids))
        self._remember(accepted)
        return accepted

    async def _shows(self, ref: OperationRef, lost: AmbiguousOutcomeError) -> bool:
        """Whether the resource shows a change; it is looked at for a while, since a change takes its time."""
        rule = OPERATION_SPECS[ref.kind] if ref.kind is not None else None
        if rule is None or ref.resource_id is None:
            return False
        for look in range(1, MAX_LOOKUPS + 1):
            try:
                model = await self._transport.send(rule.resource.read(ref.resource_id))
            except NotFound:
                return False
            except TensorPoolError as error:
                lost.add_note(f"looking at {ref.resource_id} failed as well: {error}")
                return False
            if rule.outcome(model, ref.expected) is Outcome.SUCCEEDED:
                return True
            await self.pause(look)
        return False

    async def pause(self, attempt: int) -> None:
        """Wait a little before one looks again."""
        pause = backoff(self._transport.retry, attempt, self._transport.random.random())
        await asyncio.sleep(min(LONGEST_PAUSE, pause))

    def _sent_at(self, request: Request[Any]) -> float:
        """Return when a request was last sent, in seconds since the epoch; now where it was not: then nothing is its own."""
        sent_at = None if request.stats is None else request.stats.sent_at
        return self._transport.now() if sent_at is None else sent_at


def _cancellable(
    request: Request[AcceptedOperation], send_cancelled: Callable[[], bool]
) -> Request[AcceptedOperation]:
    """Make a request that no longer leaves once it was withdrawn."""

    def leaving() -> None:
        if send_cancelled():
            raise SendCancelled
        if request.leaving is not None:
            request.leaving()

    return attrs.evolve(request, leaving=leaving)


def _queue_again(request: Request[Any]) -> None:
    """Take down that a change waits for its turn from now on, and not since its attempt that was lost."""
    if request.stats is not None:
        request.stats.record_requeue(asyncio.get_running_loop().time(), asked_to_wait=False)


def _lock_key(request: Request[Any]) -> tuple[str, str | None]:
    return request.path, request.name


class _Joined(SendCancelled):
    """Nothing was made, since somebody else was faster: what is there goes into the journal as another's."""

    def __init__(self, accepted: AcceptedOperation) -> None:
        super().__init__("somebody else has made it")
        self.accepted = accepted


def _refused_after(lost: AmbiguousOutcomeError | None, error: TensorPoolError) -> NoReturn:
    """Raise what a later attempt met: the first one, whose answer was lost, may have been carried out."""
    if lost is not None and isinstance(error, StatusError | ConnectionFailed | DecodeError):
        lost.add_note(f"sent again, it met: {error}")
        raise lost from error
    raise error
