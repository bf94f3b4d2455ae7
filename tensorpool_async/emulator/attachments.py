"""Which volume is mounted on which cluster. Every change of that restarts all nodes of the cluster."""

from collections.abc import Callable, Sequence

from tensorpool_async.emulator.answers import Refusal, conflict
from tensorpool_async.emulator.clock import Clock, Duration
from tensorpool_async.emulator.cluster import Cluster, ClusterStatus
from tensorpool_async.emulator.clusters import Clusters
from tensorpool_async.emulator.faults import Scope
from tensorpool_async.emulator.prices import is_cpu
from tensorpool_async.emulator.requests import Request, RequestKind, Requests
from tensorpool_async.emulator.volume import Volume, VolumeStatus
from tensorpool_async.emulator.volumes import Volumes


class Attachments:
    """Attaches and detaches; a volume may be on several clusters."""

    def __init__(
        self, clock: Clock, requests: Requests, clusters: Clusters, volumes: Volumes, seconds: Duration
    ) -> None:
        self._clock = clock
        self._requests = requests
        self._clusters = clusters
        self._volumes = volumes
        self._seconds = seconds

    def attach(self, storage_id: str, clusters: Sequence[str], scope: Scope) -> list[Request]:
        """One request per cluster, or none at all.

        Raises:
            Refusal: One of them cannot take the volume now.
        """
        volume = self._ready(storage_id)
        found = list({cluster.id: cluster for cluster in map(self._running, clusters)}.values())
        for cluster in found:
            if refusal := _unfit(volume, cluster):
                raise refusal
        # One duration for all, so that the volume is free again when the last of them is.
        seconds = self._clock.draw(self._seconds)
        return [self._mount(volume, cluster, seconds, scope) for cluster in found]

    def detach(self, storage_id: str, cluster_id: str, scope: Scope) -> Request:
        """Raises Refusal when it is not attached there, or either is being changed."""
        volume, cluster = self._ready(storage_id), self._running(cluster_id)
        if volume.id not in cluster.storage:
            raise conflict(f"Storage volume {volume.id} is not attached to cluster {cluster.id}")

        def unmount() -> None:
            cluster.storage.remove(volume.id)
            volume.attached_clusters.remove(cluster.id)

        seconds = self._clock.draw(self._seconds)
        return self._restart(RequestKind.STORAGE_DETACH, volume, cluster, seconds, scope, done=unmount)

    def _ready(self, storage_id: str) -> Volume:
        volume = self._volumes.free(storage_id)
        if volume.status is not VolumeStatus.READY:
            raise conflict(f"Storage volume {volume.id} is {volume.status}, not READY")
        return volume

    def _running(self, cluster_id: str) -> Cluster:
        cluster = self._clusters.free(cluster_id)
        if cluster.status is not ClusterStatus.RUNNING:
            raise conflict(f"Cluster {cluster.id} is {cluster.status}, not RUNNING")
        return cluster

    def _mount(self, volume: Volume, cluster: Cluster, seconds: float, scope: Scope) -> Request:
        def mount() -> None:
            cluster.storage.append(volume.id)
            volume.attached_clusters.append(cluster.id)

        return self._restart(RequestKind.STORAGE_ATTACH, volume, cluster, seconds, scope, done=mount)

    def _restart(
        self,
        kind: RequestKind,
        volume: Volume,
        cluster: Cluster,
        seconds: float,
        scope: Scope,
        *,
        done: Callable[[], None],
    ) -> Request:
        def up() -> None:
            cluster.busy = None
            if volume.busy is request:
                volume.busy = None
            cluster.restarted()

        def changed() -> None:
            up()
            done()

        cluster.turn(ClusterStatus.CONFIGURING)
        request = self._requests.begin(kind, volume.id, seconds, scope, done=changed, failed=up)
        self._requests.concerns(request, cluster.id)
        cluster.busy = volume.busy = request
        return request


def _unfit(volume: Volume, cluster: Cluster) -> Refusal | None:
    if cluster.num_nodes == 1 and not is_cpu(cluster.instance_type):
        return conflict(
            f"Storage volumes attach to multi-node GPU clusters and CPU instances, not to {cluster.instance_type}"
        )
    if volume.id in cluster.storage:
        return conflict(f"Storage volume {volume.id} is attached to cluster {cluster.id} already")
    return None
