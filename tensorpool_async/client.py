"""The session manager: it puts the parts together, and does nothing else."""

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
from tensorpool_async.operations.operation import Operation
from tensorpool_async.operations.poller import Poller
from tensorpool_async.operations.submission import Submitter
from tensorpool_async.protocol.polling import PollPolicy
from tensorpool_async.protocol.retries import RetryPolicy
from tensorpool_async.protocol.tokens import SIGNED_PREFIX, Tokens, decode
from tensorpool_async.secrets import Secret, conceal
from tensorpool_async.signals import handle_sigterm
from tensorpool_async.transport import Transport
from tensorpool_async.transport.bodies import LARGEST


if TYPE_CHECKING:
    from tensorpool_async.fleet import Fleet, FleetSession
    from tensorpool_async.journal import Journal, JournalEntry
    from tensorpool_async.models.account import Health
    from tensorpool_async.operations.executor import Reconciler
    from tensorpool_async.resources.account import Account
    from tensorpool_async.resources.clusters import Clusters
    from tensorpool_async.resources.jobs import Jobs
    from tensorpool_async.resources.object_storage import ObjectStorage
    from tensorpool_async.resources.recovery import Leftover, Recovery
    from tensorpool_async.resources.ssh import SSH
    from tensorpool_async.resources.storage import Storage


@attrs.frozen(kw_only=True)
class Statistics:
    """What a client has done so far.

    Attributes:
        requests: HTTP attempts.
        retries: Attempts that repeated a request.
        rate_limited: Answers that asked to wait: 429, or 503 with Retry-After.
        polls: Attempts that polled an operation.
        operations: Operations that have not ended.
        listener_failures: Events that the listener failed on, or that it was too slow for.
        limiter: What the limiter is doing; it may be shared with other clients.
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

    Nothing is opened before the first request. A client belongs to the event loop of its first use.

    What is sent again, and what is not:

    - What the engine certainly has not seen is sent again.
    - GET and DELETE are sent again after a server error or a lost answer; a repeated DELETE that finds nothing is done.
    - POST and PATCH are never repeated blindly. After a lost answer, what a create made is looked for by its name, and
      adopted if this call made it; what another change was about is looked at. What stays unclear is
      `AmbiguousOutcomeError`.
    - After 429, or 503 with Retry-After, all requests of the limiter wait as long as the engine asks, and go on.
    - Other refusals are raised at once.
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
        """Make a client.

        Args:
            api_key: The key; else `TENSORPOOL_KEY`, else the line `TENSORPOOL_KEY=…` of `.env` in the working directory.
            base_url: The engine's address; else `TENSORPOOL_ENGINE`, else the public engine.
            limiter: A limiter to share with other clients of the same key, such as a `RateLimiter`.
            retry: How often and how soon requests are sent again.
            polling: How often operations are polled.
            timeouts: How long one HTTP attempt may take, in seconds.
            session: A session to use; it is not closed. Middlewares of its own are not used: there is one layer of
                retries, and a middleware would be another. Where it has fewer connections than the limiter has slots,
                waiting for one counts as connecting.
            ssl: A TLS context, a fingerprint, or False to verify nothing.
            proxy: The address of an HTTP proxy; without a scheme it is taken as `http://…`.
            trust_env: Whether proxies are taken from the environment, if none is given: `https_proxy`, `http_proxy` and
                `no_proxy`. An engine on this machine (loopback) is never reached over one.
            allow_insecure: Whether the key may be sent over plain http to another machine.
            journal: The path of a file in which every change is written down before it is sent, or another `Journal`;
                see `recover`. Where it cannot be written, nothing is sent but what ends a cost on the way out. It can be shared by any number of processes of one account, and must not be by several
                accounts: what another account's key cannot see counts as gone. It never holds the key.
            on_event: A function, or a coroutine function, that is told what happens; or several of them. See
                `tensorpool_async.events`. One that raises is counted and harms nothing, nor does a coroutine function
                that is slow. A plain function is called in the middle of things, and has to be quick.
            token_secret: What the tokens of operations are signed with (HMAC-SHA256), so that `operation` refuses a token
                that this client, or another one with the same secret, has not made. A list is for a change of
                secrets: the first one signs, all are believed. None signs nothing, and looks at no signature.
            max_response_bytes: Bytes of an answer, decompressed, that are read at most: 64 MiB, for long lists. A larger one
                is a `DecodeError`, and a poll is made again. For polls and changes it is never more than 4 MiB, and of
                a refusal 64 KiB are read.
            handle_sigterm: Whether SIGTERM, which Docker and Kubernetes send, does what Ctrl-C does while `async with` is
                open: the main task is cancelled, and open blocks destroy what they have made; a second one cuts that
                short. Without it SIGTERM ends the process at once, and leaves what its blocks have made. It is left to a
                program or server that handles it already, such as uvicorn, and has no meaning outside of the main thread
                or on Windows. What the signal did before is restored at the end.

        Raises:
            ConfigurationError: There is no key, the base URL or the proxy cannot be used, or a `token_secret` is empty.
            ValueError: `max_response_bytes` is not above 0.
        """
        # An error may be shown with the variables of each frame: what is secret is wrapped before anything can go wrong.
        api_key, hidden = conceal(api_key), conceal(proxy)
        del proxy
        if max_response_bytes < 1:
            raise ValueError(f"max_response_bytes is {max_response_bytes}, and must be above 0")
        self._base_url = find_base_url(base_url, allow_insecure=allow_insecure)
        key = find_key(api_key)
        tokens = Tokens(token_secrets_of(token_secret))
        self._events = Dispatcher(on_event)
        self._transport = Transport(
            key=key,
            base_url=self._base_url,
            limiter=limiter or RateLimiter(),
            retry=retry or RetryPolicy(),
            timeouts=timeouts or Timeouts(),
            session=session,
            ssl=True if ssl is None else ssl,
            proxy=find_proxy(hidden, base_url=self._base_url, allow_insecure=allow_insecure),
            trust_env=trust_env,
            events=self._events,
            max_response_bytes=max_response_bytes,
        )
        self._poller = Poller(self._transport)
        recorder = JournalRecorder(_journal_of(journal), self._base_url, self._transport)
        self._submitter = Submitter(self._transport, self._poller, polling or PollPolicy(), recorder, tokens)
        self._key = key
        self._wants_sigterm = handle_sigterm
        self._end_of_handling: Callable[[], None] | None = None

    # What follows is loaded when it is first asked for: hardly any program needs all of it.

    @cached_property
    def clusters(self) -> Clusters:
        """Clusters of GPUs."""
        from tensorpool_async.resources.clusters import Clusters

        return Clusters(self._transport, self._submitter, self._reconciler)

    @cached_property
    def storage(self) -> Storage:
        """Storage volumes."""
        from tensorpool_async.resources.storage import Storage

        return Storage(self._transport, self._submitter, self._reconciler)

    @cached_property
    def jobs(self) -> Jobs:
        """Jobs on clusters."""
        from tensorpool_async.resources.jobs import Jobs
        from tensorpool_async.transport.websocket import Sockets

        return Jobs(self._transport, self._submitter, Sockets(self._transport, self._key), self._events)

    @cached_property
    def object_storage(self) -> ObjectStorage:
        """The organization's object storage."""
        from tensorpool_async.resources.object_storage import ObjectStorage

        return ObjectStorage(self._transport)

    @cached_property
    def ssh(self) -> SSH:
        """SSH keys, and how to log in."""
        from tensorpool_async.resources.ssh import SSH

        return SSH(self._transport)

    @cached_property
    def account(self) -> Account:
        """The user, the organization, and preferences."""
        from tensorpool_async.resources.account import Account

        return Account(self._transport)

    @cached_property
    def _reconciler(self) -> Reconciler:
        from tensorpool_async.operations.executor import Reconciler

        return Reconciler(self._submitter)

    @cached_property
    def _recovery(self) -> Recovery:
        from tensorpool_async.resources.recovery import Recovery

        return Recovery(
            self._submitter.recorder, self._submitter, self._reconciler, self.clusters, self.storage
        )

    @property
    def base_url(self) -> str:
        """The engine's address."""
        return self._base_url

    @property
    def limiter(self) -> Limiter:
        """The limiter, to share with another client of the same key."""
        return self._transport.limiter

    @property
    def events(self) -> Dispatcher:
        """What tells events to the client's listeners."""
        return self._events

    @property
    def closed(self) -> bool:
        """Whether the client was closed."""
        return self._transport.closed

    def operation(self, request_id_or_token: str, *, signed: bool = False) -> Operation[Any]:
        """Go on with an operation that was begun before, in this process or another.

        With a token, the operation's kind and resource are known at once. With a bare request id they are found out
        from the engine, by the first poll.

        It is polled while somebody awaits it, iterates over its `updates()` or has added a callback, and at no other time,
        so that a text that came from outside leaves nothing going. What this client has begun itself, and what
        `recover` returns, is polled to its end.

        Args:
            request_id_or_token: The request id or the token. A client with a `token_secret` takes no token without its
                signature. It still takes a request id, which says nothing but which request is asked about.
            signed: Whether to take nothing but a signed token: for a text that comes from somebody else, such as the
                user of a web page. It needs a `token_secret`.

        Raises:
            ConfigurationError: It is a token that is damaged, or of a newer version, or not signed as it should be.
        """
        return self._submitter.resume(self._submitter.tokens.decode(request_id_or_token, signed=signed))

    @property
    def signs_tokens(self) -> bool:
        """Whether the tokens of operations are signed: whether there is a `token_secret`."""
        return self._submitter.tokens.signs

    def sign(self, request_id_or_token: str) -> str:
        """Sign a token or a request id that comes from a place that you trust, such as a table of your own.

        Raises:
            ConfigurationError: It is damaged, or of a newer version, or has a signature that is not this client's; or there
                is no `token_secret`.
        """
        tokens = self._submitter.tokens
        if not tokens.signs:
            raise ConfigurationError("there is nothing to sign with: make the client with token_secret=…")
        text = request_id_or_token.strip()
        return tokens.encode(tokens.decode(text) if text.startswith(SIGNED_PREFIX) else decode(text))

    async def recover(self) -> list[Operation[Any]]:
        """Find again what was in flight when the processes that share this journal ended, and go on with it.

        ::

            async with TensorPool(journal="tensorpool.db") as tp:
                for operation in await tp.recover():
                    await operation

        Operations that the engine had accepted are followed. A cluster or volume whose creation was sent and never
        answered is looked for by its name, and adopted if that creation made it. What another living process holds is
        left alone. Nothing is changed at the engine: what it never got is written off, with a warning in the log where it
        was to destroy or to change something.

        Raises:
            ConfigurationError: The client has no journal.
            JournalError: The journal cannot be read or written.
            AmbiguousOutcomeError: The engine could not be asked about some of them, or does not say enough. Nothing is
                lost by that: the others are in its `.operations`, and it can be called again.
        """
        return await self._recovery.recover()

    async def leftovers(self, *, older: float = 0.0) -> list[Leftover]:
        """List what was made as ephemeral, or with a `ttl` that is over, and outlived the process that made it.

        Args:
            older: Seconds; only what was sent longer ago than this.

        Raises:
            ConfigurationError: The client has no journal.
            JournalError: The journal cannot be read.
        """
        return await self._recovery.leftovers(older=older)

    async def reap(self, leftover: Leftover) -> bool:
        """Destroy something that `leftovers` has listed; False if another process was faster.

        A journal that can be read and not written does not prevent it; what is sent without an entry is logged.

        Raises:
            JournalError: The journal cannot be read.
            ConflictError: It is protected from deletion, or lastingly busy (409).
        """
        return await self._recovery.reap(leftover)

    async def journal_entries(self, *, ended: bool = False) -> list[JournalEntry]:
        """Read the journal: what is in flight at this engine, of all processes that share it.

        Args:
            ended: Whether to list what has ended as well.

        Raises:
            ConfigurationError: The client has no journal.
            JournalError: The journal cannot be read.
        """
        journal = await self._submitter.recorder.opened()
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
        """Work on a fleet of clusters: `plan`, `up`, `down` and `status`; or all or nothing, for a block.

        ::

            async with tp.fleet("fleet.toml") as members:
                print([cluster.ip_address for cluster in members])

        Args:
            fleet: The fleet, or the path of its file.
            on_failure: What to do when a member fails while the block is entered: "rollback" destroys what the block has
                made, "keep" destroys nothing; either raises `FleetError`.
            min_ready: How many clusters must run for the block to run; None for all of them.
            rollback_timeout: Seconds that destroying may take at the end of the block.
            on_event: Called with each `FleetMemberChanged` of the block.

        Raises:
            FleetFileError: The file has a mistake.
            ValueError: An option has no meaning, or not for this fleet.
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
        """Ask whether the engine is well and takes this key (`POST /health`).

        The engine may judge the version of this package as if it were that of its own command-line client.

        Raises:
            AuthenticationError: The key is wrong (401).
            StatusError: The engine does not want this client.
        """
        from tensorpool_async.resources.account import health_request

        return await self._transport.send(health_request())

    async def alive(self) -> Health:
        """Ask whether the engine is there, whatever the key (`GET /healthz`)."""
        from tensorpool_async.resources.account import alive_request

        return await self._transport.send(alive_request())

    def statistics(self) -> Statistics:
        """Return what this client has done so far."""
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
        """Stop polling and close the session. Operations go on at the engine; who waits for one is told so."""
        try:
            await self._poller.aclose()
        finally:  # also where the caller is cancelled: no session stays open
            try:
                await self._transport.aclose()
            finally:
                try:
                    await self._submitter.recorder.aclose()
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
        if not hasattr(self, "_submitter"):
            return "<TensorPool, not complete>"  # as a traceback shows it whose error is one of the configuration
        state = "closed" if self.closed else f"{len(self._poller)} operations in flight"
        return f"<TensorPool {self._base_url}, {state}>"


def _journal_of(journal: Journal | str | os.PathLike[str] | None) -> Journal | None:
    if not isinstance(journal, str | os.PathLike):
        return journal
    from tensorpool_async.journal import SQLiteJournal

    return SQLiteJournal(journal)
