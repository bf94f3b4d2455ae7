from __future__ import annotations

from typing import Any

import pytest

from tensorpool_async.errors import BudgetExceeded
from tensorpool_async.fleet import Action, ClusterGroup, Fleet, Plan
from tensorpool_async.fleet.plan import Budget, check_budget, make_plan
from tensorpool_async.models import Cluster, ClusterStatus


PRICES = {("8xB200", 1): 40.0, ("8xH200", 1): 28.0, ("1xH100", 1): 2.5, ("8xB200", 2): 80.0}
GROUP = ClusterGroup("t", ["8xB200", "8xH200"])
FLEET = Fleet("s", [GROUP])


def cluster_of(
    status: str | None = "RUNNING",
    instance_type: str | None = "8xB200",
    *,
    name: str = "s-t-0",
    cluster_id: str = "c-1",
    **more: Any,
) -> Cluster:
    known = None if status is None else ClusterStatus(status)
    return Cluster(cluster_id, name, known, instance_type, more.pop("num_nodes", 1), **more)


def plan(*clusters: Cluster, fleet: Fleet = FLEET, prices: dict[Any, Any] = PRICES) -> Plan:
    return make_plan(fleet, clusters, prices)


@pytest.mark.parametrize(
    ("clusters", "action"),
    [
        ([], Action.CREATE),
        ([cluster_of(name="s-x-0"), cluster_of(name="someone-else")], Action.CREATE),
        ([cluster_of("DESTROYED")], Action.CREATE),
        ([cluster_of("RUNNING")], Action.KEEP),
        ([cluster_of("running", "8xH200")], Action.KEEP),
        ([cluster_of("RUNNING", "8XB200")], Action.KEEP),
        ([cluster_of("RUNNING", None, num_nodes=None)], Action.KEEP),
        ([cluster_of("PENDING")], Action.JOIN),
        ([cluster_of("PROVISIONING")], Action.JOIN),
        ([cluster_of("CONFIGURING")], Action.JOIN),
        ([cluster_of("REBALANCING")], Action.JOIN),
        ([cluster_of(None)], Action.JOIN),
        ([cluster_of("FAILED")], Action.REPLACE),
        ([cluster_of("DESTROYING")], Action.AWAIT_DESTROY),
        ([cluster_of("DESTROYING", "1xL40S")], Action.AWAIT_DESTROY),
        ([cluster_of("DESTROYING"), cluster_of("PENDING", cluster_id="c-2")], Action.JOIN),
        ([cluster_of("RUNNING", "1xH100")], Action.CONFLICT),
        ([cluster_of("FAILED", "1xH100")], Action.CONFLICT),
        ([cluster_of("RUNNING", num_nodes=2)], Action.CONFLICT),
        ([cluster_of(), cluster_of(cluster_id="c-2")], Action.CONFLICT),
    ],
)
def test_the_action_for_a_member(clusters: list[Cluster], action: Action) -> None:
    assert [entry.action for entry in plan(*clusters).members] == [action]


def test_a_member_to_create_has_the_first_instance_type_and_its_price() -> None:
    (member,) = plan().members
    assert (member.name, member.group) == ("s-t-0", "t")
    assert (member.instance_type, member.num_nodes, member.hourly_rate) == ("8xB200", 1, 40.0)
    assert member.cluster is None


def test_an_existing_member_has_its_own_type_and_price() -> None:
    (member,) = plan(cluster_of("RUNNING", "8xH200")).members
    assert (member.instance_type, member.hourly_rate) == ("8xH200", 28.0)
    (member,) = plan(cluster_of(hourly_rate=17.0)).members
    assert member.hourly_rate == 17.0
    (member,) = plan(cluster_of(instance_type=None)).members
    assert member.hourly_rate is None


def test_a_conflict_names_what_exists_and_what_is_wanted() -> None:
    (conflict,) = plan(cluster_of(instance_type="1xH100", num_nodes=4)).conflicts
    assert "4 x 1xH100 (c-1)" in conflict.problem
    assert "1 x 8xB200 or 8xH200" in conflict.problem
    (conflict,) = plan(cluster_of(), cluster_of("PENDING", cluster_id="c-2")).conflicts
    assert "c-1 and c-2" in conflict.problem


def test_costs_now_and_after() -> None:
    fleet = Fleet("s", [ClusterGroup("t", ["8xB200", "8xH200"], count=4)])
    planned = plan(
        cluster_of("RUNNING", name="s-t-0"),
        cluster_of("PENDING", "8xH200", name="s-t-1"),
        cluster_of("FAILED", name="s-t-2"),
        cluster_of("RUNNING", "1xH100", name="s-t-9"),
        cluster_of("DESTROYING", "1xH100", name="s-t-8"),
        cluster_of("RUNNING", name="other-t-0"),
        fleet=fleet,
    )
    assert [entry.name for entry in planned.surplus] == ["s-t-9"]
    assert planned.surplus[0].action is Action.SURPLUS
    assert planned.hourly_cost_now == 40.0 + 28.0 + 2.5
    assert planned.hourly_cost_after == 40.0 + 28.0 + 2.5 + 40.0 + 40.0
    assert [entry.name for entry in planned.to_create] == ["s-t-2", "s-t-3"]


def test_a_cost_with_an_unknown_price_is_unknown() -> None:
    planned = plan(prices={})
    assert planned.hourly_cost_now == 0.0
    assert planned.hourly_cost_after is None


def limited(limit: float | None, *clusters: Cluster, prices: dict[Any, Any] = PRICES) -> Plan:
    group = ClusterGroup("t", ["8xB200", "8xH200"], count=2)
    return plan(*clusters, fleet=Fleet("s", [group], max_hourly_cost=limit), prices=prices)


def test_a_plan_within_its_budget_passes() -> None:
    check_budget(limited(None))
    check_budget(limited(80.0))


def test_a_sum_is_not_refused_for_its_rounding() -> None:
    group = ClusterGroup("t", "1xL40S", count=3)
    check_budget(plan(fleet=Fleet("s", [group], max_hourly_cost=0.3), prices={("1xL40S", 1): 0.1}))


def test_a_plan_over_its_budget_is_refused() -> None:
    with pytest.raises(BudgetExceeded, match=r"\$80\.00 per hour.*\$79\.00.*nothing was created") as caught:
        check_budget(limited(79.0))
    assert (caught.value.hourly_cost, caught.value.limit) == (80.0, 79.0)


def test_existing_clusters_count_too() -> None:
    with pytest.raises(BudgetExceeded):
        check_budget(limited(79.0, cluster_of(name="s-t-0")))
    with pytest.raises(BudgetExceeded):
        check_budget(limited(80.0, cluster_of("RUNNING", "1xH100", name="s-t-7")))


def test_a_plan_that_creates_nothing_passes_any_budget() -> None:
    running = [cluster_of(name=f"s-t-{index}") for index in range(2)]
    check_budget(limited(1.0, *running))
    check_budget(limited(1.0, *running, prices={}))


def test_an_unknown_price_is_refused_where_there_is_a_budget() -> None:
    with pytest.raises(BudgetExceeded, match="no price for 8xB200") as caught:
        check_budget(limited(80.0, prices={}))
    assert caught.value.hourly_cost is None
    check_budget(limited(None, prices={}))


def budget_of(limit: float | None, **rates: float) -> Budget:
    budget = Budget(limit)
    for name, rate in rates.items():
        budget.reserve(name, rate)
    return budget


def test_a_dearer_fallback_is_refused_where_it_exceeds_the_limit() -> None:
    budget = budget_of(100.0, a=40.0, b=40.0)
    assert budget.reason_against("a", 60.0) is None
    budget.reserve("a", 60.0)
    assert "$101.00 per hour, and the limit is $100.00" in str(budget.reason_against("b", 41.0))
    assert budget.reason_against("b", 40.0) is None


def test_a_reason_reserves_nothing() -> None:
    budget = budget_of(100.0, a=40.0)
    assert budget.reason_against("b", 60.0) is None
    assert budget.reason_against("c", 60.0) is None
    assert budget.total_with("b", 60.0) == 100.0


def test_the_share_of_a_member_that_failed_is_free_for_others() -> None:
    budget = budget_of(80.0, a=40.0, b=40.0)
    assert budget.reason_against("b", 80.0) is not None
    budget.reserve("a", None)
    assert budget.reason_against("b", 80.0) is None


def test_a_rate_without_a_price_is_refused_under_a_limit() -> None:
    assert "no price" in str(budget_of(80.0, a=40.0).reason_against("a", None))
    assert budget_of(None, a=40.0).reason_against("a", None) is None


def test_a_budget_reserves_what_is_planned_and_each_surplus_cluster() -> None:
    surplus = [cluster_of("RUNNING", "1xH100", name="s-t-7", cluster_id=f"c-{index}") for index in range(2)]
    budget = Budget.of(limited(100.0, *surplus))
    assert budget.total_with("another", 0.0) == 2 * 40.0 + 2 * 2.5
    assert budget.limit == 100.0
