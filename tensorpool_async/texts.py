"""Text of others, as it may be shown: in one line, and obeyed by no terminal.

Whatever an engine says, a name, an id, a status, a message, may hold a line break that begins a forged line, a control
sequence, or a mark that turns the direction of writing. `str.isprintable` draws the line: what is not printable is a control
or format character, a separator of lines, a lone surrogate, or not assigned.
"""

from __future__ import annotations

import logging
import re


REPLACEMENT = "\ufffd"

_BREAKS = re.compile("[\t-\r\x1c-\x1f\x85\u2028\u2029]+")
_ESCAPED = re.compile(
    "[\x7f-\x9f\xad\u061c\u070f\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)


def clean(text: str) -> str:
    """Return a text in one line: a blank in place of line breaks and tabs, a mark of what else is not printable."""
    if text.isprintable():
        return text
    line = _BREAKS.sub(" ", text)
    return "".join(letter if letter.isprintable() else REPLACEMENT for letter in line)


def escape_json(document: str) -> str:
    """Escape, in a JSON document, what a terminal might obey or a reader might not see.

    The document means what it meant. Control characters below U+0020 are escaped by every writer of JSON.
    """
    return _ESCAPED.sub(lambda match: _escape(ord(match[0])), document)


def _escape(number: int) -> str:
    if number <= 0xFFFF:
        return f"\\u{number:04x}"
    high, low = divmod(number - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"


def keep_in_one_line(record: logging.LogRecord) -> bool:
    """Clean a record of the log: a filter for a logger, which lets every record through.

    A record that is clean stays as it is, with its arguments, by which some handlers group.
    """
    message = record.getMessage()
    cleaned = clean(message)
    if cleaned != message:
        record.msg, record.args = cleaned, ()
    return True


def logger_of(name: str) -> logging.Logger:
    """Return a logger whose lines nobody can forge; a filter is not handed down to the loggers below."""
    logger = logging.getLogger(name)
    logger.addFilter(keep_in_one_line)
    return logger
