"""The only place where a REST request is sent.

One HTTP attempt holds one slot of the limiter, from before it is sent until its body is read. Between attempts nothing
is held. What a failure means, and whether the request is sent again, is decided by tables in `protocol/`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
import time
import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from ssl import SSLContext
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict, TypeVar, cast
from urllib.request import getproxies

import aiohttp
import attrs
from multidict import CIMultiDict
from yarl import URL

from tensorpool_async.config import Proxy, Timeouts, proxy_from_environment
from tensorpool_async.errors import (
    AmbiguousOutcomeError,
    ConnectionFailed,
    RequestTimeout,
    TensorPoolError,
    WrongEventLoopError,
)
from tensorpool_async.events import Dispatcher
from tensorpool_async.events.instrumentation import AttemptRecorder, Instrumentation
from tensorpool_async.flow.budget import RetryBudget
from tensorpool_async.flow.deadlines import Deadlines
from tensorpool_async.flow.limiter import Limiter
from tensorpool_async.protocol.downloads import MOST_REDIRECTS, REDIRECTS, redirected
from tensorpool_async.protocol.encodings import ACCEPTED
from tensorpool_async.protocol.rate_limits import Limits, limits_of
from tensorpool_async.protocol.requests import Lane, Request
from tensorpool_async.protocol.responses import Response, answer_of, error_of, printable
from tensorpool_async.protocol.retries import (
    NO_ATTEMPTS,
    AttemptHistory,
    Failure,
    RetryDecision,
    RetryPolicy,
    backoff,
    classify,
    decide,
    is_gone,
)
from tensorpool_async.protocol.retry_after import clock_offset
from tensorpool_async.secrets import MaskedHeader, Secret
from tensorpool_async.texts import logger_of
from tensorpool_async.transport.bodies import LARGEST, LARGEST_ERROR, LARGEST_SMALL, BodyReader, too_large_for
from tensorpool_async.version import VERSION


if TYPE_CHECKING:
    from aiohttp.connector import Connection


T = TypeVar("T")

NO_ANSWER = "the engine did not answer in time"

READ_SIZE = 64 * 1024
"""Bytes that a connection reads at a time."""

SLOWEST = 32 * 1024
"""Bytes per second. An answer that takes longer than `Timeouts.read` must come at least this fast on average."""

LONGEST_DRIP = 8.0
"""Seconds. What has begun to come, and is not there at once, must come that fast from then on: it holds a slot."""

SLOWEST_DOWNLOAD = 1024
"""Bytes per second, for what comes from an object store: no request waits for its slot."""

_LOGIN = re.compile(r"//[^/@\s]*@")
"""A user name and password in an address, such as that of a proxy."""

logger: logging.Logger = logger_of("tensorpool_async")


class _Lost(aiohttp.ClientError):
    """Carries a failure of a request that had left past aiohttp, which would send the request again by itself."""


class _Leaving:
    """Middleware of one request in a session of the caller's: it notes whether the request has left.

    What the caller's session does with an answer, such as telling a trace of it, may fail as well.
    """

    __slots__ = ("_direct", "left")

    def __init__(self, *, direct: bool) -> None:
        self._direct = direct
        self.left = False

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        request.response_class = _OnceOnlyResponse
        if self._direct:
            request.update_proxy(None, None, None)
        elif request.proxy is not None:
            # aiohttp tells a proxy the session's own headers, and its Authorization as the password of the proxy.
            recorded = CIMultiDict(request.proxy_headers or {})
            recorded.popall("Authorization", None)
            request.update_proxy(request.proxy, request.proxy_auth, recorded)
        try:
            answer = await handler(request)
        except _Lost:
            self.left = True
            raise
        self.left = True
        return answer


async def _refuse_redirects(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    # A handshake that is redirected would tell its first message, which is the key, to whoever it is sent to.
    answer = await handler(request)
    if 300 <= answer.status < 400:
        answer.close()
        raise aiohttp.WSServerHandshakeError(
            answer.request_info, (), status=answer.status, message="redirected", headers=answer.headers
        )
    return answer


def _read_less_at_a_time(connection: Connection) -> None:
    """Have the reads of a plain connection ask for no more memory than an allocator has at hand.

    asyncio asks for 256 KiB for each, also for an answer of 300 bytes. Where the heap of a process happens to have no such
    hole, glibc maps each anew and unmaps it again, for a fifth of what a poll costs. Connections over TLS, and event
    loops with buffers of their own, know no such number.
    """
    transport: Any = connection.transport
    if getattr(transport, "max_size", 0) > READ_SIZE:
        with suppress(AttributeError):  # where it cannot be set, it is no harm either
            transport.max_size = READ_SIZE


class _OnceOnlyResponse(aiohttp.ClientResponse):
    """Tells failures from after a request had left from those before: it is started once the request is written.

    aiohttp repeats an idempotent request whose reused connection broke. There is one layer of retries here, and it must
    know of each attempt: a DELETE that was carried out and is repeated unseen ends as a 404. The time of an answer begins
    here as well, where there is a connection: what making that took is bounded by `Timeouts.connect`.
    """

    deadlines: ClassVar[Deadlines | None] = None

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        lost: Exception
        _read_less_at_a_time(connection)
        if self.deadlines is not None:
            self.deadlines.begin()
        try:
            return await super().start(connection)
        except Exception as error:  # noqa: BLE001 - whatever it is, the engine may have the request
            lost = error
        raise _Lost from lost

    def __repr__(self) -> str:
        return f"<answer {self.status}>"  # and not its headers, which may quote the key


@attrs.define
class Counters:
    """What a transport has done so far.

    Attributes:
        requests: HTTP attempts.
        retries: Attempts that repeated a request.
        rate_limited: Answers that asked to wait: 429, or 503 with Retry-After.
        polls: Attempts that polled an operation.
    """

    requests: int = 0
    retries: int = 0
    rate_limited: int = 0
    polls: int = 0


Exchange = Callable[[aiohttp.ClientSession, Request[Any]], Awaitable[Response]]


class ConnectionOptions(TypedDict, total=False):
    """What aiohttp takes for one connection."""

    ssl: SSLContext | bool | aiohttp.Fingerprint
    proxy: URL
    proxy_headers: CIMultiDict[str]


class RequestOptions(ConnectionOptions, total=False):
    """What aiohttp takes for each request to the engine, made once for all of them: what its session does not say."""

    headers: CIMultiDict[str]
    timeout: aiohttp.ClientTimeout
    allow_redirects: bool
    raise_for_status: bool
    auto_decompress: bool
    middlewares: tuple[aiohttp.ClientMiddlewareType, ...]


class Download:
    """A download that has begun."""

    def __init__(
        self,
        answer: aiohttp.ClientResponse,
        failure: Callable[[Exception], ConnectionFailed],
        seconds: float,
    ) -> None:
        """Read it, giving its first bytes `seconds`."""
        self._answer = answer
        self._failure = failure
        self._seconds_left = seconds
        self.status: int = answer.status
        self.headers: Mapping[str, str] = answer.headers

    async def chunks(self) -> AsyncGenerator[bytes]:
        """Iterate over what comes, as it is stored: nothing is decompressed.

        Raises:
            ConnectionFailed: The connection was lost on the way, or it comes too slowly. What the caller does in between
                is not counted.
        """
        clock = asyncio.get_running_loop().time
        while True:
            chunk: bytes | ConnectionFailed
            began = clock()
            try:
                async with asyncio.timeout(self._seconds_left):
                    chunk = await self._answer.content.readany()
            except (aiohttp.ClientError, OSError, ValueError) as error:
                chunk = self._failure(error)
            if isinstance(chunk, ConnectionFailed):
                raise chunk
            if not chunk:
                return
            self._seconds_left += len(chunk) / SLOWEST_DOWNLOAD - (clock() - began)
            yield chunk


class Transport:
    """Sends requests for one client, over one session that is opened when it is first needed."""

    def __init__(
        self,
        *,
        key: Secret,
        base_url: str,
        limiter: Limiter,
        retry: RetryPolicy,
        timeouts: Timeouts,
        session: aiohttp.ClientSession | None,
        ssl: SSLContext | bool | aiohttp.Fingerprint,
        proxy: Proxy | None,
        trust_env: bool,
        events: Dispatcher | None = None,
        max_response_bytes: int = LARGEST,
    ) -> None:
        self.base_url = base_url
        self.key: Secret = key
        self.limiter = limiter
        self.instrumentation: Instrumentation = Instrumentation(
            events or Dispatcher(), key=key, engine=base_url
        )
        self.counters: Counters = Counters()
        self.random: random.Random = random.Random()  # noqa: S311 - it spreads requests over time, and keeps no secret
        self._retry = retry
        self._budget = RetryBudget()
        self.timeouts: Timeouts = timeouts
        self._largest = max_response_bytes
        # `connect` bounds all that it takes to have a connection, and costs nothing where there is one already. One
        # deadline for a whole answer costs less than a timer for each of its pieces. In a session of the caller's, it
        # cannot be told where an answer's time begins, so there it is for both.
        own = session is None
        self._timeout = aiohttp.ClientTimeout(
            total=None,
            connect=timeouts.connect,
            sock_connect=timeouts.connect,
            sock_read=None if own else timeouts.read,
        )
        self._deadlines = Deadlines(timeouts.read if own else timeouts.connect + timeouts.read)
        self._ssl = ssl
        self._proxy = proxy
        self._trust_env = trust_env
        self._foreign_session = session
        self._session: aiohttp.ClientSession | None = None
        self._keyless_session: aiohttp.ClientSession | None = None
        self._url = URL(base_url)
        self._path = self._url.raw_path.rstrip("/")
        self._options: RequestOptions | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._last: Response | None = None
        self._instrumented = self.instrumentation.listened_to

    @property
    def closed(self) -> bool:
        """Whether the client was closed."""
        return self._closed

    @property
    def retry(self) -> RetryPolicy:
        """How often and how soon a request is sent again."""
        return self._retry

    async def connection_options(self, url: str) -> tuple[ConnectionOptions, CIMultiDict[str]]:
        """Return what a connection for this address is made with, and the headers that its requests need for that.

        Raises:
            ConfigurationError: The environment names a proxy that cannot be used.
        """
        address, proxy = URL(url), self._proxy
        # A session that trusts the environment looks for proxies and for passwords in files before each request, in a
        # thread. The engine is always the same, so that here it is asked for once.
        if proxy is None and self._asks_environment() and getproxies():
            proxy = await asyncio.to_thread(proxy_from_environment, address)
        options: ConnectionOptions = {} if self._ssl is True else {"ssl": self._ssl}
        if proxy is None:
            return options, CIMultiDict()
        options["proxy"] = proxy.url
        if address.scheme == "http":  # the proxy reads the request itself
            return options, proxy.headers
        options["proxy_headers"] = proxy.headers
        return options, CIMultiDict()

    def _asks_environment(self) -> bool:
        session = self._foreign_session
        if session is None:
            return self._trust_env
        return session.trust_env and _proxy_of(session) is None

    def socket_url(self, path: str) -> URL:
        """Return the address of a WebSocket at the engine."""
        scheme = "wss" if self._url.scheme == "https" else "ws"
        return self._url.with_scheme(scheme).with_path(self._path + path, encoded=True)

    @property
    def callers_headers(self) -> Mapping[str, str]:
        """The headers that a session of the caller's sends with each request to the engine."""
        return {} if self._foreign_session is None else self._foreign_session.headers

    def now(self) -> float:
        """Return the time by this machine's clock, in seconds since the epoch."""
        return time.time()

    def engine_time(self, local_time: float) -> float:
        """Return what the engine's clock showed at a time of this machine's, as its last answer's `Date` tells."""
        if self._last is None:
            return local_time
        return local_time + clock_offset(self._last.headers.get("Date"), self._last.received_at)

    async def send(self, request: Request[T], exchange: Exchange | None = None) -> T:
        """Send a request as often as the retry table allows, and return its decoded answer.

        Args:
            request: What to send.
            exchange: As for `attempt`.

        Raises:
            StatusError: The engine refused it.
            ConnectionFailed: The engine gave no answer.
            DecodeError: Its answer cannot be read.
            AmbiguousOutcomeError: It changes something, and whether it did is not known.
        """
        history = NO_ATTEMPTS
        while True:
            try:
                response = await self.attempt(
                    request, exchange, number=history.failed + history.rate_limited + 1
                )
                answer = answer_of(
                    response, method=request.method, path=request.path, any_body=request.any_body
                )
                result = request.decode(answer)
            except TensorPoolError as caught:
                error = caught
                self.key.mask_error(error)  # also where what was asked for holds it
            else:
                self._budget.succeeded()
                return result
            if request.on_already_deleted is not None and is_gone(error, history):
                return request.on_already_deleted()
            history = await self._after(error, request, history)

    async def attempt(
        self, request: Request[Any], exchange: Exchange | None = None, *, number: int = 1
    ) -> Response:
        """Send a request once, in its turn, and return whatever the engine answers.

        Args:
            request: What to send.
            exchange: What sends it and reads its answer while the slot is held, where that is no plain request.
            number: Which attempt of the request this is.

        Raises:
            ConnectionFailed: The engine gave no answer.
        """
        session = self._session
        if session is None or asyncio.get_running_loop() is not self._loop:
            session = self._open()
        options = self._options or await self._make_options()
        granted_at = await self.limiter.acquire(request.lane)
        recorded: AttemptRecorder | None = None
        try:
            if request.leaving is not None:
                request.leaving()
            if request.stats is not None:
                request.stats.record_send(granted_at, time.time())
            if self._instrumented or logger.isEnabledFor(logging.DEBUG):
                recorded = self.instrumentation.sent(request, number)
            if exchange is None:
                response = await self._exchange(session, request, options)
            else:
                response = await exchange(self._open_keyless(self._open()), request)
        except BaseException as error:
            self.limiter.release(granted_at)
            if recorded is not None:
                recorded.failed(error)
            raise
        pause, limits = self._pause_of(response), self._limits_of(response)
        self.limiter.release(granted_at, retry_after=pause, ok=response.ok, limits=limits)
        if recorded is not None:
            recorded.answered(response)
        if pause is not None or limits is not None:
            self.instrumentation.paused(pause, limits, asked=response.retry_after)
        return response

    @asynccontextmanager
    async def download(self, address: str, headers: Mapping[str, str]) -> AsyncGenerator[Download]:
        """Download from a presigned address: the same connections, without the key, and without a slot of the engine's.

        The address is sent as it stands. Redirects are followed to http(s) addresses, and never from https to http.

        Args:
            address: The address, which `check_address` has seen.
            headers: What asks for a part of the file; empty for all of it.

        Raises:
            StatusError: The server refused it.
            ConnectionFailed: No connection was made, or it was lost, or a redirect leads nowhere.
        """
        for _ in range(MOST_REDIRECTS + 1):
            async with await self._ask_for(address, headers) as answer:
                if answer.status not in REDIRECTS:
                    await self._check_download(answer, address, headers)
                    failure = partial(self._download_failure, left=True)
                    yield Download(answer, failure, self.timeouts.read)
                    return
                address = redirected(address, answer.headers.get("Location"))
        raise ConnectionFailed(
            f"the download was redirected more than {MOST_REDIRECTS} times", permanent=True
        )

    async def _check_download(
        self, answer: aiohttp.ClientResponse, address: str, headers: Mapping[str, str]
    ) -> None:
        if answer.status in {200, 206} or (answer.status == 416 and headers):
            return
        path = address.partition("?")[0]  # what follows is the signature: a secret
        raise error_of(await self._refusal_of(answer), method="GET", path=path)

    def _download_failure(self, error: Exception, *, left: bool = False) -> ConnectionFailed:
        """As `failure`, for an address that is a secret: what aiohttp says of it may hold all of it."""
        if isinstance(error, _Lost) and isinstance(error.__cause__, Exception):
            error, left = error.__cause__, True
        if isinstance(error, (aiohttp.ClientResponseError, aiohttp.InvalidURL)) or not isinstance(
            error, (aiohttp.ClientError, OSError)
        ):
            return ConnectionFailed(f"the download failed: {type(error).__name__}")
        return self.failure(error, left=left)

    async def _ask_for(self, address: str, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        session = self._open_keyless(self._open())
        options, needed = await self.connection_options(address)
        lost: ConnectionFailed
        try:
            async with asyncio.timeout(self.timeouts.connect + self.timeouts.read):
                return await session.get(
                    URL(address, encoded=True),
                    headers=CIMultiDict({**needed, "Accept-Encoding": "identity", **headers}),
                    timeout=self._timeout,
                    allow_redirects=False,
                    auto_decompress=False,
                    middlewares=(),
                    **options,
                )
        except (aiohttp.ClientError, OSError, ValueError) as error:
            lost = self._download_failure(error)
        raise lost

    def received(
        self,
        answer: aiohttp.ClientResponse | aiohttp.WSServerHandshakeError,
        body: bytes,
        *,
        problem: str | None = None,
        too_large: bool = False,
    ) -> Response:
        """Take in what came, without the key: an engine may quote it, also in the sentence of a FAILED."""
        key, headers = self.key, answer.headers
        shown: Mapping[str, str] = {} if headers is None else key.mask_headers(headers)
        return Response(answer.status, shown, key.mask(body), time.time(), problem, too_large)

    def failure(self, error: Exception, *, left: bool = False) -> ConnectionFailed:
        """Say what a failure of the connection means, without holding on to it."""
        if isinstance(error, _Lost) and isinstance(error.__cause__, Exception):
            error, left = error.__cause__, True
        text = _LOGIN.sub("//", self.instrumentation.clean(printable(str(error))))
        return connection_failed(
            error, f"{type(error).__name__}: {text}" if text else type(error).__name__, left=left
        )

    async def aclose(self) -> None:
        """Close the session, if it is this transport's own."""
        self._closed = True
        self._deadlines.close()
        session, self._session = self._session, None
        keyless, self._keyless_session = self._keyless_session, None
        if keyless is not None:
            await keyless.close()
        if session is not None and session is not self._foreign_session:
            await session.close()

    async def _after(
        self, error: TensorPoolError, request: Request[Any], history: AttemptHistory
    ) -> AttemptHistory:
        """Wait as long as the failure asks for, or raise what it means."""
        if history.uncertain and isinstance(error, ConnectionFailed):
            error.sent = True  # if not by this attempt, then by one before
        decision = decide(error, "GET" if request.safe else request.method, history, self._retry)
        failure = classify(error)
        if request.stats is not None and failure in {Failure.NO_ANSWER, Failure.TOO_LARGE}:
            request.stats.lost = True
        if decision is RetryDecision.RAISE or (
            decision is RetryDecision.RECONCILE and isinstance(error, AmbiguousOutcomeError)
        ):
            raise error
        if decision is RetryDecision.RECONCILE:
            ambiguous = _ambiguous(error, request)
            self.key.mask_error(ambiguous)
            raise ambiguous from error
        history = history.after(failure)
        delay = 0.0
        if decision is RetryDecision.AGAIN:
            if not self._budget.pay(asyncio.get_running_loop().time()):
                raise error
            delay = backoff(self._retry, history.failed, self.random.random())
        self.instrumentation.retried(request, error, history.failed + history.rate_limited + 1, delay)
        if decision is RetryDecision.AGAIN:
            await asyncio.sleep(delay)
        self.counters.retries += 1
        return history

    async def _exchange(  # noqa: C901 - in one frame: this is what tens of thousands of polls cost
        self, session: aiohttp.ClientSession, request: Request[Any], options: RequestOptions
    ) -> Response:
        counters = self.counters
        counters.requests += 1
        if request.lane is Lane.POLL:
            counters.polls += 1
        data = None if request.json is None else json.dumps(request.json).encode()
        leaving: _Leaving | None = None
        if self._foreign_session is not None:
            # Where the environment was asked already, aiohttp is not to ask it again: it knows of no loopback.
            leaving = _Leaving(direct="proxy" not in options and self._asks_environment())
            options = {**options, "middlewares": (leaving,)}
        answer: aiohttp.ClientResponse | None = None
        # In a session of one's own, the time begins with the answer; see `_OnceOnlyResponse`.
        task = asyncio.current_task() if self._foreign_session is None else self._deadlines.begin()
        lost: ConnectionFailed
        try:
            answer = await session.request(
                request.method,
                self._url.with_path(self._path + request.path, encoded=True),
                params=request.query or None,
                data=data,
                **options,
            )
            content = answer.content
            if (
                content.is_eof() and "Content-Encoding" not in answer.headers
            ):  # as most that come in one piece
                body, problem, too_large = content.read_nowait(), None, False
                if len(body) > self._largest:
                    body, problem, too_large = b"", too_large_for(self._largest), True
            else:
                body, problem, too_large = await self._read(answer, request.lane, task)
        except asyncio.CancelledError as error:
            answer = None
            if not self._deadlines.expired(task):
                if request.stats is not None and self._deadlines.counts(task):
                    request.stats.lost = True
                raise error.with_traceback(None)  # noqa: B904 - the same error, without aiohttp's frames: they hold the key
            lost = RequestTimeout(NO_ANSWER)
        except Exception as error:  # noqa: BLE001 - a session of the caller's may raise anything; it is told what it means
            lost = self.failure(error, left=answer is not None or (leaving is not None and leaving.left))
        else:
            self._last = response = self.received(answer, body, problem=problem, too_large=too_large)
            return response
        finally:
            if task is not None:
                self._deadlines.end(task)
        # Raised here, outside of the handler: aiohttp's errors hold the request's headers, and with them the key.
        del answer  # a caller's own class of answers may show what the engine quotes
        raise lost

    async def _read(
        self, answer: aiohttp.ClientResponse, lane: Lane, task: asyncio.Task[Any] | None
    ) -> tuple[bytes, str | None, bool]:
        """Read what has not come in one piece; of a refusal whose body breaks off, what there is."""
        limit = LARGEST_ERROR if not answer.ok else self._largest if lane is Lane.READ else LARGEST_SMALL
        reader = BodyReader(answer.headers, min(limit, self._largest))
        try:
            whole = await reader.read(answer.content, partial(self._comes, task, answer.content))
        except BaseException as error:
            answer.close()
            late = self._deadlines.expired(task)
            if answer.ok or not (late or isinstance(error, aiohttp.ClientError | OSError)):
                if late:
                    raise TimeoutError from None
                raise
        else:
            if not whole:
                answer.close()
        return reader.body(ok=answer.ok)

    def _comes(self, task: asyncio.Task[Any] | None, content: aiohttp.StreamReader, size: int) -> None:
        """Count what has come of an answer in its favour; what goes on coming has less time than what has not begun."""
        if task is None or content.is_eof():
            return
        if not self._deadlines.is_changed(task):
            self._deadlines.shorten(task, LONGEST_DRIP)
        self._deadlines.extend(task, size / SLOWEST)

    async def _refusal_of(self, answer: aiohttp.ClientResponse) -> Response:
        reader = BodyReader(answer.headers, LARGEST_ERROR)
        with suppress(aiohttp.ClientError, OSError, ValueError):  # whatever there is of it will do
            async with asyncio.timeout(self.timeouts.read):
                await reader.read(answer.content, partial(self._comes, None, answer.content))
        answer.close()
        return self.received(answer, reader.body(ok=False)[0])

    def _pause_of(self, response: Response) -> float | None:
        """Return how long everybody is to wait, None where nobody is."""
        if response.status != 429 and not (response.status == 503 and response.retry_after is not None):
            return None
        self.counters.rate_limited += 1
        if response.retry_after is not None:
            return min(response.retry_after, self._retry.longest_pause)
        return backoff(self._retry, 1, self.random.random())

    def _limits_of(self, response: Response) -> Limits | None:
        limits = limits_of(response.headers, response.received_at)
        return None if limits is None else attrs.evolve(limits, longest_wait=self._retry.longest_pause)

    def check_loop(self) -> None:
        """Bind the client to the running loop, or see that it is the right one.

        Raises:
            WrongEventLoopError: The client belongs to another event loop.
        """
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None:
                raise WrongEventLoopError(
                    "a client belongs to the event loop of its first use; make one for each loop"
                )
            self._loop = loop

    def _open(self) -> aiohttp.ClientSession:
        self.check_loop()
        if self._closed:
            raise ConnectionFailed("the client is closed", sent=False, permanent=True)
        foreign = self._foreign_session
        if foreign is not None and foreign.closed:
            raise ConnectionFailed(
                "the session that the client was given is closed", sent=False, permanent=True
            )
        if self._session is None:
            self._session = foreign or self._make_session()
        return self._session

    async def _make_options(self) -> RequestOptions:
        """Make what each request is sent with."""
        connection, needed = await self.connection_options(self.base_url)
        headers = self._headers()
        headers.update(needed)
        options = cast("RequestOptions", {**connection, "allow_redirects": False})
        if self._session is not None and not (self._foreign_session or "proxy" in connection):
            self._session.headers.update(headers)
        else:
            # aiohttp would tell a proxy the headers of the session, and with them the key.
            options["headers"] = headers
        if self._foreign_session is not None:
            options["raise_for_status"] = False
            options["timeout"] = self._timeout
            options["auto_decompress"] = False
        self._options = options
        return options

    def _headers(self) -> CIMultiDict[str]:
        return CIMultiDict(
            {
                "Authorization": MaskedHeader(f"Bearer {self.key.reveal()}"),
                "Accept": "application/json",
                "Accept-Encoding": ACCEPTED,
                "Content-Type": "application/json",
                "User-Agent": f"tensorpool-async/{VERSION}",
            }
        )

    def _make_session(self) -> aiohttp.ClientSession:
        # What a session says costs less than what each request says, so it says all that polls need; see `_make_options`.
        return aiohttp.ClientSession(
            # The limiter's slots bound the connections; a pool that is smaller would queue behind its back.
            connector=_Connector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=self._timeout,
            response_class=self._response_class(),
            auto_decompress=False,
        )

    def _response_class(self) -> type[_OnceOnlyResponse]:
        class Answer(_OnceOnlyResponse):
            deadlines = self._deadlines

        return Answer

    def _open_keyless(self, session: aiohttp.ClientSession) -> aiohttp.ClientSession:
        """Return a session with the same connections that neither sends the key nor follows redirects by itself."""
        if self._keyless_session is None:
            foreign = self._foreign_session
            self._keyless_session = aiohttp.ClientSession(
                connector=session.connector,
                connector_owner=False,
                cookie_jar=aiohttp.DummyCookieJar() if foreign is None else foreign.cookie_jar,
                proxy=None if foreign is None else _proxy_of(foreign),
                timeout=self._timeout,
                response_class=_OnceOnlyResponse,
                middlewares=(_refuse_redirects,),
            )
        return self._keyless_session

    def __del__(self) -> None:
        session = getattr(self, "_session", None)
        if session is None or session is self._foreign_session or session.closed:
            return
        for one in (session, self._keyless_session):
            if one is not None:
                one.detach()  # its own warning would be a second one
        warnings.warn(
            "a TensorPool client was not closed: use `async with`, or `await tp.aclose()`",
            ResourceWarning,
            stacklevel=2,
            source=self,
        )


class _Connector(aiohttp.TCPConnector):
    """Closes its connections without a warning of its own: the client has given one."""

    def __del__(self, _: object = None, /) -> None:
        if not self.closed and not self._loop.is_closed():
            self._close()


def _proxy_of(session: aiohttp.ClientSession) -> Any:
    """Return the proxy that a session was given; aiohttp does not tell it otherwise."""
    return getattr(session, "_default_proxy", None)


def _ambiguous(error: TensorPoolError, request: Request[Any]) -> AmbiguousOutcomeError:
    what = f"{request.method} {request.path}"
    look = f"look for {request.name!r} before you try again" if request.name else "look before you try again"
    return AmbiguousOutcomeError(
        f"{what} was sent, and whether it was carried out is not known ({error}); {look}",
        name=request.name,
        method=request.method,
        path=request.path,
    )


def connection_failed(error: Exception, text: str, *, left: bool) -> ConnectionFailed:
    """Make the error that a failure of the connection means.

    Args:
        error: The failure.
        text: What it says, as it may be shown.
        left: Whether the request had left, or part of it.
    """
    if isinstance(error, TimeoutError):
        return RequestTimeout(NO_ANSWER if left else "no connection was made in time", sent=left)
    if left:
        return ConnectionFailed(f"the connection was lost before the answer was read: {text}")
    if isinstance(error, (aiohttp.ClientConnectorCertificateError, aiohttp.ServerFingerprintMismatch)):
        return ConnectionFailed(
            f"the engine's certificate is not trusted: {text}", sent=False, permanent=True
        )
    if isinstance(error, (aiohttp.ClientError, OSError)) and not isinstance(error, ValueError):
        return ConnectionFailed(f"no connection: {text}", sent=False)
    return ConnectionFailed(f"the request cannot be sent: {text}", sent=False, permanent=True)
