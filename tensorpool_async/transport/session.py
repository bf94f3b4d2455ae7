"""The aiohttp sessions of one client: how they are opened and closed, and what each request is sent with."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Mapping
from ssl import SSLContext
from typing import Any, TypedDict, cast
from urllib.request import getproxies

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from tensorpool_async.config import Proxy, Timeouts, proxy_from_environment
from tensorpool_async.errors import ConnectionFailed, WrongEventLoopError
from tensorpool_async.flow.deadlines import Deadlines
from tensorpool_async.protocol.encodings import ACCEPTED
from tensorpool_async.secrets import MaskedHeader, Secret
from tensorpool_async.transport.failures import FailedAfterSend, NoResendResponse
from tensorpool_async.version import VERSION


class ConnectionOptions(TypedDict, total=False):
    """What aiohttp takes for one connection."""

    ssl: SSLContext | bool | aiohttp.Fingerprint
    proxy: URL
    proxy_headers: CIMultiDict[str]


class RequestOptions(ConnectionOptions, total=False):
    """What aiohttp takes for each request to the engine, besides what its session has. It is made once for all requests."""

    headers: CIMultiDict[str]
    timeout: aiohttp.ClientTimeout
    allow_redirects: bool
    raise_for_status: bool
    auto_decompress: bool
    middlewares: tuple[aiohttp.ClientMiddlewareType, ...]


class SentTracker:
    """Middleware of one request in the caller's session.

    It gives the request a response class that is never resent, and corrects its proxy.

    Attributes:
        sent: Whether the request was sent. What the caller's session does afterwards, such as tracing, may still fail.
    """

    __slots__ = ("_without_proxy", "sent")

    def __init__(self, *, without_proxy: bool) -> None:
        """Send the request to the engine directly, whatever proxy the session chose, if `without_proxy`."""
        self._without_proxy = without_proxy
        self.sent: bool = False

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        request.response_class = NoResendResponse
        if self._without_proxy:
            request.update_proxy(None, None, None)
        elif request.proxy is not None:
            # aiohttp sends the session's headers to the proxy, with its `Authorization` as the password of the proxy.
            headers = CIMultiDict(request.proxy_headers or {})
            headers.popall("Authorization", None)
            request.update_proxy(request.proxy, request.proxy_auth, headers)
        try:
            answer = await handler(request)
        except FailedAfterSend:
            self.sent = True
            raise
        self.sent = True
        return answer


async def refuse_redirects(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Middleware of WebSockets: the first message is the key, and must not go to the target of a redirect."""
    answer = await handler(request)
    if 300 <= answer.status < 400:
        answer.close()
        raise aiohttp.WSServerHandshakeError(
            answer.request_info, (), status=answer.status, message="redirected", headers=answer.headers
        )
    return answer


class SessionManager:
    """Owns the sessions of one client, on the event loop of their first use.

    Attributes:
        base_url: The engine's address.
        key: The key, which only requests to the engine carry.
        timeouts: How long the parts of one attempt may take.
        timeout: The same for aiohttp.
        deadlines: The deadlines of the answers to this client's requests.
        external: The session that the caller passed, which is never closed here; None where there is none.
        session: The session of requests with the key; None until `open`.
        loop: The event loop that the client is bound to; None before its first use.
        options: What each request to the engine is sent with; None until `make_options`.
        without_proxy: Whether requests in an external session must not use a proxy that it finds in the environment.
        closed: Whether the client was closed.
    """

    def __init__(
        self,
        *,
        key: Secret,
        base_url: str,
        timeouts: Timeouts,
        session: aiohttp.ClientSession | None = None,
        ssl: SSLContext | bool | aiohttp.Fingerprint = True,
        proxy: Proxy | None = None,
        trust_env: bool = True,
    ) -> None:
        self.key: Secret = key
        self.base_url: str = base_url
        self.timeouts: Timeouts = timeouts
        self.external: aiohttp.ClientSession | None = session
        # `connect` bounds the whole of making a connection, and costs nothing where there is one already. One deadline
        # for a whole answer costs less than a timer for each piece of it. An external session does not show when an
        # answer begins, so its deadline includes the connection, and each piece has a timer.
        own = session is None
        self.timeout: aiohttp.ClientTimeout = aiohttp.ClientTimeout(
            total=None,
            connect=timeouts.connect,
            sock_connect=timeouts.connect,
            sock_read=None if own else timeouts.read,
        )
        self.deadlines: Deadlines = Deadlines(timeouts.read if own else timeouts.connect + timeouts.read)
        self.session: aiohttp.ClientSession | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.options: RequestOptions | None = None
        self.without_proxy: bool = False
        self.closed: bool = False
        self._keyless: aiohttp.ClientSession | None = None
        self._ssl = ssl
        self._proxy = proxy
        self._trust_env = trust_env

    @property
    def external_headers(self) -> Mapping[str, str]:
        """The headers that an external session adds to each of its requests."""
        return {} if self.external is None else self.external.headers

    def check_loop(self) -> None:
        """Bind the client to the running event loop at its first use.

        Raises:
            WrongEventLoopError: The client is bound to another event loop.
        """
        loop = asyncio.get_running_loop()
        if self.loop is not loop:
            if self.loop is not None:
                raise WrongEventLoopError(
                    "a client belongs to the event loop of its first use; make one for each loop"
                )
            self.loop = loop

    def open(self) -> aiohttp.ClientSession:
        """Return the session of requests with the key; make it at the first call.

        Raises:
            WrongEventLoopError: The client is bound to another event loop.
            ConnectionFailed: The client, or the session that it was given, is closed.
        """
        self.check_loop()
        if self.closed:
            raise ConnectionFailed("the client is closed", sent=False, permanent=True)
        if self.external is not None and self.external.closed:
            raise ConnectionFailed(
                "the session that the client was given is closed", sent=False, permanent=True
            )
        if self.session is None:
            self.session = self.external or self._make_session()
        return self.session

    def open_keyless(self) -> aiohttp.ClientSession:
        """Return a session with the same connections that sends no key and follows no redirect by itself.

        Raises:
            WrongEventLoopError: The client is bound to another event loop.
            ConnectionFailed: The client, or the session that it was given, is closed.
        """
        session, external = self.open(), self.external
        if self._keyless is None:
            self._keyless = aiohttp.ClientSession(
                connector=session.connector,
                connector_owner=False,
                cookie_jar=aiohttp.DummyCookieJar() if external is None else external.cookie_jar,
                proxy=None if external is None else _default_proxy_of(external),
                timeout=self.timeout,
                response_class=NoResendResponse,
                middlewares=(refuse_redirects,),
            )
        return self._keyless

    async def aclose(self) -> None:
        """Close the sessions, except for an external one."""
        self.closed = True
        self.deadlines.close()
        session, self.session = self.session, None
        keyless, self._keyless = self._keyless, None
        if keyless is not None:
            await keyless.close()
        if session is not None and session is not self.external:
            await session.close()

    async def make_options(self) -> RequestOptions:
        """Set and return `options`.

        Raises:
            ConfigurationError: The environment names a proxy that cannot be used.
        """
        connection, needed = await self.connection_options(self.base_url)
        headers = self._headers()
        headers.update(needed)
        options = cast("RequestOptions", {**connection, "allow_redirects": False})
        if self.session is not None and not (self.external or "proxy" in connection):
            self.session.headers.update(headers)  # cheaper than with each request
        else:
            # aiohttp sends the headers of a session to the proxy, and the key would be among them.
            options["headers"] = headers
        if self.external is not None:
            options["raise_for_status"] = False
            options["timeout"] = self.timeout
            options["auto_decompress"] = False
        # The environment was asked above. aiohttp must not ask it again: it would use a proxy for loopback as well.
        self.without_proxy = "proxy" not in connection and self._asks_environment()
        self.options = options
        return options

    async def connection_options(self, url: str) -> tuple[ConnectionOptions, CIMultiDict[str]]:
        """Return what a connection to an address is made with, and the headers that requests over it need.

        Raises:
            ConfigurationError: The environment names a proxy that cannot be used.
        """
        address, proxy = URL(url), self._proxy
        # A session with `trust_env` looks for proxies and for passwords in files before each request, in a thread.
        # The engine's address never changes, so the environment is asked once.
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
        if self.external is None:
            return self._trust_env
        return self.external.trust_env and _default_proxy_of(self.external) is None

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
        # An option of the session costs less than one of each request, so the session has all that polls need.
        return aiohttp.ClientSession(
            # The limiter's slots bound the connections. A smaller pool would be a second queue.
            connector=_Connector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=self.timeout,
            response_class=self._response_class(),
            auto_decompress=False,
        )

    def _response_class(self) -> type[NoResendResponse]:
        class Answer(NoResendResponse):
            deadlines = self.deadlines

        return Answer

    def __del__(self) -> None:
        session = getattr(self, "session", None)
        if session is None or session is self.external or session.closed:
            return
        for one in (session, self._keyless):
            if one is not None:
                one.detach()  # so that aiohttp does not warn as well
        warnings.warn(
            "a TensorPool client was not closed: use `async with`, or `await tp.aclose()`",
            ResourceWarning,
            stacklevel=2,
            source=self,
        )


class _Connector(aiohttp.TCPConnector):
    """Closes its connections without a warning, because the client has already given one.

    aiohttp's public `close` returns an awaitable, and a finalizer cannot await. `_close` and `_loop` are private.
    """

    def __del__(self, _: object = None, /) -> None:
        if not self.closed and not self._loop.is_closed():
            self._close()


def _default_proxy_of(session: aiohttp.ClientSession) -> Any:
    """Return the proxy that a session was made with. aiohttp keeps it in a private attribute only."""
    return getattr(session, "_default_proxy", None)
