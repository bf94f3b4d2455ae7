"""The table of routes, and the search in it."""

from collections.abc import Awaitable, Callable
from urllib.parse import unquote

import attrs

from tensorpool_async.emulator import (
    account_routes,
    cluster_routes,
    download_routes,
    job_routes,
    object_storage_routes,
    request_routes,
    socket_routes,
    storage_routes,
)
from tensorpool_async.emulator.answers import Answer
from tensorpool_async.emulator.call import Call
from tensorpool_async.emulator.engine import Engine
from tensorpool_async.emulator.wire import Wire


WEBSOCKET = "WEBSOCKET"


@attrs.frozen
class Route:
    """A method and a path, whose last part may be a parameter.

    Attributes:
        method: Of HTTP, or WEBSOCKET.
        path: As in the engine's schema.
        handle: Answers a request.
        socket: Holds a conversation, in which the key comes first.
        open: No key is asked for.
        outside: Not the engine's: neither in its schema nor under its rate limit.
    """

    method: str
    path: str
    handle: Callable[[Engine, Call], Answer] | None = None
    socket: Callable[[Engine, Wire], Awaitable[None]] | None = None
    open: bool = False
    outside: bool = False

    @property
    def label(self) -> str:
        return f"{self.method} {self.path}"


ROUTES = (
    Route("POST", "/health", request_routes.health),
    Route("GET", "/healthz", request_routes.healthz, open=True),
    Route("GET", "/request/info/{request_id}", request_routes.info),
    Route("POST", "/cluster/create", cluster_routes.create),
    Route("GET", "/cluster/list", cluster_routes.listing),
    Route("GET", "/cluster/info/{cluster}", cluster_routes.info),
    Route("PATCH", "/cluster/edit/{cluster}", cluster_routes.edit),
    Route("DELETE", "/cluster/{cluster}", cluster_routes.destroy),
    Route("GET", "/cluster/operations/{cluster}", cluster_routes.operations),
    Route("GET", "/cluster/quote", cluster_routes.quote),
    Route("POST", "/storage/create", storage_routes.create),
    Route("GET", "/storage/list", storage_routes.listing),
    Route("GET", "/storage/info/{storage_id}", storage_routes.info),
    Route("PATCH", "/storage/edit/{storage_id}", storage_routes.edit),
    Route("DELETE", "/storage/{storage_id}", storage_routes.destroy),
    Route("POST", "/storage/attach", storage_routes.attach),
    Route("POST", "/storage/detach", storage_routes.detach),
    Route("GET", "/storage/quote", storage_routes.quote),
    Route("POST", "/object-storage/enable", object_storage_routes.enable),
    Route("DELETE", "/object-storage/disable", object_storage_routes.disable),
    Route("GET", "/object-storage/credentials", object_storage_routes.credentials),
    Route("POST", "/object-storage/rotate-keys", object_storage_routes.rotate),
    Route("GET", "/object-storage/configure/rclone", object_storage_routes.rclone),
    Route("GET", "/object-storage/configure/aws", object_storage_routes.aws),
    Route("GET", "/object-storage/bucket/list", object_storage_routes.buckets),
    Route("PUT", "/object-storage/bucket/create/{bucket_name}", object_storage_routes.create_bucket),
    Route("DELETE", "/object-storage/bucket/delete/{bucket_name}", object_storage_routes.delete_bucket),
    Route("GET", "/job/init", job_routes.init),
    Route("GET", "/job/list", job_routes.listing),
    Route("GET", "/job/info/{job_id}", job_routes.info),
    Route("POST", "/job/cancel/{job_id}", job_routes.cancel),
    Route("DELETE", "/job/delete/{job_id}", job_routes.delete),
    Route("GET", "/job/pull/{job_id}", job_routes.pull),
    Route(WEBSOCKET, "/job/push", socket=socket_routes.push, open=True),
    Route(WEBSOCKET, "/job/listen/{job_id}", socket=socket_routes.listen, open=True),
    Route("GET", "/ssh/{instance_id}", account_routes.ssh),
    Route("GET", "/user/info", account_routes.user),
    Route("GET", "/me", account_routes.user),
    Route("GET", "/user/preferences", account_routes.preferences),
    Route("PATCH", "/user/preferences", account_routes.update_preferences),
    Route("GET", "/user/organization/info", account_routes.organization),
    Route("POST", "/user/ssh-key/add", account_routes.add_key),
    Route("GET", "/user/ssh-key/list", account_routes.keys),
    Route("DELETE", "/user/ssh-key/remove/{key_id}", account_routes.remove_key),
    Route("GET", "/download/{token}", download_routes.download, open=True, outside=True),
)

POLL = "/request/info/{request_id}"


def endpoints() -> set[tuple[str, str]]:
    """Every (METHOD, path) that is served, the paths as in the engine's schema; WebSockets as WEBSOCKET."""
    return {(route.method, route.path) for route in ROUTES if not route.outside}


def _key(path: str) -> str:
    head, _, last = path.rpartition("/")
    return f"{head}/" if last.startswith("{") else path


def _http(method: str) -> str:
    return "GET" if method == WEBSOCKET else method


_TABLE = {(_http(route.method), _key(route.path)): route for route in ROUTES}
_PATHS = {path for _, path in _TABLE}


@attrs.frozen
class Match:
    """Where a request goes; without a route, `allowed` says whether another method would have one."""

    route: Route | None
    argument: str = ""
    allowed: tuple[str, ...] = ()


def find(method: str, raw_path: str) -> Match:
    """The route of a path as it stands in the request line, so that %2F is part of a name."""
    head, _, last = raw_path.rpartition("/")
    if route := _TABLE.get((method, raw_path)):
        return Match(route)
    if last and (route := _TABLE.get((method, f"{head}/"))):
        return Match(route, unquote(last))
    there = raw_path if raw_path in _PATHS else f"{head}/"
    return Match(None, allowed=tuple(method for method, path in _TABLE if last and path == there))
