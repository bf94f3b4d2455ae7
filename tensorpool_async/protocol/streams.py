"""What the messages and the end of a WebSocket mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tensorpool_async.errors import StreamError


LOST_CODES = frozenset({1001, 1005, 1006, 1011, 1012, 1013, 1014})
"""Closes that say nothing against trying again: the server went away, is overloaded or restarts, or nobody knows."""


def close_error(code: int, reason: str) -> StreamError:
    """Make the error of a close that came before the last word."""
    retryable = code in LOST_CODES
    if code == 1006:
        text = "the connection was lost; what it was about goes on at the engine"
    elif code == 1000:
        text, retryable = "the engine closed the stream without a last word", True
    else:
        text = f"the engine closed the stream with code {code}"
    return StreamError(f"{text}: {reason}" if reason else text, code=code, retryable=retryable)


def lines_of(message: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of output in a message."""
    text = message.get("message")
    if not isinstance(text, str):
        return
    yield from text.splitlines() or [""]


def is_last(message: Mapping[str, Any]) -> bool:
    """Whether a message is the last word: its status is `success`.

    Raises:
        StreamError: Its status is `error`.
    """
    status = str(message.get("status") or "").casefold()
    if status == "error":
        text = message.get("message")
        raise StreamError(str(text) if text else "the engine ended the stream with an error, and no message")
    return status == "success"
