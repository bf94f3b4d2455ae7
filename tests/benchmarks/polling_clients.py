"""One measurement in a process of its own: `python -m tests.benchmarks.polling_clients JSON` prints a JSON object.

The other clients are imported where they are used, so that none pays for the import of another, and without their
types, so that the type checkers don't need them installed.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any


IN_FLIGHT = 32
KEY = "benchmark-key"
HEADERS = {"Authorization": f"Bearer {KEY}"}
PAGE = os.sysconf("SC_PAGE_SIZE")


class Meter:
    """Counts requests, and measures from the end of the warm-up to the last one that is wanted."""

    def __init__(self, warm_up: int, measured: int) -> None:
        self.warm_up = warm_up
        self.last = warm_up + measured
        self.count = 0
        self.begun = (0.0, 0.0)
        self.ended = (0.0, 0.0)

    def tick(self) -> bool:
        """Count a request; return whether another one is wanted."""
        self.count += 1
        if self.count == self.warm_up:
            self.begun = (time.process_time(), time.perf_counter())
        elif self.count == self.last:
            self.ended = (time.process_time(), time.perf_counter())
        return self.count < self.last

    def result(self) -> dict[str, float]:
        """Return the CPU and the time of one request, in seconds."""
        measured = self.last - self.warm_up
        return {
            "cpu": (self.ended[0] - self.begun[0]) / measured,
            "wall": (self.ended[1] - self.begun[1]) / measured,
        }


def ids(count: int) -> list[str]:
    """Return as many request ids."""
    return [f"r-{number:08d}" for number in range(1, count + 1)]


async def repeat(meter: Meter, operations: int, get: Callable[[str], Awaitable[object]]) -> None:
    """Poll one request after the other, as many at a time as this package has slots."""
    paths: Iterator[str] = itertools.cycle([f"/request/info/{request_id}" for request_id in ids(operations)])

    async def work() -> None:
        for path in paths:
            await get(path)
            if not meter.tick():
                return

    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))


async def poll_ours(url: str, meter: Meter, operations: int) -> None:
    """Poll operations of this package until as many polls are made."""
    package = import_module("tensorpool_async")
    async with package.TensorPool(KEY, base_url=url) as tp:
        kept = start(tp, operations)
        await until(lambda: tp.statistics().polls >= meter.warm_up)
        # Waited for here and not hooked into the client: what measures is no part of what is measured.
        first = tp.statistics().polls
        begun = (time.process_time(), time.perf_counter())
        await until(lambda: tp.statistics().polls >= meter.last)
        ended = (time.process_time(), time.perf_counter())
        meter.warm_up, meter.last = first, tp.statistics().polls
        meter.begun, meter.ended = begun, ended
        assert not any(operation.done() for operation in kept)


async def poll_aiohttp(url: str, meter: Meter, operations: int) -> None:
    """Poll with an `aiohttp.ClientSession` as it comes."""
    aiohttp = import_module("aiohttp")
    async with aiohttp.ClientSession(headers=HEADERS) as session:

        async def get(path: str) -> object:
            async with session.get(url + path) as answer:
                return json.loads(await answer.read())

        await repeat(meter, operations, get)


async def poll_httpx(url: str, meter: Meter, operations: int) -> None:
    """Poll with an `httpx.AsyncClient` as it comes."""
    async with import_module("httpx").AsyncClient(headers=HEADERS) as client:

        async def get(path: str) -> object:
            return (await client.get(url + path)).json()

        await repeat(meter, operations, get)


async def poll_openai(url: str, meter: Meter, operations: int) -> None:
    """Poll with `openai.AsyncOpenAI.get`."""
    async with import_module("openai").AsyncOpenAI(api_key=KEY, base_url=url) as client:

        async def get(path: str) -> object:
            return await client.get(path, cast_to=object)

        await repeat(meter, operations, get)


async def poll_azure(url: str, meter: Meter, operations: int) -> None:
    """Poll with azure-core's `AsyncLROPoller` on its aiohttp transport, one for each operation."""
    core, polling = import_module("azure.core"), import_module("azure.core.polling")
    base, status = (
        import_module("azure.core.polling.async_base_polling"),
        import_module("azure.core.polling.base_polling"),
    )
    policies, rest = import_module("azure.core.pipeline.policies"), import_module("azure.core.rest")
    pipeline = [
        policies.RequestIdPolicy(),
        policies.HeadersPolicy(HEADERS),
        policies.UserAgentPolicy(),
        policies.AsyncRetryPolicy(),
    ]
    enough = asyncio.Event()

    get_status: Callable[[Any, Any], str] = status.OperationResourcePolling.get_status

    def count(monitor: Any, response: Any) -> str:
        if not meter.tick():
            enough.set()
        return get_status(monitor, response)

    monitor = type("Monitor", (status.OperationResourcePolling,), {"get_status": count})

    async def add(client: Any, request_id: str) -> None:
        request = rest.HttpRequest("GET", f"{url}/azure/{request_id}")
        response = await client.send_request(request, _return_pipeline_response=True)
        method = base.AsyncLROBasePolling(timeout=0, lro_algorithms=[monitor()])
        await polling.AsyncLROPoller(client, response, str, method).result()

    async with core.AsyncPipelineClient(url, policies=pipeline) as client:
        tasks = [asyncio.create_task(add(client, one)) for one in ids(operations)]
        ended = asyncio.create_task(enough.wait())
        await asyncio.wait([ended, *tasks], return_when=asyncio.FIRST_COMPLETED)
        assert enough.is_set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def poll_requests(url: str, meter: Meter, operations: int) -> None:
    """Poll one after the other with `requests.get`, as the engine's own command does."""
    get = import_module("requests").get
    for request_id in itertools.cycle(ids(operations)):
        get(f"{url}/request/info/{request_id}", headers=HEADERS).json()
        if not meter.tick():
            return


POLLERS: dict[str, Callable[[str, Meter, int], Coroutine[Any, Any, None]]] = {
    "tensorpool-async": poll_ours,
    "aiohttp": poll_aiohttp,
    "httpx": poll_httpx,
    "openai": poll_openai,
    "azure-core": poll_azure,
    "requests": poll_requests,
}


def start(tp: Any, count: int) -> list[Any]:
    """Go on with operations, of which nobody waits for any."""
    tokens, kinds = import_module("tensorpool_async.protocol.tokens"), import_module("tensorpool_async")
    claim = kinds.OperationKind.CLUSTER_CLAIM
    tickets = (tokens.OperationRef(claim, f"c-{one[2:]}", (one,)) for one in ids(count))
    return [tp._executor.poll(ref) for ref in tickets]


async def until(condition: Callable[[], bool]) -> None:
    """Wait until it holds."""
    while not condition():
        await asyncio.sleep(0.02)


def resident() -> int:
    """Return the bytes of memory that are resident."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


async def polls(url: str, client: str, operations: int, warm_up: int, measured: int) -> dict[str, float]:
    """Measure the CPU and the time of a poll."""
    meter = Meter(warm_up, measured)
    await POLLERS[client](url, meter, operations)
    return meter.result()


async def provision(url: str, operations: int) -> dict[str, float]:
    """Create clusters and wait for all of them."""
    package = import_module("tensorpool_async")
    async with package.TensorPool(KEY, base_url=url) as tp:
        await tp.clusters.get("c-0")
        begun = (time.process_time(), time.perf_counter())
        accepted = await asyncio.gather(*(create(tp, f"w-{number}") for number in range(operations)))
        created = time.perf_counter()
        await asyncio.gather(*accepted)
        ended = (time.process_time(), time.perf_counter())
        return {
            "create": created - begun[1],
            "wall": ended[1] - begun[1],
            "cpu": ended[0] - begun[0],
            "requests": tp.statistics().requests - 1,
        }


async def create(tp: Any, name: str) -> Any:
    """Create a cluster; return its operation."""
    return await tp.clusters.create("8xH100", name=name)


async def provision_bare(url: str, operations: int, polls: int) -> dict[str, float]:
    """Make the same requests with an `aiohttp.ClientSession` as it comes, one after the other, and wait for nothing."""
    aiohttp = import_module("aiohttp")
    async with aiohttp.ClientSession(headers=HEADERS) as session:

        async def post(name: str) -> None:
            body = {
                "instance_type": "8xH100",
                "num_nodes": 1,
                "tp_cluster_name": name,
                "deletion_protection": False,
                "save_keys": True,
            }
            async with session.post(f"{url}/cluster/create", json=body) as answer:
                json.loads(await answer.read())

        async def get(path: str) -> None:
            async with session.get(url + path) as answer:
                json.loads(await answer.read())

        async def work(requests: Iterator[tuple[Callable[[str], Awaitable[None]], str]]) -> None:
            for send, argument in requests:
                await send(argument)

        numbers = range(1, operations + 1)
        requests = itertools.chain(
            ((post, f"w-{number}") for number in numbers),
            ((get, f"/request/info/{one}") for _ in range(polls) for one in ids(operations)),
            ((get, f"/cluster/info/c-{number:08d}") for number in numbers),
        )
        begun = time.perf_counter()
        await asyncio.gather(*(work(requests) for _ in range(IN_FLIGHT)))
        return {"wall": time.perf_counter() - begun}


async def memory(url: str, operations: int, *, gather: bool) -> dict[str, float]:
    """Measure the memory of operations, each of which was polled at least once."""
    package = import_module("tensorpool_async")
    async with package.TensorPool(KEY, base_url=url) as tp:
        await asyncio.gather(*(tp.clusters.get("c-0") for _ in range(200)))
        before = resident()
        kept = start(tp, operations)
        waiting = asyncio.gather(*(one.result() for one in kept)) if gather else None
        await until(lambda: tp.statistics().polls >= operations * 1.2)
        after = resident()
        if waiting is not None:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        return {"bytes": (after - before) / operations}


async def lateness(url: str, operations: int, seconds: float, spread: float) -> dict[str, float]:
    """Poll for some seconds, the first polls evenly spread over `spread` seconds; the engine notes how late it is."""
    package = import_module("tensorpool_async")
    async with package.TensorPool(KEY, base_url=url, polling=package.PollPolicy(jitter=0.0)) as tp:
        begun = asyncio.get_running_loop().time()
        kept: list[Any] = []
        for index, one in enumerate(ids(operations)):
            await asyncio.sleep(
                max(0.0, begun + index * spread / operations - asyncio.get_running_loop().time())
            )
            kept.append(tp.operation(one))
            kept[-1].start(0.0)
        await asyncio.sleep(seconds)
        return {"polls": tp.statistics().polls}


MEASUREMENTS: dict[str, Callable[..., Coroutine[Any, Any, dict[str, float]]]] = {
    "polls": polls,
    "provision": provision,
    "provision_bare": provision_bare,
    "memory": memory,
    "lateness": lateness,
}


def main() -> None:
    """Run the measurement that the argument asks for."""
    order = json.loads(sys.argv[1])
    if (core := order.pop("core")) >= 0:
        os.sched_setaffinity(0, {core})
    print(json.dumps(asyncio.run(MEASUREMENTS[order.pop("measure")](**order))))


if __name__ == "__main__":
    main()
