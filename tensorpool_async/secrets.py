"""A text that must not be shown."""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Mapping
from html.entities import html5
from itertools import chain
from typing import Any, NoReturn, TypeVar, cast

from multidict import CIMultiDict


T = TypeVar("T")

MASK = "********"

_MASK = MASK.encode()

MOST_ESCAPES = 64
"""Backslashes or zeros in a row that are taken for the escape of one character. A bound keeps the search linear."""

BACKSLASH, PERCENT, AMPERSAND = b"\\%&"

_ESCAPE = r"\\(?:u00[2-7]|x[2-7]|[^a-z0-9\"\\])|%(?:25)*[2-7][0-9a-f]|&(?:#|[a-z]{2,32};)"
_ESCAPED = re.compile(_ESCAPE, re.IGNORECASE)
_ESCAPED_BYTES = re.compile(_ESCAPE.encode(), re.IGNORECASE)
"""An escape of a character that a key may hold. Most texts have none, and this is found out quickly."""


class Secret:
    """A secret text, masked wherever it might be shown: in `repr`, `str`, f-strings and logs.

    `reveal()` is the only way to the text. A secret cannot be pickled, since what is pickled ends in files.

    The `mask` methods find the text as it is, and with any of its characters escaped as JSON, a URL, HTML or a
    backslash writes it: these are the escapes that this package undoes. Other encodings, such as base64, stay as they are.
    """

    __slots__ = ("_bytes", "_forms", "_lower", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        # Whatever it is: an error of the encoding would show it. Whether it can be a key is not judged here.
        self._bytes = text.encode(errors="surrogatepass")
        self._lower = text.lower()
        self._forms: tuple[re.Pattern[str], re.Pattern[bytes]] | None = None

    def reveal(self) -> str:
        """Return the text itself; keep it out of everything that is printed or stored."""
        return self._text

    def mask(self, body: bytes) -> bytes:
        """Return what was received without the secret; where it can hide in UTF-16 or UTF-32, as UTF-8."""
        if 0 in body:  # a number, which is looked for in a fifth of the time that bytes take
            body = _as_utf8(body)
        body = body.replace(self._bytes, _MASK)
        if (BACKSLASH in body or PERCENT in body or AMPERSAND in body) and _ESCAPED_BYTES.search(body):
            return self._patterns()[1].sub(_MASK, body)
        return body

    def mask_text(self, text: str) -> str:
        """Return a text without the secret."""
        text = text.replace(self._text, MASK)
        if ("\\" in text or "%" in text or "&" in text) and _ESCAPED.search(text):
            return self._patterns()[0].sub(MASK, text)
        return text

    def mask_headers(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """Return headers without the secret. Gateways change the case of header names, so case counts for nothing."""
        text = "\n".join(chain.from_iterable(headers.items())).lower()
        escaped = ("\\" in text or "%" in text or "&" in text) and _ESCAPED.search(text)
        if self._lower not in text and not escaped:
            return headers
        sub = self._patterns()[0].sub
        return CIMultiDict([(sub(MASK, name), sub(MASK, value)) for name, value in headers.items()])

    def mask_all(self, value: T) -> T:
        """Return a text, or lists and dicts of texts, without the secret; anything else as it is."""
        masked: Any = value
        if isinstance(value, str):
            masked = self.mask_text(value)
        elif isinstance(value, dict):
            items = cast("dict[Any, Any]", value).items()
            masked = {self.mask_all(name): self.mask_all(one) for name, one in items}
        elif isinstance(value, list):
            masked = [self.mask_all(one) for one in cast("list[Any]", value)]
        elif isinstance(value, tuple):
            masked = tuple(self.mask_all(one) for one in cast("tuple[Any, ...]", value))
        return cast("T", masked)

    def mask_error(self, error: Exception) -> None:
        """Take the secret out of what an error says: its arguments and its attributes."""
        error.args = tuple(self.mask_text(one) if isinstance(one, str) else one for one in error.args)
        for name, value in vars(error).items():
            if isinstance(value, str):
                setattr(error, name, self.mask_text(value))

    def _patterns(self) -> tuple[re.Pattern[str], re.Pattern[bytes]]:
        if self._forms is None:
            source = "".join(_forms_of(character) for character in self._text) or r"(?!)"
            encoded = source.encode(errors="surrogatepass")
            self._forms = re.compile(source, re.IGNORECASE), re.compile(encoded, re.IGNORECASE)
        return self._forms

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


def conceal(text: str | Secret | None) -> Secret | None:
    """Wrap a text, so that an error that shows the variables of its frames does not show it."""
    return Secret(text) if isinstance(text, str) else text


def _forms_of(character: str) -> str:
    """Return a pattern for a character as it is, and escaped. It never goes back, so that no text takes it long."""
    code, run = ord(character), f"{{0,{MOST_ESCAPES}}}+"
    names = [name.removesuffix(";") for name, text in html5.items() if text == character]
    entities = "|".join([f"#0{run}{code}", f"#x0{run}{code:x}", *dict.fromkeys(names)])
    plain = "" if character == "\\" else re.escape(character)  # the run has it already
    return rf"(?:\\{run}(?:u{code:04x}|x{code:02x}|{plain})|%(?:25){run}{code:02x}|&(?:{entities});?)"


def _as_utf8(body: bytes) -> bytes:
    encoding = json.detect_encoding(body)
    return body if encoding.startswith("utf-8") else body.decode(encoding, "replace").encode()


class MaskedHeader(str):
    """A text that is sent as it is and shows a mask in `repr`, such as a header's value.

    HTTP libraries keep the headers of a request in their own objects, and those end in tracebacks.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(MASK)
