"""Storage volumes: create, read, edit, destroy, attach and detach."""

from __future__ import annotations

from typing import Any, cast

import attrs

from tensorpool_async.errors import DecodeError
from tensorpool_async.journal.recorder import create_tags
from tensorpool_async.models.cluster import Quote
from tensorpool_async.models.enums import OperationKind
from tensorpool_async.models.storage import StorageVolume
from tensorpool_async.operations.executor import Change, Executor
from tensorpool_async.operations.operation import Operation
from tensorpool_async.operations.submission import Submission
from tensorpool_async.protocol.decoders import as_accepted, as_model, request_ids_of
from tensorpool_async.protocol.operation_specs import STORAGE
from tensorpool_async.protocol.requests import Request, query_of
from tensorpool_async.protocol.responses import Answer
from tensorpool_async.protocol.tokens import AcceptedOperation, OperationRef
from tensorpool_async.resources.arguments import ClusterLike, VolumeLike, id_of, new_name
from tensorpool_async.transport.attempts import Transport


_as_creation = as_accepted(OperationKind.STORAGE_CREATE, id_field="storage_id")


class Storage:
    """Storage volumes, as `tp.storage`.

    Every method that takes a volume or a cluster accepts its id or the model. A volume is a POSIX file system that can
    be attached to multi-node GPU clusters and CPU instances, where it is mounted at `/mnt/<id of the volume>`.
    """

    def __init__(self, transport: Transport, executor: Executor) -> None:
        self._transport = transport
        self._executor = executor

    @property
    def for_exit(self) -> Storage:
        """The same methods for cleanup code: a change is sent even if the journal cannot be written.

        See `Clusters.for_exit`.
        """
        return Storage(self._transport, self._executor.for_exit())

    def create(
        self,
        size_gb: int,
        *,
        name: str | None = None,
        deletion_protection: bool = False,
        ttl: float | None = None,
        owned: bool = False,
    ) -> Submission[StorageVolume]:
        """Create a volume (`POST /storage/create`). It costs money until it is destroyed.

        Args:
            size_gb: The size in GB. A volume can grow later but not shrink.
            name: A name. The default is `tpa-` and random letters. After a lost response, the client finds the volume by
                its name.
            deletion_protection: Whether the engine refuses to destroy the volume until this is switched off.
            ttl: Seconds after which `tpa reap` may destroy the volume, once the process that made it has ended; None for
                never. It is stored in the journal, not at the engine.
            owned: Whether `tpa reap` may destroy the volume as soon as the process that made it has ended. It is stored
                in the journal, if there is one.

        Returns:
            A submission: `await` it for the operation, or `await ….result()` for the ready volume.

        Raises:
            ConfigurationError: `ttl` is given and the client has no journal. Raised by the call itself.
            ValueError: The size is below 1 GB, or the name is empty. Raised by the call itself.
            InsufficientBalance: The balance does not cover the first 24 hours (402).
            ConflictError: A volume has that name (409).
            AmbiguousOutcomeError: The response was lost, and the client could not find out whether the volume was made.
                `.name` is the name to look for.
        """
        _check_size(size_gb)
        tags = create_tags(name, ephemeral=owned, ttl=ttl)
        self._executor.recorder.check_tags(tags)
        name = new_name(name)
        body = {"size": size_gb, "name": name, "deletion_protection": deletion_protection}
        request = Request("POST", "/storage/create", _as_creation, json=body, name=name)
        change = Change(request, OperationRef(OperationKind.STORAGE_CREATE), tags)
        return Submission(f"the creation of volume {name!r}", self._executor.execute, change)

    async def get(self, volume: VolumeLike) -> StorageVolume:
        """Read a volume (`GET /storage/info/{storage_id}`).

        Raises:
            NotFound: The volume does not exist, or no longer exists.
        """
        return cast("StorageVolume", await self._transport.send(STORAGE.read(id_of(volume))))

    def creation_of(self, volume: VolumeLike) -> Operation[StorageVolume]:
        """Return the operation of a creation that was started elsewhere. It ends when the volume is ready.

        No endpoint names the request that makes a volume, so the volume itself is polled.
        """
        return self._executor.poll(OperationRef(OperationKind.STORAGE_CREATE, id_of(volume)))

    def edit(
        self,
        volume: VolumeLike,
        *,
        name: str | None = None,
        size_gb: int | None = None,
        deletion_protection: bool | None = None,
    ) -> Submission[StorageVolume]:
        """Rename or enlarge a volume, or switch its deletion protection (`PATCH /storage/edit/{storage_id}`).

        Args:
            volume: The volume.
            name: A new name; None keeps the old one.
            size_gb: A new size in GB, larger than the old one; None keeps the old one.
            deletion_protection: Whether the engine refuses to destroy the volume; None keeps the setting.

        Raises:
            ValueError: None of them is given, or the size is below 1 GB. Raised by the call itself.
            StatusError: The engine refused the request: the volume would shrink, or another change is in progress (409).
            NotFound: The volume does not exist.
        """
        if size_gb is not None:
            _check_size(size_gb)
        fields: dict[str, Any] = {
            "name": name,
            "size_gb": size_gb,
            "deletion_protection": deletion_protection,
        }
        expected = {field: value for field, value in fields.items() if value is not None}
        if not expected:
            raise ValueError("nothing to change: pass name=, size_gb= or deletion_protection=")
        body = {("tp_storage_name" if field == "name" else field): value for field, value in expected.items()}
        volume_id = id_of(volume)
        decode = as_accepted(OperationKind.STORAGE_EDIT, volume_id, expected)
        request = Request("PATCH", "/storage/edit/{id}", decode, key=volume_id, json=body)
        ref = OperationRef(OperationKind.STORAGE_EDIT, volume_id, expected=expected)
        return Submission(f"the edit of volume {volume_id}", self._executor.execute, Change(request, ref))

    def destroy(self, volume: VolumeLike) -> Submission[None]:
        """Destroy a volume (`DELETE /storage/{storage_id}`), including all data on it.

        Returns:
            A submission. Its result is None, once the volume no longer exists.

        Raises:
            ConflictError: Deletion protection is on, the volume is attached, or another change is in progress (409).
            NotFound: The volume does not exist.
        """
        volume_id = id_of(volume)
        decode = as_accepted(OperationKind.STORAGE_DESTROY, volume_id)
        request = Request("DELETE", "/storage/{id}", decode, key=volume_id)
        change = Change(request, OperationRef(OperationKind.STORAGE_DESTROY, volume_id))
        return Submission(f"the destruction of volume {volume_id}", self._executor.execute, change)

    def attach(self, volume: VolumeLike, cluster: ClusterLike) -> Submission[StorageVolume]:
        """Attach a volume to a cluster (`POST /storage/attach`).

        **This restarts every node of the cluster.**

        The engine takes a list of exactly one cluster and may answer with several request ids. The operation polls all
        of them.

        Args:
            volume: A volume that is READY.
            cluster: A multi-node GPU cluster, or a CPU instance.

        Raises:
            ConflictError: The volume does not fit the cluster, or another change is in progress (409).
            AmbiguousOutcomeError: The response was lost, and the volume does not show the change.
        """
        volume_id, cluster_id = id_of(volume), id_of(cluster)
        ref = OperationRef(OperationKind.STORAGE_ATTACH, volume_id, expected={"attached": cluster_id})

        def decode(answer: Answer) -> AcceptedOperation:
            ids = answer.field("request_ids")
            if not isinstance(ids, list):
                raise DecodeError("the answer has no list request_ids", path=answer.path)
            request_ids = request_ids_of(cast("list[Any]", ids))
            return AcceptedOperation(attrs.evolve(ref, request_ids=request_ids), answer.retry_after)

        body = {"storage_id": volume_id, "cluster_ids": [cluster_id]}
        change = Change(Request("POST", "/storage/attach", decode, json=body), ref)
        what = f"attaching volume {volume_id} to cluster {cluster_id}"
        return Submission(what, self._executor.execute, change)

    def detach(self, volume: VolumeLike, cluster: ClusterLike) -> Submission[StorageVolume]:
        """Detach a volume from a cluster (`POST /storage/detach`).

        **This restarts every node of the cluster.**

        Raises:
            ConflictError: The volume is not attached to the cluster, or another change is in progress (409).
            AmbiguousOutcomeError: The response was lost, and the volume does not show the change.
        """
        volume_id, cluster_id = id_of(volume), id_of(cluster)
        expected = {"detached": cluster_id}
        decode = as_accepted(OperationKind.STORAGE_DETACH, volume_id, expected)
        body = {"storage_id": volume_id, "cluster_id": cluster_id}
        ref = OperationRef(OperationKind.STORAGE_DETACH, volume_id, expected=expected)
        change = Change(Request("POST", "/storage/detach", decode, json=body), ref)
        what = f"detaching volume {volume_id} from cluster {cluster_id}"
        return Submission(what, self._executor.execute, change)

    async def quote(self, size_gb: int) -> Quote:
        """Return the price of a volume of `size_gb` GB, in USD per hour (`GET /storage/quote`).

        Raises:
            ValueError: The size is below 1 GB.
        """
        _check_size(size_gb)
        request = Request("GET", "/storage/quote", as_model(Quote), query=query_of(size_gb=size_gb))
        return await self._transport.send(request)

    # The last method of the class, since its name hides the builtin `list` from annotations that follow.
    async def list(self, *, organization: bool = False) -> list[StorageVolume]:
        """List the volumes (`GET /storage/list`).

        Args:
            organization: Whether to list the volumes of the organization instead of the user's.
        """
        return await self._executor.lookup.all(STORAGE, organization=organization)


def _check_size(size_gb: int) -> None:
    if size_gb < 1:
        raise ValueError(f"size_gb is {size_gb}, and must be at least 1 GB")
