"""The members of a fleet as the body of its `async with` block sees them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import overload

from tensorpool_async.fleet.report import FleetReport
from tensorpool_async.fleet.spec import Fleet
from tensorpool_async.models import Cluster, StorageVolume


class FleetMembers(Sequence[Cluster]):
    """The clusters of a fleet that run, in the order of the fleet file; `members["sweep-trainer-0"]` takes names too.

    A member that failed, where `min_ready` allows it, is not among them.
    """

    def __init__(
        self,
        fleet: Fleet,
        clusters: Mapping[str, Cluster],
        volumes: Mapping[str, StorageVolume],
        report: Callable[[], FleetReport],
    ) -> None:
        self._fleet = fleet
        self._clusters = dict(clusters)
        self._order = tuple(self._clusters.values())
        self._volumes = dict(volumes)
        self._report = report

    @property
    def report(self) -> FleetReport:
        """How the fleet stands, also after the block."""
        return self._report()

    @property
    def volumes(self) -> Mapping[str, StorageVolume]:
        """The volumes, by their names in the fleet file."""
        return MappingProxyType(self._volumes)

    def group(self, name: str) -> list[Cluster]:
        """Return the clusters of a group that run.

        Raises:
            KeyError: The fleet has no such group.
        """
        if name not in {group.name for group in self._fleet.clusters}:
            raise KeyError(name)
        return [
            self._clusters[member.name]
            for member in self._fleet.members
            if member.group.name == name and member.name in self._clusters
        ]

    @overload
    def __getitem__(self, key: int | str) -> Cluster: ...

    @overload
    def __getitem__(self, key: slice) -> tuple[Cluster, ...]: ...

    def __getitem__(self, key: int | str | slice) -> Cluster | tuple[Cluster, ...]:
        return self._clusters[key] if isinstance(key, str) else self._order[key]

    def __len__(self) -> int:
        return len(self._order)

    def __repr__(self) -> str:
        return f"<FleetMembers of {self._fleet.name}: {', '.join(self._clusters) or 'none'}>"
