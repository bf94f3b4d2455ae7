"""Models of whatever an engine sends: nothing known is misread, nothing unknown is lost, nothing else is raised."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tensorpool_async.errors import DecodeError
from tensorpool_async.models import (
    Cluster,
    ClusterStatus,
    Instance,
    Job,
    OperationKind,
    Quote,
    RequestInfo,
    RequestStatus,
    structure,
    unstructure,
)
from tensorpool_async.models.wire_names import wire_names_of
from tests.models.documents import (
    MODELS,
    documents,
    fields_of,
    is_required,
    json_values,
    known_parts,
    unknown_parts,
)


every_model = pytest.mark.parametrize("kind", MODELS)


def of_any_document(test: Callable[..., None]) -> Callable[..., None]:
    return settings(max_examples=20, deadline=None)(given(data=st.data())(test))  # for each model there is


@every_model
@of_any_document
def test_unknown_fields_are_kept(kind: Any, data: st.DataObject) -> None:
    known, unknown = data.draw(known_parts(kind)), data.draw(unknown_parts(kind))
    model = structure({**known, **unknown}, kind)
    assert model.extra == unknown
    assert model == attrs.evolve(structure(known, kind), extra=unknown)


@every_model
@of_any_document
def test_nothing_known_is_lost(kind: Any, data: st.DataObject) -> None:
    document = data.draw(known_parts(kind))
    written = unstructure(structure(document, kind))
    for name, value in document.items():
        if isinstance(value, str):
            assert written[name].casefold() == value.casefold()
        elif isinstance(value, bool | int | float):
            assert written[name] == value
        elif value is not None:
            assert len(written[name]) == len(value)


@every_model
@of_any_document
def test_what_is_missing_or_null_is_the_default(kind: Any, data: st.DataObject) -> None:
    optional = {name for name, field in fields_of(kind).items() if not is_required(field)}
    wires = {wire for name in optional for wire in wire_names_of(kind, name)}
    required = {wire: value for wire, value in data.draw(known_parts(kind)).items() if wire not in wires}
    model = structure(required, kind)
    defaults = structure({**required, **dict.fromkeys(wires)}, kind)
    assert model == defaults
    assert model.extra == defaults.extra == {}
    for name in optional:
        assert getattr(model, name) == fields_of(kind)[name].default or getattr(model, name) is None


@every_model
@of_any_document
def test_a_model_survives_the_way_to_the_wire_and_back(kind: Any, data: st.DataObject) -> None:
    model = structure(data.draw(documents(kind)), kind)
    assert structure(unstructure(model), kind) == model
    assert structure(json.loads(json.dumps(unstructure(model))), kind) == model


@every_model
@of_any_document
def test_no_document_raises_anything_but_a_decode_error(kind: Any, data: st.DataObject) -> None:
    wires = [wire for name in fields_of(kind) for wire in wire_names_of(kind, name)]
    near_misses = st.dictionaries(st.sampled_from(wires), json_values)
    document = data.draw(json_values | near_misses)
    try:
        model = structure(document, kind, path="/cluster/info/c-1")
    except DecodeError as error:
        assert error.path == "/cluster/info/c-1"  # noqa: PT017 - it need not be raised
    else:
        assert structure(unstructure(model), kind) == model


@every_model
def test_a_field_that_is_required_is_missed_by_name(kind: Any) -> None:
    for name, field in fields_of(kind).items():
        if is_required(field):
            with pytest.raises(
                DecodeError, match=rf"no {kind.__name__}: .*required field missing @ \$\.{name}"
            ):
                structure({}, kind)


FULL = {
    "id": "c-1",
    "name": "w0",
    "status": "running",
    "instance_type": "8xH100",
    "num_nodes": 2,
    "instances": [
        {"id": "i-0", "status": "RUNNING", "ip_address": None, "private_ip_address": "10.0.0.1", "rack": 7},
        {"id": "i-1", "status": "Running", "ip_address": "203.0.113.7"},
    ],
    "storage": ["s-1", "s-2"],
    "deletion_protection": True,
    "created_at": "2026-03-29T00:00:00Z",
    "container": "pytorch",
    "hourly_rate": 31.92,
    "owner": {"uid": "u-1"},
}


def test_a_cluster_as_the_engine_may_describe_it() -> None:
    cluster = structure(FULL, Cluster)
    assert cluster == Cluster(
        "c-1",
        "w0",
        ClusterStatus.RUNNING,
        "8xH100",
        2,
        (
            Instance("i-0", ClusterStatus.RUNNING, None, "10.0.0.1", extra={"rack": 7}),
            Instance("i-1", ClusterStatus.RUNNING, "203.0.113.7"),
        ),
        ("s-1", "s-2"),
        deletion_protection=True,
        created_at="2026-03-29T00:00:00Z",
        container="pytorch",
        hourly_rate=31.92,
        extra={"owner": {"uid": "u-1"}},
    )
    assert cluster.ip_address == "203.0.113.7"


def test_a_cluster_without_a_public_address_has_none() -> None:
    assert Cluster("c-1").ip_address is None
    assert Cluster("c-1", instances=(Instance("i-0", ip_address=""),)).ip_address is None


@pytest.mark.parametrize(
    ("status", "canceled"),
    [("canceled", True), ("CANCELED", True), ("canceling", False), ("completed", False)],
)
def test_a_job_that_was_canceled(status: str, canceled: bool) -> None:
    assert structure({"job_id": "j-1", "status": status}, Job).canceled is canceled


def test_a_request_as_the_engine_documents_it() -> None:
    document = {"request_id": "r-1", "request_type": "CLUSTER_CLAIM", "status": "PROCESSING", "created_at": "now", "object_id": "c-1", "external_message": None}  # fmt: skip
    assert structure(document, RequestInfo) == RequestInfo(
        "r-1", OperationKind.CLUSTER_CLAIM, RequestStatus.PROCESSING, "now", "c-1"
    )


@pytest.mark.parametrize(
    ("document", "address", "extra"),
    [
        ({"ip_address": "1.1.1.1"}, "1.1.1.1", {}),
        ({"public_ip": "1.1.1.1"}, "1.1.1.1", {}),
        ({"ipv4": "1.1.1.1"}, "1.1.1.1", {}),
        ({"ip_address": None, "ip": "1.1.1.1"}, "1.1.1.1", {}),
        ({"ip": "10.0.0.1", "public_ip": "1.1.1.1"}, "1.1.1.1", {"ip": "10.0.0.1"}),
        ({"public_ip": "1.1.1.1", "ip": "10.0.0.1"}, "1.1.1.1", {"ip": "10.0.0.1"}),
        ({"ip": "10.0.0.1", "ip_address": "1.1.1.1"}, "1.1.1.1", {"ip": "10.0.0.1"}),
        ({"ip": None, "public_ip": None}, None, {}),
    ],
)
def test_of_several_names_the_preferred_one_counts_and_no_value_is_lost(
    document: dict[str, Any], address: str | None, extra: dict[str, Any]
) -> None:
    assert structure(document, Instance) == Instance(ip_address=address, extra=extra)


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ({"id": "c-1", "instances": [{"id": "i-0"}, {"status": 5}]}, "$.instances[1].status"),
        ({"id": "c-1", "instances": ["i-0"]}, "$.instances[0]"),
        ({"id": "c-1", "instances": {"i-0": {}}}, "$.instances"),
        ({"id": "c-1", "storage": "s-1"}, "$.storage"),
        ({"id": "c-1", "num_nodes": "many"}, "$.num_nodes"),
        ({"id": "c-1", "num_nodes": float("inf")}, "$.num_nodes"),
        ({"id": "c-1", "deletion_protection": "false"}, "$.deletion_protection"),
        ({"id": "c-1", "hourly_rate": {}}, "$.hourly_rate"),
        ({"id": "c-1", "status": ["RUNNING"]}, "$.status"),
        ({"id": "c-1", "num_nodes": [], "status": 5}, "$.status; "),
        ({}, "$.id"),
        ([], "expected an object, not list @ $"),
        ("c-1", "expected an object, not str @ $"),
        (None, "expected an object, not NoneType @ $"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named_by_its_place(document: Any, problem: str) -> None:
    with pytest.raises(DecodeError) as caught:
        structure(document, Cluster, path="/cluster/info/c-1")
    assert problem in f"{caught.value}; "
    assert str(caught.value).startswith("the answer is no Cluster: ")
    assert str(caught.value).endswith("(/cluster/info/c-1)")


def test_what_structure_is_given_stays_as_it_was() -> None:
    document = {"cluster_id": "c-1", "name": None, "owner": 1}
    structure(document, Cluster)
    assert document == {"cluster_id": "c-1", "name": None, "owner": 1}


@every_model
@of_any_document
def test_models_are_frozen(kind: Any, data: st.DataObject) -> None:
    model = structure(data.draw(documents(kind)), kind)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        model.extra = {}


@pytest.mark.parametrize("model", [Cluster("c-1", extra={"a": []}), Instance("i-1"), Quote(1.0), Job("j-1")])
def test_models_can_be_kept_in_sets(model: Any) -> None:
    assert len({model, attrs.evolve(model), attrs.evolve(model, extra={"b": 1})}) == 2
