"""What each kind of operation works on, and how one sees on the resource itself that it is done.

The second part is needed where the engine names no request (`request_id` may be null), or no longer knows the one it
named: then the resource is what is polled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

import attrs

from tensorpool_async import models
from tensorpool_async.models.enums import ClusterStatus, OpenEnum, OperationKind
from tensorpool_async.models.envelope import unwrap
from tensorpool_async.protocol.requests import Lane, Request, path_of


class Sign(Enum):
    """What the state of a resource says about the operation on it."""

    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@attrs.frozen
class Resource:
    """A sort of thing that operations work on.

    Attributes:
        path: The path below which one of them is read, its id to follow.
        key: Where the answer holds it.
        model: Returns the class that it is read as, which is loaded by the first who reads one.
    """

    path: str
    key: str
    model: Callable[[], type[Any]]

    def read(self, resource_id: str, *, lane: Lane = Lane.READ) -> Request[Any]:
        """Make the request that reads one of them."""
        path = path_of(resource_id, under=self.path)

        def decode(answer: Any) -> Any:
            return unwrap(answer.body, self.key, self.model(), known_id=resource_id, path=path)

        return Request("GET", path, decode, lane=lane)


CLUSTER = Resource("/cluster/info", "cluster_info", lambda: models.Cluster)
STORAGE = Resource("/storage/info", "storage_info", lambda: models.StorageVolume)
JOB = Resource("/job/info", "job_info", lambda: models.Job)

BEGUN = "begun"
"""The expectation that says that a destruction was under way. Who sees it under way notes that, since only then does a
resource that is whole again tell that its destruction has failed; before, it may have yet to begin."""

SETTLED = frozenset({"running", "ready", "failed"})
"""The states of a resource to which nothing is being done."""

Judge = Callable[[Any, Mapping[str, Any]], Sign]


@attrs.frozen
class Kind:
    """What a kind of operation means.

    Attributes:
        resource: What it works on.
        has_result: Whether the resource, read at the end, is its result; else the result is None.
        sign: What the state of the resource says about it; the second argument is what is expected of the resource.
        done_when_gone: Whether it is done when the resource is no longer there.
        needs_expected: Whether the resource says nothing about it unless one knows what is expected.
    """

    resource: Resource
    has_result: bool
    sign: Judge
    done_when_gone: bool = False
    needs_expected: bool = False

    def can_watch(self, resource_id: str | None, expected: Mapping[str, Any]) -> bool:
        """Whether the resource, once it is polled, will say how the operation ended."""
        return bool(resource_id) and (bool(expected) or not self.needs_expected)


def by_status(**signs: Sign) -> Judge:
    """Judge by the resource's status; one that is not named, or not known, is pending."""
    by_name = {name.casefold(): sign for name, sign in signs.items()}

    def judge(model: Any, _: Mapping[str, Any]) -> Sign:
        status: OpenEnum | None = model.status
        return Sign.PENDING if status is None else by_name.get(status.value.casefold(), Sign.PENDING)

    return judge


def by_end(model: Any, expected: Mapping[str, Any]) -> Sign:
    """Judge a destruction by the resource's state: gone, or whole again after it had begun to go."""
    text = status_text(model).casefold()
    if text == "destroyed":
        return Sign.SUCCEEDED
    return Sign.FAILED if expected.get(BEGUN) and text in SETTLED else Sign.PENDING


def by_fields(model: Any, expected: Mapping[str, Any]) -> Sign:
    """Judge by whether the resource has the values that it was to be given."""
    done = all(getattr(model, name, None) == value for name, value in expected.items())
    return Sign.SUCCEEDED if done else Sign.PENDING


def by_attachment(model: Any, expected: Mapping[str, Any]) -> Sign:
    """Judge by whether the volume is attached to the cluster under `attached`, or no longer to that under `detached`."""
    attached: tuple[str, ...] = model.attached_clusters
    if "attached" in expected:
        done = expected["attached"] in attached
    else:
        done = expected.get("detached") not in attached
    return Sign.SUCCEEDED if done else Sign.PENDING


KINDS: dict[OperationKind, Kind] = {
    OperationKind.CLUSTER_CLAIM: Kind(
        CLUSTER,
        has_result=True,
        sign=by_status(
            running=Sign.SUCCEEDED, failed=Sign.FAILED, destroying=Sign.FAILED, destroyed=Sign.FAILED
        ),
    ),
    OperationKind.CLUSTER_RELEASE: Kind(CLUSTER, has_result=False, sign=by_end, done_when_gone=True),
    OperationKind.CLUSTER_EDIT: Kind(CLUSTER, has_result=True, sign=by_fields, needs_expected=True),
    OperationKind.STORAGE_CREATE: Kind(
        STORAGE,
        has_result=True,
        sign=by_status(
            ready=Sign.SUCCEEDED, failed=Sign.FAILED, destroying=Sign.FAILED, destroyed=Sign.FAILED
        ),
    ),
    OperationKind.STORAGE_DESTROY: Kind(STORAGE, has_result=False, sign=by_end, done_when_gone=True),
    OperationKind.STORAGE_EDIT: Kind(STORAGE, has_result=True, sign=by_fields, needs_expected=True),
    OperationKind.STORAGE_ATTACH: Kind(STORAGE, has_result=True, sign=by_attachment, needs_expected=True),
    OperationKind.STORAGE_DETACH: Kind(STORAGE, has_result=True, sign=by_attachment, needs_expected=True),
    # A job that ends by itself before the cancel wins ends the operation as well: its result says which it was.
    OperationKind.JOB_CANCEL: Kind(
        JOB,
        has_result=True,
        sign=by_status(
            canceled=Sign.SUCCEEDED, completed=Sign.SUCCEEDED, error=Sign.SUCCEEDED, failed=Sign.SUCCEEDED
        ),
    ),
}
"""Kinds that are not here, of an engine that is newer than this package, can be followed and have no result."""


def is_going(model: Any) -> bool:
    """Whether the state of a resource shows that it is being destroyed."""
    return status_text(model).casefold() == "destroying"


def status_text(model: Any) -> str:
    """Say in what state a resource is, for a person."""
    status: ClusterStatus | None = getattr(model, "status", None)
    return "state unknown" if status is None else str(status)
