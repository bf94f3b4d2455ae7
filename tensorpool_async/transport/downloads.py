"""Downloads from the presigned addresses of an object store.

They use the client's connections, but carry no key and hold no slot of the limiter. The address is a secret: its query is
the signature.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from tensorpool_async.errors import ConnectionFailed, StatusError
from tensorpool_async.protocol.downloads import MOST_REDIRECTS, REDIRECTS, redirected
from tensorpool_async.protocol.responses import error_of
from tensorpool_async.transport.attempts import Transport
from tensorpool_async.transport.bodies import LARGEST_ERROR, BodyReader
from tensorpool_async.transport.failures import FailedAfterSend, connection_failed


MIN_DOWNLOAD_RATE = 1024
"""Bytes per second that a download must reach on average. It is low because a download holds no slot."""


class Download:
    """A download whose headers have arrived.

    Attributes:
        status: The HTTP status.
        headers: The headers.
    """

    def __init__(self, transport: Transport, answer: aiohttp.ClientResponse) -> None:
        """Read an answer, whose first bytes may take as long as `Timeouts.read`."""
        self._transport = transport
        self._answer = answer
        self._seconds_left = transport.sessions.timeouts.read
        self.status: int = answer.status
        self.headers: Mapping[str, str] = answer.headers

    async def chunks(self) -> AsyncGenerator[bytes]:
        """Iterate over the content as it is stored, without decompressing it.

        The time that the caller takes between two chunks is not counted.

        Raises:
            ConnectionFailed: The connection was lost, or is slower than `MIN_DOWNLOAD_RATE`.
        """
        clock = asyncio.get_running_loop().time
        while True:
            chunk: bytes | ConnectionFailed
            began = clock()
            try:
                async with asyncio.timeout(self._seconds_left):
                    chunk = await self._answer.content.readany()
            except (aiohttp.ClientError, OSError, ValueError) as error:
                chunk = _download_failed(self._transport, error, sent=True)
            if isinstance(chunk, ConnectionFailed):
                raise chunk
            if not chunk:
                return
            self._seconds_left += len(chunk) / MIN_DOWNLOAD_RATE - (clock() - began)
            yield chunk


@asynccontextmanager
async def open_download(
    transport: Transport, address: str, headers: Mapping[str, str]
) -> AsyncGenerator[Download]:
    """Open a download, and close it at the end of the block.

    The address is requested character by character as it is given. Redirects are followed to http and https addresses,
    but never from https to http.

    Args:
        transport: The transport whose connections are used.
        address: The address, which `check_address` has accepted.
        headers: The headers that request a part of the file; empty for all of it.

    Raises:
        StatusError: The server refused it.
        ConnectionFailed: No connection was made, the connection was lost, or a redirect cannot be followed.
    """
    for _ in range(MOST_REDIRECTS + 1):
        async with await _request(transport, address, headers) as answer:
            if answer.status not in REDIRECTS:
                if not (answer.status in {200, 206} or (answer.status == 416 and headers)):
                    raise await _refusal_of(transport, answer, address)
                yield Download(transport, answer)
                return
            address = redirected(address, answer.headers.get("Location"))
    raise ConnectionFailed(f"the download was redirected more than {MOST_REDIRECTS} times", permanent=True)


async def _request(transport: Transport, address: str, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
    sessions = transport.sessions
    session, timeouts = sessions.open_keyless(), sessions.timeouts
    options, needed = await sessions.connection_options(address)
    failure: ConnectionFailed
    try:
        async with asyncio.timeout(timeouts.connect + timeouts.read):
            return await session.get(
                URL(address, encoded=True),
                headers=CIMultiDict({**needed, "Accept-Encoding": "identity", **headers}),
                timeout=sessions.timeout,
                allow_redirects=False,
                auto_decompress=False,
                middlewares=(),
                **options,
            )
    except (aiohttp.ClientError, OSError, ValueError) as error:
        failure = _download_failed(transport, error)
    raise failure


async def _refusal_of(transport: Transport, answer: aiohttp.ClientResponse, address: str) -> StatusError:
    """Read as much of a refusal as arrives in time."""
    reader = BodyReader(answer.headers, LARGEST_ERROR)
    with suppress(aiohttp.ClientError, OSError, ValueError):
        async with asyncio.timeout(transport.sessions.timeouts.read):
            await reader.read(answer.content)
    answer.close()
    path = address.partition("?")[0]  # without the signature
    return error_of(transport.received(answer, reader.body(ok=False)[0]), method="GET", path=path)


def _download_failed(transport: Transport, error: Exception, *, sent: bool = False) -> ConnectionFailed:
    """As `connection_failed`, without texts of aiohttp that may hold the whole address."""
    if isinstance(error, FailedAfterSend) and isinstance(error.__cause__, Exception):
        error, sent = error.__cause__, True
    holds_address = isinstance(error, (aiohttp.ClientResponseError, aiohttp.InvalidURL))
    if holds_address or not isinstance(error, (aiohttp.ClientError, OSError)):
        return ConnectionFailed(f"the download failed: {type(error).__name__}")
    return connection_failed(error, transport.instrumentation.clean, sent=sent)
