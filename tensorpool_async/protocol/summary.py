"""The story of one operation, in a few lines for a person.

What is not known is not told. All times are seconds, on any monotonic clock.
"""

from __future__ import annotations

from typing import Protocol

from tensorpool_async.errors import OperationFailed
from tensorpool_async.models.enums import RequestStatus
from tensorpool_async.protocol.operation import OperationMachine
from tensorpool_async.protocol.send_stats import SHORTEST_WAIT, SendStats


class PollCounters:
    """What did not go smoothly for an operation; most operations have none, and no such object.

    Attributes:
        stats: What its submission went through; None where that is not known, or nothing to tell of.
        retrying: How often the engine began to try again.
        rate_limited: Polls that were asked to wait.
        failed: Polls that brought no answer, or an error of the server's.
    """

    __slots__ = ("failed", "rate_limited", "retrying", "stats")

    def __init__(self, stats: SendStats | None = None) -> None:
        self.stats: SendStats | None = stats
        self.retrying: int = 0
        self.rate_limited: int = 0
        self.failed: int = 0


class Times(Protocol):
    """When things happened to an operation, and what went wrong.

    Attributes:
        began: When it was accepted, or found again; None before that.
        next_at: When it is polled next; at the end, when it ended.
        counters: What went wrong; None where nothing did.
    """

    began: float | None
    next_at: float
    counters: PollCounters | None


def summarize(machine: OperationMachine, times: Times, now: float) -> str:
    """Tell what an operation has gone through, and where it stands."""
    ids = f" (request {machine.request_ids[0]})" if machine.request_ids else ""
    lines = [
        f"{machine.kind or 'an operation'} of {machine.resource_id or 'a resource that is not known yet'}{ids}",
        "; ".join(_submitted(None if times.counters is None else times.counters.stats)),
        "; ".join(_followed(machine, times, now)),
        _standing(machine, times, now),
    ]
    return "\n".join(line for line in lines if line)


def _submitted(stats: SendStats | None) -> list[str]:
    if stats is None:
        return []
    parts: list[str] = []
    if stats.waited >= SHORTEST_WAIT:
        parts.append(f"waited {stats.waited:.1f} s for its turn")
    if stats.rate_limited:
        parts.append(f"rate-limited {_times(stats.rate_limited)}, {stats.paused:.1f} s in all")
    if stats.attempts > 1:
        parts.append(f"sent {_times(stats.attempts)}")
    return parts


def _followed(machine: OperationMachine, times: Times, now: float) -> list[str]:
    if times.began is None:
        return []
    until = times.next_at if _ended(machine) else now
    parts = [f"followed for {until - times.began:.1f} s, {_polled(machine.polls)}"]
    counters = times.counters
    if counters is not None:
        if counters.retrying:
            parts.append(f"RETRYING {_times(counters.retrying)}")
        if counters.rate_limited:
            parts.append(f"polls rate-limited {_times(counters.rate_limited)}")
        if counters.failed:
            parts.append(f"polls without an answer: {counters.failed}")
    return parts


def _standing(machine: OperationMachine, times: Times, now: float) -> str:
    if _ended(machine):
        if machine.error is None:
            return "completed"
        word = "failed" if isinstance(machine.error, OperationFailed) else "given up"
        return f"{word}: {machine.error}"
    info = machine.info
    status = RequestStatus.PENDING if info is None else info.status
    message = f": {info.external_message}" if info is not None and info.external_message else ""
    if times.began is None:
        return f"{status}{message}; not polled " + ("while nobody waits for it" if machine.polls else "yet")
    left = times.next_at - now
    return f"{status}{message}; " + (f"next poll in {left:.1f} s" if left > 0 else "a poll is due")


def _ended(machine: OperationMachine) -> bool:
    return machine.done or machine.error is not None


def _times(count: int) -> str:
    words = {1: "once", 2: "twice"}
    return words.get(count) or f"{count} times"


def _polled(count: int) -> str:
    return f"polled {_times(count)}" if count else "not polled yet"
