"""How requests are sent, sent again, and not sent again (design, sections 3, 6 and 7)."""

from __future__ import annotations

import asyncio
import logging
import pickle
import socket
import ssl
import time
import traceback
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, closing
from typing import Any

import pytest
import trustme
from aiohttp import web

from tensorpool_async import (
    AmbiguousOutcomeError,
    AuthenticationError,
    BadRequest,
    ConflictError,
    ConnectionFailed,
    DecodeError,
    InsufficientBalance,
    NotFound,
    OperationFailed,
    PermissionDenied,
    PollPolicy,
    RateLimited,
    RateLimiter,
    RequestTimeout,
    RetryPolicy,
    Secret,
    ServerError,
    StatusError,
    TensorPool,
    TensorPoolError,
    Timeouts,
    ValidationError,
    WrongEventLoopError,
)
from tensorpool_async.emulator import Emulator, Fault, FaultKind
from tensorpool_async.protocol.requests import Request
from tensorpool_async.protocol.send_context import SendContext
from tensorpool_async.transport.attempts import SendCancelled, Transport
from tensorpool_async.transport.failures import READ_SIZE
from tensorpool_async.transport.session import SessionManager
from tests.support.scripted import ScriptedEngine, drop


CLUSTER = {"message": "", "cluster_info": {"id": "c-1", "status": "RUNNING"}}
QUICK = RetryPolicy(backoff=0.01, longest_backoff=0.02)
KEY = "scripted-key"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, BadRequest),
        (401, AuthenticationError),
        (402, InsufficientBalance),
        (403, PermissionDenied),
        (404, NotFound),
        (409, ConflictError),
        (422, ValidationError),
        (418, StatusError),
        (501, ServerError),
        (302, StatusError),
    ],
)
async def test_a_refusal_is_raised_at_once(
    status: int, error: type[StatusError], odd_tp: TensorPool, scripted: ScriptedEngine
) -> None:
    scripted.answer(
        "GET /cluster/info/c-1", {"message": "said the engine"}, status=status, headers={"X-Trace": "7"}
    )
    with pytest.raises(error) as caught:
        await odd_tp.clusters.get("c-1")
    assert type(caught.value) is error
    assert (caught.value.status, caught.value.message) == (status, "said the engine")
    assert (caught.value.method, caught.value.path) == ("GET", "/cluster/info/c-1")
    assert caught.value.headers["x-trace"] == "7"
    assert caught.value.body == {"message": "said the engine"}
    assert scripted.count("GET /cluster/info/c-1") == 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"message": "m", "error": "e"}, "m"),
        ({"error": "e", "detail": "d"}, "e"),
        ({"external_message": "x", "detail": "d"}, "x"),
        ({"detail": "d"}, "d"),
        (
            {"detail": [{"loc": ["body", "num_nodes"], "msg": "must be at least 1", "type": "greater"}]},
            "num_nodes: must be at least 1",
        ),
        ("<html><head><title>502 &amp; out</title></head></html>", "502 & out"),
        ("", "Conflict, without a message"),
        ('{"message": "cut', '{"message": "cut'),
    ],
)
async def test_every_form_of_error_body_gives_a_sentence(
    body: Any, message: str, odd_tp: TensorPool, scripted: ScriptedEngine
) -> None:
    scripted.answer("GET /cluster/info/c-1", body, status=409)
    with pytest.raises(ConflictError) as caught:
        await odd_tp.clusters.get("c-1")
    assert caught.value.message == message


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504, 521])
async def test_a_get_is_sent_again_after_a_server_error(
    status: int, odd_tp: TensorPool, scripted: ScriptedEngine
) -> None:
    scripted.answer("GET /cluster/info/c-1", "down", status=status, times=4)
    scripted.answer("GET /cluster/info/c-1", CLUSTER)
    assert (await odd_tp.clusters.get("c-1")).id == "c-1"
    assert odd_tp.statistics().retries == 4


async def test_a_get_is_sent_as_often_as_the_policy_says(
    odd_tp: TensorPool, scripted: ScriptedEngine
) -> None:
    scripted.answer("GET /cluster/info/c-1", "down", status=502)
    with pytest.raises(ServerError):
        await odd_tp.clusters.get("c-1")
    assert scripted.count("GET /cluster/info/c-1") == 5


@pytest.mark.parametrize(
    "body", ["", '{"cluster_info": {"id": "c-', "[]", '{"cluster_info": {"id": "c-1", "status": 5}}']
)
async def test_a_success_that_cannot_be_read_is_asked_for_again(
    body: str, odd_tp: TensorPool, scripted: ScriptedEngine
) -> None:
    scripted.answer("GET /cluster/info/c-1", body)
    scripted.answer("GET /cluster/info/c-1", CLUSTER)
    assert (await odd_tp.clusters.get("c-1")).id == "c-1"
    scripted.answer("GET /cluster/info/c-2", body)
    with pytest.raises(DecodeError, match=r"/cluster/info/c-2"):
        await odd_tp.clusters.get("c-2")
    assert scripted.count("GET /cluster/info/c-2") == 5


async def test_a_delete_that_was_carried_out_unseen_is_a_success(tp: TensorPool, emulator: Emulator) -> None:
    cluster = await tp.clusters.create("8xH100").result()
    emulator.faults.add(Fault(FaultKind.DROP_AFTER, method="DELETE"))
    op = await tp.clusters.destroy(cluster)
    assert await op is None
    assert emulator.record.living == []
    assert emulator.record.by_route["DELETE /cluster/{cluster}"] == 2


async def test_a_repeated_delete_that_finds_nothing_is_a_success(
    odd_tp: TensorPool, scripted: ScriptedEngine
) -> None:
    scripted.handle("DELETE /cluster/c-1", drop)
    scripted.answer("DELETE /cluster/c-1", {"detail": "no such cluster"}, status=404)
    assert await odd_tp.clusters.destroy("c-1").result() is None


async def test_a_conflict_of_a_repeated_delete_is_looked_into(
    odd_tp: TensorPool, scripted: ScriptedEngine
) -> None:
    scripted.handle("DELETE /cluster/c-1", drop)
    scripted.answer("DELETE /cluster/c-1", {"message": "protected"}, status=409)
    scripted.answer("GET /cluster/info/c-1", CLUSTER)
    with pytest.raises(AmbiguousOutcomeError, match="protected"):
        await odd_tp.clusters.destroy("c-1")
    scripted.handle("DELETE /cluster/c-2", drop)
    scripted.answer("DELETE /cluster/c-2", {"message": "busy"}, status=409)
    assert await odd_tp.clusters.destroy("c-2").result() is None, "the cluster is gone"


async def test_a_first_delete_that_finds_nothing_is_not_found(tp: TensorPool) -> None:
    with pytest.raises(NotFound):
        await tp.clusters.destroy("c-nowhere")


async def test_a_delete_on_a_reused_connection_is_not_repeated_behind_our_back(
    scripted: ScriptedEngine,
) -> None:
    """The HTTP library would send it again by itself, and the 404 of that would be taken for the first answer."""
    scripted.answer("GET /cluster/info/c-1", CLUSTER)
    scripted.handle("DELETE /cluster/c-1", drop)
    async with TensorPool(KEY, base_url=scripted.url, retry=RetryPolicy(attempts=1)) as tp:
        await tp.clusters.get("c-1")
        with pytest.raises(ConnectionFailed):
            await tp.clusters.destroy("c-1")
        assert scripted.count("DELETE /cluster/c-1") == 1
        assert tp.statistics().requests == 2


@pytest.fixture
def closed_port() -> int:
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


async def test_what_was_never_sent_is_sent_again_also_a_create(closed_port: int) -> None:
    async with TensorPool(KEY, base_url=f"http://127.0.0.1:{closed_port}", retry=QUICK) as tp:
        with pytest.raises(ConnectionFailed) as caught:
            await tp.clusters.create("8xH100")
        assert caught.value.sent is False
        assert tp.statistics().requests == 5
        assert tp.statistics().limiter.in_flight == 0


async def test_a_create_succeeds_once_the_engine_is_there(closed_port: int) -> None:
    retry = RetryPolicy(backoff=0.2, longest_backoff=0.2, attempts=20)
    async with TensorPool("late-key", base_url=f"http://127.0.0.1:{closed_port}", retry=retry) as tp:
        creating = asyncio.ensure_future(tp.clusters.create("8xH100").result())
        await asyncio.sleep(0.1)
        async with Emulator(
            port=closed_port, key="late-key", provision_seconds=0.05, retry_after=0.02
        ) as emulator:
            await creating
            assert len(emulator.record.clusters_made) == 1


async def test_an_engine_that_never_answers_times_out(scripted: ScriptedEngine) -> None:
    hang = asyncio.Event()

    async def stall(_: Any) -> Any:
        await hang.wait()

    scripted.handle("GET /cluster/info/c-1", stall)
    scripted.handle("POST /cluster/create", stall)
    timeouts = Timeouts(read=0.05)
    try:
        async with TensorPool(
            KEY, base_url=scripted.url, timeouts=timeouts, retry=RetryPolicy(attempts=2, backoff=0)
        ) as tp:
            with pytest.raises(RequestTimeout) as caught:
                await tp.clusters.get("c-1")
            assert caught.value.sent
            assert isinstance(caught.value, TimeoutError)
            assert scripted.count("GET /cluster/info/c-1") == 2
            with pytest.raises(AmbiguousOutcomeError):
                await tp.clusters.create("8xH100")
    finally:
        hang.set()


@pytest.mark.parametrize(("status", "seconds"), [(429, "1"), (503, "1")])
async def test_one_request_that_is_told_to_wait_makes_all_wait(
    status: int, seconds: str, scripted: ScriptedEngine
) -> None:
    scripted.answer(
        "GET /cluster/info/c-1", {"detail": "slow down"}, status=status, headers={"Retry-After": seconds}
    )
    scripted.answer("GET /cluster/info/c-1", CLUSTER)
    scripted.answer("GET /cluster/list", {"clusters": []})
    async with TensorPool(KEY, base_url=scripted.url) as tp:
        begun = time.monotonic()
        first = asyncio.ensure_future(tp.clusters.get("c-1"))
        while tp.statistics().rate_limited == 0:
            await asyncio.sleep(0.001)
        statistics = tp.statistics().limiter
        assert statistics.in_flight == 0, "a slot is held over the pause"
        assert 0.8 < statistics.paused_for <= 1.0
        await tp.clusters.list()
        assert time.monotonic() - begun >= 0.95
        await first
        assert tp.statistics().rate_limited == 1


async def test_a_503_without_retry_after_pauses_nobody(odd_tp: TensorPool, scripted: ScriptedEngine) -> None:
    scripted.answer("GET /cluster/info/c-1", "down", status=503)
    scripted.answer("GET /cluster/info/c-1", CLUSTER)
    await odd_tp.clusters.get("c-1")
    assert odd_tp.statistics().rate_limited == 0


@pytest.mark.parametrize("method", ["get", "create"])
async def test_a_limit_that_never_ends_is_raised_in_the_end(method: str, scripted: ScriptedEngine) -> None:
    headers = {"Retry-After": "0"}
    scripted.answer("GET /cluster/info/c-1", {"message": "enough"}, status=429, headers=headers)
    scripted.answer("POST /cluster/create", {"message": "enough"}, status=429, headers=headers)
    async with TensorPool(KEY, base_url=scripted.url, retry=RetryPolicy(attempts=2)) as tp:
        with pytest.raises(RateLimited, match="enough") as caught:
            await (tp.clusters.get("c-1") if method == "get" else tp.clusters.create("8xH100"))
        assert caught.value.retry_after == 0
        assert len(scripted.seen) == 6


async def test_slots_bound_the_requests_in_flight_and_are_not_held_while_sleeping() -> None:
    limiter = RateLimiter(max_in_flight=7)
    polling = PollPolicy(initial=0.01)
    async with (
        Emulator(provision_seconds=600.0, retry_after=60.0) as emulator,
        TensorPool(emulator.key, base_url=emulator.url, limiter=limiter, polling=polling) as tp,
    ):
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, limiter.statistics().in_flight)
                await asyncio.sleep(0)

        watching = asyncio.create_task(watch())
        await asyncio.gather(*(tp.clusters.create("8xH100") for _ in range(60)))
        while tp.statistics().polls < 60 or limiter.statistics().in_flight:
            await asyncio.sleep(0.001)
        watching.cancel()
        assert tp.statistics().operations == 60, "all of them sleep until their next poll"
        assert limiter.statistics().waiting == (0, 0, 0)
        assert most == 7
        assert emulator.record.max_in_flight <= 7


async def test_an_outage_is_not_multiplied_by_retries(scripted: ScriptedEngine) -> None:
    scripted.answer("GET /cluster/info/c-1", "down", status=502)
    retry = RetryPolicy(backoff=0, longest_backoff=0)
    async with TensorPool(KEY, base_url=scripted.url, retry=retry) as tp:
        results = await asyncio.gather(*(tp.clusters.get("c-1") for _ in range(400)), return_exceptions=True)
        assert all(isinstance(result, ServerError) for result in results)
        assert len(scripted.seen) < 520, "400 requests, a reserve of 100 retries, and a trickle"


@pytest.fixture
async def tls_engine() -> AsyncGenerator[tuple[ScriptedEngine, trustme.CA]]:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)  # pyright: ignore[reportUnknownMemberType] - its types name an optional package
    async with ScriptedEngine(ssl=context) as engine:
        engine.answer("GET /cluster/info/c-1", CLUSTER)
        yield engine, authority


def ignore(_: asyncio.AbstractEventLoop, __: dict[str, Any]) -> None:
    pass


async def test_a_certificate_that_is_not_trusted_is_not_tried_again(
    tls_engine: tuple[ScriptedEngine, trustme.CA],
) -> None:
    asyncio.get_running_loop().set_exception_handler(ignore)  # the server's side of the broken handshake
    async with TensorPool(KEY, base_url=tls_engine[0].url) as tp:
        with pytest.raises(ConnectionFailed, match="certificate") as caught:
            await tp.clusters.get("c-1")
        assert (caught.value.sent, caught.value.permanent) == (False, True)
        assert tp.statistics().requests == 1


async def test_a_certificate_authority_of_ones_own_is_trusted(
    tls_engine: tuple[ScriptedEngine, trustme.CA],
) -> None:
    context = ssl.create_default_context()
    tls_engine[1].configure_trust(context)  # pyright: ignore[reportUnknownMemberType] - its types name an optional package
    async with TensorPool(KEY, base_url=tls_engine[0].url, ssl=context) as tp:
        assert (await tp.clusters.get("c-1")).id == "c-1"


async def test_the_proxy_is_used(scripted: ScriptedEngine) -> None:
    seen: list[str] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append((await reader.readline()).decode())
        writer.write(b"HTTP/1.1 418 I am a proxy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, TensorPool(KEY, base_url=scripted.url, proxy=f"http://127.0.0.1:{port}") as tp:
        with pytest.raises(StatusError, match="418"):
            await tp.clusters.get("c-1")
    assert scripted.url in seen[0]


async def test_what_goes_over_the_wire(odd_tp: TensorPool, scripted: ScriptedEngine) -> None:
    scripted.answer(
        "POST /cluster/create", {"cluster_id": "c-1", "message": "", "request_id": "r-1"}, status=202
    )
    await odd_tp.clusters.create("8xH100", name="ü/ß", public_keys=["ssh-ed25519 AAAA me"], num_nodes=2)
    seen = scripted.seen[0]
    assert seen.headers["Authorization"] == f"Bearer {KEY}"
    assert seen.headers["Content-Type"] == "application/json"
    assert seen.headers["User-Agent"].startswith("tensorpool-async/")
    assert seen.body == {
        "instance_type": "8xH100",
        "num_nodes": 2,
        "tp_cluster_name": "ü/ß",
        "deletion_protection": False,
        "save_keys": True,
        "public_keys": ["ssh-ed25519 AAAA me"],
    }


async def test_a_cookie_is_not_sent_back(odd_tp: TensorPool, scripted: ScriptedEngine) -> None:
    scripted.answer("GET /cluster/info/c-1", CLUSTER, headers={"Set-Cookie": "a=b"})
    await odd_tp.clusters.get("c-1")
    await odd_tp.clusters.get("c-1")
    assert "Cookie" not in scripted.seen[1].headers


async def garbage(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.write(b"HTTP/1.1 abc nonsense\r\n\r\n")
    request.transport.close()
    return web.Response()


async def test_the_key_is_in_no_error_repr_log_or_traceback(
    scripted: ScriptedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    key = "tp-secret-0123456789"
    scripted.answer("GET /cluster/info/c-1", {"error": "no"}, status=401)
    scripted.handle("GET /cluster/info/c-2", drop)
    scripted.handle("GET /cluster/info/c-3", garbage)
    scripted.answer("POST /cluster/create", "cut", status=202)
    async with TensorPool(key, base_url=scripted.url, retry=QUICK) as tp:
        shown = [repr(tp), str(tp), repr(tp.limiter), str(tp.statistics())]
        for attempt in (
            tp.clusters.get("c-1"),
            tp.clusters.get("c-2"),
            tp.clusters.get("c-3"),
            tp.clusters.create("8xH100").result(),
        ):
            with pytest.raises(TensorPoolError) as caught:
                await attempt
            shown += list(everything_about(caught.value))
    assert scripted.seen[0].headers["Authorization"] == f"Bearer {key}"
    shown += [record.getMessage() for record in caplog.records]
    assert any("GET /cluster/info/c-1" in line for line in shown), (
        "nothing was logged, so the test shows nothing"
    )
    assert not [text for text in shown if key in text]


def everything_about(error: BaseException) -> Iterator[str]:
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_filename != __file__:  # the test itself knows the key
            yield repr(frame.f_locals)
    yield repr(pickle.loads(pickle.dumps(error)).__dict__)
    seen: set[int] = set()
    chain: list[BaseException | None] = [error]
    while chain:
        one = chain.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield repr(one)
        yield repr(one.__dict__)
        yield str(one.args)
        chain += [one.__cause__, one.__context__]


async def test_a_key_that_the_engine_quotes_is_masked(scripted: ScriptedEngine) -> None:
    scripted.answer("GET /cluster/info/c-1", {"error": "the key tp-quoted-123 is unknown"}, status=401)
    async with TensorPool("tp-quoted-123", base_url=scripted.url) as tp:
        with pytest.raises(AuthenticationError, match="is unknown") as caught:
            await tp.clusters.get("c-1")
    assert not [text for text in everything_about(caught.value) if "tp-quoted-123" in text]


async def test_a_key_that_the_engine_quotes_in_a_failure_is_masked(scripted: ScriptedEngine) -> None:
    said = "no quota for tp-quoted-123"
    info = {
        "request_id": "r-1",
        "request_type": "CLUSTER_CLAIM",
        "status": "FAILED",
        "external_message": said,
    }
    scripted.answer("GET /request/info/r-1", info)
    async with TensorPool("tp-quoted-123", base_url=scripted.url) as tp:
        with pytest.raises(OperationFailed, match="no quota") as caught:
            await tp.operation("r-1")
    assert not [text for text in everything_about(caught.value) if "tp-quoted-123" in text]


async def test_a_client_of_another_loop_is_refused(tp: TensorPool) -> None:
    await tp.clusters.list()

    def elsewhere() -> None:
        asyncio.run(tp.clusters.list())

    with pytest.raises(WrongEventLoopError):
        await asyncio.to_thread(elsewhere)


@pytest.mark.parametrize("when", [0.0, 0.005, 0.02])
async def test_a_request_that_is_cancelled_gives_its_slot_back(when: float, scripted: ScriptedEngine) -> None:
    gate = asyncio.Event()

    async def slow(_: Any) -> Any:
        await gate.wait()

    scripted.handle("GET /cluster/info/c-1", slow)
    scripted.answer("GET /cluster/info/c-2", CLUSTER)
    async with TensorPool(KEY, base_url=scripted.url, limiter=RateLimiter(max_in_flight=1)) as tp:
        tasks = [asyncio.ensure_future(tp.clusters.get("c-1")) for _ in range(3)]
        await asyncio.sleep(when)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert tp.statistics().limiter.in_flight == 0
        assert (await asyncio.wait_for(tp.clusters.get("c-2"), 5)).id == "c-1"
    gate.set()


@asynccontextmanager
async def open_transport(url: str, limiter: RateLimiter) -> AsyncGenerator[Transport]:
    sessions = SessionManager(key=Secret(KEY), base_url=url, timeouts=Timeouts(), trust_env=False)
    try:
        yield Transport(sessions=sessions, limiter=limiter, retry=QUICK)
    finally:
        await sessions.aclose()


async def test_the_context_counts_each_attempt_once_it_holds_a_slot(scripted: ScriptedEngine) -> None:
    scripted.answer("POST /cluster/create", "busy", status=503, headers={"Retry-After": "0"})
    scripted.answer("POST /cluster/create", {"message": "ok"})
    limiter = RateLimiter(1)
    context = SendContext(asyncio.get_running_loop().time())
    async with open_transport(scripted.url, limiter) as transport:
        async with limiter.slot():
            sending = asyncio.create_task(transport.send(Request[Any]("POST", "/cluster/create"), context))
            await asyncio.sleep(0.02)
            assert (context.attempts, context.sent_at) == (0, None)  # it still queues
        assert await sending == {"message": "ok"}
    assert (context.attempts, context.rate_limited) == (2, 1)
    assert context.sent_at is not None


async def test_a_change_that_was_cancelled_is_not_sent_and_holds_no_slot(scripted: ScriptedEngine) -> None:
    limiter = RateLimiter()
    context = SendContext(0.0, cancelled=True)
    async with open_transport(scripted.url, limiter) as transport:
        with pytest.raises(SendCancelled):
            await transport.send(Request[Any]("POST", "/cluster/create"), context)
        assert limiter.statistics().in_flight == 0
    assert scripted.seen == []


async def test_a_proxy_of_the_environment_is_looked_up_once_and_told_its_password(
    scripted: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", scripted.url.replace("http://", "http://user:pass@"))
    scripted.answer("GET http://engine.invalid/cluster/info/c-1", CLUSTER)
    async with TensorPool(KEY, base_url="http://engine.invalid", allow_insecure=True) as tp:
        assert (await tp.clusters.get("c-1")).id == "c-1"
        monkeypatch.delenv("http_proxy")
        assert (await tp.clusters.get("c-1")).id == "c-1"
    assert [seen.headers["Host"] for seen in scripted.seen] == ["engine.invalid"] * 2
    assert scripted.seen[0].headers["Proxy-Authorization"].startswith("Basic ")


async def test_a_proxy_of_the_environment_is_not_used_where_it_is_not_to_be(
    scripted: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    scripted.answer("GET /cluster/info/c-1", CLUSTER)
    async with TensorPool(KEY, base_url=scripted.url, trust_env=False) as tp:
        assert (await tp.clusters.get("c-1")).id == "c-1"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    async with TensorPool(KEY, base_url=scripted.url) as tp:
        assert (await tp.clusters.get("c-1")).id == "c-1"
    assert len(scripted.seen) == 2


async def test_a_connection_reads_no_more_at_a_time_than_an_allocator_has_at_hand(
    scripted: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    connect = loop.create_connection
    transports: list[Any] = []

    async def connect_and_keep(*args: Any, **options: Any) -> Any:
        transport, protocol = await connect(*args, **options)
        transports.append(transport)
        return transport, protocol

    monkeypatch.setattr(loop, "create_connection", connect_and_keep)
    scripted.answer("GET /cluster/info/c-1", CLUSTER)
    async with TensorPool(KEY, base_url=scripted.url) as tp:
        assert (await tp.clusters.get("c-1")).id == "c-1"
    assert [transport.max_size for transport in transports] == [READ_SIZE]
