"""What the emulator really did, whatever it answered."""

from collections import Counter

import attrs


@attrs.frozen
class Made:
    """One cluster or volume that was made, at `time` seconds after the start."""

    id: str
    name: str
    type: str
    time: float


@attrs.frozen
class FiredFault:
    """One fault that fired, at `time` seconds after the start."""

    kind: str
    method: str
    path: str
    time: float


# Timers may fire this many seconds early.
EARLY = 0.001


@attrs.define
class Record:
    """Counters and lists for tests. They are written when something happens, not when it is answered.

    Attributes:
        requests: HTTP requests and WebSockets that arrived.
        by_route: The same by "METHOD /route/{parameter}". A request without a route is "METHOD unknown".
        by_status: The same by status. 0 is a connection closed without an answer, 101 a WebSocket.
        in_flight: Requests being handled now.
        max_in_flight: The most that were handled at once.
        polls: Polls by request id.
        early_polls: Polls that came before the last Retry-After sent to a poll of that id was over. The Retry-After of
            a 429 or 503 counts too. An answer that was never sent does not count.
        faults: The faults that fired.
        clusters_made: Every cluster ever made.
        volumes_made: Every volume ever made.
        made_twice: Names that were made while another living cluster (or volume) had them.
        destroys_before_ready: Destroys that came while the creation was still running, refused ones included.
    """

    requests: int = 0
    by_route: Counter[str] = attrs.field(factory=Counter[str])
    by_status: Counter[int] = attrs.field(factory=Counter[int])
    in_flight: int = 0
    max_in_flight: int = 0
    polls: Counter[str] = attrs.field(factory=Counter[str])
    early_polls: int = 0
    faults: list[FiredFault] = attrs.field(factory=list[FiredFault])
    clusters_made: list[Made] = attrs.field(factory=list[Made])
    volumes_made: list[Made] = attrs.field(factory=list[Made])
    made_twice: list[str] = attrs.field(factory=list[str])
    destroys_before_ready: int = 0
    _clusters: dict[str, str] = attrs.field(factory=dict[str, str], init=False, repr=False)
    _volumes: dict[str, str] = attrs.field(factory=dict[str, str], init=False, repr=False)
    _names: Counter[tuple[str, str]] = attrs.field(factory=Counter[tuple[str, str]], init=False, repr=False)
    _not_before: dict[str, float] = attrs.field(factory=dict[str, float], init=False, repr=False)

    @property
    def living(self) -> list[str]:
        """Ids of the clusters that are not DESTROYED, oldest first. FAILED ones live."""
        return list(self._clusters)

    @property
    def living_volumes(self) -> list[str]:
        """Ids of the volumes that are not destroyed, oldest first."""
        return list(self._volumes)

    def arrived(self) -> None:
        """Count a request that begins."""
        self.requests += 1
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)

    def left(self) -> None:
        """Count a request that is over."""
        self.in_flight -= 1

    def polled(self, request_id: str, at: float) -> None:
        """Count a poll, and count it as early if it is."""
        self.polls[request_id] += 1
        if at < self._not_before.get(request_id, 0.0) - EARLY:
            self.early_polls += 1

    def retry_after_sent(self, request_id: str, until: float | None) -> None:
        """Note that an answer asks clients not to poll this request before `until`; None asks for nothing."""
        if until is None:
            self._not_before.pop(request_id, None)
        else:
            self._not_before[request_id] = until

    def cluster_made(self, made: Made) -> None:
        """Note a new cluster."""
        self.clusters_made.append(made)
        self._lives("cluster", self._clusters, made.id, made.name)

    def cluster_renamed(self, cluster_id: str, name: str) -> None:
        """Note the name that a cluster has from now on."""
        self._dies("cluster", self._clusters, cluster_id)
        self._lives("cluster", self._clusters, cluster_id, name)

    def cluster_gone(self, cluster_id: str) -> None:
        """Note that a cluster is destroyed."""
        self._dies("cluster", self._clusters, cluster_id)

    def volume_made(self, made: Made) -> None:
        """Note a new volume."""
        self.volumes_made.append(made)
        self._lives("volume", self._volumes, made.id, made.name)

    def volume_renamed(self, volume_id: str, name: str) -> None:
        """Note the name that a volume has from now on."""
        self._dies("volume", self._volumes, volume_id)
        self._lives("volume", self._volumes, volume_id, name)

    def volume_gone(self, volume_id: str) -> None:
        """Note that a volume is destroyed."""
        self._dies("volume", self._volumes, volume_id)

    def _lives(self, kind: str, living: dict[str, str], key: str, name: str) -> None:
        if self._names[kind, name]:
            self.made_twice.append(name)
        self._names[kind, name] += 1
        living[key] = name

    def _dies(self, kind: str, living: dict[str, str], key: str) -> None:
        self._names[kind, living.pop(key)] -= 1
