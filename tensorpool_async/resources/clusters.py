"""Clusters: create, read, edit, destroy, and what they would cost."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterable
from typing import Any

import attrs

from tensorpool_async.errors import ConflictError, DecodeError, NotFound, StatusError
from tensorpool_async.journal.recorder import CreateTags, create_tags
from tensorpool_async.models.cluster import Cluster, Quote
from tensorpool_async.models.enums import ClusterStatus, OperationKind, RequestStatus
from tensorpool_async.models.request import RequestInfo
from tensorpool_async.operations.executor import Found, Reconciler
from tensorpool_async.operations.submission import Submission, Submitter
from tensorpool_async.protocol.decoders import as_list, as_model, as_text
from tensorpool_async.protocol.operation_specs import CLUSTER
from tensorpool_async.protocol.public_keys import checked_public_key
from tensorpool_async.protocol.requests import Lane, Request, path_of, query_of
from tensorpool_async.protocol.responses import Answer
from tensorpool_async.protocol.tokens import AcceptedOperation, OperationRef
from tensorpool_async.resources.deletion import Lifecycle
from tensorpool_async.resources.ephemeral import CLEANUP_TIMEOUT, Ephemeral
from tensorpool_async.transport import Transport


NAME_PREFIX = "tpa-"
NAME_LETTERS = "abcdefghijkmnpqrstuvwxyz23456789"  # without those that look like others
ID_PREFIX = "c-"

CREATE = path_of("cluster", "create")

_read_id = as_text("cluster_id", CREATE)

ClusterLike = Cluster | str
"""A cluster, or its id."""


def new_name(name: str | None) -> str:
    """Return the name that a new resource gets: the one asked for, or one of its own.

    Raises:
        ValueError: The name is empty.
    """
    if name is None:
        return NAME_PREFIX + "".join(secrets.choice(NAME_LETTERS) for _ in range(12))
    if not name.strip():
        raise ValueError("the name is empty")
    return name


@attrs.define(kw_only=True)  # and not frozen, which doubles what making one costs
class ClusterOptions:
    """What a cluster is asked for with; see `Clusters.create`."""

    instance_type: str
    name: str | None
    num_nodes: int
    public_keys: Iterable[str]
    container: str | None
    deletion_protection: bool
    save_keys: bool


def creation_of(options: ClusterOptions) -> Request[AcceptedOperation]:
    """Make the request that creates a cluster.

    Raises:
        ValueError: An option cannot be right.
    """
    if not options.instance_type:
        raise ValueError("the instance type is empty")
    if options.num_nodes < 1:
        raise ValueError(f"num_nodes is {options.num_nodes}, and must be at least 1")
    if isinstance(options.public_keys, str):
        raise TypeError("public_keys takes a list of keys, not one text")
    name = new_name(options.name)
    keys = [checked_public_key(key) for key in options.public_keys]
    body: dict[str, Any] = {
        "instance_type": options.instance_type,
        "num_nodes": options.num_nodes,
        "tp_cluster_name": name,
        "deletion_protection": options.deletion_protection,
        "save_keys": options.save_keys,
    }
    if keys:
        body["public_keys"] = keys
    if options.container is not None:
        body["container"] = options.container
    kind = OperationKind.CLUSTER_CLAIM
    return Request("POST", CREATE, _read_creation, json=body, lane=Lane.CHANGE, kind=kind, name=name)


def _read_creation(answer: Answer) -> AcceptedOperation:
    return accepted_as(answer, OperationKind.CLUSTER_CLAIM, _read_id(answer))


def id_of(cluster: ClusterLike) -> str:
    """Return the id of what is a cluster or an id."""
    return cluster.id if isinstance(cluster, Cluster) else cluster


class Clusters:
    """Clusters of GPUs, as `tp.clusters`.

    Wherever a cluster is asked for, its id or the model itself will do.
    """

    def __init__(self, transport: Transport, submitter: Submitter, reconciler: Reconciler) -> None:
        self._transport = transport
        self._submitter = submitter
        self._reconciler = reconciler

    @property
    def for_exit(self) -> Clusters:
        """The same, for the way out: what it sends goes ahead also where the journal cannot be written.

        Everything else raises `JournalError` then, before anything is sent. Here the journal has 2 seconds; after that a
        change is sent without an entry, which the log tells at ERROR. It is meant for `destroy`, and for what has to be
        edited before it::

            cluster = await tp.clusters.create("1xH100").result()
            try:
                ...
            finally:
                await tp.clusters.for_exit.destroy(cluster).result()
        """
        submitter = self._submitter.for_exit()
        return Clusters(self._transport, submitter, Reconciler(submitter))

    @property
    def lifecycle(self) -> Lifecycle:
        """Creations that others began, and ends of what is in the middle of something."""
        return Lifecycle(
            self, self._submitter
        )  # made anew: kept, it would be a cycle that only the collector ends

    def create(
        self,
        instance_type: str,
        *,
        name: str | None = None,
        num_nodes: int = 1,
        public_keys: Iterable[str] = (),
        container: str | None = None,
        deletion_protection: bool = False,
        save_keys: bool = True,
        ttl: float | None = None,
        owned: bool = False,
    ) -> Submission[Cluster]:
        """Create a cluster (`POST /cluster/create`). It costs money from the moment the engine accepts it.

        Args:
            instance_type: The GPUs of one node, such as `1xH100` or `8xB200`; the engine knows which there are.
            name: A name, unique among the living clusters of the user or organization. Without one it gets `tpa-` and
                random letters, since the name is what finds a cluster again whose answer was lost.
            num_nodes: How many nodes.
            public_keys: SSH public keys in OpenSSH's form, besides those that user and organization have saved.
            container: A container image in place of the default one.
            deletion_protection: Whether destroying it is refused until this is switched off. It does not stop the cost.
            save_keys: Whether the engine keeps new public keys in the user's profile.
            ttl: Seconds after which `tpa reap` may destroy it, once its owner is gone; None for never. The engine knows
                nothing of this: it is in the journal.
            owned: Whether `tpa reap` may destroy it as soon as its owner is gone, as for an ephemeral one; it says so in the
                journal, if there is one.

        Returns:
            A submission: `await` it for the operation, or `await ….result()` for the running `Cluster`.

        Raises:
            ConfigurationError: `ttl` is given, and the client has no journal; at the call.
            ValueError: The instance type or the name is empty, `num_nodes` is below 1, or a private key stands among
                the public ones; at the call, before anything is sent.
            ValidationError: The engine does not know the instance type, or not with so many nodes (422).
            InsufficientBalance: The balance does not cover it (402).
            ConflictError: A living cluster has that name (409).
            AmbiguousOutcomeError: The answer was lost, and whether the cluster was made could not be found out; its
                `.name` is the one to look for. This is rare: an answer that was lost is looked for by the name, and
                the cluster that this call made is adopted.
            OperationFailed: The engine accepted it and failed later, for lack of capacity for example. The failed
                cluster keeps its name until it is destroyed.
        """
        tags = create_tags(name, ephemeral=owned, ttl=ttl)
        self._submitter.recorder.check_tags(tags)
        request = creation_of(
            ClusterOptions(
                instance_type=instance_type,
                name=name,
                num_nodes=num_nodes,
                public_keys=public_keys,
                container=container,
                deletion_protection=deletion_protection,
                save_keys=save_keys,
            )
        )
        return Submission(
            f"the creation of cluster {request.name!r}",
            lambda: self._reconciler.create(request, self.find_by_name, tags),
            name=request.name,
        )

    def ensure(
        self,
        name: str,
        instance_type: str,
        *,
        num_nodes: int = 1,
        public_keys: Iterable[str] = (),
        container: str | None = None,
        deletion_protection: bool = False,
        save_keys: bool = True,
        ttl: float | None = None,
    ) -> Submission[Cluster]:
        """Join the cluster of a name, running or on its way, or create it (`POST /cluster/create`).

        Any number of callers, in any number of processes, that ask for one name at the same time end with one cluster.
        One that is being destroyed is waited for, and then made anew. Nothing is ever destroyed.

        Args:
            name: The name.
            instance_type: The GPUs of one node; what is there must have the same.
            num_nodes: How many nodes; what is there must have as many.
            public_keys: As for `create`, like all that follow; they matter only if it is created.
            container: A container image.
            deletion_protection: Whether destroying it is refused.
            save_keys: Whether the engine keeps new public keys.
            ttl: Seconds after which `tpa reap` may destroy it. Of a cluster that is there already it changes nothing.

        Returns:
            A submission, as of `create`. The operation of a cluster that runs already ends with its first poll.

        Raises:
            ConfigurationError: `ttl` is given, and the client has no journal; at the call.
            ValueError: As for `create`; at the call.
            ConflictError: The cluster that is there has another instance type or number of nodes (409).
            OperationFailed: The creation failed, or that of the cluster which is there had failed. It keeps its name until
                it is destroyed.
            StatusError: The engine refused it, as for `create`.
        """
        tags = CreateTags(ttl=ttl)
        self._submitter.recorder.check_tags(tags)
        request = creation_of(
            ClusterOptions(
                instance_type=instance_type,
                name=name,
                num_nodes=num_nodes,
                public_keys=public_keys,
                container=container,
                deletion_protection=deletion_protection,
                save_keys=save_keys,
            )
        )

        async def join() -> AcceptedOperation | None:
            return await self._join(name, instance_type, num_nodes)

        return Submission(
            f"ensuring cluster {name!r}", lambda: self._reconciler.ensure(request, join, tags), name=name
        )

    def ephemeral(
        self,
        instance_type: str,
        *,
        name: str | None = None,
        num_nodes: int = 1,
        public_keys: Iterable[str] = (),
        container: str | None = None,
        deletion_protection: bool = False,
        save_keys: bool = True,
        ttl: float | None = None,
        cleanup_timeout: float = CLEANUP_TIMEOUT,
    ) -> Ephemeral:
        """Create a cluster for the body of an `async with`, and destroy it on the way out.

        ::

            async with tp.clusters.ephemeral("8xH100") as cluster:
                ...

        It is destroyed when the body ends, raises or is cancelled, and also where that happens while it is still being
        created: then the end of its creation is waited for first, since an engine may finish what it was told to destroy
        in the middle. The way out is not interrupted by further cancellations (Ctrl-C too); only the end of the event
        loop does that (a second Ctrl-C), and what is left then is logged with its price and the command that destroys
        it. SIGTERM does the same as Ctrl-C for a client with `handle_sigterm=True`, and else ends the process at once.
        With a journal, `tpa reap` destroys what a killed process has left. A journal that cannot be written keeps the
        cluster from being created, and never from being destroyed.

        Args:
            instance_type: As for `create`, like all that follow.
            name: A name; without one it gets a random one.
            num_nodes: How many nodes.
            public_keys: SSH public keys.
            container: A container image.
            deletion_protection: Whether others cannot destroy it; it is switched off on the way out.
            save_keys: Whether the engine keeps new public keys.
            ttl: Seconds after which `tpa reap` may destroy it, besides once its owner is gone.
            cleanup_timeout: Seconds that the way out may take.

        Raises:
            TensorPoolError: On the way in, as for `create` and its operation. On the way out, if it could not be
                destroyed; where the body raised, its error gets a note of that instead.
        """
        tags = create_tags(name, ephemeral=True, ttl=ttl)
        self._submitter.recorder.check_tags(tags)
        request = creation_of(
            ClusterOptions(
                instance_type=instance_type,
                name=name,
                num_nodes=num_nodes,
                public_keys=public_keys,
                container=container,
                deletion_protection=deletion_protection,
                save_keys=save_keys,
            )
        )
        return Ephemeral(
            self,
            request,
            lambda request, send_cancelled: self._reconciler.create(
                request, self.find_by_name, tags, send_cancelled
            ),
            timeout=cleanup_timeout,
        )

    async def get(self, cluster: ClusterLike) -> Cluster:
        """Read one cluster by its id or name (`GET /cluster/info/{cluster}`).

        Raises:
            NotFound: There is none, or no more.
        """
        key = id_of(cluster)
        return await (self._read(key) if key.startswith(ID_PREFIX) else self._named(key))

    def edit(
        self, cluster: ClusterLike, *, name: str | None = None, deletion_protection: bool | None = None
    ) -> Submission[Cluster]:
        """Rename a cluster, or switch its deletion protection (`PATCH /cluster/edit/{cluster}`).

        Args:
            cluster: Which one.
            name: A new name, unique among the living clusters of the user or organization; None leaves it.
            deletion_protection: Whether destroying it is refused; None leaves it.

        Raises:
            ValueError: Nothing is to be changed; at the call.
            ConflictError: The name is taken, or another change is in progress (409).
            NotFound: There is no such cluster.
            AmbiguousOutcomeError: The answer was lost.
        """
        wire = {"cluster_name": name, "deletion_protection": deletion_protection}
        body = {field: value for field, value in wire.items() if value is not None}
        if not body:
            raise ValueError("nothing to change: pass name= or deletion_protection=")
        cluster_id = id_of(cluster)
        fields = {"name": name, "deletion_protection": deletion_protection}
        expected = {field: value for field, value in fields.items() if value is not None}

        def accepted(answer: Answer) -> AcceptedOperation:
            return accepted_as(answer, OperationKind.CLUSTER_EDIT, cluster_id, expected)

        request = Request(
            "PATCH", path_of("cluster", "edit", cluster_id), accepted, json=body, lane=Lane.CHANGE
        )
        watched = OperationRef(OperationKind.CLUSTER_EDIT, cluster_id, expected=expected)
        return Submission(
            f"the edit of cluster {cluster_id}", lambda: self._reconciler.change(request, watched)
        )

    def destroy(self, cluster: ClusterLike) -> Submission[None]:
        """Destroy a cluster (`DELETE /cluster/{cluster}`), and with it everything on its own disks.

        Returns:
            A submission; its result is None, once the cluster is gone.

        Raises:
            ConflictError: Deletion protection is on, or another change is in progress (409).
            NotFound: There is no such cluster.
        """
        cluster_id = id_of(cluster)
        already_deleted = AcceptedOperation(OperationRef(OperationKind.CLUSTER_RELEASE, cluster_id))

        def accepted(answer: Answer) -> AcceptedOperation:
            return accepted_as(answer, OperationKind.CLUSTER_RELEASE, cluster_id)

        request = Request(
            "DELETE",
            path_of("cluster", cluster_id),
            accepted,
            lane=Lane.CHANGE,
            any_body=True,
            on_already_deleted=lambda: already_deleted,
        )
        return Submission(
            f"the destruction of cluster {cluster_id}",
            lambda: self._submitter.submit_delete(request, already_deleted, CLUSTER),
        )

    async def operations(
        self,
        cluster: ClusterLike,
        *,
        kind: OperationKind | str | None = None,
        status: RequestStatus | str | None = None,
    ) -> list[RequestInfo]:
        """List the requests about a cluster (`GET /cluster/operations/{cluster}`).

        The engine's documentation names this endpoint, and neither its parameters nor its answer: both are inferred.

        Args:
            cluster: Which one.
            kind: Only requests of this kind.
            status: Only requests with this status.
        """
        path = path_of("cluster", "operations", id_of(cluster))
        decode = as_list("operations", RequestInfo, path)
        query = query_of(
            type=None if kind is None else str(OperationKind(kind)),
            status=None if status is None else str(RequestStatus(status)),
        )
        return await self._transport.send(Request("GET", path, decode, query=query))

    async def quote(self, instance_type: str, num_nodes: int = 1) -> Quote:
        """Ask what a cluster would cost (`GET /cluster/quote`, which only a third party reports).

        Args:
            instance_type: The GPUs of one node, such as `8xB200`.
            num_nodes: How many nodes.

        Returns:
            The price of the whole cluster, in USD per hour.

        Raises:
            ValidationError: The engine does not know the instance type (422).
        """
        path = path_of("cluster", "quote")
        query = query_of(instance_type=instance_type, num_nodes=num_nodes)
        return await self._transport.send(Request("GET", path, as_model(Quote, path), query=query))

    # Last of the public methods, since within the class its name hides the type from what follows.
    async def list(self, *, organization: bool = False) -> list[Cluster]:
        """List the living clusters (`GET /cluster/list`).

        Args:
            organization: List those of the organization instead of one's own (features/organization in the docs).
        """
        path = path_of("cluster", "list")
        decode = as_list("clusters", Cluster, path)
        query = query_of(include_org=organization, instances=True)
        return await self._transport.send(Request("GET", path, decode, query=query))

    async def _read(self, key: str) -> Cluster:
        cluster: Cluster = await self._transport.send(CLUSTER.read(key))
        return cluster

    async def _join(self, name: str, instance_type: str, num_nodes: int) -> AcceptedOperation | None:
        """Return the creation of the cluster of a name; None where there is none, or where it has just gone."""
        try:
            cluster = await self._named(name)
        except NotFound:
            return None
        if cluster.name != name or cluster.status is ClusterStatus.DESTROYED:
            return None
        if cluster.status is ClusterStatus.DESTROYING:
            with contextlib.suppress(NotFound):
                await (await self.lifecycle.destruction_of(cluster.id))
            return None
        difference = difference_from(cluster, instance_type, num_nodes)
        if difference:
            raise ConflictError(409, f"{name!r} is there as {cluster.id}, {difference}", method="POST")
        if cluster.status is ClusterStatus.RUNNING:
            return AcceptedOperation(OperationRef(OperationKind.CLUSTER_CLAIM, cluster.id), 0.0)
        return AcceptedOperation(await self.lifecycle.ref_of(cluster.id, OperationKind.CLUSTER_CLAIM), 0.0)

    async def _named(self, name: str) -> Cluster:
        try:
            return await self._read(name)
        except NotFound:
            # That the engine takes names here is only reported by a third party, so the list is asked as well.
            found = await self._find(name)
            if found is None:
                raise
            return found

    async def _find(self, name: str) -> Cluster | None:
        named = [cluster for cluster in await self.list() if cluster.name == name]
        return max(named, key=lambda cluster: cluster.created_at or "", default=None)

    async def find_by_name(self, name: str) -> Found | None:
        """Find the living cluster of a name, and the request that made it."""
        try:
            cluster = await self._named(name)
        except NotFound:
            return None
        if cluster.name != name or cluster.status is ClusterStatus.DESTROYED:
            return None
        try:
            claims = await self.operations(cluster, kind=OperationKind.CLUSTER_CLAIM)
        except (StatusError, DecodeError):
            claims = []  # the endpoint is hardly documented; the cluster itself will do
        claim = claims[0] if claims else None
        return Found(
            cluster.id,
            (claim.created_at if claim else None) or cluster.created_at,
            claim.request_id if claim else None,
        )


def difference_from(cluster: Cluster, instance_type: str, num_nodes: int) -> str:
    """Say how a cluster differs from what is wanted; empty where it does not, or where the engine does not say."""
    if cluster.instance_type is not None and cluster.instance_type.casefold() != instance_type.casefold():
        return f"and is of {cluster.instance_type}, not of {instance_type}"
    if cluster.num_nodes is not None and cluster.num_nodes != num_nodes:
        return f"and has {cluster.num_nodes} nodes, not {num_nodes}"
    return ""


def accepted_as(
    answer: Answer, kind: OperationKind, resource_id: str, expected: dict[str, Any] | None = None
) -> AcceptedOperation:
    """Read a 202 that names at most one request."""
    request_id = answer.field("request_id")
    request_ids = (str(request_id),) if request_id else ()
    return AcceptedOperation(OperationRef(kind, resource_id, request_ids, expected or {}), answer.retry_after)
