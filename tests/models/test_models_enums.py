"""Open enums: letter case does not matter, and what is unknown is kept."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tensorpool_async.models import ClusterStatus, JobStatus, OpenEnum, OperationKind, RequestStatus
from tests.models.documents import ENUMS, any_case


MEMBERS = [member for kind in ENUMS for member in kind]
every_member = pytest.mark.parametrize(
    "member", MEMBERS, ids=lambda member: f"{type(member).__name__}.{member.name}"
)
every_enum = pytest.mark.parametrize("kind", ENUMS)


@every_member
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_letter_case_does_not_matter(member: OpenEnum, data: st.DataObject) -> None:
    text = data.draw(any_case(member.value))
    assert type(member)(text) is member
    assert (member == text, text == member, member != text) == (True, True, False)


@every_member
def test_a_known_value_behaves_as_its_text(member: OpenEnum) -> None:
    assert member.is_known
    assert (str(member), f"{member}", json.dumps(member)) == (
        member.value,
        member.value,
        json.dumps(member.value),
    )
    assert member in {member.value, "something else"}
    assert member.value in {member, "something else"}
    assert {member.value: 1}[member] == 1
    assert (member == "something else", member != "something else") == (False, True)
    assert (member == 5, member != 5) == (False, True)


@every_enum
@given(text=st.text())
def test_any_text_is_taken_and_kept(kind: type[OpenEnum], text: str) -> None:
    value = kind(text)
    assert isinstance(value, kind)
    if value.is_known:
        assert value in list(kind)
        assert value.value.casefold() == text.casefold()
    else:
        assert (value.value, str(value), f"{value}") == (text, text, text)
        assert value not in list(kind)
    assert value == kind(text) == text
    assert hash(value) == hash(kind(text))
    assert text in repr(value) or repr(text)[1:-1] in repr(value) or value.is_known


@every_enum
@given(
    texts=st.lists(st.sampled_from("abAB"), min_size=2, max_size=2)
    | st.lists(st.text(), min_size=2, max_size=2)
)
def test_equal_values_have_equal_hashes(kind: type[OpenEnum], texts: list[str]) -> None:
    one, other = map(kind, texts)
    assert (one == other) is (texts[0].casefold() == texts[1].casefold())
    assert (one != other) is not (one == other)
    assert one != other or hash(one) == hash(other)


@every_enum
@pytest.mark.parametrize("value", [None, 5, b"RUNNING", ["RUNNING"]])
def test_what_is_no_text_is_no_value(kind: type[OpenEnum], value: Any) -> None:
    with pytest.raises(ValueError, match="is not a valid"):
        kind(value)


@pytest.mark.parametrize("status", [*MEMBERS, RequestStatus("QUEUED"), JobStatus("Napping")])
def test_a_value_survives_pickling_and_copying(status: OpenEnum) -> None:
    for copied in (pickle.loads(pickle.dumps(status)), copy.copy(status), copy.deepcopy(status)):
        assert type(copied) is type(status)
        assert copied.value == status.value
        assert copied.is_known is status.is_known


def test_a_value_can_be_matched() -> None:
    match RequestStatus("completed"):
        case RequestStatus.COMPLETED:
            pass
        case _:
            pytest.fail("not matched")


def test_the_kinds_and_states_of_the_documentation() -> None:
    assert {str(kind) for kind in OperationKind} == {
        "CLUSTER_CLAIM", "CLUSTER_RELEASE", "CLUSTER_EDIT", "STORAGE_CREATE", "STORAGE_DESTROY", "STORAGE_ATTACH",
        "STORAGE_DETACH", "STORAGE_EDIT", "JOB_CANCEL",
    }  # fmt: skip
    assert [str(s) for s in RequestStatus] == ["PENDING", "PROCESSING", "RETRYING", "COMPLETED", "FAILED"]
    assert [str(s) for s in JobStatus] == [
        "pending",
        "running",
        "completed",
        "error",
        "failed",
        "canceling",
        "canceled",
    ]
    assert ClusterStatus("provisioning") is ClusterStatus.PROVISIONING


@pytest.mark.parametrize(
    ("status", "terminal"),
    [
        (RequestStatus.PENDING, False),
        (RequestStatus.PROCESSING, False),
        (RequestStatus.RETRYING, False),
        (RequestStatus("QUEUED"), False),
        (RequestStatus("completed"), True),
        (RequestStatus.COMPLETED, True),
        (RequestStatus.FAILED, True),
        (JobStatus.PENDING, False),
        (JobStatus.RUNNING, False),
        (JobStatus.CANCELING, False),
        (JobStatus("napping"), False),
        (JobStatus.COMPLETED, True),
        (JobStatus.ERROR, True),
        (JobStatus("Failed"), True),
        (JobStatus.CANCELED, True),
    ],
)
def test_what_nothing_can_follow(status: RequestStatus | JobStatus, terminal: bool) -> None:
    assert status.is_terminal is terminal
