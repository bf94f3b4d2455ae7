"""What a storage volume is, and how it is shown."""

from enum import StrEnum
from typing import Any

import attrs

from tensorpool_async.emulator.requests import Request


class VolumeStatus(StrEnum):
    """Where a volume stands."""

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
    """The request that is changing it: until that ends, all others are refused."""

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
