"""Fleets: many clusters as one thing, described in a file, brought up side by side, and taken down again."""

from tensorpool_async.fleet.file import load
from tensorpool_async.fleet.members import FleetMembers
from tensorpool_async.fleet.plan import Action, Plan, PlannedMember
from tensorpool_async.fleet.report import FleetIncomplete, FleetReport, MemberReport, MemberState
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
