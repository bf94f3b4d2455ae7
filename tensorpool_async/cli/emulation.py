"""An emulator for `up --emulate`, set up so that a fleet meets what it would meet at the engine."""

from __future__ import annotations

from collections import Counter

from tensorpool_async.emulator import Emulator
from tensorpool_async.fleet import Fleet


def emulator_for(fleet: Fleet, speed: float) -> Emulator:
    """Make an engine that runs short of what the fleet prefers, and that asks it to slow down."""
    return Emulator(speed=speed, capacity=short_capacity(fleet), rate_limit=tight_rate_limit(fleet))


def short_capacity(fleet: Fleet) -> dict[str, int]:
    """Return the nodes that there are of each scarce type: about half of what the fleet prefers.

    Scarce are only types that nobody needs who could not do with another one, so that a fleet always comes up.
    """
    wanted: Counter[str] = Counter()
    for group in fleet.clusters:
        wanted[group.instance_type[0]] += group.count * group.num_nodes
    last_resorts = {kind for group in fleet.clusters for kind in _last_resort(group.instance_type)}
    return {kind: nodes // 2 for kind, nodes in wanted.items() if kind not in last_resorts}


def _last_resort(types: tuple[str, ...]) -> tuple[str, ...]:
    return types[1:] or types


def tight_rate_limit(fleet: Fleet) -> float:
    """Return requests per second that a fleet of this size passes when it begins."""
    return max(5.0, 0.75 * len(fleet.members))
