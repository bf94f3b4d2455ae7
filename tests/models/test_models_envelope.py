"""What is wrapped around a model: the reported key, else the only place where it can be."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tensorpool_async.errors import DecodeError
from tensorpool_async.models import Cluster
from tensorpool_async.models.envelope import unwrap, unwrap_list
from tests.models.documents import json_values


C1 = {"id": "c-1", "name": "w0"}

OBJECTS: list[tuple[str, Any, Cluster]] = [
    ("under its key", {"message": "a table", "cluster_info": C1}, Cluster("c-1", "w0")),
    ("beside others", {"cluster_info": C1, "user": {"id": "u-1"}}, Cluster("c-1", "w0")),
    ("the only object", {"message": "a table", "cluster": C1}, Cluster("c-1", "w0")),
    ("the only object, alone", {"info": C1}, Cluster("c-1", "w0")),
    ("the answer itself", C1, Cluster("c-1", "w0")),
    ("the answer itself, with an object in it", {**C1, "owner": {"id": "u"}}, Cluster("c-1", "w0", extra={"owner": {"id": "u"}})),
    ("without an id", {"cluster_info": {"name": "w0"}}, Cluster("asked", "w0")),
    ("with an id that is null", {"cluster_info": {"id": None, "name": "w0"}}, Cluster("asked", "w0")),
    ("with an id of another name", {"cluster_info": {"cluster_id": "c-1", "name": "w0"}}, Cluster("c-1", "w0")),
    ("with two names of the id, one null", {"cluster_info": {"id": None, "cluster_id": "c-1"}}, Cluster("c-1")),
]  # fmt: skip


@pytest.mark.parametrize(("body", "cluster"), [row[1:] for row in OBJECTS], ids=[row[0] for row in OBJECTS])
def test_a_model_is_found(body: Any, cluster: Cluster) -> None:
    assert unwrap(body, "cluster_info", Cluster, known_id="asked") == cluster


@pytest.mark.parametrize("body", [None, [], [C1], "c-1", 5, {"cluster_info": {"name": "w0"}}, {}])
def test_an_answer_without_a_model_is_an_error(body: Any) -> None:
    with pytest.raises(DecodeError) as caught:
        unwrap(body, "cluster_info", Cluster, path="/cluster/info/c-1")
    assert caught.value.path == "/cluster/info/c-1"


LISTS: list[tuple[str, Any, list[Cluster]]] = [
    ("under its key", {"message": "a table", "clusters": [C1]}, [Cluster("c-1", "w0")]),
    ("beside others", {"clusters": [C1], "warnings": ["x"]}, [Cluster("c-1", "w0")]),
    (
        "the only list",
        {"message": "a table", "items": [C1, {"id": "c-2"}]},
        [Cluster("c-1", "w0"), Cluster("c-2")],
    ),
    ("the answer itself", [C1], [Cluster("c-1", "w0")]),
    ("empty", {"clusters": []}, []),
    ("null", {"clusters": None}, []),
    ("null beside another list", {"clusters": None, "warnings": ["x"]}, []),
]


@pytest.mark.parametrize(("body", "clusters"), [row[1:] for row in LISTS], ids=[row[0] for row in LISTS])
def test_a_list_of_models_is_found(body: Any, clusters: list[Cluster]) -> None:
    assert unwrap_list(body, "clusters", Cluster) == clusters


@pytest.mark.parametrize(
    "body",
    [None, "c-1", {}, {"message": "no clusters"}, {"a": [], "b": []}, {"clusters": {}}, {"clusters": ["c-1"]}],
)  # fmt: skip
def test_an_answer_without_a_list_is_an_error(body: Any) -> None:
    with pytest.raises(DecodeError) as caught:
        unwrap_list(body, "clusters", Cluster, path="/cluster/list")
    assert caught.value.path == "/cluster/list"


bodies = json_values | st.dictionaries(
    st.sampled_from(["message", "cluster_info", "clusters", "id"]), json_values
)


@settings(deadline=None)
@given(body=bodies, known_id=st.none() | st.just("asked"))
def test_no_answer_raises_anything_but_a_decode_error(body: Any, known_id: str | None) -> None:
    with suppress(DecodeError):
        assert isinstance(unwrap(body, "cluster_info", Cluster, known_id=known_id), Cluster)
    with suppress(DecodeError):
        assert all(isinstance(cluster, Cluster) for cluster in unwrap_list(body, "clusters", Cluster))
