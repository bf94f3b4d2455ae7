"""Entries of the journal as rows and documents."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from tensorpool_async.cli.durations import age
from tensorpool_async.cli.printing import show_table
from tensorpool_async.journal import EntryState, JournalEntry
from tensorpool_async.protocol import tokens


KINDS: dict[str, str] = {
    "CLUSTER_CLAIM": "create cluster",
    "CLUSTER_RELEASE": "destroy cluster",
    "CLUSTER_EDIT": "edit cluster",
    "STORAGE_CREATE": "create volume",
    "STORAGE_DESTROY": "destroy volume",
    "STORAGE_ATTACH": "attach volume",
    "STORAGE_DETACH": "detach volume",
    "STORAGE_EDIT": "edit volume",
    "JOB_CANCEL": "cancel job",
}
STATES: dict[str, str] = {
    EntryState.INTENT: "unanswered",
    EntryState.ACCEPTED: "accepted",
    EntryState.ENDED: "ended",
}


def kind_of(entry: JournalEntry) -> str:
    """Say what an entry does, in words."""
    return KINDS.get(str(entry.intent.kind), str(entry.intent.kind).lower().replace("_", " "))


def token_of(entry: JournalEntry) -> str | None:
    """Return the token of its operation; None where the engine has not answered yet, as far as is known."""
    return None if entry.ref is None else tokens.encode(entry.ref)


def age_of(entry: JournalEntry) -> float:
    """Return the seconds since it was sent."""
    return max(0.0, time.time() - entry.intent.sent_at)


def show_entries(entries: Sequence[JournalEntry]) -> None:
    """Print a table of entries; columns in which nothing stands are left out."""
    headings = ("WHAT", "NAME", "ID", "STATE", "AGE", "OWNER", "LIMIT", "OUTCOME", "ENGINE")
    several = len({entry.intent.engine for entry in entries}) > 1
    rows = [
        (
            kind_of(entry),
            entry.intent.name,
            entry.resource_id,
            STATES[entry.state],
            age(age_of(entry)),
            "alive" if entry.owner_alive else "gone",
            _limit(entry),
            _outcome(entry),
            entry.intent.engine if several else None,
        )
        for entry in entries
    ]
    kept = [column for column in range(len(headings)) if column < 6 or any(row[column] for row in rows)]
    show_table(
        [headings[column] for column in kept],
        [[row[column] for column in kept] for row in rows],
        right=("AGE",),
    )


def _limit(entry: JournalEntry) -> str | None:
    parts = ["ephemeral"] if entry.intent.ephemeral else []
    parts += [] if entry.intent.ttl is None else [f"ttl {age(entry.intent.ttl)}"]
    return ", ".join(parts) or None


def _outcome(entry: JournalEntry) -> str | None:
    is_creation = entry.intent.resource_id is None
    return (
        f"{entry.outcome}; gone since"
        if entry.outcome and is_creation and entry.deleted_at
        else entry.outcome
    )


def entry_document(entry: JournalEntry) -> dict[str, Any]:
    """One entry: entry, engine, kind, name, resource_id, state, outcome, and so on."""
    return {
        "entry": entry.id,
        "engine": entry.intent.engine,
        "kind": str(entry.intent.kind),
        "name": entry.intent.name,
        "resource_id": entry.resource_id,
        "state": str(entry.state),
        "outcome": entry.outcome,
        "owner_alive": entry.owner_alive,
        "ephemeral": entry.intent.ephemeral,
        "ttl": entry.intent.ttl,
        "age": round(age_of(entry), 3),
        "sent_at": entry.intent.sent_at,
        "accepted_at": entry.accepted_at,
        "ended_at": entry.ended_at,
        "gone_at": entry.deleted_at,
        "details": entry.intent.details,
        "token": token_of(entry),
    }
