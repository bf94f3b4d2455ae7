"""What makes results of answers."""

from __future__ import annotations

from typing import Any

import pytest

from tensorpool_async.errors import DecodeError
from tensorpool_async.models import Cluster, Quote
from tensorpool_async.protocol.decoders import as_list, as_model, as_nothing, as_text, delete_request
from tensorpool_async.protocol.requests import Lane
from tensorpool_async.protocol.responses import Answer


def test_a_model_is_the_whole_answer() -> None:
    assert as_model(Quote, "/x")(Answer(200, {"hourly_rate": 2})) == Quote(2.0)
    with pytest.raises(DecodeError, match=r"hourly_rate \(/x\)"):
        as_model(Quote, "/x")(Answer(200, {}))


def test_a_list_is_found_in_the_answer() -> None:
    decode = as_list("clusters", Cluster, "/x")
    assert decode(Answer(200, {"clusters": [{"id": "c-1"}]})) == [Cluster("c-1")]
    with pytest.raises(DecodeError, match=r"no list 'clusters' \(/x\)"):
        decode(Answer(200, {}))


def test_a_text_is_taken_from_its_field() -> None:
    assert as_text("command", "/x")(Answer(200, {"command": "ssh host"})) == "ssh host"


@pytest.mark.parametrize("body", [None, [], {}, {"command": ""}, {"command": None}, {"command": 5}])
def test_a_text_that_is_not_there_is_an_error(body: Any) -> None:
    with pytest.raises(DecodeError, match=r"names no command \(/x\)"):
        as_text("command", "/x")(Answer(200, body))


def test_nothing_is_read_of_an_answer_that_only_says_yes() -> None:
    as_nothing(Answer(204, None))


def test_a_deletion_is_a_change_that_has_succeeded_where_nothing_is_left() -> None:
    request = delete_request("/job/delete/j-1")
    assert (request.method, request.path, request.lane) == ("DELETE", "/job/delete/j-1", Lane.CHANGE)
    assert request.on_already_deleted is not None
    request.on_already_deleted()
    request.decode(Answer(200, {"message": "deleted"}))
