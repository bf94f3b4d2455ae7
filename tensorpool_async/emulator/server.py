"""The emulator as its users hold it: one object, one address, one `async with`."""

import asyncio
import random
import socket
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Literal, Self

from aiohttp import web

from tensorpool_async.emulator.account import Account, SavedKey
from tensorpool_async.emulator.attachments import Attachments
from tensorpool_async.emulator.clock import Clock, Duration
from tensorpool_async.emulator.cluster import Cluster
from tensorpool_async.emulator.clusters import Clusters, Durations
from tensorpool_async.emulator.engine import Engine
from tensorpool_async.emulator.faults import Fault, Faults
from tensorpool_async.emulator.gate import Gate
from tensorpool_async.emulator.jobs import Jobs
from tensorpool_async.emulator.ledger import Ledger
from tensorpool_async.emulator.object_storage import ObjectStorage
from tensorpool_async.emulator.pace import RateLimit, RetryAfter
from tensorpool_async.emulator.record import Record
from tensorpool_async.emulator.requests import Request, Requests
from tensorpool_async.emulator.volume import Volume
from tensorpool_async.emulator.volumes import Volumes


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
        def rng(purpose: str) -> random.Random:
            return random.Random(f"{seed} {purpose}")

        clock = Clock(speed, rng("durations"))
        self.record: Record = Record()
        record = self.record
        self.faults: Faults = Faults(clock, record, rng("faults"))
        self.faults.add(*faults)
        self.key = key
        self._host, self._port = host, port
        ledger = Ledger(balance, clock)
        requests = Requests(clock, rng("requests"))
        durations = Durations(provision_seconds, destroy_seconds, edit_seconds)
        clusters = Clusters(
            clock=clock,
            record=record,
            ledger=ledger,
            requests=requests,
            durations=durations,
            capacity=capacity,
            rng=rng("clusters"),
        )
        volumes = Volumes(
            clock=clock,
            record=record,
            ledger=ledger,
            requests=requests,
            seconds=storage_seconds,
            edit_seconds=edit_seconds,
            rng=rng("volumes"),
        )
        clusters.watchers.append(volumes.cluster_changed)
        account = Account(organization, payment_method=payment_method, rng=rng("account"))
        self._engine = Engine(
            clock=clock,
            record=record,
            faults=self.faults,
            ledger=ledger,
            requests=requests,
            clusters=clusters,
            volumes=volumes,
            attachments=Attachments(clock, requests, clusters, volumes, attach_seconds),
            account=account,
            object_storage=ObjectStorage(account, clock, object_endpoint, object_region, rng("objects")),
            jobs=Jobs(
                clock=clock,
                clusters=clusters,
                seconds=job_seconds,
                cancel_seconds=cancel_seconds,
                rng=rng("jobs"),
            ),
            retry_after=RetryAfter(retry_after, retry_after_format, clock),
            no_request_ids=no_request_ids,
        )
        self._gate = Gate(self._engine, key, RateLimit(rate_limit, rate_burst), latency)
        self._runner: web.ServerRunner | None = None
        self._socket: socket.socket | None = None

    @property
    def url(self) -> str:
        """The base URL, without a slash at its end."""
        if not self._gate.url:
            raise RuntimeError("the emulator has no address before it is entered")
        return self._gate.url

    @property
    def clusters(self) -> dict[str, Cluster]:
        """Every cluster by its id, as it is now; destroyed ones stay, as DESTROYED."""
        return self._engine.clusters.by_id

    @property
    def requests(self) -> dict[str, Request]:
        """Every request by its id."""
        return self._engine.requests.by_id

    @property
    def volumes(self) -> dict[str, Volume]:
        """Every volume by its id, as it is now; destroyed ones stay, as DESTROYED."""
        return self._engine.volumes.by_id

    @property
    def jobs(self) -> Jobs:
        """Every job by its id, deleted ones too. `jobs.add(...)` scripts one."""
        return self._engine.jobs

    @property
    def buckets(self) -> dict[str, dict[str, bytes]]:
        """The objects of each bucket; only whether there are any matters."""
        return self._engine.object_storage.buckets

    @property
    def ssh_keys(self) -> dict[str, SavedKey]:
        """The saved keys by their id."""
        return self._engine.account.keys

    @property
    def push_commands(self) -> Sequence[str | None] | None:
        """What the next pushes ask their client to run; None is a harmless rsync. May be set."""
        return self._engine.push_commands

    @push_commands.setter
    def push_commands(self, commands: Sequence[str | None] | None) -> None:
        self._engine.push_commands = commands

    @property
    def capacity(self) -> dict[str, int]:
        """Nodes of an instance type that can live at once; may be changed at any time."""
        return self._engine.clusters.capacity

    @property
    def balance(self) -> float:
        """US dollars left, now. May be set."""
        return self._engine.ledger.balance

    @balance.setter
    def balance(self, dollars: float) -> None:
        self._engine.ledger.balance = dollars

    @property
    def hourly_rate(self) -> float:
        """US dollars per emulated hour that are being spent."""
        return self._engine.ledger.hourly_rate

    @property
    def retry_after(self) -> float:
        """Seconds told to pollers. May be set."""
        return self._engine.retry_after.seconds

    @retry_after.setter
    def retry_after(self, seconds: float) -> None:
        self._engine.retry_after.seconds = seconds

    @property
    def rate_limit(self) -> float | None:
        """Requests answered per second. May be set."""
        return self._gate.limit.rate

    @rate_limit.setter
    def rate_limit(self, rate: float | None) -> None:
        self._gate.limit.rate = rate

    @property
    def rate_burst(self) -> float | None:
        """Requests that may come at once after a pause. May be set."""
        return self._gate.limit.burst

    @rate_burst.setter
    def rate_burst(self, burst: float | None) -> None:
        self._gate.limit.burst = burst

    async def __aenter__(self) -> Self:
        if self._runner is not None:
            raise RuntimeError("an emulator is entered once")
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        self._socket = socket.create_server((self._host, self._port), family=family)
        self._engine.clock.start()
        server = web.Server(self._gate.handle, handler_cancellation=True, access_log=None)
        # What is still being handled at the end is woken up by the gate; this is for what is not.
        self._runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.SockSite(self._runner, self._socket, backlog=4096).start()
        host, port = self._socket.getsockname()[:2]
        self._gate.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._engine.clock.stop()
        self._gate.close()
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
