"""One HTTP attempt, and the loop that sends a request again.

An attempt holds one slot of the limiter, from before it is sent until its body is read. Between attempts nothing is held.
The tables in `protocol/` decide what a failure means and whether the request is sent again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NoReturn, TypeVar

import aiohttp
import attrs
from yarl import URL

from tensorpool_async.errors import AmbiguousOutcomeError, ConnectionFailed, RequestTimeout, TensorPoolError
from tensorpool_async.events.dispatcher import Dispatcher
from tensorpool_async.events.instrumentation import AttemptRecorder, Instrumentation
from tensorpool_async.flow.budget import RetryBudget
from tensorpool_async.flow.limiter import Limiter
from tensorpool_async.protocol.rate_limits import Limits, limits_of
from tensorpool_async.protocol.requests import Lane, Request
from tensorpool_async.protocol.responses import Answer, Response, answer_of
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
from tensorpool_async.protocol.send_context import SendContext
from tensorpool_async.secrets import Secret
from tensorpool_async.texts import logger_of
from tensorpool_async.transport.bodies import LARGEST, AnswerReader, too_large_for
from tensorpool_async.transport.failures import NO_ANSWER, connection_failed
from tensorpool_async.transport.session import RequestOptions, SentTracker, SessionManager


T = TypeVar("T")

logger: logging.Logger = logger_of("tensorpool_async")

Exchange = Callable[[aiohttp.ClientSession, Request[Any]], Awaitable[Response]]
"""Sends one attempt in a keyless session and reads its answer, where that is no plain request: a WebSocket's handshake."""


class SendCancelled(asyncio.CancelledError):
    """A change was cancelled before it was sent."""


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


class Transport:
    """Sends the requests of one client.

    Attributes:
        sessions: The aiohttp sessions, and the options of connections.
        key: The key.
        limiter: Where each attempt takes its slot.
        retry: How often and how soon a request is sent again.
        instrumentation: Where attempts are recorded.
        counters: What was done so far.
        random: The source of jitter.
    """

    def __init__(
        self,
        *,
        sessions: SessionManager,
        limiter: Limiter,
        retry: RetryPolicy,
        events: Dispatcher | None = None,
        max_response_bytes: int = LARGEST,
    ) -> None:
        key = sessions.key
        self.sessions: SessionManager = sessions
        self.key: Secret = key
        self.limiter = limiter
        self.retry: RetryPolicy = retry
        self.instrumentation: Instrumentation = Instrumentation(
            events or Dispatcher(), key=key, engine=sessions.base_url
        )
        self.counters: Counters = Counters()
        self.random: random.Random = random.Random()  # noqa: S311 - it spreads requests over time, and keeps no secret
        self._budget = RetryBudget()
        self._deadlines = sessions.deadlines
        self._bodies = AnswerReader(sessions.deadlines, max_response_bytes)
        self._largest = max_response_bytes
        self._is_external = sessions.external is not None
        self._url = URL(sessions.base_url)
        self._path = self._url.raw_path.rstrip("/")
        self._last: Response | None = None
        self._instrumented = self.instrumentation.enabled

    def now(self) -> float:
        """Return the time by this machine's clock, in seconds since the epoch."""
        return time.time()

    def engine_time(self, local_time: float) -> float:
        """Convert a time of this machine's clock to the engine's clock, in seconds since the epoch.

        The difference between the clocks comes from the `Date` of the last answer. Without one it counts as 0.
        """
        if self._last is None:
            return local_time
        return local_time + clock_offset(self._last.headers.get("Date"), self._last.received_at)

    async def send(
        self, request: Request[T], context: SendContext | None = None, exchange: Exchange | None = None
    ) -> T:
        """Send a request as often as the retry table allows, and return its decoded answer.

        Args:
            request: The request.
            context: The record of what happens to a change; None for other requests.
            exchange: As for `attempt`.

        Raises:
            StatusError: The engine refused the request.
            ConnectionFailed: The engine gave no answer.
            DecodeError: The answer cannot be read.
            AmbiguousOutcomeError: The request is a change, and whether it was carried out is not known.
        """
        history = NO_ATTEMPTS
        lane = Lane.CHANGE if request.changes_something else Lane.READ
        is_delete = request.method == "DELETE"
        while True:
            try:
                response = await self.attempt(request, lane, context, exchange, number=history.attempts + 1)
                answer = answer_of(
                    response, method=request.method, path=request.path, any_body=request.any_body or is_delete
                )
                result = request.decode(answer)
            except TensorPoolError as caught:
                error = caught
                self.key.mask_error(error)  # the caller's own arguments may hold the key
            else:
                self._budget.succeeded()
                return result
            if is_delete and is_gone(error, history):
                return request.decode(Answer(204, None, path=request.path))
            history = await self._prepare_retry(error, request, lane, context, history)

    async def attempt(
        self,
        request: Request[Any],
        lane: Lane,
        context: SendContext | None = None,
        exchange: Exchange | None = None,
        *,
        number: int = 1,
    ) -> Response:
        """Wait for a slot, send a request once, and return the answer, whatever its status.

        Args:
            request: The request.
            lane: The queue in which it waits for a slot.
            context: The record of what happens to a change; None for other requests.
            exchange: What sends the request and reads its answer while the slot is held; None for a plain request.
            number: Which attempt of the request this is, from 1 on.

        Raises:
            ConnectionFailed: The engine gave no answer.
            SendCancelled: The change was cancelled while it waited, and no earlier attempt can have been carried out.
        """
        sessions = self.sessions
        session = sessions.session
        if session is None or asyncio.get_running_loop() is not sessions.loop:
            session = sessions.open()
        options = sessions.options or await sessions.make_options()
        granted_at = await self.limiter.acquire(lane)
        recorder: AttemptRecorder | None = None
        try:
            if context is not None:
                if not context.may_send:
                    raise SendCancelled  # noqa: TRY301 - the slot is given back below
                context.record_send(granted_at, time.time())
            if self._instrumented or logger.isEnabledFor(logging.DEBUG):
                recorder = self.instrumentation.record_send(request, lane, context, number)
            if exchange is None:
                response = await self._exchange(session, request, lane, context, options)
            else:
                response = await exchange(sessions.open_keyless(), request)
        except BaseException as error:
            self.limiter.release(granted_at)
            if recorder is not None:
                recorder.record_failure(error)
            raise
        pause, limits = self._pause_of(response), self._limits_of(response)
        self.limiter.release(granted_at, retry_after=pause, ok=response.ok, limits=limits)
        if recorder is not None:
            recorder.record_answer(response)
        if pause is not None or limits is not None:
            self.instrumentation.record_pause(pause, limits, asked=response.retry_after)
        return response

    def received(
        self,
        answer: aiohttp.ClientResponse | aiohttp.WSServerHandshakeError,
        body: bytes,
        *,
        problem: str | None = None,
        too_large: bool = False,
    ) -> Response:
        """Return an answer with the key masked, which an engine may quote in any part of it.

        Args:
            answer: The status and the headers.
            body: The bytes of the body.
            problem: Why the body is not whole; None where it is.
            too_large: Whether the reason is its size.
        """
        key, headers = self.key, answer.headers
        shown: Mapping[str, str] = {} if headers is None else key.mask_headers(headers)
        return Response(answer.status, shown, key.mask(body), time.time(), problem, too_large)

    async def _exchange(  # noqa: C901 - one frame, since every poll passes through it
        self,
        session: aiohttp.ClientSession,
        request: Request[Any],
        lane: Lane,
        context: SendContext | None,
        options: RequestOptions,
    ) -> Response:
        counters = self.counters
        counters.requests += 1
        if lane is Lane.POLL:
            counters.polls += 1
        data = None if request.json is None else json.dumps(request.json).encode()
        tracker: SentTracker | None = None
        if self._is_external:
            tracker = SentTracker(without_proxy=self.sessions.without_proxy)
            options = {**options, "middlewares": (tracker,)}
        answer: aiohttp.ClientResponse | None = None
        # In a session of this client, the deadline begins with the answer; see `NoResendResponse`.
        task = self._deadlines.begin() if self._is_external else asyncio.current_task()
        failure: ConnectionFailed
        try:
            answer = await session.request(
                request.method,
                self._url.with_path(self._path + request.path, encoded=True),
                params=request.query or None,
                data=data,
                **options,
            )
            content = answer.content
            # Most bodies arrive in one piece with their headers.
            if content.is_eof() and "Content-Encoding" not in answer.headers:
                body, problem, too_large = content.read_nowait(), None, False
                if len(body) > self._largest:
                    body, problem, too_large = b"", too_large_for(self._largest), True
            else:
                body, problem, too_large = await self._bodies.read(answer, lane, task)
        except asyncio.CancelledError as error:
            answer = None
            if not self._deadlines.expired(task):
                if context is not None and self._deadlines.counts(task):
                    context.uncertain = True
                raise error.with_traceback(None)  # noqa: B904 - the same error, without aiohttp's frames: they hold the key
            failure = RequestTimeout(NO_ANSWER)
        except Exception as error:  # noqa: BLE001 - an external session may raise anything; `connection_failed` says what it means
            sent = answer is not None or (tracker is not None and tracker.sent)
            failure = connection_failed(error, self.instrumentation.clean, sent=sent)
        else:
            self._last = response = self.received(answer, body, problem=problem, too_large=too_large)
            return response
        finally:
            if task is not None:
                self._deadlines.end(task)
        # Raised outside of the handler, because aiohttp's errors hold the headers of the request, and with them the key.
        del answer  # the caller's own response class may show what the engine quotes
        raise failure

    async def _prepare_retry(
        self,
        error: TensorPoolError,
        request: Request[Any],
        lane: Lane,
        context: SendContext | None,
        history: AttemptHistory,
    ) -> AttemptHistory:
        """Wait as long as a failure demands before the next attempt, or raise what the failure means."""
        if history.uncertain and isinstance(error, ConnectionFailed):
            error.sent = True  # an earlier attempt was, if not this one
        failure = classify(error)
        if context is not None and failure in {Failure.NO_ANSWER, Failure.TOO_LARGE}:
            context.uncertain = True
        decision = decide(error, "GET" if request.safe else request.method, history, self.retry)
        if decision is RetryDecision.RAISE:
            raise error
        if decision is RetryDecision.RESOLVE:
            self._raise_ambiguous(error, request)
        history = history.after(failure)
        delay = self._delay(error, history) if decision is RetryDecision.AGAIN else 0.0
        if context is not None:
            asked_to_wait = failure is Failure.RATE_LIMITED
            context.record_requeue(asyncio.get_running_loop().time() + delay, asked_to_wait=asked_to_wait)
        self.instrumentation.record_retry(
            request, error, lane=lane, context=context, attempt=history.attempts + 1, delay=delay
        )
        if decision is RetryDecision.AGAIN:
            await asyncio.sleep(delay)
        self.counters.retries += 1
        return history

    def _raise_ambiguous(self, error: TensorPoolError, request: Request[Any]) -> NoReturn:
        if isinstance(error, AmbiguousOutcomeError):
            raise error
        ambiguous = _ambiguous(error, request)
        self.key.mask_error(ambiguous)
        raise ambiguous from error

    def _delay(self, error: TensorPoolError, history: AttemptHistory) -> float:
        """Return the seconds to wait before the next attempt, or raise the error if the retry budget is used up."""
        if not self._budget.pay(asyncio.get_running_loop().time()):
            raise error
        return backoff(self.retry, history.failed, self.random.random())

    def _pause_of(self, response: Response) -> float | None:
        """Return the seconds that all requests must wait; None where they need not."""
        if response.status != 429 and not (response.status == 503 and response.retry_after is not None):
            return None
        self.counters.rate_limited += 1
        if response.retry_after is not None:
            return min(response.retry_after, self.retry.longest_pause)
        return backoff(self.retry, 1, self.random.random())

    def _limits_of(self, response: Response) -> Limits | None:
        limits = limits_of(response.headers, response.received_at)
        return None if limits is None else attrs.evolve(limits, longest_wait=self.retry.longest_pause)


def _ambiguous(error: TensorPoolError, request: Request[Any]) -> AmbiguousOutcomeError:
    what = f"{request.method} {request.path}"
    look = f"look for {request.name!r} before you try again" if request.name else "look before you try again"
    return AmbiguousOutcomeError(
        f"{what} was sent, and whether it was carried out is not known ({error}); {look}",
        name=request.name,
        method=request.method,
        path=request.path,
    )
