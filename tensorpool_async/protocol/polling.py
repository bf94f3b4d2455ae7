"""When to poll next: the engine's pace, never earlier."""

from __future__ import annotations

import attrs


LONGEST_FAILURE_DELAY = 30.0
"""Seconds. Polls that fail grow rarer up to this, and go on for ever: only the caller ends a wait."""


@attrs.frozen(kw_only=True)
class PollPolicy:
    """How often an operation is polled. All times are in seconds.

    Left alone, the pace is the engine's own: never earlier than its last `Retry-After`. `maximum` and `override` are
    for callers who want to ask more often than the engine wants to be asked.

    Attributes:
        default: Between two polls where the engine names no pace.
        initial: Between the 202 and the first poll where the 202 names no pace.
        minimum: The shortest time between two polls, also where the engine allows less.
        maximum: The longest time between two polls, also where the engine asks for more; None leaves that to the engine.
        override: Between any two polls, whatever the engine asks for.
        jitter: The largest share of a delay that is added to it at random, so that a thousand operations that were
            begun together are not polled together for ever.
    """

    default: float = attrs.field(default=2.0, validator=attrs.validators.ge(0))
    initial: float = attrs.field(default=0.5, validator=attrs.validators.ge(0))
    minimum: float = attrs.field(default=0.0, validator=attrs.validators.ge(0))
    maximum: float | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.gt(0))
    )
    override: float | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.ge(0))
    )
    jitter: float = attrs.field(default=0.1, validator=[attrs.validators.ge(0), attrs.validators.le(1)])


def delay_after(policy: PollPolicy, retry_after: float | None, *, failures: int, jitter: float) -> float:
    """Return the seconds until the next poll.

    Args:
        policy: The caller's wishes.
        retry_after: What the last answer asked for, or None.
        failures: How many polls failed in a row; without a `Retry-After` each doubles the delay.
        jitter: A random number between 0 and 1.
    """
    if policy.override is not None:
        return policy.override
    if retry_after is not None:
        delay = retry_after
    elif failures:
        delay = min(LONGEST_FAILURE_DELAY, max(policy.default, 0.1) * 2.0 ** min(failures - 1, 30))
    else:
        delay = policy.default
    delay = max(delay, policy.minimum) * (1.0 + policy.jitter * jitter)
    return delay if policy.maximum is None else min(delay, policy.maximum)


def first_delay(policy: PollPolicy, retry_after: float | None, jitter: float) -> float:
    """Return the seconds between the 202 and the first poll."""
    pace = policy.initial if retry_after is None else retry_after
    return delay_after(policy, pace, failures=0, jitter=jitter)
