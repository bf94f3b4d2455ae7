"""A text that must not be shown."""

from __future__ import annotations

import hmac
from typing import NoReturn


MASK = "********"

_MASK = MASK.encode()


class Secret:
    """A secret text, masked wherever it might be shown: in `repr`, `str`, f-strings and logs.

    `reveal()` is the only way to the text. A secret cannot be pickled, since what is pickled ends in files.
    """

    __slots__ = ("_bytes", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        # Whatever it is: an error of the encoding would show it. Whether it can be a key is not judged here.
        self._bytes = text.encode(errors="surrogatepass")

    def reveal(self) -> str:
        """Return the text itself; keep it out of everything that is printed or stored."""
        return self._text

    def mask(self, body: bytes) -> bytes:
        """Return what was received without the secret."""
        return body.replace(self._bytes, _MASK)

    def __repr__(self) -> str:
        return f"Secret('{MASK}')"

    def __str__(self) -> str:
        return MASK

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._bytes, other._bytes)

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled: what is pickled ends in files")


class MaskedHeader(str):
    """A header's value that is sent as it is and shows a mask in `repr`.

    HTTP libraries keep the headers of a request in their own objects, and those end in tracebacks.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(MASK)
