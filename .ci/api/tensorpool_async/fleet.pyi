class Action(StrEnum):
    CREATE = 'CREATE'
    JOIN = 'JOIN'
    KEEP = 'KEEP'
    REPLACE = 'REPLACE'
    AWAIT_DESTROY = 'AWAIT_DESTROY'
    CONFLICT = 'CONFLICT'
    SURPLUS = 'SURPLUS'
    @property
    def creates(self) -> bool: ...
class ClusterGroup:
    name: str
    instance_type: tuple[str, ...]
    count: int
    num_nodes: int
    public_keys: tuple[str, ...]
    container: str | None
    deletion_protection: bool
    def __init__(self, name: str, instance_type: str | Sequence[str], *, count: int = 1, num_nodes: int = 1, public_keys: Sequence[str] = (), container: str | None = None, deletion_protection: bool = False) -> None: ...
class Fleet:
    name: str
    clusters: tuple[ClusterGroup, ...]
    volumes: tuple[VolumeGroup, ...]
    max_hourly_cost: float | None
    def __init__(self, name: str, clusters: Sequence[ClusterGroup], volumes: Sequence[VolumeGroup] = (), *, max_hourly_cost: float | None = None) -> None: ...
    def group_of(self, name: str) -> ClusterGroup | None: ...
    @property
    def members(self) -> tuple[Member, ...]: ...
class FleetIncomplete(FleetError):
    def __init__(self, message: str, exceptions: Sequence[Exception], members: Mapping[str, str] | None = None, *, report: FleetReport | None = None) -> None: ...
    def bind(self, operation: OperationHandle) -> Self: ...
    def derive(self, excs: Sequence[Exception]) -> FleetIncomplete: ...
class FleetMembers(Sequence):
    def __getitem__(self, key: int | str | slice) -> Cluster | tuple[Cluster, ...]: ...
    def __len__(self) -> int: ...
    def group(self, name: str) -> list[Cluster]: ...
    @property
    def report(self) -> FleetReport: ...
    @property
    def volumes(self) -> Mapping[str, StorageVolume]: ...
class FleetReport:
    fleet: str
    members: tuple[MemberReport, ...]
    seconds: float
    requests: int
    rate_limited: int
    retries: int
    def __init__(self, *, fleet: str, members: tuple[MemberReport, ...], seconds: float = 0.0, requests: int = 0, rate_limited: int = 0, retries: int = 0) -> None: ...
    @property
    def existing(self) -> tuple[MemberReport, ...]: ...
    @property
    def failed(self) -> tuple[MemberReport, ...]: ...
    @property
    def hourly_cost(self) -> float | None: ...
    @property
    def sequential_seconds(self) -> float: ...
class FleetSession:
    async def __aenter__(self) -> FleetMembers: ...
    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None: ...
    def __init__(self, tp: FleetClient, fleet: Fleet, *, on_failure: Literal['rollback', 'keep'] = 'rollback', min_ready: int | None = None, rollback_timeout: float = 3600.0, on_event: MemberListener | None = None) -> None: ...
    async def down(self, *, on_event: MemberListener | None = None) -> FleetReport: ...
    @property
    def fleet(self) -> Fleet: ...
    async def plan(self) -> Plan: ...
    @property
    def report(self) -> FleetReport | None: ...
    async def status(self) -> FleetReport: ...
    async def up(self, *, on_event: MemberListener | None = None) -> FleetReport: ...
class Member:
    name: str
    group: ClusterGroup
    index: int
    def __init__(self, name: str, group: ClusterGroup, index: int) -> None: ...
class MemberReport:
    name: str
    group: str
    state: str
    id: str | None
    instance_type: str | None
    ip: str | None
    seconds: float
    polls: int
    hourly_rate: float | None
    error: str | None
    outcome: str
    tried: tuple[str, ...]
    def __init__(self, *, name: str, group: str, state: str, id: str | None = None, instance_type: str | None = None, ip: str | None = None, seconds: float = 0.0, polls: int = 0, hourly_rate: float | None = None, error: str | None = None, outcome: str = '', tried: tuple[str, ...] = ()) -> None: ...
class MemberState(StrEnum):
    WAITING = 'WAITING'
    CLEARING = 'CLEARING'
    CREATING = 'CREATING'
    RUNNING = 'RUNNING'
    FAILED = 'FAILED'
    DESTROYING = 'DESTROYING'
    DESTROYED = 'DESTROYED'
    ABSENT = 'ABSENT'
    @property
    def is_final(self) -> bool: ...
class Plan:
    fleet: str
    members: tuple[PlannedMember, ...]
    surplus: tuple[PlannedMember, ...]
    max_hourly_cost: float | None
    def __init__(self, fleet: str, members: tuple[PlannedMember, ...], surplus: tuple[PlannedMember, ...] = (), max_hourly_cost: float | None = None) -> None: ...
    @property
    def conflicts(self) -> tuple[PlannedMember, ...]: ...
    @property
    def hourly_cost_after(self) -> float | None: ...
    @property
    def hourly_cost_now(self) -> float | None: ...
    @property
    def to_create(self) -> tuple[PlannedMember, ...]: ...
class PlannedMember:
    name: str
    group: str
    action: Action
    instance_type: str | None
    num_nodes: int | None
    hourly_rate: float | None
    cluster: Cluster | None
    problem: str
    volume: StorageVolume | None
    def __init__(self, name: str, group: str, action: Action, instance_type: str | None, num_nodes: int | None, hourly_rate: float | None = None, cluster: Cluster | None = None, problem: str = '', volume: StorageVolume | None = None) -> None: ...
    @property
    def resource_id(self) -> str | None: ...
class VolumeGroup:
    name: str
    size_gb: int
    attach_to: tuple[str, ...]
    deletion_protection: bool
    def __init__(self, name: str, size_gb: int, *, attach_to: Sequence[str] = (), deletion_protection: bool = False) -> None: ...
def load(path: str | os.PathLike[str]) -> Fleet: ...
