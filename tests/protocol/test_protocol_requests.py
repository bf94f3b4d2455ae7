"""Requests as data: quoted paths, queries, lanes."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorpool_async.protocol.requests import Lane, Request, path_of, query_of
from tensorpool_async.protocol.responses import Answer


@pytest.mark.parametrize(
    ("segments", "path"),
    [
        (("cluster", "info", "c-1"), "/cluster/info/c-1"),
        (("cluster", "a/../b"), "/cluster/a%2F..%2Fb"),
        (("cluster", "a?b#c"), "/cluster/a%3Fb%23c"),
        (("cluster", "%2e%2e"), "/cluster/%252e%252e"),
        (("cluster", "größe 1"), "/cluster/gr%C3%B6%C3%9Fe%201"),
        (("cluster", "..."), "/cluster/..."),
    ],
)
def test_a_segment_stays_one_segment(segments: tuple[str, ...], path: str) -> None:
    assert path_of(*segments) == path


@pytest.mark.parametrize("segment", ["", ".", ".."])
def test_a_segment_that_leads_elsewhere_is_refused(segment: str) -> None:
    with pytest.raises(ValueError, match="cannot be part of a path"):
        path_of("cluster", segment)


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda s: s not in {".", ".."}),
        min_size=1,
    )
)
def test_a_path_is_ascii_and_gives_its_segments_back(segments: list[str]) -> None:
    path = path_of(*segments)
    assert path.isascii()
    assert not set(path) & set("?#\\ \n")
    assert [unquote(part) for part in path.removeprefix("/").split("/")] == segments


def test_a_query_holds_what_is_given_and_writes_truth_in_lower_case() -> None:
    assert query_of(include_org=True, instances=False, size_gb=5, name="True", status=None, zero=0) == {
        "include_org": "true",
        "instances": "false",
        "size_gb": "5",
        "name": "True",
        "zero": "0",
    }


def test_lanes_are_in_the_order_in_which_they_go() -> None:
    assert sorted(Lane) == [Lane.CHANGE, Lane.READ, Lane.POLL]


def test_a_request_is_a_read_that_gives_the_body_unless_it_says_otherwise() -> None:
    request = Request[object]("GET", "/cluster/list")
    assert request.lane is Lane.READ
    assert request.decode(Answer(200, {"a": 1})) == {"a": 1}
    assert (dict(request.query), request.json, request.name, request.on_already_deleted) == (
        {},
        None,
        None,
        None,
    )
