"""What is in a journal, and what a store of it must do."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Protocol

import attrs

from tensorpool_async.models.enums import OperationKind
from tensorpool_async.protocol.tokens import OperationRef


NOT_MADE = "not made"
"""The outcome of an intent that was never sent, or whose request the engine never carried out."""

DESTROYED = "destroyed"
"""The outcome of an entry whose resource has been destroyed."""

REFUSED = "refused"
"""How the outcome of a request begins that the engine refused."""


class EntryState(StrEnum):
    """How far an entry has come."""

    INTENT = "INTENT"
    ACCEPTED = "ACCEPTED"
    ENDED = "ENDED"


@attrs.frozen(kw_only=True)
class Intent:
    """A change that is about to be sent. It holds no key, and nothing else that is secret.

    Attributes:
        engine: The base URL of the engine.
        kind: What the change does.
        method: The HTTP method.
        path: The path at the engine.
        name: The name of what it makes.
        random_name: Whether that name was made up, and so can be nobody else's.
        resource_id: What it changes, where it changes something.
        expected: What the resource looks like when it is done; JSON.
        details: For a person to read, such as `instance_type`; JSON.
        ephemeral: Whether its owner destroys what it makes on the way out.
        ttl: Seconds after which what it makes may be destroyed; None never.
        sent_at: When it is sent, in seconds since the epoch, by this machine's clock.
    """

    engine: str
    kind: OperationKind
    method: str
    path: str
    name: str | None = None
    random_name: bool = False
    resource_id: str | None = None
    expected: dict[str, Any] = attrs.field(factory=dict[str, Any])
    details: dict[str, Any] = attrs.field(factory=dict[str, Any])
    ephemeral: bool = False
    ttl: float | None = None
    sent_at: float


@attrs.frozen(kw_only=True)
class JournalEntry:
    """An intent, and what became of it. Times are in seconds since the epoch.

    Attributes:
        id: Its number in the journal, never used twice.
        intent: What was about to be sent.
        ref: What the engine's 202 named; None until it is read.
        state: How far it has come.
        outcome: How it ended, such as `COMPLETED`, `FAILED: …`, `refused: 409 …`, `not made`, `destroyed`.
        owner: The id of the client that it belongs to.
        owner_alive: Whether that client was open when this was read.
        accepted_at: When the 202 was read.
        ended_at: When its end was known.
        deleted_at: When its resource was known to be gone.
    """

    id: int
    intent: Intent
    ref: OperationRef | None
    state: EntryState
    outcome: str | None
    owner: str
    owner_alive: bool
    accepted_at: float | None
    ended_at: float | None
    deleted_at: float | None

    @property
    def resource_id(self) -> str | None:
        """What it is about: what the 202 named, else what the intent names."""
        named = None if self.ref is None else self.ref.resource_id
        return self.intent.resource_id if named is None else named


class Journal(Protocol):
    """A place that remembers what is in flight, so that a crash loses nothing.

    The order is: `intend`, send the request, `accept` when the 202 is read, `end` when the end is known.
    """

    async def open(self) -> None:
        """Make it ready for use. A journal that is open stays as it is.

        Raises:
            JournalError: It cannot be used; the text says why.
        """
        ...

    async def intend(self, intent: Intent) -> int:
        """Note what is about to be sent, and return the entry's id. When this returns, it survives a crash.

        Who is cancelled here has sent nothing, so the entry ends as `not made`.

        Raises:
            JournalError: It could not be noted, so it must not be sent.
        """
        ...

    async def accept(self, entry: int, ref: OperationRef, at: float) -> None:
        """Note what the engine's 202 named, at a time in seconds since the epoch. When this returns, it survives a crash.

        Who is cancelled here leaves it to be noted.

        Raises:
            JournalError: It could not be noted. It is kept, and noted with the next thing that can be.
        """
        ...

    def end(self, entry: int, outcome: str, at: float) -> None:
        """Note how an entry ended, soon, and after all that was noted before."""
        ...

    def mark_deleted(self, engine: str, resource_id: str, at: float) -> None:
        """Note that a resource is gone, for every entry about it, soon, and after all that was noted before."""
        ...

    async def take_over(self, engine: str) -> list[JournalEntry]:
        """Make the entries of this engine that have not ended, and whose owner is dead, this client's own.

        Of several clients that do this at once, each entry goes to one.

        Returns:
            The entries of this engine that belong to this client and have not ended, oldest first.

        Raises:
            JournalError: The journal cannot be read or written.
        """
        ...

    async def entries(self, engine: str | None = None, *, ended: bool = False) -> list[JournalEntry]:
        """Read the entries that have not ended, oldest first.

        Args:
            engine: Only those of this engine.
            ended: Those that have ended, too.

        Raises:
            JournalError: The journal cannot be read.
        """
        ...

    async def claim(self, entry: int) -> bool:
        """Make an entry, ended or not, this client's own.

        Returns:
            Whether it is; False where another living client holds it, or there is no such entry.

        Raises:
            JournalError: The journal cannot be read or written.
        """
        ...

    async def aclose(self) -> None:
        """Write what is still to be written, and give up what belongs to this client. Can be done twice."""
        ...
