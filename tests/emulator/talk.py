"""A bare client for the tests of the emulator: it checks nothing and retries nothing."""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import attrs

from tensorpool_async.emulator import Emulator


@attrs.frozen
class Reply:
    status: int
    body: bytes
    headers: Mapping[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@attrs.frozen
class Talk:
    emulator: Emulator
    session: aiohttp.ClientSession

    async def ask(self, method: str, path: str, **options: Any) -> Reply:
        options.setdefault("headers", {"Authorization": f"Bearer {self.emulator.key}"})
        url = options.pop("url", self.emulator.url)
        async with self.session.request(method, url + path, **options) as response:
            return Reply(response.status, await response.read(), response.headers)

    async def get(self, path: str, **options: Any) -> Reply:
        return await self.ask("GET", path, **options)

    async def post(self, path: str, **options: Any) -> Reply:
        return await self.ask("POST", path, **options)

    async def patch(self, path: str, **options: Any) -> Reply:
        return await self.ask("PATCH", path, **options)

    async def delete(self, path: str, **options: Any) -> Reply:
        return await self.ask("DELETE", path, **options)

    async def create(self, instance_type: str = "1xH100", **fields: Any) -> Reply:
        return await self.post("/cluster/create", json={"instance_type": instance_type, **fields})

    async def end(self, reply: Reply) -> list[dict[str, Any]]:
        """Every state of the request of this 202, up to its end, polled at the pace of the engine."""
        assert reply.status == 202, reply
        return await self.end_of(reply.json["request_id"])

    async def end_of(self, request_id: str) -> list[dict[str, Any]]:
        states: list[dict[str, Any]] = []
        while True:
            polled = await self.get(f"/request/info/{request_id}")
            assert polled.status == 200, polled
            states.append(polled.json)
            if polled.json["status"] in {"COMPLETED", "FAILED"}:
                return states
            await asyncio.sleep(float(polled.headers["Retry-After"]))

    async def running(self, instance_type: str = "1xH100", **fields: Any) -> str:
        """The id of a new cluster, once it runs."""
        created = await self.create(instance_type, **fields)
        assert (await self.end(created))[-1]["status"] == "COMPLETED"
        cluster_id: str = created.json["cluster_id"]
        return cluster_id

    async def cluster(self, cluster: str) -> Any:
        return (await self.get(f"/cluster/info/{cluster}")).json["cluster_info"]


@asynccontextmanager
async def talk_to(emulator: Emulator) -> AsyncGenerator[Talk]:
    async with aiohttp.ClientSession() as session:
        # aiohttp silently repeats a GET or DELETE that was dropped, and has no public way to say no.
        session._retry_connection = False  # pyright: ignore[reportPrivateUsage]
        yield Talk(emulator, session)
