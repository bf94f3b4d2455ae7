"""Storage volumes.

Which fields the engine sends is not documented; a third-party client reports those below. So all but the id may be None.
"""

from __future__ import annotations

from typing import Any

import attrs

from tensorpool_async.models.enums import StorageStatus
from tensorpool_async.models.wire_names import names


@attrs.frozen
class StorageVolume:
    """A volume as the engine describes it (`GET /storage/info/{storage_id}`).

    Attributes:
        id: The volume's id.
        name: Its name.
        status: READY when it can be attached; other states are not documented.
        size_gb: Its size in GB; it can grow and never shrink.
        hourly_rate: What it costs, in USD per hour, until it is destroyed.
        attached_clusters: The ids of the clusters that it is attached to, where it is mounted at `/mnt/<id>`.
        deletion_protection: Whether destroying it is refused.
        created_at: When it was made, as ISO 8601 text, as sent.
        extra: Fields of the answer that this package does not know.
    """

    id: str = attrs.field(metadata=names("id", "storage_id"))
    name: str | None = attrs.field(default=None, metadata=names("name", "tp_storage_name"))
    status: StorageStatus | None = None
    size_gb: int | None = attrs.field(default=None, metadata=names("size_gb", "size"))
    hourly_rate: float | None = None
    attached_clusters: tuple[str, ...] = ()
    deletion_protection: bool | None = None
    created_at: str | None = None
    extra: dict[str, Any] = attrs.field(factory=dict[str, Any], kw_only=True, hash=False)
