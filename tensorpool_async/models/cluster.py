"""Clusters, their instances, and what they cost.

Which fields the engine sends is not documented: `id`, `name`, `instance_type`, `instances`, `storage` and
`deletion_protection` are reported by a third-party client, the others are inferred. So all but the id may be None.
"""

from __future__ import annotations

from typing import Any

import attrs

from tensorpool_async.models.enums import ClusterStatus
from tensorpool_async.models.wire_names import names


@attrs.frozen
class Instance:
    """One machine of a cluster.

    Attributes:
        id: The instance's id, as `tp.ssh.command` takes it.
        status: The same states as a cluster's.
        ip_address: The public address, once there is one; workers of a multi-node cluster have none.
        private_ip_address: The address inside the cluster.
        extra: Fields of the answer that this package does not know.
    """

    id: str | None = attrs.field(default=None, metadata=names("id", "instance_id"))
    status: ClusterStatus | None = None
    # The name of the field is not known: users are said to read an address, and nobody says where.
    ip_address: str | None = attrs.field(
        default=None, metadata=names("ip_address", "public_ip", "public_ip_address", "ip", "ipv4")
    )
    private_ip_address: str | None = attrs.field(
        default=None, metadata=names("private_ip_address", "private_ip")
    )
    extra: dict[str, Any] = attrs.field(factory=dict[str, Any], kw_only=True, hash=False)


@attrs.frozen
class Cluster:
    """A cluster as the engine describes it (`GET /cluster/info/{cluster}`).

    Attributes:
        id: The cluster's id.
        name: Its name, unique among the living clusters of a user or an organization.
        status: PENDING, PROVISIONING, CONFIGURING, RUNNING, DESTROYING, DESTROYED or FAILED.
        instance_type: For example `8xH100`: the GPUs of one node.
        num_nodes: How many nodes it has.
        instances: Its machines.
        storage: The ids of the volumes attached to it.
        deletion_protection: Whether destroying it is refused.
        created_at: When it was made, as ISO 8601 text, as sent.
        container: The container image that it was made with.
        hourly_rate: What the whole cluster costs, in USD per hour.
        extra: Fields of the answer that this package does not know.
    """

    id: str = attrs.field(metadata=names("id", "cluster_id"))
    name: str | None = attrs.field(default=None, metadata=names("name", "tp_cluster_name", "cluster_name"))
    status: ClusterStatus | None = None
    instance_type: str | None = None
    num_nodes: int | None = None
    instances: tuple[Instance, ...] = ()
    storage: tuple[str, ...] = ()
    deletion_protection: bool | None = None
    created_at: str | None = None
    container: str | None = attrs.field(default=None, metadata=names("container", "experimental_container"))
    hourly_rate: float | None = None
    extra: dict[str, Any] = attrs.field(factory=dict[str, Any], kw_only=True, hash=False)

    @property
    def ip_address(self) -> str | None:
        """The first public address among its machines, or None as long as there is none."""
        return next((instance.ip_address for instance in self.instances if instance.ip_address), None)


@attrs.frozen
class Quote:
    """A price.

    Attributes:
        hourly_rate: USD per hour, for all of what was asked about.
        extra: Fields of the answer that this package does not know.
    """

    hourly_rate: float
    extra: dict[str, Any] = attrs.field(factory=dict[str, Any], kw_only=True, hash=False)
