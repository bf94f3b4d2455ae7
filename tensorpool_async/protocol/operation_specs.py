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
from tensorpool_async.models.envelope import unwrap, unwrap_list
from tensorpool_async.protocol.requests import Request
from tensorpool_async.protocol.responses import Answer


class Outcome(Enum):
    """The outcome of an operation, as the state of its resource shows it."""

    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@attrs.frozen(kw_only=True)
class ResourceSpec:
    """The routes and the model of a kind of resource.

    Attributes:
        info: The route that reads one resource.
        info_key: The key of the resource in that response.
        list: The route that lists the resources.
        list_key: The key of the list in that response.
        model: Returns the model class, which is imported at its first use.
        info_takes_name: Whether the engine may accept a name in place of the id (known from a third party only).
        operations: The route that lists the requests about one resource; None where there is none.
    """

    info: str
    info_key: str
    list: str
    list_key: str
    model: Callable[[], type[Any]]
    info_takes_name: bool = False
    operations: str | None = None

    def read(self, key: str) -> Request[Any]:
        """Return the request that reads one resource by its id or, where the engine accepts one, its name."""

        def decode(answer: Answer) -> Any:
            return unwrap(answer.body, self.info_key, self.model(), known_id=key, path=answer.path)

        return Request("GET", self.info, decode, key=key)

    def read_all(self, query: Mapping[str, str]) -> Request[Any]:
        """Return the request that lists the resources."""

        def decode(answer: Answer) -> Any:
            return unwrap_list(answer.body, self.list_key, self.model(), path=answer.path)

        return Request("GET", self.list, decode, query=query)


CLUSTER = ResourceSpec(
    info="/cluster/info/{id}",
    info_key="cluster_info",
    list="/cluster/list",
    list_key="clusters",
    model=lambda: models.Cluster,
    info_takes_name=True,
    operations="/cluster/operations/{id}",
)
STORAGE = ResourceSpec(
    info="/storage/info/{id}",
    info_key="storage_info",
    list="/storage/list",
    list_key="volumes",
    model=lambda: models.StorageVolume,
)
JOB = ResourceSpec(
    info="/job/info/{id}",
    info_key="job_info",
    list="/job/list",
    list_key="jobs",
    model=lambda: models.Job,
)

DELETE_STARTED = "begun"
"""The key of `expected` that records that the resource was seen DESTROYING. A settled state after that means that the
deletion has failed; without it, the deletion may not have started yet."""

SETTLED = frozenset({"running", "ready", "failed"})
"""The states of a resource without a change in progress."""

OutcomeCheck = Callable[[Any, Mapping[str, Any]], Outcome]


@attrs.frozen
class OperationSpec:
    """The properties of a kind of operation.

    Attributes:
        resource: The kind of resource that it changes.
        has_result: Whether the resource, read at the end, is the result; otherwise the result is None.
        outcome: Returns the outcome for the state of the resource. Its second argument holds the expected values.
        creates: Whether it creates a resource, which can be found by its name.
        done_when_gone: Whether it has succeeded when the resource does not exist.
        needs_expected: Whether `outcome` needs the expected values.
    """

    resource: ResourceSpec
    has_result: bool
    outcome: OutcomeCheck
    creates: bool = False
    done_when_gone: bool = False
    needs_expected: bool = False

    def can_watch(self, resource_id: str | None, expected: Mapping[str, Any]) -> bool:
        """Whether polls of the resource can show the outcome of the operation."""
        return bool(resource_id) and (bool(expected) or not self.needs_expected)


def by_status(**outcomes: Outcome) -> OutcomeCheck:
    """Return a check of the resource's status; a status that is not named counts as pending."""
    by_name = {name.casefold(): outcome for name, outcome in outcomes.items()}

    def check(model: Any, _: Mapping[str, Any]) -> Outcome:
        status: OpenEnum | None = model.status
        return Outcome.PENDING if status is None else by_name.get(status.value.casefold(), Outcome.PENDING)

    return check


def by_end(model: Any, expected: Mapping[str, Any]) -> Outcome:
    """Check a deletion: it has failed if the resource is back in a settled state after DESTROYING."""
    text = status_text(model).casefold()
    if text == "destroyed":
        return Outcome.SUCCEEDED
    return Outcome.FAILED if expected.get(DELETE_STARTED) and text in SETTLED else Outcome.PENDING


def by_fields(model: Any, expected: Mapping[str, Any]) -> Outcome:
    """Check whether the resource has the expected values."""
    done = all(getattr(model, name, None) == value for name, value in expected.items())
    return Outcome.SUCCEEDED if done else Outcome.PENDING


def by_attachment(model: Any, expected: Mapping[str, Any]) -> Outcome:
    """Check whether the volume is attached to the cluster `attached`, or no longer attached to the cluster `detached`."""
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
        creates=True,
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
        creates=True,
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
    # A job that ends before it is canceled ends the operation too; `Job.canceled` tells the two cases apart.
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
"""The known kinds. An operation of an unknown kind, from a newer engine, can be polled by its request and has no result."""


def is_deleting(model: Any) -> bool:
    """Whether a resource is DESTROYING."""
    return status_text(model).casefold() == "destroying"


def status_text(model: Any) -> str:
    """Return the status of a resource as text."""
    status: ClusterStatus | None = getattr(model, "status", None)
    return "state unknown" if status is None else str(status)
