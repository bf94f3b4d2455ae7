"""What callers of several resources pass: a model, or its id; and a name."""

from __future__ import annotations

import secrets

from tensorpool_async.models.cluster import Cluster
from tensorpool_async.models.job import Job
from tensorpool_async.models.storage import StorageVolume


NAME_PREFIX = "tpa-"
NAME_LETTERS = "abcdefghijkmnpqrstuvwxyz23456789"  # without those that look like others

ClusterLike = Cluster | str
"""A cluster, or its id."""

VolumeLike = StorageVolume | str
"""A volume, or its id."""

JobLike = Job | str
"""A job, or its id."""


def id_of(resource: ClusterLike | VolumeLike | JobLike) -> str:
    """Return the id of what is a model or an id."""
    return resource if isinstance(resource, str) else resource.id


def new_name(name: str | None) -> str:
    """Return the name that a new resource gets: the one asked for, or a random one.

    Raises:
        ValueError: The name is empty.
    """
    if name is None:
        return NAME_PREFIX + "".join(secrets.choice(NAME_LETTERS) for _ in range(12))
    if not name.strip():
        raise ValueError("the name is empty")
    return name
