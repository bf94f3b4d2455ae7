"""The command emulator, and the emulator of `tpa up --emulate`. Importing this module is slow: it imports the emulator."""

from __future__ import annotations

import asyncio
from collections import Counter

from tensorpool_async.cli.exit_codes import ExitCode
from tensorpool_async.cli.output import pluralize, print_out
from tensorpool_async.config import ENGINE_VARIABLE, KEY_VARIABLE, find_key
from tensorpool_async.emulator import Emulator
from tensorpool_async.fleet import Fleet


async def serve(port: int, speed: float, key: str) -> ExitCode:
    """Run an emulator until this is cancelled, which is the normal end.

    Raises:
        ConfigurationError: The key has characters that a key cannot have.
    """
    find_key(key)
    async with Emulator(port=port, speed=speed, key=key) as emulator:
        print_out(f"The emulator listens at {emulator.url}, {speed:g} times as fast as the engine.")
        print_out("Ctrl-C stops it. To use it in another terminal:")
        print_out(f"  export {ENGINE_VARIABLE}={emulator.url}", blank_before=True)
        print_out(f"  export {KEY_VARIABLE}={emulator.key}")
        print_out("Then run, for example, tpa ls or tpa up FILE.", blank_before=True)
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            print_out(f"Stopped after {pluralize(emulator.record.requests, 'request')}.")
    return ExitCode.SUCCESS


def emulator_for(fleet: Fleet, speed: float) -> Emulator:
    """Make an emulator with too little capacity for the first choices of a fleet, and with a low rate limit."""
    return Emulator(speed=speed, capacity=scarce_capacity(fleet), rate_limit=low_rate_limit(fleet))


def scarce_capacity(fleet: Fleet) -> dict[str, int]:
    """Return the nodes of each scarce instance type: half of what the first choices of the fleet add up to.

    A type is scarce only if each group that lists it has another type to fall back to, so that the fleet can be created.
    """
    wanted: Counter[str] = Counter()
    for group in fleet.clusters:
        wanted[group.instance_type[0]] += group.count * group.num_nodes
    fallbacks = {kind for group in fleet.clusters for kind in _fallbacks(group.instance_type)}
    return {kind: nodes // 2 for kind, nodes in wanted.items() if kind not in fallbacks}


def _fallbacks(types: tuple[str, ...]) -> tuple[str, ...]:
    return types[1:] or types


def low_rate_limit(fleet: Fleet) -> float:
    """Return a limit, in requests per second, that the first requests of a fleet of this size exceed."""
    return max(5.0, 0.75 * len(fleet.members))
