"""`TensorPool`, the client: it builds the transport, the poller, the executor and the resources, and closes them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from ssl import SSLContext
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import aiohttp
import attrs

from tensorpool_async.config import (
    Timeouts,
    TokenSecret,
    find_base_url,
    find_key,
    find_proxy,
    token_secrets_of,
)
from tensorpool_async.errors import ConfigurationError
from tensorpool_async.events import Dispatcher, FleetMemberChanged
from tensorpool_async.flow.limiter import Limiter, LimiterStatistics, RateLimiter
from tensorpool_async.journal.recorder import JournalRecorder
from tensorpool_async.operations.executor import Executor
from tensorpool_async.operations.operation import Operation
from tensorpool_async.operations.poller import Poller
from tensorpool_async.protocol.polling import PollPolicy
from tensorpool_async.protocol.retries import RetryPolicy
from tensorpool_async.protocol.tokens import SIGNED_PREFIX, Tokens, decode
from tensorpool_async.secrets import Secret, conceal
from tensorpool_async.signals import handle_sigterm
from tensorpool_async.transport.attempts import Transport
from tensorpool_async.transport.bodies import LARGEST
from tensorpool_async.transport.session import SessionManager


if TYPE_CHECKING:
    from tensorpool_async.fleet import Fleet, FleetSession
    from tensorpool_async.journal import Journal, JournalEntry
    from tensorpool_async.models.account import Health
    from tensorpool_async.resources.account import Account
    from tensorpool_async.resources.clusters import Clusters
    from tensorpool_async.resources.jobs import Jobs
    from tensorpool_async.resources.object_storage import ObjectStorage
    from tensorpool_async.resources.recovery import Leftover, Recovery
    from tensorpool_async.resources.ssh import SSH
    from tensorpool_async.resources.storage import Storage


@attrs.frozen(kw_only=True)
class Statistics:
    """Counters of one client since it was made.

    Attributes:
        requests: HTTP attempts.
        retries: Attempts that repeated a request.
        rate_limited: Responses that asked the client to wait: 429, or 503 with Retry-After.
        polls: Attempts that polled an operation.
        operations: Operations that have not ended.
        listener_failures: Events that a listener raised on, or that were dropped since a listener was too slow.
        limiter: The statistics of the limiter, which may be shared with other clients.
    """

    requests: int
    retries: int
    rate_limited: int
    polls: int
    operations: int
    listener_failures: int
    limiter: LimiterStatistics


class TensorPool:
    """A client of the TensorPool engine.

    ::

        async with TensorPool() as tp:
            cluster = await tp.clusters.create("8xH100").result()

    The first request opens the session. A client belongs to the event loop of its first use.

    Retries:

    - A request that certainly did not reach the engine is sent again.
    - GET and DELETE are sent again after a server error or a lost response. A repeated DELETE that meets 404 has
      succeeded.
    - POST and PATCH are never repeated blindly. After a lost response to a create, the client looks for the resource by
      its name, and adopts the resource if this call made it. After a lost response to another change, the client reads
      the resource. If the outcome stays unknown, `AmbiguousOutcomeError` is raised.
    - After 429, or 503 with Retry-After, all requests of the limiter wait as long as the engine asks.
    - Other error statuses are raised without a retry.
    """

    def __init__(
        self,
        api_key: str | Secret | None = None,
        *,
        base_url: str | None = None,
        limiter: Limiter | None = None,
        retry: RetryPolicy | None = None,
        polling: PollPolicy | None = None,
        timeouts: Timeouts | None = None,
        session: aiohttp.ClientSession | None = None,
        ssl: SSLContext | bool | aiohttp.Fingerprint | None = None,
        proxy: str | None = None,
        trust_env: bool = True,
        allow_insecure: bool = False,
        journal: Journal | str | os.PathLike[str] | None = None,
        on_event: Callable[[Any], object] | Iterable[Callable[[Any], object]] | None = None,
        token_secret: TokenSecret | Sequence[TokenSecret] | None = None,
        max_response_bytes: int = LARGEST,
        handle_sigterm: bool = False,
    ) -> None:
        """Make a client. No connection is opened.

        Args:
            api_key: The API key; by default `TENSORPOOL_KEY` of the environment, else the line `TENSORPOOL_KEY=…` of
                `.env` in the working directory.
            base_url: The engine's address; by default `TENSORPOOL_ENGINE`, else the public engine.
            limiter: A limiter to share with other clients of the same key, such as a `RateLimiter`.
            retry: How often and how soon a request is sent again.
            polling: How often operations are polled.
            timeouts: How long one HTTP attempt may take, in seconds.
            session: A session to use. It is not closed. Its middlewares are not called, since a middleware could add a
                second layer of retries. If the session has fewer connections than the limiter has slots, the wait for
                a connection counts as connecting.
            ssl: A TLS context, a fingerprint, or False to verify nothing.
            proxy: The address of an HTTP proxy; the default scheme is `http://`.
            trust_env: Whether a proxy is taken from the environment (`https_proxy`, `http_proxy`, `no_proxy`) if
                `proxy` is None. An engine on a loopback address is never reached through such a proxy.
            allow_insecure: Whether the key may be sent over plain http to another machine.
            journal: The path of a journal file, or another `Journal`. Every change is written to the journal before the
                change is sent; see `recover`. If the journal cannot be written, a change raises `JournalError` and is not
                sent; only deletions by cleanup code are sent nevertheless. The processes of one account may share a
                journal. Several accounts must not: a resource that a key cannot see counts as deleted. The journal
                never holds the key.
            on_event: One or several functions or coroutine functions that are called with events; see
                `tensorpool_async.events`. An exception of a listener is counted and has no other effect. A coroutine
                function may be slow. A plain function runs inside the client's own code and must be quick.
            token_secret: The secret that signs the tokens of operations (HMAC-SHA256). `operation` then refuses a token
                without a valid signature. Pass a list to change the secret: the first one signs, all of them verify.
                None signs nothing and verifies nothing.
            max_response_bytes: The largest response that is read, in bytes after decompression. A larger response
                raises `DecodeError`; a poll is repeated. Polls and changes read at most 4 MiB, error responses at most
                64 KiB.
            handle_sigterm: Whether SIGTERM (sent by Docker and Kubernetes) is handled like Ctrl-C while `async with` is
                open: the main task is cancelled, and open blocks destroy what they made. A second SIGTERM interrupts
                that cleanup. If it is False, SIGTERM ends the process without cleanup. A handler of the program or its
                server, such as uvicorn, is left in place. The option has no effect outside the main thread and on
                Windows. The previous handler is restored at the end.

        Raises:
            ConfigurationError: There is no key, the base URL or the proxy cannot be used, or a `token_secret` is empty.
            ValueError: `max_response_bytes` is not above 0.
        """
        # A traceback may show the variables of each frame, so secrets are wrapped before anything can raise.
        api_key, hidden = conceal(api_key), conceal(proxy)
        del proxy
        if max_response_bytes < 1:
            raise ValueError(f"max_response_bytes is {max_response_bytes}, and must be above 0")
        self._base_url = find_base_url(base_url, allow_insecure=allow_insecure)
        key = find_key(api_key)
        tokens = Tokens(token_secrets_of(token_secret))
        self._events = Dispatcher(on_event)
        sessions = SessionManager(
            key=key,
            base_url=self._base_url,
            timeouts=timeouts or Timeouts(),
            session=session,
            ssl=True if ssl is None else ssl,
            proxy=find_proxy(hidden, base_url=self._base_url, allow_insecure=allow_insecure),
            trust_env=trust_env,
        )
        self._transport = Transport(
            sessions=sessions,
            limiter=limiter or RateLimiter(),
            retry=retry or RetryPolicy(),
            events=self._events,
            max_response_bytes=max_response_bytes,
        )
        self._poller = Poller(self._transport)
        recorder = JournalRecorder[Operation[Any]](
            _journal_of(journal), self._base_url, key=key, instrumentation=self._transport.instrumentation
        )
        self._executor = Executor(self._transport, self._poller, polling or PollPolicy(), recorder, tokens)
        self._key = key
        self._wants_sigterm = handle_sigterm
        self._end_of_handling: Callable[[], None] | None = None

    # Each resource is imported at its first use, since hardly any program needs all of them.

    @cached_property
    def clusters(self) -> Clusters:
        """Clusters of GPUs."""
        from tensorpool_async.resources.clusters import Clusters

        return Clusters(self._transport, self._executor)

    @cached_property
    def storage(self) -> Storage:
        """Storage volumes."""
        from tensorpool_async.resources.storage import Storage

        return Storage(self._transport, self._executor)

    @cached_property
    def jobs(self) -> Jobs:
        """Jobs on clusters."""
        from tensorpool_async.resources.jobs import Jobs
        from tensorpool_async.transport.websocket import Sockets

        return Jobs(self._transport, self._executor, Sockets(self._transport, self._key), self._events)

    @cached_property
    def object_storage(self) -> ObjectStorage:
        """The organization's object storage."""
        from tensorpool_async.resources.object_storage import ObjectStorage

        return ObjectStorage(self._transport)

    @cached_property
    def ssh(self) -> SSH:
        """SSH keys and login commands."""
        from tensorpool_async.resources.ssh import SSH

        return SSH(self._transport)

    @cached_property
    def account(self) -> Account:
        """The user, the organization, and preferences."""
        from tensorpool_async.resources.account import Account

        return Account(self._transport)

    @cached_property
    def _recovery(self) -> Recovery:
        from tensorpool_async.resources.recovery import Recovery

        return Recovery(self._executor.recorder, self._executor, self.clusters, self.storage)

    @property
    def base_url(self) -> str:
        """The engine's address."""
        return self._base_url

    @property
    def limiter(self) -> Limiter:
        """The limiter. Pass it to other clients of the same key."""
        return self._transport.limiter

    @property
    def events(self) -> Dispatcher:
        """The dispatcher that delivers events to the client's listeners."""
        return self._events

    @property
    def closed(self) -> bool:
        """Whether the client was closed."""
        return self._transport.sessions.closed

    def operation(self, request_id_or_token: str, *, signed: bool = False) -> Operation[Any]:
        """Resume an operation that was started before, in this process or another one.

        A token holds the operation's kind and resource. For a bare request id, the first poll reads both from the
        engine.

        The operation is polled only while a task awaits it, iterates over `updates()` or has added a callback, so that
        an id from an untrusted source leaves no polling behind. Operations that this client started, and those that
        `recover` returns, are polled to their end.

        Args:
            request_id_or_token: The request id or the token. A client with a `token_secret` refuses a token without a
                valid signature, and accepts a bare request id.
            signed: Whether to accept only a signed token, for a value from an untrusted source such as a web page. It
                requires a `token_secret`.

        Raises:
            ConfigurationError: The token is damaged, of a newer version, or lacks a valid signature.
        """
        return self._executor.resume(self._executor.tokens.decode(request_id_or_token, signed=signed))

    @property
    def signs_tokens(self) -> bool:
        """Whether the client has a `token_secret`, and so signs the tokens of operations."""
        return self._executor.tokens.signs

    def sign(self, request_id_or_token: str) -> str:
        """Sign a token or a request id from a source that you trust, such as your own database.

        Raises:
            ConfigurationError: The token is damaged, of a newer version, or signed with another secret; or the client
                has no `token_secret`.
        """
        tokens = self._executor.tokens
        if not tokens.signs:
            raise ConfigurationError("the client has no token secret to sign with; pass token_secret=…")
        text = request_id_or_token.strip()
        return tokens.encode(tokens.decode(text) if text.startswith(SIGNED_PREFIX) else decode(text))

    async def recover(self) -> list[Operation[Any]]:
        """Resume the operations that were in flight when other processes of this journal ended.

        ::

            async with TensorPool(journal="tensorpool.db") as tp:
                for operation in await tp.recover():
                    await operation

        Operations that the engine accepted are polled. After a create without a response, the client looks for the
        cluster or volume by its name, and adopts the resource if that create made it. Entries of other running
        processes are left alone. Nothing is changed at the engine. A request that never reached the engine is closed
        in the journal; if it was a deletion or another change, a warning is logged.

        Raises:
            ConfigurationError: The client has no journal.
            JournalError: The journal cannot be read or written.
            AmbiguousOutcomeError: The outcome of some entries is not known. They stay in the journal, and `recover` can
                be called again. The operations of the other entries are in `.operations` of the error.
        """
        return await self._recovery.recover()

    async def leftovers(self, *, older: float = 0.0) -> list[Leftover]:
        """List the ephemeral resources, and those with an expired `ttl`, whose process has ended without deleting them.

        Args:
            older: Only resources whose create was sent more than this many seconds ago.

        Raises:
            ConfigurationError: The client has no journal.
            JournalError: The journal cannot be read.
        """
        return await self._recovery.leftovers(older=older)

    async def reap(self, leftover: Leftover) -> bool:
        """Destroy a resource that `leftovers` listed. Return False if another process was faster.

        If the journal can be read but not written, the resource is destroyed without an entry, and that is logged.

        Raises:
            JournalError: The journal cannot be read.
            ConflictError: The resource is protected from deletion, or stays busy (409).
        """
        return await self._recovery.reap(leftover)

    async def journal_entries(self, *, ended: bool = False) -> list[JournalEntry]:
        """Read the journal's entries for this engine that have not ended, of all processes that share the journal.

        Args:
            ended: Whether to include entries that have ended.

        Raises:
            ConfigurationError: The client has no journal.
            JournalError: The journal cannot be read.
        """
        journal = await self._executor.recorder.opened()
        return await journal.entries(self._base_url, ended=ended)

    def fleet(
        self,
        fleet: Fleet | str | os.PathLike[str],
        *,
        on_failure: Literal["rollback", "keep"] = "rollback",
        min_ready: int | None = None,
        rollback_timeout: float = 3600.0,
        on_event: Callable[[FleetMemberChanged], object] | None = None,
    ) -> FleetSession:
        """Manage a fleet of clusters with `plan`, `up`, `down` and `status`, or create it for an `async with` block.

        ::

            async with tp.fleet("fleet.toml") as members:
                print([cluster.ip_address for cluster in members])

        Args:
            fleet: The fleet, or the path of its file.
            on_failure: What to do if a member fails while the block is entered. "rollback" destroys what the block made;
                "keep" destroys nothing. Both raise `FleetError`.
            min_ready: How many clusters must run before the body starts; None for all of them.
            rollback_timeout: Seconds that the deletion at the end of the block may take.
            on_event: Called with each `FleetMemberChanged` of the block.

        Raises:
            FleetFileError: The file has a mistake.
            ValueError: An option is invalid, or does not fit this fleet.
        """
        from tensorpool_async import fleet as fleets

        return fleets.FleetSession(
            self,
            fleet if isinstance(fleet, fleets.Fleet) else fleets.load(fleet),
            on_failure=on_failure,
            min_ready=min_ready,
            rollback_timeout=rollback_timeout,
            on_event=on_event,
        )

    async def health(self) -> Health:
        """Check that the engine is healthy and accepts the key (`POST /health`).

        The engine may compare the version of this package with the versions of its own command-line client.

        Raises:
            AuthenticationError: The key is wrong (401).
            StatusError: The engine rejects this client.
        """
        from tensorpool_async.resources.account import health_request

        return await self._transport.send(health_request())

    async def alive(self) -> Health:
        """Check that the engine responds, without regard to the key (`GET /healthz`)."""
        from tensorpool_async.resources.account import alive_request

        return await self._transport.send(alive_request())

    def statistics(self) -> Statistics:
        """Return the counters of this client."""
        counters = self._transport.counters
        return Statistics(
            requests=counters.requests,
            retries=counters.retries,
            rate_limited=counters.rate_limited,
            polls=counters.polls,
            operations=len(self._poller),
            listener_failures=self._events.failures + self._events.dropped,
            limiter=self._transport.limiter.statistics(),
        )

    async def aclose(self) -> None:
        """Stop polling and close the session. Operations continue at the engine; waits for them raise `OperationError`."""
        try:
            await self._poller.aclose()
        finally:  # the session is closed even if the caller is cancelled
            try:
                await self._transport.sessions.aclose()
            finally:
                try:
                    await self._executor.recorder.aclose()
                finally:
                    await self._events.aclose()

    async def __aenter__(self) -> Self:
        if self._wants_sigterm and self._end_of_handling is None:
            self._end_of_handling = handle_sigterm()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self.aclose()
        finally:
            if self._end_of_handling is not None:
                self._end_of_handling()
                self._end_of_handling = None

    def __repr__(self) -> str:
        if not hasattr(self, "_executor"):
            return "<TensorPool, not complete>"  # a traceback of a ConfigurationError may show it
        state = "closed" if self.closed else f"{len(self._poller)} operations in flight"
        return f"<TensorPool {self._base_url}, {state}>"


def _journal_of(journal: Journal | str | os.PathLike[str] | None) -> Journal | None:
    if not isinstance(journal, str | os.PathLike):
        return journal
    from tensorpool_async.journal import SQLiteJournal

    return SQLiteJournal(journal)
