"""Classify errors of the engine for a fleet: no capacity, no price, or an offer that does not exist.

These are pure functions over statuses and texts.
"""

from __future__ import annotations

import re
from typing import Any, cast

from tensorpool_async.errors import (
    DecodeError,
    NotFound,
    OperationFailed,
    PermissionDenied,
    StatusError,
    TensorPoolError,
    ValidationError,
)


# The engine's wording is not documented, so these are the words that cloud providers use. The pattern must be strict:
# a failed create that it matches is destroyed and repeated with another type, and "the node did not answer" is no
# reason for that.
_NO_CAPACITY = re.compile(
    r"\bcapacity\b"
    r"|\b(?:sold out|out of stock|fully booked|try another (?:instance )?type)\b"
    r"|\b(?:not enough|insufficient|lack of|out of) (?:\w+ ){0,3}"
    r"(?:resources|inventory|supply|gpus?|nodes?|instances?|machines?)\b"
    r"|\bno (?:\S+ ){0,3}(?:gpus?|nodes?|instances?|machines?|resources) (?:\w+ ){0,2}(?:available|free|left)\b"
    r"|\bno (?:available|free) (?:\S+ ){0,2}(?:gpus?|nodes?|instances?|machines?|resources)\b"
    r"|\b(?:\d+x\w+|gpus?|nodes?|instances?|instance types?|machines?|resources) (?:\w+ ){0,3}"
    r"(?:unavailable|not available|exhausted)\b",
    re.IGNORECASE,
)
# Words about the account's money, keys and limits: another instance type does not help.
_ACCOUNT_PROBLEM = re.compile(
    r"\b(?:balance|credit|payment|quota|key|permission|unauthori[sz]ed)\b", re.IGNORECASE
)

# An invalid request, key, balance or name, or a rate limit: these statuses never mean a lack of capacity.
_NEVER_CAPACITY = frozenset({400, 401, 402, 403, 404, 405, 422, 429})


def is_capacity_error(error: TensorPoolError) -> bool:
    """Whether the engine lacks capacity for what was requested, so that another instance type may work."""
    if isinstance(error, OperationFailed):
        return reports_no_capacity(error.message)
    if isinstance(error, StatusError):
        return error.status not in _NEVER_CAPACITY and reports_no_capacity(error.message)
    return False


def reports_no_capacity(text: str) -> bool:
    """Whether a message of the engine reports a lack of capacity, and no problem of the account."""
    return bool(_NO_CAPACITY.search(text)) and not _ACCOUNT_PROBLEM.search(text)


def is_price_unavailable(error: TensorPoolError) -> bool:
    """Whether a failed quote means that this engine has no prices; the endpoint is not documented."""
    if isinstance(error, (NotFound, PermissionDenied, ValidationError, DecodeError)):
        return True
    return isinstance(error, StatusError) and (error.status in {400, 405, 410} or error.status >= 500)


def is_offer_rejected(error: TensorPoolError) -> bool:
    """Whether a failed quote means that the offer does not exist: a 422 about the instance type or the nodes."""
    if not isinstance(error, ValidationError):
        return False
    return any(
        location[-1:] in (["instance_type"], ["num_nodes"]) for location in _invalid_fields(error.body)
    )


def _invalid_fields(body: Any) -> list[list[Any]]:
    """Return the `loc` of each problem in FastAPI's 422 body whose value is invalid.

    A missing field is left out: it means that the endpoint takes other parameters, not that the value is wrong.
    """
    if not isinstance(body, dict):
        return []
    detail: Any = cast("dict[str, Any]", body).get("detail")
    problems = cast("list[Any]", detail) if isinstance(detail, list) else []
    fields = [cast("dict[str, Any]", problem) for problem in problems if isinstance(problem, dict)]
    locations = [field.get("loc") for field in fields if field.get("type") != "missing"]
    return [cast("list[Any]", location) for location in locations if isinstance(location, list)]
