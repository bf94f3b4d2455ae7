"""A backend for fleets: ask for one, watch it live, destroy it, and lose none in a restart.

What should be is kept as one small file per fleet. What is, the engine knows: a member's name is its identity, so after
a restart `up` and `down` are simply run again, and join what is under way. The journal beside those files has what was
sent and not yet answered when a process ended.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import attrs
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import FileResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel

from tensorpool_async import AmbiguousOutcomeError, BudgetExceeded, TensorPool, TensorPoolError
from tensorpool_async.events import FleetMemberChanged
from tensorpool_async.fastapi import add_exception_handlers, problem_of, tensorpool_lifespan
from tensorpool_async.fleet import ClusterGroup, Fleet, MemberState


logger = logging.getLogger(__name__)

PAGE = Path(__file__).with_name("page.html")
GONE = {MemberState.DESTROYED, MemberState.ABSENT}


class Group(BaseModel):
    """Clusters that are made alike."""

    name: str
    instance_type: list[str]
    count: int = 1


class FleetRequest(BaseModel):
    """What the browser asks for."""

    name: str
    clusters: list[Group]
    max_hourly_cost: float

    def fleet(self) -> Fleet:
        """Make the fleet; one that cannot be is answered with 422, and the key of the mistake."""
        groups = [ClusterGroup(group.name, group.instance_type, count=group.count) for group in self.clusters]
        return Fleet(self.name, groups, max_hourly_cost=self.max_hourly_cost)


@attrs.define(eq=False)
class Kept:
    """A fleet that this backend looks after, and what it last heard of it."""

    request: FleetRequest
    wanted: str  # up or down
    phase: str = "working"  # working, done or failed
    problem: dict[str, Any] | None = None
    members: dict[str, dict[str, Any]] = attrs.field(factory=dict)
    heard_at: datetime = attrs.field(factory=lambda: datetime.now(UTC))
    task: asyncio.Task[None] | None = None

    @property
    def hourly_cost(self) -> float | None:
        """What is there costs, in USD per hour; None if the engine names no price for a part of it."""
        there = [one for one in self.members.values() if one["resource_id"] and one["state"] not in GONE]
        rates = [one["hourly_rate"] for one in there]
        return None if None in rates else sum(rates)

    def summary(self) -> dict[str, Any]:
        """Tell how the fleet stands, without its members."""
        return {
            "name": self.request.name,
            "wanted": self.wanted,
            "phase": self.phase,
            "problem": self.problem,
            "hourly_cost": self.hourly_cost,
            "heard_at": self.heard_at.isoformat(),
        }

    def document(self) -> dict[str, Any]:
        """Tell everything."""
        return {
            **self.summary(),
            "request": self.request.model_dump(),
            "members": list(self.members.values()),
        }


class Stream:
    """What one browser has not been told yet: of each thing its last state, so a slow one holds up nobody."""

    def __init__(self) -> None:
        self._changes: dict[tuple[str, str], tuple[str, Any]] = {}
        self._wakeup = asyncio.Event()

    def put(self, key: tuple[str, str], event: str, data: Any) -> None:
        self._changes.pop(key, None)  # so that what is told last has happened last
        self._changes[key] = event, data
        self._wakeup.set()

    async def __aiter__(self) -> AsyncIterator[tuple[str, Any]]:
        while True:
            await self._wakeup.wait()
            self._wakeup.clear()
            while self._changes:
                yield self._changes.pop(next(iter(self._changes)))


class Fleets:
    """The fleets that this backend looks after. There must be one such process for a folder."""

    def __init__(self, tp: TensorPool, folder: Path) -> None:
        self._tp = tp
        self._folder = folder
        self._kept: dict[str, Kept] = {}
        self._streams: set[Stream] = set()
        self._lock = asyncio.Lock()

    async def start(self) -> None:
        """Go on with what was wanted when the last process ended, however it ended."""
        for text in await asyncio.to_thread(self._read_all):
            entry = json.loads(text)
            kept = Kept(FleetRequest(**entry["request"]), entry["wanted"])
            self._kept[kept.request.name] = kept
            self._work(kept)

    async def stop(self) -> None:
        """Stop working. Nothing is destroyed: the next process goes on."""
        tasks = [kept.task for kept in self._kept.values() if kept.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def documents(self) -> list[dict[str, Any]]:
        return [kept.document() for kept in self._kept.values()]

    def find(self, name: str) -> Kept:
        if name not in self._kept:
            raise HTTPException(404, f"there is no fleet {name}")
        return self._kept[name]

    async def bring_up(self, request: FleetRequest) -> Kept:
        """Begin to make the fleet as it should be. Asking again for the same is trying again."""
        fleet = request.fleet()
        async with self._lock:
            kept = self._kept.get(request.name)
            if kept is not None and (kept.request != request or kept.wanted != "up"):
                raise HTTPException(409, "a fleet of this name is there already, and it is another one")
            if kept is not None and kept.phase == "working":
                return kept
            await self._check_cost(fleet)
            kept = kept or Kept(request, "up")
            # Before anything is sent, so that nothing is forgotten.
            await asyncio.to_thread(self._write, kept)
            self._kept[request.name] = kept
            self._work(kept)
        return kept

    async def take_down(self, name: str) -> Kept:
        """Begin to destroy the fleet, also while it is coming up."""
        async with self._lock:
            kept = self.find(name)
            if kept.wanted == "down" and kept.phase == "working":
                return kept
            kept.wanted = "down"
            await asyncio.to_thread(self._write, kept)
            if kept.task is not None:
                kept.task.cancel()
                await asyncio.gather(kept.task, return_exceptions=True)
            self._work(kept)
        return kept

    @contextmanager
    def listen(self) -> Iterator[Stream]:
        stream = Stream()
        self._streams.add(stream)
        try:
            yield stream
        finally:
            self._streams.discard(stream)

    async def _check_cost(self, fleet: Fleet) -> None:
        """Refuse what is too expensive before it is accepted; `up` checks again, for what members fall back to."""
        cost, limit = (await self._tp.fleet(fleet).plan()).hourly_cost_after, fleet.max_hourly_cost
        if limit is not None and (cost is None or cost > limit):
            raise BudgetExceeded("the fleet is too expensive", hourly_cost=cost, limit=limit)

    def _work(self, kept: Kept) -> None:
        kept.phase, kept.problem = "working", None
        kept.task = asyncio.create_task(self._run(kept), name=f"fleet {kept.request.name}")
        self._tell(kept)

    async def _run(self, kept: Kept) -> None:
        session = self._tp.fleet(kept.request.fleet())
        try:
            if kept.wanted == "up":
                await session.up(on_event=partial(self._heard, kept))
            else:
                await session.down(on_event=partial(self._heard, kept))
                if (await session.status()).existing:
                    raise TensorPoolError("something of the fleet came back")  # noqa: TRY301 - one way to fail
            kept.phase = "done"
        except TensorPoolError as error:
            kept.phase, kept.problem = "failed", problem_of(error, engine_messages=True).document()
        if kept.wanted == "down" and kept.phase == "done":
            await asyncio.to_thread(self._path(kept).unlink, missing_ok=True)
            del self._kept[kept.request.name]
        self._tell(kept)

    def _heard(self, kept: Kept, event: FleetMemberChanged) -> None:
        before = kept.members.get(event.member, {})
        member = attrs.asdict(event)
        member["hourly_rate"] = (
            event.hourly_rate if event.hourly_rate is not None else before.get("hourly_rate")
        )
        kept.members[event.member] = member
        kept.heard_at = datetime.now(UTC)
        data = {"fleet": kept.summary(), "member": member}
        for stream in self._streams:
            stream.put((event.fleet, event.member), "member", data)

    def _tell(self, kept: Kept) -> None:
        there = kept.request.name in self._kept
        for stream in self._streams:
            stream.put((kept.request.name, ""), "fleet" if there else "gone", kept.document())

    def _path(self, kept: Kept) -> Path:
        return self._folder / f"{kept.request.name}.json"  # a fleet's name is letters, digits and hyphens

    def _write(self, kept: Kept) -> None:
        text = json.dumps({"wanted": kept.wanted, "request": kept.request.model_dump()}, indent=2)
        unfinished = self._path(kept).with_suffix(".tmp")
        with unfinished.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self._path(kept))  # whole, or not at all

    def _read_all(self) -> list[str]:
        return [path.read_text() for path in sorted(self._folder.glob("*.json"))]


def fleets_of(request: Request) -> Fleets:
    """Depend on the fleets that this app looks after."""
    fleets: Fleets = request.state.fleets
    return fleets


FleetsDep = Annotated[Fleets, Depends(fleets_of)]


def create_app(folder: Path, **options: Any) -> FastAPI:
    """Make the app.

    Args:
        folder: Where it keeps what should be, and its journal.
        options: What `TensorPool` takes; without any, key and address come from the environment.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI, tp: TensorPool) -> AsyncGenerator[dict[str, Any]]:
        await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
        try:
            await tp.recover()  # what the last process had sent when it ended, and not yet heard of
        except AmbiguousOutcomeError:
            logger.warning(
                "the engine does not tell everything now; the fleets find theirs by name", exc_info=True
            )
        fleets = Fleets(tp, folder)
        await fleets.start()
        try:
            yield {"fleets": fleets}
        finally:
            await fleets.stop()

    options = {"journal": folder / "journal.db", **options}
    app = FastAPI(title="Fleets", lifespan=tensorpool_lifespan(lifespan, **options))
    add_exception_handlers(app, engine_messages=True)

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        policy = "default-src 'none'; connect-src 'self'; img-src data:"
        inline = "script-src 'unsafe-inline'; style-src 'unsafe-inline'"
        return FileResponse(PAGE, headers={"Content-Security-Policy": f"{policy}; {inline}"})

    @app.post("/fleets", status_code=202)
    async def create(request: FleetRequest, fleets: FleetsDep) -> dict[str, Any]:
        return (await fleets.bring_up(request)).document()

    @app.get("/fleets")
    async def every(fleets: FleetsDep) -> list[dict[str, Any]]:
        return fleets.documents()

    @app.get("/fleets/{name}")
    async def one(name: str, fleets: FleetsDep) -> dict[str, Any]:
        return fleets.find(name).document()

    @app.delete("/fleets/{name}", status_code=202)
    async def destroy(name: str, fleets: FleetsDep) -> dict[str, Any]:
        return (await fleets.take_down(name)).document()

    @app.get("/events", response_class=EventSourceResponse)
    async def events(fleets: FleetsDep) -> AsyncIterator[ServerSentEvent]:
        with fleets.listen() as stream:
            # All that is known comes first, so a browser that connects again needs nothing of what it missed.
            yield ServerSentEvent(event="fleets", data=fleets.documents(), retry=2000)
            async for event, data in stream:
                yield ServerSentEvent(event=event, data=data)

    return app


app = create_app(Path("fleets"))
