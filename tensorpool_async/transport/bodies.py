"""Reads the body of an answer within bounds of size and time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import aiohttp

from tensorpool_async.flow.deadlines import Deadlines
from tensorpool_async.protocol.encodings import TooLarge, decoder_for
from tensorpool_async.protocol.requests import Lane


LARGEST = 64 * 1024 * 1024
"""Bytes of an answer, decompressed. The default of `TensorPool(max_response_bytes=…)`."""

LARGEST_SMALL = 4 * 1024 * 1024
"""Bytes of an answer to a poll or a change. A few hundred are usual, and dozens of answers are read at a time."""

LARGEST_ERROR = 64 * 1024
"""Bytes of a refusal that are read. Only its message is used."""

MIN_RATE = 32 * 1024
"""Bytes per second that a body must reach on average if it takes longer than `Timeouts.read`."""

MAX_SECONDS_WITHOUT_END = 8.0
"""Seconds that a body may take from its first piece on, plus what `MIN_RATE` allows: it holds a slot meanwhile."""

Body = tuple[bytes, str | None, bool]
"""The bytes; why they are not the whole body, else None; and whether the reason is its size."""


class Pieces(Protocol):
    """A stream that a body is read from, piece by piece."""

    async def readany(self) -> bytes:
        """Return the next piece; empty at the end."""
        ...


class BodyReader:
    """Reads and decompresses one body, and keeps what it has read if reading fails."""

    def __init__(self, headers: Mapping[str, str], limit: int) -> None:
        """Read at most `limit` bytes, decompressed."""
        self._parts: list[bytes] = []
        self._encoding = headers.get("Content-Encoding", "")
        self._limit = limit
        self._problem: str | None = None
        self._too_large = False

    async def read(self, pieces: Pieces, progress: Callable[[int], object] | None = None) -> bool:
        """Read to the end or to the limit; return whether the end was reached.

        Args:
            pieces: The stream.
            progress: Called with the size of each piece before decompression, in bytes.
        """
        try:
            decoder = decoder_for(self._encoding, self._limit)
            while piece := await pieces.readany():
                if progress is not None:
                    progress(len(piece))
                self._parts.append(decoder.feed(piece))
            decoder.check_complete()
        except TooLarge:
            self._problem, self._too_large = too_large_for(self._limit), True
        except ValueError as error:
            self._problem = f"the answer cannot be decompressed: {error}"
        return self._problem is None

    def body(self, *, ok: bool) -> Body:
        """Return what was read.

        Args:
            ok: Whether the answer is a success. Of an incomplete success no bytes are returned, as they are of no use.
        """
        data = b"" if ok and self._problem else b"".join(self._parts)
        return data[: self._limit], self._problem, self._too_large


class AnswerReader:
    """Reads the answers that did not arrive in one piece, within the deadlines of their attempts."""

    def __init__(self, deadlines: Deadlines, largest: int) -> None:
        """Read at most `largest` bytes of any answer, and less of those that are small by nature."""
        self._deadlines = deadlines
        self._largest = largest

    async def read(self, answer: aiohttp.ClientResponse, lane: Lane, task: asyncio.Task[Any] | None) -> Body:
        """Read the body of an answer. If a refusal breaks off or is late, return what has arrived.

        Args:
            answer: The answer.
            lane: The lane of its request.
            task: The task whose deadline bounds it; None where there is no deadline.

        Raises:
            TimeoutError: A success did not arrive within its deadline.
            ClientError: The connection broke while a success was read.
        """
        limit = LARGEST_ERROR if not answer.ok else self._largest if lane is Lane.READ else LARGEST_SMALL
        reader = BodyReader(answer.headers, min(limit, self._largest))
        try:
            whole = await reader.read(answer.content, partial(self._extend_deadline, task, answer.content))
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

    def _extend_deadline(
        self, task: asyncio.Task[Any] | None, content: aiohttp.StreamReader, size: int
    ) -> None:
        """Shorten the deadline at the first piece, and extend it by the time that each piece of `size` bytes may take."""
        if task is None or content.is_eof():
            return
        if not self._deadlines.is_changed(task):
            self._deadlines.shorten(task, MAX_SECONDS_WITHOUT_END)
        self._deadlines.extend(task, size / MIN_RATE)


def too_large_for(limit: int) -> str:
    """Return the sentence that an answer is larger than its limit in bytes."""
    return f"the answer is larger than {limit:,} bytes"
