"""The engine's own command-line client works against the emulator, unchanged (design, section 10).

Each test says with `runs` which subcommands it is for, and the last ones hold that against what `tp --help` lists.
"""

from __future__ import annotations

import asyncio
import re
import shlex
import socket
from collections import Counter
from pathlib import Path

from tensorpool_async.emulator import ClusterStatus, Emulator, Fault, FaultKind, JobStatus, VolumeStatus
from tests.emulator.talk import Talk
from tests.official.command import TESTED, FakeProgram, Official, runs, settled, subcommands_in


CLUSTER = re.compile(r"c-[0-9a-f]+")
VOLUME = re.compile(r"s-[0-9a-f]+")
JOB = re.compile(r"j-[0-9a-f]+")
SSH_KEY = re.compile(r"k-[0-9a-f]+")
PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOfficial ada@laptop"


def the(pattern: re.Pattern[str], text: str) -> str:
    """The only id of its kind in what was said."""
    found: set[str] = set(pattern.findall(text))
    assert len(found) == 1, text
    return found.pop()


def asked(emulator: Emulator) -> Counter[str]:
    """What was asked for since the last time, without the health check before each command."""
    counted = Counter({label: n for label, n in emulator.record.by_route.items() if label != "POST /health"})
    emulator.record.by_route.clear()
    return counted


async def a_cluster(talk: Talk, instance_type: str = "1xH100", **fields: object) -> str:
    """The id of a cluster that runs."""
    cluster_id: str = (await talk.create(instance_type, **fields)).json["cluster_id"]
    await settled(talk.emulator)
    asked(talk.emulator)
    return cluster_id


async def a_volume(talk: Talk, **fields: object) -> str:
    """The id of a volume that is ready."""
    created = await talk.post("/storage/create", json={"size": 100, "name": "data", **fields})
    await settled(talk.emulator)
    asked(talk.emulator)
    storage_id: str = created.json["storage_id"]
    return storage_id


# Clusters


@runs("cluster create")
async def test_a_cluster_is_created(official: Official, emulator: Emulator) -> None:
    key = official.home / "id.pub"
    key.write_text(f"{PUBLIC_KEY}\n")
    run = await official.ok(
        "cluster", "create", "8xB200", "--name", "trainer", "-n", "2", "-i", "~/id.pub",
        "--container", "pytorch:2", "--deletion-protection",
    )  # fmt: skip
    cluster = emulator.clusters[the(CLUSTER, run.said)]
    assert run.progress == ["Authenticating...", "Creating cluster..."]
    assert run.said == f"Cluster trainer ({cluster.id}) is being created"
    assert (cluster.name, cluster.instance_type, cluster.num_nodes) == ("trainer", "8xB200", 2)
    assert (cluster.container, cluster.deletion_protection) == ("pytorch:2", True)
    assert cluster.public_keys == (PUBLIC_KEY,)
    assert [key.public_key for key in emulator.ssh_keys.values()] == [PUBLIC_KEY]
    assert asked(emulator) == {"POST /cluster/create": 1}


@runs("cluster create")
async def test_a_cluster_is_waited_for(official: Official, emulator: Emulator) -> None:
    run = await official.ok("cluster", "create", "1xH100", "--wait")
    assert run.said == "The cluster is running"
    (cluster,) = emulator.clusters.values()
    assert cluster.status is ClusterStatus.RUNNING
    assert emulator.record.living == [cluster.id]
    assert asked(emulator) == {"POST /cluster/create": 1, "GET /request/info/{request_id}": 2}
    assert emulator.record.early_polls == 0


@runs("cluster create")
async def test_without_a_request_id_there_is_nothing_to_wait_for(
    official: Official, emulator: Emulator
) -> None:
    emulator.faults.add(Fault(FaultKind.NO_REQUEST_ID))
    run = await official.ok("cluster", "create", "1xH100", "--name", "one", "--wait")
    assert run.said.endswith("is being created")
    assert asked(emulator) == {"POST /cluster/create": 1}


async def test_a_cluster_that_fails_is_told_with_its_reason(official: Official, emulator: Emulator) -> None:
    emulator.capacity["1xH100"] = 0
    said = await official.refused("cluster", "create", "1xH100", "--wait")
    assert "apacity" in said
    assert [cluster.status for cluster in emulator.clusters.values()] == [ClusterStatus.FAILED]


@runs("cluster destroy", "cluster rm")
async def test_a_cluster_is_destroyed(official: Official, emulator: Emulator, talk: Talk) -> None:
    first, second, third = [await a_cluster(talk, tp_cluster_name=f"w{n}") for n in range(3)]
    run = await official.ok("cluster", "destroy", first, "--no-input", "--wait")
    assert run.said == "The cluster was destroyed"
    assert emulator.record.living == [second, third]
    assert asked(emulator) == {"DELETE /cluster/{cluster}": 1, "GET /request/info/{request_id}": 2}
    run = await official.ok("cluster", "destroy", second, typed="y\n")
    assert run.said.startswith(f"Destroy cluster {second}? [y/N]: ")
    assert run.output.endswith(f"Cluster w1 ({second}) is being destroyed\n")
    run = await official.ok("--no-input", "cluster", "destroy", third)
    assert run.said == f"Cluster w2 ({third}) is being destroyed"
    await settled(emulator)
    assert emulator.record.living == []
    assert emulator.record.early_polls == emulator.record.destroys_before_ready == 0
    fourth = await a_cluster(talk)
    await official.ok("cluster", "rm", fourth, "--no-input")


async def test_a_destroy_that_nobody_confirms_destroys_nothing(
    official: Official, emulator: Emulator, talk: Talk
) -> None:
    cluster_id = await a_cluster(talk)
    for typed in ("", "n\n", "\n"):
        assert "Destroy cluster cancelled" in await official.refused(
            "cluster", "destroy", cluster_id, typed=typed
        )
    assert asked(emulator) == {}
    assert emulator.record.living == [cluster_id]


@runs("cluster list", "cluster ls")
async def test_clusters_are_a_table(official: Official, emulator: Emulator, talk: Talk) -> None:
    assert (await official.ok("cluster", "list")).said == "No clusters found"
    first = await a_cluster(talk, tp_cluster_name="one")
    second = await a_cluster(talk, "8xB200", num_nodes=2, tp_cluster_name="two")
    title, _, headings, _, *rows = (await official.ok("cluster", "list")).said.splitlines()
    assert title == "Clusters"
    assert headings.split() == ["ID", "NAME", "TYPE", "NODES", "STATUS", "USD/H"]
    assert [row.split() for row in rows] == [
        [first, "one", "1xH100", "1", "RUNNING", "2.49"],
        [second, "two", "8xB200", "2", "RUNNING", "79.84"],
    ]
    run = await official.ok("cluster", "ls", "--instances")
    instances = [instance for cluster in emulator.clusters.values() for instance in cluster.instances]
    assert [row.split()[0] for row in run.said.splitlines()[4:]] == [instance.id for instance in instances]
    assert (await official.ok("cluster", "list", "--org")).said == "No clusters found"
    assert asked(emulator) == {"GET /cluster/list": 3}


@runs("cluster info")
async def test_a_cluster_is_shown(official: Official, emulator: Emulator, talk: Talk) -> None:
    cluster_id = await a_cluster(talk, tp_cluster_name="one")
    said = (await official.ok("cluster", "info", cluster_id)).said
    (instance,) = emulator.clusters[cluster_id].instances
    assert said.startswith("Cluster one\n")
    for fact in (cluster_id, "1xH100", "RUNNING", "$2.49 per hour", instance.id, str(instance.ip_address)):
        assert fact in said
    assert (await official.ok("cluster", "info", "one")).said == said
    assert asked(emulator) == {"GET /cluster/info/{cluster}": 2}


@runs("cluster edit", "cluster destroy")
async def test_a_cluster_is_edited(official: Official, emulator: Emulator, talk: Talk) -> None:
    cluster_id = await a_cluster(talk)
    run = await official.ok("cluster", "edit", cluster_id, "--name", "new", "--deletion-protection", "true")
    assert run.said == f"Cluster {cluster_id} is being edited"
    await settled(emulator)
    cluster = emulator.clusters[cluster_id]
    assert (cluster.name, cluster.deletion_protection) == ("new", True)
    said = await official.refused("cluster", "destroy", cluster_id, "--no-input", "--wait")
    assert "protect" in said
    assert cluster.status is ClusterStatus.RUNNING
    await official.ok("cluster", "edit", cluster_id, "--deletion-protection", "false")
    await settled(emulator)
    await official.ok("cluster", "destroy", cluster_id, "--no-input")
    assert asked(emulator) == {"PATCH /cluster/edit/{cluster}": 2, "DELETE /cluster/{cluster}": 2}
    assert "No properties specified" in await official.refused("cluster", "edit", cluster_id)


@runs("cluster attach", "cluster detach")
async def test_a_volume_is_attached_and_detached(official: Official, emulator: Emulator, talk: Talk) -> None:
    cluster_id, storage_id = await a_cluster(talk, "8xB200", num_nodes=2), await a_volume(talk)
    cluster, volume = emulator.clusters[cluster_id], emulator.volumes[storage_id]
    run = await official.ok("cluster", "attach", cluster_id, storage_id, "--wait")
    assert run.said == "The volume was attached"
    assert (cluster.storage, volume.attached_clusters) == ([storage_id], [cluster_id])
    run = await official.ok("cluster", "detach", cluster_id, storage_id, "--wait")
    assert run.said == "The volume was detached"
    assert (cluster.storage, volume.attached_clusters) == ([], [])
    assert asked(emulator) == {
        "POST /storage/attach": 1,
        "POST /storage/detach": 1,
        "GET /request/info/{request_id}": 4,
    }
    run = await official.ok("cluster", "attach", cluster_id, storage_id)
    assert run.said == f"Storage volume {storage_id} is being attached, the nodes will restart"
    await settled(emulator)
    run = await official.ok("cluster", "detach", cluster_id, storage_id)
    assert run.said == f"Storage volume {storage_id} is being detached, the nodes will restart"
    await settled(emulator)
    assert {instance.restarts for instance in cluster.instances} == {4}
    assert emulator.record.early_polls == 0


# Storage


@runs("storage create", "storage destroy", "storage rm")
async def test_a_volume_lives_and_dies(official: Official, emulator: Emulator) -> None:
    run = await official.ok("storage", "create", "100", "--name", "data", "--deletion-protection", "--wait")
    storage_id = the(VOLUME, run.said)
    assert run.said == f"Storage volume {storage_id} created. Run `tp storage info {storage_id}` for details."
    volume = emulator.volumes[storage_id]
    assert (volume.name, volume.size_gb, volume.status) == ("data", 100, VolumeStatus.READY)
    assert volume.deletion_protection
    assert "protect" in await official.refused("storage", "destroy", storage_id, "--no-input")
    await official.ok("storage", "edit", storage_id, "--deletion-protection", "no")
    await settled(emulator)
    run = await official.ok("storage", "destroy", storage_id, "--no-input", "--wait")
    assert run.said == "The volume was destroyed"
    assert emulator.record.living_volumes == []
    run = await official.ok("storage", "create", "1")
    other = the(VOLUME, run.said)
    assert run.said == f"Storage volume {emulator.volumes[other].name} ({other}) is being created"
    await settled(emulator)
    assert "cancelled" in await official.refused("storage", "destroy", other)
    run = await official.ok("storage", "rm", other, typed="yes\n")
    assert run.said.endswith("is being destroyed")
    await settled(emulator)
    assert emulator.record.living_volumes == []
    assert [made.id for made in emulator.record.volumes_made] == [storage_id, other]
    assert emulator.record.early_polls == 0


@runs("storage list", "storage ls", "storage info")
async def test_volumes_are_shown(official: Official, emulator: Emulator, talk: Talk) -> None:
    assert (await official.ok("storage", "list")).said == "No storage volumes found"
    storage_id = await a_volume(talk)
    title, _, headings, _, *rows = (await official.ok("storage", "list")).said.splitlines()
    assert title == "Storage volumes"
    assert headings.split() == ["ID", "NAME", "GB", "STATUS", "ATTACHED", "TO", "USD/H"]
    assert [row.split() for row in rows] == [[storage_id, "data", "100", "READY", "-", "0.0137"]]
    said = (await official.ok("storage", "info", storage_id)).said
    assert said.startswith("Storage volume data\n")
    for fact in (storage_id, "100 GB", "READY", "$0.0137 per hour"):
        assert fact in said
    assert (await official.ok("storage", "ls", "--org")).said == "No storage volumes found"
    assert asked(emulator) == {"GET /storage/list": 2, "GET /storage/info/{storage_id}": 1}


@runs("storage edit")
async def test_a_volume_is_edited(official: Official, emulator: Emulator, talk: Talk) -> None:
    storage_id = await a_volume(talk)
    run = await official.ok("storage", "edit", storage_id, "--name", "more", "-s", "200")
    assert run.said == f"Storage volume {storage_id} is being edited"
    await settled(emulator)
    volume = emulator.volumes[storage_id]
    assert (volume.name, volume.size_gb) == ("more", 200)
    said = await official.refused("storage", "edit", storage_id, "-s", "50")
    assert said == "Error editing storage volume. Status code: 422"
    assert volume.size_gb == 200
    assert asked(emulator) == {"PATCH /storage/edit/{storage_id}": 2}
    assert "No properties specified" in await official.refused("storage", "edit", storage_id)


# Jobs


CONFIG = """\
commands = ["echo hello", "python train.py"]
outputs = ["out/model.pt", "log.txt"]
ignore = [".git/"]
"""


async def pushed(official: Official, cluster_id: str, config: str = CONFIG) -> str:
    """The id of a job that was pushed."""
    (official.folder / "job.tp.toml").write_text(config)
    return the(JOB, (await official.ok("job", "push", "job.tp.toml", cluster_id)).said)


async def ended(emulator: Emulator, job_id: str) -> None:
    while not emulator.jobs[job_id].done:
        await asyncio.sleep(0.01)


@runs("job init")
async def test_a_job_file_is_made(official: Official, emulator: Emulator, talk: Talk) -> None:
    run = await official.ok("job", "init")
    assert run.said.splitlines()[-2:] == [
        "job.tp.toml created",
        "Configure it to do `tp job push job.tp.toml`",
    ]
    await official.ok("job", "init")
    assert sorted(path.name for path in official.folder.iterdir()) == ["job.tp.toml", "job1.tp.toml"]
    assert asked(emulator) == {"GET /job/init": 2}
    cluster_id = await a_cluster(talk)
    run = await official.ok("job", "push", "job.tp.toml", cluster_id)
    assert emulator.jobs[the(JOB, run.said)].commands == ["python --version"]


@runs("job push")
async def test_a_job_is_pushed(
    official: Official, emulator: Emulator, talk: Talk, rsync: FakeProgram
) -> None:
    cluster_id = await a_cluster(talk)
    (official.folder / "train.tp.toml").write_text(CONFIG)
    run = await official.ok("job", "push", "train.tp.toml", cluster_id)
    job = emulator.jobs[the(JOB, run.said)]
    assert run.said.splitlines() == [
        f"Job {job.id} was created, uploading",
        "sent 0 bytes",
        f"Job {job.id} was submitted",
    ]
    assert rsync.calls == [
        [str(official.folder), "--dry-run", "--dirs", "--exclude=.git/", "./", "./"],
    ]
    (result,) = job.results
    assert result == {
        "type": "command_result",
        "command": "rsync --dry-run --dirs --exclude=.git/ ./ ./",
        "exit_code": 0,
        "command_stdout": "sent 0 bytes\n",
        "command_stderr": "",
    }
    assert (job.cluster_id, job.commands) == (cluster_id, ["echo hello", "python train.py"])
    assert asked(emulator) == {"WEBSOCKET /job/push": 1}
    await ended(emulator, job.id)
    assert job.status is JobStatus.COMPLETED
    assert emulator.record.living == [cluster_id]


@runs("job push")
async def test_a_pushed_job_may_end_its_cluster(official: Official, emulator: Emulator, talk: Talk) -> None:
    cluster_id = await a_cluster(talk)
    emulator.push_commands = [None, ""]
    (official.folder / "job.tp.toml").write_text(CONFIG)
    run = await official.ok("job", "push", "job.tp.toml", cluster_id, "--teardown")
    assert run.said.endswith(
        f"Teardown enabled: cluster {cluster_id} will be destroyed when the job finishes."
    )
    await ended(emulator, the(JOB, run.said))
    await settled(emulator)
    assert emulator.clusters[cluster_id].status is ClusterStatus.DESTROYED


async def test_a_push_whose_upload_fails_is_told(
    official: Official, emulator: Emulator, talk: Talk, programs: Path
) -> None:
    FakeProgram.install(programs, "rsync", says="no space left", exit_code=11)
    (official.folder / "job.tp.toml").write_text(CONFIG)
    said = await official.refused("job", "push", "job.tp.toml", await a_cluster(talk))
    assert said.splitlines()[1:] == [
        "no space left",
        "Job connection closed, code = 1011",
        "The upload failed",
    ]
    (job,) = emulator.jobs.values()
    assert job.status is JobStatus.FAILED


async def test_a_push_that_cannot_be_is_told_why(official: Official, emulator: Emulator, talk: Talk) -> None:
    cluster_id = await a_cluster(talk)
    assert await official.refused("job", "push", "none.tp.toml", cluster_id) == (
        "Config file not found: none.tp.toml"
    )
    file = official.folder / "job.tp.toml"
    file.write_text("commands = []")
    said = await official.refused("job", "push", "job.tp.toml", cluster_id)
    assert said.splitlines() == [
        "commands is missing or empty",
        "Job connection closed, code = 1008",
        "commands is missing or empty",
    ]
    file.write_text(CONFIG)
    said = await official.refused("job", "push", "job.tp.toml", "c-none")
    assert said.splitlines()[0] == "Cluster c-none not found"
    assert len(emulator.jobs) == 0


@runs("job listen")
async def test_a_job_is_listened_to(official: Official, emulator: Emulator) -> None:
    job = emulator.jobs.add(lines=50, seconds=0.5)
    run = await official.ok("job", "listen", job.id)
    assert run.said.splitlines() == [f"line {n}" for n in range(50)]
    assert job.status is JobStatus.COMPLETED
    assert asked(emulator) == {"WEBSOCKET /job/listen/{job_id}": 1}


async def test_a_job_that_ends_badly_is_told_with_its_exit_code(
    official: Official, emulator: Emulator
) -> None:
    job = emulator.jobs.add(lines=["on we go"], exit_code=3)
    said = await official.refused("job", "listen", job.id)
    assert said.splitlines() == ["on we go", f"Job {job.id} ended with exit code 3"]


@runs("job list", "job ls", "job info")
async def test_jobs_are_shown(official: Official, emulator: Emulator) -> None:
    assert (await official.ok("job", "list")).said == "No jobs found"
    done, failed = emulator.jobs.add(), emulator.jobs.add(exit_code=2, message="It was not meant to be")
    title, _, headings, _, *rows = (await official.ok("job", "list")).said.splitlines()
    assert title == "Jobs"
    assert headings.split() == ["ID", "CLUSTER", "TYPE", "STATUS", "EXIT", "CODE", "CREATED"]
    assert [row.split()[::3] for row in rows] == [[done.id, "completed"], [failed.id, "error"]]
    said = (await official.ok("job", "info", failed.id)).said
    assert said.startswith(f"Job {failed.id}\n")
    for fact in ("error", "2", "It was not meant to be"):
        assert fact in said
    assert (await official.ok("job", "ls", "--org")).said == "No jobs found"
    assert asked(emulator) == {"GET /job/list": 3, "GET /job/info/{job_id}": 1}


@runs("job pull")
async def test_the_output_of_a_job_is_pulled(official: Official, emulator: Emulator, talk: Talk) -> None:
    job_id = await pushed(official, await a_cluster(talk))
    await ended(emulator, job_id)
    asked(emulator)
    run = await official("job", "pull", job_id)
    assert (run.exit_code, run.said) == (0, "Job files pulled successfully")
    files = {"out/model.pt": f"out/model.pt of job {job_id}\n", "log.txt": f"log.txt of job {job_id}\n"}
    assert {name: (official.folder / name).read_text() for name in files} == files
    assert asked(emulator) == {"GET /job/pull/{job_id}": 1, "GET /download/{token}": 2}
    (official.folder / "log.txt").write_text("mine")
    run = await official("job", "pull", job_id)
    assert "Skipping log.txt - file already exists" in run.said
    assert (official.folder / "log.txt").read_text() == "mine"
    run = await official("job", "pull", job_id, "--force")
    assert (run.exit_code, "Overwriting log.txt" in run.said) == (0, True)
    assert (official.folder / "log.txt").read_text() == files["log.txt"]


@runs("job pull")
async def test_the_output_of_a_live_job_is_copied(
    official: Official, emulator: Emulator, rsync: FakeProgram
) -> None:
    job = emulator.jobs.add(seconds=3600, files={"log.txt": b""})
    run = await official.ok("job", "pull", job.id, "-i", "my key")
    assert run.said.splitlines() == ["sent 0 bytes", f"Job {job.id} is live, copying from its cluster"]
    (call,) = rsync.calls
    assert call[0] == str(official.folder)
    assert shlex.split(call[call.index("-e") + 1]) == ["ssh", "-i", "my key"]
    said = await official.refused("job", "pull", job.id)
    assert said == "The job is live: system and private_key_path are needed to pull its files"
    done = emulator.jobs.add()
    assert (await official.ok("job", "pull", done.id)).said == f"Job {done.id} left no files"


@runs("job cancel")
async def test_a_job_is_canceled(official: Official, emulator: Emulator) -> None:
    first, second = emulator.jobs.add(seconds=3600), emulator.jobs.add(seconds=3600)
    run = await official.ok("job", "cancel", first.id, "--no-input", "--wait")
    assert run.said.startswith(f"Job {first.id}\n")
    assert "canceled" in run.said
    assert first.status is JobStatus.CANCELED
    assert asked(emulator) == {"POST /job/cancel/{job_id}": 1, "GET /job/info/{job_id}": 2}
    run = await official.ok("job", "cancel", second.id, "--no-input")
    assert run.said == f"Job {second.id} is being canceled"
    await ended(emulator, second.id)
    run = await official.ok("job", "cancel", second.id, "--no-input")
    assert run.said == f"Job {second.id} was canceled already"
    third = emulator.jobs.add(seconds=3600)
    assert "explicit confirmation" in await official.refused("job", "cancel", third.id)
    assert third.status is JobStatus.RUNNING


async def test_a_cancel_that_comes_too_late_is_told(official: Official, emulator: Emulator) -> None:
    done = emulator.jobs.add()
    assert await official.refused("job", "cancel", done.id, "--no-input") == (
        f"Job {done.id} has ended as completed"
    )
    stubborn = emulator.jobs.add(seconds=1.0, obeys=False)
    said = await official.refused("job", "cancel", stubborn.id, "--no-input", "--wait")
    assert "completed" in said


@runs("job delete")
async def test_a_job_is_deleted(official: Official, emulator: Emulator) -> None:
    live, done = emulator.jobs.add(seconds=3600), emulator.jobs.add()
    assert (await official.ok("job", "delete", done.id, "--no-input")).said == f"Job {done.id} was deleted"
    assert "cancel it first" in await official.refused("job", "delete", live.id, "--no-input")
    said = (await official.ok("job", "list")).said
    assert set(JOB.findall(said)) == {live.id}


# Object storage


@runs("object-storage enable", "object-storage credentials", "object-storage disable")
async def test_object_storage_is_enabled_and_disabled(official: Official, emulator: Emulator) -> None:
    assert "404" in await official.refused("object-storage", "credentials")
    said = (await official.ok("object-storage", "enable")).said.splitlines()
    assert said[0] == "Object storage is enabled"
    assert re.fullmatch(r"Access Key ID: +TPOS\w{16}", said[1])
    assert re.fullmatch(r"Secret Access Key: \w{40}", said[2])
    assert re.fullmatch(r"Endpoint: +https://objects\.tensorpool\.invalid", said[3])
    assert re.fullmatch(r"Region: +auto", said[4])
    assert (await official.ok("object-storage", "credentials")).said.splitlines() == said[1:]
    assert (await official.ok("object-storage", "enable")).said.splitlines()[1:] == said[1:]
    assert (await official.ok("object-storage", "disable")).said == "Object storage is disabled"
    assert "404" in await official.refused("object-storage", "credentials")
    assert asked(emulator) == {
        "GET /object-storage/credentials": 3,
        "POST /object-storage/enable": 2,
        "DELETE /object-storage/disable": 1,
    }


@runs("object-storage configure rclone")
async def test_rclone_is_configured(official: Official, talk: Talk) -> None:
    keys = (await talk.post("/object-storage/enable")).json
    file = official.home / ".config" / "rclone" / "rclone.conf"
    file.parent.mkdir(parents=True)
    file.write_text("[mine]\ntype = local\n")
    for _ in range(2):
        run = await official.ok("object-storage", "configure", "rclone")
        assert run.said == f"Wrote [tp] to {file}"
    text = file.read_text()
    assert text.startswith("[mine]\ntype = local\n")
    assert text.count("[tp]") == 1
    for line in (
        "type = s3",
        f"access_key_id = {keys['access_key_id']}",
        f"secret_access_key = {keys['secret_access_key']}",
    ):
        assert line in text.splitlines()


@runs(
    "object-storage bucket create",
    "object-storage bucket list",
    "object-storage bucket ls",
    "object-storage bucket delete",
    "object-storage bucket rm",
)
async def test_buckets_come_and_go(official: Official, emulator: Emulator, talk: Talk) -> None:
    await talk.post("/object-storage/enable")
    bucket = ("object-storage", "bucket")
    assert (await official.ok(*bucket, "list")).said == "No buckets found"
    assert (await official.ok(*bucket, "create", "data")).said == "Bucket data was created"
    await official.ok(*bucket, "create", "logs")
    assert (await official.ok(*bucket, "ls")).said == "data\nlogs"
    assert "exists already" in await official.refused(*bucket, "create", "data")
    emulator.buckets["data"]["a"] = b"1"
    assert "not empty" in await official.refused(*bucket, "delete", "data")
    assert "Delete all buckets" in await official.refused("object-storage", "disable")
    emulator.buckets["data"].clear()
    assert (await official.ok(*bucket, "delete", "data")).said == "Bucket 'data' deleted successfully"
    await official.ok(*bucket, "rm", "logs")
    assert emulator.buckets == {}


# The account


@runs("me")
async def test_who_one_is(official: Official, emulator: Emulator) -> None:
    emulator.balance = 42.5
    said = (await official.ok("me")).said
    assert said.startswith("Account\n")
    assert re.search(r"email: +ada@example\.com\n", said)
    assert re.search(r"balance: +\$42\.50\n", said)
    assert said.endswith(f"\nTENSORPOOL_ENGINE={emulator.url}")
    assert asked(emulator) == {"GET /user/info": 1}


@runs("me preferences")
async def test_preferences_are_managed_elsewhere(official: Official, emulator: Emulator) -> None:
    assert "dashboard/profile" in (await official.ok("me", "preferences")).said
    assert asked(emulator) == {}


@runs("me sshkey add", "me sshkey list", "me sshkey ls", "me sshkey remove", "me sshkey rm", "cluster create")
async def test_ssh_keys_come_and_go(official: Official, emulator: Emulator) -> None:
    (official.home / "id.pub").write_text(f"{PUBLIC_KEY}\n")
    (official.home / "other.pub").write_text("ssh-rsa AAAAB3Nza other\n")
    assert (await official.ok("me", "sshkey", "list")).said == "No SSH keys found"
    key_id = the(SSH_KEY, (await official.ok("me", "sshkey", "add", "~/id.pub", "--name", "laptop")).said)
    other = the(SSH_KEY, (await official.ok("me", "sshkey", "add", "~/other.pub")).said)
    rows = [row.split()[:3] for row in (await official.ok("me", "sshkey", "ls")).said.splitlines()[4:]]
    assert rows == [[key_id, "laptop", "ssh-ed25519"], [other, "ada@example.com", "ssh-rsa"]]
    # A member's keys are the organization's as well.
    assert key_id in (await official.ok("me", "sshkey", "list", "--org")).said
    await official.ok("cluster", "create", "1xH100")
    assert [cluster.public_keys for cluster in emulator.clusters.values()] == [
        (PUBLIC_KEY, "ssh-rsa AAAAB3Nza other")
    ]
    assert (await official.ok("me", "sshkey", "remove", key_id)).said == (
        f"SSH key laptop ({key_id}) was removed"
    )
    await official.ok("me", "sshkey", "rm", other)
    assert emulator.ssh_keys == {}
    assert await official.refused("me", "sshkey", "add", "~/none.pub") == (
        f"SSH key file not found: {official.home}/none.pub"
    )


@runs("ssh")
async def test_an_instance_is_logged_in_to(
    official: Official, emulator: Emulator, talk: Talk, ssh: FakeProgram
) -> None:
    cluster_id = await a_cluster(talk, "8xB200", num_nodes=2, tp_cluster_name="two")
    head, worker, _ = emulator.clusters[cluster_id].instances
    run = await official.ok("ssh", head.id, "-o", "LogLevel=ERROR")
    assert run.said.splitlines() == [f"Connecting to {head.name} of cluster two", "Welcome"]
    await official.ok("ssh", worker.id)
    assert ssh.calls == [
        [str(official.folder), f"ubuntu@{head.ip_address}", "-o", "LogLevel=ERROR"],
        [str(official.folder), "-J", f"ubuntu@{head.ip_address}", f"ubuntu@{worker.private_ip_address}"],
    ]
    assert asked(emulator) == {"GET /ssh/{instance_id}": 2}


# What goes wrong


COMMANDS = (
    "cluster list",
    "cluster create 1xH100",
    "cluster destroy c-1 --no-input",
    "storage create 10",
    "job list",
    "job listen j-1",
    "object-storage credentials",
    "me",
    "ssh i-1",
)


async def test_a_wrong_key_ends_every_command(official: Official, emulator: Emulator) -> None:
    refusals = [official.refused(*command.split(), TENSORPOOL_KEY="wrong") for command in COMMANDS]
    assert set(await asyncio.gather(*refusals)) == {"Invalid or missing API key"}
    assert asked(emulator) == {}
    assert emulator.record.by_status == {401: len(COMMANDS)}


async def test_without_a_key_one_is_asked_for(official: Official, emulator: Emulator) -> None:
    said = await official.refused("cluster", "list", TENSORPOOL_KEY=None)
    assert said.startswith("TENSORPOOL_KEY environment variable not found.")
    assert emulator.record.requests == 0
    (official.folder / ".env").write_text(f"TENSORPOOL_KEY='{emulator.key}'\n")
    assert (await official.ok("cluster", "list", TENSORPOOL_KEY=None)).said == "No clusters found"


async def test_an_engine_that_is_not_there_is_told(official: Official) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        said = await official.refused("cluster", "list", TENSORPOOL_ENGINE=address)
    assert said.startswith("Cannot reach the TensorPool.")


UNKNOWN = {
    "cluster info c-none": "Error getting cluster info. Status code 404",
    "cluster edit c-none --name x": "Error editing cluster. Status code: 404",
    "cluster destroy c-none --no-input": "Cluster destruction failed. Status code: 404",
    "cluster attach c-none s-none": "Storage volume attachment failed. Status code: 404",
    "cluster detach c-none s-none": "Storage volume detachment failed. Status code: 404",
    "storage info s-none": "Error getting storage volume info. Status code 404",
    "storage edit s-none --name x": "Error editing storage volume. Status code: 404",
    "storage destroy s-none --no-input": "Storage volume destruction failed. Status code: 404",
    "job info j-none": "Error getting job info. Status code 404",
    "job listen j-none": "Job j-none not found",
    "job pull j-none": "Error pulling job. Status code: 404",
    "job cancel j-none --no-input": "Job cancellation failed. Status code: 404",
    "job delete j-none": "Error deleting job. Status code: 404",
    "me sshkey remove k-none": "Error removing SSH key. Status code: 404",
    "ssh i-none": "Error fetching ssh command. Status code: 404\nRun `tp cluster list` to find the instance's info.",
}  # fmt: skip


async def test_an_unknown_id_is_told(official: Official, emulator: Emulator) -> None:
    said = await asyncio.gather(*(official.refused(*command.split()) for command in UNKNOWN))
    assert dict(zip(UNKNOWN, said, strict=True)) == UNKNOWN
    assert emulator.record.by_status[404] == len(UNKNOWN) - 1, "the WebSocket refuses with a message"


async def test_what_the_engine_refuses_is_told_with_its_reason(
    official: Official, emulator: Emulator, talk: Talk
) -> None:
    cluster_id, storage_id = await a_cluster(talk, tp_cluster_name="taken"), await a_volume(talk)
    said = await official.refused("cluster", "attach", cluster_id, storage_id)
    assert said.startswith("Storage volumes attach to multi-node GPU clusters")
    # FastAPI's and other details are in no field that this client reads.
    assert await official.refused("cluster", "create", "1xH100", "--name", "taken") == (
        "Cluster creation failed. Status code: 409"
    )
    assert await official.refused("cluster", "create", "9xZ9000") == (
        "Cluster creation failed. Status code: 422"
    )
    emulator.balance = 0.0
    assert "alance" in await official.refused("cluster", "create", "8xB200")
    assert "alance" in await official.refused("storage", "create", "10000")
    assert emulator.record.living == [cluster_id]
    assert emulator.record.made_twice == []


async def test_an_engine_in_trouble_is_told(official: Official, emulator: Emulator) -> None:
    for kind, expected in (
        (FaultKind.HTML_502, "Failed to decode server response. Status code: 502"),
        (FaultKind.HTML_502_AFTER, "Failed to decode server response. Status code: 502"),
        (FaultKind.CUT_JSON, "Failed to decode server response. Status code: 202"),
        (FaultKind.ERROR_500, "Cluster creation failed. Status code: 500"),
        (FaultKind.UNAVAILABLE, "The engine is being updated, please come back later"),
        (FaultKind.RATE_LIMITED, "Rate limit exceeded, retry in "),
        (FaultKind.DROP_BEFORE, "Failed to create cluster: "),
        (FaultKind.DROP_AFTER, "Failed to create cluster: "),
    ):
        emulator.faults.clear()
        emulator.faults.add(Fault(kind, path="/cluster/create"))
        said = await official.refused("cluster", "create", "1xH100")
        assert said.startswith(expected), kind
    assert len(emulator.record.clusters_made) == 3, "what was done before the answer was spoiled is done"


# All of it


GROUPS = (
    "cluster",
    "storage",
    "object-storage",
    "object-storage configure",
    "object-storage bucket",
    "job",
    "me sshkey",
)


@runs(*GROUPS)
async def test_a_group_without_a_subcommand_shows_its_help(official: Official) -> None:
    for group, run in zip(
        GROUPS, await asyncio.gather(*(official.ok(*group.split()) for group in GROUPS)), strict=True
    ):
        assert run.said.startswith(f"usage: tp {group} ")
        assert subcommands_in(run.said), group


async def test_the_version_is_the_one_that_is_described(official: Official) -> None:
    assert (await official.ok("--version")).said == "0.0.9"


async def test_there_is_a_test_for_every_subcommand(official: Official) -> None:
    at_once = asyncio.Semaphore(2)

    async def walk(*words: str) -> set[str]:
        async with at_once:
            usage = (await official.ok(*words, "--help")).said
        names = subcommands_in(usage)
        found = {" ".join([*words, name]) for group in names for name in group}
        return found.union(*await asyncio.gather(*(walk(*words, group[0]) for group in names)))

    assert await walk() == TESTED
    assert len(TESTED) == 49
