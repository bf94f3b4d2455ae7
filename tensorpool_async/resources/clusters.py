"""Clusters: create, read, edit, destroy and quote."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import attrs

from tensorpool_async.errors import NotFound
from tensorpool_async.journal.recorder import CreateTags, create_tags
from tensorpool_async.models.cluster import Cluster, Quote
from tensorpool_async.models.enums import OperationKind, RequestStatus
from tensorpool_async.models.request import RequestInfo
from tensorpool_async.operations.executor import Change, Executor
from tensorpool_async.operations.submission import Submission
from tensorpool_async.protocol.decoders import as_accepted, as_list, as_model
from tensorpool_async.protocol.operation_specs import CLUSTER
from tensorpool_async.protocol.public_keys import checked_public_key
from tensorpool_async.protocol.requests import Request, path_of, query_of
from tensorpool_async.protocol.tokens import AcceptedOperation, OperationRef
from tensorpool_async.resources.arguments import ClusterLike, id_of, new_name
from tensorpool_async.resources.changes import cluster_deletion, cluster_edit
from tensorpool_async.resources.deletion import ClusterDeletion
from tensorpool_async.resources.ephemeral import CLEANUP_TIMEOUT, Ephemeral
from tensorpool_async.transport.attempts import Transport


ID_PREFIX = "c-"

_as_creation = as_accepted(OperationKind.CLUSTER_CLAIM, id_field="cluster_id")
_CREATION = OperationRef(OperationKind.CLUSTER_CLAIM)


@attrs.define(kw_only=True)  # not frozen, since a frozen class takes twice as long to construct
class ClusterOptions:
    """The options of a create request; see `Clusters.create`."""

    instance_type: str
    name: str | None
    num_nodes: int
    public_keys: Iterable[str]
    container: str | None
    deletion_protection: bool
    save_keys: bool


def creation_of(options: ClusterOptions) -> Request[AcceptedOperation]:
    """Return the request that creates a cluster.

    Raises:
        ValueError: An option is invalid.
        TypeError: `public_keys` is a single string.
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
    return Request("POST", "/cluster/create", _as_creation, json=body, name=name)


class Clusters:
    """Clusters of GPUs, as `tp.clusters`.

    Every method that takes a cluster accepts its id or the model.
    """

    def __init__(self, transport: Transport, executor: Executor) -> None:
        self._transport = transport
        self._executor = executor

    @property
    def for_exit(self) -> Clusters:
        """The same methods for cleanup code: a change is sent even if the journal cannot be written.

        Without it, a change raises `JournalError` before anything is sent. With it, the client waits at most 2 seconds for
        the journal, then sends the change without an entry and logs that at ERROR. It is meant for `destroy`, and for
        edits that have to precede it::

            cluster = await tp.clusters.create("1xH100").result()
            try:
                ...
            finally:
                await tp.clusters.for_exit.destroy(cluster).result()
        """
        return Clusters(self._transport, self._executor.for_exit())

    @property
    def lifecycle(self) -> ClusterDeletion:
        """Creations and deletions of clusters that another caller may have started."""
        return ClusterDeletion(self._executor)

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
        """Create a cluster (`POST /cluster/create`). It costs money from the moment the engine accepts the request.

        Args:
            instance_type: The GPUs of one node, such as `1xH100` or `8xB200`. The engine checks it.
            name: A name, unique among the existing clusters of the user or organization. The default is `tpa-` and
                random letters. After a lost response, the client finds the cluster by its name.
            num_nodes: The number of nodes.
            public_keys: SSH public keys in OpenSSH format, in addition to the saved keys of the user and organization.
            container: A container image in place of the default one.
            deletion_protection: Whether the engine refuses to destroy the cluster until this is switched off. The
                cluster costs money all the same.
            save_keys: Whether the engine saves new public keys in the user's profile.
            ttl: Seconds after which `tpa reap` may destroy the cluster, once the process that made it has ended; None
                for never. It is stored in the journal, not at the engine.
            owned: Whether `tpa reap` may destroy the cluster as soon as the process that made it has ended, as for
                `ephemeral`. It is stored in the journal, if there is one.

        Returns:
            A submission: `await` it for the operation, or `await ….result()` for the running `Cluster`.

        Raises:
            ConfigurationError: `ttl` is given and the client has no journal. Raised by the call itself.
            ValueError: The instance type or the name is empty, `num_nodes` is below 1, or `public_keys` holds a private
                key. Raised by the call itself, before anything is sent.
            ValidationError: The engine does not offer the instance type with this number of nodes (422).
            InsufficientBalance: The balance does not cover the cluster (402).
            ConflictError: An existing cluster has the name (409).
            AmbiguousOutcomeError: The response was lost, and the client could not find out whether the cluster was
                made. `.name` is the name to look for. This is rare: the client looks for the cluster by its name and
                adopts it if this call made it.
            OperationFailed: The engine accepted the request and failed later, for example for lack of capacity. The
                failed cluster keeps its name until it is destroyed.
        """
        tags = create_tags(name, ephemeral=owned, ttl=ttl)
        self._executor.recorder.check_tags(tags)
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
        change = Change(request, _CREATION, tags)
        return Submission(f"the creation of cluster {request.name!r}", self._executor.execute, change)

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
        """Use the cluster of this name, running or being created, or create it (`POST /cluster/create`).

        Any number of callers, in any number of processes, that ask for one name at the same time get the same cluster.
        If a cluster of this name is being destroyed, the call waits for the end of that and then creates a new one.
        `ensure` never destroys a cluster.

        Args:
            name: The name.
            instance_type: The GPUs of one node; an existing cluster must have the same type.
            num_nodes: The number of nodes; an existing cluster must have the same number.
            public_keys: As for `create`. This and all following arguments apply only if the cluster is created.
            container: A container image.
            deletion_protection: Whether the engine refuses to destroy the cluster.
            save_keys: Whether the engine saves new public keys.
            ttl: Seconds after which `tpa reap` may destroy the cluster.

        Returns:
            A submission, as from `create`. If the cluster runs already, the operation ends with its first poll.

        Raises:
            ConfigurationError: `ttl` is given and the client has no journal. Raised by the call itself.
            ValueError: As for `create`. Raised by the call itself.
            ConflictError: The existing cluster has another instance type or number of nodes (409).
            OperationFailed: The creation of the cluster failed, in this call or before. The failed cluster keeps its
                name until it is destroyed.
            StatusError: The engine refused the request, as for `create`.
        """
        tags = CreateTags(ttl=ttl)
        self._executor.recorder.check_tags(tags)
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
        change = Change(request, _CREATION, tags, join=True)
        return Submission(f"ensuring cluster {name!r}", self._executor.ensure, change)

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
        """Create a cluster for the body of an `async with` block, and destroy it at the end of the block.

        ::

            async with tp.clusters.ephemeral("8xH100") as cluster:
                ...

        The cluster is destroyed when the body ends, raises or is cancelled. If the block is cancelled while the cluster
        is being created, the cleanup first waits for the end of the creation, since the engine may complete a creation
        that is destroyed halfway. Further cancellations, including Ctrl-C, do not interrupt the cleanup. Only the end
        of the event loop (a second Ctrl-C) does; the remaining cluster is then logged with its price and the command
        that destroys it. SIGTERM is handled like Ctrl-C if the client has `handle_sigterm=True`; otherwise it ends the
        process without cleanup. With a journal, `tpa reap` destroys what a killed process left. If the journal cannot
        be written, the cluster is not created; a cluster is destroyed all the same.

        Args:
            instance_type: As for `create`, like all following arguments.
            name: A name; the default is a random one.
            num_nodes: The number of nodes.
            public_keys: SSH public keys.
            container: A container image.
            deletion_protection: Whether the engine refuses to destroy the cluster. The cleanup switches this off.
            save_keys: Whether the engine saves new public keys.
            ttl: As for `create`. `tpa reap` may destroy the cluster once its process has ended, whatever the `ttl`.
            cleanup_timeout: Seconds that the cleanup may take.

        Raises:
            TensorPoolError: On entry, as for `create` and its operation. On exit, if the cluster could not be
                destroyed; if the body raised, its exception gets a note instead.
        """
        tags = create_tags(name, ephemeral=True, ttl=ttl)
        self._executor.recorder.check_tags(tags)
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
        return Ephemeral(self._executor, Change(request, _CREATION, tags), timeout=cleanup_timeout)

    async def get(self, cluster: ClusterLike) -> Cluster:
        """Read a cluster by its id or name (`GET /cluster/info/{cluster}`).

        Raises:
            NotFound: The cluster does not exist, or no longer exists.
        """
        key = id_of(cluster)
        if key.startswith(ID_PREFIX):
            return cast("Cluster", await self._transport.send(CLUSTER.read(key)))
        found = await self._executor.lookup.by_name(CLUSTER, key)
        if found is None:
            raise NotFound(404, f"there is no cluster {key!r}", method="GET", path=path_of(CLUSTER.info, key))
        return cast("Cluster", found)

    def edit(
        self, cluster: ClusterLike, *, name: str | None = None, deletion_protection: bool | None = None
    ) -> Submission[Cluster]:
        """Rename a cluster, or switch its deletion protection (`PATCH /cluster/edit/{cluster}`).

        Args:
            cluster: The cluster.
            name: A new name, unique among the existing clusters of the user or organization; None keeps the old one.
            deletion_protection: Whether the engine refuses to destroy the cluster; None keeps the setting.

        Raises:
            ValueError: Neither is given. Raised by the call itself.
            ConflictError: The name is taken, or another change is in progress (409).
            NotFound: The cluster does not exist.
            AmbiguousOutcomeError: The response was lost, and the cluster does not show the change.
        """
        cluster_id = id_of(cluster)
        change = cluster_edit(cluster_id, name=name, deletion_protection=deletion_protection)
        return Submission(f"the edit of cluster {cluster_id}", self._executor.execute, change)

    def destroy(self, cluster: ClusterLike) -> Submission[None]:
        """Destroy a cluster (`DELETE /cluster/{cluster}`), including all data on its own disks.

        Returns:
            A submission. Its result is None, once the cluster no longer exists.

        Raises:
            ConflictError: Deletion protection is on, or another change is in progress (409).
            NotFound: The cluster does not exist.
        """
        cluster_id = id_of(cluster)
        return Submission(
            f"the destruction of cluster {cluster_id}", self._executor.execute, cluster_deletion(cluster_id)
        )

    async def operations(
        self,
        cluster: ClusterLike,
        *,
        kind: OperationKind | str | None = None,
        status: RequestStatus | str | None = None,
    ) -> list[RequestInfo]:
        """List the requests about a cluster (`GET /cluster/operations/{cluster}`).

        The engine's documentation names this endpoint but not its parameters and response, which are inferred.

        Args:
            cluster: The cluster.
            kind: Only requests of this kind.
            status: Only requests with this status.
        """
        decode = as_list("operations", RequestInfo)
        query = query_of(
            type=None if kind is None else str(OperationKind(kind)),
            status=None if status is None else str(RequestStatus(status)),
        )
        request = Request("GET", "/cluster/operations/{id}", decode, key=id_of(cluster), query=query)
        return await self._transport.send(request)

    async def quote(self, instance_type: str, num_nodes: int = 1) -> Quote:
        """Return the price of a cluster (`GET /cluster/quote`, known from a third party only).

        Args:
            instance_type: The GPUs of one node, such as `8xB200`.
            num_nodes: The number of nodes.

        Returns:
            The price of all nodes together, in USD per hour.

        Raises:
            ValidationError: The engine does not offer the instance type (422).
        """
        query = query_of(instance_type=instance_type, num_nodes=num_nodes)
        return await self._transport.send(Request("GET", "/cluster/quote", as_model(Quote), query=query))

    # The last method of the class, since its name hides the builtin `list` from annotations that follow.
    async def list(self, *, organization: bool = False) -> list[Cluster]:
        """List the existing clusters (`GET /cluster/list`).

        Args:
            organization: Whether to list the clusters of the organization instead of the user's.
        """
        return await self._executor.lookup.all(CLUSTER, organization=organization)
