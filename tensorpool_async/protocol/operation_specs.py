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


class Outcome(Enum):
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

DELETE_STARTED = "begun"
"""The expectation that says that a destruction was under way. Who sees it under way notes that, since only then does a
resource that is whole again tell that its destruction has failed; before, it may have yet to begin."""

SETTLED = frozenset({"running", "ready", "failed"})
"""The states of a resource to which nothing is being done."""

OutcomeCheck = Callable[[Any, Mapping[str, Any]], Outcome]


@attrs.frozen
class OperationSpec:
    """What a kind of operation means.

    Attributes:
        resource: What it works on.
        has_result: Whether the resource, read at the end, is its result; else the result is None.
        outcome: What the state of the resource says about it; the second argument is what is expected of the resource.
        done_when_gone: Whether it is done when the resource is no longer there.
        needs_expected: Whether the resource says nothing about it unless one knows what is expected.
    """

    resource: Resource
    has_result: bool
    outcome: OutcomeCheck
    done_when_gone: bool = False
    needs_expected: bool = False

    def can_watch(self, resource_id: str | None, expected: Mapping[str, Any]) -> bool:
        """Whether the resource, once it is polled, will say how the operation ended."""
        return bool(resource_id) and (bool(expected) or not self.needs_expected)


def by_status(**outcomes: Outcome) -> OutcomeCheck:
    """Judge by the resource's status; one that is not named, or not known, is pending."""
    by_name = {name.casefold(): outcome for name, outcome in outcomes.items()}

    def check(model: Any, _: Mapping[str, Any]) -> Outcome:
        status: OpenEnum | None = model.status
        return Outcome.PENDING if status is None else by_name.get(status.value.casefold(), Outcome.PENDING)

    return check


def by_end(model: Any, expected: Mapping[str, Any]) -> Outcome:
    """Judge a destruction by the resource's state: gone, or whole again after it had begun to go."""
    text = status_text(model).casefold()
    if text == "destroyed":
        return Outcome.SUCCEEDED
    return Outcome.FAILED if expected.get(DELETE_STARTED) and text in SETTLED else Outcome.PENDING


def by_fields(model: Any, expected: Mapping[str, Any]) -> Outcome:
    """Judge by whether the resource has the values that it was to be given."""
    done = all(getattr(model, name, None) == value for name, value in expected.items())
    return Outcome.SUCCEEDED if done else Outcome.PENDING


def by_attachment(model: Any, expected: Mapping[str, Any]) -> Outcome:
    """Judge by whether the volume is attached to the cluster under `attached`, or no longer to that under `detached`."""
    attached: tuple[str, ...] = model.attached_clusters
    if "attached" in expected:
        done = expected["attached"] in attached
    else:
        done = expected.get("detached") not in attached
    return Outcome.SUCCEEDED if done else Outcome.PENDING


OPERATION_SPECS: dict[OperationKind, OperationSpec] = {
    OperationKind.CLUSTER_CLAIM: OperationSpec(
        CLUSTER,
        has_result=True,
        outcome=by_status(
            running=Outcome.SUCCEEDED,
            failed=Outcome.FAILED,
            destroying=Outcome.FAILED,
            destroyed=Outcome.FAILED,
        ),
    ),
    OperationKind.CLUSTER_RELEASE: OperationSpec(
        CLUSTER, has_result=False, outcome=by_end, done_when_gone=True
    ),
    OperationKind.CLUSTER_EDIT: OperationSpec(
        CLUSTER, has_result=True, outcome=by_fields, needs_expected=True
    ),
    OperationKind.STORAGE_CREATE: OperationSpec(
        STORAGE,
        has_result=True,
        outcome=by_status(
            ready=Outcome.SUCCEEDED,
            failed=Outcome.FAILED,
            destroying=Outcome.FAILED,
            destroyed=Outcome.FAILED,
        ),
    ),
    OperationKind.STORAGE_DESTROY: OperationSpec(
        STORAGE, has_result=False, outcome=by_end, done_when_gone=True
    ),
    OperationKind.STORAGE_EDIT: OperationSpec(
        STORAGE, has_result=True, outcome=by_fields, needs_expected=True
    ),
    OperationKind.STORAGE_ATTACH: OperationSpec(
        STORAGE, has_result=True, outcome=by_attachment, needs_expected=True
    ),
    OperationKind.STORAGE_DETACH: OperationSpec(
        STORAGE, has_result=True, outcome=by_attachment, needs_expected=True
    ),
    # A job that ends by itself before the cancel wins ends the operation as well: its result says which it was.
    OperationKind.JOB_CANCEL: OperationSpec(
        JOB,
        has_result=True,
        outcome=by_status(
            canceled=Outcome.SUCCEEDED,
            completed=Outcome.SUCCEEDED,
            error=Outcome.SUCCEEDED,
            failed=Outcome.SUCCEEDED,
        ),
    ),
}
"""Kinds that are not here, of an engine that is newer than this package, can be followed and have no result."""


def is_deleting(model: Any) -> bool:
    """Whether the state of a resource shows that it is being destroyed."""
    return status_text(model).casefold() == "destroying"


def status_text(model: Any) -> str:
    """Say in what state a resource is, for a person."""
    status: ClusterStatus | None = getattr(model, "status", None)
    return "state unknown" if status is None else str(status)
