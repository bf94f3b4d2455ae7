"""Storage volumes: how they are made, changed, attached and destroyed, and the endpoints for that."""

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any

import attrs

from tensorpool_async.emulator.account import Billing
from tensorpool_async.emulator.clusters import Cluster, ClusterStatus, ClusterStore
from tensorpool_async.emulator.engine import Engine, Registry
from tensorpool_async.emulator.exchange import Exchange
from tensorpool_async.emulator.faults import Scope
from tensorpool_async.emulator.limits import MAX_ITEMS, MAX_VOLUMES
from tensorpool_async.emulator.record import Made
from tensorpool_async.emulator.requests import Request, RequestKind
from tensorpool_async.emulator.responses import (
    Refusal,
    Reply,
    card,
    conflict,
    insufficient_balance,
    invalid,
    table,
    too_many,
)
from tensorpool_async.emulator.world import is_cpu, storage_rate


class VolumeStatus(StrEnum):
    """The state of a volume."""

    PENDING = "PENDING"
    READY = "READY"
    DESTROYING = "DESTROYING"
    DESTROYED = "DESTROYED"
    FAILED = "FAILED"


@attrs.define(eq=False)
class Volume:
    """A volume as it is now. `created` is in seconds after the emulator's start."""

    id: str
    name: str
    size_gb: int
    hourly_rate: float
    created: float
    created_at: str
    deletion_protection: bool = False
    status: VolumeStatus = VolumeStatus.PENDING
    attached_clusters: list[str] = attrs.field(factory=list[str])
    busy: Request | None = None
    """The request that is changing the volume. Until it ends, all other changes are refused."""

    @property
    def is_deleted(self) -> bool:
        """Whether it is destroyed."""
        return self.status is VolumeStatus.DESTROYED

    def as_json(self) -> dict[str, Any]:
        """Return it as the engine shows it."""
        return {
            "id": self.id,
            "name": self.name,
            "status": self.status.value,
            "size_gb": self.size_gb,
            "hourly_rate": self.hourly_rate,
            "attached_clusters": list(self.attached_clusters),
            "deletion_protection": self.deletion_protection,
            "created_at": self.created_at,
        }


@attrs.frozen
class VolumeEdit:
    """The fields to change. A field of None stays as it is."""

    name: str | None = None
    size_gb: int | None = None
    deletion_protection: bool | None = None


class VolumeStore:
    """Makes, changes and destroys volumes, and refuses what is not allowed. Names are no ids here."""

    def __init__(self, engine: Engine, billing: Billing) -> None:
        self.registry: Registry[Volume] = Registry(
            "storage volume", MAX_VOLUMES, engine.clock, names_are_ids=False
        )
        self._engine = engine
        self._world = engine.world
        self._clock = engine.clock
        self._record = engine.record
        self._billing = billing
        self._rng = engine.world.rng("volumes")

    def create(
        self, size_gb: int, name: str | None, scope: Scope, *, deletion_protection: bool
    ) -> tuple[Volume, Request]:
        """Raises Refusal when the name is taken, the balance does not cover a day, or there is no room."""
        self.registry.check_name(name)
        if not self._billing.covers_a_day(storage_rate(size_gb)):
            raise insufficient_balance("Insufficient balance: it must cover 24 hours of this storage volume")
        self.registry.check_room()
        volume = self._make(size_gb, name)
        volume.deletion_protection = deletion_protection
        return volume, self._engine.change(
            volume,
            RequestKind.STORAGE_CREATE,
            self._clock.draw(self._world.storage_seconds),
            scope,
            done=lambda: self._ready(volume),
            failed=lambda: self._fail(volume),
        )

    def _make(self, size_gb: int, name: str | None) -> Volume:
        now = self._clock.now()
        storage_id = f"s-{self._rng.getrandbits(48):012x}"
        name = name or f"volume-{storage_id[2:10]}"
        volume = Volume(storage_id, name, size_gb, storage_rate(size_gb), now, self._clock.iso(now))
        self.registry.add(volume)
        self._record.volume_made(Made(volume.id, volume.name, f"{size_gb} GB", now))
        return volume

    def edit(self, storage_id: str, edit: VolumeEdit, scope: Scope) -> tuple[Volume, Request]:
        """Raises Refusal when the volume is being changed, would shrink, or the name is another's."""
        volume = self.registry.find_free(storage_id)
        if edit.size_gb is not None and edit.size_gb < volume.size_gb:
            text = f"Value error, a storage volume of {volume.size_gb} GB can only grow"
            raise invalid(["body", "size_gb"], text, "value_error")
        self.registry.check_name(edit.name, owner=volume)
        return volume, self._engine.change(
            volume,
            RequestKind.STORAGE_EDIT,
            self._clock.draw(self._world.edit_seconds),
            scope,
            done=lambda: self._apply(volume, edit),
        )

    def _apply(self, volume: Volume, edit: VolumeEdit) -> None:
        if edit.name is not None and self.registry.rename(volume, edit.name):
            self._record.volume_renamed(volume.id, volume.name)
        if edit.deletion_protection is not None:
            volume.deletion_protection = edit.deletion_protection
        if edit.size_gb is not None:
            volume.size_gb, volume.hourly_rate = edit.size_gb, storage_rate(edit.size_gb)
            self._billing.charge(volume.id, volume.hourly_rate)

    def destroy(self, storage_id: str, scope: Scope) -> tuple[Volume, Request]:
        """Raises Refusal when the volume is protected, attached or being changed."""
        volume = self.registry.find_free(storage_id)
        if volume.deletion_protection:
            raise conflict(f"Storage volume {volume.id} has deletion protection enabled, disable it first")
        if volume.attached_clusters:
            raise conflict(f"Storage volume {volume.id} is attached to {', '.join(volume.attached_clusters)}")
        volume.status = VolumeStatus.DESTROYING
        return volume, self._engine.change(
            volume,
            RequestKind.STORAGE_DESTROY,
            self._clock.draw(self._world.storage_seconds),
            scope,
            done=lambda: self._end(volume),
            failed=lambda: self._fail(volume),
        )

    def cluster_changed(self, cluster: Cluster) -> None:
        """Detach everything from a cluster that is gone."""
        if cluster.is_deleted:
            for storage_id in cluster.storage:
                self.registry.by_id[storage_id].attached_clusters.remove(cluster.id)

    def _ready(self, volume: Volume) -> None:
        volume.status = VolumeStatus.READY
        self._billing.charge(volume.id, volume.hourly_rate)

    def _fail(self, volume: Volume) -> None:
        volume.status = VolumeStatus.FAILED
        self._billing.stop(volume.id)

    def _end(self, volume: Volume) -> None:
        volume.status = VolumeStatus.DESTROYED
        self._billing.stop(volume.id)
        self.registry.forget_name(volume)
        self._record.volume_gone(volume.id)


@attrs.frozen
class Attachments:
    """Attaches and detaches volumes. A volume may be on several clusters. Each change restarts all nodes."""

    engine: Engine
    clusters: ClusterStore
    volumes: VolumeStore

    def attach(self, storage_id: str, clusters: Sequence[str], scope: Scope) -> list[Request]:
        """Begin one request per cluster, or none at all.

        Raises:
            Refusal: A cluster cannot take the volume now.
        """
        volume = self._ready(storage_id)
        found = list({cluster.id: cluster for cluster in map(self._running, clusters)}.values())
        for cluster in found:
            if refusal := _unfit(volume, cluster):
                raise refusal
        # All requests take the same time, so the volume is free again when the last of them ends.
        seconds = self._draw()
        return [self._mount(volume, cluster, seconds, scope) for cluster in found]

    def detach(self, storage_id: str, cluster_id: str, scope: Scope) -> Request:
        """Raises Refusal when the volume is not attached there, or either is being changed."""
        volume, cluster = self._ready(storage_id), self._running(cluster_id)
        if volume.id not in cluster.storage:
            raise conflict(f"Storage volume {volume.id} is not attached to cluster {cluster.id}")

        def unmount() -> None:
            cluster.storage.remove(volume.id)
            volume.attached_clusters.remove(cluster.id)

        return self._restart(RequestKind.STORAGE_DETACH, volume, cluster, self._draw(), scope, done=unmount)

    def _draw(self) -> float:
        return self.engine.clock.draw(self.engine.world.attach_seconds)

    def _ready(self, storage_id: str) -> Volume:
        volume = self.volumes.registry.find_free(storage_id)
        if volume.status is not VolumeStatus.READY:
            raise conflict(f"Storage volume {volume.id} is {volume.status}, not READY")
        return volume

    def _running(self, cluster_id: str) -> Cluster:
        cluster = self.clusters.registry.find_free(cluster_id)
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
        def restarted() -> None:
            cluster.busy = None
            if volume.busy is request:
                volume.busy = None
            cluster.restarted()

        def changed() -> None:
            restarted()
            done()

        cluster.turn(ClusterStatus.CONFIGURING)
        requests = self.engine.requests
        request = requests.begin(kind, volume.id, seconds, scope, done=changed, failed=restarted)
        requests.concerns(request, cluster.id)
        cluster.busy = volume.busy = request
        return request


def _unfit(volume: Volume, cluster: Cluster) -> Refusal | None:
    if cluster.num_nodes == 1 and not is_cpu(cluster.instance_type):
        return conflict(
            f"Storage volumes attach to multi-node GPU clusters and CPU instances, not to {cluster.instance_type}"
        )
    if volume.id in cluster.storage:
        return conflict(f"Storage volume {volume.id} is attached to cluster {cluster.id} already")
    if max(len(cluster.storage), len(volume.attached_clusters)) >= MAX_ITEMS:
        return too_many("attachments of one volume or cluster", MAX_ITEMS)
    return None


@attrs.frozen
class VolumeEndpoints:
    """The endpoints under /storage."""

    engine: Engine
    volumes: VolumeStore
    attachments: Attachments

    def create(self, exchange: Exchange) -> Reply:
        fields = exchange.fields()
        size, name = fields.whole("size", required=True), fields.text("name")
        protection = fields.flag("deletion_protection")
        fields.check()
        volume, request = self.volumes.create(
            size or 1, name, exchange.scope, deletion_protection=protection or False
        )
        message = f"Storage volume {volume.name} ({volume.id}) is being created"
        return self._accepted(exchange, request, storage_id=volume.id, message=message)

    def list(self, exchange: Exchange) -> Reply:
        volumes = [] if exchange.flag("include_org") else self.volumes.registry.visible(exchange.scope)
        message = table(
            "Storage volumes",
            ["ID", "NAME", "GB", "STATUS", "ATTACHED TO", "USD/H"],
            ((v.id, v.name, v.size_gb, v.status, _attached(v), f"{v.hourly_rate:.4f}") for v in volumes),
            empty="No storage volumes found",
        )
        return Reply(200, {"message": message, "volumes": [volume.as_json() for volume in volumes]})

    def info(self, exchange: Exchange) -> Reply:
        volume = self.volumes.registry.find_visible(exchange.argument, exchange.scope)
        facts = {
            "id": volume.id,
            "size": f"{volume.size_gb} GB",
            "status": volume.status,
            "price": f"${volume.hourly_rate:.4f} per hour",
            "attached to": _attached(volume),
            "deletion protection": volume.deletion_protection,
            "created": volume.created_at,
        }
        message = card(f"Storage volume {volume.name}", facts)
        return Reply(200, {"message": message, "storage_info": volume.as_json()})

    def edit(self, exchange: Exchange) -> Reply:
        fields = exchange.fields()
        name, size = fields.text("tp_storage_name"), fields.whole("size_gb")
        edit = VolumeEdit(name, size, fields.flag("deletion_protection"))
        fields.check()
        fields.need_one_of("tp_storage_name", "size_gb", "deletion_protection")
        volume, request = self.volumes.edit(exchange.argument, edit, exchange.scope)
        return self._accepted(exchange, request, message=f"Storage volume {volume.id} is being edited")

    def destroy(self, exchange: Exchange) -> Reply:
        volume, request = self.volumes.destroy(exchange.argument, exchange.scope)
        message = f"Storage volume {volume.name} ({volume.id}) is being destroyed"
        return self._accepted(exchange, request, storage_id=volume.id, message=message)

    def attach(self, exchange: Exchange) -> Reply:
        fields = exchange.fields()
        storage_id = fields.text("storage_id", required=True)
        clusters = fields.texts("cluster_ids", required=True)
        if not clusters and not fields.problems:
            fields.reject("cluster_ids", "List should have at least 1 item after validation", "too_short")
        fields.check()
        requests = self.attachments.attach(storage_id or "", clusters, exchange.scope)
        ids = [self.engine.requests.visible_id(request, exchange.scope) for request in requests]
        body = {
            "storage_id": storage_id,
            "cluster_ids": list(clusters),
            "request_ids": [request_id for request_id in ids if request_id],
            "message": f"Storage volume {storage_id} is being attached, the nodes will restart",
        }
        return Reply(202, body)

    def detach(self, exchange: Exchange) -> Reply:
        fields = exchange.fields()
        storage_id = fields.text("storage_id", required=True)
        cluster_id = fields.text("cluster_id", required=True)
        fields.check()
        request = self.attachments.detach(storage_id or "", cluster_id or "", exchange.scope)
        message = f"Storage volume {storage_id} is being detached, the nodes will restart"
        return self._accepted(
            exchange, request, storage_id=storage_id, cluster_id=cluster_id, message=message
        )

    def quote(self, exchange: Exchange) -> Reply:
        return Reply(200, {"hourly_rate": storage_rate(exchange.whole("size_gb"))})

    def _accepted(self, exchange: Exchange, request: Request, **body: object) -> Reply:
        return self.engine.requests.accepted(request, exchange.scope, body)


def _attached(volume: Volume) -> str | None:
    return ", ".join(volume.attached_clusters) or None
