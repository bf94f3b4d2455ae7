"""Jobs, and what is pulled from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs

from tensorpool_async.models.enums import JobStatus
from tensorpool_async.models.wire_names import names


@attrs.frozen
class Job:
    """A job as the engine describes it (`GET /job/info/{job_id}`).

    Attributes:
        id: The job's id.
        status: pending, running, completed, error (the user's code ended non-zero), failed (the infrastructure did),
            canceling or canceled.
        exit_code: What the commands ended with, once they have.
        instance_type: What it runs on.
        public_message: What the engine says about it, as a text for a person.
        extra: Fields of the answer that this package does not know.
    """

    id: str = attrs.field(metadata=names("id", "job_id"))
    status: JobStatus | None = None
    exit_code: int | None = None
    instance_type: str | None = None
    public_message: str | None = None
    extra: dict[str, Any] = attrs.field(factory=dict[str, Any], kw_only=True, hash=False)

    @property
    def canceled(self) -> bool:
        """Whether it was canceled; False for a job that ended by itself before a cancel could win."""
        return self.status is JobStatus.CANCELED


@attrs.frozen
class JobPull:
    """How the output of a job is to be had (`GET /job/pull/{job_id}`).

    Attributes:
        message: A text for a person.
        download_map: The address of each file by its path; None as an address on a dry run. None altogether where
            there is nothing to download.
        command: A command to run here, for a job whose instance is live.
        command_show_stdout: Whether its output is meant to be shown.
        extra: Fields of the answer that this package does not know.
    """

    message: str = ""
    download_map: dict[str, str | None] | None = None
    command: str | None = None
    command_show_stdout: bool | None = None
    extra: dict[str, Any] = attrs.field(factory=dict[str, Any], kw_only=True, hash=False)


@attrs.frozen
class PulledFile:
    """One file of a job's output.

    Attributes:
        name: Its path as the engine names it.
        path: Where it is here, or would be on a dry run; the folder itself for a file that was skipped.
        size: Its size in bytes; None on a dry run, and for a file that was skipped.
        downloaded: Whether this call downloaded it; False where it was there already, or was skipped, or on a dry run.
        note: Why `path` is another one than `name`, or why the file was skipped: the file system cannot hold its name.
            Empty for most.
        skipped: Whether it was not brought here, for the reason that `note` gives.
    """

    name: str
    path: Path
    size: int | None
    downloaded: bool
    note: str = ""
    skipped: bool = False
