"""The commands for single resources and operations: ls, wait, destroy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from tensorpool_async.cli.display import show_elapsed
from tensorpool_async.cli.documents import (
    clusters_document,
    job_document,
    operation_document,
    resource_document,
    volumes_document,
)
from tensorpool_async.cli.exit_codes import ExitCode
from tensorpool_async.cli.journal_file import open_client
from tensorpool_async.cli.output import (
    format_price,
    pluralize,
    print_err,
    print_json,
    print_out,
    print_table,
    rate_cell,
)
from tensorpool_async.cli.prompt import confirm_destroy
from tensorpool_async.client import TensorPool
from tensorpool_async.errors import (
    ConfigurationError,
    NotFound,
    OperationFailed,
    OperationTimeout,
    TensorPoolError,
)
from tensorpool_async.fleet.plan import total
from tensorpool_async.fleet.progress import sentence
from tensorpool_async.models import Cluster, RequestInfo, StorageVolume
from tensorpool_async.operations.operation import Operation


Resource = Cluster | StorageVolume


async def list_clusters(*, as_json: bool) -> ExitCode:
    """List the clusters of the account."""
    async with TensorPool() as tp:
        clusters = await tp.clusters.list()
    cost = total(cluster.hourly_rate for cluster in clusters)
    if as_json:
        print_json(clusters_document(clusters, cost))
    elif clusters:
        _print_clusters(clusters)
        print_out(f"{pluralize(len(clusters), 'cluster')}; {format_price(cost)} per hour", blank_before=True)
    else:
        print_out("No clusters.")
    return ExitCode.SUCCESS


def _print_clusters(clusters: Iterable[Cluster]) -> None:
    rows = [
        (
            cluster.name,
            cluster.instance_type,
            cluster.num_nodes,
            cluster.id,
            cluster.status,
            cluster.ip_address,
            rate_cell(cluster.hourly_rate),
        )
        for cluster in clusters
    ]
    print_table(("NAME", "TYPE", "NODES", "ID", "STATE", "IP", "USD/H"), rows, right=("NODES", "USD/H"))


async def list_volumes(*, as_json: bool) -> ExitCode:
    """List the volumes of the account."""
    async with TensorPool() as tp:
        volumes = await tp.storage.list()
    cost = total(volume.hourly_rate for volume in volumes)
    if as_json:
        print_json(volumes_document(volumes, cost))
    elif volumes:
        _print_volumes(volumes)
        print_out(f"{pluralize(len(volumes), 'volume')}; {format_price(cost)} per hour", blank_before=True)
    else:
        print_out("No volumes.")
    return ExitCode.SUCCESS


def _print_volumes(volumes: Iterable[StorageVolume]) -> None:
    rows = [
        (
            volume.name,
            volume.size_gb,
            volume.id,
            volume.status,
            ", ".join(volume.attached_clusters) or None,
            rate_cell(volume.hourly_rate),
        )
        for volume in volumes
    ]
    print_table(("NAME", "GB", "ID", "STATE", "ATTACHED TO", "USD/H"), rows, right=("GB", "USD/H"))


async def list_jobs(*, as_json: bool) -> ExitCode:
    """List the jobs of the account."""
    async with TensorPool() as tp:
        jobs = await tp.jobs.list()
    if as_json:
        print_json({"jobs": [job_document(job) for job in jobs]})
    elif jobs:
        rows = [(job.id, job.status, job.exit_code, job.instance_type, job.public_message) for job in jobs]
        print_table(("ID", "STATE", "EXIT", "TYPE", "MESSAGE"), rows, right=("EXIT",))
        print_out(pluralize(len(jobs), "job"), blank_before=True)
    else:
        print_out("No jobs.")
    return ExitCode.SUCCESS


async def wait(request: str, timeout: float | None, *, as_json: bool) -> ExitCode:
    """Wait for the end of an operation, which any process may have started.

    Args:
        request: A request id, or the token of an operation.
        timeout: Seconds to wait at most; None waits until the operation ends.
        as_json: Print a document.
    """
    async with TensorPool() as tp:
        operation = tp.operation(request)
        try:
            async with (
                asyncio.timeout(timeout),
                show_elapsed(f"waiting for {operation.request_id or request}"),
            ):
                await _print_updates(operation)
            result, error = await operation, None
        except OperationFailed as failure:
            result, error = None, sentence(failure)
        except (TimeoutError, OperationTimeout):
            print_err(
                f"tpa: not finished after {timeout:g} s; the operation continues: tpa wait {operation.token}",
                style="red",
            )
            return ExitCode.FAILURE
        except asyncio.CancelledError:
            print_err(f"Interrupted. The operation continues at the engine: tpa wait {operation.token}")
            return ExitCode.INTERRUPTED
    if as_json:
        print_json(operation_document(operation, result, error))
    elif isinstance(result, Cluster):
        _print_clusters([result])
    elif not error:
        print_out(f"{operation.kind} of {operation.resource_id}: {operation.status}")
    if error:
        print_err(f"tpa: {error}", style="red")
    return ExitCode.FAILURE if error else ExitCode.SUCCESS


async def _print_updates(operation: Operation[object]) -> None:
    started = time.monotonic()
    async for info in operation.updates():
        print_err(_update_line(info, time.monotonic() - started))


def _update_line(info: RequestInfo, seconds: float) -> str:
    return f"{seconds:7.1f} s  {info.status:<10}  {info.external_message or ''}".rstrip()


async def destroy(references: Sequence[str], journal: Path | None, *, yes: bool, as_json: bool) -> ExitCode:
    """Destroy clusters, then volumes.

    Args:
        references: The ids or names of the resources.
        journal: The path of the journal, or None.
        yes: Destroy without asking.
        as_json: Print a document.
    """
    async with open_client(journal, only_destroys=True) as tp:
        resources = await _resolve(tp, references)
        if not yes:
            _print_resources(resources)
            refused = await confirm_destroy(_destroy_question(resources))
            if refused is not None:
                return refused
        clusters = [resource for resource in resources if isinstance(resource, Cluster)]
        volumes = [resource for resource in resources if isinstance(resource, StorageVolume)]
        errors: dict[str, str] = {}
        try:
            for selected in (clusters, volumes):
                await asyncio.gather(*(_destroy_one(tp, resource, errors) for resource in selected))
        except asyncio.CancelledError:
            ids = " ".join(resource.id for resource in resources)
            print_err(f"Interrupted. To continue:  tpa destroy {ids}")
            return ExitCode.INTERRUPTED
    if as_json:
        documents = [resource_document(resource, errors.get(resource.id)) for resource in resources]
        print_json({"resources": documents})
    else:
        print_out(f"Destroyed {len(resources) - len(errors)} of {len(resources)}.")
    return ExitCode.FAILURE if errors else ExitCode.SUCCESS


async def _resolve(tp: TensorPool, references: Sequence[str]) -> list[Resource]:
    """Return the resource of each id or name.

    Raises:
        ConfigurationError: No resource, or more than one, has the id or name.
    """
    existing: list[Resource] = [*await tp.clusters.list(), *await tp.storage.list()]
    found: dict[str, Resource] = {}
    for reference in references:
        matches = [resource for resource in existing if resource.id == reference] or [
            resource for resource in existing if resource.name == reference
        ]
        if not matches:
            raise ConfigurationError(
                f"there is no cluster or volume {reference}; `tpa ls` and `tpa ls volumes` list them"
            )
        if len(matches) > 1:
            ids = ", ".join(resource.id for resource in matches)
            raise ConfigurationError(
                f"several resources have the name {reference}; use one of the ids: {ids}"
            )
        found[matches[0].id] = matches[0]
    return list(found.values())


def _print_resources(resources: Sequence[Resource]) -> None:
    rows = [
        (
            resource.name,
            "cluster" if isinstance(resource, Cluster) else "volume",
            resource.id,
            resource.status,
            rate_cell(resource.hourly_rate),
        )
        for resource in resources
    ]
    print_table(("NAME", "KIND", "ID", "STATE", "USD/H"), rows, right=("USD/H",), error=True)


def _destroy_question(resources: Sequence[Resource]) -> str:
    cost = format_price(total(resource.hourly_rate for resource in resources))
    return f"Destroy {pluralize(len(resources), 'resource')}, {cost} per hour, with all data?"


async def _destroy_one(tp: TensorPool, resource: Resource, errors: dict[str, str]) -> None:
    try:
        if isinstance(resource, Cluster):
            await tp.clusters.for_exit.lifecycle.destroy(resource)
        else:
            await tp.storage.for_exit.destroy(resource).result()
    except NotFound:
        pass  # already deleted
    except TensorPoolError as error:
        errors[resource.id] = sentence(error)
    is_failure = resource.id in errors
    outcome = errors.get(resource.id, "destroyed")
    print_err(f"{resource.name or ''}  {resource.id}  {outcome}", style="red" if is_failure else "")
