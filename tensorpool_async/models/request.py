"""The state of an asynchronous request."""

from __future__ import annotations

from typing import Any

import attrs

from tensorpool_async.models.enums import OperationKind, RequestStatus


@attrs.frozen
class RequestInfo:
    """What the engine says about one request (`GET /request/info/{request_id}`).

    Attributes:
        request_id: The request's id; None where the engine gave none and the resource itself is followed.
        request_type: What the request does.
        status: Where it stands.
        created_at: When the engine took it, as ISO 8601 text, as sent; empty where it is not known.
        object_id: The id of the cluster or the volume that the request is about.
        external_message: Progress, or the reason of a failure, as a text for a person.
        extra: Fields of the answer that this package does not know.
    """

    request_id: str | None
    request_type: OperationKind
    status: RequestStatus
    created_at: str = ""
    object_id: str | None = None
    external_message: str | None = None
    extra: dict[str, Any] = attrs.field(factory=dict[str, Any], kw_only=True, hash=False)
