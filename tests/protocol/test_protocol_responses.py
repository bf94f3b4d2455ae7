"""What an answer means: its error, its message, its body."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tensorpool_async import errors
from tensorpool_async.protocol.responses import (
    LONGEST_MESSAGE,
    Answer,
    Response,
    answer_of,
    error_of,
    message_of,
)


def error_for(status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> errors.StatusError:
    return error_of(Response(status, headers or {}, body), method="GET", path="/cluster/info/c-1")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.BadRequest),
        (401, errors.AuthenticationError),
        (402, errors.InsufficientBalance),
        (403, errors.PermissionDenied),
        (404, errors.NotFound),
        (409, errors.ConflictError),
        (422, errors.ValidationError),
        (429, errors.RateLimited),
        (500, errors.ServerError),
        (502, errors.ServerError),
        (503, errors.ServerError),
        (599, errors.ServerError),
        (302, errors.StatusError),
        (418, errors.StatusError),
    ],
)
def test_each_status_has_its_error(status: int, kind: type[errors.StatusError]) -> None:
    error = error_for(status, b'{"message": "no"}', {"X-Trace": "t-1"})
    assert type(error) is kind
    assert (error.status, error.message, error.method, error.path) == (
        status,
        "no",
        "GET",
        "/cluster/info/c-1",
    )
    assert error.body == {"message": "no"}
    assert error.headers == {"x-trace": "t-1"}
    assert str(error) == f"{status}: no (GET /cluster/info/c-1)"


@pytest.mark.parametrize("status", [429, 503, 500])
def test_an_error_knows_how_long_the_engine_asks_to_wait(status: int) -> None:
    assert error_for(status, headers={"Retry-After": "7"}).retry_after == 7.0
    assert error_for(status, headers={"Retry-After": "soon"}).retry_after is None
    assert error_for(status).retry_after is None


DETAIL: dict[str, Any] = {"loc": ["body", "num_nodes"], "msg": "must be at least 1", "type": "too_small"}


MESSAGES: list[tuple[Any, str]] = [
    ({"message": "from message"}, "from message"),
    ({"error": "from error"}, "from error"),
    ({"external_message": "from external"}, "from external"),
    ({"detail": "from detail"}, "from detail"),
    ({"detail": [DETAIL]}, "num_nodes: must be at least 1"),
    (
        {"detail": [DETAIL, {"loc": ["body", "keys", 0], "msg": "no key"}]},
        "num_nodes: must be at least 1; keys.0: no key",
    ),
    ({"detail": [{"loc": ["body"], "msg": "no object"}]}, "no object"),
    ({"detail": [{"msg": "without a place"}]}, "without a place"),
    ({"detail": ["plain", 5, None, [], {"loc": ["body", "x"]}]}, "plain; 5"),
    ({"detail": {"message": "nested"}}, "nested"),
    ({"error": {"code": 7, "message": "nested"}}, "nested"),
    ({"detail": "4", "external_message": "3", "error": "2", "message": "1"}, "1"),
    ({"detail": "4", "external_message": "3", "error": "2"}, "2"),
    ({"detail": "4", "external_message": "3"}, "3"),
    ({"message": "", "error": None, "external_message": [], "detail": "the one that is there"}, "the one that is there"),
    ({"message": "  in blanks\n"}, "in blanks"),
    ("a bare text", "a bare text"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "message"), MESSAGES)
def test_the_message_is_whichever_form_is_there(body: Any, message: str) -> None:
    assert message_of(body) == message
    assert error_for(400, json.dumps(body).encode()).message == message


NO_MESSAGES: list[Any] = [{}, [], ["text"], None, 5, {"message": {}}, {"message": 5}, {"detail": [{}]}, {"other": "text"}, "", " "]  # fmt: skip


@pytest.mark.parametrize("body", NO_MESSAGES)
def test_a_body_without_a_sentence_has_no_message(body: Any) -> None:
    assert message_of(body) is None


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (502, b"<html><head><title>502 Bad Gateway</title></head><body>x</body></html>", "502 Bad Gateway"),
        (502, b"<HTML><TITLE lang=en>\n Sorry,\n we&#39;re &lt;away&gt; </TITLE>", "Sorry, we're <away>"),
        (502, b"<html><body><h1>oops</h1></body></html>", "Bad Gateway, without a message"),
        (502, b"<html><title></title></html>", "Bad Gateway, without a message"),
        (503, b"upstream\n connect error", "upstream connect error"),
        (404, b"", "Not Found, without a message"),
        (404, b" \n", "Not Found, without a message"),
        (599, b"", "an unknown status, without a message"),
        (409, b'{"message": "cut of', '{"message": "cut of'),
        (409, b"\xef\xbb\xbf" + b'{"message": "with a mark"}', "with a mark"),
        (409, b'{"message": "not \xff UTF-8"}', "not \ufffd UTF-8"),
    ],
)
def test_html_empty_and_cut_off_bodies_become_a_sentence(status: int, body: bytes, message: str) -> None:
    assert error_for(status, body).message == message


@pytest.mark.parametrize("body", [b'{"message": "%s"}' % (b"x" * 5000), b"x" * 5000])
def test_a_long_message_is_cut(body: bytes) -> None:
    message = error_for(500, body).message
    assert len(message) == LONGEST_MESSAGE
    assert message.endswith("…")


@pytest.mark.parametrize("depth", [5, 100, 600, 900, 100_000])
@pytest.mark.parametrize(
    ("opening", "closing"), [('{"message":', "}"), ('{"detail":[', "]}"), ("[", "]"), ('{"detail":[{"msg":', "}]}")]
)  # fmt: skip
def test_a_body_that_is_nested_deeply_is_an_error_like_any_other(
    opening: str, closing: str, depth: int
) -> None:
    error = error_for(500, (opening * depth + '"x"' + closing * depth).encode())
    assert isinstance(error, errors.ServerError)


@pytest.mark.timeout(10)
@pytest.mark.parametrize("scrap", [b"<title", b"<title>", b"<title>x"])
def test_a_page_of_a_megabyte_takes_no_time(scrap: bytes) -> None:
    assert error_for(502, scrap * (1_000_000 // len(scrap))).status == 502


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_success_is_decoded(status: int) -> None:
    answer = answer_of(
        Response(status, {"Retry-After": "2"}, b'{"a": [1]}'), method="GET", path="/cluster/list"
    )
    assert answer == Answer(status, {"a": [1]}, 2.0, "/cluster/list")


@pytest.mark.parametrize("body", [b"", b"  \r\n"])
def test_success_without_a_body_is_an_answer(body: bytes) -> None:
    answer = answer_of(Response(204, {}, body), method="DELETE", path="/x")
    assert answer == Answer(204, None, None, "/x")
    assert answer.message == ""


@pytest.mark.parametrize(
    "body",
    [
        b"<html><title>login</title></html>",
        b'{"cluster_id": "c-1"',
        b"\xff\xfe\xff",
        b"{} {}",
        b"[" * 100_000,
        b"9" * 5000,
    ],
)
def test_success_that_cannot_be_read_is_a_decode_error(body: bytes) -> None:
    with pytest.raises(errors.DecodeError, match="no JSON, or cut off") as caught:
        answer_of(Response(200, {}, body), method="GET", path="/cluster/list")
    assert caught.value.path == "/cluster/list"


@pytest.mark.parametrize("status", [301, 404, 500])
def test_a_refusal_is_raised(status: int) -> None:
    with pytest.raises(errors.StatusError) as caught:
        answer_of(Response(status, {}, b"{}"), method="GET", path="/x")
    assert caught.value.status == status


def test_fields_of_an_answer() -> None:
    answer = Answer(202, {"request_id": "r-1", "message": " made "})
    assert answer.field("request_id") == "r-1"
    assert answer.field("other") is None
    assert answer.message == "made"
    assert Answer(200, ["request_id"]).field("request_id") is None


JSON_BODIES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["message", "error", "external_message", "detail", "loc", "msg"]) | st.text(),
            inner,
            max_size=4,
        )
    ),
)


@settings(deadline=None)
@given(
    status=st.integers(300, 999),
    body=st.binary() | JSON_BODIES.map(lambda body: json.dumps(body).encode()),
    headers=st.dictionaries(st.sampled_from(["Retry-After", "retry-after", "Date"]) | st.text(), st.text()),
)
@example(status=429, body=b'"\\ud800"', headers={})
def test_no_refusal_raises_anything_else_or_is_without_a_sentence(
    status: int, body: bytes, headers: dict[str, str]
) -> None:
    error = error_for(status, body, headers)
    assert error.status == status
    assert 0 < len(error.message) <= LONGEST_MESSAGE


@settings(deadline=None)
@given(body=st.binary() | JSON_BODIES.map(lambda body: json.dumps(body).encode()))
def test_no_success_raises_anything_but_a_decode_error(body: bytes) -> None:
    try:
        answer = answer_of(Response(200, {}, body), method="GET", path="/x")
    except errors.DecodeError:
        return
    assert isinstance(answer.message, str)


@settings(deadline=None)
@given(body=JSON_BODIES)
def test_a_message_is_a_sentence_or_none(body: Any) -> None:
    message = message_of(body)
    assert message is None or message.strip()
