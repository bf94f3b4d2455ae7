"""The shared limit while its server fails over, loses what it had, runs full, hangs, or is written to by others."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tensorpool_async import ConnectionFailed, LimiterUnavailable
from tensorpool_async.redis import RedisRateLimiter
from tensorpool_async.redis.bucket import LONGEST_PAUSE, PREFIX, Bucket, Feedback
from tests.redis.fake_server import Address, answering
from tests.redis.server import RedisServer, connect


RATE = 100.0
FIELDS = ("serial", "seen", "next", "paused_until", "lowered_at", "share")
FUTURE = "4102444800000000"  # the year 2100, in microseconds


async def take(limiter: RedisRateLimiter) -> float:
    async with limiter.slot():
        return asyncio.get_running_loop().time()


@asynccontextmanager
async def traffic(url: str, key: str, processes: int, **options: Any) -> AsyncGenerator[list[float]]:
    """Have many requests wait all the time, in as many limiters as there are processes; tell when each went."""
    times: list[float] = []

    async def work(limiter: RedisRateLimiter) -> None:
        while True:
            try:
                times.append(await take(limiter))
            except LimiterUnavailable:
                await asyncio.sleep(0.05)

    async with AsyncExitStack() as stack:
        limiters = [
            await stack.enter_async_context(RedisRateLimiter(url, key=key, max_per_second=RATE, **options))
            for _ in range(processes)
        ]
        tasks = [asyncio.create_task(work(limiter)) for limiter in limiters for _ in range(20)]
        try:
            await asyncio.sleep(0.5)
            yield times
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


def most_in_a_second(times: list[float]) -> int:
    times = sorted(times)
    return max(sum(start <= other < start + 1.0 for other in times) for start in times)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if (record.name, record.levelno) == ("tensorpool_async", logging.WARNING)
    ]


# Failover


@pytest.fixture
def two_servers(redis_program: str, tmp_path: Path) -> Any:
    folders = tmp_path / "one", tmp_path / "other"
    for folder in folders:
        folder.mkdir()
    with RedisServer(redis_program, folders[0]) as one, RedisServer(redis_program, folders[1]) as other:
        yield one, other


async def follow(replica: RedisServer, primary: RedisServer) -> None:
    """Make a server a replica that is up to date."""
    async with connect(replica.url) as client, asyncio.timeout(20):
        await client.execute_command("REPLICAOF", "127.0.0.1", primary.port)
        while (await client.info("replication"))["master_link_status"] != "up":
            await asyncio.sleep(0.05)


async def promote(replica: RedisServer) -> None:
    async with connect(replica.url) as client:
        await client.execute_command("REPLICAOF", "NO", "ONE")


@pytest.mark.parametrize("own_client", [True, False])
async def test_after_a_failover_a_new_connection_finds_the_new_primary(
    two_servers: tuple[RedisServer, RedisServer], key: str, own_client: bool
) -> None:
    one, other = two_servers
    await follow(other, one)
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(Address(one.port).open())
        client = address.url if own_client else await stack.enter_async_context(connect(address.url))
        limiter = await stack.enter_async_context(RedisRateLimiter(client, key=key, max_per_second=RATE))
        for _ in range(5):
            await take(limiter)
        await promote(other)
        await follow(one, other)
        address.port = other.port
        made = address.made
        for _ in range(20):
            await take(limiter)
        assert address.made == made + 1
        async with connect(other.url) as there:
            assert int(await there.hget(PREFIX + key, "serial")) > 5


async def test_a_replica_is_an_error_that_says_so_until_it_is_promoted(
    two_servers: tuple[RedisServer, RedisServer], key: str
) -> None:
    one, other = two_servers
    async with RedisRateLimiter(one.url, key=key, max_per_second=RATE) as limiter:
        await take(limiter)
        await follow(one, other)
        for _ in range(3):
            async with asyncio.timeout(3):
                with pytest.raises(LimiterUnavailable, match="it is a replica") as caught:
                    await take(limiter)
            assert (caught.value.sent, caught.value.permanent) == (False, False)
        await promote(one)
        await take(limiter)


async def test_a_replica_that_lags_does_not_lift_a_pause(url: str, key: str) -> None:
    async with connect(url) as client, RedisRateLimiter(url, key=key, max_per_second=RATE) as limiter:
        await take(limiter)
        before = await client.hgetall(PREFIX + key)
        limiter.release(await limiter.acquire(), retry_after=9.0)
        async with asyncio.timeout(5):
            while limiter.statistics().per_second == RATE:
                await asyncio.sleep(0.01)
        await client.hset(PREFIX + key, mapping=before)
        waiter = asyncio.create_task(take(limiter))
        fresh = Bucket(client, key, RATE, 1)
        async with asyncio.timeout(5):
            while (told := await fresh.refill(0)).paused_for < 5:
                await asyncio.sleep(0.01)
        assert told.fraction < 0.8, "the lower pace is restored as well"
        waiter.cancel()
        await asyncio.wait([waiter])


# What is lost


@pytest.mark.parametrize("burst", [1, 10])
@pytest.mark.parametrize(("processes", "command"), [(1, "FLUSHALL"), (2, "DEL"), (5, "FLUSHALL")])
async def test_losing_the_bucket_again_and_again_does_not_raise_the_rate(
    server: RedisServer, key: str, processes: int, burst: int, command: str
) -> None:
    async with connect(server.url) as client, traffic(server.url, key, processes, burst=burst) as times:
        times.clear()
        for _ in range(20):
            await client.execute_command(*([command, PREFIX + key] if command == "DEL" else [command]))
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)
        assert most_in_a_second(times) <= 1.1 * RATE + burst
        times.clear()
        await asyncio.sleep(1.5)
        assert most_in_a_second(times) >= 0.7 * RATE, "it comes back"


async def test_a_lower_pace_and_a_pause_outlive_what_the_server_had(url: str, key: str) -> None:
    async with connect(url) as client, RedisRateLimiter(url, key=key, max_per_second=RATE) as limiter:
        limiter.release(await limiter.acquire(), retry_after=1.0)
        async with asyncio.timeout(5):
            while limiter.statistics().per_second == RATE:
                await asyncio.sleep(0.01)
        begun = asyncio.get_running_loop().time()
        await client.delete(PREFIX + key)
        waiter = asyncio.create_task(take(limiter))
        fresh = Bucket(client, key, RATE, 1)
        async with asyncio.timeout(5):
            while (await fresh.refill(0)).paused_for < 0.5:
                await asyncio.sleep(0.01)
        assert await waiter >= begun + 0.9
        assert (limiter.statistics().per_second or 0) < 0.8 * RATE


async def test_a_restart_in_the_midst_of_traffic_does_not_raise_the_rate(
    server: RedisServer, key: str
) -> None:
    async with traffic(server.url, key, 3) as times:
        for _ in range(3):
            server.stop()
            server.start()
            await asyncio.sleep(0.4)
        assert most_in_a_second(times) <= 1.1 * RATE


# What others write


GARBAGE = [
    "nan",
    "inf",
    "-inf",
    "1e300",
    "-1e300",
    "",
    "text",
    "0x7fffffffffffffff",
    "-1",
    FUTURE,
    "\x00\xff",
]


@pytest.mark.parametrize("value", GARBAGE, ids=repr)
async def test_garbage_in_the_bucket_stops_nobody_and_lets_nobody_run(url: str, key: str, value: str) -> None:
    async with connect(url) as client, RedisRateLimiter(url, key=key, max_per_second=RATE) as limiter:
        await asyncio.gather(*(take(limiter) for _ in range(10)))
        for fields in (*([field] for field in FIELDS), FIELDS):
            await client.hset(PREFIX + key, mapping=dict.fromkeys(fields, value))
            begun = asyncio.get_running_loop().time()
            async with asyncio.timeout(5):
                times = sorted(await asyncio.gather(*(take(limiter) for _ in range(15))))
            assert times[-1] - begun >= 14 / RATE * 0.9 - 0.01, fields
            assert limiter.statistics().per_second == pytest.approx(RATE, rel=0.05), fields
            stored = await client.hgetall(PREFIX + key)
            assert all(0 <= float(stored[name.encode()]) < 2**53 for name in FIELDS), fields


@pytest.mark.parametrize("field", FIELDS)
async def test_a_field_that_is_missing_stops_nobody(url: str, key: str, field: str) -> None:
    async with connect(url) as client, RedisRateLimiter(url, key=key, max_per_second=RATE) as limiter:
        await take(limiter)
        await client.hdel(PREFIX + key, field)
        async with asyncio.timeout(5):
            await take(limiter)


@pytest.mark.parametrize("command", [("SET", "text"), ("RPUSH", "1", "2"), ("SADD", "x"), ("ZADD", "1", "x")])
async def test_another_type_at_the_key_is_replaced_and_logged_once(
    url: str, key: str, command: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    async with connect(url) as client, RedisRateLimiter(url, key=key, max_per_second=RATE) as limiter:
        await take(limiter)
        for _ in range(3):
            await client.delete(PREFIX + key)
            await client.execute_command(command[0], PREFIX + key, *command[1:])
            async with asyncio.timeout(5):
                await take(limiter)
        assert [one for one in warnings_of(caplog) if "overwritten" in one]
        assert len(warnings_of(caplog)) <= 3


async def test_being_overwritten_all_the_time_does_not_raise_the_rate(url: str, key: str) -> None:
    async with connect(url) as client, traffic(url, key, 4) as times:
        times.clear()
        for index in range(100):
            value = [FUTURE, "nan", "0", "-1e300"][index % 4]
            await client.hset(PREFIX + key, mapping=dict.fromkeys(FIELDS, value))
            await asyncio.sleep(0.01)
        assert most_in_a_second(times) <= 1.1 * RATE


@pytest.mark.parametrize("hours", [-24, -1, 1, 24])
async def test_a_step_of_the_servers_clock_neither_stops_nor_speeds_up(
    url: str, key: str, hours: int
) -> None:
    async with connect(url) as client, traffic(url, key, 3) as times:
        times.clear()
        for _ in range(3):
            for name in ("seen", "next", "paused_until", "lowered_at"):
                # The clock steps forward: what is stored lies further back.
                await client.hincrby(PREFIX + key, name, -hours * 3_600_000_000)
            await asyncio.sleep(0.4)
        assert most_in_a_second(times) <= 1.25 * RATE
        times.clear()
        await asyncio.sleep(1.2)
        assert 0.7 * RATE <= most_in_a_second(times) <= 1.1 * RATE


# What waits


async def test_a_long_wait_is_logged_once(url: str, key: str, caplog: pytest.LogCaptureFixture) -> None:
    async with connect(url) as client, RedisRateLimiter(url, key=key, max_per_second=RATE) as limiter:
        await Bucket(client, key, RATE, 1).refill(0, feedback=Feedback(pause=20.0))
        waiters = [asyncio.create_task(take(limiter)) for _ in range(5)]
        async with asyncio.timeout(5):
            while not warnings_of(caplog):
                await asyncio.sleep(0.01)
        waiters.append(asyncio.create_task(take(limiter)))
        await asyncio.sleep(0.3)
        assert len(warnings_of(caplog)) == 1
        assert "a pause" in warnings_of(caplog)[0]
        assert repr(key) in warnings_of(caplog)[0]
        for waiter in waiters:
            waiter.cancel()
        await asyncio.wait(waiters)


async def test_slots_that_others_have_reserved_far_ahead_are_logged(
    url: str, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with connect(url) as client, RedisRateLimiter(url, key=key, max_per_second=0.2) as limiter:
        other = Bucket(client, key, 0.2, 1)
        while (told := await other.refill(1)).count:
            pass
        assert 0 < told.too_far <= 5, "no slot is given that is more than ten seconds ahead"
        waiter = asyncio.create_task(take(limiter))
        async with asyncio.timeout(5):
            while not warnings_of(caplog):
                await asyncio.sleep(0.01)
        assert "slots that others have reserved" in warnings_of(caplog)[0]
        await asyncio.sleep(2.2)
        assert len(warnings_of(caplog)) == 1
        waiter.cancel()
        await asyncio.wait([waiter])


async def test_who_finds_no_slot_near_enough_asks_again(url: str, key: str) -> None:
    async with connect(url) as client, RedisRateLimiter(url, key=key, max_per_second=RATE) as limiter:
        other = Bucket(client, key, RATE, 1)
        while (await other.refill(100)).count:
            pass
        waiter = asyncio.create_task(take(limiter))
        await asyncio.sleep(0.1)
        assert not waiter.done()
        await client.hset(PREFIX + key, "next", 0)
        async with asyncio.timeout(5):
            await waiter


async def test_no_call_pauses_everybody_for_long(url: str, key: str) -> None:
    async with connect(url) as client:
        bucket = Bucket(client, key, RATE, 1)
        told = await bucket.refill(0, feedback=Feedback(pause=1e6))
        assert told.paused_for == LONGEST_PAUSE


# What the server answers


ERRORS = [
    "LOADING Redis is loading the dataset in memory",
    "READONLY You can't write against a read only replica.",
    "ERR Error running script: -READONLY You can't write against a read only replica.",
    "OOM command not allowed when used memory > 'maxmemory'.",
    "MOVED 3999 127.0.0.1:6381",
    "ASK 3999 127.0.0.1:6381",
    "CLUSTERDOWN The cluster is down",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "NOREPLICAS Not enough good replicas to write.",
    "MISCONF Redis is configured to save RDB snapshots",
    "BUSY Redis is busy running a script.",
    "NOSCRIPT No matching script.",
    "NOAUTH Authentication required.",
    "NOPERM this user has no permissions to run the 'evalsha' command",
    "WRONGTYPE Operation against a key holding the wrong kind of value",
    "ERR max number of clients reached",
    "ERR unknown command 'EVALSHA'",
    "ERR \x1b[31mred\x07 " + 10_000 * "x",
]
ANSWERS = [
    b"+OK\r\n",
    b"$-1\r\n",
    b"*0\r\n",
    b"*1\r\n:1\r\n",
    b"*10\r\n" + 10 * b"$3\r\nnan\r\n",
    b"*10\r\n" + 10 * b"$-1\r\n",
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b":1\r\n",
    b"*1000000\r\n:1\r\n",
    b"$5\r\nab",
    b"",
    None,
]


@pytest.mark.parametrize(
    "answer",
    [*(f"-{error}\r\n".encode() for error in ERRORS), *ANSWERS],
    ids=lambda answer: repr(answer)[:40],
)
async def test_any_answer_is_an_error_within_the_timeout(answer: bytes | None, key: str) -> None:
    async with answering(answer) as url, connect(url) as client, AsyncExitStack() as stack:
        for redis in (url, client):
            limiter = await stack.enter_async_context(
                RedisRateLimiter(redis, key=key, max_per_second=RATE, timeout=0.3)
            )
            async with asyncio.timeout(3):
                outcomes = await asyncio.gather(*(take(limiter) for _ in range(5)), return_exceptions=True)
            for outcome in outcomes:
                assert isinstance(outcome, LimiterUnavailable)
                assert isinstance(outcome, ConnectionFailed)
                assert not outcome.sent
                assert outcome.permanent == (answer is not None and answer[:5] in {b"-NOAU", b"-NOPE"})
                assert len(str(outcome)) < 500
                assert str(outcome).isprintable()
            assert limiter.statistics().waiting == (0, 0, 0)
            assert limiter.statistics().in_flight == 0


@pytest.mark.parametrize("error", ERRORS[:4] + ERRORS[13:15], ids=lambda error: error[:20])
async def test_any_answer_lets_a_limiter_go_on_that_fails_open(error: str, key: str) -> None:
    async with (
        answering(f"-{error}\r\n".encode()) as url,
        RedisRateLimiter(url, key=key, max_per_second=1000, timeout=0.3, fail_open=True) as limiter,
        asyncio.timeout(5),
    ):
        await asyncio.gather(*(take(limiter) for _ in range(20)))
        assert limiter.statistics().per_second == 250


async def test_feedback_is_not_sent_over_and_over_to_a_server_that_is_gone(
    server: RedisServer, key: str
) -> None:
    async with (
        Address(server.port).open() as address,
        RedisRateLimiter(address.url, key=key, max_per_second=RATE) as limiter,
    ):
        granted_at = await limiter.acquire()
        server.stop()
        made = address.made
        limiter.release(granted_at, retry_after=0.5)
        await asyncio.sleep(0.7)
        assert 1 <= address.made - made <= 4


# A server that is full, slow, frozen or closed


async def test_a_full_server_is_an_error_until_it_has_room(server: RedisServer, key: str) -> None:
    async with (
        connect(server.url) as client,
        RedisRateLimiter(server.url, key=key, max_per_second=RATE) as limiter,
    ):
        await take(limiter)
        await client.config_set("maxmemory", "1")
        async with asyncio.timeout(3):
            with pytest.raises(LimiterUnavailable, match="its memory is full"):
                await take(limiter)
        await client.config_set("maxmemory", "0")
        await take(limiter)


async def test_a_server_that_evicts_the_bucket_is_used_on(server: RedisServer, key: str) -> None:
    async with connect(server.url) as client, traffic(server.url, key, 2) as times:
        await client.config_set("maxmemory-policy", "allkeys-random")
        times.clear()
        for _ in range(10):
            await client.config_set("maxmemory", "1")
            await asyncio.sleep(0.02)
            await client.config_set("maxmemory", "0")
            await asyncio.sleep(0.08)
        assert most_in_a_second(times) <= 1.1 * RATE
        times.clear()
        await asyncio.sleep(1.2)
        assert most_in_a_second(times) >= 0.7 * RATE


async def test_a_server_that_sleeps_is_an_error_after_the_timeout(server: RedisServer, key: str) -> None:
    server.stop()
    server.start("--enable-debug-command", "yes")
    async with (
        connect(server.url) as client,
        RedisRateLimiter(server.url, key=key, max_per_second=RATE, timeout=0.3) as limiter,
    ):
        await take(limiter)
        sleeping = asyncio.create_task(client.execute_command("DEBUG", "SLEEP", "1.5"))
        await asyncio.sleep(0.1)
        begun = time.monotonic()
        with pytest.raises(LimiterUnavailable, match=r"no answer within 0\.3 s"):
            await take(limiter)
        assert time.monotonic() - begun < 1
        await sleeping
        await take(limiter)


async def test_a_frozen_server_does_not_hold_up_closing(frozen: RedisServer, key: str) -> None:
    limiter = RedisRateLimiter(frozen.url, key=key, max_per_second=RATE, timeout=5)
    await take(limiter)
    frozen.send(signal.SIGSTOP)
    waiter = asyncio.create_task(take(limiter))
    await asyncio.sleep(0.1)
    async with asyncio.timeout(3):
        await limiter.aclose()
        with pytest.raises(LimiterUnavailable, match="closed"):
            await waiter


async def test_a_user_that_may_not_run_scripts_is_told_so_at_once(server: RedisServer, key: str) -> None:
    async with connect(server.url) as client:
        await client.execute_command("ACL", "SETUSER", "weak", "on", ">secret-word", "~*", "+ping")
    async with RedisRateLimiter(
        f"redis://weak:secret-word@127.0.0.1:{server.port}", key=key, max_per_second=RATE
    ) as limiter:
        with pytest.raises(LimiterUnavailable, match="allow EVAL") as caught:
            await take(limiter)
    assert caught.value.permanent
    assert "secret-word" not in f"{caught.value!r} {limiter!r}"


async def test_another_node_of_a_cluster_is_an_error_that_says_so(server: RedisServer, key: str) -> None:
    server.stop()
    server.start("--cluster-enabled", "yes")
    async with RedisRateLimiter(server.url, key=key, max_per_second=RATE) as limiter:
        with pytest.raises(LimiterUnavailable, match="cluster"):
            await take(limiter)
        async with connect(server.url) as client:
            await client.execute_command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        async with asyncio.timeout(10):
            while True:
                try:
                    await take(limiter)
                except LimiterUnavailable:
                    await asyncio.sleep(0.1)
                else:
                    break
