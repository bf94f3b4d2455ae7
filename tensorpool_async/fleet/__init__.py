"""Fleets: clusters and volumes that are defined in one file, brought up together, and destroyed together."""

from tensorpool_async.fleet.file import load
from tensorpool_async.fleet.plan import Action, Plan, PlannedMember
from tensorpool_async.fleet.report import (
    FleetIncomplete,
    FleetMembers,
    FleetReport,
    MemberReport,
    MemberState,
)
from tensorpool_async.fleet.session import FleetSession
from tensorpool_async.fleet.spec import ClusterGroup, Fleet, Member, VolumeGroup


__all__ = [
    "Action",
    "ClusterGroup",
    "Fleet",
    "FleetIncomplete",
    "FleetMembers",
    "FleetReport",
    "FleetSession",
    "Member",
    "MemberReport",
    "MemberState",
    "Plan",
    "PlannedMember",
    "VolumeGroup",
    "load",
]
