"""The documents that `--json` prints. Their keys are stable: keys may be added, and none is renamed or taken away.

Costs and rates are USD per hour, and null where the engine names no price. Times are seconds.
"""

from __future__ import annotations

from typing import Any

from tensorpool_async.fleet import FleetReport, MemberReport, Plan, PlannedMember
from tensorpool_async.models import Cluster, Job, StorageVolume
from tensorpool_async.operations.operation import Operation


def plan_document(plan: Plan, refusal: str | None) -> dict[str, Any]:
    """`tpa plan`: fleet, members, surplus, hourly_cost_now, hourly_cost_after, max_hourly_cost, refusal."""
    return {
        "fleet": plan.fleet,
        "members": [_planned(entry) for entry in plan.members],
        "surplus": [_planned(entry) for entry in plan.surplus],
        "hourly_cost_now": _cents(plan.hourly_cost_now),
        "hourly_cost_after": _cents(plan.hourly_cost_after),
        "max_hourly_cost": plan.max_hourly_cost,
        "refusal": refusal,
    }


def _planned(entry: PlannedMember) -> dict[str, Any]:
    there = entry.cluster or entry.volume
    status = None if there is None else there.status
    return {
        "name": entry.name,
        "group": entry.group,
        "action": str(entry.action),
        "instance_type": entry.instance_type,
        "num_nodes": entry.num_nodes,
        "hourly_rate": _cents(entry.hourly_rate),
        "id": entry.resource_id,
        "status": None if status is None else str(status),
        "problem": entry.problem or None,
    }


def fleet_document(report: FleetReport, **more: Any) -> dict[str, Any]:
    """`tpa up`, `down` and `status`: fleet, members, hourly_cost, seconds, sequential_seconds, requests, and so on."""
    return {
        "fleet": report.fleet,
        "members": [_member(member) for member in report.members],
        "hourly_cost": _cents(report.hourly_cost),
        "seconds": round(report.seconds, 3),
        "sequential_seconds": round(report.sequential_seconds, 3),
        "requests": report.requests,
        "rate_limited": report.rate_limited,
        "retries": report.retries,
        **more,
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
        "hourly_rate": _cents(member.hourly_rate),
        "error": member.error,
        "tried": list(member.tried),
    }


def clusters_document(clusters: list[Cluster], hourly_cost: float | None) -> dict[str, Any]:
    """`tpa ls`: clusters, hourly_cost."""
    return {
        "clusters": [cluster_document(cluster) for cluster in clusters],
        "hourly_cost": _cents(hourly_cost),
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
        "hourly_rate": _cents(cluster.hourly_rate),
        "deletion_protection": cluster.deletion_protection,
        "storage": list(cluster.storage),
        "created_at": cluster.created_at,
    }


def volumes_document(volumes: list[StorageVolume], hourly_cost: float | None) -> dict[str, Any]:
    """`tpa ls volumes`: volumes, hourly_cost."""
    return {"volumes": [volume_document(volume) for volume in volumes], "hourly_cost": _cents(hourly_cost)}


def volume_document(volume: StorageVolume) -> dict[str, Any]:
    """One volume: id, name, status, size_gb, hourly_rate, and so on."""
    return {
        "id": volume.id,
        "name": volume.name,
        "status": None if volume.status is None else str(volume.status),
        "size_gb": volume.size_gb,
        "hourly_rate": _cents(volume.hourly_rate),
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
    """What an operation gave: a cluster, a volume or a job as `tpa ls` has it, or nothing."""
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


def _cents(rate: float | None) -> float | None:
    """Free a sum of prices from the noise of its last digits."""
    return None if rate is None else round(rate, 6)
