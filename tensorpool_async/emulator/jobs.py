"""The jobs of the engine: pushed by clients, or scripted by tests."""

import random
from collections.abc import Iterator, Mapping, Sequence

from tensorpool_async.emulator.answers import Refusal, conflict, not_found
from tensorpool_async.emulator.clock import Clock, Duration
from tensorpool_async.emulator.cluster import Cluster, ClusterStatus
from tensorpool_async.emulator.clusters import Clusters
from tensorpool_async.emulator.faults import Scope
from tensorpool_async.emulator.job import Content, Job, JobStatus
from tensorpool_async.emulator.job_config import JobConfig, leave, rehearse


# How much of its time a pushed job waits before it runs.
WAITS = 0.1


class Jobs(Mapping[str, Job]):
    """Every job by its id, and `add` to script one."""

    def __init__(
        self,
        *,
        clock: Clock,
        clusters: Clusters,
        seconds: Duration,
        cancel_seconds: Duration,
        rng: random.Random,
    ) -> None:
        self._clock = clock
        self._clusters = clusters
        self._seconds = seconds
        self._cancel_seconds = cancel_seconds
        self._rng = rng
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
        """A job that runs from now on, or that has ended already when `seconds` is 0.

        Args:
            lines: What it prints over its time, or how many lines of "line 0", "line 1", ...
            files: What it leaves, by path: bytes, or a file to be served.
            exit_code: Of its commands; other than 0 it ends as "error".
            status: How it ends, instead.
            seconds: How long it runs, divided by the emulator's speed.
            message: Its public message.
            obeys: Whether a cancel stops it.
            cluster_id: Where it runs; need not exist.
            links: The `download_map` of a pull, as it stands.
            transfer: The `command` of a pull while it runs.
        """
        job = self._make(cluster_id, "1xH100")
        job.lines = [f"line {n}" for n in range(lines)] if isinstance(lines, int) else list(lines)
        job.files = dict(files or {})
        job.exit_code_at_end = exit_code
        job.ending = JobStatus(status) if status else JobStatus.ERROR if exit_code else JobStatus.COMPLETED
        job.seconds = self._clock.draw(seconds)
        job.public_message, job.obeys, job.links, job.transfer = message, obeys, links, transfer
        self._run(job)
        return job

    def push(self, config: JobConfig, cluster: Cluster, *, teardown: bool) -> Job:
        """A job that waits for its upload."""
        job = self._make(cluster.id, cluster.instance_type)
        job.commands, job.teardown = config.commands, teardown
        job.lines, job.exit_code_at_end = rehearse(config.commands)
        job.ending = JobStatus.ERROR if job.exit_code_at_end else JobStatus.COMPLETED
        job.files = leave(config.outputs, job.id)
        return job

    def uploaded(self, job: Job, scope: Scope) -> None:
        """Start it, after its wait. The scope is for the destroy that may be asked for at its end."""
        seconds = self._clock.draw(self._seconds)
        job.seconds = seconds * (1 - WAITS)
        self._scopes[job.id] = scope
        self._clock.later(seconds * WAITS, lambda: self._run(job))

    def fail(self, job: Job, message: str) -> None:
        """End it for a reason that is not its own."""
        if not job.done:
            job.public_message = message
            self._end(job, JobStatus.FAILED)

    def find(self, job_id: str) -> Job:
        """Raises Refusal when there is none, or it was deleted."""
        if job_id not in self._jobs or job_id in self._deleted:
            raise not_found(f"Job {job_id}")
        return self._jobs[job_id]

    def cancel(self, job_id: str) -> tuple[Job, bool]:
        """Whether it was canceled before. Raises Refusal when it has come to another end."""
        job = self.find(job_id)
        if job.status is JobStatus.CANCELED:
            return job, True
        if job.done:
            raise conflict(f"Job {job.id} has ended as {job.status}")
        if job.status is not JobStatus.CANCELING:
            job.turn(JobStatus.CANCELING)
            if job.obeys:
                self._clock.later(self._clock.draw(self._cancel_seconds), lambda: self._stop(job))
        return job, False

    def delete(self, job_id: str) -> None:
        """Raises Refusal when it has not ended."""
        job = self.find(job_id)
        if not job.done:
            raise conflict(f"Job {job.id} is {job.status}, cancel it first")
        self._deleted.add(job.id)

    def link(self, job: Job, path: str) -> str:
        """The last part of the URL of this file; the same one each time."""
        token = self._tokens.setdefault((job.id, path), f"{self._rng.getrandbits(128):032x}")
        self._links[token] = job.files[path]
        return token

    def linked(self, token: str) -> Content:
        """Raises Refusal when no link was made with it."""
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
            self._clock.later(job.seconds, lambda: self._end(job, job.ending))
        else:
            self._end(job, job.ending)

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
        # A cluster that is protected or busy is left alone: the job has ended all the same.
        try:
            self._clusters.destroy(job.cluster_id, self._scopes[job.id])
        except Refusal:
            return

    def _cluster_changed(self, cluster: Cluster) -> None:
        if cluster.status is ClusterStatus.DESTROYING:
            for job in self._jobs.values():
                if job.cluster_id == cluster.id:
                    self.fail(job, f"Cluster {cluster.id} was destroyed")
