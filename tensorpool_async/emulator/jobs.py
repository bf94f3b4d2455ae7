"""Jobs: what they print and when, how they end, and the endpoints for that."""

import asyncio
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from fnmatch import translate
from typing import Any

import attrs

from tensorpool_async.emulator.clusters import Cluster, ClusterStatus, ClusterStore
from tensorpool_async.emulator.engine import Engine
from tensorpool_async.emulator.exchange import Exchange
from tensorpool_async.emulator.faults import Scope
from tensorpool_async.emulator.job_config import TEMPLATE, JobConfig, example_files, rehearse
from tensorpool_async.emulator.limits import MAX_JOBS, MAX_PATTERNS
from tensorpool_async.emulator.responses import (
    Content,
    Refusal,
    Reply,
    card,
    conflict,
    invalid,
    not_found,
    problem,
    table,
    too_many,
)


class JobStatus(StrEnum):
    """The state of a job."""

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
        lines: All lines that it prints, spread evenly over its `seconds` (real ones).
        files: The files that it leaves, by the path that a pull shows. Any path is allowed, hostile ones too.
        ending: The status in which it ends by itself.
        obeys: Whether a cancel stops it. Otherwise it runs to its own end.
        links: The `download_map` of a pull instead of links to `files`.
        transfer: The `command` of a pull while it runs, instead of a harmless rsync.
        results: The reports of clients on the commands of the push.
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
    final_status: JobStatus = JobStatus.COMPLETED
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
        """Give it this status, and wake up the listeners."""
        self.status = status
        self.changed.set()
        self.changed = asyncio.Event()

    def printed(self, now: float) -> int:
        """How many of its lines are printed."""
        if self.started is None:
            return 0
        if self.done and self.status is self.final_status:
            return len(self.lines)
        ran = (now if self.ended is None else self.ended) - self.started
        return (
            min(len(self.lines), int(len(self.lines) * ran / self.seconds))
            if self.seconds
            else len(self.lines)
        )

    def until_next(self, printed: int, now: float) -> float | None:
        """The real seconds until the next line, or None when no line will come."""
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


# The fraction of its time that a pushed job waits before it runs.
WAITS = 0.1


class JobStore(Mapping[str, Job]):
    """Every job by its id, and `add` to script one."""

    def __init__(self, engine: Engine, clusters: ClusterStore) -> None:
        self._clock = engine.clock
        self._clusters = clusters
        self._world = engine.world
        self._rng = engine.world.rng("jobs")
        self._jobs: dict[str, Job] = {}
        self._deleted: set[str] = set()
        self._links: dict[str, Content] = {}
        self._tokens: dict[tuple[str, str], str] = {}
        self._scopes: dict[str, Scope] = {}
        clusters.watchers.append(self._cluster_changed)

    def __getitem__(self, job_id: str) -> Job:
        return self._jobs[job_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._jobs)

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def visible(self) -> list[Job]:
        return [job for job in self._jobs.values() if job.id not in self._deleted]

    def add(
        self,
        *,
        lines: int | Sequence[str] = (),
        files: Mapping[str, Content] | None = None,
        exit_code: int | None = 0,
        status: JobStatus | str | None = None,
        seconds: float = 0.0,
        message: str | None = None,
        obeys: bool = True,
        cluster_id: str = "c-000000000000",
        links: Mapping[str, str | None] | None = None,
        transfer: str | None = None,
    ) -> Job:
        """Add a job that runs from now on, or that has ended already when `seconds` is 0.

        Args:
            lines: The lines that it prints over its time, or how many lines of "line 0", "line 1", ...
            files: The files that it leaves, by path: bytes, or a file to be served.
            exit_code: The exit code of its commands. With any but 0 it ends as "error".
            status: The status in which it ends instead.
            seconds: How long it runs, divided by the emulator's speed.
            message: Its public message.
            obeys: Whether a cancel stops it.
            cluster_id: The cluster on which it runs, which need not exist.
            links: The `download_map` of a pull, unchanged.
            transfer: The `command` of a pull while it runs.
        """
        job = self._make(cluster_id, "1xH100")
        job.lines = [f"line {n}" for n in range(lines)] if isinstance(lines, int) else list(lines)
        job.files = dict(files or {})
        job.exit_code_at_end = exit_code
        job.final_status = (
            JobStatus(status) if status else JobStatus.ERROR if exit_code else JobStatus.COMPLETED
        )
        job.seconds = self._clock.draw(seconds)
        job.public_message, job.obeys, job.links, job.transfer = message, obeys, links, transfer
        self._run(job)
        return job

    def push(self, config: JobConfig, cluster: Cluster, *, teardown: bool) -> Job:
        """Make a job that waits for its upload. Raises Refusal when there is no room."""
        if len(self._jobs) >= MAX_JOBS:
            raise too_many("jobs", MAX_JOBS)
        job = self._make(cluster.id, cluster.instance_type)
        job.commands, job.teardown = config.commands, teardown
        job.lines, job.exit_code_at_end = rehearse(config.commands)
        job.final_status = JobStatus.ERROR if job.exit_code_at_end else JobStatus.COMPLETED
        job.files = example_files(config.outputs, job.id)
        return job

    def uploaded(self, job: Job, scope: Scope) -> None:
        """Start the job after its wait. The scope is for the destroy that may follow its end."""
        seconds = self._clock.draw(self._world.job_seconds)
        job.seconds = seconds * (1 - WAITS)
        self._scopes[job.id] = scope
        self._clock.later(seconds * WAITS, lambda: self._run(job))

    def fail(self, job: Job, message: str) -> None:
        """End the job for a reason outside of it."""
        if not job.done:
            job.public_message = message
            self._end(job, JobStatus.FAILED)

    def find(self, job_id: str) -> Job:
        """Raises Refusal when there is no such job, or it was deleted."""
        if job_id not in self._jobs or job_id in self._deleted:
            raise not_found(f"Job {job_id}")
        return self._jobs[job_id]

    def cancel(self, job_id: str) -> tuple[Job, bool]:
        """Cancel the job, and say whether it was canceled before. Raises Refusal when it has ended otherwise."""
        job = self.find(job_id)
        if job.status is JobStatus.CANCELED:
            return job, True
        if job.done:
            raise conflict(f"Job {job.id} has ended as {job.status}")
        if job.status is not JobStatus.CANCELING:
            job.turn(JobStatus.CANCELING)
            if job.obeys:
                self._clock.later(self._clock.draw(self._world.cancel_seconds), lambda: self._stop(job))
        return job, False

    def delete(self, job_id: str) -> None:
        """Raises Refusal when the job has not ended."""
        job = self.find(job_id)
        if not job.done:
            raise conflict(f"Job {job.id} is {job.status}, cancel it first")
        self._deleted.add(job.id)

    def link(self, job: Job, path: str) -> str:
        """The last part of the URL of this file, which is the same each time."""
        token = self._tokens.setdefault((job.id, path), f"{self._rng.getrandbits(128):032x}")
        self._links[token] = job.files[path]
        return token

    def linked(self, token: str) -> Content:
        """The file behind a link. Raises Refusal when there is no such link."""
        if token not in self._links:
            raise not_found("File")
        return self._links[token]

    def _make(self, cluster_id: str, instance_type: str) -> Job:
        now = self._clock.now()
        job = Job(f"j-{self._rng.getrandbits(48):012x}", cluster_id, instance_type, now, self._clock.iso(now))
        self._jobs[job.id] = job
        return job

    def _run(self, job: Job) -> None:
        if job.status is not JobStatus.PENDING:
            return
        job.started = self._clock.now()
        job.turn(JobStatus.RUNNING)
        if job.seconds:
            self._clock.later(job.seconds, lambda: self._end(job, job.final_status))
        else:
            self._end(job, job.final_status)

    def _stop(self, job: Job) -> None:
        if not job.done:
            self._end(job, JobStatus.CANCELED)

    def _end(self, job: Job, status: JobStatus) -> None:
        if job.done:
            return
        job.ended = self._clock.now()
        job.exit_code = job.exit_code_at_end if status in {JobStatus.COMPLETED, JobStatus.ERROR} else None
        job.turn(status)
        if job.teardown:
            self._tear_down(job)

    def _tear_down(self, job: Job) -> None:
        # A protected or busy cluster stays. The job has ended all the same.
        try:
            self._clusters.destroy(job.cluster_id, self._scopes[job.id])
        except Refusal:
            return

    def _cluster_changed(self, cluster: Cluster) -> None:
        if cluster.status is ClusterStatus.DESTROYING:
            for job in self._jobs.values():
                if job.cluster_id == cluster.id:
                    self.fail(job, f"Cluster {cluster.id} was destroyed")


@attrs.frozen
class JobEndpoints:
    """The endpoints under /job, except the two WebSockets, and the downloads that a pull links to."""

    jobs: JobStore

    def init(self, _exchange: Exchange) -> Reply:
        return Reply(200, {"empty_tp_config": TEMPLATE, "message": None})

    def list(self, exchange: Exchange) -> Reply:
        jobs = [] if exchange.flag("include_org") else self.jobs.visible
        message = table(
            "Jobs",
            ["ID", "CLUSTER", "TYPE", "STATUS", "EXIT CODE", "CREATED"],
            ((j.id, j.cluster_id, j.instance_type, j.status, j.exit_code, j.created_at) for j in jobs),
            empty="No jobs found",
        )
        return Reply(200, {"message": message, "jobs": [job.as_json() for job in jobs]})

    def info(self, exchange: Exchange) -> Reply:
        job = self.jobs.find(exchange.argument)
        facts = {
            "status": job.status,
            "cluster": job.cluster_id,
            "type": job.instance_type,
            "exit code": job.exit_code,
            "message": job.public_message,
            "created": job.created_at,
        }
        return Reply(200, {"message": card(f"Job {job.id}", facts), "job_info": job.as_json()})

    def cancel(self, exchange: Exchange) -> Reply:
        job, before = self.jobs.cancel(exchange.argument)
        message = f"Job {job.id} was canceled already" if before else f"Job {job.id} is being canceled"
        body = {"job_id": job.id, "message": message, "status": job.status.value}
        return Reply(200 if before else 202, body)

    def delete(self, exchange: Exchange) -> Reply:
        self.jobs.delete(exchange.argument)
        return Reply(200, {"message": f"Job {exchange.argument} was deleted"})

    def pull(self, exchange: Exchange) -> Reply:
        dry = exchange.flag("dry_run")
        job = self.jobs.find(exchange.argument)
        if not job.done and not dry:
            return _transfer(job, exchange)
        paths = _chosen(job, exchange.query.get("files", ()))
        links = {
            path: None if dry else f"{exchange.url}/download/{self.jobs.link(job, path)}" for path in paths
        }
        if job.links is not None and not dry:
            links = dict(job.links)
        message = f"{len(links)} files to pull from job {job.id}" if links else f"Job {job.id} left no files"
        return Reply(200, _pulled(message, links, None))

    def download(self, exchange: Exchange) -> Reply:
        """Stands for an S3 server. S3 refuses links to which a client adds a key of its own."""
        if exchange.has_key:
            return Reply(400, {"message": "Only one way of authentication is allowed: this link has its own"})
        return Reply(200, file=self.jobs.linked(exchange.argument))


def _chosen(job: Job, patterns: Sequence[str]) -> list[str]:
    if len(patterns) > MAX_PATTERNS:
        text = f"List should have at most {MAX_PATTERNS} items after validation"
        raise invalid(["query", "files"], text, "too_long")
    wanted = [re.compile(translate(pattern)) for pattern in patterns]
    return [path for path in job.files if not wanted or any(one.match(path) for one in wanted)]


def _transfer(job: Job, exchange: Exchange) -> Reply:
    missing = [name for name in ("system", "private_key_path") if not exchange.query.get(name)]
    if missing:
        text = "The job is live: system and private_key_path are needed to pull its files"
        problems = [problem(["query", name], "Field required", "missing") for name in missing]
        return Reply(422, {"detail": problems, "message": text})
    command = job.transfer or harmless_rsync(exchange.query["private_key_path"][-1])
    return Reply(200, _pulled(f"Job {job.id} is live, copying from its cluster", {}, command))


def harmless_rsync(private_key: str | None = None, ignore: Sequence[str] = ()) -> str:
    """An rsync that succeeds and copies nothing, since there is no machine to copy from or to."""
    words = ["rsync", "--dry-run", "--dirs", *(f"--exclude={pattern}" for pattern in ignore)]
    if private_key is not None:
        words += ["-e", f"ssh -i {shlex.quote(private_key)}"]
    return shlex.join([*words, "./", "./"])


def _pulled(message: str, links: dict[str, str | None], command: str | None) -> dict[str, object]:
    return {
        "message": message,
        "download_map": links,
        "command": command,
        "command_show_stdout": command is not None,
    }
