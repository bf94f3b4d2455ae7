"""Bodies that were compressed on their way: taken apart piece by piece, and never further than a bound.

A few kilobytes may stand for gigabytes. So each piece is inflated only as far as the bound leaves room, instead of whole.
"""

from __future__ import annotations

import zlib
from typing import Protocol


ACCEPTED = "gzip, deflate"
"""What may be answered, as `Accept-Encoding`: what the standard library inflates up to a given number of bytes."""

PLAIN = frozenset({"", "identity"})

MOST_MEMBERS = 1024
"""How many compressed members may follow each other in one body: empty ones cost time and bring nothing."""

_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS


class TooLarge(Exception):
    """A body is larger than its bound."""


class Decoder(Protocol):
    """Turns the pieces of a body that came over the wire into what they stand for."""

    def feed(self, data: bytes) -> bytes:
        """Return what a piece stands for.

        Raises:
            TooLarge: All of it together is larger than the bound.
            ValueError: It is not what its encoding says.
        """
        ...

    def check_complete(self) -> None:
        """See whether the body is complete.

        Raises:
            ValueError: It was cut off.
        """
        ...


def decoder_for(encoding: str, limit: int) -> Decoder:
    """Return what decodes a body.

    Args:
        encoding: The header `Content-Encoding`; empty where there is none.
        limit: How many bytes it may be, decoded.

    Raises:
        ValueError: The encoding is none that was asked for.
    """
    encoding = encoding.strip().lower()
    if encoding in PLAIN:
        return _Plain(limit)
    if encoding in {"gzip", "x-gzip"}:
        return _Inflater(limit, _GZIP)
    if encoding == "deflate":
        return _Inflater(limit, None)
    raise ValueError(f"the encoding {encoding[:40]!r} was not asked for")


class _Plain:
    def __init__(self, limit: int) -> None:
        self._left = limit

    def feed(self, data: bytes) -> bytes:
        self._left -= len(data)
        if self._left < 0:
            raise TooLarge
        return data

    def check_complete(self) -> None:
        pass


class _Inflater:
    def __init__(self, limit: int, wbits: int | None) -> None:
        self._left = limit
        self._wbits = wbits
        self._members = 0
        self._inflater: zlib._Decompress | None = None  # pyright: ignore[reportPrivateUsage] - zlib names it nowhere else

    def feed(self, data: bytes) -> bytes:
        parts: list[bytes] = []
        while data:
            inflater = self._inflater or self._next_member(data)
            try:
                part = inflater.decompress(data, self._left + 1)
            except zlib.error as error:
                raise ValueError(str(error)) from None
            self._left -= len(part)
            if self._left < 0:
                raise TooLarge
            parts.append(part)
            data = inflater.unused_data if inflater.eof else b""
            self._inflater = None if inflater.eof else inflater
        return b"".join(parts)

    def check_complete(self) -> None:
        if self._inflater is not None:
            raise ValueError("the compressed body was cut off")

    def _next_member(self, data: bytes) -> zlib._Decompress:  # pyright: ignore[reportPrivateUsage]
        self._members += 1
        if self._members > MOST_MEMBERS:
            raise TooLarge
        if self._wbits is None:  # `deflate` means a zlib header, and some servers leave it out
            self._wbits = _ZLIB if data[0] & 0x0F == 8 else _RAW
        return zlib.decompressobj(self._wbits)
