"""The changes of a cluster that more than one room of the resources makes."""

from __future__ import annotations

from tensorpool_async.models.enums import OperationKind
from tensorpool_async.operations.executor import Change
from tensorpool_async.protocol.decoders import as_accepted
from tensorpool_async.protocol.requests import Request
from tensorpool_async.protocol.tokens import OperationRef


def cluster_edit(
    cluster_id: str, *, name: str | None = None, deletion_protection: bool | None = None
) -> Change:
    """Return the change that renames a cluster, or switches its deletion protection (`PATCH /cluster/edit/{cluster}`).

    Raises:
        ValueError: Nothing is to be changed.
    """
    fields = {"name": name, "deletion_protection": deletion_protection}
    expected = {field: value for field, value in fields.items() if value is not None}
    if not expected:
        raise ValueError("nothing to change: pass name= or deletion_protection=")
    # The field of the name is called otherwise on create and in answers (API notes, conflict 5).
    body = {("cluster_name" if field == "name" else field): value for field, value in expected.items()}
    decode = as_accepted(OperationKind.CLUSTER_EDIT, cluster_id, expected)
    request = Request("PATCH", "/cluster/edit/{id}", decode, key=cluster_id, json=body)
    return Change(request, OperationRef(OperationKind.CLUSTER_EDIT, cluster_id, expected=expected))


def cluster_deletion(cluster_id: str) -> Change:
    """Return the change that destroys a cluster (`DELETE /cluster/{cluster}`)."""
    decode = as_accepted(OperationKind.CLUSTER_RELEASE, cluster_id)
    request = Request("DELETE", "/cluster/{id}", decode, key=cluster_id)
    return Change(request, OperationRef(OperationKind.CLUSTER_RELEASE, cluster_id))
