"""The engine's requests: what a 202 stands for, how it ends, and how clients poll it."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

import attrs

from tensorpool_async.emulator.exchange import Exchange
from tensorpool_async.emulator.faults import FaultKind, Scope
from tensorpool_async.emulator.limits import RetryAfter
from tensorpool_async.emulator.responses import Reply, not_found
from tensorpool_async.emulator.world import Clock, World


class RequestKind(StrEnum):
    """What a request does."""

    CLUSTER_CLAIM = "CLUSTER_CLAIM"
    CLUSTER_RELEASE = "CLUSTER_RELEASE"
    CLUSTER_EDIT = "CLUSTER_EDIT"
    STORAGE_CREATE = "STORAGE_CREATE"
    STORAGE_DESTROY = "STORAGE_DESTROY"
    STORAGE_ATTACH = "STORAGE_ATTACH"
    STORAGE_DETACH = "STORAGE_DETACH"
    STORAGE_EDIT = "STORAGE_EDIT"


class RequestStatus(StrEnum):
    """The state of a request."""

    PENDING = "PENDING"
    PROCESSING = "PROCESSING"
    RETRYING = "RETRYING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


@attrs.define(eq=False)
class Request:
    """One asynchronous change. `created` is in seconds after the emulator's start."""

    id: str
    kind: RequestKind
    object_id: str
    created: float
    created_at: str
    status: RequestStatus = RequestStatus.PENDING
    message: str = "Queued"

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self.status in {RequestStatus.COMPLETED, RequestStatus.FAILED}

    def as_json(self) -> dict[str, Any]:
        """Return it as the engine shows it."""
        return {
            "request_id": self.id,
            "request_type": self.kind.value,
            "status": self.status.value,
            "created_at": self.created_at,
            "object_id": self.object_id,
            "external_message": self.message,
        }


MESSAGES: Mapping[RequestKind, tuple[str, str]] = {
    RequestKind.CLUSTER_CLAIM: ("Creating the cluster", "The cluster is running"),
    RequestKind.CLUSTER_RELEASE: ("Destroying the cluster", "The cluster was destroyed"),
    RequestKind.CLUSTER_EDIT: ("Editing the cluster", "The cluster was edited"),
    RequestKind.STORAGE_CREATE: ("Creating the volume", "The volume is ready"),
    RequestKind.STORAGE_DESTROY: ("Destroying the volume", "The volume was destroyed"),
    RequestKind.STORAGE_ATTACH: ("Attaching the volume", "The volume was attached"),
    RequestKind.STORAGE_DETACH: ("Detaching the volume", "The volume was detached"),
    RequestKind.STORAGE_EDIT: ("Editing the volume", "The volume was edited"),
}
"""What a request says while it is being processed, and at its end."""

# When a request changes its state, in fractions of the time that it takes.
STARTS, STUMBLES, RECOVERS = 0.05, 0.4, 0.7


class RequestStore:
    """All requests of an engine, running and ended, and the endpoint that polls them."""

    def __init__(self, world: World, clock: Clock, retry_after: float) -> None:
        self.by_id: dict[str, Request] = {}
        self.retry_after: RetryAfter = RetryAfter(retry_after, world.retry_after_format, clock)
        self._by_object: defaultdict[str, list[Request]] = defaultdict(list)
        self._no_request_ids = world.no_request_ids
        self._clock = clock
        self._rng = world.rng("requests")

    def info(self, exchange: Exchange) -> Reply:
        request = self.by_id.get(exchange.argument)
        if request is None:
            raise not_found(f"Request {exchange.argument}")
        return Reply(200, request.as_json(), None if request.done else self.retry_after.value())

    def of(self, object_id: str) -> list[Request]:
        """Every request that changed this object, newest first."""
        return self._by_object[object_id][::-1]

    def concerns(self, request: Request, object_id: str) -> None:
        """Note that the request changes this object too."""
        self._by_object[object_id].append(request)

    def visible_id(self, request: Request, scope: Scope) -> str | None:
        """The request id as the 202 has it. Some worlds and some faults leave it out."""
        if self._no_request_ids or scope.take(FaultKind.NO_REQUEST_ID):
            return None
        return request.id

    def accepted(self, request: Request, scope: Scope, body: Mapping[str, object]) -> Reply:
        """The 202 for this request."""
        return Reply(202, {**body, "request_id": self.visible_id(request, scope)})

    def begin(
        self,
        kind: RequestKind,
        object_id: str,
        seconds: float,
        scope: Scope,
        *,
        done: Callable[[], object],
        failed: Callable[[], object],
        failure: str | None = None,
    ) -> Request:
        """Start a request that ends after so many real seconds.

        At its end `done` is called, or `failed` if there is a `failure` to report.
        """
        now = self._clock.now()
        request_id = f"r-{self._rng.getrandbits(64):016x}"
        request = Request(request_id, kind, object_id, now, self._clock.iso(now))
        self.by_id[request.id] = request
        self.concerns(request, object_id)
        if failure is None and scope.take(FaultKind.FAILED):
            failure = f"{MESSAGES[kind][0]} failed: internal provider error"

        def end() -> None:
            (failed if failure else done)()
            request.status = RequestStatus.FAILED if failure else RequestStatus.COMPLETED
            request.message = failure or MESSAGES[kind][1]

        self._later(seconds * STARTS, request, RequestStatus.PROCESSING, MESSAGES[kind][0])
        if scope.take(FaultKind.RETRYING):
            text = "A node did not come up, retrying"
            self._later(seconds * STUMBLES, request, RequestStatus.RETRYING, text)
            self._later(seconds * RECOVERS, request, RequestStatus.PROCESSING, MESSAGES[kind][0])
        self._clock.later(seconds, end)
        return request

    def _later(self, seconds: float, request: Request, status: RequestStatus, message: str) -> None:
        def change() -> None:
            if not request.done:
                request.status, request.message = status, message

        self._clock.later(seconds, change)
