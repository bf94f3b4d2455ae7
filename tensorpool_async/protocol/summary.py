"""What an operation has gone through, in a few lines for a person.

What is not known is left out. All times are seconds, on any monotonic clock.
"""

from __future__ import annotations

from tensorpool_async.errors import OperationFailed
from tensorpool_async.models.enums import RequestStatus
from tensorpool_async.protocol.operation import OperationMachine
from tensorpool_async.protocol.send_context import SHORTEST_WAIT, SendContext


class PollCounters:
    """What did not go smoothly for an operation; most operations have none, and no such object.

    Attributes:
        context: The record of its sending; None where it is not known, or has nothing to say.
        retrying: How often the engine began to try again.
        rate_limited: Polls that were asked to wait.
        failed: Polls that brought no answer, or a server error.
    """

    __slots__ = ("context", "failed", "rate_limited", "retrying")

    def __init__(self, context: SendContext | None = None) -> None:
        self.context: SendContext | None = context
        self.retrying: int = 0
        self.rate_limited: int = 0
        self.failed: int = 0

    def count(self, status: int) -> None:
        """Count a poll that failed with this HTTP status; 0 stands for no answer."""
        if status == 429:
            self.rate_limited += 1
        else:
            self.failed += 1


def summarize(
    machine: OperationMachine,
    counters: PollCounters | None,
    *,
    began: float | None,
    next_at: float,
    now: float,
) -> str:
    """Say what an operation has gone through, and where it stands.

    Args:
        machine: The operation.
        counters: What did not go smoothly.
        began: When it was accepted, or found again; None before that.
        next_at: When it is polled next; at the end, when it ended.
        now: The time.
    """
    ids = f" (request {machine.request_ids[0]})" if machine.request_ids else ""
    until = next_at if _ended(machine) else now
    lines = [
        f"{machine.kind or 'an operation'} of {machine.resource_id or 'a resource that is not known yet'}{ids}",
        "; ".join(_send_parts(None if counters is None else counters.context)),
        "" if began is None else "; ".join(_poll_parts(machine.polls, counters, until - began)),
        _state_text(machine, began, next_at - now),
    ]
    return "\n".join(line for line in lines if line)


def _send_parts(context: SendContext | None) -> list[str]:
    if context is None:
        return []
    parts: list[str] = []
    if context.waited >= SHORTEST_WAIT:
        parts.append(f"waited {context.waited:.1f} s for its turn")
    if context.rate_limited:
        parts.append(f"rate-limited {_times(context.rate_limited)}, {context.paused:.1f} s in all")
    if context.attempts > 1:
        parts.append(f"sent {_times(context.attempts)}")
    return parts


def _poll_parts(polls: int, counters: PollCounters | None, seconds: float) -> list[str]:
    parts = [f"followed for {seconds:.1f} s, {_polled(polls)}"]
    if counters is not None:
        if counters.retrying:
            parts.append(f"RETRYING {_times(counters.retrying)}")
        if counters.rate_limited:
            parts.append(f"polls rate-limited {_times(counters.rate_limited)}")
        if counters.failed:
            parts.append(f"polls without an answer: {counters.failed}")
    return parts


def _state_text(machine: OperationMachine, began: float | None, left: float) -> str:
    if _ended(machine):
        if machine.error is None:
            return "completed"
        word = "failed" if isinstance(machine.error, OperationFailed) else "given up"
        return f"{word}: {machine.error}"
    info = machine.info
    status = RequestStatus.PENDING if info is None else info.status
    message = f": {info.external_message}" if info is not None and info.external_message else ""
    if began is None:
        return f"{status}{message}; not polled " + ("while nobody waits for it" if machine.polls else "yet")
    return f"{status}{message}; " + (f"next poll in {left:.1f} s" if left > 0 else "a poll is due")


def _ended(machine: OperationMachine) -> bool:
    return machine.done or machine.error is not None


def _times(count: int) -> str:
    words = {1: "once", 2: "twice"}
    return words.get(count) or f"{count} times"


def _polled(count: int) -> str:
    return f"polled {_times(count)}" if count else "not polled yet"
