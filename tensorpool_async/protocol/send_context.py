"""What one change goes through on its way to the engine."""

from __future__ import annotations

import attrs

from tensorpool_async.models.enums import OperationKind


SHORTEST_WAIT = 0.1
"""Waits shorter than this (seconds) are left out of summaries."""


@attrs.define
class SendContext:
    """The record of one change while it is sent: counters for summaries, and whether it is still wanted.

    Attributes:
        queued_at: When it began to wait for a slot, on the clock of the event loop.
        kind: The kind of operation that it begins.
        waited: Seconds that it has waited for a slot.
        paused: Seconds that it has waited because the engine asked for a pause.
        attempts: How often it was sent.
        rate_limited: How often the engine asked for a pause.
        asked_to_wait: Whether the current wait is such a pause.
        sent_at: When it was last sent, in seconds since the epoch; None before the first attempt.
        cancelled: Whether it is no longer wanted. It is then not sent, unless an attempt may have been carried out
            already.
        uncertain: Whether an attempt may have been carried out: its answer was lost, or not waited for.
    """

    queued_at: float
    kind: OperationKind | None = None
    waited: float = 0.0
    paused: float = 0.0
    attempts: int = 0
    rate_limited: int = 0
    asked_to_wait: bool = False
    sent_at: float | None = None
    cancelled: bool = False
    uncertain: bool = False

    @property
    def may_send(self) -> bool:
        """Whether the next attempt may be sent."""
        return self.uncertain or not self.cancelled

    @property
    def is_notable(self) -> bool:
        """Whether a summary has something to say about it."""
        return self.attempts > 1 or self.waited >= SHORTEST_WAIT

    def record_send(self, granted_at: float, at: float) -> None:
        """Count an attempt that is about to be sent.

        Args:
            granted_at: When it got its slot, on the clock of `queued_at`.
            at: The time in seconds since the epoch.
        """
        self.sent_at = at
        wait = max(0.0, granted_at - self.queued_at)
        if self.asked_to_wait:
            self.paused += wait
        else:
            self.waited += wait
        self.attempts += 1

    def record_requeue(self, queued_at: float, *, asked_to_wait: bool) -> None:
        """Note that it will be sent again, and waits for a slot from `queued_at` on."""
        self.queued_at, self.asked_to_wait = queued_at, asked_to_wait
        self.rate_limited += asked_to_wait
