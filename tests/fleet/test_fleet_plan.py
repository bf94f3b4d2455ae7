from __future__ import annotations

from typing import Any

import pytest

from tensorpool_async.errors import BudgetExceeded
from tensorpool_async.fleet import Action, ClusterGroup, Fleet, Plan
from tensorpool_async.fleet.budget import Budget
from tensorpool_async.fleet.plan import check_budget, make_plan
from tensorpool_async.models import Cluster, ClusterStatus


PRICES = {("8xB200", 1): 40.0, ("8xH200", 1): 28.0, ("1xH100", 1): 2.5, ("8xB200", 2): 80.0}
GROUP = ClusterGroup("t", ["8xB200", "8xH200"])
FLEET = Fleet("s", [GROUP])


def there(
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
        ([there(name="s-x-0"), there(name="someone-else")], Action.CREATE),
        ([there("DESTROYED")], Action.CREATE),
        ([there("RUNNING")], Action.KEEP),
        ([there("running", "8xH200")], Action.KEEP),
        ([there("RUNNING", "8XB200")], Action.KEEP),
        ([there("RUNNING", None, num_nodes=None)], Action.KEEP),
        ([there("PENDING")], Action.JOIN),
        ([there("PROVISIONING")], Action.JOIN),
        ([there("CONFIGURING")], Action.JOIN),
        ([there("REBALANCING")], Action.JOIN),
        ([there(None)], Action.JOIN),
        ([there("FAILED")], Action.REPLACE),
        ([there("DESTROYING")], Action.AWAIT_DESTROY),
        ([there("DESTROYING", "1xL40S")], Action.AWAIT_DESTROY),
        ([there("DESTROYING"), there("PENDING", cluster_id="c-2")], Action.JOIN),
        ([there("RUNNING", "1xH100")], Action.CONFLICT),
        ([there("FAILED", "1xH100")], Action.CONFLICT),
        ([there("RUNNING", num_nodes=2)], Action.CONFLICT),
        ([there(), there(cluster_id="c-2")], Action.CONFLICT),
    ],
)
def test_what_a_member_needs(clusters: list[Cluster], action: Action) -> None:
    assert [entry.action for entry in plan(*clusters).members] == [action]


def test_a_member_that_is_to_be_made_has_the_first_preference_and_its_price() -> None:
    (member,) = plan().members
    assert (member.name, member.group) == ("s-t-0", "t")
    assert (member.instance_type, member.num_nodes, member.hourly_rate) == ("8xB200", 1, 40.0)
    assert member.cluster is None


def test_a_member_that_is_there_has_its_own_type_and_price() -> None:
    (member,) = plan(there("RUNNING", "8xH200")).members
    assert (member.instance_type, member.hourly_rate) == ("8xH200", 28.0)
    (member,) = plan(there(hourly_rate=17.0)).members
    assert member.hourly_rate == 17.0
    (member,) = plan(there(instance_type=None)).members
    assert member.hourly_rate is None


def test_a_conflict_says_what_is_there_and_what_is_wanted() -> None:
    (conflict,) = plan(there(instance_type="1xH100", num_nodes=4)).conflicts
    assert "4 x 1xH100 (c-1)" in conflict.problem
    assert "1 x 8xB200 or 8xH200" in conflict.problem
    (conflict,) = plan(there(), there("PENDING", cluster_id="c-2")).conflicts
    assert "c-1 and c-2" in conflict.problem


def test_costs_now_and_after() -> None:
    fleet = Fleet("s", [ClusterGroup("t", ["8xB200", "8xH200"], count=4)])
    seen = plan(
        there("RUNNING", name="s-t-0"),
        there("PENDING", "8xH200", name="s-t-1"),
        there("FAILED", name="s-t-2"),
        there("RUNNING", "1xH100", name="s-t-9"),
        there("DESTROYING", "1xH100", name="s-t-8"),
        there("RUNNING", name="other-t-0"),
        fleet=fleet,
    )
    assert [entry.name for entry in seen.surplus] == ["s-t-9"]
    assert seen.surplus[0].action is Action.SURPLUS
    assert seen.hourly_cost_now == 40.0 + 28.0 + 2.5
    assert seen.hourly_cost_after == 40.0 + 28.0 + 2.5 + 40.0 + 40.0
    assert [entry.name for entry in seen.to_create] == ["s-t-2", "s-t-3"]


def test_a_cost_with_an_unknown_price_is_unknown() -> None:
    seen = plan(prices={})
    assert seen.hourly_cost_now == 0.0
    assert seen.hourly_cost_after is None


def limited(limit: float | None, *clusters: Cluster, prices: dict[Any, Any] = PRICES) -> Plan:
    group = ClusterGroup("t", ["8xB200", "8xH200"], count=2)
    return plan(*clusters, fleet=Fleet("s", [group], max_hourly_cost=limit), prices=prices)


def test_a_plan_within_its_budget_passes() -> None:
    check_budget(limited(None))
    check_budget(limited(80.0))


def test_a_sum_is_not_refused_for_its_rounding() -> None:
    group = ClusterGroup("t", "1xL40S", count=3)
    check_budget(plan(fleet=Fleet("s", [group], max_hourly_cost=0.3), prices={("1xL40S", 1): 0.1}))


def test_a_plan_over_its_budget_does_not() -> None:
    with pytest.raises(BudgetExceeded, match=r"\$80\.00 per hour.*\$79\.00.*nothing was created") as caught:
        check_budget(limited(79.0))
    assert (caught.value.hourly_cost, caught.value.limit) == (80.0, 79.0)


def test_what_runs_counts_too() -> None:
    with pytest.raises(BudgetExceeded):
        check_budget(limited(79.0, there(name="s-t-0")))
    with pytest.raises(BudgetExceeded):
        check_budget(limited(80.0, there("RUNNING", "1xH100", name="s-t-7")))


def test_a_budget_is_no_reason_against_doing_nothing() -> None:
    running = [there(name=f"s-t-{index}") for index in range(2)]
    check_budget(limited(1.0, *running))
    check_budget(limited(1.0, *running, prices={}))


def test_an_unknown_price_is_refused_where_there_is_a_budget() -> None:
    with pytest.raises(BudgetExceeded, match="no price for 8xB200") as caught:
        check_budget(limited(80.0, prices={}))
    assert caught.value.hourly_cost is None
    check_budget(limited(None, prices={}))


def test_a_dearer_fallback_is_refused_where_it_passes_the_limit() -> None:
    budget = Budget.of(100.0, {"a": 40.0, "b": 40.0})
    assert budget.objection("a", 60.0) is None
    assert "$101.00 per hour of at most $100.00" in str(budget.objection("b", 41.0))
    assert budget.objection("b", 40.0) is None


def test_a_member_that_failed_leaves_its_share_to_others() -> None:
    budget = Budget.of(80.0, {"a": 40.0, "b": 40.0})
    assert budget.objection("b", 80.0) is not None
    budget.settle("a", None)
    assert budget.objection("b", 80.0) is None


def test_without_a_price_nothing_is_reserved_under_a_limit() -> None:
    assert "no price" in str(Budget.of(80.0, {"a": 40.0}).objection("a", None))
    assert Budget.of(None, {"a": 40.0}).objection("a", None) is None
