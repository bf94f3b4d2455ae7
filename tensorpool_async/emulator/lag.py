"""Lists and infos that lag behind, on demand."""

from collections.abc import Callable, Sequence
from typing import Protocol

from tensorpool_async.emulator.faults import Fault, FaultKind, Scope


class Aged(Protocol):
    """What knows since when it is there, in seconds after the emulator's start."""

    @property
    def created(self) -> float: ...


def hides(scope: Scope, now: float, objects: Sequence[Aged]) -> Callable[[Aged], bool]:
    """What this answer does not show yet. The fault is used up only if there is something to hide."""

    def too_young(fault: Fault) -> bool:
        return any(now - thing.created < fault.seconds for thing in objects)

    fault = scope.take(FaultKind.LIST_LAG, when=too_young)

    def hidden(thing: Aged) -> bool:
        return fault is not None and now - thing.created < fault.seconds

    return hidden
