"""Text of the engine where people read it: in one line, obeyed by no terminal, and whole for programs."""

from __future__ import annotations

import json
import logging
import pickle
import unicodedata
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorpool_async import (
    BadRequest,
    FleetError,
    OperationFailed,
    StreamError,
    TensorPool,
    TensorPoolError,
)
from tensorpool_async.texts import clean, escape_json, keep_in_one_line, logger_of
from tests.support.scripted import ScriptedEngine


HOSTILE = [
    "well\ntpa: every cluster was destroyed",
    "well\r\ntpa: forged",
    "well\rforged",
    "a\x0bb\x0cc\x1cd\x1de\x1ef\x85g\u2028h\u2029i",
    "\x1b[2J\x1b[31mred\x1b[0m",
    "\x9b31mred",
    "\x1b]8;;http://evil\x07link\x1b]8;;\x07",
    "\x1b]0;title\x07",
    "a\x7fb\x08c",
    "\u202etxt.exe\u202c",
    "\u2066x\u2069\u200e\u200f\u061c",
    "zero\u200bwidth\ufeff\u2060",
    "\ud800 lone \udfff",
    "\U000e0041tag",
    "tab\tbed",
    "[red]markup[/red] [link=http://evil]x[/link]",
    "\n",
]
FORBIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp", "Co", "Cn"}


def is_harmless(text: str) -> bool:
    return not any(unicodedata.category(letter) in FORBIDDEN for letter in text)


@given(st.text() | st.text(alphabet="\n\t\x1b\x9b\u202e\u2028\ud800ab "))
def test_a_clean_text_is_one_harmless_line(text: str) -> None:
    shown = clean(text)
    assert is_harmless(shown)
    assert len(shown.splitlines()) <= 1
    assert clean(shown) == shown
    shown.encode()


@pytest.mark.parametrize("text", ["größe 8xB200 ✓", "", "  two  blanks ", "日本語", "🚀 ok", "[red]"])
def test_an_ordinary_text_stays_as_it_is(text: str) -> None:
    assert clean(text) == text


@given(
    st.recursive(
        st.none() | st.text() | st.integers(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_escaped_json_means_the_same(value: Any) -> None:
    written = escape_json(json.dumps(value, ensure_ascii=False))
    assert is_harmless(written.replace("\u0890", "").replace("\u0891", "")) or not is_bad(written)
    assert json.loads(written) == value


def is_bad(text: str) -> bool:
    return any(
        unicodedata.category(letter) in {"Cc", "Cs", "Zl", "Zp"} or unicodedata.bidirectional(letter) in BIDI
        for letter in text
    )


BIDI = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


@pytest.mark.parametrize("text", HOSTILE)
def test_escaped_json_holds_nothing_that_a_terminal_obeys(text: str) -> None:
    written = escape_json(json.dumps({text: text}, ensure_ascii=False))
    assert is_harmless(written)
    assert json.loads(written) == {text: text}


ERRORS: dict[str, Callable[[str], TensorPoolError]] = {
    "status": lambda text: BadRequest(400, text, path="/x"),
    "failed": lambda text: OperationFailed(f"it failed: {text}", text),
    "stream": StreamError,
    "fleet": lambda text: FleetError(text, [ValueError("x")]),
}


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("make", ERRORS.values(), ids=ERRORS)
def test_an_error_reads_as_one_line_and_keeps_what_was_said(
    text: str, make: Callable[[str], TensorPoolError]
) -> None:
    error = make(text)
    assert is_harmless(str(error))
    assert is_harmless(str(pickle.loads(pickle.dumps(error))))
    if isinstance(error, (BadRequest, OperationFailed)):
        assert error.message == text, "for a program"


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize(
    "name", ["tensorpool_async", "tensorpool_async.fastapi", "tensorpool_async.fleet.context"]
)
def test_no_line_of_the_log_is_forged(text: str, name: str, caplog: pytest.LogCaptureFixture) -> None:
    import_module(name)
    logger = logging.getLogger(name)
    logger.warning("cluster %s is %s", "c-1", text)
    for record in caplog.records:
        assert is_harmless(record.getMessage())
        assert len(record.getMessage().splitlines()) == 1


def test_a_clean_record_keeps_its_arguments() -> None:
    record = logging.LogRecord("n", logging.INFO, "p", 1, "%s is %d", ("c-1", 3), None)
    assert keep_in_one_line(record)
    assert (record.msg, record.args) == ("%s is %d", ("c-1", 3))
    assert logger_of("tensorpool_async") is logger_of("tensorpool_async")
    assert logging.getLogger("tensorpool_async").filters.count(keep_in_one_line) == 1


@pytest.mark.parametrize("text", HOSTILE)
async def test_the_log_of_an_operation_cannot_be_forged(
    text: str, scripted: ScriptedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "tensorpool_async")
    said = {
        "request_id": "r-1",
        "request_type": text,
        "status": text,
        "object_id": text,
        "external_message": text,
    }
    scripted.answer("GET /request/info/r-1", said, headers={"Retry-After": "0"})
    scripted.answer("GET /request/info/r-1", {**said, "status": "FAILED"})
    async with TensorPool("key", base_url=scripted.url) as tp:
        with pytest.raises(TensorPoolError) as caught:
            await tp.operation("r-1")
    assert is_harmless(str(caught.value))
    assert caplog.records
    for record in caplog.records:
        if record.name.startswith("tensorpool_async"):
            assert is_harmless(record.getMessage())
