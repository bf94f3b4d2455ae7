"""The emulator as its users hold it: one object, one address, one `async with`."""

import asyncio
import socket
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Literal, Self

from aiohttp import web

from tensorpool_async.emulator.account import AccountEndpoints, AccountState, Billing, SavedKey
from tensorpool_async.emulator.clusters import Cluster, ClusterEndpoints, ClusterStore
from tensorpool_async.emulator.engine import Engine
from tensorpool_async.emulator.faults import Fault, Faults
from tensorpool_async.emulator.handler import RequestHandler
from tensorpool_async.emulator.job_sockets import JobSockets
from tensorpool_async.emulator.jobs import JobEndpoints, JobStore
from tensorpool_async.emulator.limits import RateLimit
from tensorpool_async.emulator.object_storage import BucketEndpoints, BucketStore
from tensorpool_async.emulator.record import Record
from tensorpool_async.emulator.requests import Request, RequestStore
from tensorpool_async.emulator.routes import Endpoints, SystemEndpoints
from tensorpool_async.emulator.volumes import Attachments, Volume, VolumeEndpoints, VolumeStore
from tensorpool_async.emulator.world import Clock, Duration, World


class Emulator:
    """A TensorPool engine on a socket of this machine, for one `async with`.

    All its state is in memory and ends with it. Durations are seconds, or a range from which each is drawn.

    Args:
        host: The address to listen on.
        port: 0 takes a free one.
        key: The API key that it accepts.
        speed: Divides the durations below and multiplies what is charged. Retry-After stays as it is.
        seed: Ids, drawn durations and the chances of faults follow from it.
        retry_after: Seconds told to pollers while a request is not terminal; decimals are sent as they are.
        retry_after_format: "date" sends an HTTP-date, rounded up.
        provision_seconds: From the creation of a cluster until it runs.
        destroy_seconds: The same for its end.
        edit_seconds: The same for an edit.
        storage_seconds: The same for a volume, to be created and to be destroyed.
        attach_seconds: The same for a volume to be attached or detached.
        job_seconds: From the upload of a pushed job until its end.
        cancel_seconds: From the cancel of a job until it is canceled.
        capacity: Nodes of an instance type that can live at once; types not named are unlimited.
        balance: US dollars of the account.
        rate_limit: Requests answered per second, the others get 429; None is no limit.
        rate_burst: Requests that may come at once after a pause; None is one second's worth.
        no_request_ids: Leave the request id out of every 202.
        organization: The name of the user's organization; None is a user without one.
        payment_method: Whether one is saved, which autopay needs.
        object_endpoint: The S3 server that object storage credentials are for.
        object_region: Its region.
        latency: Real seconds from each request to its answer.
        faults: The first `emulator.faults`.

    Attributes:
        faults: What is to go wrong; may be added to at any time.
        record: What was really done.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        key: str = "tp-emulator-key",
        speed: float = 1.0,
        seed: int = 0,
        retry_after: float = 1.0,
        retry_after_format: Literal["seconds", "date"] = "seconds",
        provision_seconds: Duration = (120.0, 360.0),
        destroy_seconds: Duration = 20.0,
        edit_seconds: Duration = 1.0,
        storage_seconds: Duration = 5.0,
        attach_seconds: Duration = 30.0,
        job_seconds: Duration = 20.0,
        cancel_seconds: Duration = 2.0,
        capacity: Mapping[str, int] | None = None,
        balance: float = 1_000_000.0,
        rate_limit: float | None = None,
        rate_burst: float | None = None,
        no_request_ids: bool = False,
        organization: str | None = "Emulated Research",
        payment_method: bool = True,
        object_endpoint: str = "https://objects.tensorpool.invalid",
        object_region: str = "auto",
        latency: float = 0.0,
        faults: Iterable[Fault] = (),
    ) -> None:
        world = World(
            key=key,
            speed=speed,
            seed=seed,
            latency=latency,
            retry_after_format=retry_after_format,
            no_request_ids=no_request_ids,
            provision_seconds=provision_seconds,
            destroy_seconds=destroy_seconds,
            edit_seconds=edit_seconds,
            storage_seconds=storage_seconds,
            attach_seconds=attach_seconds,
            job_seconds=job_seconds,
            cancel_seconds=cancel_seconds,
            organization=organization,
            payment_method=payment_method,
            object_endpoint=object_endpoint,
            object_region=object_region,
        )
        self.key = key
        self._host, self._port = host, port
        self._clock = clock = Clock(world)
        self.record: Record = Record()
        self.faults: Faults = Faults(clock, self.record, world.rng("faults"))
        self.faults.add(*faults)
        self._limit = RateLimit(rate_limit, rate_burst)
        self._requests = RequestStore(world, clock, retry_after)
        engine = Engine(world, clock, self.record, self._requests)
        self._account = AccountState(world, Billing(balance, clock))
        self._clusters = ClusterStore(engine, self._account, capacity)
        self._volumes = VolumeStore(engine, self._account.billing)
        self._clusters.watchers.append(self._volumes.cluster_changed)
        self._buckets = BucketStore(world, clock, self._account)
        self._jobs = JobStore(engine, self._clusters)
        self._sockets = JobSockets(engine, self._clusters, self._jobs)
        self._handler = RequestHandler(engine, self.faults, self._endpoints(engine), self._limit)
        self._runner: web.ServerRunner | None = None
        self._socket: socket.socket | None = None

    def _endpoints(self, engine: Engine) -> Endpoints:
        return Endpoints(
            system=SystemEndpoints(self._clusters),
            requests=self._requests,
            clusters=ClusterEndpoints(engine, self._account, self._clusters),
            volumes=VolumeEndpoints(
                engine, self._volumes, Attachments(engine, self._clusters, self._volumes)
            ),
            buckets=BucketEndpoints(self._buckets),
            jobs=JobEndpoints(self._jobs),
            sockets=self._sockets,
            account=AccountEndpoints(self._account),
        )

    @property
    def url(self) -> str:
        """The base URL, without a slash at its end."""
        if not self._handler.url:
            raise RuntimeError("the emulator has no address before it is entered")
        return self._handler.url

    @property
    def clusters(self) -> dict[str, Cluster]:
        """Every cluster by its id, as it is now; destroyed ones stay, as DESTROYED."""
        return self._clusters.registry.by_id

    @property
    def requests(self) -> dict[str, Request]:
        """Every request by its id."""
        return self._requests.by_id

    @property
    def volumes(self) -> dict[str, Volume]:
        """Every volume by its id, as it is now; destroyed ones stay, as DESTROYED."""
        return self._volumes.registry.by_id

    @property
    def jobs(self) -> JobStore:
        """Every job by its id, deleted ones too. `jobs.add(...)` scripts one."""
        return self._jobs

    @property
    def buckets(self) -> dict[str, dict[str, bytes]]:
        """The objects of each bucket; only whether there are any matters."""
        return self._buckets.buckets

    @property
    def ssh_keys(self) -> dict[str, SavedKey]:
        """The saved keys by their id."""
        return self._account.keys

    @property
    def push_commands(self) -> Sequence[str | None] | None:
        """What the next pushes ask their client to run; None is a harmless rsync. May be set."""
        return self._sockets.push_commands

    @push_commands.setter
    def push_commands(self, commands: Sequence[str | None] | None) -> None:
        self._sockets.push_commands = commands

    @property
    def capacity(self) -> dict[str, int]:
        """Nodes of an instance type that can live at once; may be changed at any time."""
        return self._clusters.capacity

    @property
    def balance(self) -> float:
        """US dollars left, now. May be set."""
        return self._account.billing.balance

    @balance.setter
    def balance(self, dollars: float) -> None:
        self._account.billing.balance = dollars

    @property
    def hourly_rate(self) -> float:
        """US dollars per emulated hour that are being spent."""
        return self._account.billing.hourly_rate

    @property
    def retry_after(self) -> float:
        """Seconds told to pollers. May be set."""
        return self._requests.retry_after.seconds

    @retry_after.setter
    def retry_after(self, seconds: float) -> None:
        self._requests.retry_after.seconds = seconds

    @property
    def rate_limit(self) -> float | None:
        """Requests answered per second. May be set."""
        return self._limit.rate

    @rate_limit.setter
    def rate_limit(self, rate: float | None) -> None:
        self._limit.rate = rate

    @property
    def rate_burst(self) -> float | None:
        """Requests that may come at once after a pause. May be set."""
        return self._limit.burst

    @rate_burst.setter
    def rate_burst(self, burst: float | None) -> None:
        self._limit.burst = burst

    async def __aenter__(self) -> Self:
        if self._runner is not None:
            raise RuntimeError("an emulator is entered once")
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        self._socket = socket.create_server((self._host, self._port), family=family)
        self._clock.start()
        server = web.Server(self._handler.handle, handler_cancellation=True, access_log=None)
        # What is still being handled at the end ends with the handler; this is for the rest.
        self._runner = web.ServerRunner(server, shutdown_timeout=0.05)
        await self._runner.setup()
        await web.SockSite(self._runner, self._socket, backlog=4096).start()
        host, port = self._socket.getsockname()[:2]
        self._handler.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clock.stop()
        self._handler.close()
        await self._accept_no_more()
        if self._runner is not None:
            await self._runner.cleanup()
        # Closed transports leave the loop one turn later.
        await asyncio.sleep(0)

    async def _accept_no_more(self) -> None:
        """A connection that is accepted in the turn in which the server closes breaks asyncio's server."""
        if self._socket is not None and self._socket.fileno() >= 0:
            with suppress(NotImplementedError):
                asyncio.get_running_loop().remove_reader(self._socket)
        await asyncio.sleep(0)
