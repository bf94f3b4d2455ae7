"""From status, headers and body to an answer or an error."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from html import unescape
from http import HTTPStatus
from typing import Any, cast

import attrs

from tensorpool_async.errors import DecodeError, ServerError, StatusError
from tensorpool_async.protocol.retry_after import retry_after_of


MESSAGE_KEYS = ("message", "error", "external_message", "detail")
LONGEST_MESSAGE = 500
DEEPEST_MESSAGE = 4
"""Objects within objects that are looked through for a sentence; any real one lies in the first or the second."""

LONGEST_LOCATION = 200
"""Characters of the address that a redirect names."""

HEAD_OF_PAGE = 20_000
"""Characters of a page that are searched for its title."""

_read_json = json.JSONDecoder().raw_decode

_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)


@attrs.define  # and not frozen, which triples what making one costs: there is one for each poll
class Response:
    """What came back: not yet known to be good or readable.

    Attributes:
        status: The HTTP status.
        headers: The headers; looked up as `Retry-After`, so a mapping that ignores case is best.
        body: The bytes of the body.
        received_at: When it was received, in seconds since the epoch, for what headers say about times of day.
        problem: Why the body is not all that was sent; None where it is.
        too_large: Whether the reason is its size.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    received_at: float = 0.0
    problem: str | None = None
    too_large: bool = False

    @property
    def ok(self) -> bool:
        """Whether the status says success."""
        return 200 <= self.status < 300

    @property
    def retry_after(self) -> float | None:
        """Seconds that the engine asks to wait, or None where it says nothing that makes sense."""
        return retry_after_of(self.headers, self.received_at)


@attrs.define  # as above
class Answer:
    """A success that could be read.

    Attributes:
        status: The HTTP status.
        body: The decoded JSON; None where the body was empty.
        retry_after: Seconds that the engine asks to wait, or None.
        path: The path of the request, for errors.
    """

    status: int
    body: Any
    retry_after: float | None = None
    path: str = ""

    def field(self, name: str) -> Any:
        """Return a field of the body; None where the body has none, or is no object."""
        return (
            cast("dict[str, Any]", self.body).get(name)
            if isinstance(cast("object", self.body), dict)
            else None
        )

    @property
    def message(self) -> str:
        """The text that the engine means to be shown; empty where there is none."""
        return message_of(self.body) or ""


def answer_of(response: Response, *, method: str, path: str, any_body: bool = False) -> Answer:
    """Read a response.

    Raises:
        StatusError: It is a refusal; the subclass says which.
        DecodeError: It says success, and its body is no JSON.
    """
    if not 200 <= response.status < 300:
        raise error_of(response, method=method, path=path)
    try:
        body = _decode(response, path)
    except DecodeError:
        if not any_body or _begins_as_json(response.body):
            raise
        body = None
    return Answer(response.status, body, response.retry_after, path)


def _begins_as_json(body: bytes) -> bool:
    return body.lstrip()[:1] in {b"{", b"["}


def _decode(response: Response, path: str) -> Any:
    if response.problem is not None:
        raise DecodeError(response.problem, path=path, too_large=response.too_large)
    body = response.body
    if not body or body.isspace():
        return None
    try:
        # The plain case first: nothing but JSON, in UTF-8. `json.loads` takes three times as long.
        value, end = _read_json(body.decode())
    except (ValueError, RecursionError):
        end = -1
        value = None
    if end == len(body):
        return value
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"the answer is no JSON, or cut off: {error}", path=path) from None


def error_of(response: Response, *, method: str, path: str) -> StatusError:
    """Make the error that a refusal means."""
    body = _readable_body(response.body)
    fallback = ServerError if response.status >= 500 else StatusError
    kind = StatusError.by_status.get(response.status, fallback)
    message = message_of(body) or _phrase(response.status)
    if 300 <= response.status < 400:
        message += _way_of(response)
    error: StatusError = kind(
        response.status,
        message,
        body=body,
        headers={name.lower(): value for name, value in response.headers.items()},
        method=method,
        path=path,
    )
    error.retry_after = response.retry_after
    return error


def _way_of(response: Response) -> str:
    """Say where a redirect leads. Its query is left out: it may be a signature."""
    location = response.headers.get("Location")
    if not location:
        return ""
    shown = printable(location.partition("?")[0])[:LONGEST_LOCATION]
    return f"; it redirects to {shown!r}, which is not followed, since the key would go along: is base_url right?"


def printable(text: str) -> str:
    """Return a text on one line and without control characters, whoever wrote it."""
    return text if text.isprintable() else "".join(one if one.isprintable() else " " for one in text)


def _readable_body(body: bytes) -> Any:
    text = body.decode("utf-8-sig", "replace")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def message_of(body: Any) -> str | None:
    """Return the sentence for a person in a body, or None.

    The order of the keys is that of the official client, with FastAPI's `detail` behind them (API notes, "Errors").
    """
    if isinstance(body, str):
        return _message_of_text(body)
    return _message_of_object(body, DEEPEST_MESSAGE)


def _message_of_object(body: Any, depth: int) -> str | None:
    if not isinstance(body, dict) or not depth:
        return None
    fields = cast("dict[str, Any]", body)
    sentences = (_sentence(fields.get(key), depth) for key in MESSAGE_KEYS)
    return next((sentence for sentence in sentences if sentence), None)


def _message_of_text(text: str) -> str | None:
    title = _TITLE.search(text, 0, HEAD_OF_PAGE)
    if title:
        text = unescape(title[1])
    elif "<" in text and ">" in text:
        return None
    return _shorten(" ".join(text.split())) or None


def _sentence(value: Any, depth: int) -> str | None:
    if isinstance(value, str):
        return _shorten(value.strip()) or None
    if isinstance(value, list):
        parts = [_validation_sentence(item) for item in cast("list[Any]", value)]
        return _shorten("; ".join(part for part in parts if part)) or None
    return _message_of_object(value, depth - 1)


def _validation_sentence(item: Any) -> str | None:
    if not isinstance(item, dict):
        return _text(item)
    problem = cast("dict[str, Any]", item)
    message = _text(problem.get("msg"))
    location: Any = problem.get("loc")
    if not message or not isinstance(location, list):
        return message or None
    # FastAPI's `loc` starts with where the value was: body, query, path.
    place = ".".join(_text(part) for part in cast("list[Any]", location)[1:])
    return f"{place}: {message}" if place else message


def _text(value: Any) -> str:
    return str(value).strip() if isinstance(value, str | int | float) else ""


def _shorten(text: str) -> str:
    return text if len(text) <= LONGEST_MESSAGE else text[: LONGEST_MESSAGE - 1] + "…"


def _phrase(status: int) -> str:
    try:
        return f"{HTTPStatus(status).phrase}, without a message"
    except ValueError:
        return "an unknown status, without a message"
