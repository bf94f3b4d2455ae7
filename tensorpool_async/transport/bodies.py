"""Reading the body of an answer: never more of it than a bound, and never longer than it makes progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from tensorpool_async.protocol.encodings import TooLarge, decoder_for


LARGEST = 64 * 1024 * 1024
"""Bytes of an answer, decompressed: what `TensorPool(max_response_bytes=…)` is unless something else is given."""

LARGEST_SMALL = 4 * 1024 * 1024
"""Bytes of an answer to a poll or a change: hundreds are usual, and dozens of them are read at a time."""

LARGEST_ERROR = 64 * 1024
"""Bytes of a refusal that are read. A sentence is what is needed of it."""


class Pieces(Protocol):
    """What a body is read from, piece by piece."""

    async def readany(self) -> bytes:
        """Return the next piece; nothing at the end."""
        ...


class BodyReader:
    """Reads one body, of which `body` also knows what came in before a failure."""

    def __init__(self, headers: Mapping[str, str], limit: int) -> None:
        self._parts: list[bytes] = []
        self._encoding = headers.get("Content-Encoding", "")
        self._limit = limit
        self._problem: str | None = None
        self._too_large = False

    async def read(self, pieces: Pieces, progress: Callable[[int], object]) -> bool:
        """Read up to the end, or up to the bound; return whether the end was reached.

        Args:
            pieces: Where from.
            progress: Called with the size of each piece, as it came over the wire.
        """
        try:
            decoder = decoder_for(self._encoding, self._limit)
            while piece := await pieces.readany():
                progress(len(piece))
                self._parts.append(decoder.feed(piece))
            decoder.finish()
        except TooLarge:
            self._problem, self._too_large = too_large_for(self._limit), True
        except ValueError as error:
            self._problem = f"the answer cannot be decompressed: {error}"
        return self._problem is None

    def body(self, *, ok: bool) -> tuple[bytes, str | None, bool]:
        """Return what was read; why it is not all, if so; and whether that is for its size.

        Of a success that is incomplete, nothing is returned: nothing can be made of it.
        """
        data = b"" if ok and self._problem else b"".join(self._parts)
        return data[: self._limit], self._problem, self._too_large


def too_large_for(limit: int) -> str:
    """Say that an answer is beyond its bound."""
    return f"the answer is larger than {limit:,} bytes"
