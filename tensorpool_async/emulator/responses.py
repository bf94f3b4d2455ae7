"""Answers as data, before they become HTTP. Errors come in every form that the engine's clients must read."""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import attrs

from tensorpool_async.emulator.limits import MAX_CELL, MAX_NAME, MAX_ROWS, RetryAfterValue, clip


Content: TypeAlias = bytes | Path
"""The content of a file that a job leaves: the bytes, or a file on this machine that is served as it is."""

_encode = json.JSONEncoder(separators=(",", ":")).encode


@attrs.frozen
class Reply:
    """A status, a JSON body, and when to come back. A body of None is empty."""

    status: int
    body: Any = None
    retry_after: RetryAfterValue | None = None
    content_type: str = "application/json"
    headers: Mapping[str, str] = attrs.field(factory=dict[str, str])
    file: Content | None = None
    """Sent instead of a body."""

    def encode(self) -> bytes:
        if self.body is None:
            return b""
        if isinstance(self.body, bytes):
            return self.body
        if isinstance(self.body, str):
            return self.body.encode()
        return _encode(self.body).encode()


class Refusal(Exception):
    """Raised by an endpoint to answer with an error."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(f"{reply.status} {reply.body}")
        self.reply = reply


def bad_key(*, health: bool = False) -> Refusal:
    """The official client shows only the message of a health check, and only the error of most others."""
    text = "Invalid or missing API key"
    body = {"error": text, "message": text} if health else {"error": text}
    return Refusal(Reply(401, body, headers={"WWW-Authenticate": "Bearer"}))


def insufficient_balance(text: str) -> Refusal:
    return Refusal(Reply(402, {"message": text}))


def not_found(what: str) -> Refusal:
    return Refusal(Reply(404, {"detail": f"{clip(what, MAX_NAME)} not found"}))


def conflict(text: str) -> Refusal:
    return Refusal(Reply(409, {"message": text}))


def name_taken(what: str, name: str) -> Refusal:
    return Refusal(Reply(409, {"detail": f"A {what} named {name!r} exists already"}))


def too_many(what: str, limit: int) -> Refusal:
    return conflict(f"This emulator holds at most {limit} {what}")


def invalid(loc: Sequence[str | int], message: str, kind: str) -> Refusal:
    """422 in the form of FastAPI."""
    return Refusal(Reply(422, {"detail": [problem(loc, message, kind)]}))


def problem(loc: Sequence[str | int], message: str, kind: str) -> dict[str, Any]:
    return {"loc": list(loc), "msg": message, "type": kind}


def too_fast(wait: RetryAfterValue) -> Reply:
    return Reply(
        429, {"error": "Too many requests", "message": f"Rate limit exceeded, retry in {wait.text} s"}, wait
    )


def unavailable(wait: RetryAfterValue) -> Reply:
    return Reply(503, {"external_message": "The engine is being updated, please come back later"}, wait)


def broken() -> Reply:
    return Reply(500, {"detail": "Internal Server Error"})


_GATEWAY_PAGE = """\
<!DOCTYPE html>
<html>
<head><title>502 Bad Gateway</title></head>
<body>
<center><h1>502 Bad Gateway</h1></center>
<hr><center>gateway</center>
</body>
</html>
"""


def bad_gateway() -> Reply:
    return Reply(502, _GATEWAY_PAGE, content_type="text/html")


def table(title: str, headings: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> str:
    """A `message` for people: a table with aligned columns, or the sentence for an empty one.

    Every line is as wide as the longest cells, so the cells and the number of rows are bounded.
    """
    rows = iter(rows)
    shown = [
        ["-" if cell is None else clip(str(cell), MAX_CELL) for cell in row] for row in islice(rows, MAX_ROWS)
    ]
    if not shown:
        return empty
    cells = [[*headings], *shown]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in cells]
    rest = sum(1 for _ in rows)
    more = [f"... and {rest} more"] if rest else []
    return "\n".join([title, "", lines[0], "  ".join("-" * width for width in widths), *lines[1:], *more])


def card(title: str, facts: Mapping[str, object]) -> str:
    """A `message` for people: one object, a fact per line."""
    width = max(map(len, facts)) + 1
    return "\n".join([title, *(f"  {f'{key}:':<{width}} {_fact(value)}" for key, value in facts.items())])


def _fact(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "on" if value else "off"
    return clip(str(value), MAX_NAME)
