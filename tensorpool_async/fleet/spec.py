"""What a fleet is: groups of clusters and of volumes, and the names that its members have.

The same rules hold for a fleet that is read from a file and for one that is written in Python. A mistake is a
`FleetFileError` with the key; for a file, also with its path and line (see `load`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, Literal, cast

import attrs

from tensorpool_async.errors import FleetFileError
from tensorpool_async.fleet.public_keys import check_public_key


# Far above any fleet that somebody would pay for: a count that is larger is a slip of the hand.
MAX_MEMBERS = 10_000

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?")
_INDEX = re.compile(r"0|[1-9][0-9]*")


def _as_tuple(value: object) -> tuple[Any, ...]:
    """Make a tuple of what is a list; what is none is left for the validator to complain about."""
    is_list = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    return tuple(cast("Sequence[Any]", value)) if is_list else cast("tuple[Any, ...]", value)


def _is_tuple_of(kind: type[object], value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(item, kind) for item in cast("tuple[Any, ...]", value))


def _one_or_more(value: str | Sequence[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else _as_tuple(value)


def _texts(value: Sequence[str]) -> tuple[str, ...]:
    return _as_tuple(value)


def _cluster_groups(value: Sequence[ClusterGroup]) -> tuple[ClusterGroup, ...]:
    return _as_tuple(value)


def _volume_groups(value: Sequence[VolumeGroup]) -> tuple[VolumeGroup, ...]:
    return _as_tuple(value)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _is_name(_: object, field: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, str):
        raise FleetFileError(f"must be a text, not {_shown(value)}", key=field.name)
    if not _NAME.fullmatch(value):
        raise FleetFileError(
            f"{_shown(value)} is no name: names are letters, digits and hyphens, with no hyphen at either end",
            key=field.name,
        )


def _is_count(_: object, field: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise FleetFileError(f"must be a whole number above 0, not {_shown(value)}", key=field.name)


def _is_flag(_: object, field: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, bool):
        raise FleetFileError(f"must be true or false, not {_shown(value)}", key=field.name)


def _is_text_or_none(_: object, field: attrs.Attribute[Any], value: object) -> None:
    if value is not None and (not isinstance(value, str) or not value.strip()):
        raise FleetFileError(f"must be a text that is not empty, not {_shown(value)}", key=field.name)


def _is_cost_or_none(_: object, field: attrs.Attribute[Any], value: Any) -> None:
    if value is None:
        return
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (is_number and math.isfinite(value) and value > 0):
        raise FleetFileError(
            f"must be a number above 0, in USD per hour, not {_shown(value)}", key=field.name
        )


def _are_texts(_: object, field: attrs.Attribute[Any], value: object) -> None:
    if not _is_tuple_of(str, value):
        raise FleetFileError(f"must be a list of texts, not {_shown(value)}", key=field.name)


def _are_types(_: object, field: attrs.Attribute[Any], value: tuple[str, ...]) -> None:
    if not _is_tuple_of(str, value):
        raise FleetFileError(
            f"must be an instance type such as '8xH100', or a list of them, not {_shown(value)}",
            key=field.name,
        )
    if not value:
        raise FleetFileError("the list is empty: at least one instance type is needed", key=field.name)
    for item in value:
        if not item.strip():
            raise FleetFileError("an instance type is empty", key=field.name)
        if value.count(item) > 1:
            raise FleetFileError(f"{item!r} is there twice", key=field.name)


def _are_public_keys(_: object, field: attrs.Attribute[Any], value: tuple[str, ...]) -> None:
    _are_texts(_, field, value)
    for item in value:
        try:
            check_public_key(item)
        except ValueError as error:
            raise FleetFileError(str(error), key=field.name) from None


def _are_groups(_: object, field: attrs.Attribute[Any], value: object) -> None:
    kind = ClusterGroup if field.name == "clusters" else VolumeGroup
    if not _is_tuple_of(kind, value):
        raise FleetFileError(f"must be a list of {kind.__name__}, not {_shown(value)}", key=field.name)


@attrs.frozen
class ClusterGroup:
    """Clusters that are made alike.

    Attributes:
        name: The group's name; its members are called `{fleet}-{name}-{index}`.
        instance_type: What to rent, for example `8xH100`, or several in order of preference: the next one is taken
            where there is no capacity for the one before.
        count: How many clusters.
        num_nodes: How many nodes each of them has.
        public_keys: OpenSSH public keys to put on them, beside those saved at the engine.
        container: A container image to run.
        deletion_protection: Whether destroying them is refused.
    """

    name: str = attrs.field(validator=_is_name)
    instance_type: tuple[str, ...] = attrs.field(
        converter=_one_or_more,
        validator=_are_types,
    )
    count: int = attrs.field(default=1, validator=_is_count, kw_only=True)
    num_nodes: int = attrs.field(default=1, validator=_is_count, kw_only=True)
    public_keys: tuple[str, ...] = attrs.field(
        default=(),
        converter=_texts,
        validator=_are_public_keys,
        kw_only=True,
    )
    container: str | None = attrs.field(default=None, validator=_is_text_or_none, kw_only=True)
    deletion_protection: bool = attrs.field(default=False, validator=_is_flag, kw_only=True)


@attrs.frozen
class VolumeGroup:
    """A volume, and the groups that it is attached to.

    Attributes:
        name: The volume's name in the fleet; at the engine it is called `{fleet}-{name}`.
        size_gb: Its size in GB.
        attach_to: Names of cluster groups.
        deletion_protection: Whether destroying it is refused.
    """

    name: str = attrs.field(validator=_is_name)
    size_gb: int = attrs.field(validator=_is_count)
    attach_to: tuple[str, ...] = attrs.field(
        default=(),
        converter=_texts,
        validator=_are_texts,
        kw_only=True,
    )
    deletion_protection: bool = attrs.field(default=False, validator=_is_flag, kw_only=True)


@attrs.frozen
class Member:
    """One cluster of a fleet, as it should be. Its name is its identity."""

    name: str
    group: ClusterGroup
    index: int


@attrs.frozen
class Fleet:
    """A set of clusters and volumes that are brought up and taken down together.

    Attributes:
        name: What the names of all its members begin with.
        clusters: The groups of clusters; at least one.
        volumes: The volumes.
        max_hourly_cost: The most that all clusters together may cost, in USD per hour; None is no limit.

    Raises:
        FleetFileError: A value that cannot be; `key` says which.
    """

    name: str = attrs.field(validator=_is_name)
    clusters: tuple[ClusterGroup, ...] = attrs.field(converter=_cluster_groups, validator=_are_groups)
    volumes: tuple[VolumeGroup, ...] = attrs.field(
        default=(),
        converter=_volume_groups,
        validator=_are_groups,
    )
    max_hourly_cost: float | None = attrs.field(default=None, validator=_is_cost_or_none, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if not self.clusters:
            raise FleetFileError("a fleet needs at least one group of clusters", key="clusters")
        self._check_size()
        self._check_names("clusters", [group.name for group in self.clusters])
        self._check_names("volumes", [volume.name for volume in self.volumes])
        for volume in self.volumes:
            self._check_volume(volume)

    def _check_size(self) -> None:
        total = 0
        for group in self.clusters:
            total += group.count
            if total > MAX_MEMBERS:
                raise FleetFileError(
                    f"{total} clusters are more than the {MAX_MEMBERS} that a fleet can have",
                    key=f"clusters.{group.name}.count",
                )

    def _check_names(self, kind: Literal["clusters", "volumes"], names: list[str]) -> None:
        seen: dict[str, str] = {}
        for name in names:
            # Whether the engine tells `Data` from `data` is not known, and people do not.
            twin = seen.setdefault(name.casefold(), name)
            if names.count(name) > 1 or twin != name:
                raise FleetFileError(
                    f"there are two of this name ({twin} and {name}): members need names of their own",
                    key=f"{kind}.{name}",
                )

    def _check_volume(self, volume: VolumeGroup) -> None:
        key = f"volumes.{volume.name}"
        if self.group_of(f"{self.name}-{volume.name}") is not None:
            raise FleetFileError(
                f"the volume would be called {self.name}-{volume.name}, as a cluster of this fleet is",
                key=key,
            )
        known = [group.name for group in self.clusters]
        for target in volume.attach_to:
            if target not in known:
                raise FleetFileError(
                    f"there is no group {_shown(target)}: the groups are {', '.join(known)}",
                    key=f"{key}.attach_to",
                )

    @property
    def members(self) -> tuple[Member, ...]:
        """The clusters that the fleet should have, group by group."""
        return tuple(
            Member(f"{self.name}-{group.name}-{index}", group, index)
            for group in self.clusters
            for index in range(group.count)
        )

    def group_of(self, name: str) -> ClusterGroup | None:
        """Return the group that a cluster of this name belongs to, also beyond its count; None if it is no member."""
        prefix, _, index = name.rpartition("-")
        if not _INDEX.fullmatch(index):
            return None
        return next((group for group in self.clusters if prefix == f"{self.name}-{group.name}"), None)
