"""Answers as data: what is said, before it becomes HTTP. Errors come in all the forms that clients must read."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from tensorpool_async.emulator.job import Content
from tensorpool_async.emulator.pace import Told


@attrs.frozen
class Answer:
    """A status, a JSON body (None is no body at all), and what is told about coming back."""

    status: int
    body: Any = None
    told: Told | None = None
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
        return json.dumps(self.body, separators=(",", ":")).encode()


class Refusal(Exception):
    """Raised anywhere below the routes; the answer goes to the client."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"{answer.status} {answer.body}")
        self.answer = answer


def bad_key(*, health: bool = False) -> Refusal:
    """The official client shows only the message of a health check, and only the error of most others."""
    text = "Invalid or missing API key"
    body = {"error": text, "message": text} if health else {"error": text}
    return Refusal(Answer(401, body, headers={"WWW-Authenticate": "Bearer"}))


def too_poor(text: str) -> Refusal:
    return Refusal(Answer(402, {"message": text}))


def not_found(what: str) -> Refusal:
    return Refusal(Answer(404, {"detail": f"{what} not found"}))


def conflict(text: str) -> Refusal:
    return Refusal(Answer(409, {"message": text}))


def name_taken(what: str, name: str) -> Refusal:
    return Refusal(Answer(409, {"detail": f"A {what} named {name!r} exists already"}))


def invalid(loc: Sequence[str | int], message: str, kind: str) -> Refusal:
    """422 in the form of FastAPI."""
    return Refusal(Answer(422, {"detail": [problem(loc, message, kind)]}))


def problem(loc: Sequence[str | int], message: str, kind: str) -> dict[str, Any]:
    return {"loc": list(loc), "msg": message, "type": kind}


def too_fast(told: Told) -> Answer:
    return Answer(
        429, {"error": "Too many requests", "message": f"Rate limit exceeded, retry in {told.text} s"}, told
    )


def unavailable(told: Told) -> Answer:
    return Answer(503, {"external_message": "The engine is being updated, please come back later"}, told)


def broken() -> Answer:
    return Answer(500, {"detail": "Internal Server Error"})


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


def bad_gateway() -> Answer:
    return Answer(502, _GATEWAY_PAGE, content_type="text/html")
