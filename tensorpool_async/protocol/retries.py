"""What to do when a request failed, as a table.

| what failed | GET, DELETE, PUT | POST, PATCH |
|---|---|---|
| before anything was sent | again | again |
| sent, no answer; 408, 500, 502, 503, 504, 52x; a 2xx that cannot be read | again | resolve |
| a 2xx that is larger than what is read | raise | resolve |
| 429; 503 with Retry-After | again, after the pause | again, after the pause |
| the same, with a pause that is longer than the policy allows | raise | raise |
| any other refusal; a TLS certificate | raise | raise |

A DELETE that meets 410 has succeeded, and so has a repeated one that meets 404. A repeated DELETE or PUT that meets a conflict is resolved, for
the conflict may be its own first attempt.
"""

from __future__ import annotations

from enum import Enum

import attrs

from tensorpool_async.errors import (
    ConflictError,
    ConnectionFailed,
    DecodeError,
    NotFound,
    RateLimited,
    StatusError,
    TensorPoolError,
)


REPEATABLE_METHODS = frozenset({"GET", "HEAD", "PUT", "DELETE"})
LOST_STATUSES = frozenset({408, 500, 502, 503, 504, *range(520, 528)})
RATE_LIMITED_FACTOR = 5
"""A 429 does nothing at the engine, so a request may meet it more often than the failures that may have done something."""


class Failure(Enum):
    """How a request failed, by what that says about the engine."""

    NOT_SENT = "before anything was sent"
    NO_ANSWER = "sent, no answer"
    TOO_LARGE = "sent, and the answer was too large"
    RATE_LIMITED = "asked to wait"
    REFUSED = "refused"


class RetryDecision(Enum):
    """What follows from a failure."""

    AGAIN = "again"
    AFTER_PAUSE = "again, after the pause"
    RESOLVE = "resolve"
    RAISE = "raise"


RETRY_DECISIONS: dict[tuple[Failure, bool], RetryDecision] = {
    (Failure.NOT_SENT, True): RetryDecision.AGAIN,
    (Failure.NOT_SENT, False): RetryDecision.AGAIN,
    (Failure.NO_ANSWER, True): RetryDecision.AGAIN,
    (Failure.NO_ANSWER, False): RetryDecision.RESOLVE,
    (Failure.TOO_LARGE, True): RetryDecision.RAISE,
    (Failure.TOO_LARGE, False): RetryDecision.RESOLVE,
    (Failure.RATE_LIMITED, True): RetryDecision.AFTER_PAUSE,
    (Failure.RATE_LIMITED, False): RetryDecision.AFTER_PAUSE,
    (Failure.REFUSED, True): RetryDecision.RAISE,
    (Failure.REFUSED, False): RetryDecision.RAISE,
}
"""By failure, and by whether the method can be repeated without harm."""


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """How often, and how soon, a request is sent again. What may be sent again is not a matter of policy.

    Attributes:
        attempts: How often a request is sent at most; 1 means never again. A request that is only asked to wait (429)
            may be sent five times as often, since that asks for patience and changes nothing.
        backoff: Seconds before the second attempt, doubled for each further one, of which a random share between half
            and all is waited.
        longest_backoff: Seconds that one backoff takes at most.
        longest_pause: Seconds that a request waits at most because the engine asks it to (429, or 503 with Retry-After).
            A longer pause is raised, as `RateLimited` or `ServerError` with its `.retry_after`, and polls are made again
            later. All other requests pause for no longer than this either: what follows may be a destroy.
    """

    attempts: int = attrs.field(default=5, validator=attrs.validators.ge(1))
    backoff: float = attrs.field(default=0.5, validator=attrs.validators.ge(0))
    longest_backoff: float = attrs.field(default=20.0, validator=attrs.validators.ge(0))
    longest_pause: float = attrs.field(default=120.0, validator=attrs.validators.ge(0))


@attrs.frozen
class AttemptHistory:
    """What a request has been through.

    Attributes:
        failed: Attempts that failed, other than those that were asked to wait.
        rate_limited: Attempts that were asked to wait.
        uncertain: Whether one of them may have been carried out by the engine.
    """

    failed: int = 0
    rate_limited: int = 0
    uncertain: bool = False

    @property
    def attempts(self) -> int:
        """How often it was sent."""
        return self.failed + self.rate_limited

    def after(self, failure: Failure) -> AttemptHistory:
        """Count one more failure."""
        return AttemptHistory(
            failed=self.failed + (failure is not Failure.RATE_LIMITED),
            rate_limited=self.rate_limited + (failure is Failure.RATE_LIMITED),
            uncertain=self.uncertain or failure is Failure.NO_ANSWER,
        )


NO_ATTEMPTS = AttemptHistory()


def classify(error: TensorPoolError) -> Failure:
    """Say how a request failed."""
    if isinstance(error, ConnectionFailed):
        if error.permanent:
            return Failure.REFUSED
        return Failure.NO_ANSWER if error.sent else Failure.NOT_SENT
    if isinstance(error, StatusError):
        return _classify_status(error)
    if isinstance(error, DecodeError):
        return Failure.TOO_LARGE if error.too_large else Failure.NO_ANSWER
    return Failure.REFUSED


def is_gone(error: TensorPoolError, history: AttemptHistory) -> bool:
    """Whether a DELETE that met this has done its work: 410 says so, and 404 where an earlier attempt may have done it."""
    return isinstance(error, NotFound) and (history.uncertain or error.status == 410)


def _classify_status(error: StatusError) -> Failure:
    if isinstance(error, RateLimited) or (error.status == 503 and error.retry_after is not None):
        return Failure.RATE_LIMITED
    return Failure.NO_ANSWER if error.status in LOST_STATUSES else Failure.REFUSED


def decide(
    error: TensorPoolError, method: str, history: AttemptHistory, policy: RetryPolicy
) -> RetryDecision:
    """Decide what follows from a failure.

    Args:
        error: The failure.
        method: The request's method.
        history: What the request had been through before this failure.
        policy: How often it may be sent.
    """
    failure = classify(error)
    decision = RETRY_DECISIONS[failure, method in REPEATABLE_METHODS]
    if history.uncertain and method in {"DELETE", "PUT"} and isinstance(error, ConflictError):
        return RetryDecision.RESOLVE
    if decision is RetryDecision.AGAIN and history.failed + 1 >= policy.attempts:
        return RetryDecision.RAISE
    if decision is RetryDecision.AFTER_PAUSE and (
        history.rate_limited + 1 >= _patience(policy) or (error.retry_after or 0.0) > policy.longest_pause
    ):
        return RetryDecision.RAISE
    return decision


def _patience(policy: RetryPolicy) -> int:
    return 1 + (policy.attempts - 1) * RATE_LIMITED_FACTOR


def backoff(policy: RetryPolicy, failed: int, jitter: float) -> float:
    """Return the seconds to wait after `failed` failures; `share` is a random number between 0 and 1."""
    longest = min(policy.longest_backoff, policy.backoff * 2.0 ** min(failed - 1, 30))
    return longest * (0.5 + 0.5 * jitter)
