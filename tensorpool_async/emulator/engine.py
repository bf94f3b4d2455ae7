"""What the parts of one engine share: its time, its record, its requests, and how things are found."""

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import attrs

from tensorpool_async.emulator.faults import Fault, FaultKind, Scope
from tensorpool_async.emulator.record import Record
from tensorpool_async.emulator.requests import Request, RequestKind, RequestStore
from tensorpool_async.emulator.responses import conflict, name_taken, not_found, too_many
from tensorpool_async.emulator.world import Clock, World


class Named(Protocol):
    """A thing with an id and a name. `created` is in seconds after the emulator's start."""

    id: str
    name: str
    created: float
    busy: Request | None

    @property
    def is_deleted(self) -> bool: ...


@attrs.frozen(eq=False)
class Engine:
    """The state that every part of one engine uses."""

    world: World
    clock: Clock
    record: Record
    requests: RequestStore

    def change(
        self,
        thing: Named,
        kind: RequestKind,
        seconds: float,
        scope: Scope,
        *,
        done: Callable[[], object],
        failed: Callable[[], object] = lambda: None,
        failure: str | None = None,
    ) -> Request:
        """Begin a request, and keep the thing busy until the request ends."""

        def end(then: Callable[[], object]) -> Callable[[], None]:
            def ended() -> None:
                thing.busy = None
                then()

            return ended

        request = self.requests.begin(
            kind, thing.id, seconds, scope, done=end(done), failed=end(failed), failure=failure
        )
        thing.busy = request
        return request


_Thing = TypeVar("_Thing", bound=Named)


class Registry(Generic[_Thing]):
    """All things of one kind, by id and by name, and which of them an answer shows.

    Args:
        what: The kind of thing, as it stands in messages.
        limit: How many may live at once.
        clock: The time by which a thing is too young to be shown.
        names_are_ids: Whether a thing is found by its name where an id is asked for.
    """

    def __init__(self, what: str, limit: int, clock: Clock, *, names_are_ids: bool) -> None:
        self.by_id: dict[str, _Thing] = {}
        self._names: dict[str, _Thing] = {}
        self._what = what
        self._limit = limit
        self._clock = clock
        self._names_are_ids = names_are_ids

    @property
    def living(self) -> list[_Thing]:
        return list(self._names.values())

    def visible(self, scope: Scope) -> list[_Thing]:
        """The living things that this list shows."""
        return self._without_young(self.living, scope)

    def find_visible(self, key: str, scope: Scope) -> _Thing:
        """Raises Refusal when there is no such living thing, or this answer does not show it yet."""
        for thing in self._without_young([self.find(key)], scope):
            return thing
        raise self._missing(key)

    def find(self, key: str) -> _Thing:
        """Raises Refusal when there is no such living thing."""
        thing = self.by_id.get(key)
        if (thing is None or thing.is_deleted) and self._names_are_ids:
            thing = self._names.get(key)
        if thing is None or thing.is_deleted:
            raise self._missing(key)
        return thing

    def find_free(self, key: str) -> _Thing:
        """Raises Refusal when there is no such living thing, or a request is changing it."""
        thing = self.find(key)
        if thing.busy is not None:
            raise conflict(
                f"{self._what.capitalize()} {thing.id} is being changed by request {thing.busy.id}"
            )
        return thing

    def check_name(self, name: str | None, *, owner: _Thing | None = None) -> None:
        """Raises Refusal when another living thing has this name."""
        if name is not None and self._names.get(name, owner) is not owner:
            raise name_taken(self._what, name)

    def check_room(self) -> None:
        """Raises Refusal when no more things may live."""
        if len(self._names) >= self._limit:
            raise too_many(f"{self._what}s", self._limit)

    def add(self, thing: _Thing) -> None:
        self.by_id[thing.id] = self._names[thing.name] = thing

    def rename(self, thing: _Thing, name: str) -> bool:
        """Whether the thing has a new name now. It keeps its own if another took the name meanwhile."""
        if name in self._names:
            return False
        del self._names[thing.name]
        thing.name = name
        self._names[name] = thing
        return True

    def forget_name(self, thing: _Thing) -> None:
        """Free the name of a thing that is gone. It is still found by its id in `by_id`."""
        del self._names[thing.name]

    def _missing(self, key: str) -> Exception:
        return not_found(f"{self._what.capitalize()} {key}")

    def _without_young(self, things: list[_Thing], scope: Scope) -> list[_Thing]:
        # The fault is used up only if there is something to hide.
        now = self._clock.now()

        def hides_any(fault: Fault) -> bool:
            return any(now - thing.created < fault.seconds for thing in things)

        fault = scope.take(FaultKind.LIST_LAG, when=hides_any)
        return [thing for thing in things if fault is None or now - thing.created >= fault.seconds]
