"""The storage volumes of the engine: names, sizes, states."""

import random
from collections.abc import Callable

import attrs

from tensorpool_async.emulator.answers import conflict, invalid, name_taken, not_found, too_poor
from tensorpool_async.emulator.clock import Clock, Duration
from tensorpool_async.emulator.cluster import Cluster, ClusterStatus
from tensorpool_async.emulator.faults import Scope
from tensorpool_async.emulator.ledger import Ledger
from tensorpool_async.emulator.prices import storage_rate
from tensorpool_async.emulator.record import Made, Record
from tensorpool_async.emulator.requests import Request, RequestKind, Requests
from tensorpool_async.emulator.volume import Volume, VolumeStatus


@attrs.frozen
class VolumeEdit:
    """What is to change; None stays as it is."""

    name: str | None = None
    size_gb: int | None = None
    deletion_protection: bool | None = None


class Volumes:
    """Makes, changes and destroys volumes, and refuses what may not be."""

    def __init__(
        self,
        *,
        clock: Clock,
        record: Record,
        ledger: Ledger,
        requests: Requests,
        seconds: Duration,
        edit_seconds: Duration,
        rng: random.Random,
    ) -> None:
        self.by_id: dict[str, Volume] = {}
        self._clock = clock
        self._record = record
        self._ledger = ledger
        self._requests = requests
        self._seconds = seconds
        self._edit_seconds = edit_seconds
        self._rng = rng
        self._names: dict[str, Volume] = {}

    @property
    def living(self) -> list[Volume]:
        return list(self._names.values())

    def find(self, storage_id: str) -> Volume:
        """Raises Refusal when there is no such living volume; names are no ids here."""
        volume = self.by_id.get(storage_id)
        if volume is None or volume.status is VolumeStatus.DESTROYED:
            raise not_found(f"Storage volume {storage_id}")
        return volume

    def free(self, storage_id: str) -> Volume:
        """The volume, if no request is changing it. Raises Refusal otherwise."""
        volume = self.find(storage_id)
        if volume.busy is not None:
            raise conflict(f"Storage volume {volume.id} is being changed by request {volume.busy.id}")
        return volume

    def create(
        self, size_gb: int, name: str | None, scope: Scope, *, deletion_protection: bool
    ) -> tuple[Volume, Request]:
        """Raises Refusal when the name is taken, or the balance does not cover a day."""
        if name in self._names:
            raise name_taken("storage volume", name)
        if not self._ledger.covers_a_day(storage_rate(size_gb)):
            raise too_poor("Insufficient balance: it must cover 24 hours of this storage volume")
        volume = self._make(size_gb, name)
        volume.deletion_protection = deletion_protection
        seconds = self._clock.draw(self._seconds)
        return volume, self._change(
            volume,
            RequestKind.STORAGE_CREATE,
            seconds,
            scope,
            done=lambda: self._ready(volume),
            failed=lambda: self._fails(volume),
        )

    def _make(self, size_gb: int, name: str | None) -> Volume:
        now = self._clock.now()
        storage_id = f"s-{self._rng.getrandbits(48):012x}"
        name = name or f"volume-{storage_id[2:10]}"
        volume = Volume(storage_id, name, size_gb, storage_rate(size_gb), now, self._clock.iso(now))
        self.by_id[volume.id] = self._names[volume.name] = volume
        self._record.volume_made(Made(volume.id, volume.name, f"{size_gb} GB", now))
        return volume

    def edit(self, storage_id: str, edit: VolumeEdit, scope: Scope) -> tuple[Volume, Request]:
        """Raises Refusal when it is being changed, would shrink, or the name is another's."""
        volume = self.free(storage_id)
        if edit.size_gb is not None and edit.size_gb < volume.size_gb:
            text = f"Value error, a storage volume of {volume.size_gb} GB can only grow"
            raise invalid(["body", "size_gb"], text, "value_error")
        if edit.name is not None and self._names.get(edit.name, volume) is not volume:
            raise name_taken("storage volume", edit.name)
        return volume, self._change(
            volume,
            RequestKind.STORAGE_EDIT,
            self._clock.draw(self._edit_seconds),
            scope,
            done=lambda: self._apply(volume, edit),
        )

    def _apply(self, volume: Volume, edit: VolumeEdit) -> None:
        if edit.name is not None and edit.name != volume.name and edit.name not in self._names:
            del self._names[volume.name]
            volume.name = edit.name
            self._names[volume.name] = volume
            self._record.volume_renamed(volume.id, volume.name)
        if edit.deletion_protection is not None:
            volume.deletion_protection = edit.deletion_protection
        if edit.size_gb is not None:
            volume.size_gb, volume.hourly_rate = edit.size_gb, storage_rate(edit.size_gb)
            self._ledger.charge(volume.id, volume.hourly_rate)

    def destroy(self, storage_id: str, scope: Scope) -> tuple[Volume, Request]:
        """Raises Refusal when it is protected, attached or being changed."""
        volume = self.free(storage_id)
        if volume.deletion_protection:
            raise conflict(f"Storage volume {volume.id} has deletion protection enabled, disable it first")
        if volume.attached_clusters:
            raise conflict(f"Storage volume {volume.id} is attached to {', '.join(volume.attached_clusters)}")
        volume.status = VolumeStatus.DESTROYING
        return volume, self._change(
            volume,
            RequestKind.STORAGE_DESTROY,
            self._clock.draw(self._seconds),
            scope,
            done=lambda: self._gone(volume),
            failed=lambda: self._fails(volume),
        )

    def cluster_changed(self, cluster: Cluster) -> None:
        """A cluster that is gone has nothing attached."""
        if cluster.status is ClusterStatus.DESTROYED:
            for storage_id in cluster.storage:
                self.by_id[storage_id].attached_clusters.remove(cluster.id)

    def _ready(self, volume: Volume) -> None:
        volume.status = VolumeStatus.READY
        self._ledger.charge(volume.id, volume.hourly_rate)

    def _fails(self, volume: Volume) -> None:
        volume.status = VolumeStatus.FAILED
        self._ledger.stop(volume.id)

    def _gone(self, volume: Volume) -> None:
        volume.status = VolumeStatus.DESTROYED
        self._ledger.stop(volume.id)
        del self._names[volume.name]
        self._record.volume_gone(volume.id)

    def _change(
        self,
        volume: Volume,
        kind: RequestKind,
        seconds: float,
        scope: Scope,
        *,
        done: Callable[[], object],
        failed: Callable[[], object] = lambda: None,
    ) -> Request:
        def end(then: Callable[[], object]) -> Callable[[], None]:
            def ended() -> None:
                volume.busy = None
                then()

            return ended

        request = self._requests.begin(kind, volume.id, seconds, scope, done=end(done), failed=end(failed))
        volume.busy = request
        return request
