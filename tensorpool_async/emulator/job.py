"""What a job is, and what it prints by when."""

import asyncio
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeAlias

import attrs


Content: TypeAlias = bytes | Path
"""What is in a file that a job leaves: the bytes, or a file on this machine that is served as it is."""


class JobStatus(StrEnum):
    """Where a job stands."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    ERROR = "error"
    FAILED = "failed"
    CANCELING = "canceling"
    CANCELED = "canceled"


TERMINAL = frozenset({JobStatus.COMPLETED, JobStatus.ERROR, JobStatus.FAILED, JobStatus.CANCELED})


@attrs.define(eq=False)
class Job:
    """A job as it is now. `created`, `started` and `ended` are in seconds after the emulator's start.

    Attributes:
        lines: All that it prints, spread evenly over its `seconds` (real ones).
        files: What it leaves, by the path that a pull shows. Any path is taken, hostile ones too.
        ending: The status that it comes to by itself.
        obeys: Whether it stops when it is canceled, or comes to its own end.
        links: The `download_map` of a pull instead of links to `files`.
        transfer: The `command` of a pull while it runs, instead of a harmless rsync.
        results: What clients reported on the commands of the push.
    """

    id: str
    cluster_id: str
    instance_type: str
    created: float
    created_at: str
    commands: Sequence[str] = ()
    lines: Sequence[str] = ()
    files: Mapping[str, Content] = attrs.field(factory=dict[str, Content])
    seconds: float = 0.0
    ending: JobStatus = JobStatus.COMPLETED
    exit_code_at_end: int | None = 0
    public_message: str | None = None
    obeys: bool = True
    teardown: bool = False
    links: Mapping[str, str | None] | None = None
    transfer: str | None = None
    results: list[Mapping[str, Any]] = attrs.field(factory=list[Mapping[str, Any]])
    status: JobStatus = JobStatus.PENDING
    exit_code: int | None = None
    started: float | None = None
    ended: float | None = None
    changed: asyncio.Event = attrs.field(factory=asyncio.Event, repr=False)

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self.status in TERMINAL

    def turn(self, status: JobStatus) -> None:
        """Wakes up whoever waits for a change."""
        self.status = status
        self.changed.set()
        self.changed = asyncio.Event()

    def printed(self, now: float) -> int:
        """How many of its lines are out."""
        if self.started is None:
            return 0
        if self.done and self.status is self.ending:
            return len(self.lines)
        ran = (now if self.ended is None else self.ended) - self.started
        return (
            min(len(self.lines), int(len(self.lines) * ran / self.seconds))
            if self.seconds
            else len(self.lines)
        )

    def until_next(self, printed: int, now: float) -> float | None:
        """The real seconds until the next line, or None when none is on its way."""
        if self.started is None or printed >= len(self.lines):
            return None
        return max(0.0, self.started + self.seconds * (printed + 1) / len(self.lines) - now)

    def as_json(self) -> dict[str, Any]:
        """Return it as the engine shows it."""
        return {
            "id": self.id,
            "status": self.status.value,
            "cluster_id": self.cluster_id,
            "instance_type": self.instance_type,
            "exit_code": self.exit_code,
            "public_message": self.public_message,
            "created_at": self.created_at,
        }
