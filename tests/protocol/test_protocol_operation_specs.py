"""What the state of a resource says about the operation on it."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from tensorpool_async.models import Cluster, ClusterStatus, JobStatus, OperationKind, Quote, StorageStatus
from tensorpool_async.models.job import Job
from tensorpool_async.models.storage import StorageVolume
from tensorpool_async.protocol.operation_specs import (
    CLUSTER,
    DELETE_STARTED,
    OPERATION_SPECS,
    Outcome,
    status_text,
)
from tensorpool_async.protocol.responses import Answer


PENDING, SUCCEEDED, FAILED = Outcome

SIGNS: list[tuple[str | None, Outcome, Outcome]] = [
    # the cluster is   being made  being destroyed
    (None, PENDING, PENDING),
    ("PENDING", PENDING, PENDING),
    ("PROVISIONING", PENDING, PENDING),
    ("CONFIGURING", PENDING, PENDING),
    ("RUNNING", SUCCEEDED, PENDING),
    ("DESTROYING", FAILED, PENDING),
    ("DESTROYED", FAILED, SUCCEEDED),
    ("FAILED", FAILED, PENDING),
    ("HIBERNATING", PENDING, PENDING),  # known to a later engine only
]


@pytest.mark.parametrize(("status", "making", "destroying"), SIGNS)
@pytest.mark.parametrize("case", [str.upper, str.lower, str.title])
def test_the_state_of_a_cluster(status: str | None, making: Outcome, destroying: Outcome, case: Any) -> None:
    cluster = Cluster("c-1", status=None if status is None else ClusterStatus(case(status)))
    assert OPERATION_SPECS[OperationKind.CLUSTER_CLAIM].outcome(cluster, {}) is making
    assert OPERATION_SPECS[OperationKind.CLUSTER_RELEASE].outcome(cluster, {}) is destroying


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (None, PENDING),
        ("RUNNING", FAILED),
        ("DESTROYING", PENDING),
        ("DESTROYED", SUCCEEDED),
        ("FAILED", FAILED),
        ("HIBERNATING", PENDING),
    ],
)
def test_a_destruction_that_had_begun_has_failed_where_the_cluster_is_whole_again(
    status: str | None, outcome: Outcome
) -> None:
    cluster = Cluster("c-1", status=None if status is None else ClusterStatus(status))
    assert OPERATION_SPECS[OperationKind.CLUSTER_RELEASE].outcome(cluster, {DELETE_STARTED: True}) is outcome


def test_a_destruction_that_had_begun_has_failed_where_the_volume_is_whole_again() -> None:
    volume = StorageVolume("s-1", status=StorageStatus.READY)
    rule = OPERATION_SPECS[OperationKind.STORAGE_DESTROY]
    assert (rule.outcome(volume, {}), rule.outcome(volume, {DELETE_STARTED: True})) == (PENDING, FAILED)


@pytest.mark.parametrize(
    ("expected", "outcome"),
    [
        ({"name": "w0"}, SUCCEEDED),
        ({"name": "w0", "deletion_protection": True}, SUCCEEDED),
        ({"name": "w1"}, PENDING),
        ({"name": "w0", "deletion_protection": False}, PENDING),
        ({"unheard_of": 1}, PENDING),
    ],
)
def test_an_edit_is_done_when_the_cluster_has_the_new_values(
    expected: dict[str, Any], outcome: Outcome
) -> None:
    cluster = Cluster("c-1", name="w0", deletion_protection=True)
    assert OPERATION_SPECS[OperationKind.CLUSTER_EDIT].outcome(cluster, expected) is outcome


def test_only_a_destruction_is_done_when_the_resource_is_gone_and_has_no_result() -> None:
    destructions = {kind for kind in OPERATION_SPECS if kind.endswith(("_RELEASE", "_DESTROY"))}
    assert {kind for kind, rule in OPERATION_SPECS.items() if rule.done_when_gone} == destructions
    assert {kind for kind, rule in OPERATION_SPECS.items() if not rule.has_result} == destructions


def test_every_kind_of_a_cluster_can_be_watched() -> None:
    of_clusters = {kind for kind in OperationKind if kind.startswith("CLUSTER_")}
    assert of_clusters == {kind for kind, rule in OPERATION_SPECS.items() if rule.resource is CLUSTER}


VOLUME_SIGNS: list[tuple[str | None, Outcome, Outcome]] = [
    # the volume is  being made  being destroyed
    (None, PENDING, PENDING),
    ("CREATING", PENDING, PENDING),
    ("READY", SUCCEEDED, PENDING),
    ("DESTROYING", FAILED, PENDING),
    ("DESTROYED", FAILED, SUCCEEDED),
    ("FAILED", FAILED, PENDING),
]


@pytest.mark.parametrize(("status", "making", "destroying"), VOLUME_SIGNS)
def test_the_state_of_a_volume(status: str | None, making: Outcome, destroying: Outcome) -> None:
    volume = StorageVolume("s-1", status=None if status is None else StorageStatus(status.lower()))
    assert OPERATION_SPECS[OperationKind.STORAGE_CREATE].outcome(volume, {}) is making
    assert OPERATION_SPECS[OperationKind.STORAGE_DESTROY].outcome(volume, {}) is destroying


@pytest.mark.parametrize(
    ("expected", "outcome"),
    [
        ({"attached": "c-1"}, SUCCEEDED),
        ({"attached": "c-3"}, PENDING),
        ({"detached": "c-1"}, PENDING),
        ({"detached": "c-3"}, SUCCEEDED),
    ],
)
def test_a_volume_is_attached_or_no_longer(expected: dict[str, Any], outcome: Outcome) -> None:
    volume = StorageVolume("s-1", attached_clusters=("c-1", "c-2"))
    for kind in (OperationKind.STORAGE_ATTACH, OperationKind.STORAGE_DETACH):
        assert OPERATION_SPECS[kind].outcome(volume, expected) is outcome


@pytest.mark.parametrize("status", [*JobStatus, None, JobStatus("napping")])
def test_a_cancellation_ends_however_the_job_does(status: JobStatus | None) -> None:
    ended = status is not None and status.is_terminal
    outcome = OPERATION_SPECS[OperationKind.JOB_CANCEL].outcome(Job("j-1", status=status), {})
    assert outcome is (SUCCEEDED if ended else PENDING)


def test_what_is_judged_by_what_is_expected_cannot_be_watched_without_it() -> None:
    for kind, rule in OPERATION_SPECS.items():
        by_values = kind.endswith(("_EDIT", "_ATTACH", "_DETACH"))
        assert rule.can_watch("x-1", {}) is not by_values
        assert rule.can_watch("x-1", {"name": "w0"})
        assert not rule.can_watch(None, {"name": "w0"})


def test_reading_a_cluster() -> None:
    request = CLUSTER.read("a/b")
    assert (request.method, request.path, request.route) == (
        "GET",
        "/cluster/info/a%2Fb",
        "/cluster/info/{id}",
    )
    answer = Answer(200, {"cluster_info": {"status": "running"}})
    assert request.decode(answer) == Cluster("a/b", status=ClusterStatus.RUNNING)


@attrs.frozen
class WithoutStatus:
    name: str = "w0"


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (Cluster("c-1", status=ClusterStatus.RUNNING), "RUNNING"),
        (Cluster("c-1"), "state unknown"),
        (Quote(1.0), "state unknown"),
        (WithoutStatus(), "state unknown"),
    ],
)
def test_a_state_as_text(model: Any, text: str) -> None:
    assert status_text(model) == text
