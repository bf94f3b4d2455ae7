"""What an answer may hold and how long a call may take, whatever the other side does (design, section 3)."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tensorpool_async import (
    AmbiguousOutcomeError,
    DecodeError,
    NotFound,
    PollPolicy,
    RateLimited,
    RequestTimeout,
    RetryPolicy,
    ServerError,
    StatusError,
    StreamError,
    TensorPool,
    TensorPoolError,
    Timeouts,
)
from tensorpool_async.emulator import Emulator
from tensorpool_async.transport.bodies import LARGEST_SMALL
from tests.hostile import (
    MEGABYTE,
    OK,
    Answer,
    after_request,
    bomb,
    dripping,
    flood,
    frame,
    hostile,
    many_members,
    request_of,
    silence,
    websocket,
)
from tests.support.scripted import ScriptedEngine


KEY = "bounds-key"
ONCE = RetryPolicy(attempts=1)
SHORT = Timeouts(connect=1.0, read=1.0)
AT_MOST = 5.0
"""Seconds: 3 are promised, and a machine that is at its limit is slow."""

MOST_MEMORY = 300 * 1024
"""KiB."""

CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
CHUNK = b"100000\r\n" + b" " * MEGABYTE + b"\r\n"

CLIENT = """
import asyncio, re, sys
from tensorpool_async import *

async def main():
    async with TensorPool("bounds-key", base_url=sys.argv[1], retry=RetryPolicy(attempts=1)) as tp:
        try:
            await eval(sys.argv[2])
        except TensorPoolError as error:
            print(type(error).__name__, str(error)[:200])

asyncio.run(main())
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""

LIST = "tp.clusters.list()"


async def until_refused(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """Read and never answer, as a proxy that hangs."""
    await request_of(reader)
    await asyncio.sleep(600)


GIANTS: dict[str, tuple[Callable[[], Answer], str, str]] = {
    "plain": (
        lambda: after_request(flood(OK + b"Content-Length: 1073741824\r\n\r\n", b" " * MEGABYTE, 1024)),
        LIST,
        "DecodeError the answer is larger than",
    ),
    "endless": (lambda: after_request(flood(CHUNKED, CHUNK)), LIST, "DecodeError the answer is larger than"),
    "to the end of the connection": (
        lambda: after_request(flood(OK + b"Connection: close\r\n\r\n", b"[" * MEGABYTE)),
        LIST,
        "DecodeError the answer is larger than",
    ),
    "gzip": (lambda: after_request(bomb("gzip")), LIST, "DecodeError the answer is larger than"),
    "deflate": (lambda: after_request(bomb("deflate")), LIST, "DecodeError the answer is larger than"),
    "raw deflate": (lambda: after_request(bomb("raw")), LIST, "DecodeError the answer is larger than"),
    "members": (lambda: after_request(many_members()), LIST, "DecodeError the answer is larger than"),
    "brotli": (
        lambda: after_request(flood(OK + b"Content-Encoding: br\r\nContent-Length: 8\r\n\r\n", b"[" * 8, 1)),
        LIST,
        "DecodeError the answer cannot be decompressed: the encoding 'br'",
    ),
    "zstd": (
        lambda: after_request(
            flood(OK + b"Content-Encoding: zstd\r\nContent-Length: 8\r\n\r\n", b"[" * 8, 1)
        ),
        LIST,
        "DecodeError the answer cannot be decompressed: the encoding 'zstd'",
    ),
    "one header": (lambda: after_request(flood(OK + b"X-A: ", b"b" * MEGABYTE)), LIST, "ConnectionFailed"),
    "headers": (lambda: after_request(flood(OK, b"X-A: b\r\n" * 10_000)), LIST, "ConnectionFailed"),
    "trailers": (
        lambda: after_request(flood(CHUNKED + b"0\r\n", b"X-A: b\r\n" * 10_000)),
        LIST,
        "ConnectionFailed",
    ),
    "refusal": (
        lambda: after_request(
            flood(b"HTTP/1.1 409 No\r\nContent-Length: 1073741824\r\n\r\n", b"a" * MEGABYTE)
        ),
        LIST,
        "ConflictError 409: aaa",
    ),
    "compressed refusal": (
        lambda: after_request(bomb("gzip", status=b"500 No")),
        LIST,
        "ServerError 500: ",
    ),
    "deeply nested": (
        lambda: after_request(flood(OK + b"Content-Length: 1000000\r\n\r\n", b"[" * 1_000_000, 1)),
        LIST,
        "DecodeError the answer is no JSON",
    ),
    "a number of a million digits": (
        lambda: after_request(flood(OK + b"Content-Length: 1000000\r\n\r\n", b"9" * 1_000_000, 1)),
        LIST,
        "DecodeError the answer is no JSON",
    ),
    "a create": (
        lambda: after_request(flood(CHUNKED, CHUNK)),
        "tp.clusters.create('8xH100', name='a')",
        "AmbiguousOutcomeError",
    ),
    "a message": (
        lambda: websocket(flood(frame(b"", size=1 << 30), b" " * MEGABYTE)),
        "tp.jobs.push('a = 1', 'c-1')",
        "StreamError",
    ),
    "a compressed message": (
        lambda: websocket(flood(frame(b"\x00" * 1000, first=0xC1), b"", 0)),
        "tp.jobs.push('a = 1', 'c-1')",
        "StreamError",
    ),
    "fragments": (
        lambda: websocket(flood(frame(b" " * MEGABYTE, first=0x01), frame(b" " * MEGABYTE, first=0x00))),
        "tp.jobs.push('a = 1', 'c-1')",
        "StreamError",
    ),
    "a deeply nested message": (
        lambda: websocket(flood(frame(b"[" * MEGABYTE), b"", 0)),
        "tp.jobs.push('a = 1', 'c-1')",
        "StreamError the engine sent a message that is no JSON",
    ),
}


async def run_client(url: str, call: str) -> tuple[str, int]:
    """Make one call in a process of its own; return what it met, and the most memory that it took, in KiB."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CLIENT, url, call, stdout=asyncio.subprocess.PIPE
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), 60)
    except TimeoutError:
        process.kill()
        raise
    *met, memory = output.decode().splitlines()
    return " ".join(met), int(memory)


@pytest.mark.timeout(120)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the memory of a process is read there")
@pytest.mark.parametrize("kind", GIANTS)
async def test_no_answer_takes_the_memory(kind: str) -> None:
    answer, call, expected = GIANTS[kind]
    async with hostile(answer()) as url:
        met, memory = await run_client(url, call)
    print(f"{kind}: {memory / 1024:.0f} MiB, {met[:60]}")  # noqa: T201 - with -rP it is a table
    assert met.startswith(expected)
    assert memory < MOST_MEMORY, f"{memory / 1024:.0f} MiB"


SILENCES: dict[str, tuple[Answer, type[TensorPoolError]]] = {
    "the request is not read": (silence, RequestTimeout),
    "headers drip": (after_request(dripping(OK, b"X-A: b\r\n")), RequestTimeout),
    "100 without end": (after_request(dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n")), RequestTimeout),
    "103 as fast as it goes": (
        after_request(flood(b"", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 100)),
        RequestTimeout,
    ),
    "the body drips": (after_request(dripping(OK + b"Content-Length: 100000\r\n\r\n", b" ")), RequestTimeout),
    "chunks drip": (after_request(dripping(CHUNKED, b"1\r\n \r\n")), RequestTimeout),
    "trailers drip": (after_request(dripping(CHUNKED + b"0\r\n", b"X-A: b\r\n")), RequestTimeout),
    "an error's body drips": (
        after_request(dripping(b"HTTP/1.1 500 No\r\nContent-Length: 100000\r\n\r\n", b"a")),
        ServerError,
    ),
    "a refusal's body never comes": (
        after_request(dripping(b"HTTP/1.1 404 No\r\nContent-Length: 100000\r\n\r\n", b"")),
        NotFound,
    ),
}


@pytest.mark.parametrize("foreign", [False, True], ids=["own session", "session of the caller's"])
@pytest.mark.parametrize("kind", SILENCES)
async def test_no_call_waits_for_an_engine_that_stalls(kind: str, *, foreign: bool) -> None:
    answer, error = SILENCES[kind]
    async with hostile(answer) as url, AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession()) if foreign else None
        tp = await stack.enter_async_context(
            TensorPool(KEY, base_url=url, timeouts=SHORT, retry=ONCE, session=session)
        )
        began = time.monotonic()
        with pytest.raises(error):
            await tp.clusters.list()
        assert time.monotonic() - began < AT_MOST
        assert tp.statistics().limiter.in_flight == 0


async def test_what_drips_holds_no_slot_from_a_destroy() -> None:
    destroyed: list[float] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await request_of(reader)
        if head.startswith(b"DELETE"):
            destroyed.append(time.monotonic())
            writer.write(b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
            return
        writer.write(CHUNKED)
        while True:
            writer.write(b"1\r\n \r\n")
            await asyncio.sleep(0.2)

    async with (
        hostile(answer) as url,
        TensorPool(KEY, base_url=url, retry=ONCE) as tp,
    ):
        reads = [asyncio.ensure_future(tp.clusters.list()) for _ in range(96)]
        while tp.statistics().limiter.in_flight < tp.limiter.max_in_flight:
            await asyncio.sleep(0.01)
        began = time.monotonic()
        await asyncio.gather(*(tp.clusters.destroy(f"c-{index}") for index in range(5)))
        assert max(destroyed) - began < 10.0 + 2.0, "8 seconds, whatever `Timeouts.read` is"
        for read in reads:
            read.cancel()
        await asyncio.gather(*reads, return_exceptions=True)


async def test_a_long_answer_that_keeps_coming_is_waited_for() -> None:
    clusters = b'{"clusters": []}'

    async def pieces() -> AsyncIterator[bytes]:
        yield OK + b"Content-Length: %d\r\n\r\n" % (20 * 40_000 + len(clusters))
        for _ in range(20):
            yield b" " * 40_000
            await asyncio.sleep(0.1)
        yield clusters

    async with (
        hostile(after_request(pieces)) as url,
        TensorPool(KEY, base_url=url, timeouts=Timeouts(connect=1, read=0.5), retry=ONCE) as tp,
    ):
        began = time.monotonic()
        assert await tp.clusters.list() == []
        assert time.monotonic() - began > 1.5


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_says_nothing_is_not_waited_for(scheme: str) -> None:
    async with (
        hostile(until_refused) as proxy,
        TensorPool(
            KEY,
            base_url=f"{scheme}://engine.invalid",
            proxy=proxy,
            timeouts=SHORT,
            retry=ONCE,
            allow_insecure=True,
        ) as tp,
    ):
        for call in (
            tp.clusters.list,
            lambda: tp.clusters.create("8xH100"),
            lambda: tp.jobs.push("a = 1", "c"),
        ):
            began = time.monotonic()
            with pytest.raises((RequestTimeout, AmbiguousOutcomeError)) as caught:
                await call()
            assert time.monotonic() - began < AT_MOST
            if scheme == "https":
                assert isinstance(caught.value, RequestTimeout)
                assert not caught.value.sent, "the engine has seen nothing"


async def test_tls_that_says_nothing_is_not_waited_for() -> None:
    async with hostile(silence) as url:
        base_url = url.replace("http:", "https:")
        async with TensorPool(KEY, base_url=base_url, timeouts=SHORT, retry=ONCE) as tp:
            began = time.monotonic()
            with pytest.raises(RequestTimeout) as caught:
                await tp.clusters.create("8xH100")
            assert time.monotonic() - began < AT_MOST
            assert not caught.value.sent


@pytest.mark.parametrize("foreign", [False, True], ids=["own session", "session of the caller's"])
async def test_a_name_that_nobody_looks_up_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, *, foreign: bool
) -> None:
    async def never(*_: Any, **__: Any) -> Any:
        await asyncio.sleep(600)

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "getaddrinfo", never)
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession()) if foreign else None
        tp = await stack.enter_async_context(
            TensorPool(KEY, base_url="https://engine.invalid", timeouts=SHORT, retry=ONCE, session=session)
        )
        began = time.monotonic()
        with pytest.raises(RequestTimeout) as caught:
            await tp.clusters.create("8xH100")
        assert time.monotonic() - began < AT_MOST
        assert not caught.value.sent


async def test_a_connection_that_is_not_accepted_is_not_waited_for() -> None:
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for one in (first, second):  # nobody accepts: what comes after these is not answered
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with TensorPool(KEY, base_url=url, timeouts=SHORT, retry=ONCE) as tp:
            began = time.monotonic()
            with pytest.raises(RequestTimeout):
                await tp.clusters.list()
            assert time.monotonic() - began < AT_MOST


@pytest.mark.parametrize(
    "answer",
    [silence, after_request(dripping(b"HTTP/1.1 101 Switching Protocols\r\n", b"X-A: b\r\n"))],
    ids=["silence", "headers drip"],
)
async def test_a_handshake_that_is_never_answered_is_not_waited_for(answer: Answer) -> None:
    async with (
        hostile(answer) as url,
        TensorPool(KEY, base_url=url, timeouts=SHORT, retry=ONCE) as tp,
    ):
        began = time.monotonic()
        with pytest.raises(RequestTimeout):
            await tp.jobs.push("a = 1", "c-1")
        assert time.monotonic() - began < AT_MOST
        assert tp.statistics().limiter.in_flight == 0


async def test_a_socket_whose_other_side_is_dead_is_given_up() -> None:
    async def nothing() -> AsyncIterator[bytes]:
        await asyncio.sleep(600)
        yield b""

    timeouts = Timeouts(connect=0.5, read=0.5)
    async with (
        hostile(websocket(nothing)) as url,
        TensorPool(KEY, base_url=url, timeouts=timeouts, retry=ONCE) as tp,
    ):
        began = time.monotonic()
        with pytest.raises(StreamError, match="the connection was lost"):
            await tp.jobs.push("a = 1", "c-1")
        assert time.monotonic() - began < AT_MOST + 3.0, "no ping was answered"


async def test_a_push_that_sends_more_than_its_commands_can_do_is_ended(tmp_path: Path) -> None:
    busy = frame(b'{"command": "sleep 30"}')
    text = frame(b'{"message": "again"}') * 1000
    async with (
        hostile(websocket(flood(busy, text))) as url,
        TensorPool(KEY, base_url=url, retry=ONCE) as tp,
    ):
        with pytest.raises(StreamError, match="more than the commands"):
            await tp.jobs.push("a = 1", "c-1", commands=str.split, folder=tmp_path)


async def test_a_poll_that_meets_too_much_is_made_again() -> None:
    async def too_much(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:
            await answer.write(b" " * MEGABYTE)

    async with ScriptedEngine() as engine:
        engine.answer(
            "POST /cluster/create", {"cluster_id": "c-1", "message": "", "request_id": "r-1"}, status=202
        )
        engine.handle("GET /request/info/r-1", too_much)
        engine.answer(
            "GET /request/info/r-1",
            {"request_id": "r-1", "status": "COMPLETED", "object_id": "c-1", "request_type": "CLUSTER_CLAIM"},
        )
        engine.answer(
            "GET /cluster/info/c-1", {"message": "", "cluster_info": {"id": "c-1", "status": "RUNNING"}}
        )
        polling = PollPolicy(default=0.01, initial=0.01)
        async with TensorPool(KEY, base_url=engine.url, polling=polling) as tp:
            assert (await tp.clusters.create("8xH100").result(timeout=20)).id == "c-1"


@pytest.mark.parametrize("size", [20, LARGEST_SMALL + 100])
async def test_the_bound_is_an_option(size: int) -> None:
    body = b" " * (size - 16) + b'{"clusters": []}'

    async def pieces() -> AsyncIterator[bytes]:
        yield OK + b"Content-Length: %d\r\n\r\n" % size + body

    async with hostile(after_request(pieces)) as url:
        async with TensorPool(KEY, base_url=url, max_response_bytes=size) as tp:
            assert await tp.clusters.list() == []
        async with TensorPool(KEY, base_url=url, max_response_bytes=size - 1) as tp:
            with pytest.raises(DecodeError, match=f"larger than {size - 1:,} bytes") as caught:
                await tp.clusters.list()
            assert caught.value.too_large
            assert tp.statistics().requests == 1, "it would not be smaller the next time"
    with pytest.raises(ValueError, match="max_response_bytes is 0"):
        TensorPool(KEY, max_response_bytes=0)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "raw"])
async def test_what_was_compressed_is_read(encoding: str, scripted: ScriptedEngine) -> None:
    async with hostile(after_request(bomb(encoding, 2 * MEGABYTE))) as url, AsyncExitStack() as stack:
        for session in (None, await stack.enter_async_context(aiohttp.ClientSession())):
            async with TensorPool(KEY, base_url=url, retry=ONCE, session=session) as tp:
                with pytest.raises(DecodeError) as caught:  # blanks alone are an empty answer
                    await tp.clusters.list()
                assert not caught.value.too_large
                assert "decompressed" not in str(caught.value)


async def test_a_download_that_drips_is_given_up(tmp_path: Path) -> None:
    kinds: list[tuple[Answer, type[TensorPoolError]]] = [
        (silence, RequestTimeout),
        (after_request(dripping(OK, b"X-A: b\r\n")), RequestTimeout),
        (after_request(dripping(OK + b"Content-Length: 100000\r\n\r\n", b"a")), RequestTimeout),
        (after_request(dripping(b"HTTP/1.1 403 No\r\nContent-Length: 100000\r\n\r\n", b"a")), StatusError),
        (after_request(flood(b"HTTP/1.1 403 No\r\n\r\n", b"a" * MEGABYTE)), StatusError),
    ]
    for answer, error in kinds:
        async with hostile(answer) as url, ScriptedEngine() as engine:
            engine.answer("GET /job/pull/j-1", {"message": "", "download_map": {"a.txt": f"{url}/a"}})
            async with TensorPool(KEY, base_url=engine.url, timeouts=SHORT, retry=ONCE) as tp:
                began = time.monotonic()
                with pytest.raises(error):
                    await tp.jobs.pull("j-1", tmp_path)
                assert time.monotonic() - began < AT_MOST


@pytest.mark.parametrize("status", [429, 503])
async def test_a_pause_of_a_day_is_raised_and_holds_up_nobody_for_so_long(
    status: int, scripted: ScriptedEngine
) -> None:
    scripted.answer("GET /cluster/list", {}, status=status, headers={"Retry-After": "86400"})
    scripted.answer("DELETE /cluster/c-1", {}, status=410)
    retry = RetryPolicy(longest_pause=0.5)
    async with TensorPool(KEY, base_url=scripted.url, retry=retry) as tp:
        with pytest.raises(StatusError) as caught:
            await tp.clusters.list()
        assert isinstance(caught.value, RateLimited if status == 429 else ServerError)
        assert caught.value.retry_after == 86400
        assert 0.2 < tp.statistics().limiter.paused_for <= 0.5
        await asyncio.wait_for(tp.clusters.destroy("c-1").result(), 10)


@pytest.mark.parametrize(
    "headers",
    [
        {"RateLimit-Limit": "10", "RateLimit-Remaining": "0", "RateLimit-Reset": "86400"},
        {"RateLimit-Limit": "10, 10;w=86400", "RateLimit-Reset": "86400"},
        {"RateLimit-Limit": "10", "RateLimit-Remaining": "2", "RateLimit-Reset": "86400"},
    ],
    ids=["used up", "a few a day", "nearly used up"],
)
async def test_a_quota_of_a_day_holds_up_nobody_for_so_long(
    headers: dict[str, str], scripted: ScriptedEngine
) -> None:
    scripted.answer("GET /cluster/list", {"clusters": []}, headers=headers)
    scripted.answer("DELETE /cluster/c-1", {}, status=410)
    async with TensorPool(KEY, base_url=scripted.url, retry=RetryPolicy(longest_pause=0.3)) as tp:
        for _ in range(4):
            await asyncio.wait_for(tp.clusters.list(), 10)
            await asyncio.wait_for(tp.clusters.destroy("c-1").result(), 10)


async def test_an_ephemeral_cluster_goes_whatever_the_engine_says_about_pauses() -> None:
    async with (
        Emulator(provision_seconds=0.4, destroy_seconds=0.05, retry_after=86_400.0) as emulator,
        TensorPool(
            emulator.key,
            base_url=emulator.url,
            retry=RetryPolicy(longest_pause=0.3),
            polling=PollPolicy(initial=0.01),
        ) as tp,
    ):

        async def work() -> None:
            async with tp.clusters.ephemeral("8xH100"):
                pytest.fail("the engine has not said that it runs")

        task = asyncio.create_task(work())
        while not emulator.record.clusters_made:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 10)
        assert emulator.record.living == []


@pytest.mark.parametrize(
    ("status", "body"),
    [(410, ""), (200, "deleted"), (200, "<html></html>"), (202, ""), (200, '{"message": 1}')],
)
async def test_a_delete_that_is_done_is_done(status: int, body: str, scripted: ScriptedEngine) -> None:
    calls: dict[str, Callable[[TensorPool], Awaitable[object]]] = {
        "/cluster/x": lambda tp: tp.clusters.destroy("x").result(),
        "/storage/x": lambda tp: tp.storage.destroy("x").result(),
        "/job/delete/x": lambda tp: tp.jobs.delete("x"),
        "/user/ssh-key/remove/x": lambda tp: tp.ssh.keys.remove("x"),
        "/object-storage/bucket/delete/x": lambda tp: tp.object_storage.buckets.delete("x"),
        "/object-storage/disable": lambda tp: tp.object_storage.disable(),
    }
    async with TensorPool(KEY, base_url=scripted.url) as tp:
        for path, call in calls.items():
            scripted.answer(f"DELETE {path}", body, status=status)
            assert await call(tp) is None
            assert scripted.count(f"DELETE {path}") == 1


async def test_a_resource_that_is_gone_for_good_ends_the_wait_for_its_end(scripted: ScriptedEngine) -> None:
    scripted.answer("DELETE /cluster/x", {"message": "on its way"}, status=202)
    scripted.answer("GET /cluster/info/x", "gone", status=410)
    async with TensorPool(KEY, base_url=scripted.url, polling=PollPolicy(initial=0.01)) as tp:
        assert await tp.clusters.destroy("x").result(timeout=10) is None
        with pytest.raises(NotFound):
            await tp.clusters.get("x")
