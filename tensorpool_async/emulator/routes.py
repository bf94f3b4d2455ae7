"""The table of routes, and the endpoints that belong to no resource."""

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import attrs
from aiohttp import web

from tensorpool_async.emulator.account import AccountEndpoints
from tensorpool_async.emulator.clusters import (
    Cluster,
    ClusterEndpoints,
    ClusterStatus,
    ClusterStore,
    Instance,
)
from tensorpool_async.emulator.exchange import Exchange
from tensorpool_async.emulator.job_sockets import JobSocket, JobSockets
from tensorpool_async.emulator.jobs import JobEndpoints
from tensorpool_async.emulator.object_storage import BucketEndpoints
from tensorpool_async.emulator.requests import RequestStore
from tensorpool_async.emulator.responses import Reply, conflict, invalid
from tensorpool_async.emulator.volumes import VolumeEndpoints


WEBSOCKET = "WEBSOCKET"

Endpoint: TypeAlias = Callable[[Exchange], Reply]
Conversation: TypeAlias = Callable[[JobSocket], Awaitable[None]]


@attrs.frozen
class SystemEndpoints:
    """Health, and SSH to an instance."""

    clusters: ClusterStore

    def health(self, exchange: Exchange) -> Reply:
        exchange.fields()
        return Reply(200, {"message": None})

    def healthz(self, _exchange: Exchange) -> Reply:
        return Reply(200, {"status": "ok"})

    def ssh(self, exchange: Exchange) -> Reply:
        system = exchange.query.get("system", ("linux",))[-1].lower()
        if system not in {"linux", "darwin", "windows"}:
            raise invalid(["query", "system"], "Input should be 'windows', 'linux' or 'darwin'", "enum")
        cluster, instance = self.clusters.instance(exchange.argument)
        if instance.status is not ClusterStatus.RUNNING:
            raise conflict(f"Instance {instance.id} is {instance.status}, not RUNNING")
        message = f"Connecting to {instance.name} of cluster {cluster.name}"
        return Reply(200, {"command": _ssh_command(cluster, instance), "message": message})


def _ssh_command(cluster: Cluster, instance: Instance) -> str:
    if instance.ip_address:
        return f"ssh ubuntu@{instance.ip_address}"
    jumphost = cluster.instances[0].ip_address
    return f"ssh -J ubuntu@{jumphost} ubuntu@{instance.private_ip_address}"


@attrs.frozen
class Endpoints:
    """All endpoints of one engine."""

    system: SystemEndpoints
    requests: RequestStore
    clusters: ClusterEndpoints
    volumes: VolumeEndpoints
    buckets: BucketEndpoints
    jobs: JobEndpoints
    sockets: JobSockets
    account: AccountEndpoints


@attrs.frozen(eq=False)
class Route:
    """A method and a path, whose last part may be a parameter.

    Attributes:
        method: A method of HTTP, or WEBSOCKET.
        path: The path, as in the engine's schema.
        endpoint: Finds the function that answers a request.
        conversation: Finds the function that talks over a WebSocket, whose first message is the key.
        open: Whether no key is asked for.
        outside: Whether the engine itself does not have it. It is in no schema and under no rate limit.
    """

    method: str
    path: str
    endpoint: Callable[[Endpoints], Endpoint] | None = None
    conversation: Callable[[Endpoints], Conversation] | None = None
    open: bool = False
    outside: bool = False

    @property
    def label(self) -> str:
        return f"{self.method} {self.path}"


POLL = "/request/info/{request_id}"

ROUTES = (
    Route("POST", "/health", lambda e: e.system.health),
    Route("GET", "/healthz", lambda e: e.system.healthz, open=True),
    Route("GET", POLL, lambda e: e.requests.info),
    Route("POST", "/cluster/create", lambda e: e.clusters.create),
    Route("GET", "/cluster/list", lambda e: e.clusters.list),
    Route("GET", "/cluster/info/{cluster}", lambda e: e.clusters.info),
    Route("PATCH", "/cluster/edit/{cluster}", lambda e: e.clusters.edit),
    Route("DELETE", "/cluster/{cluster}", lambda e: e.clusters.destroy),
    Route("GET", "/cluster/operations/{cluster}", lambda e: e.clusters.operations),
    Route("GET", "/cluster/quote", lambda e: e.clusters.quote),
    Route("POST", "/storage/create", lambda e: e.volumes.create),
    Route("GET", "/storage/list", lambda e: e.volumes.list),
    Route("GET", "/storage/info/{storage_id}", lambda e: e.volumes.info),
    Route("PATCH", "/storage/edit/{storage_id}", lambda e: e.volumes.edit),
    Route("DELETE", "/storage/{storage_id}", lambda e: e.volumes.destroy),
    Route("POST", "/storage/attach", lambda e: e.volumes.attach),
    Route("POST", "/storage/detach", lambda e: e.volumes.detach),
    Route("GET", "/storage/quote", lambda e: e.volumes.quote),
    Route("POST", "/object-storage/enable", lambda e: e.buckets.enable),
    Route("DELETE", "/object-storage/disable", lambda e: e.buckets.disable),
    Route("GET", "/object-storage/credentials", lambda e: e.buckets.credentials),
    Route("POST", "/object-storage/rotate-keys", lambda e: e.buckets.rotate),
    Route("GET", "/object-storage/configure/rclone", lambda e: e.buckets.rclone),
    Route("GET", "/object-storage/configure/aws", lambda e: e.buckets.aws),
    Route("GET", "/object-storage/bucket/list", lambda e: e.buckets.list_buckets),
    Route("PUT", "/object-storage/bucket/create/{bucket_name}", lambda e: e.buckets.create_bucket),
    Route("DELETE", "/object-storage/bucket/delete/{bucket_name}", lambda e: e.buckets.delete_bucket),
    Route("GET", "/job/init", lambda e: e.jobs.init),
    Route("GET", "/job/list", lambda e: e.jobs.list),
    Route("GET", "/job/info/{job_id}", lambda e: e.jobs.info),
    Route("POST", "/job/cancel/{job_id}", lambda e: e.jobs.cancel),
    Route("DELETE", "/job/delete/{job_id}", lambda e: e.jobs.delete),
    Route("GET", "/job/pull/{job_id}", lambda e: e.jobs.pull),
    Route(WEBSOCKET, "/job/push", conversation=lambda e: e.sockets.push, open=True),
    Route(WEBSOCKET, "/job/listen/{job_id}", conversation=lambda e: e.sockets.listen, open=True),
    Route("GET", "/ssh/{instance_id}", lambda e: e.system.ssh),
    Route("GET", "/user/info", lambda e: e.account.user),
    Route("GET", "/me", lambda e: e.account.user),
    Route("GET", "/user/preferences", lambda e: e.account.preferences),
    Route("PATCH", "/user/preferences", lambda e: e.account.update_preferences),
    Route("GET", "/user/organization/info", lambda e: e.account.organization),
    Route("POST", "/user/ssh-key/add", lambda e: e.account.add_key),
    Route("GET", "/user/ssh-key/list", lambda e: e.account.keys),
    Route("DELETE", "/user/ssh-key/remove/{key_id}", lambda e: e.account.remove_key),
    Route("GET", "/download/{token}", lambda e: e.jobs.download, open=True, outside=True),
)


def endpoints() -> set[tuple[str, str]]:
    """Every (METHOD, path) that is served, with paths as in the engine's schema. WebSockets are WEBSOCKET."""
    return {(route.method, route.path) for route in ROUTES if not route.outside}


def fill(
    router: web.UrlDispatcher, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> dict[web.AbstractRoute, Route]:
    """Add all routes to aiohttp's router, and return which of its routes stands for which of ours."""
    added: dict[web.AbstractRoute, Route] = {}
    for route in ROUTES:
        method = "GET" if route.method == WEBSOCKET else route.method
        # A parameter takes anything but a slash, which aiohttp's default does not: braces are part of a name too.
        path = route.path.replace("}", ":[^/]+}")
        added[router.add_route(method, path, handler)] = route
    return added
