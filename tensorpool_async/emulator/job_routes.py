"""The routes under /job, except the two WebSockets."""

import shlex
from fnmatch import fnmatchcase

from tensorpool_async.emulator.answers import Answer, problem
from tensorpool_async.emulator.call import Call
from tensorpool_async.emulator.engine import Engine
from tensorpool_async.emulator.job import Job
from tensorpool_async.emulator.job_config import TEMPLATE
from tensorpool_async.emulator.tables import card, table


def init(_engine: Engine, _call: Call) -> Answer:
    return Answer(200, {"empty_tp_config": TEMPLATE, "message": None})


def listing(engine: Engine, call: Call) -> Answer:
    jobs = [] if call.flag("include_org") else engine.jobs.visible
    message = table(
        "Jobs",
        ["ID", "CLUSTER", "TYPE", "STATUS", "EXIT CODE", "CREATED"],
        [(j.id, j.cluster_id, j.instance_type, j.status, j.exit_code, j.created_at) for j in jobs],
        empty="No jobs found",
    )
    return Answer(200, {"message": message, "jobs": [job.as_json() for job in jobs]})


def info(engine: Engine, call: Call) -> Answer:
    job = engine.jobs.find(call.argument)
    return Answer(200, {"message": _card(job), "job_info": job.as_json()})


def _card(job: Job) -> str:
    return card(
        f"Job {job.id}",
        {
            "status": job.status,
            "cluster": job.cluster_id,
            "type": job.instance_type,
            "exit code": job.exit_code,
            "message": job.public_message,
            "created": job.created_at,
        },
    )


def cancel(engine: Engine, call: Call) -> Answer:
    job, before = engine.jobs.cancel(call.argument)
    message = f"Job {job.id} was canceled already" if before else f"Job {job.id} is being canceled"
    return Answer(200 if before else 202, {"job_id": job.id, "message": message, "status": job.status.value})


def delete(engine: Engine, call: Call) -> Answer:
    engine.jobs.delete(call.argument)
    return Answer(200, {"message": f"Job {call.argument} was deleted"})


def pull(engine: Engine, call: Call) -> Answer:
    dry = call.flag("dry_run")
    job = engine.jobs.find(call.argument)
    if not job.done and not dry:
        return _transfer(job, call)
    paths = _chosen(job, call)
    links = {path: None if dry else f"{call.url}/download/{engine.jobs.link(job, path)}" for path in paths}
    if job.links is not None and not dry:
        links = dict(job.links)
    message = f"{len(links)} files to pull from job {job.id}" if links else f"Job {job.id} left no files"
    return Answer(200, _pulled(message, links, None))


def _chosen(job: Job, call: Call) -> list[str]:
    wanted = call.query.get("files", ())
    return [path for path in job.files if not wanted or any(fnmatchcase(path, glob) for glob in wanted)]


def _transfer(job: Job, call: Call) -> Answer:
    missing = [name for name in ("system", "private_key_path") if not call.query.get(name)]
    if missing:
        text = "The job is live: system and private_key_path are needed to pull its files"
        problems = [problem(["query", name], "Field required", "missing") for name in missing]
        return Answer(422, {"detail": problems, "message": text})
    command = job.transfer or harmless_rsync(call.query["private_key_path"][-1])
    return Answer(200, _pulled(f"Job {job.id} is live, copying from its cluster", {}, command))


def harmless_rsync(private_key: str | None = None, ignore: tuple[str, ...] = ()) -> str:
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
