"""The routes under /storage."""

from tensorpool_async.emulator.answers import Answer, not_found
from tensorpool_async.emulator.call import Call
from tensorpool_async.emulator.engine import Engine
from tensorpool_async.emulator.lag import hides
from tensorpool_async.emulator.prices import storage_rate
from tensorpool_async.emulator.tables import card, table
from tensorpool_async.emulator.volume import Volume
from tensorpool_async.emulator.volumes import VolumeEdit


def create(engine: Engine, call: Call) -> Answer:
    fields = call.fields()
    size, name = fields.whole("size", required=True), fields.text("name")
    protection = fields.flag("deletion_protection")
    fields.check()
    volume, request = engine.volumes.create(
        size or 1, name, call.scope, deletion_protection=protection or False
    )
    return Answer(
        202,
        {
            "storage_id": volume.id,
            "message": f"Storage volume {volume.name} ({volume.id}) is being created",
            "request_id": engine.told_id(request, call.scope),
        },
    )


def listing(engine: Engine, call: Call) -> Answer:
    volumes = [] if call.flag("include_org") else engine.volumes.living
    hidden = hides(call.scope, engine.clock.now(), volumes)
    volumes = [volume for volume in volumes if not hidden(volume)]
    message = table(
        "Storage volumes",
        ["ID", "NAME", "GB", "STATUS", "ATTACHED TO", "USD/H"],
        [
            (
                v.id,
                v.name,
                v.size_gb,
                v.status,
                ", ".join(v.attached_clusters) or None,
                f"{v.hourly_rate:.4f}",
            )
            for v in volumes
        ],
        empty="No storage volumes found",
    )
    return Answer(200, {"message": message, "volumes": [volume.as_json() for volume in volumes]})


def info(engine: Engine, call: Call) -> Answer:
    volume = engine.volumes.find(call.argument)
    if hides(call.scope, engine.clock.now(), [volume])(volume):
        raise not_found(f"Storage volume {call.argument}")
    return Answer(200, {"message": _card(volume), "storage_info": volume.as_json()})


def _card(volume: Volume) -> str:
    return card(
        f"Storage volume {volume.name}",
        {
            "id": volume.id,
            "size": f"{volume.size_gb} GB",
            "status": volume.status,
            "price": f"${volume.hourly_rate:.4f} per hour",
            "attached to": ", ".join(volume.attached_clusters) or None,
            "deletion protection": volume.deletion_protection,
            "created": volume.created_at,
        },
    )


def edit(engine: Engine, call: Call) -> Answer:
    fields = call.fields()
    wanted = VolumeEdit(
        fields.text("tp_storage_name"), fields.whole("size_gb"), fields.flag("deletion_protection")
    )
    fields.check()
    fields.some_of("tp_storage_name", "size_gb", "deletion_protection")
    fields.check()
    volume, request = engine.volumes.edit(call.argument, wanted, call.scope)
    message = f"Storage volume {volume.id} is being edited"
    return Answer(202, {"message": message, "request_id": engine.told_id(request, call.scope)})


def destroy(engine: Engine, call: Call) -> Answer:
    volume, request = engine.volumes.destroy(call.argument, call.scope)
    return Answer(
        202,
        {
            "storage_id": volume.id,
            "message": f"Storage volume {volume.name} ({volume.id}) is being destroyed",
            "request_id": engine.told_id(request, call.scope),
        },
    )


def attach(engine: Engine, call: Call) -> Answer:
    fields = call.fields()
    storage_id, clusters = (
        fields.text("storage_id", required=True),
        fields.texts("cluster_ids", required=True),
    )
    if not clusters and not fields.problems:
        fields.wrong("cluster_ids", "List should have at least 1 item after validation", "too_short")
    fields.check()
    requests = engine.attachments.attach(storage_id or "", clusters, call.scope)
    told = [engine.told_id(request, call.scope) for request in requests]
    return Answer(
        202,
        {
            "storage_id": storage_id,
            "cluster_ids": list(clusters),
            "request_ids": [request_id for request_id in told if request_id],
            "message": f"Storage volume {storage_id} is being attached, the nodes will restart",
        },
    )


def detach(engine: Engine, call: Call) -> Answer:
    fields = call.fields()
    storage_id, cluster_id = (
        fields.text("storage_id", required=True),
        fields.text("cluster_id", required=True),
    )
    fields.check()
    request = engine.attachments.detach(storage_id or "", cluster_id or "", call.scope)
    return Answer(
        202,
        {
            "storage_id": storage_id,
            "cluster_id": cluster_id,
            "request_id": engine.told_id(request, call.scope),
            "message": f"Storage volume {storage_id} is being detached, the nodes will restart",
        },
    )


def quote(_engine: Engine, call: Call) -> Answer:
    return Answer(200, {"hourly_rate": storage_rate(call.whole("size_gb"))})
