class Cluster:
    id: object
    name: object
    instance_type: object
    num_nodes: object
    hourly_rate: object
    created: object
    created_at: object
    container: object
    deletion_protection: object
    public_keys: object
    status: object
    instances: object
    storage: object
    busy: object
    reserved_nodes: object
    def __init__(self, id: str, name: str, instance_type: str, num_nodes: int, hourly_rate: float, created: float, created_at: str, container: str | None = None, deletion_protection: bool = False, public_keys: tuple[str, ...] = (), status: tensorpool_async.emulator.clusters.ClusterStatus = ..., instances: list[tensorpool_async.emulator.clusters.Instance] = ..., storage: list[str] = ..., busy: tensorpool_async.emulator.requests.Request | None = None, reserved_nodes: int = 0) -> None: ...
    def as_json(self) -> dict[str, typing.Any]: ...
    @property
    def is_deleted(self) -> bool: ...
    def restarted(self) -> None: ...
    def turn(self, status: tensorpool_async.emulator.clusters.ClusterStatus) -> None: ...
class ClusterStatus(StrEnum):
    PENDING = 'PENDING'
    PROVISIONING = 'PROVISIONING'
    CONFIGURING = 'CONFIGURING'
    RUNNING = 'RUNNING'
    DESTROYING = 'DESTROYING'
    DESTROYED = 'DESTROYED'
    FAILED = 'FAILED'
class Emulator:
    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: traceback | None) -> None: ...
    def __init__(self, *, host: str = '127.0.0.1', port: int = 0, key: str = 'tp-emulator-key', speed: float = 1.0, seed: int = 0, retry_after: float = 1.0, retry_after_format: Literal['seconds', 'date'] = 'seconds', provision_seconds: float | tuple[float, float] = ..., destroy_seconds: float | tuple[float, float] = 20.0, edit_seconds: float | tuple[float, float] = 1.0, storage_seconds: float | tuple[float, float] = 5.0, attach_seconds: float | tuple[float, float] = 30.0, job_seconds: float | tuple[float, float] = 20.0, cancel_seconds: float | tuple[float, float] = 2.0, capacity: collections.abc.Mapping[str, int] | None = None, balance: float = 1000000.0, rate_limit: float | None = None, rate_burst: float | None = None, no_request_ids: bool = False, organization: str | None = 'Emulated Research', payment_method: bool = True, object_endpoint: str = 'https://objects.tensorpool.invalid', object_region: str = 'auto', latency: float = 0.0, faults: collections.abc.Iterable[tensorpool_async.emulator.faults.Fault] = ()) -> None: ...
    @property
    def balance(self) -> float: ...
    @property
    def buckets(self) -> dict[str, dict[str, bytes]]: ...
    @property
    def capacity(self) -> dict[str, int]: ...
    @property
    def clusters(self) -> dict[str, tensorpool_async.emulator.clusters.Cluster]: ...
    @property
    def hourly_rate(self) -> float: ...
    @property
    def jobs(self) -> tensorpool_async.emulator.jobs.JobStore: ...
    @property
    def push_commands(self) -> collections.abc.Sequence[str | None] | None: ...
    @property
    def rate_burst(self) -> float | None: ...
    @property
    def rate_limit(self) -> float | None: ...
    @property
    def requests(self) -> dict[str, tensorpool_async.emulator.requests.Request]: ...
    @property
    def retry_after(self) -> float: ...
    @property
    def ssh_keys(self) -> dict[str, tensorpool_async.emulator.account.SavedKey]: ...
    @property
    def url(self) -> str: ...
    @property
    def volumes(self) -> dict[str, tensorpool_async.emulator.volumes.Volume]: ...
class Fault:
    kind: object
    method: object
    path: object
    times: object
    probability: object
    after: object
    seconds: object
    def __init__(self, kind, method: str | None = None, path: str | None = None, times: int | None = 1, probability: float = 1.0, after: int = 0, seconds: float = 1.0) -> None: ...
    def matches(self, method: str, path: str) -> bool: ...
class FaultKind(StrEnum):
    DROP_BEFORE = 'DROP_BEFORE'
    STALL = 'STALL'
    HTML_502 = 'HTML_502'
    ERROR_500 = 'ERROR_500'
    RATE_LIMITED = 'RATE_LIMITED'
    UNAVAILABLE = 'UNAVAILABLE'
    NOT_FOUND = 'NOT_FOUND'
    DROP_AFTER = 'DROP_AFTER'
    HTML_502_AFTER = 'HTML_502_AFTER'
    CUT_JSON = 'CUT_JSON'
    CUT_BODY = 'CUT_BODY'
    NO_REQUEST_ID = 'NO_REQUEST_ID'
    LIST_LAG = 'LIST_LAG'
    RETRYING = 'RETRYING'
    NO_CAPACITY = 'NO_CAPACITY'
    FAILED = 'FAILED'
class FiredFault:
    kind: object
    method: object
    path: object
    time: object
    def __init__(self, kind: str, method: str, path: str, time: float) -> None: ...
class Instance:
    id: object
    name: object
    public: object
    status: object
    ip_address: object
    private_ip_address: object
    restarts: object
    def __init__(self, id: str, name: str, public: bool, status: tensorpool_async.emulator.clusters.ClusterStatus = ..., ip_address: str | None = None, private_ip_address: str | None = None, restarts: int = 0) -> None: ...
    def as_json(self) -> dict[str, typing.Any]: ...
class Job:
    id: object
    cluster_id: object
    instance_type: object
    created: object
    created_at: object
    commands: object
    lines: object
    files: object
    seconds: object
    final_status: object
    exit_code_at_end: object
    public_message: object
    obeys: object
    teardown: object
    links: object
    transfer: object
    results: object
    status: object
    exit_code: object
    started: object
    ended: object
    changed: object
    def __init__(self, id: str, cluster_id: str, instance_type: str, created: float, created_at: str, commands: collections.abc.Sequence[str] = (), lines: collections.abc.Sequence[str] = (), files: collections.abc.Mapping[str, bytes | pathlib.Path] = ..., seconds: float = 0.0, final_status: tensorpool_async.emulator.jobs.JobStatus = ..., exit_code_at_end: int | None = 0, public_message: str | None = None, obeys: bool = True, teardown: bool = False, links: collections.abc.Mapping[str, str | None] | None = None, transfer: str | None = None, results: list[collections.abc.Mapping[str, typing.Any]] = ..., status: tensorpool_async.emulator.jobs.JobStatus = ..., exit_code: int | None = None, started: float | None = None, ended: float | None = None, changed: asyncio.locks.Event = ...) -> None: ...
    def as_json(self) -> dict[str, typing.Any]: ...
    @property
    def done(self) -> bool: ...
    def printed(self, now: float) -> int: ...
    def turn(self, status: tensorpool_async.emulator.jobs.JobStatus) -> None: ...
    def until_next(self, printed: int, now: float) -> float | None: ...
class JobStatus(StrEnum):
    PENDING = 'pending'
    RUNNING = 'running'
    COMPLETED = 'completed'
    ERROR = 'error'
    FAILED = 'failed'
    CANCELING = 'canceling'
    CANCELED = 'canceled'
class Made:
    id: object
    name: object
    type: object
    time: object
    def __init__(self, id: str, name: str, type: str, time: float) -> None: ...
PRICES: mappingproxy
class Record:
    requests: object
    by_route: object
    by_status: object
    in_flight: object
    max_in_flight: object
    polls: object
    early_polls: object
    faults: object
    clusters_made: object
    volumes_made: object
    made_twice: object
    destroys_before_ready: object
    def __init__(self, requests: int = 0, by_route: collections.Counter[str] = ..., by_status: collections.Counter[int] = ..., in_flight: int = 0, max_in_flight: int = 0, polls: collections.Counter[str] = ..., early_polls: int = 0, faults: list[tensorpool_async.emulator.record.FiredFault] = ..., clusters_made: list[tensorpool_async.emulator.record.Made] = ..., volumes_made: list[tensorpool_async.emulator.record.Made] = ..., made_twice: list[str] = ..., destroys_before_ready: int = 0) -> None: ...
    def arrived(self) -> None: ...
    def cluster_gone(self, cluster_id: str) -> None: ...
    def cluster_made(self, made: tensorpool_async.emulator.record.Made) -> None: ...
    def cluster_renamed(self, cluster_id: str, name: str) -> None: ...
    def left(self) -> None: ...
    @property
    def living(self) -> list[str]: ...
    @property
    def living_volumes(self) -> list[str]: ...
    def polled(self, request_id: str, at: float) -> None: ...
    def retry_after_sent(self, request_id: str, until: float | None) -> None: ...
    def volume_gone(self, volume_id: str) -> None: ...
    def volume_made(self, made: tensorpool_async.emulator.record.Made) -> None: ...
    def volume_renamed(self, volume_id: str, name: str) -> None: ...
class Request:
    id: object
    kind: object
    object_id: object
    created: object
    created_at: object
    status: object
    message: object
    def __init__(self, id: str, kind: tensorpool_async.emulator.requests.RequestKind, object_id: str, created: float, created_at: str, status: tensorpool_async.emulator.requests.RequestStatus = ..., message: str = 'Queued') -> None: ...
    def as_json(self) -> dict[str, typing.Any]: ...
    @property
    def done(self) -> bool: ...
class RequestKind(StrEnum):
    CLUSTER_CLAIM = 'CLUSTER_CLAIM'
    CLUSTER_RELEASE = 'CLUSTER_RELEASE'
    CLUSTER_EDIT = 'CLUSTER_EDIT'
    STORAGE_CREATE = 'STORAGE_CREATE'
    STORAGE_DESTROY = 'STORAGE_DESTROY'
    STORAGE_ATTACH = 'STORAGE_ATTACH'
    STORAGE_DETACH = 'STORAGE_DETACH'
    STORAGE_EDIT = 'STORAGE_EDIT'
class RequestStatus(StrEnum):
    PENDING = 'PENDING'
    PROCESSING = 'PROCESSING'
    RETRYING = 'RETRYING'
    COMPLETED = 'COMPLETED'
    FAILED = 'FAILED'
class Volume:
    id: object
    name: object
    size_gb: object
    hourly_rate: object
    created: object
    created_at: object
    deletion_protection: object
    status: object
    attached_clusters: object
    busy: object
    def __init__(self, id: str, name: str, size_gb: int, hourly_rate: float, created: float, created_at: str, deletion_protection: bool = False, status: tensorpool_async.emulator.volumes.VolumeStatus = ..., attached_clusters: list[str] = ..., busy: tensorpool_async.emulator.requests.Request | None = None) -> None: ...
    def as_json(self) -> dict[str, typing.Any]: ...
    @property
    def is_deleted(self) -> bool: ...
class VolumeStatus(StrEnum):
    PENDING = 'PENDING'
    READY = 'READY'
    DESTROYING = 'DESTROYING'
    DESTROYED = 'DESTROYED'
    FAILED = 'FAILED'
def endpoints() -> set[tuple[str, str]]: ...
