"""What makes results of answers."""

from __future__ import annotations

from typing import Any

import pytest

from tensorpool_async.errors import DecodeError
from tensorpool_async.models import Cluster, Quote
from tensorpool_async.models.enums import OperationKind
from tensorpool_async.protocol.decoders import (
    as_accepted,
    as_list,
    as_model,
    as_nothing,
    as_text,
    request_ids_of,
)
from tensorpool_async.protocol.responses import Answer
from tensorpool_async.protocol.tokens import AcceptedOperation, OperationRef


def test_a_model_is_the_whole_answer() -> None:
    assert as_model(Quote)(Answer(200, {"hourly_rate": 2}, path="/x")) == Quote(2.0)
    with pytest.raises(DecodeError, match=r"hourly_rate \(/x\)"):
        as_model(Quote)(Answer(200, {}, path="/x"))


def test_a_list_is_found_in_the_answer() -> None:
    decode = as_list("clusters", Cluster)
    assert decode(Answer(200, {"clusters": [{"id": "c-1"}]})) == [Cluster("c-1")]
    with pytest.raises(DecodeError, match=r"no list 'clusters' \(/x\)"):
        decode(Answer(200, {}, path="/x"))


def test_a_text_is_taken_from_its_field() -> None:
    assert as_text("command")(Answer(200, {"command": "ssh host"}, path="/x")) == "ssh host"


@pytest.mark.parametrize("body", [None, [], {}, {"command": ""}, {"command": None}, {"command": 5}])
def test_a_text_that_is_not_there_is_an_error(body: Any) -> None:
    with pytest.raises(DecodeError, match=r"names no command \(/x\)"):
        as_text("command")(Answer(200, body, path="/x"))


def test_nothing_is_read_of_an_answer_that_only_says_yes() -> None:
    as_nothing(Answer(204, None))


def test_a_202_names_the_resource_and_at_most_one_request() -> None:
    decode = as_accepted(OperationKind.CLUSTER_CLAIM, id_field="cluster_id")
    ref = decode(Answer(202, {"cluster_id": "c-1", "request_id": "r-1"}, 2.0))
    assert ref == AcceptedOperation(OperationRef(OperationKind.CLUSTER_CLAIM, "c-1", ("r-1",)), 2.0)
    assert decode(Answer(202, {"cluster_id": "c-1", "request_id": None})).ref.request_ids == ()
    with pytest.raises(DecodeError, match=r"names no cluster_id \(/x\)"):
        decode(Answer(202, {"request_id": "r-1"}, path="/x"))


def test_a_deletion_that_finds_nothing_is_read_as_one_without_a_request() -> None:
    decode = as_accepted(OperationKind.CLUSTER_RELEASE, "c-1")
    assert decode(Answer(404, None)).ref == OperationRef(OperationKind.CLUSTER_RELEASE, "c-1")


NO_ID = [".", "..", "\ud800", "x" * 513, {"a": 1}, ["r-1"], 1.5]


@pytest.mark.parametrize("value", NO_ID, ids=ascii)
def test_a_202_whose_ids_cannot_be_asked_for(value: Any) -> None:
    decode = as_accepted(OperationKind.CLUSTER_CLAIM, id_field="cluster_id")
    assert decode(Answer(202, {"cluster_id": "c-1", "request_id": value})).ref.request_ids == ()
    with pytest.raises(DecodeError, match="cluster_id"):
        decode(Answer(202, {"cluster_id": value, "request_id": "r-1"}))
    assert request_ids_of(["r-1", value]) == ()


def test_ids_of_requests_may_be_numbers_and_hold_any_letter() -> None:
    assert request_ids_of([7, "a/b ?", None, ""]) == ("7", "a/b ?")
