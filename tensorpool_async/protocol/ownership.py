"""Whether a resource that is found after a lost answer is the one that the lost request made.

The engine has no idempotency key, so nothing marks a resource as one's own but its name and when it was made. A name
that was given at random is proof enough. Otherwise the time decides, held against the engine's own clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum
from math import inf
from typing import Any


CLOCK_TOLERANCE = 2.0
"""Seconds. The engine's clock is known from its `Date` header, which counts whole seconds."""


class Ownership(Enum):
    """Where a resource comes from that has the name of one whose creation was lost."""

    OURS = "made by the lost request"
    BEFORE = "there before the request was sent"
    UNCLEAR = "nothing says when it was made"


def ownership_of(
    *, made_at: float | None, sent_at: float, random_name: bool, taken: bool, latest: float = inf
) -> Ownership:
    """Decide where a resource comes from.

    Args:
        made_at: When it was made, in seconds since the epoch of the engine's clock; None where nothing says.
        sent_at: When the request was first sent, by the engine's clock.
        random_name: Whether the name was given at random for this request alone.
        taken: Whether it is known to be another call's.
        latest: The time by which the request had been carried out, if it ever was; what was made later may be
            anybody's.
    """
    if taken:
        return Ownership.BEFORE
    if random_name:
        return Ownership.OURS
    if made_at is None:
        return Ownership.UNCLEAR
    if made_at > latest:
        return Ownership.UNCLEAR
    return Ownership.OURS if made_at >= sent_at - CLOCK_TOLERANCE else Ownership.BEFORE


def epoch_of(text: str | None) -> float | None:
    """Return the seconds since the epoch of an ISO 8601 text; None where it is none. Without a zone it is UTC."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def difference(cluster: Any, body: Mapping[str, Any]) -> str:
    """Say how a cluster differs from what a create asks for; empty where it does not, or where the engine does not say.

    Args:
        cluster: The cluster.
        body: The body of the create.
    """
    kind, wanted_kind = cluster.instance_type, str(body["instance_type"])
    if kind is not None and kind.casefold() != wanted_kind.casefold():
        return f"and is of {kind}, not of {wanted_kind}"
    if cluster.num_nodes is not None and cluster.num_nodes != body["num_nodes"]:
        return f"and has {cluster.num_nodes} nodes, not {body['num_nodes']}"
    return ""
