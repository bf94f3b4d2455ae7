"""Requests as data: quoted paths, queries, lanes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorpool_async.protocol.requests import Lane, Request, path_of, query_of
from tensorpool_async.protocol.responses import Answer


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("c-1", "/cluster/info/c-1"),
        ("a/../b", "/cluster/info/a%2F..%2Fb"),
        ("a?b#c", "/cluster/info/a%3Fb%23c"),
        ("%2e%2e", "/cluster/info/%252e%252e"),
        ("größe 1", "/cluster/info/gr%C3%B6%C3%9Fe%201"),
        ("...", "/cluster/info/..."),
        ("{id}", "/cluster/info/%7Bid%7D"),
    ],
)
def test_a_key_stays_one_segment(key: str, path: str) -> None:
    assert path_of("/cluster/info/{id}", key) == path


@pytest.mark.parametrize("key", ["", ".", ".."])
def test_a_key_that_leads_elsewhere_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="cannot be part of a path"):
        path_of("/cluster/{id}", key)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda s: s not in {".", ".."}))
def test_a_path_is_ascii_and_gives_its_key_back(key: str) -> None:
    path = path_of("/ssh/{id}", key)
    assert path.isascii()
    assert not set(path) & set("?#\\ \n")
    assert unquote(path.removeprefix("/ssh/")) == key
    assert path.count("/") == 2


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
    assert request.path == "/cluster/list"
    assert not request.changes_something
    assert request.decode(Answer(200, {"a": 1})) == {"a": 1}
    assert (dict(request.query), request.json, request.name, request.key) == ({}, None, None, None)


@pytest.mark.parametrize(
    ("method", "safe", "changes"), [("POST", False, True), ("POST", True, False), ("DELETE", False, True)]
)
def test_a_request_changes_something_unless_it_is_a_get_or_says_that_it_does_not(
    method: str, safe: bool, changes: bool
) -> None:
    assert Request[object](method, "/health", safe=safe).changes_something is changes


def test_every_route_of_the_engine_can_be_filled() -> None:
    schema = json.loads((Path(__file__).parent.parent / "openapi.json").read_text())
    for documented in schema["paths"]:
        route = re.sub(r"\{[^}]*\}", "{id}", documented)
        key = "an-id" if "{id}" in route else None
        assert path_of(route, key) == route.replace("{id}", "an-id")
