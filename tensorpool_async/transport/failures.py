"""What a failed connection means, and whether its request had been sent.

The retry table needs that answer for each attempt. aiohttp does not give it, and repeats some requests by itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar

import aiohttp

from tensorpool_async.errors import ConnectionFailed, RequestTimeout
from tensorpool_async.flow.deadlines import Deadlines
from tensorpool_async.protocol.responses import printable


if TYPE_CHECKING:
    from aiohttp.connector import Connection


NO_ANSWER = "the engine did not answer in time"

READ_SIZE = 64 * 1024
"""Bytes that a connection reads at a time."""

_LOGIN = re.compile(r"//[^/@\s]*@")
"""A user name and password in an address, such as that of a proxy."""


class FailedAfterSend(aiohttp.ClientError):
    """Wraps a failure of a request that was sent.

    aiohttp does not retry on this class; on the wrapped exception it might. The wrapped exception is the `__cause__`.
    """


class NoResendResponse(aiohttp.ClientResponse):
    """Wraps failures that follow the sending of the request in `FailedAfterSend`.

    aiohttp resends an idempotent request whose reused connection broke. Only the retry loop may do that, because it must
    count each attempt: a DELETE that was carried out and is resent unseen ends as a 404.

    aiohttp calls `start` once the request is written. The deadline of the answer begins there too, so it does not include
    the time to connect, which `Timeouts.connect` bounds.

    Attributes:
        deadlines: Where the deadline of each answer begins; None where the caller bounds the request itself.
    """

    deadlines: ClassVar[Deadlines | None] = None

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        failure: Exception
        _limit_read_size(connection)
        if self.deadlines is not None:
            self.deadlines.begin()
        try:
            return await super().start(connection)
        except Exception as error:  # noqa: BLE001 - after any exception, the engine may have the request
            failure = error
        raise FailedAfterSend from failure

    def __repr__(self) -> str:
        return f"<answer {self.status}>"  # aiohttp's own shows the headers, which may quote the key


def _limit_read_size(connection: Connection) -> None:
    """Make a plain connection read at most `READ_SIZE` bytes at a time.

    `max_size` is a private attribute of asyncio's transports. asyncio allocates that much for each read, 256 KiB also for
    an answer of 300 bytes. Where the heap has no free block of that size, glibc maps and unmaps memory for each read,
    which takes a fifth of what a poll costs. TLS transports and other event loops have no such attribute.
    """
    transport: Any = connection.transport
    if getattr(transport, "max_size", 0) > READ_SIZE:
        with suppress(AttributeError):  # read-only elsewhere: then reads stay as large as they are
            transport.max_size = READ_SIZE


def connection_failed(
    error: Exception, clean: Callable[[str], str], *, sent: bool = False
) -> ConnectionFailed:
    """Make the error that a failed connection means. It keeps no reference to the failure.

    Args:
        error: The failure.
        clean: Masks the key in a text and shortens the text.
        sent: Whether the request, or a part of it, was sent. A `FailedAfterSend` always means that.
    """
    if isinstance(error, FailedAfterSend) and isinstance(error.__cause__, Exception):
        error, sent = error.__cause__, True
    if isinstance(error, TimeoutError):
        return RequestTimeout(NO_ANSWER if sent else "no connection was made in time", sent=sent)
    name, text = type(error).__name__, _LOGIN.sub("//", clean(printable(str(error))))
    reason = f"{name}: {text}" if text else name
    if sent:
        return ConnectionFailed(f"the connection was lost before the answer was read: {reason}")
    return _not_sent(error, reason)


def _not_sent(error: Exception, reason: str) -> ConnectionFailed:
    if isinstance(error, (aiohttp.ClientConnectorCertificateError, aiohttp.ServerFingerprintMismatch)):
        text = f"the engine's certificate is not trusted: {reason}"
        return ConnectionFailed(text, sent=False, permanent=True)
    if isinstance(error, (aiohttp.ClientError, OSError)) and not isinstance(error, ValueError):
        return ConnectionFailed(f"no connection: {reason}", sent=False)
    return ConnectionFailed(f"the request cannot be sent: {reason}", sent=False, permanent=True)
