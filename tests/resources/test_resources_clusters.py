"""`tp.clusters` against the emulator (design, section 5)."""

from __future__ import annotations

import pytest

from tensorpool_async import (
    ClusterStatus,
    ConflictError,
    DecodeError,
    InsufficientBalance,
    NotFound,
    OperationKind,
    PollPolicy,
    RequestStatus,
    TensorPool,
    ValidationError,
)
from tensorpool_async.emulator import PRICES, Emulator
from tests.support.scripted import ScriptedEngine


async def test_a_cluster_lives_and_dies(tp: TensorPool, emulator: Emulator) -> None:
    cluster = await tp.clusters.create("8xH100", name="one", num_nodes=2, container="image:1").result()
    assert (cluster.name, cluster.instance_type, cluster.num_nodes) == ("one", "8xH100", 2)
    assert (cluster.status, cluster.container) == (ClusterStatus.RUNNING, "image:1")
    assert cluster.ip_address is not None
    assert cluster.hourly_rate == pytest.approx(2 * PRICES["8xH100"])
    assert [one.id for one in await tp.clusters.list()] == [cluster.id]
    assert await tp.clusters.destroy(cluster).result() is None
    assert await tp.clusters.list() == []
    assert emulator.record.living == []
    with pytest.raises(NotFound):
        await tp.clusters.get(cluster)


async def test_a_cluster_is_found_by_id_name_and_model(tp: TensorPool) -> None:
    cluster = await tp.clusters.create("8xH100", name="findme").result()
    for key in (cluster, cluster.id, "findme"):
        assert (await tp.clusters.get(key)).id == cluster.id


async def test_a_name_is_found_also_where_the_engine_takes_only_ids(
    odd_tp: TensorPool, scripted: ScriptedEngine
) -> None:
    scripted.answer("GET /cluster/list", {"message": "", "clusters": [{"id": "c-7", "name": "findme"}]})
    assert (await odd_tp.clusters.get("findme")).id == "c-7"
    with pytest.raises(NotFound):
        await odd_tp.clusters.get("other")
    with pytest.raises(NotFound):
        await odd_tp.clusters.get("c-8")
    assert scripted.count("GET /cluster/list") == 2, "what looks like an id is not looked up as a name"


async def test_path_segments_are_quoted(odd_tp: TensorPool, scripted: ScriptedEngine) -> None:
    scripted.answer("GET /cluster/info/a%2Fb%3Fc%23%20%C3%BC", {"cluster_info": {"id": "c-1"}})
    assert (await odd_tp.clusters.get("a/b?c# ü")).id == "c-1"


@pytest.mark.parametrize("bad", ["", ".", ".."])
async def test_an_id_that_is_no_path_segment_is_refused(bad: str, odd_tp: TensorPool) -> None:
    with pytest.raises(ValueError, match="path"):
        await odd_tp.clusters.get(bad)


async def test_a_cluster_is_edited(tp: TensorPool) -> None:
    cluster = await tp.clusters.create("8xH100", name="old").result()
    edited = await tp.clusters.edit(cluster, name="new", deletion_protection=True).result()
    assert (edited.name, edited.deletion_protection) == ("new", True)
    with pytest.raises(ConflictError, match="protect"):
        await tp.clusters.destroy(cluster)
    await tp.clusters.edit(cluster.id, deletion_protection=False).result()
    await tp.clusters.destroy(cluster).result()


async def test_an_edit_without_a_request_id_is_seen_on_the_cluster() -> None:
    async with (
        Emulator(provision_seconds=0.05, edit_seconds=0.1, retry_after=0.02, no_request_ids=True) as emulator,
        TensorPool(emulator.key, base_url=emulator.url, polling=PollPolicy(default=0.02, initial=0.01)) as tp,
    ):
        cluster = await tp.clusters.create("8xH100", name="old").result()
        op = await tp.clusters.edit(cluster, name="new")
        assert op.request_id is None
        assert (await op).name == "new"
        assert (await tp.operation(op.token)).name == "new"


async def test_operations_of_a_cluster_are_listed(tp: TensorPool) -> None:
    cluster = await tp.clusters.create("8xH100").result()
    await tp.clusters.edit(cluster, name="renamed").result()
    kinds = [info.request_type for info in await tp.clusters.operations(cluster)]
    assert set(kinds) == {OperationKind.CLUSTER_CLAIM, OperationKind.CLUSTER_EDIT}
    claims = await tp.clusters.operations(cluster, kind="cluster_claim", status=RequestStatus.COMPLETED)
    assert [info.request_type for info in claims] == [OperationKind.CLUSTER_CLAIM]
    assert await tp.clusters.operations(cluster, status="FAILED") == []


async def test_a_quote_is_the_price_of_the_whole_cluster(tp: TensorPool) -> None:
    assert (await tp.clusters.quote("8xB200")).hourly_rate == PRICES["8xB200"]
    assert (await tp.clusters.quote("8xB200", 3)).hourly_rate == pytest.approx(3 * PRICES["8xB200"])


async def test_the_organizations_clusters_are_others(tp: TensorPool) -> None:
    await tp.clusters.create("8xH100").result()
    assert await tp.clusters.list(organization=True) == []


async def test_a_name_that_is_taken_is_a_conflict(tp: TensorPool) -> None:
    await tp.clusters.create("8xH100", name="taken").result()
    with pytest.raises(ConflictError, match="taken"):
        await tp.clusters.create("8xH100", name="taken")


async def test_an_unknown_instance_type_is_a_sentence(tp: TensorPool) -> None:
    with pytest.raises(ValidationError, match="instance_type: ") as caught:
        await tp.clusters.create("9xZ9000")
    assert "9xZ9000" in caught.value.message or "nstance type" in caught.value.message


async def test_a_balance_that_is_too_low_is_said() -> None:
    async with Emulator(balance=1.0) as emulator, TensorPool(emulator.key, base_url=emulator.url) as tp:
        with pytest.raises(InsufficientBalance):
            await tp.clusters.create("8xB200")


def test_what_cannot_work_is_refused_at_the_call() -> None:
    tp = TensorPool("key")
    with pytest.raises(ValueError, match="instance type"):
        tp.clusters.create("")
    with pytest.raises(ValueError, match="num_nodes"):
        tp.clusters.create("8xH100", num_nodes=0)
    with pytest.raises(ValueError, match="name"):
        tp.clusters.create("8xH100", name=" ")
    with pytest.raises(TypeError, match="list of keys"):
        tp.clusters.create("8xH100", public_keys="ssh-ed25519 AAAA")
    with pytest.raises(ValueError, match="nothing to change"):
        tp.clusters.edit("c-1")


@pytest.mark.parametrize(
    "answer", [{"clusters": None}, {"message": "", "items": [{"id": "c-1"}]}, [{"id": "c-1"}]]
)
async def test_lists_are_found_where_they_can_be(
    answer: object, odd_tp: TensorPool, scripted: ScriptedEngine
) -> None:
    scripted.answer("GET /cluster/list", answer)
    assert {cluster.id for cluster in await odd_tp.clusters.list()} <= {"c-1"}


async def test_an_answer_without_a_list_is_a_decode_error(
    odd_tp: TensorPool, scripted: ScriptedEngine
) -> None:
    scripted.answer("GET /cluster/list", {"message": "hello"})
    with pytest.raises(DecodeError, match="clusters"):
        await odd_tp.clusters.list()


async def test_an_info_that_names_no_id_has_the_one_asked_for(
    odd_tp: TensorPool, scripted: ScriptedEngine
) -> None:
    scripted.answer(
        "GET /cluster/info/c-1", {"message": "", "cluster_info": {"status": "running", "gpus": 8}}
    )
    cluster = await odd_tp.clusters.get("c-1")
    assert (cluster.id, cluster.extra) == ("c-1", {"gpus": 8})
