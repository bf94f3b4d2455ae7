"""Storage volumes: create, read, edit, destroy, attach and detach."""

from __future__ import annotations

from typing import Any, cast

from tensorpool_async.errors import DecodeError
from tensorpool_async.journal.recorder import create_tags
from tensorpool_async.models.cluster import Quote
from tensorpool_async.models.enums import OperationKind
from tensorpool_async.models.storage import StorageVolume
from tensorpool_async.operations.executor import Found, Reconciler
from tensorpool_async.operations.operation import Operation
from tensorpool_async.operations.submission import Submission, Submitter
from tensorpool_async.protocol.decoders import as_list, as_model, as_text
from tensorpool_async.protocol.operation_specs import STORAGE
from tensorpool_async.protocol.requests import Lane, Request, path_of, query_of
from tensorpool_async.protocol.responses import Answer
from tensorpool_async.protocol.tokens import AcceptedOperation, OperationRef
from tensorpool_async.resources.clusters import ClusterLike, accepted_as, id_of, new_name
from tensorpool_async.transport import Transport


VolumeLike = StorageVolume | str
"""A volume, or its id."""


def volume_id_of(volume: VolumeLike) -> str:
    """Return the id of what is a volume or an id."""
    return volume.id if isinstance(volume, StorageVolume) else volume


class Storage:
    """Storage volumes, as `tp.storage`.

    Wherever a volume or a cluster is asked for, its id or the model itself will do. A volume is a POSIX file system
    that attaches to multi-node GPU clusters and to CPU instances, and is mounted there at `/mnt/<id of the volume>`.
    """

    def __init__(self, transport: Transport, submitter: Submitter, reconciler: Reconciler) -> None:
        self._transport = transport
        self._submitter = submitter
        self._reconciler = reconciler

    @property
    def for_exit(self) -> Storage:
        """The same, for the way out: what it sends goes ahead also where the journal cannot be written.

        See `Clusters.for_exit`.
        """
        submitter = self._submitter.for_exit()
        return Storage(self._transport, submitter, Reconciler(submitter))

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
            size_gb: Its size in GB; it can grow later, and never shrink.
            name: A name; without one it gets `tpa-` and random letters, which find it again if the answer is lost.
            deletion_protection: Whether destroying it is refused until this is switched off.
            ttl: Seconds after which `tpa reap` may destroy it, once its owner is gone; None for never. The engine knows
                nothing of this: it is in the journal.
            owned: Whether `tpa reap` may destroy it as soon as its owner is gone; it says so in the journal, if there is
                one.

        Returns:
            A submission: `await` it for the operation, or `await ….result()` for the volume that is ready.

        Raises:
            ConfigurationError: `ttl` is given, and the client has no journal; at the call.
            ValueError: The size is below 1 GB, or the name is empty; at the call.
            InsufficientBalance: The balance does not cover its first 24 hours (402).
            ConflictError: A volume has that name (409).
            AmbiguousOutcomeError: The answer was lost, and whether the volume was made could not be found out; its
                `.name` is the one to look for.
        """
        _check_size(size_gb)
        tags = create_tags(name, ephemeral=owned, ttl=ttl)
        self._submitter.recorder.check_tags(tags)
        name = new_name(name)
        body = {"size": size_gb, "name": name, "deletion_protection": deletion_protection}
        path = path_of("storage", "create")
        read_id = as_text("storage_id", path)

        def accepted(answer: Answer) -> AcceptedOperation:
            return accepted_as(answer, OperationKind.STORAGE_CREATE, read_id(answer))

        kind = OperationKind.STORAGE_CREATE
        request = Request("POST", path, accepted, json=body, lane=Lane.CHANGE, kind=kind, name=name)
        return Submission(
            f"the creation of volume {name!r}",
            lambda: self._reconciler.create(request, self.find_by_name, tags),
            name=name,
        )

    async def get(self, volume: VolumeLike) -> StorageVolume:
        """Read one volume (`GET /storage/info/{storage_id}`).

        Raises:
            NotFound: There is none, or no more.
        """
        return cast("StorageVolume", await self._transport.send(STORAGE.read(volume_id_of(volume))))

    def creation_of(self, volume: VolumeLike) -> Operation[StorageVolume]:
        """Follow the creation of a volume that was begun elsewhere, until the volume is ready.

        No endpoint tells which request makes a volume, so the volume itself is polled.
        """
        return self._submitter.follow(OperationRef(OperationKind.STORAGE_CREATE, volume_id_of(volume)))

    def edit(
        self,
        volume: VolumeLike,
        *,
        name: str | None = None,
        size_gb: int | None = None,
        deletion_protection: bool | None = None,
    ) -> Submission[StorageVolume]:
        """Rename a volume, let it grow, or switch its deletion protection (`PATCH /storage/edit/{storage_id}`).

        Args:
            volume: Which one.
            name: A new name; None leaves it.
            size_gb: A new size in GB, above the old one; None leaves it.
            deletion_protection: Whether destroying it is refused; None leaves it.

        Raises:
            ValueError: Nothing is to be changed, or the size is below 1 GB; at the call.
            StatusError: The engine refused it: the volume would shrink, or another change is in progress (409).
            NotFound: There is no such volume.
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
        volume_id = volume_id_of(volume)

        def accepted(answer: Answer) -> AcceptedOperation:
            return accepted_as(answer, OperationKind.STORAGE_EDIT, volume_id, expected)

        request = Request(
            "PATCH", path_of("storage", "edit", volume_id), accepted, json=body, lane=Lane.CHANGE
        )
        ref = OperationRef(OperationKind.STORAGE_EDIT, volume_id, expected=expected)
        return Submission(f"the edit of volume {volume_id}", lambda: self._reconciler.change(request, ref))

    def destroy(self, volume: VolumeLike) -> Submission[None]:
        """Destroy a volume (`DELETE /storage/{storage_id}`), and all data on it.

        Returns:
            A submission; its result is None, once the volume is gone.

        Raises:
            ConflictError: Deletion protection is on, it is attached, or another change is in progress (409).
            NotFound: There is no such volume.
        """
        volume_id = volume_id_of(volume)
        already_deleted = AcceptedOperation(OperationRef(OperationKind.STORAGE_DESTROY, volume_id))

        def accepted(answer: Answer) -> AcceptedOperation:
            return accepted_as(answer, OperationKind.STORAGE_DESTROY, volume_id)

        request = Request(
            "DELETE",
            path_of("storage", volume_id),
            accepted,
            lane=Lane.CHANGE,
            any_body=True,
            on_already_deleted=lambda: already_deleted,
        )
        return Submission(
            f"the destruction of volume {volume_id}",
            lambda: self._submitter.submit_delete(request, already_deleted, STORAGE),
        )

    def attach(self, volume: VolumeLike, cluster: ClusterLike) -> Submission[StorageVolume]:
        """Attach a volume to a cluster (`POST /storage/attach`).

        **This restarts every node of the cluster.**

        The engine takes a list of clusters, of which it accepts one, and may answer with several requests; all of them
        are followed.

        Args:
            volume: A volume that is READY.
            cluster: A multi-node GPU cluster, or a CPU instance.

        Raises:
            ConflictError: They do not fit, or another change is in progress (409).
            AmbiguousOutcomeError: The answer was lost.
        """
        volume_id, cluster_id = volume_id_of(volume), id_of(cluster)
        path = path_of("storage", "attach")

        def accepted(answer: Answer) -> AcceptedOperation:
            ids = answer.field("request_ids")
            if not isinstance(ids, list):
                raise DecodeError("the answer has no list request_ids", path=path)
            request_ids = tuple(str(one) for one in cast("list[Any]", ids) if one)
            expected = {"attached": cluster_id}
            ref = OperationRef(OperationKind.STORAGE_ATTACH, volume_id, request_ids, expected)
            return AcceptedOperation(ref, answer.retry_after)

        body = {"storage_id": volume_id, "cluster_ids": [cluster_id]}
        request = Request("POST", path, accepted, json=body, lane=Lane.CHANGE)
        watched = OperationRef(OperationKind.STORAGE_ATTACH, volume_id, expected={"attached": cluster_id})
        return Submission(
            f"attaching volume {volume_id} to cluster {cluster_id}",
            lambda: self._reconciler.change(request, watched),
        )

    def detach(self, volume: VolumeLike, cluster: ClusterLike) -> Submission[StorageVolume]:
        """Detach a volume from a cluster (`POST /storage/detach`).

        **This restarts every node of the cluster.**

        Raises:
            ConflictError: It is not attached there, or another change is in progress (409).
            AmbiguousOutcomeError: The answer was lost.
        """
        volume_id, cluster_id = volume_id_of(volume), id_of(cluster)

        def accepted(answer: Answer) -> AcceptedOperation:
            return accepted_as(answer, OperationKind.STORAGE_DETACH, volume_id, {"detached": cluster_id})

        body = {"storage_id": volume_id, "cluster_id": cluster_id}
        request = Request("POST", path_of("storage", "detach"), accepted, json=body, lane=Lane.CHANGE)
        watched = OperationRef(OperationKind.STORAGE_DETACH, volume_id, expected={"detached": cluster_id})
        return Submission(
            f"detaching volume {volume_id} from cluster {cluster_id}",
            lambda: self._reconciler.change(request, watched),
        )

    async def quote(self, size_gb: int) -> Quote:
        """Ask what a volume of `size_gb` GB would cost, in USD per hour (`GET /storage/quote`).

        Raises:
            ValueError: The size is below 1 GB.
        """
        _check_size(size_gb)
        path = path_of("storage", "quote")
        return await self._transport.send(
            Request("GET", path, as_model(Quote, path), query=query_of(size_gb=size_gb))
        )

    # Last of the public methods, since within the class its name hides the type from what follows.
    async def list(self, *, organization: bool = False) -> list[StorageVolume]:
        """List the volumes (`GET /storage/list`).

        Args:
            organization: List those of the organization instead of one's own.
        """
        path = path_of("storage", "list")
        decode = as_list("volumes", StorageVolume, path)
        return await self._transport.send(
            Request("GET", path, decode, query=query_of(include_org=organization))
        )

    async def find_by_name(self, name: str) -> Found | None:
        """Find the volume of a name; which request made it, no endpoint tells."""
        named = [volume for volume in await self.list() if volume.name == name]
        volume = max(named, key=lambda volume: volume.created_at or "", default=None)
        return None if volume is None else Found(volume.id, volume.created_at)


def _check_size(size_gb: int) -> None:
    if size_gb < 1:
        raise ValueError(f"size_gb is {size_gb}, and must be at least 1 GB")
