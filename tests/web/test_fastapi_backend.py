"""The example backend, over a real socket: fleets asked for, watched, destroyed, and found again after a restart."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import json
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from tensorpool_async import PollPolicy
from tensorpool_async.emulator import Emulator
from tests.web.serving import Event, events_of, serve, tasks_here


EXAMPLE = Path(__file__).parents[2] / "docs/examples/backend/app.py"


def load_example() -> Any:
    """Import the example as `uvicorn app:app` does."""
    spec = importlib.util.spec_from_file_location("example_backend", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # pydantic looks up annotations there
    spec.loader.exec_module(module)
    return module


def backend(engine: Emulator, folder: Path) -> FastAPI:
    polling = PollPolicy(initial=0.01)
    app: FastAPI = load_example().create_app(folder, api_key=engine.key, base_url=engine.url, polling=polling)
    return app


def fleet(name: str = "sweep", count: int = 3, limit: float = 100.0) -> dict[str, Any]:
    groups = [
        {"name": "trainer", "instance_type": ["1xB200", "1xH200"], "count": count},
        {"name": "eval", "instance_type": ["1xH100"], "count": 1},
    ]
    return {"name": name, "clusters": groups, "max_hourly_cost": limit}


@pytest.fixture
async def engine() -> AsyncGenerator[Emulator]:
    async with Emulator(provision_seconds=0.4, destroy_seconds=0.1, retry_after=0.05) as running:
        yield running


@asynccontextmanager
async def browser(url: str) -> AsyncGenerator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, timeout=20) as http:
        yield http


def streams_here() -> list[object]:
    """Return what the backend keeps for its browsers, without what only an error's own traceback still holds."""
    gc.collect()
    return [one for one in gc.get_objects() if type(one).__name__ == "Stream"]


async def settled(http: httpx.AsyncClient, name: str = "sweep") -> dict[str, Any]:
    while True:
        answer = await http.get(f"/fleets/{name}")
        document: dict[str, Any] = answer.json()
        if answer.status_code == 404 or document["phase"] != "working":
            return document
        await asyncio.sleep(0.02)


def living(engine: Emulator) -> dict[str, str]:
    """Tell which clusters there are; a name that is there twice fails the test."""
    there = [cluster for cluster in engine.clusters.values() if str(cluster.status) != "DESTROYED"]
    names = {str(cluster.name): str(cluster.status) for cluster in there}
    assert len(names) == len(there)
    return names


MEMBERS = ["sweep-eval-0", "sweep-trainer-0", "sweep-trainer-1", "sweep-trainer-2"]


async def test_a_fleet_is_asked_for_watched_and_destroyed(engine: Emulator, tmp_path: Path) -> None:
    async with serve(backend(engine, tmp_path)) as url, browser(url) as http:
        events: list[Event] = []

        async def watch() -> None:
            async with http.stream("GET", "/events") as answer:
                async for event in events_of(answer):
                    events.append(event)
                    if event.event == "gone":
                        return

        watching = asyncio.create_task(watch())
        while not events:
            await asyncio.sleep(0.01)
        answer = await http.post("/fleets", json=fleet())
        assert (answer.status_code, answer.json()["phase"]) == (202, "working")
        assert (await http.post("/fleets", json=fleet())).status_code == 202, "asking again changes nothing"
        document = await settled(http)
        assert (document["phase"], document["wanted"]) == ("done", "up")
        assert sorted(living(engine)) == MEMBERS
        assert document["hourly_cost"] == pytest.approx(3 * 4.99 + 2.49)
        assert (await http.delete("/fleets/sweep")).status_code == 202
        await watching
        assert (await http.get("/fleets/sweep")).status_code == 404
        assert (await http.get("/fleets")).json() == []
    assert living(engine) == {}
    assert len(engine.clusters) == 4
    assert list(tmp_path.glob("*.json")) == []
    states = [e.data["member"]["state"] for e in events if e.event == "member"]
    for state in ("WAITING", "CREATING", "RUNNING", "DESTROYING", "DESTROYED"):
        assert state in states
    costs = [e.data["fleet"]["hourly_cost"] for e in events if e.event == "member"]
    assert (costs[0], max(costs), costs[-1]) == (0, pytest.approx(3 * 4.99 + 2.49), 0)


async def test_a_restart_joins_what_is_under_way(engine: Emulator, tmp_path: Path) -> None:
    async with serve(backend(engine, tmp_path)) as url, browser(url) as http:
        await http.post("/fleets", json=fleet())
        while len(engine.clusters) < 4:
            await asyncio.sleep(0.01)
    assert living(engine), "a restart destroys nothing"
    async with serve(backend(engine, tmp_path)) as url, browser(url) as http:
        assert (await settled(http))["phase"] == "done"
        assert sorted(living(engine)) == MEMBERS
        await http.delete("/fleets/sweep")
    async with serve(backend(engine, tmp_path)) as url, browser(url) as http:
        await settled(http)
    assert living(engine) == {}
    assert len(engine.clusters) == 4, "nothing was made twice"


async def test_a_fleet_is_destroyed_while_it_is_coming_up(engine: Emulator, tmp_path: Path) -> None:
    async with serve(backend(engine, tmp_path)) as url, browser(url) as http:
        await http.post("/fleets", json=fleet())
        while not engine.clusters:
            await asyncio.sleep(0.005)
        await http.delete("/fleets/sweep")
        assert (await http.delete("/fleets/sweep")).status_code in {202, 404}
        await settled(http)
    assert living(engine) == {}


@pytest.mark.parametrize(
    ("change", "status", "word"),
    [
        ({"max_hourly_cost": 1.0}, 422, "BudgetExceeded"),
        ({"name": "../etc"}, 422, "not a valid name"),
        ({"clusters": []}, 422, "at least one group"),
        ({"clusters": [{"name": "a", "instance_type": ["9xH100"]}]}, 422, "ValidationError"),
        ({"clusters": "none"}, 422, "list_type"),
    ],
)
async def test_what_cannot_be_is_refused_and_not_kept(
    engine: Emulator, tmp_path: Path, change: dict[str, Any], status: int, word: str
) -> None:
    async with serve(backend(engine, tmp_path)) as url, browser(url) as http:
        answer = await http.post("/fleets", json={**fleet(), **change})
        assert answer.status_code == status, answer.text
        assert word in answer.text
        assert (await http.get("/fleets")).json() == []
    assert list(tmp_path.glob("*.json")) == []
    assert not engine.clusters


async def test_another_fleet_of_the_same_name_is_refused(engine: Emulator, tmp_path: Path) -> None:
    async with serve(backend(engine, tmp_path)) as url, browser(url) as http:
        await http.post("/fleets", json=fleet())
        assert (await http.post("/fleets", json=fleet(count=4))).status_code == 409
        await settled(http)
        assert (await http.delete("/fleets/other")).status_code == 404
    assert json.loads((tmp_path / "sweep.json").read_text())["request"] == fleet()


@pytest.mark.timeout(120)
async def test_fifty_browsers_of_which_ten_go_away_leave_nothing_behind(
    engine: Emulator, tmp_path: Path
) -> None:
    async with serve(backend(engine, tmp_path)) as url, browser(url) as http:
        before = tasks_here()
        limits = httpx.Limits(max_connections=None)
        connected = asyncio.Event()
        ready = 0

        async with httpx.AsyncClient(base_url=url, timeout=30, limits=limits) as many:

            async def watch(*, leaves: bool) -> str:
                nonlocal ready
                async with many.stream("GET", "/events") as answer:
                    async for event in events_of(answer):
                        if event.event == "fleets":
                            ready += 1
                            if ready == 50:
                                connected.set()
                        if leaves and event.event == "member":
                            return "left"
                        if event.event == "fleet" and event.data["phase"] == "done":
                            return "done"
                return "ended"

            watching = [asyncio.create_task(watch(leaves=index % 5 == 0)) for index in range(50)]
            await connected.wait()
            await http.post("/fleets", json=fleet())
            ends = await asyncio.gather(*watching)
        assert (ends.count("left"), ends.count("done")) == (10, 40)
        assert (await settled(http))["phase"] == "done"
        async with asyncio.timeout(20):
            while tasks_here() - before or streams_here():
                await asyncio.sleep(0.1)
    assert sorted(living(engine)) == MEMBERS
