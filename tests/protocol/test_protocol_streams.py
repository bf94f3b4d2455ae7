"""What the messages and the end of a WebSocket mean."""

from __future__ import annotations

from typing import Any

import pytest

from tensorpool_async.errors import StreamError
from tensorpool_async.protocol.streams import close_error, is_last, lines_of


@pytest.mark.parametrize(
    ("code", "reason", "retryable", "text"),
    [
        (1000, "", True, "without a last word"),
        (1006, "", True, "the connection was lost"),
        (1011, "overloaded", True, "code 1011: overloaded"),
        (1012, "", True, "code 1012"),
        (1008, "bad key", False, "code 1008: bad key"),
        (4001, "", False, "code 4001"),
    ],
)
def test_a_close_before_the_last_word(code: int, reason: str, retryable: bool, text: str) -> None:
    error = close_error(code, reason)
    assert (error.code, error.retryable) == (code, retryable)
    assert text in str(error)


@pytest.mark.parametrize(
    ("message", "lines"),
    [
        ({}, []),
        ({"message": None}, []),
        ({"message": 5}, []),
        ({"message": ""}, [""]),
        ({"message": "one"}, ["one"]),
        ({"message": "one\ntwo\n"}, ["one", "two"]),
        ({"status": "success", "message": "bye"}, ["bye"]),
    ],
)
def test_lines_of_output(message: dict[str, Any], lines: list[str]) -> None:
    assert list(lines_of(message)) == lines


@pytest.mark.parametrize(
    ("message", "last"),
    [
        ({"status": "success"}, True),
        ({"status": "SUCCESS"}, True),
        ({"status": "input"}, False),
        ({"status": None}, False),
        ({"status": 5}, False),
        ({"message": "success"}, False),
    ],
)
def test_the_last_word(message: dict[str, Any], last: bool) -> None:
    assert is_last(message) is last


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"status": "error", "message": "it broke"}, "it broke"),
        ({"status": "Error"}, "no message"),
        ({"status": "error", "message": None}, "no message"),
    ],
)
def test_an_error_is_the_last_word_too(message: dict[str, Any], text: str) -> None:
    with pytest.raises(StreamError, match=text) as caught:
        is_last(message)
    assert not caught.value.retryable
