"""What a client does, as small frozen records, for the listeners of `TensorPool(on_event=…)`.

No record holds a key, a body, or the query of a signed address. In texts of the engine the key is masked.
"""

from __future__ import annotations

from tensorpool_async.events.dispatcher import Dispatcher
from tensorpool_async.events.records import (
    BytesPulled,
    ChangeUnrecorded,
    CommandEnded,
    CommandOutput,
    CommandStarted,
    Event,
    FleetMemberChanged,
    JobMessage,
    Listener,
    OperationAccepted,
    OperationChanged,
    OperationEnded,
    OperationEvent,
    RequestAnswered,
    RequestEvent,
    RequestFailed,
    RequestRetried,
    RequestSent,
    RequestsPaused,
    SecretsInUpload,
)


__all__ = [
    "BytesPulled",
    "ChangeUnrecorded",
    "CommandEnded",
    "CommandOutput",
    "CommandStarted",
    "Dispatcher",
    "Event",
    "FleetMemberChanged",
    "JobMessage",
    "Listener",
    "OperationAccepted",
    "OperationChanged",
    "OperationEnded",
    "OperationEvent",
    "RequestAnswered",
    "RequestEvent",
    "RequestFailed",
    "RequestRetried",
    "RequestSent",
    "RequestsPaused",
    "SecretsInUpload",
]
