"""The routes of the user: information, preferences, organization, SSH keys, and SSH to an instance."""

import attrs

from tensorpool_async.emulator.account import EMAIL
from tensorpool_async.emulator.answers import Answer, conflict, invalid, not_found
from tensorpool_async.emulator.call import Call
from tensorpool_async.emulator.cluster import Cluster, ClusterStatus, Instance
from tensorpool_async.emulator.engine import Engine
from tensorpool_async.emulator.tables import card, table


def user(engine: Engine, _call: Call) -> Answer:
    account = engine.account
    balance = round(engine.ledger.balance, 2)
    facts = {
        "email": EMAIL,
        "uid": account.uid,
        "organization": account.organization,
        "balance": f"${balance:.2f}",
        "SSH keys": len(account.keys),
    }
    return Answer(
        200,
        {
            "message": card("Account", facts),
            "uid": account.uid,
            "email": EMAIL,
            "org_name": account.organization,
            "balance": balance,
        },
    )


def preferences(engine: Engine, _call: Call) -> Answer:
    return Answer(200, attrs.asdict(engine.account.preferences))


def update_preferences(engine: Engine, call: Call) -> Answer:
    fields = call.fields()
    wanted = {
        **{
            name: fields.flag(name)
            for name in ("notify_email_cluster_create", "notify_email_cluster_destroy", "autopay_enabled")
        },
        **{name: fields.number(name) for name in ("balance_warning_threshold", "autopay_reload_threshold")},
    }
    fields.check()
    engine.account.update({name: value for name, value in wanted.items() if value is not None})
    return preferences(engine, call)


def organization(engine: Engine, _call: Call) -> Answer:
    account = engine.account
    if account.organization is None:
        raise not_found("Organization")
    balance = round(engine.ledger.balance, 2)
    return Answer(200, {"org_name": account.organization, "members": account.members, "balance": balance})


def add_key(engine: Engine, call: Call) -> Answer:
    fields = call.fields()
    public_key, name = fields.text("public_key", required=True), fields.text("name")
    fields.check()
    key = engine.account.save_key(public_key or "", name)
    return Answer(200, {"key_id": key.id, "message": f"SSH key {key.name} ({key.id}) was saved"})


def keys(engine: Engine, call: Call) -> Answer:
    # A member's keys belong to the organization too.
    hidden = call.flag("include_org") and engine.account.organization is None
    found = [] if hidden else list(engine.account.keys.values())
    message = table(
        "SSH keys",
        ["ID", "NAME", "PUBLIC KEY"],
        [(key.id, key.name, _shortened(key.public_key)) for key in found],
        empty="No SSH keys found",
    )
    return Answer(200, {"message": message, "keys": [key.as_json() for key in found]})


def _shortened(public_key: str, most: int = 40) -> str:
    return public_key if len(public_key) <= most else f"{public_key[:most]}..."


def remove_key(engine: Engine, call: Call) -> Answer:
    key = engine.account.remove_key(call.argument)
    return Answer(200, {"message": f"SSH key {key.name} ({key.id}) was removed"})


def ssh(engine: Engine, call: Call) -> Answer:
    system = call.query.get("system", ("linux",))[-1].lower()
    if system not in {"linux", "darwin", "windows"}:
        raise invalid(["query", "system"], "Input should be 'windows', 'linux' or 'darwin'", "enum")
    cluster, instance = engine.clusters.instance(call.argument)
    if instance.status is not ClusterStatus.RUNNING:
        raise conflict(f"Instance {instance.id} is {instance.status}, not RUNNING")
    message = f"Connecting to {instance.name} of cluster {cluster.name}"
    return Answer(200, {"command": _ssh_command(cluster, instance), "message": message})


def _ssh_command(cluster: Cluster, instance: Instance) -> str:
    if instance.ip_address:
        return f"ssh ubuntu@{instance.ip_address}"
    jumphost = cluster.instances[0].ip_address
    return f"ssh -J ubuntu@{jumphost} ubuntu@{instance.private_ip_address}"
