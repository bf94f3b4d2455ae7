class BytesPulled:
    job_id: str
    name: str
    received: int
    total: int | None
    done: bool
    def __init__(self, *, job_id: str, name: str, received: int, total: int | None, done: bool) -> None: ...
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
