"""What an object store may answer to a pull, and what links do to its folder: a file is whole, in its place, or an error."""

from __future__ import annotations

import asyncio
import errno
import gzip
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import pytest

from tensorpool_async import (
    ConnectionFailed,
    DecodeError,
    NotFound,
    PathRefused,
    RetryPolicy,
    StatusError,
    TensorPool,
    TensorPoolError,
)
from tensorpool_async.events import BytesPulled
from tensorpool_async.resources import download_folder
from tests.support.scripted import ScriptedEngine


QUICK = RetryPolicy(attempts=4, backoff=0.01, longest_backoff=0.02)
DATA = bytes(range(256)) * 1000
HALF = len(DATA) // 2


@attrs.frozen
class Asked:
    """One request to the store: its first line, and its headers by lower-case name."""

    line: str
    headers: dict[str, str]


Script = Callable[[Asked, int], bytes]


@asynccontextmanager
async def listening(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncGenerator[str]:
    """Serve connections, each of which is closed at the end of `serve`, and wait for all of them."""
    going: set[asyncio.Task[Any]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        going.add(task)
        try:
            await serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client has hung up
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await asyncio.gather(*going, return_exceptions=True)


@asynccontextmanager
async def store(script: Script) -> AsyncGenerator[tuple[str, list[Asked]]]:
    """Answer each request with the bytes that the script makes of it, and hang up."""
    asked: list[Asked] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *rest = head.split("\r\n")
        fields = [one.partition(": ") for one in rest if one]
        asked.append(Asked(line, {name.lower(): value for name, _, value in fields}))
        writer.write(script(asked[-1], len(asked)))
        await writer.drain()
        await asyncio.sleep(
            0.1 if len(asked) == 1 else 0.01
        )  # so that what was sent is read before the connection is seen to be gone

    async with listening(serve) as url:
        yield url, asked


def answer(status: str, body: bytes, /, *, length: int | None = -1, **headers: str) -> bytes:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    if length is not None:
        fields["Content-Length"] = str(len(body) if length == -1 else length)
    fields["Connection"] = "close"
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode("latin-1") + body


CUT = answer("200 OK", DATA[:HALF], length=len(DATA), ETag='"v1"')
WHOLE = answer("200 OK", DATA, ETag='"v1"')


def rest(
    start: int,
    *,
    first: int = 0,
    last: int = 0,
    total: object = len(DATA),
    etag: str = '"v1"',
    **headers: str,
) -> bytes:
    """Answer with what follows `start`; `first` and `last` say by how much its Content-Range is wrong."""
    span = f"bytes {start + first}-{len(DATA) - 1 + last}/{total}"
    return answer(
        "206 Partial Content", DATA[start:], length=-1, **{"ETag": etag, "Content_Range": span, **headers}
    )


async def pull(engine: ScriptedEngine, addresses: dict[str, Any], to: Path, **options: Any) -> Any:
    engine.answer("GET /job/pull/j-1", {"message": "", "download_map": addresses})
    async with TensorPool("the-key-of-all", base_url=engine.url, retry=QUICK, **options) as tp:
        return await tp.jobs.pull("j-1", to)


def left(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


SECOND: dict[str, Callable[[int], bytes]] = {
    "the rest": rest,
    "another part": lambda start: rest(start, first=-1, last=-1),
    "the beginning": lambda start: rest(start, first=-start, last=-start),
    "a longer file": lambda start: rest(start, total=len(DATA) + 7),
    "of an unknown length": lambda start: rest(start, total="*"),
    "another version": lambda start: rest(start, etag='"v2"'),
    "a weak etag": lambda start: rest(start, etag='W/"v1"'),
    "no etag": lambda start: rest(start, etag=""),
    "a range of a 416": lambda start: rest(start, Content_Range="bytes */100"),
    "another unit": lambda start: rest(start, Content_Range="chapters 1-2/3"),
    "huge": lambda start: rest(start, Content_Range=f"bytes {start}-{'9' * 30}/{'9' * 31}"),
    "empty": lambda start: rest(start, Content_Range=f"bytes {start}-{start - 1}/{len(DATA)}"),
    "no range": lambda start: answer("206 Partial Content", DATA[start:], ETag='"v1"'),
    "a lie about its length": lambda start: answer(
        "206 Partial Content",
        b"x" * 5,
        ETag='"v1"',
        Content_Range=f"bytes {start}-{len(DATA) - 1}/{len(DATA)}",
    ),
    "several parts": lambda _: answer(
        "206 Partial Content",
        b"--b\r\nContent-Range: bytes 0-1/9\r\n\r\nxx\r\n--b--",
        ETag='"v1"',
        Content_Type="multipart/byteranges; boundary=b",
    ),
    "416": lambda _: answer("416 Range Not Satisfiable", b"", Content_Range="bytes */3"),
    "all of it": lambda _: WHOLE,
    "all of a new version": lambda _: answer("200 OK", DATA, ETag='"v3"'),
    "cut chunks": lambda _: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n",
    "no length": lambda _: b"HTTP/1.1 200 OK\r\n\r\n" + DATA[:100],
    "cut again": lambda _: answer("200 OK", DATA[:9], length=len(DATA)),
    "nonsense": lambda _: b"nonsense\r\n\r\n",
    "nothing": lambda _: b"",
}


@pytest.mark.parametrize("second", SECOND.values(), ids=SECOND)
async def test_whatever_answers_a_resume_the_file_is_whole(
    second: Callable[[int], bytes], scripted: ScriptedEngine, tmp_path: Path
) -> None:
    def script(asked: Asked, number: int) -> bytes:
        if number == 2:
            return second(int(asked.headers["range"].removeprefix("bytes=").removesuffix("-")))
        return CUT if number == 1 else WHOLE

    async with store(script) as (url, asked):
        await pull(scripted, {"f": f"{url}/f"}, tmp_path)
    assert left(tmp_path) == {"f": DATA}
    assert "range" not in asked[0].headers
    assert asked[1].headers["if-range"] == '"v1"'
    assert all(one.line == "GET /f HTTP/1.1" for one in asked)


async def test_a_rest_is_put_behind_what_is_there(scripted: ScriptedEngine, tmp_path: Path) -> None:
    def script(asked: Asked, number: int) -> bytes:
        return (
            CUT if number == 1 else rest(int(asked.headers["range"].removeprefix("bytes=").removesuffix("-")))
        )

    async with store(script) as (url, asked):
        await pull(scripted, {"f": f"{url}/f"}, tmp_path)
    assert (left(tmp_path), len(asked)) == ({"f": DATA}, 2)


async def test_a_weak_etag_is_nothing_to_go_on_with(scripted: ScriptedEngine, tmp_path: Path) -> None:
    weak = answer("200 OK", DATA[:HALF], length=len(DATA), ETag='W/"v1"')
    async with store(lambda _, number: weak if number == 1 else WHOLE) as (url, asked):
        await pull(scripted, {"f": f"{url}/f"}, tmp_path)
    assert left(tmp_path) == {"f": DATA}
    assert "range" not in asked[1].headers


@pytest.mark.parametrize(
    "always",
    [
        rest(HALF, first=-HALF, last=-HALF),
        rest(0),
        answer("206 Partial Content", DATA),
        b"HTTP/1.1 200 OK\r\n\r\n" + DATA,
        answer("204 No Content", b"", length=None),
        answer("203 Non-Authoritative Information", DATA),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n",
        answer("200 OK", DATA, length=len(DATA) + 1, ETag='"v1"'),
        answer("416 Range Not Satisfiable", b""),
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nabcde",
        b"\x00\x01\x02\r\n\r\n",
    ],
)
async def test_a_file_that_nobody_can_call_whole_is_an_error_and_leaves_nothing(
    always: bytes, scripted: ScriptedEngine, tmp_path: Path
) -> None:
    async with store(lambda _, __: always) as (url, asked):
        with pytest.raises((ConnectionFailed, DecodeError, StatusError)) as caught:
            await pull(scripted, {"my file": f"{url}/f?signature=sesame"}, tmp_path)
    assert left(tmp_path) == {}
    assert len(asked) <= QUICK.attempts
    assert "my file" in str(caught.value.__notes__)
    assert "sesame" not in repr(caught.value) + str(caught.value)


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "zstd", "made-up"])
async def test_an_object_with_an_encoding_is_brought_as_it_is_stored(
    encoding: str, scripted: ScriptedEngine, tmp_path: Path
) -> None:
    stored = gzip.compress(DATA)
    async with store(lambda _, __: answer("200 OK", stored, Content_Encoding=encoding)) as (url, asked):
        (file,) = await pull(scripted, {"f.gz": f"{url}/f"}, tmp_path)
    assert left(tmp_path) == {"f.gz": stored}
    assert file.size == len(stored)
    assert asked[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    "target",
    [
        "/a%2fb//c/../d%20e?X-Sig=%2b+a%7E~&y=%7e&z&=&x=a%26b",
        "/%E2%82%AC/%zz?a=b?c=d",
        "/a|b^{}`\"<>?q='()*!$,;:@",
        "//double",
    ],
)
async def test_an_address_is_sent_byte_for_byte(
    target: str, scripted: ScriptedEngine, tmp_path: Path
) -> None:
    async with store(lambda _, __: answer("200 OK", b"data")) as (url, asked):
        await pull(scripted, {"f": url + target}, tmp_path)
    assert asked[0].line == f"GET {target} HTTP/1.1"
    assert "the-key-of-all" not in repr(asked)
    assert "authorization" not in asked[0].headers


@pytest.mark.parametrize(
    "address",
    [
        "",
        "//x",
        "/etc/passwd",
        "relative/path?sesame",
        "file:///etc/passwd",
        "ftp://example/x",
        "data:text/plain,x",
        "javascript:alert(1)",
        "http:",
        "http://",
        "http:///x",
        "http://:80/x",
        "http://user:sesame@127.0.0.1/x",
        "http://@127.0.0.1/x",
        "http://[::1/x",
        "http://[zz]/x",
        "http://127.0.0.1:99999/x",
        "http://127.0.0.1:port/x",
        "http://127.0.0.1/a b",
        "http://127.0.0.1/x\r\nHost: evil",
        "http://127.0.0.1/\x00",
        "http://127.0.0.1/ä",
        "http://exämple/x",
        "http://\ud800/x",
        "http://127.0.0.1/x#sesame",
        "http://127.0.0.1\\@evil/x",
        " http://127.0.0.1/x",
        "http://127.0.0.1/" + "x" * 100_000,
        "http://" + "a" * 300 + "/x",
        "http://a..b/x",
        "http://127.0.0.1:0/x",
    ],
)
async def test_an_address_that_is_none_is_an_error_that_names_the_file(
    address: str, scripted: ScriptedEngine, tmp_path: Path
) -> None:
    with pytest.raises(TensorPoolError) as caught:
        await pull(scripted, {"my file": address}, tmp_path)
    assert isinstance(caught.value, ConnectionFailed)
    assert "my file" in f"{caught.value} {getattr(caught.value, '__notes__', '')}"
    assert "sesame" not in str(caught.value)
    assert not isinstance(caught.value, BaseExceptionGroup)
    assert left(tmp_path) == {}


async def test_all_addresses_are_checked_before_the_first_byte(
    scripted: ScriptedEngine, tmp_path: Path
) -> None:
    async with store(lambda _, __: WHOLE) as (url, asked):
        with pytest.raises(ConnectionFailed, match="'b' is not an http"):
            await pull(scripted, {"a": f"{url}/a", "b": "file:///etc/passwd"}, tmp_path)
    assert (left(tmp_path), asked) == ({}, [])


def moved(location: str) -> Script:
    def script(asked: Asked, _: int) -> bytes:
        if asked.line.startswith("GET /old"):
            return answer("307 Temporary Redirect", b"", Location=location)
        return answer("200 OK", asked.line.encode())

    return script


@pytest.mark.parametrize(
    ("location", "line"),
    [("/new?Sig=%2b%7E", "GET /new?Sig=%2b%7E HTTP/1.1"), ("new", "GET /new HTTP/1.1")],
)
async def test_a_redirect_is_followed_byte_for_byte(
    location: str, line: str, scripted: ScriptedEngine, tmp_path: Path
) -> None:
    async with store(moved(location)) as (url, asked):
        await pull(scripted, {"f": f"{url}/old"}, tmp_path)
    assert left(tmp_path) == {"f": line.encode()}
    assert "the-key-of-all" not in repr(asked)


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "ftp://x/y",
        "data:,x",
        "http://user:sesame@127.0.0.1/",
        "http://[::1",
        "http://127.0.0.1/\x7f",
        "",
        "/old/again",
        "javascript:x",
    ],
)
async def test_a_redirect_to_elsewhere_is_an_error(
    location: str, scripted: ScriptedEngine, tmp_path: Path
) -> None:
    async with store(moved(location)) as (url, asked):
        with pytest.raises(ConnectionFailed) as caught:
            await pull(scripted, {"f": f"{url}/old"}, tmp_path)
    assert len(asked) <= 6
    assert "sesame" not in str(caught.value)
    assert left(tmp_path) == {}


async def test_a_store_that_knows_nothing_says_so_without_the_signature(
    scripted: ScriptedEngine, tmp_path: Path
) -> None:
    gone = answer("404 Not Found", gzip.compress(b"gone"), Content_Encoding="gzip")
    async with store(lambda _, __: gone) as (url, _):
        with pytest.raises(NotFound, match="404: gone") as caught:
            await pull(scripted, {"f": f"{url}/f?sesame"}, tmp_path)
    assert "sesame" not in str(caught.value) + repr(vars(caught.value))


@pytest.mark.parametrize(
    "names",
    [
        ["a\x00b", "good"],
        ["\ud800", "good"],
        ["x/", "x/y", "good"],
        ["a", "a/b", "good"],
        ["a" * 300, "good"],
        ["/".join(["d" * 100] * 50), "good"],
        ["", "good"],
        ["a", "./a", "good"],
        ["\u00e9", "e\u0301", "Model.pt", "model.PT", "good"],
        ["ein\nzeiler", "good"],
        [".tpa-0123456789abcdef01234567.part", "good"],
    ],
)
async def test_a_name_that_cannot_be_held_stops_no_other(
    names: list[str], scripted: ScriptedEngine, tmp_path: Path
) -> None:
    def script(asked: Asked, _: int) -> bytes:
        return answer("200 OK", asked.line.split()[1].encode())

    async with store(script) as (url, _):
        addresses = {name: f"{url}/{number}" for number, name in enumerate(names)}
        first = await pull(scripted, addresses, tmp_path / "to")
        again = await pull(scripted, addresses, tmp_path / "to")
    assert [file.name for file in first] == names
    for number, file in enumerate(first):
        if file.skipped:
            assert file.note.startswith("skipped: ")
            continue
        assert file.path.read_bytes() == f"/{number}".encode()
        assert file.note.startswith("renamed: ") == (file.path != tmp_path / "to" / file.name)
    there = [file.path for file in first if not file.skipped]
    assert len(set(there)) == len(there)
    assert [(file.path, file.downloaded) for file in again] == [(file.path, False) for file in first]
    assert left(tmp_path / "to")["good"]


@pytest.fixture(params=["by descriptor", "by path"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test as on Linux, and as where no descriptor of a folder can be had."""
    monkeypatch.setattr(download_folder, "BY_DESCRIPTOR", request.param == "by descriptor")
    return str(request.param)


async def swapped(engine: ScriptedEngine, name: str, to: Path, swap: Callable[[], Awaitable[None]]) -> Any:
    """Pull a file, and change the folder while it is on its way; return what was pulled, or the error."""
    going, go_on = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(CUT)
        await writer.drain()
        going.set()
        await go_on.wait()
        writer.write(DATA[HALF:])
        await writer.drain()

    async with listening(serve) as url:
        pulling = asyncio.create_task(pull(engine, {name: f"{url}/f"}, to))
        await going.wait()
        await swap()
        go_on.set()
        return (await asyncio.gather(pulling, return_exceptions=True))[0]


@pytest.mark.parametrize("name", ["sub/f", "sub/deep/f"])
async def test_a_folder_that_becomes_a_link_on_the_way_leads_nowhere(
    name: str, way: str, scripted: ScriptedEngine, tmp_path: Path
) -> None:
    to, outside = tmp_path / "to", tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)

    async def swap() -> None:
        (to / "sub").rename(tmp_path / "moved")
        (to / "sub").symlink_to(outside)

    error = await swapped(scripted, name, to, swap)
    assert isinstance(error, PathRefused), error
    assert left(outside) == {}, way
    if way == "by descriptor":
        assert left(tmp_path / "moved") == {}, "nor is anything left where the folder has gone"


async def test_a_link_at_the_place_of_a_file_is_replaced_and_not_followed(
    way: str, scripted: ScriptedEngine, tmp_path: Path
) -> None:
    to, outside = tmp_path / "to", tmp_path / "outside"
    outside.write_bytes(b"mine")

    async def swap() -> None:
        (to / "f").symlink_to(outside)

    await swapped(scripted, "f", to, swap)
    assert outside.read_bytes() == b"mine", way
    assert (to / "f").read_bytes() == DATA
    assert not (to / "f").is_symlink()


async def test_a_folder_at_the_place_of_a_file_on_the_way_is_told(
    way: str, scripted: ScriptedEngine, tmp_path: Path
) -> None:
    async def swap() -> None:
        (tmp_path / "f").mkdir()

    (file,) = await swapped(scripted, "f", tmp_path, swap)
    assert (file.skipped, file.downloaded) == (True, False), way
    assert file.note.startswith("skipped: ")
    assert left(tmp_path) == {}


@pytest.mark.parametrize("inside", [True, False])
async def test_a_link_that_is_there_is_not_followed(
    inside: bool, way: str, scripted: ScriptedEngine, tmp_path: Path
) -> None:
    to = tmp_path / "to"
    other = to / "other" if inside else tmp_path / "outside"
    other.mkdir(parents=True)
    (to).mkdir(exist_ok=True)
    (to / "sub").symlink_to(other)
    with pytest.raises(PathRefused, match="link"):
        await pull(scripted, {"sub/f": "http://127.0.0.1:9/f"}, to)
    assert left(tmp_path) == {}, way


async def test_the_folder_itself_may_be_a_link(way: str, scripted: ScriptedEngine, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "to").symlink_to(tmp_path / "real")
    async with store(lambda _, __: WHOLE) as (url, _asked):
        await pull(scripted, {"a/f": f"{url}/f"}, tmp_path / "to")
    assert left(tmp_path / "real") == {"a/f": DATA}, way


async def test_a_full_disk_is_told_as_such_and_nothing_is_asked_for_again(
    scripted: ScriptedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("anyio.AsyncFile.write", full)
    async with store(lambda _, __: WHOLE) as (url, asked):
        with pytest.raises(OSError, match="No space left") as caught:
            await pull(scripted, {"f": f"{url}/f"}, tmp_path)
    assert caught.value.errno == errno.ENOSPC
    assert (left(tmp_path), len(asked)) == ({}, 1)


async def test_a_folder_that_cannot_be_written_to_is_no_group_of_errors(
    scripted: ScriptedEngine, tmp_path: Path
) -> None:
    (tmp_path / "to").write_bytes(b"a file")
    with pytest.raises(OSError, match="to"):
        await pull(scripted, {"f": "http://127.0.0.1:9/f", "g": "http://127.0.0.1:9/g"}, tmp_path / "to")


async def test_no_descriptor_is_left_open(scripted: ScriptedEngine, tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    async with store(lambda _, number: WHOLE if number > 10 else b"") as (url, _):
        await pull(scripted, {f"d{n}/e/f": f"{url}/{n}" for n in range(30)}, tmp_path)
    assert len(left(tmp_path)) == 30
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 3


async def test_names_and_notes_are_told(
    scripted: ScriptedEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    events: list[Any] = []
    async with store(lambda _, __: WHOLE) as (url, _):
        await pull(scripted, {"a\x1b[31m\nb": f"{url}/f"}, tmp_path, on_event=events.append)
    (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert re.fullmatch(r"[ -~]+", record.getMessage()), "in one line, and obeyed by no terminal"
    assert [event.name for event in events if isinstance(event, BytesPulled) and event.done] == [
        "a\x1b[31m\nb"
    ]
