"""The lists of `tpa ls` other than that of clusters: volumes, jobs."""

from __future__ import annotations

from tensorpool_async.cli import DONE
from tensorpool_async.cli.documents import job_document, volumes_document
from tensorpool_async.cli.printing import counted, money, rate_cell, show, show_json, show_table
from tensorpool_async.client import TensorPool
from tensorpool_async.fleet.plan import total


async def volumes(*, as_json: bool) -> int:
    """List the volumes of the key's owner."""
    async with TensorPool() as tp:
        found = await tp.storage.list()
    cost = total(volume.hourly_rate for volume in found)
    if as_json:
        show_json(volumes_document(found, cost))
        return DONE
    if not found:
        show("No volumes.")
        return DONE
    rows = [
        (
            volume.name,
            volume.size_gb,
            volume.id,
            volume.status,
            ", ".join(volume.attached_clusters) or None,
            rate_cell(volume.hourly_rate),
        )
        for volume in found
    ]
    show_table(("NAME", "GB", "ID", "STATE", "ATTACHED TO", "USD/H"), rows, right=("GB", "USD/H"))
    show(f"{counted(len(found), 'volume')}; {money(cost)} per hour", apart=True)
    return DONE


async def jobs(*, as_json: bool) -> int:
    """List the jobs of the key's owner."""
    async with TensorPool() as tp:
        found = await tp.jobs.list()
    if as_json:
        show_json({"jobs": [job_document(job) for job in found]})
        return DONE
    if not found:
        show("No jobs.")
        return DONE
    rows = [(job.id, job.status, job.exit_code, job.instance_type, job.public_message) for job in found]
    show_table(("ID", "STATE", "EXIT", "TYPE", "MESSAGE"), rows, right=("EXIT",))
    show(f"{counted(len(found), 'job')}", apart=True)
    return DONE
