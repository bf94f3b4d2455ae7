"""The way down of the clusters of a fleet."""

from __future__ import annotations

import attrs

from tensorpool_async.client import TensorPool
from tensorpool_async.fleet.progress import FleetProgress
from tensorpool_async.fleet.report import MemberState
from tensorpool_async.models import Cluster
from tensorpool_async.resources.deletion import COMING


@attrs.frozen
class Teardown:
    """What the clusters of a fleet share on their way down."""

    tp: TensorPool
    progress: FleetProgress

    async def take_down(self, cluster: Cluster) -> None:
        """Destroy one cluster, and take down what became of it; its failure is no failure of the others."""
        message = "waiting for the end of its creation" if cluster.status in COMING else ""
        self.progress.begins_to_go(cluster.id, message)
        try:
            await self.tp.clusters.for_exit.lifecycle.destroy(cluster)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not take the other members along
            self.progress.fails(cluster.id, error)
        else:
            self.progress.change(cluster.id, MemberState.DESTROYED, hourly_rate=None)
