"""The retry table of the design, written out again; each row is met with real errors."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorpool_async.errors import (
    AmbiguousOutcomeError,
    ConnectionFailed,
    DecodeError,
    RequestTimeout,
    TensorPoolError,
)
from tensorpool_async.protocol.responses import Response, error_of
from tensorpool_async.protocol.retries import (
    RETRY_DECISIONS,
    AttemptHistory,
    Failure,
    RetryDecision,
    RetryPolicy,
    backoff,
    classify,
    decide,
)


def refused(status: int, retry_after: str | None = None) -> TensorPoolError:
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return error_of(Response(status, headers, b""), method="GET", path="/x")


METHODS = ("GET", "HEAD", "PUT", "DELETE", "POST", "PATCH")
AGAIN, PAUSE, RESOLVE, RAISE = (
    RetryDecision.AGAIN,
    RetryDecision.AFTER_PAUSE,
    RetryDecision.RESOLVE,
    RetryDecision.RAISE,
)

ROWS: list[tuple[str, TensorPoolError, RetryDecision, RetryDecision]] = [
    # what failed                             GET, DELETE  POST, PATCH
    ("refused, or DNS", ConnectionFailed("no connection", sent=False), AGAIN, AGAIN),
    ("connect timeout", RequestTimeout("not made in time", sent=False), AGAIN, AGAIN),
    ("sent, connection lost", ConnectionFailed("lost"), AGAIN, RESOLVE),
    ("sent, no answer in time", RequestTimeout("no answer"), AGAIN, RESOLVE),
    *[(str(status), refused(status), AGAIN, RESOLVE) for status in (408, 500, 502, 503, 504, 520, 524, 527)],
    ("500 with Retry-After", refused(500, "5"), AGAIN, RESOLVE),
    ("503 with nonsense in Retry-After", refused(503, "soon"), AGAIN, RESOLVE),
    ("a 2xx that cannot be read", DecodeError("cut off"), AGAIN, RESOLVE),
    ("429", refused(429), PAUSE, PAUSE),
    ("429 with Retry-After", refused(429, "5"), PAUSE, PAUSE),
    ("429 with nonsense in Retry-After", refused(429, "soon"), PAUSE, PAUSE),
    ("503 with Retry-After", refused(503, "0"), PAUSE, PAUSE),
    *[(str(status), refused(status), RAISE, RAISE) for status in (400, 401, 402, 403, 404, 409, 422)],
    *[(str(status), refused(status), RAISE, RAISE) for status in (301, 405, 418, 501, 505)],
    ("a TLS certificate", ConnectionFailed("not trusted", sent=False, permanent=True), RAISE, RAISE),
    ("not a failure of sending", AmbiguousOutcomeError("who knows"), RAISE, RAISE),
]  # fmt: skip


@pytest.mark.parametrize(
    ("error", "repeatable", "changing"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS]
)
def test_the_table_of_the_design(
    error: TensorPoolError, repeatable: RetryDecision, changing: RetryDecision
) -> None:
    verdicts = {method: decide(error, method, AttemptHistory(), RetryPolicy()) for method in METHODS}
    assert verdicts == {
        "GET": repeatable,
        "HEAD": repeatable,
        "PUT": repeatable,
        "DELETE": repeatable,
        "POST": changing,
        "PATCH": changing,
    }


def test_every_failure_has_a_verdict() -> None:
    assert set(RETRY_DECISIONS) == {
        (failure, repeatable) for failure in Failure for repeatable in (True, False)
    }


@pytest.mark.parametrize("method", METHODS)
def test_a_repeated_change_that_meets_a_conflict_may_have_met_itself(method: str) -> None:
    conflict = refused(409)
    lost_before = AttemptHistory(failed=1, uncertain=True)
    may_be_its_own = method in {"DELETE", "PUT"}
    assert decide(conflict, method, lost_before, RetryPolicy()) is (RESOLVE if may_be_its_own else RAISE)
    assert decide(conflict, method, AttemptHistory(failed=1), RetryPolicy()) is RAISE, (
        "nothing was sent before"
    )


@pytest.mark.parametrize("failure", list(Failure))
def test_tries_count_what_happened(failure: Failure) -> None:
    history = AttemptHistory(failed=1, rate_limited=2).after(failure)
    asked_to_wait = failure is Failure.RATE_LIMITED
    assert history == AttemptHistory(
        failed=1 if asked_to_wait else 2,
        rate_limited=3 if asked_to_wait else 2,
        uncertain=failure is Failure.NO_ANSWER,
    )
    assert AttemptHistory(uncertain=True).after(failure).uncertain, "what may have been done stays so"


def sends_until_the_end(error: TensorPoolError, method: str, policy: RetryPolicy) -> int:
    history, sent = AttemptHistory(), 1
    while decide(error, method, history, policy) not in {RAISE, RESOLVE}:
        history = history.after(classify(error))
        sent += 1
    return sent


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_a_request_is_sent_as_often_as_the_policy_says(attempts: int) -> None:
    policy = RetryPolicy(attempts=attempts)
    assert sends_until_the_end(refused(502), "GET", policy) == attempts
    assert sends_until_the_end(ConnectionFailed("refused", sent=False), "POST", policy) == attempts
    assert sends_until_the_end(refused(502), "POST", policy) == 1
    assert sends_until_the_end(refused(401), "GET", policy) == 1


def test_a_request_that_is_asked_to_wait_is_sent_more_often() -> None:
    assert sends_until_the_end(refused(429), "POST", RetryPolicy(attempts=1)) == 1
    for attempts in (2, 5):
        repeats = sends_until_the_end(refused(429), "POST", RetryPolicy(attempts=attempts)) - 1
        assert repeats == 5 * (attempts - 1)


def test_being_asked_to_wait_does_not_use_up_the_attempts() -> None:
    patient = AttemptHistory(rate_limited=10)
    assert decide(refused(502), "GET", patient, RetryPolicy(attempts=2)) is AGAIN
    tired = AttemptHistory(failed=4)
    assert decide(refused(429), "GET", tired, RetryPolicy(attempts=5)) is PAUSE


@given(
    base=st.floats(0.0, 100.0),
    longest=st.floats(0.0, 1000.0),
    failed=st.integers(1, 10_000),
    jitter=st.floats(0.0, 1.0),
)
def test_a_backoff_is_between_half_and_all_of_a_doubling_delay(
    base: float, longest: float, failed: int, jitter: float
) -> None:
    policy = RetryPolicy(backoff=base, longest_backoff=longest)
    full = min(longest, base * 2.0 ** min(failed - 1, 30))
    assert full / 2 <= backoff(policy, failed, jitter) <= full


def test_backoffs_double() -> None:
    assert [backoff(RetryPolicy(backoff=0.5), n, 1.0) for n in range(1, 9)] == [0.5, 1, 2, 4, 8, 16, 20, 20]


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"backoff": -1.0}, {"longest_backoff": float("nan")}])
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RetryPolicy(**wrong)
