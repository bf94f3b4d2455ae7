"""Clusters: their nodes and states, how they are made, changed and destroyed, and the endpoints for that."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Any

import attrs

from tensorpool_async.emulator.account import AccountState
from tensorpool_async.emulator.engine import Engine, Registry
from tensorpool_async.emulator.exchange import Exchange, Fields
from tensorpool_async.emulator.faults import FaultKind, Scope
from tensorpool_async.emulator.limits import MAX_CLUSTERS, MAX_IMAGE, MAX_INSTANCES, MAX_NODES
from tensorpool_async.emulator.record import Made
from tensorpool_async.emulator.requests import Request, RequestKind, RequestStatus
from tensorpool_async.emulator.responses import (
    Reply,
    card,
    conflict,
    insufficient_balance,
    invalid,
    not_found,
    table,
    too_many,
)
from tensorpool_async.emulator.world import PRICES, can_be_multi_node


class ClusterStatus(StrEnum):
    """The state of a cluster, or of one of its nodes."""

    PENDING = "PENDING"
    PROVISIONING = "PROVISIONING"
    CONFIGURING = "CONFIGURING"
    RUNNING = "RUNNING"
    DESTROYING = "DESTROYING"
    DESTROYED = "DESTROYED"
    FAILED = "FAILED"


@attrs.define(eq=False)
class Instance:
    """A machine. Its addresses are known once it runs."""

    id: str
    name: str
    public: bool
    status: ClusterStatus = ClusterStatus.PENDING
    ip_address: str | None = None
    private_ip_address: str | None = None
    restarts: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return it as the engine shows it."""
        return {
            "id": self.id,
            "name": self.name,
            "status": self.status.value,
            "ip_address": self.ip_address,
            "private_ip_address": self.private_ip_address,
        }


@attrs.define(eq=False)
class Cluster:
    """A cluster as it is now. `created` is in seconds after the emulator's start."""

    id: str
    name: str
    instance_type: str
    num_nodes: int
    hourly_rate: float
    created: float
    created_at: str
    container: str | None = None
    deletion_protection: bool = False
    public_keys: tuple[str, ...] = ()
    status: ClusterStatus = ClusterStatus.PENDING
    instances: list[Instance] = attrs.field(factory=list[Instance])
    storage: list[str] = attrs.field(factory=list[str])
    busy: Request | None = None
    """The request that is changing the cluster. Until it ends, all other changes are refused."""
    reserved_nodes: int = 0
    """The nodes that the cluster takes from the capacity."""

    @property
    def is_deleted(self) -> bool:
        """Whether it is destroyed."""
        return self.status is ClusterStatus.DESTROYED

    def turn(self, status: ClusterStatus) -> None:
        """Give the cluster and all of its nodes this status."""
        self.status = status
        for instance in self.instances:
            instance.status = status

    def restarted(self) -> None:
        """Count one more start of all nodes, and let them run."""
        self.turn(ClusterStatus.RUNNING)
        for instance in self.instances:
            instance.restarts += 1

    def as_json(self) -> dict[str, Any]:
        """Return it as the engine shows it."""
        return {
            "id": self.id,
            "name": self.name,
            "status": self.status.value,
            "instance_type": self.instance_type,
            "num_nodes": self.num_nodes,
            "instances": [instance.as_json() for instance in self.instances],
            "storage": list(self.storage),
            "deletion_protection": self.deletion_protection,
            "created_at": self.created_at,
            "container": self.container,
            "hourly_rate": self.hourly_rate,
        }


@attrs.frozen
class ClusterSpec:
    """A cluster that a client asks for. Its fields have been checked."""

    instance_type: str
    num_nodes: int = 1
    name: str | None = None
    container: str | None = None
    deletion_protection: bool = False
    public_keys: tuple[str, ...] = ()


# When a cluster that is being created changes its state, in fractions of the time that its creation takes.
PROVISIONS, CONFIGURES, GIVES_UP = 0.05, 0.75, 0.1


class ClusterStore:
    """Makes, changes and destroys clusters, and refuses what is not allowed."""

    def __init__(self, engine: Engine, account: AccountState, capacity: Mapping[str, int] | None) -> None:
        self.registry: Registry[Cluster] = Registry("cluster", MAX_CLUSTERS, engine.clock, names_are_ids=True)
        self.capacity: dict[str, int] = dict(capacity or {})
        self.watchers: list[Callable[[Cluster], object]] = []
        """Called when a cluster is being destroyed, and when it is gone."""
        self._engine = engine
        self._world = engine.world
        self._clock = engine.clock
        self._record = engine.record
        self._billing = account.billing
        self._rng = engine.world.rng("clusters")
        self._held: Counter[str] = Counter()
        self._instances = 0
        self._addresses = 0

    def create(self, spec: ClusterSpec, scope: Scope) -> tuple[Cluster, Request]:
        """Accept a cluster. Its request fails later if there is no capacity.

        Raises:
            Refusal: The name is taken, the balance does not cover a day, or there is no room.
        """
        self.registry.check_name(spec.name)
        rate = round(PRICES[spec.instance_type] * spec.num_nodes, 2)
        if not self._billing.covers_a_day(rate):
            raise insufficient_balance(
                f"Insufficient balance: 24 hours of this cluster cost ${24 * rate:.2f},"
                f" the balance is ${self._billing.balance:.2f}"
            )
        self.registry.check_room()
        if self._instances + spec.num_nodes >= MAX_INSTANCES:
            raise too_many("instances", MAX_INSTANCES)
        cluster = self._make(spec, rate)
        return cluster, self._claim(cluster, scope)

    def destroy(self, key: str, scope: Scope) -> tuple[Cluster, Request]:
        """Raises Refusal when the cluster is protected or being changed."""
        cluster = self.registry.find(key)
        claims = (r for r in self._engine.requests.of(cluster.id) if r.kind is RequestKind.CLUSTER_CLAIM)
        if not all(claim.done for claim in claims):
            self._record.destroys_before_ready += 1
        self.registry.find_free(key)
        if cluster.deletion_protection:
            raise conflict(f"Cluster {cluster.id} has deletion protection enabled, disable it first")
        self._billing.stop(cluster.id)
        cluster.turn(ClusterStatus.DESTROYING)
        self._notify(cluster)
        return cluster, self._engine.change(
            cluster,
            RequestKind.CLUSTER_RELEASE,
            self._clock.draw(self._world.destroy_seconds),
            scope,
            done=lambda: self._end(cluster),
            failed=lambda: self._fail(cluster),
        )

    def edit(
        self, key: str, scope: Scope, *, name: str | None, deletion_protection: bool | None
    ) -> tuple[Cluster, Request]:
        """Raises Refusal when the cluster is being changed, or the name is another's."""
        cluster = self.registry.find_free(key)
        self.registry.check_name(name, owner=cluster)

        def apply() -> None:
            if name is not None and self.registry.rename(cluster, name):
                self._record.cluster_renamed(cluster.id, name)
            if deletion_protection is not None:
                cluster.deletion_protection = deletion_protection

        seconds = self._clock.draw(self._world.edit_seconds)
        return cluster, self._engine.change(cluster, RequestKind.CLUSTER_EDIT, seconds, scope, done=apply)

    def instance(self, instance_id: str) -> tuple[Cluster, Instance]:
        """Raises Refusal when no living cluster has it."""
        found = ((c, i) for c in self.registry.living for i in c.instances if i.id == instance_id)
        for pair in found:
            return pair
        raise not_found(f"Instance {instance_id}")

    def _make(self, spec: ClusterSpec, rate: float) -> Cluster:
        now = self._clock.now()
        cluster_id = f"c-{self._rng.getrandbits(48):012x}"
        cluster = Cluster(
            cluster_id,
            spec.name or f"cluster-{cluster_id[2:10]}",
            spec.instance_type,
            spec.num_nodes,
            rate,
            now,
            self._clock.iso(now),
            spec.container,
            spec.deletion_protection,
            spec.public_keys,
        )
        cluster.instances = self._machines(cluster)
        self._instances += len(cluster.instances)
        self.registry.add(cluster)
        self._record.cluster_made(Made(cluster.id, cluster.name, cluster.instance_type, now))
        return cluster

    def _machines(self, cluster: Cluster) -> list[Instance]:
        names = [f"{cluster.id}-{n}" for n in range(cluster.num_nodes)]
        if cluster.num_nodes > 1:
            names.insert(0, f"{cluster.id}-jumphost")
        ids = [f"i-{self._rng.getrandbits(48):012x}" for _ in names]
        return [Instance(i, name, n == 0) for n, (i, name) in enumerate(zip(ids, names, strict=True))]

    def _claim(self, cluster: Cluster, scope: Scope) -> Request:
        seconds = self._clock.draw(self._world.provision_seconds)
        failure = self._shortage(cluster, scope)
        if failure:
            seconds *= GIVES_UP
        else:
            self._hold(cluster, cluster.num_nodes)
        done, failed = (lambda: self._start(cluster)), (lambda: self._fail(cluster))
        request = self._engine.change(
            cluster, RequestKind.CLUSTER_CLAIM, seconds, scope, done=done, failed=failed, failure=failure
        )
        self._later(cluster, request, seconds * PROVISIONS, ClusterStatus.PROVISIONING)
        if not failure:
            self._later(cluster, request, seconds * CONFIGURES, ClusterStatus.CONFIGURING)
        return request

    def _shortage(self, cluster: Cluster, scope: Scope) -> str | None:
        kind = cluster.instance_type
        lacking = kind in self.capacity and self._held[kind] + cluster.num_nodes > self.capacity[kind]
        if not lacking and not scope.take(FaultKind.NO_CAPACITY):
            return None
        return f"No capacity available for {cluster.num_nodes} x {kind}, try another type or later"

    def _later(self, cluster: Cluster, request: Request, seconds: float, status: ClusterStatus) -> None:
        def move() -> None:
            if not request.done:
                cluster.turn(status)
                request.message = f"{status.capitalize()} {len(cluster.instances)} x {cluster.instance_type}"

        self._clock.later(seconds, move)

    def _start(self, cluster: Cluster) -> None:
        for instance in cluster.instances:
            self._address(instance)
        cluster.turn(ClusterStatus.RUNNING)
        self._billing.charge(cluster.id, cluster.hourly_rate)

    def _address(self, instance: Instance) -> None:
        self._addresses += 1
        high, low = divmod(self._addresses, 254)
        host = f"{high // 256 % 256}.{high % 256}.{low + 1}"
        instance.private_ip_address = f"10.{host}"
        if instance.public:
            # 198.18.0.0/15 is reserved for benchmarks: nothing there can answer by accident.
            instance.ip_address = f"198.{18 + high // 256 % 2}.{high % 256}.{low + 1}"

    def _hold(self, cluster: Cluster, nodes: int) -> None:
        self._held[cluster.instance_type] += nodes - cluster.reserved_nodes
        cluster.reserved_nodes = nodes

    def _fail(self, cluster: Cluster) -> None:
        cluster.turn(ClusterStatus.FAILED)
        self._billing.stop(cluster.id)
        self._hold(cluster, 0)

    def _end(self, cluster: Cluster) -> None:
        cluster.turn(ClusterStatus.DESTROYED)
        self._hold(cluster, 0)
        self._instances -= len(cluster.instances)
        self.registry.forget_name(cluster)
        self._record.cluster_gone(cluster.id)
        self._notify(cluster)

    def _notify(self, cluster: Cluster) -> None:
        for watcher in self.watchers:
            watcher(cluster)


@attrs.frozen
class ClusterEndpoints:
    """The endpoints under /cluster."""

    engine: Engine
    account: AccountState
    clusters: ClusterStore

    def create(self, exchange: Exchange) -> Reply:
        fields = exchange.fields()
        spec, save = _spec(fields), fields.flag("save_keys")
        fields.check()
        saved = [k.public_key for k in self.account.keys.values() if k.public_key not in spec.public_keys]
        spec = attrs.evolve(spec, public_keys=(*spec.public_keys, *saved))
        cluster, request = self.clusters.create(spec, exchange.scope)
        if save is not False:
            self.account.keep_keys(spec.public_keys)
        body = {
            "cluster_id": cluster.id,
            "message": f"Cluster {cluster.name} ({cluster.id}) is being created",
            "instance_ids": [instance.id for instance in cluster.instances],
        }
        return self.engine.requests.accepted(request, exchange.scope, body)

    def list(self, exchange: Exchange) -> Reply:
        organization, instances = exchange.flag("include_org"), exchange.flag("instances")
        clusters = [] if organization else self.clusters.registry.visible(exchange.scope)
        message = _instance_table(clusters) if instances else _cluster_table(clusters)
        return Reply(200, {"message": message, "clusters": [cluster.as_json() for cluster in clusters]})

    def info(self, exchange: Exchange) -> Reply:
        cluster = self.clusters.registry.find_visible(exchange.argument, exchange.scope)
        return Reply(200, {"message": _card(cluster), "cluster_info": cluster.as_json()})

    def edit(self, exchange: Exchange) -> Reply:
        fields = exchange.fields()
        name, protection = fields.text("cluster_name"), fields.flag("deletion_protection")
        fields.check()
        fields.need_one_of("cluster_name", "deletion_protection")
        cluster, request = self.clusters.edit(
            exchange.argument, exchange.scope, name=name, deletion_protection=protection
        )
        body = {"message": f"Cluster {cluster.id} is being edited"}
        return self.engine.requests.accepted(request, exchange.scope, body)

    def destroy(self, exchange: Exchange) -> Reply:
        cluster, request = self.clusters.destroy(exchange.argument, exchange.scope)
        text = f"Cluster {cluster.name} ({cluster.id}) is being destroyed"
        body = {"cluster_id": cluster.id, "message": text}
        return self.engine.requests.accepted(request, exchange.scope, body)

    def operations(self, exchange: Exchange) -> Reply:
        kind, status = exchange.choice("type", RequestKind), exchange.choice("status", RequestStatus)
        cluster = self.clusters.registry.find(exchange.argument)
        found = [
            request
            for request in self.engine.requests.of(cluster.id)
            if kind in {None, request.kind} and status in {None, request.status}
        ]
        message = table(
            f"Operations of cluster {cluster.name}",
            ["REQUEST", "TYPE", "STATUS", "CREATED", "MESSAGE"],
            ((r.id, r.kind, r.status, r.created_at, r.message) for r in found),
            empty="No operations found",
        )
        return Reply(200, {"message": message, "operations": [request.as_json() for request in found]})

    def quote(self, exchange: Exchange) -> Reply:
        instance_type, num_nodes = exchange.text("instance_type"), exchange.whole("num_nodes", default=1)
        if instance_type not in PRICES:
            raise invalid(["query", "instance_type"], *_unknown_type(instance_type))
        return Reply(200, {"hourly_rate": round(PRICES[instance_type] * num_nodes, 2)})


def _spec(fields: Fields) -> ClusterSpec:
    spec = ClusterSpec(
        fields.text("instance_type", required=True) or "",
        fields.whole("num_nodes") or 1,
        fields.text("tp_cluster_name"),
        fields.text("container", limit=MAX_IMAGE) or fields.text("experimental_container", limit=MAX_IMAGE),
        fields.flag("deletion_protection") or False,
        fields.texts("public_keys"),
    )
    if not spec.instance_type:
        return spec
    if spec.instance_type not in PRICES:
        fields.reject("instance_type", *_unknown_type(spec.instance_type))
    elif spec.num_nodes > MAX_NODES:
        fields.reject("num_nodes", f"Input should be less than or equal to {MAX_NODES}", "less_than_equal")
    elif spec.num_nodes > 1 and not can_be_multi_node(spec.instance_type):
        text = f"Value error, {spec.instance_type} clusters have exactly one node"
        fields.reject("num_nodes", text, "value_error")
    return spec


def _unknown_type(instance_type: str) -> tuple[str, str]:
    return (
        f"Value error, unknown instance type {instance_type!r}, choose from {', '.join(PRICES)}",
        "value_error",
    )


def _cluster_table(clusters: Iterable[Cluster]) -> str:
    return table(
        "Clusters",
        ["ID", "NAME", "TYPE", "NODES", "STATUS", "USD/H"],
        ((c.id, c.name, c.instance_type, c.num_nodes, c.status, f"{c.hourly_rate:.2f}") for c in clusters),
        empty="No clusters found",
    )


def _instance_table(clusters: Iterable[Cluster]) -> str:
    return table(
        "Instances",
        ["ID", "CLUSTER", "NAME", "STATUS", "PUBLIC IP", "PRIVATE IP"],
        (
            (i.id, c.name, i.name, i.status, i.ip_address, i.private_ip_address)
            for c in clusters
            for i in c.instances
        ),
        empty="No instances found",
    )


def _card(cluster: Cluster) -> str:
    facts = {
        "id": cluster.id,
        "type": cluster.instance_type,
        "nodes": cluster.num_nodes,
        "status": cluster.status,
        "price": f"${cluster.hourly_rate:.2f} per hour",
        "storage": ", ".join(cluster.storage) or None,
        "deletion protection": cluster.deletion_protection,
        "created": cluster.created_at,
    }
    return f"{card(f'Cluster {cluster.name}', facts)}\n\n{_instance_table([cluster])}"
