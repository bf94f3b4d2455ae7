"""The limit that several processes share: the promises of the limiter in memory, and a server that comes and goes."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
import signal
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import pytest

from tensorpool_async import (
    ConnectionFailed,
    PollPolicy,
    RateLimiter,
    RetryPolicy,
    TensorPool,
    WrongEventLoopError,
)
from tensorpool_async.emulator import Emulator
from tensorpool_async.protocol.rate_limits import Limits
from tensorpool_async.protocol.requests import Lane
from tensorpool_async.redis import RedisRateLimiter
from tensorpool_async.redis.bucket import PREFIX, Bucket, Feedback
from tensorpool_async.testing import ThreadedEmulator
from tests.redis.server import RedisServer, connect


EPSILON = 0.003
"""Seconds by which two clocks and their rounding may differ."""


def now() -> float:
    return asyncio.get_running_loop().time()


def as_limiter(limiter: RedisRateLimiter) -> RateLimiter:
    return cast("RateLimiter", limiter)


async def take(limiter: RedisRateLimiter, lane: Lane = Lane.READ) -> float:
    async with limiter.slot(lane):
        return now()


async def test_all_limiters_of_one_key_keep_one_pace(url: str, key: str) -> None:
    async with AsyncExitStack() as stack:
        limiters = [
            await stack.enter_async_context(RedisRateLimiter(url, key=key, max_per_second=200))
            for _ in range(3)
        ]
        begun = now()
        times = sorted(await asyncio.gather(*(take(limiter) for limiter in limiters for _ in range(25))))
    # Lateness can press some together for a moment; the whole of them can never be early.
    for number, moment in enumerate(times):
        assert moment - begun >= number / 200 - EPSILON
    assert sum(limiter.statistics().granted for limiter in limiters) == 75


async def test_other_keys_have_a_pace_of_their_own(url: str, key: str) -> None:
    async with (
        RedisRateLimiter(url, key=key, max_per_second=0.01) as slow,
        RedisRateLimiter(url, key=key + "-other", max_per_second=0.01) as other,
    ):
        await take(slow)
        async with asyncio.timeout(5):
            await take(other)


async def test_a_burst_may_go_at_once(url: str, key: str) -> None:
    async with RedisRateLimiter(url, key=key, max_per_second=0.01, burst=5) as limiter:
        async with asyncio.timeout(10):
            await asyncio.gather(*(take(limiter) for _ in range(5)))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await take(limiter)


async def test_no_more_in_flight_than_slots(url: str, key: str) -> None:
    async with RedisRateLimiter(url, key=key, max_per_second=2000, max_in_flight=3) as limiter:
        most = 0

        async def hold() -> None:
            nonlocal most
            async with limiter.slot():
                most = max(most, limiter.statistics().in_flight)
                await asyncio.sleep(0.02)

        await asyncio.gather(*(hold() for _ in range(40)))
        assert (most, limiter.max_in_flight, limiter.statistics().in_flight) == (3, 3, 0)


async def test_a_change_goes_before_all_polls_that_wait(url: str, key: str) -> None:
    async with RedisRateLimiter(url, key=key, max_per_second=200) as limiter:
        order: list[Lane] = []

        async def go(lane: Lane) -> None:
            async with limiter.slot(lane):
                order.append(lane)

        polls = [asyncio.create_task(go(Lane.POLL)) for _ in range(40)]
        while len(order) < 3:
            await asyncio.sleep(0.001)
        before = limiter.statistics().granted  # some of them have not run yet
        await go(Lane.CHANGE)
        assert order.index(Lane.CHANGE) <= before + 1
        await asyncio.gather(*polls)


async def test_whoever_asks_first_goes_first_between_processes(url: str, key: str) -> None:
    async with (
        RedisRateLimiter(url, key=key, max_per_second=100) as busy,
        RedisRateLimiter(url, key=key, max_per_second=100) as quiet,
    ):
        crowd = [asyncio.create_task(take(busy)) for _ in range(50)]
        await crowd[0]
        await take(quiet)
        assert sum(task.done() for task in crowd) <= 20, (
            "one request waits for a few of the others, not for all"
        )
        for task in crowd:
            task.cancel()
        await asyncio.wait(crowd)


@pytest.mark.parametrize("seed", range(4))
async def test_cancelling_loses_no_slot_and_no_waiter(url: str, key: str, seed: int) -> None:
    chance = random.Random(seed)  # it is in the name of the test
    async with RedisRateLimiter(url, key=key, max_per_second=1000, max_in_flight=4) as limiter:

        async def visit() -> None:
            async with limiter.slot(chance.choice(list(Lane))):
                await asyncio.sleep(chance.random() * 0.004)

        tasks = [asyncio.create_task(visit()) for _ in range(80)]
        for _ in range(50):
            await asyncio.sleep(chance.random() * 0.002)
            chance.choice(tasks).cancel()
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20)
        statistics = limiter.statistics()
        assert (statistics.in_flight, statistics.waiting) == (0, (0, 0, 0))
        await asyncio.gather(*(visit() for _ in range(8)))


async def test_a_grant_in_the_moment_of_a_cancellation_is_passed_on(url: str, key: str) -> None:
    async with RedisRateLimiter(url, key=key, max_per_second=1000, burst=10, max_in_flight=1) as limiter:
        for _ in range(3):
            waiter = asyncio.create_task(limiter.acquire())
            while limiter.statistics().in_flight == 0:
                await asyncio.sleep(0)
            waiter.cancel()  # it is granted, and has not run yet
            await asyncio.wait({waiter})
            if not waiter.cancelled():
                limiter.release(waiter.result())
            assert limiter.statistics().in_flight == 0


async def test_what_a_cancelled_waiter_had_taken_is_given_back(url: str, key: str) -> None:
    async with (
        connect(url) as client,
        RedisRateLimiter(client, key=key, max_per_second=0.1) as limiter,
    ):
        bucket = Bucket(client, key, 0.1, 1)
        await take(limiter)
        assert 9 < (await bucket.refill(0)).delay <= 10
        waiter = asyncio.create_task(take(limiter))
        while (await bucket.refill(0)).delay < 11:
            await asyncio.sleep(0.005)
        waiter.cancel()
        async with asyncio.timeout(5):
            while (await bucket.refill(0)).delay > 10:
                await asyncio.sleep(0.005)


async def test_a_pause_holds_for_all_and_ends_staggered(url: str, key: str) -> None:
    async with (
        RedisRateLimiter(url, key=key, max_per_second=50) as one,
        RedisRateLimiter(url, key=key, max_per_second=50) as other,
    ):
        granted_at = await one.acquire()
        until = now() + 0.4
        one.release(granted_at, retry_after=0.4)
        while one.statistics().per_second == 50:  # until the server has heard of it
            await asyncio.sleep(0.001)
        times = sorted(await asyncio.gather(*(take(limiter) for limiter in (one, other) for _ in range(4))))
        assert times[0] >= until - EPSILON
        for number, moment in enumerate(times):
            assert moment - until >= number / 50 - EPSILON
        assert (one.statistics().rate_limited, other.statistics().rate_limited) == (1, 0)


async def test_turns_that_are_taken_during_a_pause_come_after_it(url: str, key: str) -> None:
    async with connect(url) as client:
        bucket = Bucket(client, key, 100, 1)
        await bucket.refill(0, feedback=Feedback(pause=10))
        first, second = await bucket.refill(1), await bucket.refill(1)
        assert 9.9 < first.delay <= 10
        assert second.first - first.first == 10_000


async def test_one_burst_of_refusals_lowers_the_pace_once_for_all(url: str, key: str) -> None:
    async with (
        RedisRateLimiter(url, key=key, max_per_second=100, burst=5) as one,
        RedisRateLimiter(url, key=key, max_per_second=100) as other,
    ):
        granted = [await one.acquire() for _ in range(5)]
        for granted_at in granted:
            one.release(granted_at, retry_after=0.05)
            await asyncio.sleep(0.01)
        await take(other)
        assert 70 <= (other.statistics().per_second or 0) < 75


async def test_a_quota_pauses_and_does_not_lower_the_pace(url: str, key: str) -> None:
    async with RedisRateLimiter(url, key=key, max_per_second=100) as limiter:
        granted_at = await limiter.acquire()
        limiter.release(granted_at, retry_after=30)
        statistics = limiter.statistics()
        assert statistics.paused_for > 29
        async with connect(url) as client:
            bucket = Bucket(client, key, 100, 1)
            while not (told := await bucket.refill(0)).paused_for:
                await asyncio.sleep(0.005)
        assert told.fraction == 1


async def test_headers_that_say_nothing_is_left_pause_all(url: str, key: str) -> None:
    async with (
        RedisRateLimiter(url, key=key, max_per_second=100) as one,
        RedisRateLimiter(url, key=key, max_per_second=100) as other,
    ):
        granted_at = await one.acquire()
        until = now() + 0.3
        one.release(granted_at, ok=True, limits=Limits(limit=10, remaining=0, reset=0.3))
        await take(one)
        assert now() >= until - EPSILON
        await take(other)
        assert now() >= until - EPSILON


async def test_the_pace_rises_again_after_refusals(url: str, key: str) -> None:
    async with connect(url) as client:
        bucket = Bucket(client, key, 100, 1)
        low = (await bucket.refill(0, feedback=Feedback(refused_age=0.0))).fraction
        assert low == 0.7
        await asyncio.sleep(0.2)
        risen = (await bucket.refill(0)).fraction
        assert low + 0.009 < risen < 1
        assert (await bucket.refill(0, feedback=Feedback(refused_age=0.0))).fraction < risen, (
            "another burst lowers it again"
        )


async def test_a_clock_that_is_set_back_makes_nobody_wait(url: str, key: str) -> None:
    async with connect(url) as client:
        bucket = Bucket(client, key, 1, 1)
        seconds, _ = await client.time()
        tomorrow = (seconds + 86_400) * 1_000_000
        fields = {
            "serial": 1,
            "seen": tomorrow,
            "next": tomorrow + 2_000_000,
            "paused_until": 0,
            "lowered_at": 0,
            "share": 1,
        }
        await client.hset(PREFIX + key, mapping=fields)
        assert 1.9 < (await bucket.refill(1)).delay <= 2


async def test_idle_buckets_do_not_stay_at_the_server(url: str, key: str) -> None:
    async with connect(url) as client:
        await Bucket(client, key, 10, 1).refill(1)
        assert 59_000 < await client.pttl(PREFIX + key) <= 61_000


async def test_a_server_that_has_lost_everything_is_used_anew(url: str, key: str) -> None:
    async with connect(url) as client, RedisRateLimiter(url, key=key, max_per_second=100) as limiter:
        await take(limiter)
        await client.flushall()
        await client.script_flush()
        await take(limiter)


async def test_a_server_that_is_restarted_is_used_again(server: RedisServer, key: str) -> None:
    async with RedisRateLimiter(server.url, key=key, max_per_second=100) as limiter:
        await take(limiter)
        server.stop()
        server.start()
        await take(limiter)


async def test_without_the_server_there_is_an_error_and_no_wait(server: RedisServer, key: str) -> None:
    async with RedisRateLimiter(server.url, key=key, max_per_second=100, timeout=5) as limiter:
        server.stop()
        outcomes = await asyncio.gather(*(take(limiter) for _ in range(10)), return_exceptions=True)
        assert all(isinstance(outcome, ConnectionFailed) and not outcome.sent for outcome in outcomes)
        assert "the server that shares the rate limit cannot be used" in str(outcomes[0])
        assert limiter.statistics().waiting == (0, 0, 0)
        server.start()
        await take(limiter)


async def test_a_server_that_does_not_answer_is_an_error_after_the_timeout(silent: str, key: str) -> None:
    async with RedisRateLimiter(silent, key=key, max_per_second=100, timeout=0.1) as limiter:
        begun = now()
        outcomes = await asyncio.gather(*(take(limiter) for _ in range(10)), return_exceptions=True)
        assert all(isinstance(outcome, ConnectionFailed) for outcome in outcomes)
        assert now() - begun < 5


async def test_a_frozen_server_is_an_error_until_it_goes_on(frozen: RedisServer, key: str) -> None:
    async with RedisRateLimiter(frozen.url, key=key, max_per_second=100, timeout=0.2) as limiter:
        await take(limiter)
        frozen.send(signal.SIGSTOP)
        with pytest.raises(ConnectionFailed):
            await take(limiter)
        frozen.send(signal.SIGCONT)
        await take(limiter)


async def test_fail_open_goes_on_at_a_share_of_the_pace(
    server: RedisServer, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tensorpool_async")
    async with RedisRateLimiter(
        server.url, key=key, max_per_second=200, fail_open=True, fail_open_share=0.5
    ) as limiter:
        server.stop()
        await take(limiter)
        begun = now()
        times = sorted(await asyncio.gather(*(take(limiter) for _ in range(20))))
        for number, moment in enumerate(times):
            assert moment - begun >= number / 100 - EPSILON - 0.005
        assert limiter.statistics().per_second == 100
        assert "without its server" in repr(limiter)
        server.start()
        async with asyncio.timeout(30):
            while limiter.statistics().per_second == 100:
                await take(limiter)
    assert [record.levelname for record in caplog.records if record.name == "tensorpool_async"] == [
        "WARNING",
        "INFO",
    ]


async def test_fail_open_waits_once_for_a_server_that_does_not_answer(silent: str, key: str) -> None:
    async with RedisRateLimiter(silent, key=key, max_per_second=1000, timeout=0.3, fail_open=True) as limiter:
        async with asyncio.timeout(20):
            for _ in range(50):
                await take(limiter)
        assert limiter.statistics().granted == 50


async def test_fail_open_keeps_to_the_slots(server: RedisServer, key: str) -> None:
    async with RedisRateLimiter(
        server.url, key=key, max_per_second=1000, max_in_flight=2, fail_open=True
    ) as limiter:
        server.stop()
        held = [await limiter.acquire(), await limiter.acquire()]
        third = asyncio.create_task(limiter.acquire())
        await asyncio.sleep(0.1)
        assert not third.done()
        limiter.release(held[0])
        await third


async def test_fail_open_keeps_a_pause(server: RedisServer, key: str) -> None:
    async with RedisRateLimiter(server.url, key=key, max_per_second=100, fail_open=True) as limiter:
        server.stop()
        granted_at = await limiter.acquire()
        until = now() + 0.3
        limiter.release(granted_at, retry_after=0.3)
        assert await take(limiter) >= until - EPSILON


async def test_a_wrong_password_is_not_tried_again(server: RedisServer, key: str) -> None:
    server.stop()
    server.start("--requirepass", "right")
    limiter = RedisRateLimiter(f"redis://:wrong@127.0.0.1:{server.port}", key=key, max_per_second=1)
    async with limiter:
        with pytest.raises(ConnectionFailed) as caught:
            await limiter.acquire()
        assert caught.value.permanent
        assert "wrong@" not in f"{caught.value!r} {limiter!r}"


VICTIM = """
import asyncio, sys
from tensorpool_async.redis import RedisRateLimiter

async def main(url, key):
    limiter = RedisRateLimiter(url, key=key, max_per_second=100)
    waiters = [asyncio.create_task(limiter.acquire()) for _ in range(500)]
    await waiters[0]
    print("holds", flush=True)
    await asyncio.gather(*waiters)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_process_that_is_killed_holds_nothing_up(url: str, key: str) -> None:
    victim = await asyncio.create_subprocess_exec(
        sys.executable, "-c", VICTIM, url, key, stdout=asyncio.subprocess.PIPE
    )
    assert victim.stdout is not None
    assert await victim.stdout.readline() == b"holds\n"
    victim.kill()
    await victim.communicate()
    async with connect(url) as client:
        assert (await Bucket(client, key, 100, 1).refill(0)).delay <= 0.06, "a few turns, and nothing else"
    async with RedisRateLimiter(url, key=key, max_per_second=100) as limiter, asyncio.timeout(10):
        await take(limiter)


async def test_closing_tells_whoever_waits(url: str, key: str) -> None:
    limiter = RedisRateLimiter(url, key=key, max_per_second=0.01)
    await take(limiter)
    waiter = asyncio.create_task(take(limiter))
    await asyncio.sleep(0.05)
    await limiter.aclose()
    with pytest.raises(ConnectionFailed, match="closed"):
        await waiter
    with pytest.raises(ConnectionFailed, match="closed"):
        await limiter.acquire()
    await limiter.aclose()


async def test_a_client_that_was_passed_in_is_not_closed(url: str, key: str) -> None:
    async with connect(url) as client:
        async with RedisRateLimiter(client, key=key, max_per_second=100) as limiter:
            await take(limiter)
        assert await client.get("nothing") is None


def test_a_limiter_belongs_to_one_loop(url: str, key: str) -> None:
    limiter = RedisRateLimiter(url, key=key, max_per_second=100)

    async def use_and_close() -> None:
        async with limiter:
            await take(limiter)

    asyncio.run(use_and_close())
    with pytest.raises(WrongEventLoopError):
        asyncio.run(take(limiter))


async def test_the_statistics_and_the_repr_tell_what_goes_on(url: str, key: str) -> None:
    async with RedisRateLimiter(url, key=key, max_per_second=0.5, max_in_flight=2) as limiter:
        assert repr(limiter) == f"<RedisRateLimiter {key!r}: 0/2 in flight, 0/0/0 waiting, 0.5/s>"
        granted_at = await limiter.acquire()
        waiters = [asyncio.create_task(take(limiter, lane)) for lane in (Lane.CHANGE, Lane.POLL, Lane.POLL)]
        await asyncio.sleep(0)
        statistics = limiter.statistics()
        assert (statistics.in_flight, statistics.max_in_flight, statistics.granted) == (1, 2, 1)
        assert statistics.waiting == (1, 0, 2)
        limiter.release(granted_at, retry_after=20)
        assert "paused for 20.0 s" in repr(limiter)
        for waiter in waiters:
            waiter.cancel()
        await asyncio.wait(waiters)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_in_flight", 0),
        ("max_per_second", 0),
        ("max_per_second", float("inf")),
        ("burst", 0),
        ("fail_open_share", 0),
        ("fail_open_share", 1.5),
        ("timeout", 0),
        ("key", ""),
    ],
)
def test_what_makes_no_sense_is_refused(name: str, value: object) -> None:
    settings: dict[str, Any] = {"key": "k", "max_per_second": 1.0} | {name: value}
    with pytest.raises(ValueError, match=name):
        RedisRateLimiter("redis://localhost", **settings)


async def test_clients_share_it(url: str, key: str, emulator: Emulator) -> None:
    async with (
        RedisRateLimiter(url, key=key, max_per_second=500) as limiter,
        TensorPool(
            emulator.key,
            base_url=emulator.url,
            limiter=as_limiter(limiter),
            polling=PollPolicy(initial=0.01),
        ) as tp,
    ):
        clusters = await asyncio.gather(*(tp.clusters.create("8xH100").result() for _ in range(10)))
        await asyncio.gather(*(tp.clusters.destroy(cluster).result() for cluster in clusters))
        assert emulator.record.requests == limiter.statistics().granted
    assert emulator.record.living == []


async def test_a_client_tries_again_while_the_server_is_gone(
    server: RedisServer, key: str, emulator: Emulator
) -> None:
    async with (
        RedisRateLimiter(server.url, key=key, max_per_second=500) as limiter,
        TensorPool(
            emulator.key,
            base_url=emulator.url,
            limiter=as_limiter(limiter),
            retry=RetryPolicy(attempts=3, backoff=0.01, longest_backoff=0.02),
        ) as tp,
    ):
        server.stop()
        with pytest.raises(ConnectionFailed, match="rate limit"):
            await tp.clusters.create("8xH100").result()
        assert (emulator.record.requests, tp.statistics().retries) == (0, 2)
        server.start()
        assert await tp.clusters.list() == []


def test_the_guide_on_processes_is_true(url: str) -> None:
    guide = (Path(__file__).parent.parent.parent / "docs" / "processes.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", guide, re.MULTILINE | re.DOTALL)
    assert blocks
    with ThreadedEmulator() as emulator:
        for block in blocks:
            environment = {**os.environ, **emulator.environment, "REDIS_URL": url}
            subprocess.run(
                [sys.executable, "-W", "error", "-c", block], env=environment, check=True, timeout=30
            )
        assert emulator.record.requests == len(blocks)
