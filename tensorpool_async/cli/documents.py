"""The documents that `--json` prints. Their keys are stable: keys may be added, and none is renamed or removed.

Costs and rates are in USD per hour, and null if the engine returns no price. Durations are in seconds; times are seconds
since the epoch, except `created_at`, which is the text of the engine.
"""

from __future__ import annotations

import time
from typing import Any

from tensorpool_async.fleet import FleetReport, MemberReport, Plan, PlannedMember
from tensorpool_async.journal import JournalEntry
from tensorpool_async.models import Cluster, Job, StorageVolume
from tensorpool_async.operations.operation import Operation
from tensorpool_async.protocol import tokens
from tensorpool_async.resources.recovery import Leftover


def plan_document(plan: Plan, refusal: str | None) -> dict[str, Any]:
    """`tpa plan`: fleet, members, surplus, hourly_cost_now, hourly_cost_after, max_hourly_cost, refusal."""
    return {
        "fleet": plan.fleet,
        "members": [_planned_member(entry) for entry in plan.members],
        "surplus": [_planned_member(entry) for entry in plan.surplus],
        "hourly_cost_now": _rounded(plan.hourly_cost_now),
        "hourly_cost_after": _rounded(plan.hourly_cost_after),
        "max_hourly_cost": plan.max_hourly_cost,
        "refusal": refusal,
    }


def _planned_member(entry: PlannedMember) -> dict[str, Any]:
    resource = entry.cluster or entry.volume
    status = None if resource is None else resource.status
    return {
        "name": entry.name,
        "group": entry.group,
        "action": str(entry.action),
        "instance_type": entry.instance_type,
        "num_nodes": entry.num_nodes,
        "hourly_rate": _rounded(entry.hourly_rate),
        "id": entry.resource_id,
        "status": None if status is None else str(status),
        "problem": entry.problem or None,
    }


def fleet_document(report: FleetReport, **extra: Any) -> dict[str, Any]:
    """`tpa up`, `down` and `status`: fleet, members, hourly_cost, seconds, sequential_seconds, requests, and so on.

    Args:
        report: The report of the command.
        extra: More keys.
    """
    return {
        "fleet": report.fleet,
        "members": [_member(member) for member in report.members],
        "hourly_cost": _rounded(report.hourly_cost),
        "seconds": round(report.seconds, 3),
        "sequential_seconds": round(report.sequential_seconds, 3),
        "requests": report.requests,
        "rate_limited": report.rate_limited,
        "retries": report.retries,
        **extra,
    }


def _member(member: MemberReport) -> dict[str, Any]:
    return {
        "name": member.name,
        "group": member.group,
        "state": str(member.state),
        "id": member.id,
        "instance_type": member.instance_type,
        "ip": member.ip,
        "seconds": round(member.seconds, 3),
        "polls": member.polls,
        "hourly_rate": _rounded(member.hourly_rate),
        "error": member.error,
        "tried": list(member.tried),
    }


def clusters_document(clusters: list[Cluster], hourly_cost: float | None) -> dict[str, Any]:
    """`tpa ls`: clusters, hourly_cost."""
    return {
        "clusters": [cluster_document(cluster) for cluster in clusters],
        "hourly_cost": _rounded(hourly_cost),
    }


def cluster_document(cluster: Cluster) -> dict[str, Any]:
    """One cluster: id, name, status, instance_type, num_nodes, ip, hourly_rate, and so on."""
    return {
        "id": cluster.id,
        "name": cluster.name,
        "status": None if cluster.status is None else str(cluster.status),
        "instance_type": cluster.instance_type,
        "num_nodes": cluster.num_nodes,
        "ip": cluster.ip_address,
        "hourly_rate": _rounded(cluster.hourly_rate),
        "deletion_protection": cluster.deletion_protection,
        "storage": list(cluster.storage),
        "created_at": cluster.created_at,
    }


def volumes_document(volumes: list[StorageVolume], hourly_cost: float | None) -> dict[str, Any]:
    """`tpa ls volumes`: volumes, hourly_cost."""
    return {"volumes": [volume_document(volume) for volume in volumes], "hourly_cost": _rounded(hourly_cost)}


def volume_document(volume: StorageVolume) -> dict[str, Any]:
    """One volume: id, name, status, size_gb, hourly_rate, and so on."""
    return {
        "id": volume.id,
        "name": volume.name,
        "status": None if volume.status is None else str(volume.status),
        "size_gb": volume.size_gb,
        "hourly_rate": _rounded(volume.hourly_rate),
        "attached_clusters": list(volume.attached_clusters),
        "deletion_protection": volume.deletion_protection,
        "created_at": volume.created_at,
    }


def job_document(job: Job) -> dict[str, Any]:
    """One job of `tpa ls jobs`: id, status, exit_code, instance_type, public_message."""
    return {
        "id": job.id,
        "status": None if job.status is None else str(job.status),
        "exit_code": job.exit_code,
        "instance_type": job.instance_type,
        "public_message": job.public_message,
    }


def result_document(result: Any) -> dict[str, Any] | None:
    """The result of an operation: a cluster, a volume or a job as in `tpa ls`, or None."""
    if isinstance(result, Cluster):
        return cluster_document(result)
    if isinstance(result, StorageVolume):
        return volume_document(result)
    return job_document(result) if isinstance(result, Job) else None


def operation_document(operation: Operation[Any], result: Any, error: str | None) -> dict[str, Any]:
    """`tpa wait`: request_id, kind, status, resource_id, message, result, error, token."""
    info = operation.info
    return {
        "request_id": operation.request_id,
        "kind": None if operation.kind is None else str(operation.kind),
        "status": str(operation.status),
        "resource_id": operation.resource_id,
        "message": None if info is None else info.external_message,
        "result": result_document(result),
        "error": error,
        "token": operation.token,
    }


def resource_document(resource: Cluster | StorageVolume, error: str | None) -> dict[str, Any]:
    """One resource of `tpa destroy`: id, kind, name, hourly_rate, destroyed, error."""
    return {
        "id": resource.id,
        "kind": "cluster" if isinstance(resource, Cluster) else "volume",
        "name": resource.name,
        "hourly_rate": resource.hourly_rate,
        "destroyed": error is None,
        "error": error,
    }


def entry_document(entry: JournalEntry) -> dict[str, Any]:
    """One entry of `tpa ops` and `tpa recover`: entry, engine, kind, name, resource_id, state, and so on."""
    return {
        "entry": entry.id,
        "engine": entry.intent.engine,
        "kind": str(entry.intent.kind),
        "name": entry.intent.name,
        "resource_id": entry.resource_id,
        "state": str(entry.state),
        "outcome": entry.outcome,
        "owner_alive": entry.owner_alive,
        "ephemeral": entry.intent.ephemeral,
        "ttl": entry.intent.ttl,
        "age": round(entry_age(entry), 3),
        "sent_at": entry.intent.sent_at,
        "accepted_at": entry.accepted_at,
        "ended_at": entry.ended_at,
        "gone_at": entry.deleted_at,
        "details": entry.intent.details,
        "token": entry_token(entry),
    }


def entry_age(entry: JournalEntry) -> float:
    """Return the seconds since the request of an entry was sent."""
    return max(0.0, time.time() - entry.intent.sent_at)


def entry_token(entry: JournalEntry) -> str | None:
    """Return the token of the operation of an entry; None if no answer of the engine is recorded."""
    return None if entry.ref is None else tokens.encode(entry.ref)


def leftover_document(leftover: Leftover, result: str, error: str | None) -> dict[str, Any]:
    """One leftover of `tpa reap`: name, kind, id, age, hourly_rate, fate, error."""
    return {
        "name": leftover.name,
        "kind": str(leftover.kind),
        "id": leftover.resource_id,
        "age": round(leftover.age, 3),
        "hourly_rate": leftover.hourly_rate,
        "fate": result,
        "error": error,
    }


def _rounded(rate: float | None) -> float | None:
    """Round a sum of prices, so that it shows no floating-point noise."""
    return None if rate is None else round(rate, 6)
