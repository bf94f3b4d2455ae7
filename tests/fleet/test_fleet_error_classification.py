from __future__ import annotations

from typing import Any

import pytest

from tensorpool_async.errors import (
    AuthenticationError,
    ConflictError,
    ConnectionFailed,
    DecodeError,
    InsufficientBalance,
    NotFound,
    OperationFailed,
    PermissionDenied,
    RateLimited,
    ServerError,
    StatusError,
    TensorPoolError,
    ValidationError,
)
from tensorpool_async.fleet.error_classification import (
    is_capacity_error,
    is_offer_rejected,
    is_price_unavailable,
)


NO_CAPACITY = "No capacity available for 1 x 8xB200, try another type or later"


@pytest.mark.parametrize(
    "text",
    [
        NO_CAPACITY,
        "insufficient capacity in us-east",
        "The requested instance type is at capacity",
        "Out of stock",
        "8xB200 is sold out",
        "8xB200 is currently unavailable",
        "This GPU is not available right now",
        "Not enough free GPUs",
        "Insufficient resources",
        "There are no 8xH200 nodes available",
        "no available instances",
        "Please try another instance type",
        "RESOURCES EXHAUSTED",
    ],
)
def test_words_for_a_lack_of_capacity(text: str) -> None:
    assert is_capacity_error(OperationFailed(f"CLUSTER_CLAIM of c-1 failed: {text}", text))


@pytest.mark.parametrize(
    "text",
    [
        "Creating the cluster failed: internal provider error",
        "node did not come up",
        "no response from instance i-1 after 300 s",
        "container image not available",
        "service unavailable",
        "instance quota exceeded: not enough GPUs in your quota",
        "Insufficient balance for capacity reservation",
        "invalid public key",
        "cuda out of memory",
        "",
    ],
)
def test_other_failures_are_no_lack_of_capacity(text: str) -> None:
    assert not is_capacity_error(OperationFailed("failed", text))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConflictError(409, NO_CAPACITY), True),
        (ServerError(503, NO_CAPACITY), True),
        (StatusError(418, NO_CAPACITY), True),
        (ConflictError(409, "A cluster named 'x' exists already"), False),
        (AuthenticationError(401, NO_CAPACITY), False),
        (InsufficientBalance(402, NO_CAPACITY), False),
        (PermissionDenied(403, NO_CAPACITY), False),
        (ValidationError(422, NO_CAPACITY), False),
        (RateLimited(429, NO_CAPACITY), False),
        (ConnectionFailed(NO_CAPACITY), False),
    ],
)
def test_which_statuses_may_be_a_lack_of_capacity(error: TensorPoolError, expected: bool) -> None:
    assert is_capacity_error(error) is expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NotFound(404, "Not Found"), True),
        (StatusError(405, "Method Not Allowed"), True),
        (ServerError(500, "broken"), True),
        (PermissionDenied(403, "no prices for you"), True),
        (DecodeError("no JSON"), True),
        (ValidationError(422, "type: Field required"), True),
        (AuthenticationError(401, "wrong key"), False),
        (RateLimited(429, "slowly"), False),
        (ConnectionFailed("refused"), False),
    ],
)
def test_which_failures_mean_that_the_engine_has_no_prices(error: TensorPoolError, expected: bool) -> None:
    assert is_price_unavailable(error) is expected


def invalid(*problems: Any) -> ValidationError:
    return ValidationError(422, "no", body={"detail": list(problems)})


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (invalid({"loc": ["query", "instance_type"], "type": "value_error"}), True),
        (invalid({"loc": ["query", "num_nodes"], "type": "value_error"}), True),
        (invalid("odd", {"loc": "odd"}, {"loc": ["query", "instance_type"]}), True),
        (invalid({"loc": ["query", "instance_type"], "type": "missing"}), False),
        (invalid({"loc": ["query", "kind"], "type": "missing"}), False),
        (ValidationError(422, "no", body={"detail": "instance_type"}), False),
        (ValidationError(422, "no", body="instance_type"), False),
        (NotFound(404, "no", body={"detail": [{"loc": ["instance_type"]}]}), False),
    ],
)
def test_a_rejected_offer_differs_from_a_missing_endpoint(error: TensorPoolError, expected: bool) -> None:
    assert is_offer_rejected(error) is expected
