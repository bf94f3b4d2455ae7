"""What a change goes through on its way to the engine."""

from __future__ import annotations

import attrs


SHORTEST_WAIT = 0.1
"""Seconds below which nobody wants to hear of a wait."""


@attrs.define
class SendStats:
    """What a change goes through until the engine accepts it.

    Attributes:
        since: When it began to wait for its turn.
        waited: Seconds that it has waited for its turn.
        paused: Seconds that it has waited because the engine asked it to.
        attempts: How often it was sent.
        rate_limited: How often it was asked to wait.
        asked_to_wait: Whether it waits because the engine asked it to.
        lost: Whether an attempt was sent whose answer was lost, or not waited for.
        sent_at: When it was last sent, in seconds since the epoch; None before that.
    """

    since: float
    waited: float = 0.0
    paused: float = 0.0
    attempts: int = 0
    rate_limited: int = 0
    asked_to_wait: bool = False
    lost: bool = False
    sent_at: float | None = None

    @property
    def is_notable(self) -> bool:
        """Whether there is anything to tell of it."""
        return self.attempts > 1 or self.waited >= SHORTEST_WAIT

    def record_send(self, granted_at: float, at: float) -> None:
        """Take down that it is sent.

        Args:
            granted_at: When it was its turn, on the clock of `since`.
            at: What time it is, in seconds since the epoch.
        """
        self.sent_at = at
        wait = max(0.0, granted_at - self.since)
        if self.asked_to_wait:
            self.paused += wait
        else:
            self.waited += wait
        self.attempts += 1

    def record_requeue(self, since: float, *, asked_to_wait: bool) -> None:
        """Take down that it will be sent again, and from when on it waits for its turn."""
        self.since, self.asked_to_wait = since, asked_to_wait
        self.rate_limited += asked_to_wait
