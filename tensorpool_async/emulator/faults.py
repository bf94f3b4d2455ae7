"""Faults on demand: the kinds of faults, and which fault strikes a request."""

import random
from collections.abc import Callable, Iterable
from enum import StrEnum
from fnmatch import fnmatchcase

import attrs

from tensorpool_async.emulator.record import FiredFault, Record
from tensorpool_async.emulator.world import Clock


class FaultKind(StrEnum):
    """What can go wrong, in the order in which a request meets it."""

    DROP_BEFORE = "DROP_BEFORE"
    """The connection is closed without an answer, and nothing was done."""
    STALL = "STALL"
    """Not a byte for `seconds`, then the connection is closed. Nothing was done."""
    HTML_502 = "HTML_502"
    """The answer is a gateway's HTML page, and nothing was done."""
    ERROR_500 = "ERROR_500"
    """500 with a JSON body, and nothing was done."""
    RATE_LIMITED = "RATE_LIMITED"
    """429 with a Retry-After of `seconds`, and nothing was done."""
    UNAVAILABLE = "UNAVAILABLE"
    """503 with a Retry-After of `seconds`, and nothing was done."""
    NOT_FOUND = "NOT_FOUND"
    """404, and nothing was done."""
    DROP_AFTER = "DROP_AFTER"
    """The change was made, and the connection is closed without an answer."""
    HTML_502_AFTER = "HTML_502_AFTER"
    """The change was made, and a gateway's HTML page is the answer."""
    CUT_JSON = "CUT_JSON"
    """The change was made. The JSON body ends in its middle, and the HTTP around it is sound."""
    CUT_BODY = "CUT_BODY"
    """The change was made, and the connection is closed before the whole body is sent."""
    NO_REQUEST_ID = "NO_REQUEST_ID"
    """The change is under way, and the answer has no request id."""
    LIST_LAG = "LIST_LAG"
    """Lists and infos do not show objects younger than `seconds`."""
    RETRYING = "RETRYING"
    """The request goes through RETRYING once before it ends."""
    NO_CAPACITY = "NO_CAPACITY"
    """The creation is accepted, and then fails for lack of capacity."""
    FAILED = "FAILED"
    """The request ends FAILED. A cluster or volume that was being made or destroyed ends FAILED too."""


INSTEAD = frozenset(
    {
        FaultKind.DROP_BEFORE,
        FaultKind.STALL,
        FaultKind.HTML_502,
        FaultKind.ERROR_500,
        FaultKind.RATE_LIMITED,
        FaultKind.UNAVAILABLE,
        FaultKind.NOT_FOUND,
    }
)
AFTERWARDS = frozenset(
    {
        FaultKind.DROP_AFTER,
        FaultKind.HTML_502_AFTER,
        FaultKind.CUT_JSON,
        FaultKind.CUT_BODY,
    }
)


@attrs.frozen
class Fault:
    """One kind of fault, and the requests that it strikes.

    At most one fault changes the answer to a request: the first that was added. Kinds from NO_REQUEST_ID on only
    strike, and only count, where they make a difference: RETRYING when a request begins, LIST_LAG when there is
    something to hide.

    Attributes:
        kind: What goes wrong.
        method: Only requests of this method; None is any.
        path: Only paths that match this glob, such as "/request/info/…"; None is any. A star takes slashes too.
        times: How often it strikes; None is without end.
        probability: The chance that it strikes a request that matches.
        after: How many requests that match are let through first.
        seconds: Real seconds of the stall, of the lag, or of the Retry-After.
    """

    kind: FaultKind = attrs.field(converter=FaultKind)
    method: str | None = None
    path: str | None = None
    times: int | None = 1
    probability: float = 1.0
    after: int = 0
    seconds: float = 1.0

    def matches(self, method: str, path: str) -> bool:
        """Whether it is for this kind of request."""
        return (self.method is None or self.method.upper() == method) and (
            self.path is None or fnmatchcase(path, self.path)
        )


@attrs.define(eq=False)
class _Armed:
    fault: Fault
    to_skip: int
    left: int | None

    def strikes(self, rng: random.Random) -> bool:
        if self.to_skip:
            self.to_skip -= 1
            return False
        if self.fault.probability < 1 and rng.random() >= self.fault.probability:
            return False
        if self.left is not None:
            self.left -= 1
        return True


class Faults:
    """The faults of one emulator. A fault that is used up is removed."""

    def __init__(self, clock: Clock, record: Record, rng: random.Random) -> None:
        self._clock = clock
        self._record = record
        self._rng = rng
        self._armed: list[_Armed] = []

    def add(self, *faults: Fault) -> None:
        self._armed.extend(
            _Armed(fault, fault.after, fault.times)
            for fault in faults
            if fault.times is None or fault.times > 0
        )

    def clear(self) -> None:
        self._armed.clear()

    @property
    def armed(self) -> list[Fault]:
        """The faults that may still strike."""
        return [armed.fault for armed in self._armed]

    def take(
        self, kinds: Iterable[FaultKind], method: str, path: str, *, when: Callable[[Fault], bool]
    ) -> Fault | None:
        """Use the first fault of these kinds that strikes this request, once, and return it."""
        for armed in self._armed:
            fault = armed.fault
            if (
                fault.kind in kinds
                and fault.matches(method, path)
                and when(fault)
                and armed.strikes(self._rng)
            ):
                if armed.left == 0:
                    self._armed.remove(armed)
                self._record.faults.append(FiredFault(fault.kind, method, path, self._clock.now()))
                return fault
        return None


def _always(_fault: Fault) -> bool:
    return True


@attrs.frozen
class Scope:
    """The faults that one request may meet."""

    faults: Faults
    method: str
    path: str

    def take(self, *kinds: FaultKind, when: Callable[[Fault], bool] = _always) -> Fault | None:
        return self.faults.take(kinds, self.method, self.path, when=when)
