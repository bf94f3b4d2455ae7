"""The routes under /cluster."""

import attrs

from tensorpool_async.emulator.answers import Answer, invalid, not_found
from tensorpool_async.emulator.call import Call, Fields
from tensorpool_async.emulator.cluster import Cluster
from tensorpool_async.emulator.clusters import Wanted
from tensorpool_async.emulator.engine import Engine
from tensorpool_async.emulator.lag import hides
from tensorpool_async.emulator.prices import PRICES, can_be_multi_node
from tensorpool_async.emulator.requests import RequestKind, RequestStatus
from tensorpool_async.emulator.tables import card, table


MOST_NODES = 1000


def create(engine: Engine, call: Call) -> Answer:
    fields = call.fields()
    wanted, save = _wanted(fields), fields.flag("save_keys")
    fields.check()
    saved = (
        key.public_key for key in engine.account.keys.values() if key.public_key not in wanted.public_keys
    )
    wanted = attrs.evolve(wanted, public_keys=(*wanted.public_keys, *saved))
    cluster, request = engine.clusters.create(wanted, call.scope)
    if save is not False:
        engine.account.keep_keys(wanted.public_keys)
    return Answer(
        202,
        {
            "cluster_id": cluster.id,
            "message": f"Cluster {cluster.name} ({cluster.id}) is being created",
            "instance_ids": [instance.id for instance in cluster.instances],
            "request_id": engine.told_id(request, call.scope),
        },
    )


def _wanted(fields: Fields) -> Wanted:
    instance_type = fields.text("instance_type", required=True) or ""
    num_nodes = fields.whole("num_nodes") or 1
    wanted = Wanted(
        instance_type,
        num_nodes,
        fields.text("tp_cluster_name"),
        fields.text("container") or fields.text("experimental_container"),
        fields.flag("deletion_protection") or False,
        fields.texts("public_keys"),
    )
    if instance_type:
        _check_type(fields, instance_type, num_nodes)
    return wanted


def _check_type(fields: Fields, instance_type: str, num_nodes: int) -> None:
    if instance_type not in PRICES:
        fields.wrong("instance_type", _unknown(instance_type), "value_error")
    elif num_nodes > MOST_NODES:
        fields.wrong("num_nodes", f"Input should be less than or equal to {MOST_NODES}", "less_than_equal")
    elif num_nodes > 1 and not can_be_multi_node(instance_type):
        fields.wrong(
            "num_nodes", f"Value error, {instance_type} clusters have exactly one node", "value_error"
        )


def _unknown(instance_type: str) -> str:
    return f"Value error, unknown instance type {instance_type!r}, choose from {', '.join(PRICES)}"


def listing(engine: Engine, call: Call) -> Answer:
    organization, instances = call.flag("include_org"), call.flag("instances")
    clusters: list[Cluster] = [] if organization else engine.clusters.living
    hidden = hides(call.scope, engine.clock.now(), clusters)
    clusters = [cluster for cluster in clusters if not hidden(cluster)]
    message = _instance_table(clusters) if instances else _cluster_table(clusters)
    return Answer(200, {"message": message, "clusters": [cluster.as_json() for cluster in clusters]})


def _cluster_table(clusters: list[Cluster]) -> str:
    return table(
        "Clusters",
        ["ID", "NAME", "TYPE", "NODES", "STATUS", "USD/H"],
        [(c.id, c.name, c.instance_type, c.num_nodes, c.status, f"{c.hourly_rate:.2f}") for c in clusters],
        empty="No clusters found",
    )


def _instance_table(clusters: list[Cluster]) -> str:
    return table(
        "Instances",
        ["ID", "CLUSTER", "NAME", "STATUS", "PUBLIC IP", "PRIVATE IP"],
        [
            (i.id, c.name, i.name, i.status, i.ip_address, i.private_ip_address)
            for c in clusters
            for i in c.instances
        ],
        empty="No instances found",
    )


def info(engine: Engine, call: Call) -> Answer:
    cluster = engine.clusters.find(call.argument)
    if hides(call.scope, engine.clock.now(), [cluster])(cluster):
        raise not_found(f"Cluster {call.argument}")
    return Answer(200, {"message": _card(cluster), "cluster_info": cluster.as_json()})


def _card(cluster: Cluster) -> str:
    facts = card(
        f"Cluster {cluster.name}",
        {
            "id": cluster.id,
            "type": cluster.instance_type,
            "nodes": cluster.num_nodes,
            "status": cluster.status,
            "price": f"${cluster.hourly_rate:.2f} per hour",
            "storage": ", ".join(cluster.storage) or None,
            "deletion protection": cluster.deletion_protection,
            "created": cluster.created_at,
        },
    )
    return f"{facts}\n\n{_instance_table([cluster])}"


def edit(engine: Engine, call: Call) -> Answer:
    fields = call.fields()
    name, protection = fields.text("cluster_name"), fields.flag("deletion_protection")
    fields.check()
    fields.some_of("cluster_name", "deletion_protection")
    fields.check()
    cluster, request = engine.clusters.edit(
        call.argument, call.scope, name=name, deletion_protection=protection
    )
    message = f"Cluster {cluster.id} is being edited"
    return Answer(202, {"message": message, "request_id": engine.told_id(request, call.scope)})


def destroy(engine: Engine, call: Call) -> Answer:
    cluster, request = engine.clusters.destroy(call.argument, call.scope)
    return Answer(
        202,
        {
            "cluster_id": cluster.id,
            "message": f"Cluster {cluster.name} ({cluster.id}) is being destroyed",
            "request_id": engine.told_id(request, call.scope),
        },
    )


def operations(engine: Engine, call: Call) -> Answer:
    kind, status = call.choice("type", RequestKind), call.choice("status", RequestStatus)
    cluster = engine.clusters.find(call.argument)
    found = [
        request
        for request in engine.requests.of(cluster.id)
        if kind in {None, request.kind} and status in {None, request.status}
    ]
    message = table(
        f"Operations of cluster {cluster.name}",
        ["REQUEST", "TYPE", "STATUS", "CREATED", "MESSAGE"],
        [(r.id, r.kind, r.status, r.created_at, r.message) for r in found],
        empty="No operations found",
    )
    return Answer(200, {"message": message, "operations": [request.as_json() for request in found]})


def quote(_engine: Engine, call: Call) -> Answer:
    instance_type, num_nodes = call.text("instance_type"), call.whole("num_nodes", default=1)
    if instance_type not in PRICES:
        raise invalid(["query", "instance_type"], _unknown(instance_type), "value_error")
    return Answer(200, {"hourly_rate": round(PRICES[instance_type] * num_nodes, 2)})
