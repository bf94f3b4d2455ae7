"""What a refusal of the engine means for a fleet: decisions over its words."""

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


# How the engine puts it is not documented, so: the words that cloud providers use for it. A text that merely speaks of
# a node that did not answer must not pass, for what it fits is destroyed and asked for again.
_LACKS = re.compile(
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
# Words about money, keys and limits of the account: another instance type does not help there.
_OTHER = re.compile(r"\b(?:balance|credit|payment|quota|key|permission|unauthori[sz]ed)\b", re.IGNORECASE)

# A client's mistake, a key, a balance, a name or a rate limit; none of them says anything about capacity.
_NEVER_CAPACITY = frozenset({400, 401, 402, 403, 404, 405, 422, 429})


def lacks_capacity(error: TensorPoolError) -> bool:
    """Whether the engine has no room for what was asked, so that another instance type may do."""
    if isinstance(error, OperationFailed):
        return says_no_capacity(error.message)
    if isinstance(error, StatusError):
        return error.status not in _NEVER_CAPACITY and says_no_capacity(error.message)
    return False


def says_no_capacity(text: str) -> bool:
    """Whether a text of the engine speaks of a lack of capacity."""
    return bool(_LACKS.search(text)) and not _OTHER.search(text)


def names_no_price(error: TensorPoolError) -> bool:
    """Whether a failed quote only means that there are no prices to be had: the endpoint is not documented."""
    if isinstance(error, (NotFound, PermissionDenied, ValidationError, DecodeError)):
        return True
    return isinstance(error, StatusError) and (error.status in {400, 405, 410} or error.status >= 500)


def refuses_offer(error: TensorPoolError) -> bool:
    """Whether a failed quote means that the engine does not rent out such a thing: 422 about type or nodes."""
    if not isinstance(error, ValidationError):
        return False
    return any(place[-1:] in (["instance_type"], ["num_nodes"]) for place in _places(error.body))


def _places(body: Any) -> list[list[Any]]:
    """Return what FastAPI's problems are about; a problem with a missing field is the endpoint's, not the value's."""
    if not isinstance(body, dict):
        return []
    detail: Any = cast("dict[str, Any]", body).get("detail")
    problems = cast("list[Any]", detail) if isinstance(detail, list) else []
    fields = [cast("dict[str, Any]", problem) for problem in problems if isinstance(problem, dict)]
    places = [field.get("loc") for field in fields if field.get("type") != "missing"]
    return [cast("list[Any]", place) for place in places if isinstance(place, list)]
