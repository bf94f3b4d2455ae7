class BytesPulled:
    job_id: str
    name: str
    received: int
    total: int | None
    done: bool
    def __init__(self, *, job_id: str, name: str, received: int, total: int | None, done: bool) -> None: ...
class ChangeUnrecorded:
    engine: str
    kind: str
    resource_id: str | None
    why: str
    def __init__(self, *, engine: str, kind: str, resource_id: str | None, why: str) -> None: ...
class CommandEnded:
    arguments: tuple[str, ...]
    exit_code: int
    def __init__(self, *, arguments: tuple[str, ...], exit_code: int) -> None: ...
class CommandOutput:
    arguments: tuple[str, ...]
    stream: str
    text: str
    shown: bool
    def __init__(self, *, arguments: tuple[str, ...], stream: str, text: str, shown: bool) -> None: ...
class CommandStarted:
    arguments: tuple[str, ...]
    def __init__(self, *, arguments: tuple[str, ...]) -> None: ...
class Dispatcher:
    def __init__(self, listeners: Callable[[Any], object] | Iterable[Callable[[Any], object]] | None = None) -> None: ...
    async def aclose(self) -> None: ...
    @property
    def dropped(self) -> int: ...
    def emit(self, event: Event) -> None: ...
    @property
    def failures(self) -> int: ...
    @property
    def listens(self) -> bool: ...
Event: UnionType
class FleetMemberChanged:
    fleet: str
    member: str
    group: str
    state: str
    message: str
    resource_id: str | None
    instance_type: str | None
    seconds: float
    hourly_rate: float | None
    def __init__(self, *, fleet: str, member: str, group: str, state: str, message: str = '', resource_id: str | None = None, instance_type: str | None = None, seconds: float = 0.0, hourly_rate: float | None = None) -> None: ...
class JobMessage:
    job_id: str | None
    message: str
    def __init__(self, *, job_id: str | None, message: str) -> None: ...
Listener: _CallableGenericAlias
class OperationAccepted(OperationEvent):
    engine: str
    kind: str | None
    resource_id: str | None
    request_id: str | None
    request_ids: tuple[str, ...]
    resumed: bool
    def __init__(self, *, engine: str, kind: str | None = None, resource_id: str | None = None, request_id: str | None = None, request_ids: tuple[str, ...] = (), resumed: bool = False) -> None: ...
    @property
    def subject(self) -> str: ...
class OperationChanged(OperationEvent):
    engine: str
    kind: str | None
    resource_id: str | None
    request_id: str | None
    request_ids: tuple[str, ...]
    status: str
    message: str
    def __init__(self, *, engine: str, kind: str | None = None, resource_id: str | None = None, request_id: str | None = None, request_ids: tuple[str, ...] = (), status: str, message: str = '') -> None: ...
    @property
    def subject(self) -> str: ...
class OperationEnded(OperationEvent):
    engine: str
    kind: str | None
    resource_id: str | None
    request_id: str | None
    request_ids: tuple[str, ...]
    outcome: str
    seconds: float
    polls: int
    error: str | None
    error_type: str | None
    def __init__(self, *, engine: str, kind: str | None = None, resource_id: str | None = None, request_id: str | None = None, request_ids: tuple[str, ...] = (), outcome: str, seconds: float, polls: int, error: str | None = None, error_type: str | None = None) -> None: ...
    @property
    def subject(self) -> str: ...
class OperationEvent:
    engine: str
    kind: str | None
    resource_id: str | None
    request_id: str | None
    request_ids: tuple[str, ...]
    def __init__(self, *, engine: str, kind: str | None = None, resource_id: str | None = None, request_id: str | None = None, request_ids: tuple[str, ...] = ()) -> None: ...
    @property
    def subject(self) -> str: ...
class RequestAnswered(RequestEvent):
    engine: str
    method: str
    path: str
    route: str
    lane: str
    attempt: int
    kind: str | None
    name: str | None
    resource_id: str | None
    request_id: str | None
    status: int
    seconds: float
    retry_after: float | None
    def __init__(self, *, engine: str, method: str, path: str, route: str, lane: str, attempt: int = 1, kind: str | None = None, name: str | None = None, resource_id: str | None = None, request_id: str | None = None, status: int, seconds: float, retry_after: float | None = None) -> None: ...
class RequestEvent:
    engine: str
    method: str
    path: str
    route: str
    lane: str
    attempt: int
    kind: str | None
    name: str | None
    resource_id: str | None
    request_id: str | None
    def __init__(self, *, engine: str, method: str, path: str, route: str, lane: str, attempt: int = 1, kind: str | None = None, name: str | None = None, resource_id: str | None = None, request_id: str | None = None) -> None: ...
class RequestFailed(RequestEvent):
    engine: str
    method: str
    path: str
    route: str
    lane: str
    attempt: int
    kind: str | None
    name: str | None
    resource_id: str | None
    request_id: str | None
    why: str
    error_type: str
    seconds: float
    def __init__(self, *, engine: str, method: str, path: str, route: str, lane: str, attempt: int = 1, kind: str | None = None, name: str | None = None, resource_id: str | None = None, request_id: str | None = None, why: str, error_type: str, seconds: float) -> None: ...
class RequestRetried(RequestEvent):
    engine: str
    method: str
    path: str
    route: str
    lane: str
    attempt: int
    kind: str | None
    name: str | None
    resource_id: str | None
    request_id: str | None
    why: str
    delay: float
    def __init__(self, *, engine: str, method: str, path: str, route: str, lane: str, attempt: int = 1, kind: str | None = None, name: str | None = None, resource_id: str | None = None, request_id: str | None = None, why: str, delay: float) -> None: ...
class RequestSent(RequestEvent):
    engine: str
    method: str
    path: str
    route: str
    lane: str
    attempt: int
    kind: str | None
    name: str | None
    resource_id: str | None
    request_id: str | None
    def __init__(self, *, engine: str, method: str, path: str, route: str, lane: str, attempt: int = 1, kind: str | None = None, name: str | None = None, resource_id: str | None = None, request_id: str | None = None) -> None: ...
class RequestsPaused:
    engine: str
    seconds: float
    reason: str
    asked: float | None
    def __init__(self, *, engine: str, seconds: float, reason: str, asked: float | None = None) -> None: ...
class SecretsInUpload:
    folder: str
    paths: tuple[str, ...]
    def __init__(self, *, folder: str, paths: tuple[str, ...]) -> None: ...
