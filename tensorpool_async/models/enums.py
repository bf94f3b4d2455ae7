"""Open enums: the values that are known, and room for those that are not.

Letter case on the wire is not certain for every enum (API notes, "Enums"), and an engine may learn a new state at any
time. So a value is compared without regard to case, and a value that is unknown becomes a member of its own, which
keeps its text and is equal to nothing but that text.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class OpenEnum(StrEnum):
    """A string enum that accepts every text and ignores letter case."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str):
            return None
        folded = value.casefold()
        for member in cls:
            if member.value.casefold() == folded:
                return member
        unknown = str.__new__(cls, value)
        unknown._name_ = value
        unknown._value_ = value
        return unknown

    @property
    def is_known(self) -> bool:
        """Whether this package knew the value when it was written."""
        return self._name_ in type(self).__members__

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if isinstance(other, str):
            return str.casefold(self) == str.casefold(other)
        return NotImplemented

    def __ne__(self, other: object) -> bool:
        return not self == other  # str has its own, which is not made of __eq__

    def __hash__(self) -> int:
        # That of its text, so that a known status is found in `{"COMPLETED", "FAILED"}` as a plain text would be.
        return hash(self._value_ if self.is_known else self._value_.casefold())

    def __str__(self) -> str:
        return str(self.value)


class RequestStatus(OpenEnum):
    """Where an asynchronous request stands; COMPLETED and FAILED are its two ends."""

    PENDING = "PENDING"
    PROCESSING = "PROCESSING"
    RETRYING = "RETRYING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"

    @property
    def is_terminal(self) -> bool:
        """Whether nothing can follow; an unknown status is not terminal."""
        return self is RequestStatus.COMPLETED or self is RequestStatus.FAILED


class OperationKind(OpenEnum):
    """What an operation does: the engine's request types, and `JOB_CANCEL`, which has no request of its own."""

    CLUSTER_CLAIM = "CLUSTER_CLAIM"
    CLUSTER_RELEASE = "CLUSTER_RELEASE"
    CLUSTER_EDIT = "CLUSTER_EDIT"
    STORAGE_CREATE = "STORAGE_CREATE"
    STORAGE_DESTROY = "STORAGE_DESTROY"
    STORAGE_ATTACH = "STORAGE_ATTACH"
    STORAGE_DETACH = "STORAGE_DETACH"
    STORAGE_EDIT = "STORAGE_EDIT"
    JOB_CANCEL = "JOB_CANCEL"


class ClusterStatus(OpenEnum):
    """The life of a cluster or an instance. FAILED: an instance of it failed; such a cluster exists until destroyed."""

    PENDING = "PENDING"
    PROVISIONING = "PROVISIONING"
    CONFIGURING = "CONFIGURING"
    RUNNING = "RUNNING"
    DESTROYING = "DESTROYING"
    DESTROYED = "DESTROYED"
    FAILED = "FAILED"


class StorageStatus(OpenEnum):
    """The state of a volume; READY is the only one that any source names, and what attaching needs."""

    READY = "READY"


class JobStatus(OpenEnum):
    """The state of a job. `error`: the user's code ended non-zero; `failed`: the infrastructure did."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    ERROR = "error"
    FAILED = "failed"
    CANCELING = "canceling"
    CANCELED = "canceled"

    @property
    def is_terminal(self) -> bool:
        """Whether nothing can follow; an unknown status is not terminal."""
        return self in {JobStatus.COMPLETED, JobStatus.ERROR, JobStatus.FAILED, JobStatus.CANCELED}
