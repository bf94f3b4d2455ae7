"""The clusters of the engine: nodes, states, names, capacity."""

import random
from collections import Counter
from collections.abc import Callable, Mapping

import attrs

from tensorpool_async.emulator.answers import conflict, name_taken, not_found, too_poor
from tensorpool_async.emulator.clock import Clock, Duration
from tensorpool_async.emulator.cluster import Cluster, ClusterStatus, Instance
from tensorpool_async.emulator.faults import FaultKind, Scope
from tensorpool_async.emulator.ledger import Ledger
from tensorpool_async.emulator.prices import PRICES
from tensorpool_async.emulator.record import Made, Record
from tensorpool_async.emulator.requests import Request, RequestKind, Requests


@attrs.frozen
class Wanted:
    """A cluster that was asked for, its fields already found sound."""

    instance_type: str
    num_nodes: int = 1
    name: str | None = None
    container: str | None = None
    deletion_protection: bool = False
    public_keys: tuple[str, ...] = ()


@attrs.frozen
class Durations:
    """How long the engine takes, before the clock's speed."""

    provision: Duration
    destroy: Duration
    edit: Duration


# When a cluster that is being created moves on, in fractions of the time that it takes.
PROVISIONS, CONFIGURES, GIVES_UP = 0.05, 0.75, 0.1


class Clusters:
    """Makes, changes and destroys clusters, and refuses what may not be."""

    def __init__(
        self,
        *,
        clock: Clock,
        record: Record,
        ledger: Ledger,
        requests: Requests,
        durations: Durations,
        capacity: Mapping[str, int] | None,
        rng: random.Random,
    ) -> None:
        self.by_id: dict[str, Cluster] = {}
        self.capacity: dict[str, int] = dict(capacity or {})
        self.watchers: list[Callable[[Cluster], object]] = []
        """Called when a cluster is being destroyed, and when it is gone."""
        self._clock = clock
        self._record = record
        self._ledger = ledger
        self._requests = requests
        self._durations = durations
        self._rng = rng
        self._names: dict[str, Cluster] = {}
        self._held: Counter[str] = Counter()
        self._addresses = 0

    @property
    def living(self) -> list[Cluster]:
        return list(self._names.values())

    def find(self, id_or_name: str) -> Cluster:
        """Raises Refusal when there is no such living cluster."""
        cluster = self.by_id.get(id_or_name)
        if cluster is None or cluster.status is ClusterStatus.DESTROYED:
            cluster = self._names.get(id_or_name)
        if cluster is None:
            raise not_found(f"Cluster {id_or_name}")
        return cluster

    def create(self, wanted: Wanted, scope: Scope) -> tuple[Cluster, Request]:
        """Accept a cluster; its request fails later if there is no capacity.

        Raises:
            Refusal: The name is taken, or the balance does not cover a day.
        """
        if wanted.name in self._names:
            raise name_taken("cluster", wanted.name)
        rate = round(PRICES[wanted.instance_type] * wanted.num_nodes, 2)
        if not self._ledger.covers_a_day(rate):
            raise too_poor(
                f"Insufficient balance: 24 hours of this cluster cost ${24 * rate:.2f},"
                f" the balance is ${self._ledger.balance:.2f}"
            )
        cluster = self._make(wanted, rate)
        return cluster, self._claim(cluster, scope)

    def destroy(self, id_or_name: str, scope: Scope) -> tuple[Cluster, Request]:
        """Raises Refusal when it is protected or being changed."""
        cluster = self.find(id_or_name)
        if any(r.kind is RequestKind.CLUSTER_CLAIM and not r.done for r in self._requests.of(cluster.id)):
            self._record.destroys_before_ready += 1
        self.free(id_or_name)
        if cluster.deletion_protection:
            raise conflict(f"Cluster {cluster.id} has deletion protection enabled, disable it first")
        self._ledger.stop(cluster.id)
        cluster.turn(ClusterStatus.DESTROYING)
        self._tell(cluster)
        return cluster, self._release(cluster, scope)

    def edit(
        self, id_or_name: str, scope: Scope, *, name: str | None, deletion_protection: bool | None
    ) -> tuple[Cluster, Request]:
        """Raises Refusal when it is being changed, or the name is another's."""
        cluster = self.free(id_or_name)
        if name is not None and self._names.get(name, cluster) is not cluster:
            raise name_taken("cluster", name)

        def apply() -> None:
            cluster.busy = None
            if name is not None and name != cluster.name and name not in self._names:
                self._rename(cluster, name)
            if deletion_protection is not None:
                cluster.deletion_protection = deletion_protection

        seconds = self._clock.draw(self._durations.edit)
        return cluster, self._change(cluster, RequestKind.CLUSTER_EDIT, seconds, scope, done=apply)

    def free(self, id_or_name: str) -> Cluster:
        """The cluster, if no request is changing it. Raises Refusal otherwise."""
        cluster = self.find(id_or_name)
        if cluster.busy is not None:
            raise conflict(f"Cluster {cluster.id} is being changed by request {cluster.busy.id}")
        return cluster

    def instance(self, instance_id: str) -> tuple[Cluster, Instance]:
        """Raises Refusal when no living cluster has it."""
        for cluster in self._names.values():
            for instance in cluster.instances:
                if instance.id == instance_id:
                    return cluster, instance
        raise not_found(f"Instance {instance_id}")

    def _make(self, wanted: Wanted, rate: float) -> Cluster:
        now = self._clock.now()
        cluster_id = f"c-{self._rng.getrandbits(48):012x}"
        cluster = Cluster(
            cluster_id,
            wanted.name or f"cluster-{cluster_id[2:10]}",
            wanted.instance_type,
            wanted.num_nodes,
            rate,
            now,
            self._clock.iso(now),
            wanted.container,
            wanted.deletion_protection,
            wanted.public_keys,
        )
        cluster.instances = self._machines(cluster)
        self.by_id[cluster.id] = self._names[cluster.name] = cluster
        self._record.cluster_made(Made(cluster.id, cluster.name, cluster.instance_type, now))
        return cluster

    def _machines(self, cluster: Cluster) -> list[Instance]:
        if cluster.num_nodes == 1:
            return [self._machine(f"{cluster.id}-0", public=True)]
        workers = [self._machine(f"{cluster.id}-{n}", public=False) for n in range(cluster.num_nodes)]
        return [self._machine(f"{cluster.id}-jumphost", public=True), *workers]

    def _machine(self, name: str, *, public: bool) -> Instance:
        return Instance(f"i-{self._rng.getrandbits(48):012x}", name, public)

    def _claim(self, cluster: Cluster, scope: Scope) -> Request:
        seconds = self._clock.draw(self._durations.provision)
        failure = self._shortage(cluster, scope)
        if failure:
            seconds *= GIVES_UP
        else:
            self._hold(cluster, cluster.num_nodes)
        request = self._requests.begin(
            RequestKind.CLUSTER_CLAIM,
            cluster.id,
            seconds,
            scope,
            done=lambda: self._runs(cluster),
            failed=lambda: self._fails(cluster),
            failure=failure,
        )
        cluster.busy = request
        self._moves_on(cluster, request, seconds * PROVISIONS, ClusterStatus.PROVISIONING)
        if not failure:
            self._moves_on(cluster, request, seconds * CONFIGURES, ClusterStatus.CONFIGURING)
        return request

    def _shortage(self, cluster: Cluster, scope: Scope) -> str | None:
        kind = cluster.instance_type
        lacking = kind in self.capacity and self._held[kind] + cluster.num_nodes > self.capacity[kind]
        if lacking or scope.take(FaultKind.NO_CAPACITY):
            return f"No capacity available for {cluster.num_nodes} x {kind}, try another type or later"
        return None

    def _moves_on(self, cluster: Cluster, request: Request, seconds: float, status: ClusterStatus) -> None:
        def move() -> None:
            if not request.done:
                cluster.turn(status)
                request.message = f"{status.capitalize()} {len(cluster.instances)} x {cluster.instance_type}"

        self._clock.later(seconds, move)

    def _runs(self, cluster: Cluster) -> None:
        cluster.busy = None
        for instance in cluster.instances:
            self._address(instance)
        cluster.turn(ClusterStatus.RUNNING)
        self._ledger.charge(cluster.id, cluster.hourly_rate)

    def _address(self, instance: Instance) -> None:
        self._addresses += 1
        high, low = divmod(self._addresses, 254)
        host = f"{high // 256 % 256}.{high % 256}.{low + 1}"
        instance.private_ip_address = f"10.{host}"
        if instance.public:
            # 198.18.0.0/15 is reserved for benchmarks: nothing there can answer by accident.
            instance.ip_address = f"198.{18 + high // 256 % 2}.{high % 256}.{low + 1}"

    def _hold(self, cluster: Cluster, nodes: int) -> None:
        self._held[cluster.instance_type] += nodes - cluster.holds
        cluster.holds = nodes

    def _fails(self, cluster: Cluster) -> None:
        cluster.busy = None
        cluster.turn(ClusterStatus.FAILED)
        self._ledger.stop(cluster.id)
        self._hold(cluster, 0)

    def _release(self, cluster: Cluster, scope: Scope) -> Request:
        return self._change(
            cluster,
            RequestKind.CLUSTER_RELEASE,
            self._clock.draw(self._durations.destroy),
            scope,
            done=lambda: self._gone(cluster),
            failed=lambda: self._fails(cluster),
        )

    def _gone(self, cluster: Cluster) -> None:
        cluster.busy = None
        cluster.turn(ClusterStatus.DESTROYED)
        self._hold(cluster, 0)
        del self._names[cluster.name]
        self._record.cluster_gone(cluster.id)
        self._tell(cluster)

    def _tell(self, cluster: Cluster) -> None:
        for watcher in self.watchers:
            watcher(cluster)

    def _rename(self, cluster: Cluster, name: str) -> None:
        del self._names[cluster.name]
        cluster.name = name
        self._names[name] = cluster
        self._record.cluster_renamed(cluster.id, name)

    def _change(
        self,
        cluster: Cluster,
        kind: RequestKind,
        seconds: float,
        scope: Scope,
        *,
        done: Callable[[], object],
        failed: Callable[[], object] | None = None,
    ) -> Request:
        def unchanged() -> None:
            cluster.busy = None

        request = self._requests.begin(
            kind, cluster.id, seconds, scope, done=done, failed=failed or unchanged
        )
        cluster.busy = request
        return request
