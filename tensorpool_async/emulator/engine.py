"""The engine behind the routes: what it is made of."""

from collections.abc import Sequence

import attrs

from tensorpool_async.emulator.account import Account
from tensorpool_async.emulator.attachments import Attachments
from tensorpool_async.emulator.clock import Clock
from tensorpool_async.emulator.clusters import Clusters
from tensorpool_async.emulator.faults import FaultKind, Faults, Scope
from tensorpool_async.emulator.jobs import Jobs
from tensorpool_async.emulator.ledger import Ledger
from tensorpool_async.emulator.object_storage import ObjectStorage
from tensorpool_async.emulator.pace import RetryAfter
from tensorpool_async.emulator.record import Record
from tensorpool_async.emulator.requests import Request, Requests
from tensorpool_async.emulator.volumes import Volumes


@attrs.define(eq=False)
class Engine:
    """The state of one emulator, without its sockets."""

    clock: Clock
    record: Record
    faults: Faults
    ledger: Ledger
    requests: Requests
    clusters: Clusters
    volumes: Volumes
    attachments: Attachments
    account: Account
    object_storage: ObjectStorage
    jobs: Jobs
    retry_after: RetryAfter
    push_commands: Sequence[str | None] | None = None
    no_request_ids: bool = False

    def told_id(self, request: Request, scope: Scope) -> str | None:
        """The request id as the 202 gives it away, which may be not at all."""
        if self.no_request_ids or scope.take(FaultKind.NO_REQUEST_ID):
            return None
        return request.id
