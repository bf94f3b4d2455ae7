"""Where the key and the engine's address come from, and what is refused before any traffic."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorpool_async.config import DEFAULT_BASE_URL, Timeouts, find_base_url, find_key, is_loopback
from tensorpool_async.errors import ConfigurationError
from tensorpool_async.secrets import Secret


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a folder without a .env."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("argument", "variable", "dotenv", "found"),
    [
        ("tp-arg", "tp-env", "tp-file", "tp-arg"),
        ("tp-arg", None, None, "tp-arg"),
        (None, "tp-env", "tp-file", "tp-env"),
        (None, "", "tp-file", "tp-file"),
        (None, "  ", "tp-file", "tp-file"),
        (None, None, "tp-file", "tp-file"),
        (Secret("tp-arg"), "tp-env", "tp-file", "tp-arg"),
    ],
)
def test_the_key_is_the_argument_else_the_variable_else_the_line_of_dotenv(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    argument: str | Secret | None,
    variable: str | None,
    dotenv: str | None,
    found: str,
) -> None:
    if variable is not None:
        monkeypatch.setenv("TENSORPOOL_KEY", variable)
    if dotenv is not None:
        (folder / ".env").write_text(f"TENSORPOOL_KEY={dotenv}\n")
    assert find_key(argument) == Secret(found)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("TENSORPOOL_KEY=tp-1", "tp-1"),
        ("TENSORPOOL_KEY=tp-1\r\nOTHER=2\r\n", "tp-1"),
        ("A=1\n\n# a comment\nTENSORPOOL_KEY=tp-1\n", "tp-1"),
        ("  TENSORPOOL_KEY  =  tp-1  \n", "tp-1"),
        ("\tTENSORPOOL_KEY=tp-1", "tp-1"),
        ('TENSORPOOL_KEY="tp-1"', "tp-1"),
        ("TENSORPOOL_KEY='tp-1'", "tp-1"),
        ('TENSORPOOL_KEY = " tp-1 "', "tp-1"),
        ('TENSORPOOL_KEY="tp-1', "tp-1"),
        ("export TENSORPOOL_KEY=tp-1", "tp-1"),
        ("  export\tTENSORPOOL_KEY=tp-1", "tp-1"),
        ("TENSORPOOL_KEY=tp-1 # of the team", "tp-1"),
        ('TENSORPOOL_KEY="tp-1" # of the team', "tp-1"),
        ("TENSORPOOL_KEY=tp#1", "tp#1"),
        ('TENSORPOOL_KEY="tp #1"', None),
        ("TENSORPOOL_KEY=a=b==", "a=b=="),
        ("\ufeffTENSORPOOL_KEY=tp-1", "tp-1"),
        ("TENSORPOOL_KEY=tp-1\nTENSORPOOL_KEY=tp-2", "tp-1"),
        ("TENSORPOOL_KEY_OLD=tp-0\nTENSORPOOL_KEY=tp-1", "tp-1"),
        ("MY_TENSORPOOL_KEY=tp-0\nTENSORPOOL_KEY=tp-1", "tp-1"),
        ("# TENSORPOOL_KEY=tp-0\nTENSORPOOL_KEY=tp-1", "tp-1"),
        ("TENSORPOOL_KEY\nTENSORPOOL_KEY=tp-1", "tp-1"),
        ("tensorpool_key=tp-1", None),
        ("TENSORPOOL_KEY=", None),
        ('TENSORPOOL_KEY=""', None),
        ("TENSORPOOL_KEY= # to be filled in", None),
        ("TENSORPOOL_KEY=two words", None),
        ("", None),
    ],
)
def test_odd_lines_of_dotenv(folder: Path, text: str, found: str | None) -> None:
    (folder / ".env").write_bytes(text.encode())
    if found is None:
        with pytest.raises(ConfigurationError, match="API key"):
            find_key(None)
    else:
        assert find_key(None).reveal() == found


def test_bytes_that_are_no_text_do_not_hide_the_key(folder: Path) -> None:
    (folder / ".env").write_bytes(b"A=\xff\xfe\x00\nTENSORPOOL_KEY=tp-1\n")
    assert find_key(None).reveal() == "tp-1"


def test_a_dotenv_that_is_a_folder_holds_no_key(folder: Path) -> None:
    (folder / ".env").mkdir()
    with pytest.raises(ConfigurationError, match="no API key"):
        find_key(None)


@pytest.mark.parametrize("argument", [None, "", "  \n", Secret("")])
def test_without_a_key_one_learns_where_to_get_one(argument: str | Secret | None) -> None:
    with pytest.raises(ConfigurationError) as caught:
        find_key(argument)
    for hint in ("api_key", "TENSORPOOL_KEY", ".env", "https://tensorpool.dev/dashboard"):
        assert hint in str(caught.value)


def test_an_empty_argument_is_a_mistake_and_not_a_wish_for_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TENSORPOOL_KEY", "tp-env")
    with pytest.raises(ConfigurationError, match="no API key"):
        find_key("")


def test_the_end_of_the_line_is_no_part_of_the_key() -> None:
    assert find_key(" tp-1\n").reveal() == "tp-1"


@pytest.mark.parametrize("key", ["tp 1", "tp\n1", "tp\r\nX-Evil: 1", "tp\x00", "größe", "tp\x7f", "tp\t1"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ConfigurationError, match="not shown here") as caught:
        find_key(key)
    assert key not in f"{caught.value} {caught.value!r}"


@pytest.mark.parametrize(
    ("argument", "variable", "found"),
    [
        ("https://one.example", "https://two.example", "https://one.example"),
        (None, "https://two.example", "https://two.example"),
        (None, " https://two.example/ \n", "https://two.example"),
        (None, "", DEFAULT_BASE_URL),
        (None, "  ", DEFAULT_BASE_URL),
        (None, None, DEFAULT_BASE_URL),
    ],
)
def test_the_base_url_is_the_argument_else_the_variable_else_the_public_engine(
    monkeypatch: pytest.MonkeyPatch, argument: str | None, variable: str | None, found: str
) -> None:
    if variable is not None:
        monkeypatch.setenv("TENSORPOOL_ENGINE", variable)
    assert find_base_url(argument) == found


@pytest.mark.parametrize(
    "url",
    [
        "https://engine.example",
        "HTTPS://Engine.Example",
        "https://engine.example:8443",
        "https://[2001:db8::1]:8443",
        "https://10.0.0.1",
        "http://localhost:8787",
        "http://LOCALHOST",
        "http://127.0.0.1:8787",
        "http://127.8.9.10",
        "http://[::1]:8787",
    ],
)
@pytest.mark.parametrize("slash", ["", "/"])
def test_a_bare_address_is_taken_without_its_slash(url: str, slash: str) -> None:
    assert find_base_url(url + slash) == url


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("https://engine.example/v1", "path, query or fragment"),
        ("https://engine.example//", "path, query or fragment"),
        ("https://engine.example?a=1", "path, query or fragment"),
        ("https://engine.example?", "path, query or fragment"),
        ("https://engine.example/?", "path, query or fragment"),
        ("https://engine.example#top", "path, query or fragment"),
        ("https://engine.example#", "path, query or fragment"),
        ("engine.example", "has no scheme"),
        ("engine.example:8443", "has no scheme"),
        ("localhost:8787", "has no scheme"),
        ("//engine.example", "has no scheme"),
        ("ftp://engine.example", "has no scheme"),
        ("wss://engine.example", "has no scheme"),
        ("", "has no scheme"),
        ("https://", "names no host"),
        ("https:///v1", "names no host"),
        ("https://:8443", "names no host"),
        ("https://engine. example", "names no host"),
        ("https://engine\n.example", "names no host"),
        ("https:engine.example", "names no host"),
        ("https://engine.example:port", "malformed"),
        ("https://engine.example:99999", "malformed"),
        ("https://[::1", "malformed"),
        ("https://user:pass@engine.example", "user name or password"),
        ("https://user@engine.example", "user name or password"),
        ("http://localhost@engine.example", "user name or password"),
        ("http://engine.example", "unencrypted"),
        ("http://10.0.0.1:8787", "unencrypted"),
        ("http://0.0.0.0:8787", "unencrypted"),
        ("http://[2001:db8::1]", "unencrypted"),
        ("http://localhost.engine.example", "unencrypted"),
        ("http://127.0.0.1.engine.example", "unencrypted"),
        ("http://127.1", "unencrypted"),
    ],
)
def test_a_bad_base_url_is_refused_with_the_reason(url: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem) as caught:
        find_base_url(url)
    assert str(caught.value).startswith("the base URL '")


def test_plain_http_elsewhere_is_taken_only_on_demand() -> None:
    assert find_base_url("http://engine.example", allow_insecure=True) == "http://engine.example"
    with pytest.raises(ConfigurationError, match="path"):
        find_base_url("http://engine.example/v1", allow_insecure=True)


@pytest.mark.parametrize(
    "url",
    [
        "https://user:HIDDEN@engine.example",
        "https://HIDDEN@engine.example",
        "user:HIDDEN@engine.example",
        "user:HI://HIDDEN@engine.example",
        "https://user:HIDDEN@engine.example/path@",
        "https://user:x?HIDDEN@engine.example",
        "https://user:HIDDEN@engine.example:port",
        "https://user:HIDDEN@engine\u2100.example",
        "https://engine.example?api_key=HIDDEN",
        "https://engine.example?mail=a@HIDDEN",
        "https://engine.example/#HIDDEN",
        "http://engine.example/?key=HIDDEN\nHIDDEN",
    ],
)
def test_a_password_or_a_query_in_an_address_is_not_shown(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        find_base_url(url)
    assert "HIDDEN" not in f"{caught.value} {caught.value!r}"


SCRAPS = st.sampled_from(
    [
        "http",
        "https",
        "://",
        ":",
        "//",
        "/",
        "?",
        "#",
        "@",
        "localhost",
        "a.example",
        "127.0.0.1",
        "[::1]",
        "443",
        " ",
    ]
)


@given(url=st.text() | st.lists(SCRAPS).map("".join), allow_insecure=st.booleans())
def test_any_text_is_a_bare_and_safe_address_or_refused(url: str, allow_insecure: bool) -> None:
    try:
        found = find_base_url(url, allow_insecure=allow_insecure)
    except ConfigurationError:
        return
    parts = urlsplit(found)
    assert parts.hostname
    assert (parts.path, parts.query, parts.fragment, parts.username) == ("", "", "", None)
    assert parts.scheme == "https" or (
        parts.scheme == "http" and (allow_insecure or is_loopback(parts.hostname))
    )


@pytest.mark.parametrize("wrong", [{"connect": 0.0}, {"read": -1.0}, {"read": float("nan")}])
def test_a_timeout_of_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .*, and must be above 0 seconds"):
        Timeouts(**wrong)


def test_timeouts_are_above_nothing() -> None:
    assert Timeouts(connect=0.5, read=float("inf")).connect == 0.5
