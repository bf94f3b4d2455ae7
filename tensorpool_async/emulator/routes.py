"""The table of routes, and the search in it."""

from collections.abc import Callable
from urllib.parse import unquote

import attrs

from tensorpool_async.emulator import cluster_routes, request_routes
from tensorpool_async.emulator.answers import Answer
from tensorpool_async.emulator.call import Call
from tensorpool_async.emulator.engine import Engine


@attrs.frozen
class Route:
    """A method and a path, whose last part may be a parameter. `open`: no key is asked for."""

    method: str
    path: str
    handle: Callable[[Engine, Call], Answer]
    open: bool = False

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
)

POLL = "/request/info/{request_id}"


def endpoints() -> set[tuple[str, str]]:
    """Every (METHOD, path) that is served, the paths as in the engine's schema."""
    return {(route.method, route.path) for route in ROUTES}


def _key(path: str) -> str:
    head, _, last = path.rpartition("/")
    return f"{head}/" if last.startswith("{") else path


_TABLE = {(route.method, _key(route.path)): route for route in ROUTES}
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
