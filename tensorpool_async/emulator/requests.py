"""The engine's requests: what a 202 stands for, and how it comes to its end."""

import random
from collections import defaultdict
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

import attrs

from tensorpool_async.emulator.answers import not_found
from tensorpool_async.emulator.clock import Clock
from tensorpool_async.emulator.faults import FaultKind, Scope


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
    """Where a request stands."""

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


WORDS: Mapping[RequestKind, tuple[str, str]] = {
    RequestKind.CLUSTER_CLAIM: ("Creating the cluster", "The cluster is running"),
    RequestKind.CLUSTER_RELEASE: ("Destroying the cluster", "The cluster was destroyed"),
    RequestKind.CLUSTER_EDIT: ("Editing the cluster", "The cluster was edited"),
    RequestKind.STORAGE_CREATE: ("Creating the volume", "The volume is ready"),
    RequestKind.STORAGE_DESTROY: ("Destroying the volume", "The volume was destroyed"),
    RequestKind.STORAGE_ATTACH: ("Attaching the volume", "The volume was attached"),
    RequestKind.STORAGE_DETACH: ("Detaching the volume", "The volume was detached"),
    RequestKind.STORAGE_EDIT: ("Editing the volume", "The volume was edited"),
}

# When a request changes its state, in fractions of the time that it takes.
STARTS, STUMBLES, RECOVERS = 0.05, 0.4, 0.7


class Requests:
    """All requests of an engine, running and ended."""

    def __init__(self, clock: Clock, rng: random.Random) -> None:
        self.by_id: dict[str, Request] = {}
        self._by_object: defaultdict[str, list[Request]] = defaultdict(list)
        self._clock = clock
        self._rng = rng

    def get(self, request_id: str) -> Request:
        """Raises Refusal when there is none."""
        if request_id not in self.by_id:
            raise not_found(f"Request {request_id}")
        return self.by_id[request_id]

    def of(self, object_id: str) -> list[Request]:
        """What was ever asked for this object, newest first."""
        return self._by_object[object_id][::-1]

    def concerns(self, request: Request, object_id: str) -> None:
        """The request changes this object too."""
        self._by_object[object_id].append(request)

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
        """Start what takes so many real seconds; then `done` is called, or `failed` if there is a `failure`."""
        now = self._clock.now()
        request_id = f"r-{self._rng.getrandbits(64):016x}"
        request = Request(request_id, kind, object_id, now, self._clock.iso(now))
        self.by_id[request.id] = request
        self._by_object[object_id].append(request)
        if failure is None and scope.take(FaultKind.FAILED):
            failure = f"{WORDS[kind][0]} failed: internal provider error"

        def end() -> None:
            (failed if failure else done)()
            request.status = RequestStatus.FAILED if failure else RequestStatus.COMPLETED
            request.message = failure or WORDS[kind][1]

        self._later(seconds * STARTS, request, RequestStatus.PROCESSING, WORDS[kind][0])
        if scope.take(FaultKind.RETRYING):
            self._later(
                seconds * STUMBLES, request, RequestStatus.RETRYING, "A node did not come up, retrying"
            )
            self._later(seconds * RECOVERS, request, RequestStatus.PROCESSING, WORDS[kind][0])
        self._clock.later(seconds, end)
        return request

    def _later(self, seconds: float, request: Request, status: RequestStatus, message: str) -> None:
        def change() -> None:
            if not request.done:
                request.status, request.message = status, message

        self._clock.later(seconds, change)
