"""Define a fleet: its groups of clusters, its volumes, and the names of its members.

The rules are the same for a fleet that is read from a file and for one that is built in Python. An invalid value raises
`FleetFileError` with the key; `load` adds the path and the line.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Sequence
from typing import Any, Literal, cast

import attrs

from tensorpool_async.errors import FleetFileError
from tensorpool_async.protocol.public_keys import MARKS_OF_PRIVATE_KEYS


MAX_MEMBERS = 10_000
"""Clusters in one fleet. Nobody pays for more: a larger count is a typing error."""

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?")
_INDEX = re.compile(r"0|[1-9][0-9]*")
_KEY_TYPE = re.compile(
    r"(?:ssh-(?:ed25519|rsa|dss)|ecdsa-sha2-nistp(?:256|384|521)"
    r"|sk-(?:ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com)"
    r"(?:-cert-v01@openssh\.com)?"
)


def check_public_key(text: str) -> None:
    """Check that a text is one OpenSSH public key.

    Raises:
        ValueError: It is not. The message does not contain the text, which may be a private key.
    """
    if is_private_key(text):
        raise ValueError("this is a private key; use the public key, from the file that ends in .pub")
    words = text.split(maxsplit=2)
    if len(text.strip().splitlines()) != 1 or len(words) < 2 or not _is_key_blob(words[0], words[1]):
        raise ValueError(
            "this is not an OpenSSH public key, which is one line such as 'ssh-ed25519 AAAA… name'"
        )


def is_private_key(text: str) -> bool:
    """Whether a text contains the header of a private key."""
    return any(mark in text for mark in MARKS_OF_PRIVATE_KEYS)


def is_key_type(word: str) -> bool:
    """Whether a word is the type of an OpenSSH public key, such as `ssh-ed25519`."""
    return _KEY_TYPE.fullmatch(word) is not None


def _is_key_blob(key_type: str, encoded: str) -> bool:
    try:
        blob = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return False
    # The blob starts with the length of the key type, then the key type.
    size = int.from_bytes(blob[:4], "big")
    return is_key_type(key_type) and blob[4 : 4 + size] == key_type.encode() and len(blob) > 4 + size


def _as_tuple(value: object) -> tuple[Any, ...]:
    """Convert a sequence to a tuple; return any other value as it is, for the validator to refuse."""
    is_list = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    return tuple(cast("Sequence[Any]", value)) if is_list else cast("tuple[Any, ...]", value)


def _is_tuple_of(kind: type[object], value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(item, kind) for item in cast("tuple[Any, ...]", value))


def _as_string_tuple(value: str | Sequence[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else _as_tuple(value)


def _strings(value: Sequence[str]) -> tuple[str, ...]:
    return _as_tuple(value)


def _cluster_groups(value: Sequence[ClusterGroup]) -> tuple[ClusterGroup, ...]:
    return _as_tuple(value)


def _volume_groups(value: Sequence[VolumeGroup]) -> tuple[VolumeGroup, ...]:
    return _as_tuple(value)


def _short_repr(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _is_name(_: object, field: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, str):
        raise FleetFileError(f"must be a string, not {_short_repr(value)}", key=field.name)
    if not _NAME.fullmatch(value):
        raise FleetFileError(
            f"{_short_repr(value)} is not a valid name: names consist of letters, digits and hyphens, "
            "and start and end with a letter or a digit",
            key=field.name,
        )


def _is_count(_: object, field: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise FleetFileError(f"must be a whole number above 0, not {_short_repr(value)}", key=field.name)


def _is_bool(_: object, field: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, bool):
        raise FleetFileError(f"must be true or false, not {_short_repr(value)}", key=field.name)


def _is_string_or_none(_: object, field: attrs.Attribute[Any], value: object) -> None:
    if value is not None and (not isinstance(value, str) or not value.strip()):
        raise FleetFileError(f"must be a string that is not empty, not {_short_repr(value)}", key=field.name)


def _is_cost_or_none(_: object, field: attrs.Attribute[Any], value: Any) -> None:
    if value is None:
        return
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (is_number and math.isfinite(value) and value > 0):
        raise FleetFileError(
            f"must be a number above 0, in USD per hour, not {_short_repr(value)}", key=field.name
        )


def _are_strings(_: object, field: attrs.Attribute[Any], value: object) -> None:
    if not _is_tuple_of(str, value):
        raise FleetFileError(f"must be a list of strings, not {_short_repr(value)}", key=field.name)


def _are_instance_types(_: object, field: attrs.Attribute[Any], value: tuple[str, ...]) -> None:
    if not _is_tuple_of(str, value):
        raise FleetFileError(
            f"must be an instance type such as '8xH100', or a list of them, not {_short_repr(value)}",
            key=field.name,
        )
    if not value:
        raise FleetFileError("the list is empty: at least one instance type is needed", key=field.name)
    for item in value:
        if not item.strip():
            raise FleetFileError("an instance type is empty", key=field.name)
        if value.count(item) > 1:
            raise FleetFileError(f"{item!r} is listed twice", key=field.name)


def _are_public_keys(_: object, field: attrs.Attribute[Any], value: tuple[str, ...]) -> None:
    _are_strings(_, field, value)
    for item in value:
        try:
            check_public_key(item)
        except ValueError as error:
            raise FleetFileError(str(error), key=field.name) from None


def _are_groups(_: object, field: attrs.Attribute[Any], value: object) -> None:
    kind = ClusterGroup if field.name == "clusters" else VolumeGroup
    if not _is_tuple_of(kind, value):
        raise FleetFileError(f"must be a list of {kind.__name__}, not {_short_repr(value)}", key=field.name)


@attrs.frozen
class ClusterGroup:
    """Clusters with the same settings.

    Attributes:
        name: The group's name; its members are named `{fleet}-{name}-{index}`.
        instance_type: An instance type such as `8xH100`, or several in order of preference: where the engine has no
            capacity for one, the next one is requested.
        count: The number of clusters.
        num_nodes: The number of nodes of each cluster.
        public_keys: OpenSSH public keys to install, in addition to those saved at the engine.
        container: A container image to run, or None.
        deletion_protection: Whether the engine refuses to destroy the clusters.
    """

    name: str = attrs.field(validator=_is_name)
    instance_type: tuple[str, ...] = attrs.field(
        converter=_as_string_tuple,
        validator=_are_instance_types,
    )
    count: int = attrs.field(default=1, validator=_is_count, kw_only=True)
    num_nodes: int = attrs.field(default=1, validator=_is_count, kw_only=True)
    public_keys: tuple[str, ...] = attrs.field(
        default=(),
        converter=_strings,
        validator=_are_public_keys,
        kw_only=True,
    )
    container: str | None = attrs.field(default=None, validator=_is_string_or_none, kw_only=True)
    deletion_protection: bool = attrs.field(default=False, validator=_is_bool, kw_only=True)


@attrs.frozen
class VolumeGroup:
    """A volume, and the groups of clusters that it is attached to.

    Attributes:
        name: The volume's name in the fleet; at the engine its name is `{fleet}-{name}`.
        size_gb: The size in GB.
        attach_to: The names of groups of clusters.
        deletion_protection: Whether the engine refuses to destroy the volume.
    """

    name: str = attrs.field(validator=_is_name)
    size_gb: int = attrs.field(validator=_is_count)
    attach_to: tuple[str, ...] = attrs.field(
        default=(),
        converter=_strings,
        validator=_are_strings,
        kw_only=True,
    )
    deletion_protection: bool = attrs.field(default=False, validator=_is_bool, kw_only=True)


@attrs.frozen
class Member:
    """One cluster that a fleet should have. Its name is its identity.

    Attributes:
        name: The cluster's name, `{fleet}-{group}-{index}`.
        group: The group that the cluster belongs to.
        index: The number of the cluster in its group, from 0.
    """

    name: str
    group: ClusterGroup
    index: int


@attrs.frozen
class Fleet:
    """A set of clusters and volumes that are brought up and taken down together.

    Attributes:
        name: The fleet's name, with which the names of all members start.
        clusters: The groups of clusters; at least one.
        volumes: The volumes.
        max_hourly_cost: The most that all clusters and volumes together may cost, in USD per hour; None means no limit.

    Raises:
        FleetFileError: A value is invalid; `key` names it.
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
                    f"{total} clusters are more than the {MAX_MEMBERS} that a fleet may have",
                    key=f"clusters.{group.name}.count",
                )

    def _check_names(self, kind: Literal["clusters", "volumes"], names: list[str]) -> None:
        seen: dict[str, str] = {}
        for name in names:
            # Whether the engine treats `Data` and `data` as two names is not known, and people confuse them.
            first = seen.setdefault(name.casefold(), name)
            if names.count(name) > 1 or first != name:
                raise FleetFileError(
                    f"this name is used twice ({first} and {name}): each needs a different name",
                    key=f"{kind}.{name}",
                )

    def _check_volume(self, volume: VolumeGroup) -> None:
        key = f"volumes.{volume.name}"
        name = volume_name(self, volume)
        if self.group_of(name) is not None:
            raise FleetFileError(
                f"the volume would have the name {name}, which is also the name of a cluster of this fleet",
                key=key,
            )
        groups = [group.name for group in self.clusters]
        for target in volume.attach_to:
            if target not in groups:
                raise FleetFileError(
                    f"there is no group {_short_repr(target)}: the groups are {', '.join(groups)}",
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
        """Return the group that a cluster of this name belongs to, or None if the name is not one of this fleet's.

        The index in the name may be beyond the count of the group.
        """
        prefix, _, index = name.rpartition("-")
        if not _INDEX.fullmatch(index):
            return None
        return next((group for group in self.clusters if prefix == f"{self.name}-{group.name}"), None)


def volume_name(fleet: Fleet, volume: VolumeGroup) -> str:
    """Return the name at the engine of a volume of a fleet."""
    return f"{fleet.name}-{volume.name}"
