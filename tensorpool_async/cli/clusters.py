"""The commands about single clusters and operations: ls, wait."""

from __future__ import annotations

import asyncio
import time

from tensorpool_async.cli import DONE, FAILED, INTERRUPTED
from tensorpool_async.cli.display import waiting
from tensorpool_async.cli.documents import clusters_document, operation_document
from tensorpool_async.cli.printing import counted, money, rate_cell, say, show, show_json, show_table
from tensorpool_async.client import TensorPool
from tensorpool_async.errors import OperationFailed, OperationTimeout
from tensorpool_async.fleet.plan import total
from tensorpool_async.fleet.progress import sentence
from tensorpool_async.models import Cluster, RequestInfo
from tensorpool_async.operations.operation import Operation


async def ls(*, as_json: bool) -> int:
    """List the clusters of the key's owner."""
    async with TensorPool() as tp:
        clusters = await tp.clusters.list()
    cost = total(cluster.hourly_rate for cluster in clusters)
    if as_json:
        show_json(clusters_document(clusters, cost))
    else:
        _show_clusters(clusters)
        show(
            f"{counted(len(clusters), 'cluster')}; {money(cost)} per hour" if clusters else "No clusters.",
            apart=bool(clusters),
        )
    return DONE


def _show_clusters(clusters: list[Cluster]) -> None:
    if not clusters:
        return
    show_table(
        ("NAME", "TYPE", "NODES", "ID", "STATE", "IP", "USD/H"),
        [
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
        ],
        right=("NODES", "USD/H"),
    )


async def wait(request: str, timeout: float | None, *, as_json: bool) -> int:
    """Wait for the end of an operation that was begun anywhere."""
    async with TensorPool() as tp:
        operation = tp.operation(request)
        try:
            async with asyncio.timeout(timeout), waiting(f"waiting for {operation.request_id or request}"):
                await _follow(operation)
            result, error = await operation, None
        except OperationFailed as failure:
            result, error = None, sentence(failure)
        except (TimeoutError, OperationTimeout):
            say(f"tpa: not done after {timeout:g} s; it goes on: tpa wait {operation.token}", style="red")
            return FAILED
        except asyncio.CancelledError:
            say(f"Interrupted. The operation goes on at the engine: tpa wait {operation.token}")
            return INTERRUPTED
    if as_json:
        show_json(operation_document(operation, result, error))
    elif isinstance(result, Cluster):
        _show_clusters([result])
    if error:
        say(f"tpa: {error}", style="red")
    elif not as_json and not isinstance(result, Cluster):
        show(f"{operation.kind} of {operation.resource_id}: {operation.status}")
    return FAILED if error else DONE


async def _follow(operation: Operation[object]) -> None:
    begin = time.monotonic()
    async for info in operation.updates():
        say(_line(info, time.monotonic() - begin))


def _line(info: RequestInfo, seconds: float) -> str:
    return f"{seconds:7.1f} s  {info.status:<10}  {info.external_message or ''}".rstrip()
