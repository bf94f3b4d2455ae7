"""The key leaves in the Authorization header and in the first message of a WebSocket, and shows up nowhere else."""

from __future__ import annotations

import asyncio
import base64
import html
import json
import logging
import os
import pickle
import re
import sys
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from html.entities import html5
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, unquote

import aiohttp
import attrs
import pytest
from aiohttp import web

from tensorpool_async import PollPolicy, RetryPolicy, TensorPool, TensorPoolError
from tensorpool_async.errors import (
    CommandRefused,
    ConfigurationError,
    ConnectionFailed,
    StatusError,
    StreamError,
)
from tensorpool_async.events import Dispatcher
from tensorpool_async.resources.subprocesses import run
from tensorpool_async.secrets import MASK, MaskedHeader, Secret
from tensorpool_async.transport.websocket import Stream
from tests.support.scripted import Handler, ScriptedEngine


KEY = "tp-Not/to+be_seen.42=N"
PASSWORD = "pa55word"
RETRY = RetryPolicy(attempts=2, backoff=0.001, longest_backoff=0.002)
POLLING = PollPolicy(default=0.01, initial=0.01, maximum=0.02)


def escaped(text: str, which: Callable[[int], bool] = lambda _: True, form: str = "\\u{:04x}") -> str:
    """Write some of the characters of a text in another form."""
    return "".join(form.format(ord(one)) if which(place) else one for place, one in enumerate(text))


def named(text: str) -> str:
    names = {value: name for name, value in html5.items() if name.endswith(";")}
    return "".join(f"&{names[one]}" if one in names else one for one in text)


FORMS: dict[str, str] = {
    "as it is": KEY,
    "JSON": escaped(KEY),
    "JSON in capitals": escaped(KEY, form="\\u{:04X}"),
    "JSON, the first character": escaped(KEY, lambda place: place == 0),
    "JSON, the last character": escaped(KEY, lambda place: place == len(KEY) - 1),
    "JSON, every other character": escaped(KEY, lambda place: place % 2 == 0),
    "JSON, slashes": KEY.replace("/", "\\/"),
    "JSON in JSON": json.dumps(escaped(KEY))[1:-1],
    "URL": quote(KEY, safe=""),
    "URL, all characters": escaped(KEY, form="%{:02x}"),
    "URL in capitals": escaped(KEY, form="%{:02X}"),
    "URL, every third character": escaped(KEY, lambda place: place % 3 == 0, "%{:02x}"),
    "URL in URL": quote(quote(KEY, safe=""), safe=""),
    "HTML": escaped(KEY, form="&#{};"),
    "HTML, hexadecimal": escaped(KEY, form="&#x{:x};"),
    "HTML, hexadecimal in capitals": escaped(KEY, form="&#X{:X};"),
    "HTML, with zeros": escaped(KEY, form="&#{:07d};"),
    "HTML, every other character": escaped(KEY, lambda place: place % 2 == 1, "&#{};"),
    "HTML, by name": named(KEY),
    "URL, and HTML, and JSON": quote(KEY[:5], safe="") + named(KEY[5:10]) + escaped(KEY[10:]),
}
"""What JSON texts hold between their quotes."""


def shows_the_key(text: str) -> bool:
    """Whether a reader finds the key in a text, also one who undoes escapes."""
    unescaped = re.sub(r"\\+u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), text)
    readings = (text, html.unescape(text), unquote(unquote(text)), unescaped, unescaped.replace("\\", ""))
    return any(KEY.lower() in one.lower() for one in readings)


def texts_of(error: BaseException, *, variables: bool = True) -> list[str]:
    """Return all that an error shows anywhere."""
    shown = traceback.TracebackException.from_exception(error, capture_locals=variables)
    texts = ["".join(shown.format()), str(error), repr(error), repr(vars(error)), repr(error.args)]
    texts.append(pickle.dumps(error, protocol=0).decode("latin-1"))
    for inner in (error.__cause__, error.__context__):
        texts += [] if inner is None else texts_of(inner, variables=variables)
    token = getattr(error, "token", None)
    return [*texts, *([] if token is None else [token, read_token(token)])]


def read_token(token: str) -> str:
    text = token.removeprefix("tpa1.")
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()


@attrs.define
class Sinks:
    """All places where something of a client ends up."""

    path: Path
    events: list[Any] = attrs.field(factory=list[Any])
    texts: list[str] = attrs.field(factory=list[str])
    errors: list[BaseException] = attrs.field(factory=list[BaseException])
    variables: bool = True

    async def meet(self, call: Awaitable[Any]) -> None:
        """Take down what a call gives or raises."""
        try:
            result = await call
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not show the key
            self.errors.append(error)
            self.texts += texts_of(error, variables=self.variables)
        else:
            self.texts += [str(result), repr(result), pickle.dumps(result, protocol=0).decode("latin-1")]

    def check(self) -> None:
        files = [path.read_bytes().decode("latin-1") for path in self.path.iterdir() if path.is_file()]
        for text in [*self.texts, *files, repr(self.events), *(str(event) for event in self.events)]:
            assert not shows_the_key(text), text


@pytest.fixture
def sinks(tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Any:
    caplog.set_level(logging.DEBUG)
    sinks = Sinks(tmp_path)
    yield sinks
    sinks.check()
    out, err = capfd.readouterr()
    records = [
        record for record in caplog.records if record.name != "aiohttp.access"
    ]  # which is the server's
    for text in (out, err, *(record.getMessage() + repr(vars(record)) for record in records)):
        assert not shows_the_key(text), text


def client(engine: ScriptedEngine | str, sinks: Sinks, **options: Any) -> TensorPool:
    url = engine if isinstance(engine, str) else engine.url
    return TensorPool(
        KEY,
        base_url=url,
        retry=RETRY,
        polling=POLLING,
        journal=sinks.path / "journal.db",
        on_event=sinks.events.append,
        **options,
    )


def check_requests(engine: ScriptedEngine) -> None:
    """See that each request has the key where it belongs, and nowhere else."""
    for seen in engine.seen:
        assert seen.headers.pop("Authorization", f"Bearer {KEY}") == f"Bearer {KEY}"
        assert not shows_the_key(repr(attrs.asdict(seen)))


# What an engine, or a gateway in front of it, may quote, by where.


Script = Callable[[ScriptedEngine, str], None]
Call = Callable[[TensorPool], Awaitable[Any]]


def json_with(form: str, pattern: str) -> bytes:
    return pattern.replace("KEY", form).encode()


def refusal(engine: ScriptedEngine, form: str, *, pattern: str, status: int = 400) -> None:
    engine.answer("GET /cluster/list", json_with(form, pattern), status=status)


def model(engine: ScriptedEngine, form: str) -> None:
    body = (
        '{"cluster_info": {"cluster_id": "c-1", "KEY": ["KEY"], "status": "KEY", "note": "KEY"}, "x": "KEY"}'
    )
    engine.answer("GET /cluster/info/c-1", json_with(form, body))


def operation(engine: ScriptedEngine, form: str, *, status: str = "FAILED") -> None:
    body = json_with(form, '{"cluster_id": "c-KEY", "message": "KEY", "request_id": "r-KEY"}')
    engine.answer("POST /cluster/create", body, status=202)

    async def info(_: web.Request) -> web.Response:
        return web.Response(body=json_with(form, said), content_type="application/json")

    said = (
        '{"request_id": "r-KEY", "request_type": "CLUSTER_CLAIM", "object_id": "c-KEY", "status": "STATUS", '
        '"created_at": "2026-01-01T00:00:00Z", "external_message": "no room for KEY"}'
    ).replace("STATUS", status)
    engine.handle(f"GET /request/info/r-{quote(MASK, safe='')}", info)


async def make(tp: TensorPool) -> Any:
    made = await tp.clusters.create("1xH100", name="mine")
    shown = [made.token, read_token(made.token), repr(made), repr(made.info), str(made.resource_id)]
    assert not any(shows_the_key(text) for text in shown)
    return await made


async def listing(tp: TensorPool) -> Any:
    return await tp.clusters.list()


async def reading(tp: TensorPool) -> Any:
    return await tp.clusters.get("c-1")


PLACES: dict[str, tuple[Script, Call]] = {
    "message": (partial(refusal, pattern='{"message": "sent KEY, and more"}'), listing),
    "error": (partial(refusal, pattern='{"error": {"detail": "KEY"}}'), listing),
    "validation": (
        partial(refusal, pattern='{"detail": [{"loc": ["a", "KEY"], "msg": "KEY"}]}', status=422),
        listing,
    ),
    "name of a field": (partial(refusal, pattern='{"KEY": 1}', status=409), listing),
    "title": (partial(refusal, pattern="<html><title>no KEY</title>KEY</html>", status=502), listing),
    "plain text": (partial(refusal, pattern="KEY is wrong", status=401), listing),
    "cut off": (partial(refusal, pattern='{"clusters": ["KEY', status=200), listing),
    "no list": (partial(refusal, pattern='{"clusters": "KEY", "KEY": [{"a": "KEY"}]}', status=200), listing),
    "model": (model, reading),
    "operation": (operation, make),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("form", FORMS)
async def test_what_an_engine_quotes_is_masked(
    scripted: ScriptedEngine, sinks: Sinks, place: str, form: str
) -> None:
    script, call = PLACES[place]
    script(scripted, FORMS[form])
    async with client(scripted, sinks) as tp:
        await sinks.meet(call(tp))
        if place in {"operation", "no list"}:
            await sinks.meet(make(tp))
    assert MASK in "".join(sinks.texts)
    check_requests(scripted)


@pytest.mark.parametrize(
    "encoding",
    ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be", "latin-1"],
)
@pytest.mark.parametrize("status", [200, 400])
async def test_a_body_of_another_encoding_is_masked(
    scripted: ScriptedEngine, sinks: Sinks, encoding: str, status: int
) -> None:
    scripted.answer(
        "GET /cluster/list", f'{{"message": "gr\u00fc\u00dfe {KEY}"}}'.encode(encoding), status=status
    )
    scripted.answer(
        "GET /cluster/info/c-1", f'{{"cluster_info": {{"cluster_id": "c-1", "a": "{KEY}"}}}}'.encode(encoding)
    )
    async with client(scripted, sinks) as tp:
        await sinks.meet(listing(tp))
        await sinks.meet(reading(tp))


HEADERS: dict[str, tuple[str, str]] = {
    "value": ("X-Your-Key", KEY),
    "authorization": ("X-Authorization", f"Bearer {KEY}"),
    "percent": ("X-Url", f"https://a.example/?k={quote(KEY, safe='')}"),
    "small letters": ("X-Your-Key", KEY.lower()),
    "retry-after": ("Retry-After", KEY),
    "date": ("Date", KEY),
    "location": ("Location", f"https://{KEY.replace('/', '.')}.example/{KEY}"),
    "cookie": ("Set-Cookie", f"k={KEY}; Path=/{KEY}"),
    "illegal cookie": ("Set-Cookie", f"{KEY}({KEY})=1"),
}


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("status", [200, 302, 400, 429, 503])
async def test_what_headers_quote_is_masked(
    scripted: ScriptedEngine, sinks: Sinks, header: str, status: int
) -> None:
    name, value = HEADERS[header]
    scripted.answer("GET /cluster/list", "{}", status=status, headers={name: value})
    scripted.answer("GET /cluster/info/c-1", "cut", status=200, headers={name: value})
    async with client(scripted, sinks) as tp:
        await sinks.meet(listing(tp))
        await sinks.meet(reading(tp))


@pytest.mark.parametrize("name", ["tp-Header.Name_42+N", "TP-HEADER.NAME_42+N", "tp-header.name_42+n"])
async def test_a_header_that_is_named_like_the_key_is_masked(scripted: ScriptedEngine, name: str) -> None:
    scripted.answer("GET /cluster/list", "{}", status=400, headers={name: "1"})
    async with TensorPool("tp-Header.Name_42+N", base_url=scripted.url) as tp:
        with pytest.raises(StatusError) as caught:
            await tp.clusters.list()
    assert caught.value.headers[MASK] == "1"
    assert "header.name" not in pickle.dumps(caught.value, protocol=0).decode().lower()


RAW: dict[str, bytes] = {
    "location": b"HTTP/1.1 302 no\r\nLocation: \x1b[31m\xff KEY \x07\r\nContent-Length: 0\r\n\r\n",
    "reason": b"HTTP/1.1 400 no KEY here\r\nContent-Length: 0\r\n\r\n",
    "status line": b"HTTP/1.1 2x0 KEY\r\nContent-Length: 0\r\n\r\n",
    "no HTTP": b"KEY\r\n\r\n",
    "header without a colon": b"HTTP/1.1 200 OK\r\nKEY\r\n\r\n",
    "header name": b"HTTP/1.1 200 OK\r\nKEY KEY: 1\r\n\r\n",
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: KEY\r\n\r\n",
    "chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nKEY\r\nKEY\r\n0\r\n\r\n",
    "cut off": b'HTTP/1.1 200 OK\r\nX-Key: KEY\r\nContent-Length: 99\r\n\r\n{"a": "KEY',
    "compressed": b"HTTP/1.1 200 OK\r\nX-Key: KEY\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nKEY",
    "encoding": b"HTTP/1.1 200 OK\r\nContent-Encoding: KEY\r\nContent-Length: 3\r\n\r\nKEY",
    "line that is too long": b"HTTP/1.1 200 OK\r\nX-Key: " + b"KEY" * 9000 + b"\r\n\r\n",
}


@asynccontextmanager
async def raw_server(answer: bytes, seen: list[bytes]) -> AsyncGenerator[str]:
    """Serve the same bytes to whoever connects, and keep what they say."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.read(65536))
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("kind", RAW)
@pytest.mark.parametrize("foreign", [False, True])
async def test_what_is_no_http_is_masked(sinks: Sinks, kind: str, foreign: bool) -> None:
    async with (
        raw_server(RAW[kind].replace(b"KEY", KEY.encode()), []) as address,
        aiohttp.ClientSession() as session,
        client(f"http://{address}", sinks, session=session if foreign else None) as tp,
    ):
        await sinks.meet(listing(tp))
        await sinks.meet(make(tp))
    assert all(isinstance(error, TensorPoolError) for error in sinks.errors), sinks.errors


@pytest.mark.parametrize("foreign", [False, True])
async def test_who_is_cancelled_in_the_middle_of_an_answer_does_not_show_the_key(
    sinks: Sinks,
    foreign: bool,
) -> None:
    started = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(RAW["cut off"].replace(b"KEY", KEY.encode()))
        started.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, aiohttp.ClientSession() as session:
        port = server.sockets[0].getsockname()[1]
        async with client(f"http://127.0.0.1:{port}", sinks, session=session if foreign else None) as tp:
            with pytest.raises(TimeoutError) as caught:
                async with asyncio.timeout(0.3):
                    await tp.clusters.list()
            sinks.texts += texts_of(caught.value)
    assert started.is_set()


# WebSockets.


def socket(*messages: str | bytes, close: tuple[int, str] | None = (1000, "")) -> Handler:
    async def talk(request: web.Request) -> web.StreamResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        assert await ws.receive_json() == {"TENSORPOOL_KEY": KEY}
        for message in messages:
            await (ws.send_str(message) if isinstance(message, str) else ws.send_bytes(message))
        if close is None:
            assert request.transport is not None
            request.transport.abort()
        else:
            await ws.close(code=close[0], message=close[1].encode())
        return ws

    return talk


def refused(status: int, headers: dict[str, str], text: str = "") -> Handler:
    async def refuse(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers=headers, text=text)

    return refuse


async def listening(tp: TensorPool) -> list[str]:
    return [line async for line in tp.jobs.listen("j-1")]


async def pushing(tp: TensorPool) -> Any:
    return await tp.jobs.push("x", "c-1")


SHOW = "import os; print('TENSORPOOL_KEY' in os.environ, 'PATH' in os.environ)"
QUOTED = KEY[:4] + "''" + KEY[4:9] + '""' + KEY[9:]

SOCKETS: dict[str, Handler] = {
    **{
        f"line, {name}": socket(f'{{"message": "a {form} b", "KEY": 1}}'.replace("KEY", form))
        for name, form in FORMS.items()
    },
    "binary": socket(json.dumps({"message": KEY}).encode()),
    "binary in UTF-16": socket(json.dumps({"message": KEY}).encode("utf-16")),
    "no JSON": socket(f"no JSON: {KEY}"),
    "no object": socket(f'["{KEY}"]'),
    "error": socket(json.dumps({"status": "error", "message": KEY})),
    "error, escaped": socket('{"status": "error", "message": "' + escaped(KEY) + '"}'),
    "status": socket(json.dumps({"status": KEY})),
    "reason": socket(close=(4000, f"bad key {KEY}")),
    "reason with control characters": socket(close=(4001, f"\x1b[31m{KEY}\n")),
    "lost": socket(json.dumps({"message": KEY}), close=None),
    "job id": socket(json.dumps({"job_id": KEY})),
    "command": socket(json.dumps({"command": f"curl -H 'Bearer {KEY}' x"})),
    "command in quotes": socket(json.dumps({"command": f"{QUOTED} a b"})),
    "command with backslashes": socket(json.dumps({"command": "\\".join(KEY) + " a"})),
    "argument": socket(json.dumps({"command": f"rsync -a ./{KEY} a@b.invalid:x"})),
    "argument in quotes": socket(json.dumps({"command": f"rsync -a ./{QUOTED} a@127.0.0.1:x"})),
    "option in quotes": socket(json.dumps({"command": f"rsync --{QUOTED} a b"})),
    "handshake": refused(401, {"X-Key": KEY}, KEY),
    "handshake of another kind": refused(200, {"X-Key": KEY}, KEY),
    "redirect": refused(307, {"Location": f"https://a.example/{KEY}"}),
}


@pytest.mark.parametrize("kind", SOCKETS)
async def test_what_a_websocket_says_is_masked(scripted: ScriptedEngine, sinks: Sinks, kind: str) -> None:
    for path in ("/job/listen/j-1", "/job/push"):
        scripted.handle(f"GET {path}", SOCKETS[kind])
    async with client(scripted, sinks) as tp:
        await sinks.meet(listening(tp))
        await sinks.meet(pushing(tp))
    assert all(isinstance(error, TensorPoolError) for error in sinks.errors), sinks.errors
    check_requests(scripted)


async def test_a_command_that_holds_the_key_is_not_run(scripted: ScriptedEngine, sinks: Sinks) -> None:
    scripted.handle("GET /job/push", SOCKETS["argument in quotes"])
    async with client(scripted, sinks) as tp:
        with pytest.raises(CommandRefused, match="holds the API key"):
            await pushing(tp)


async def test_a_command_runs_without_the_key_in_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSORPOOL_KEY", KEY)
    events = Dispatcher()
    result = await run([sys.executable, "-c", SHOW], folder=tmp_path, events=events, shown=False)
    assert (result.exit_code, result.stdout.strip()) == (0, "False True")


async def test_a_key_that_cannot_be_told_is_not_shown(scripted: ScriptedEngine, sinks: Sinks) -> None:
    async def hang_up(request: web.Request) -> web.StreamResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        assert request.transport is not None
        request.transport.abort()
        return ws

    scripted.handle("GET /job/listen/j-1", hang_up)
    async with client(scripted, sinks) as tp:
        for _ in range(5):
            await sinks.meet(listening(tp))
    assert all(isinstance(error, StreamError) for error in sinks.errors)


async def test_no_frame_holds_the_key_where_it_cannot_be_told(sinks: Sinks) -> None:
    async with ScriptedEngine() as engine, client(engine, sinks):
        engine.handle("GET /job/listen/j-1", socket())
        async with aiohttp.ClientSession() as session:
            ws = await session.ws_connect(f"{engine.url}/job/listen/j-1")
            await ws.send_json({"TENSORPOOL_KEY": KEY})
            await ws.close()
            stream = Stream(ws, Secret(KEY), 1.0)
            await sinks.meet(stream.send({"TENSORPOOL_KEY": MaskedHeader(KEY)}))
    assert len(sinks.errors) == 1


# Who is sent elsewhere.


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
@pytest.mark.parametrize("foreign", [False, True])
async def test_a_redirect_is_not_followed_and_names_where_it_leads(
    scripted: ScriptedEngine,
    sinks: Sinks,
    status: int,
    foreign: bool,
) -> None:
    seen: list[bytes] = []
    async with raw_server(b"", seen) as address, aiohttp.ClientSession(headers={"X-Mine": "1"}) as session:
        headers = {"Location": f"http://{address}/{KEY}{'x' * 5000}?sig=secret"}
        for path in ("/job/listen/j-1", "/job/push", "/cluster/list"):
            scripted.handle(f"GET {path}", refused(status, headers))
        scripted.handle("POST /cluster/create", refused(status, headers))
        async with client(scripted, sinks, session=session if foreign else None) as tp:
            for call in (listening, pushing, listing, make):
                await sinks.meet(call(tp))
        assert len(sinks.errors) == 4
        for error in sinks.errors:
            assert isinstance(error, StatusError)
            assert f"http://{address}/" in str(error)
            assert "base_url" in str(error)
            assert MASK in str(error)
            assert "sig" not in str(error)
            assert len(str(error)) < 600
            assert str(error).isprintable()
        assert seen == []
    if foreign:
        assert all(request.headers["X-Mine"] == "1" for request in scripted.seen)


@pytest.mark.parametrize("foreign", [False, True])
async def test_a_websocket_of_another_place_on_the_same_host_is_not_told_the_key(
    scripted: ScriptedEngine,
    sinks: Sinks,
    foreign: bool,
) -> None:
    said: list[Any] = []

    async def elsewhere(request: web.Request) -> web.StreamResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        said.append(await ws.receive())
        return ws

    async with ScriptedEngine() as other, aiohttp.ClientSession() as session:
        other.handle("GET /job/listen/j-1", elsewhere)
        scripted.handle("GET /elsewhere", elsewhere)
        scripted.handle("GET /job/listen/j-1", refused(302, {"Location": f"{other.url}/job/listen/j-1"}))
        scripted.handle("GET /job/push", refused(302, {"Location": "/elsewhere"}))
        async with client(scripted, sinks, session=session if foreign else None) as tp:
            await sinks.meet(listening(tp))
            await sinks.meet(pushing(tp))
        assert (len(sinks.errors), said, other.seen) == (2, [], [])


@pytest.mark.parametrize("foreign", [False, True])
async def test_the_host_of_a_download_is_not_told_the_key(
    scripted: ScriptedEngine,
    sinks: Sinks,
    tmp_path: Path,
    foreign: bool,
) -> None:
    async with (
        ScriptedEngine() as store,
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as session,
    ):
        store.answer("GET /a", "text")
        store.answer("GET /b", "", status=302, headers={"Location": f"{store.url}/a"})
        store.answer(f"GET /{MASK}", "no", status=403, headers={"X-Key": KEY})
        names = {"a": f"{store.url}/a", "b": f"{store.url}/b"}
        scripted.answer("GET /job/pull/j-1", {"message": "", "download_map": names})
        scripted.answer(
            "GET /job/pull/j-2", {"message": "", "download_map": {"c": f"{store.url}/{KEY}?key={quote(KEY)}"}}
        )
        folder = tmp_path / "pulled"
        async with client(scripted, sinks, session=session if foreign else None) as tp:
            pulled = await tp.jobs.pull("j-1", folder)
            await sinks.meet(tp.jobs.pull("j-2", folder))
        assert [file.size for file in pulled] == [4, 4]
        assert len(store.seen) == 4
        assert not shows_the_key(repr(store.seen))
        assert not any("Authorization" in seen.headers for seen in store.seen)


async def test_a_delete_that_may_have_been_carried_out_is_not_called_unsent_for_its_last_attempt(
    sinks: Sinks,
) -> None:
    server = ScriptedEngine()
    async with server:
        url = server.url

        async def vanish(request: web.Request) -> web.StreamResponse:
            closing.append(asyncio.create_task(server.__aexit__(None, None, None)))
            return web.Response(status=504)

        closing: list[asyncio.Task[None]] = []
        server.handle("DELETE /cluster/c-1", vanish)
        async with TensorPool(KEY, base_url=url, retry=RetryPolicy(attempts=2, backoff=1.0)) as tp:
            await sinks.meet(tp.clusters.destroy("c-1"))
        await asyncio.gather(*closing)
    error = sinks.errors[0]
    assert isinstance(error, ConnectionFailed)
    assert error.sent


# Proxies.


@pytest.fixture
async def stranger() -> AsyncGenerator[tuple[str, list[bytes]]]:
    """Run a proxy that lets nothing through and keeps what it is told."""
    seen: list[bytes] = []
    async with raw_server(b"HTTP/1.1 502 no\r\nContent-Length: 0\r\n\r\n", seen) as address:
        yield address, seen


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy"])
@pytest.mark.parametrize("foreign", [False, True])
async def test_an_engine_on_this_machine_is_not_reached_over_a_proxy_of_the_environment(
    scripted: ScriptedEngine,
    sinks: Sinks,
    stranger: tuple[str, list[bytes]],
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    foreign: bool,
) -> None:
    monkeypatch.setenv(variable, f"http://{stranger[0]}")
    monkeypatch.setenv("no_proxy", "elsewhere.example")
    scripted.answer("GET /cluster/list", {"message": "", "clusters": []})
    scripted.handle("GET /job/listen/j-1", socket(json.dumps({"status": "success", "message": "x"})))
    async with (
        aiohttp.ClientSession(trust_env=True) as session,
        client(scripted, sinks, session=session if foreign else None) as tp,
    ):
        assert await tp.clusters.list() == []
        assert await listening(tp) == ["x"]
    assert stranger[1] == []


@pytest.mark.parametrize(
    "by", ["argument", "https_proxy", "https_proxy, session", "session", "session's header"]
)
async def test_a_proxy_is_told_its_password_and_not_the_key(
    sinks: Sinks, stranger: tuple[str, list[bytes]], monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    proxy = f"user:{PASSWORD}@{stranger[0]}"
    options: dict[str, Any] = {"trust_env": by == "https_proxy, session"}
    if by.startswith("https_proxy"):
        monkeypatch.setenv("https_proxy", proxy)
    if by.startswith("session"):
        options["proxy"] = f"http://{proxy}"
    if by == "session's header":
        options["headers"] = {"Authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(**options) as session:
        foreign = session if "session" in by else None
        async with client(
            "https://engine.example", sinks, session=foreign, proxy=proxy if by == "argument" else None
        ) as tp:
            await sinks.meet(listing(tp))
            await sinks.meet(make(tp))
            await sinks.meet(listening(tp))
    assert len(sinks.errors) == 3
    for error in sinks.errors:
        assert isinstance(error, ConnectionFailed)
        assert not error.sent
    assert len(stranger[1]) == 6
    for request in stranger[1]:
        assert request.startswith(b"CONNECT engine.example:443 ")
        if by != "session's header":
            assert base64.b64encode(f"user:{PASSWORD}".encode()) in request
        assert not shows_the_key(request.decode())
    assert PASSWORD not in "".join(sinks.texts)


async def test_a_proxy_elsewhere_does_not_see_the_key_in_the_clear(scripted: ScriptedEngine) -> None:
    with pytest.raises(ConfigurationError, match="unencrypted") as caught:
        TensorPool(KEY, base_url=scripted.url, proxy=f"http://user:{PASSWORD}@proxy.example:3128")
    assert not any(PASSWORD in text or shows_the_key(text) for text in texts_of(caught.value))
    TensorPool(KEY, base_url=scripted.url, proxy="http://proxy.example:3128", allow_insecure=True)


# What never left.


BAD_PROXIES = [
    "http://[::1",
    "socks5://127.0.0.1:1",
    "http://",
    "http://a..b:1",
    "ftp://p:1",
    "http://h:99999",
    "a b",
]


@pytest.mark.parametrize("proxy", BAD_PROXIES)
@pytest.mark.parametrize("variable", ["https_proxy", "HTTPS_PROXY"])
async def test_a_proxy_that_cannot_be_used_is_an_error_that_names_its_variable(
    sinks: Sinks, monkeypatch: pytest.MonkeyPatch, variable: str, proxy: str
) -> None:
    monkeypatch.setenv(variable, proxy)
    async with client("https://engine.example", sinks) as tp:
        for call in (listing, make, listening):
            with pytest.raises(ConfigurationError, match=variable):
                await call(tp)
        with pytest.raises(ConfigurationError, match=variable):
            await asyncio.wait_for(tp.operation("r-1").result(), 5)
        assert [entry.outcome for entry in await tp.journal_entries(ended=True)] == ["not made"]
    with pytest.raises(ConfigurationError, match="passed as proxy"):
        TensorPool(KEY, base_url="https://engine.example", proxy=proxy)


async def test_a_proxy_without_a_scheme_is_an_http_proxy(
    sinks: Sinks, stranger: tuple[str, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", stranger[0])
    async with client("https://engine.example", sinks) as tp:
        await sinks.meet(make(tp))
    assert isinstance(sinks.errors[0], ConnectionFailed)
    assert not sinks.errors[0].sent
    assert stranger[1][0].startswith(b"CONNECT engine.example:443 HTTP/1.1\r\n")


class Broken(aiohttp.TCPConnector):
    """Fails in a way that no connector should."""

    def __init__(self, error: Exception) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType] - its sockets have no full type
        self.error = error

    async def connect(self, *_: Any, **__: Any) -> Any:
        raise self.error


UNSENT = [
    ValueError(f"what {KEY}"),
    TypeError("what"),
    RuntimeError("what"),
    LookupError("what"),
    AssertionError("what"),
    UnicodeError("label too long"),
    OSError("what"),
    aiohttp.InvalidURL("http://x"),
    aiohttp.ClientPayloadError("what"),
    aiohttp.ServerDisconnectedError(),
    aiohttp.ClientConnectionError("what"),
    TimeoutError(),
]


@pytest.mark.parametrize("error", UNSENT, ids=lambda error: type(error).__name__)
async def test_what_never_left_is_never_called_sent(
    scripted: ScriptedEngine, sinks: Sinks, error: Exception
) -> None:
    async with (
        aiohttp.ClientSession(connector=Broken(error)) as session,
        client(scripted, sinks, session=session) as tp,
    ):
        for call in (make, listing, listening):
            await sinks.meet(call(tp))
        assert [entry.outcome for entry in await tp.journal_entries(ended=True)] != []
    assert len(sinks.errors) == 3
    for one in sinks.errors:
        assert isinstance(one, ConnectionFailed)
        assert not one.sent


async def test_a_closed_session_of_the_callers_is_named(scripted: ScriptedEngine, sinks: Sinks) -> None:
    session = aiohttp.ClientSession()
    async with client(scripted, sinks, session=session) as tp:
        scripted.answer("GET /cluster/list", {"message": "", "clusters": []})
        assert await tp.clusters.list() == []
        await session.close()
        for call in (make, listing, listening):
            await sinks.meet(call(tp))
    assert [(type(one), getattr(one, "sent", None)) for one in sinks.errors] == [
        (ConnectionFailed, False)
    ] * 3


async def test_ssl_options_that_are_none_are_never_called_sent(sinks: Sinks) -> None:
    options: dict[str, Any] = {"ssl": "no context"}
    async with client("https://127.0.0.1:9", sinks, **options) as tp:
        await sinks.meet(make(tp))
    assert isinstance(sinks.errors[0], ConnectionFailed)
    assert not sinks.errors[0].sent


@pytest.mark.parametrize("what", ["trace", "raise_for_status", "raise_for_status that raises"])
async def test_what_has_left_is_never_called_unsent_whatever_the_session_of_the_caller_does(
    scripted: ScriptedEngine, sinks: Sinks, what: str
) -> None:
    async def fail(*_: Any) -> None:
        raise ValueError(what)

    options: dict[str, Any] = {}
    if what == "trace":
        trace = aiohttp.TraceConfig()
        trace.on_request_end.append(fail)
        options["trace_configs"] = [trace]
    else:
        options["raise_for_status"] = fail if what.endswith("raises") else True
    scripted.answer("POST /cluster/create", "late", status=504)
    scripted.answer("GET /cluster/list", {"message": "", "clusters": []})
    async with aiohttp.ClientSession(**options) as session, client(scripted, sinks, session=session) as tp:
        await sinks.meet(tp.storage.edit("s-1", size_gb=3))
        await sinks.meet(tp.clusters.edit("c-1", name="x"))
    assert all(seen.method != "PATCH" or scripted.count(f"PATCH {seen.path}") == 1 for seen in scripted.seen)
    for error in sinks.errors:
        assert isinstance(error, TensorPoolError)
        assert not isinstance(error, ConnectionFailed) or error.sent


# Where the user gives it in a wrong place, and what the command shows.


@pytest.mark.parametrize(
    "wrong",
    [
        {"api_key": f"{KEY} {KEY}"},
        {"api_key": f"{KEY}\n{KEY}"},
        {"api_key": KEY, "base_url": "ftp://engine.example"},
        {"api_key": KEY, "base_url": "http://engine.example"},
        {"api_key": KEY, "proxy": "http://[::1"},
    ],
)
def test_an_error_of_the_configuration_does_not_show_the_key(wrong: dict[str, str]) -> None:
    hidden: dict[str, Any] = {name: Hidden(text) for name, text in wrong.items()}
    wrong.clear()
    with pytest.raises(ConfigurationError) as caught:
        TensorPool(**hidden)
    assert not any(shows_the_key(text) for text in texts_of(caught.value))


class Hidden(str):
    """A text that the frames of a test do not show."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "hidden"


@pytest.mark.parametrize("source", ["environment", ".env"])
def test_an_error_says_where_the_key_came_from(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if source == "environment":
        monkeypatch.setenv("TENSORPOOL_KEY", f"{KEY} {KEY}")
    else:
        (tmp_path / ".env").write_text(f"TENSORPOOL_KEY='{KEY} {KEY}'")
    with pytest.raises(ConfigurationError, match=source) as caught:
        TensorPool()
    assert not any(shows_the_key(text) for text in texts_of(caught.value))


def test_an_error_says_where_the_address_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORPOOL_ENGINE", "https://engine..example")
    with pytest.raises(ConfigurationError, match=r"cannot exist.*TENSORPOOL_ENGINE"):
        TensorPool(KEY)


async def test_a_key_that_is_given_as_an_id_or_a_name_is_not_shown(
    scripted: ScriptedEngine, sinks: Sinks
) -> None:
    scripted.answer("POST /cluster/create", "late", status=504)
    scripted.answer("GET /cluster/list", "late", status=504)
    sinks.variables = False  # the caller's own argument is in the caller's frames anyway
    async with client(scripted, sinks) as tp:
        await sinks.meet(tp.clusters.get(KEY))
        await sinks.meet(tp.clusters.destroy(KEY))
        await sinks.meet(tp.clusters.create("1xH100", name=KEY))
    assert len(sinks.errors) == 3


def test_a_client_does_not_show_its_key() -> None:
    tp = TensorPool(KEY)
    transport: Any = vars(tp)["_transport"]
    shown = [repr(tp), str(tp), repr(vars(tp))]
    shown += [repr(cast("dict[str, object]", vars(part))) for part in (transport, transport.sessions)]
    assert not any(shows_the_key(text) for text in shown)


@pytest.mark.parametrize("arguments", [("ls",), ("ls", "--json"), ("wait", "r-1"), ("wait", "r-1", "--json")])
async def test_the_command_does_not_show_the_key(
    scripted: ScriptedEngine, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    cluster = (
        '{"cluster_id": "c-1", "tp_cluster_name": "KEY", "status": "KEY", "instance_type": "KEY", "x": "KEY"}'
    )
    for form in (FORMS["JSON"], FORMS["as it is"], FORMS["HTML"]):
        scripted.answer(
            "GET /cluster/list",
            json_with(form, f'{{"message": "KEY", "clusters": [{cluster}]}}'),
            headers={"X-Key": KEY},
        )
        said = json_with(
            form,
            '{"request_id": "KEY", "request_type": "KEY", "status": "FAILED", "external_message": "KEY"}',
        )
        scripted.answer("GET /request/info/r-1", said, headers={"X-Key": KEY})
    environment = {**os.environ, "TENSORPOOL_KEY": KEY, "TENSORPOOL_ENGINE": scripted.url}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tensorpool_async",
        *arguments,
        cwd=tmp_path,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert MASK in out.decode() + err.decode()
    assert not shows_the_key(out.decode() + err.decode())
