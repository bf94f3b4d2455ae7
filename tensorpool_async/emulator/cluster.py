"""What a cluster is: its nodes, its state, and how it is shown."""

from enum import StrEnum
from typing import Any

import attrs

from tensorpool_async.emulator.requests import Request


class ClusterStatus(StrEnum):
    """Where a cluster or a node of it stands."""

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
    """The request that is changing it: until that ends, all others are refused."""
    holds: int = 0
    """The nodes that it takes from the capacity."""

    def turn(self, status: ClusterStatus) -> None:
        """The cluster's status is that of its nodes."""
        self.status = status
        for instance in self.instances:
            instance.status = status

    def restarted(self) -> None:
        """Let all nodes have started once more."""
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
