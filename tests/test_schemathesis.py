"""The emulator under generated requests, such as the schema describes and such as it does not: no 5xx, no odd answer."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self, cast

import aiohttp
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from requests import Session
from schemathesis.checks import CHECKS as ALL_CHECKS  # pyright: ignore[reportUnknownVariableType] - a bare generic

from tensorpool_async.emulator import PRICES, Emulator


SEED = int(os.environ.get("SCHEMATHESIS_SEED", "20261124"))
EXAMPLES = 25
IN_STOCK = 3

SCHEMA: Any = schemathesis.openapi.from_dict(json.loads((Path(__file__).parent / "openapi.json").read_text()))
SCHEMA.config.seed = SEED
# What the schema does not name, the engine ignores: unknown parameters are no mistake. Keys have tests of their own.
SCHEMA.config.generation.update(allow_extra_parameters=False, with_security_parameters=False)

# Not among them: that all data that fits is accepted. There are rules, such as which instance types there are, that
# the schema does not know.
CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "ignored_auth",
    "negative_data_rejection",
]
# The body of a health check is described as its one client sends it, and nobody knows what of it is judged.
NOT_REJECTED = "POST /health"


# Both the volume and the cluster must be there, and fit: with chance alone, that may be the case in none of a few examples.
OF_TWO_THINGS = {"POST /storage/attach", "POST /storage/detach"}


class Served:
    """An emulator in a thread and on an event loop of its own, since these tests block theirs."""

    def __init__(self) -> None:
        self.emulator = Emulator(
            speed=1000,
            provision_seconds=1,
            destroy_seconds=1,
            edit_seconds=1,
            storage_seconds=1,
            attach_seconds=1,
            retry_after=0.02,
        )
        self.answered: defaultdict[str, Counter[int]] = defaultdict(Counter)
        self._count = 0
        self._up = threading.Event()
        self._down = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="emulator")

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._up.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._down.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        async with self.emulator:
            self._up.set()
            await self._down.wait()

    def restock(self, label: str) -> None:
        """See that there is something that a request can be about."""
        asyncio.run_coroutine_threadsafe(self._restock(label), self._loop).result(10)

    async def _restock(self, label: str) -> None:
        emulator = self.emulator
        headers = {"Authorization": f"Bearer {emulator.key}"}
        async with aiohttp.ClientSession(emulator.url, headers=headers) as session:
            for _ in range(IN_STOCK - len(emulator.record.living)):
                await session.post("/cluster/create", json={"instance_type": "8xB200", "num_nodes": 2})
            for _ in range(IN_STOCK - len(emulator.record.living_volumes)):
                await session.post("/storage/create", json={"size": 100})
            while len(emulator.ssh_keys) < IN_STOCK:
                await session.post("/user/ssh-key/add", json={"public_key": self._new("ssh-ed25519 AAAA")})
            await session.post("/object-storage/enable")
            if label in OF_TWO_THINGS:
                await self._make_two(session, attached=label.endswith("/detach"))
        await self._settle()
        emulator.buckets.clear()
        if not label.endswith("/disable"):  # which takes no buckets
            emulator.buckets[self._new("bucket-")] = {}
        for seconds in (0.0, 3600.0 * 1000):
            emulator.jobs.add(seconds=seconds, lines=3, files={"a.txt": b"a"})

    async def _make_two(self, session: aiohttp.ClientSession, *, attached: bool) -> None:
        """Make a cluster and a volume that go together, and are the last ones."""
        await session.post("/cluster/create", json={"instance_type": "8xB200", "num_nodes": 2})
        await session.post("/storage/create", json={"size": 100})
        await self._settle()
        if attached:
            record = self.emulator.record
            body = {"storage_id": record.living_volumes[-1], "cluster_ids": record.living[-1:]}
            await session.post("/storage/attach", json=body)

    async def _settle(self) -> None:
        while self._busy:
            await asyncio.sleep(0.001)

    @property
    def _busy(self) -> bool:
        emulator = self.emulator
        return any(emulator.clusters[one].busy for one in emulator.record.living) or any(
            emulator.volumes[one].busy for one in emulator.record.living_volumes
        )

    def _new(self, text: str) -> str:
        self._count += 1
        return f"{text}{self._count}"

    def known(self, name: str, label: str) -> list[str]:
        """What there is of what a parameter or field names."""
        emulator = self.emulator
        living, volumes = emulator.record.living, emulator.record.living_volumes
        if label in OF_TWO_THINGS:
            living, volumes = living[-1:], volumes[-1:]
        nodes = [instance.id for cluster in living for instance in emulator.clusters[cluster].instances]
        bucket = self._new("new-") if "/create/" in label else next(iter(emulator.buckets), "")
        known: dict[str, list[str]] = {
            "cluster": living,
            "cluster_id": living,
            "storage_id": volumes,
            "request_id": list(emulator.requests),
            "job_id": list(emulator.jobs)[-2:],
            "key_id": list(emulator.ssh_keys),
            "bucket_name": [bucket],
            "instance_id": nodes,
            "instance_type": list(PRICES),
            "public_key": [self._new("ssh-rsa AAAA")],
        }
        return known.get(name, [])

    def made_real(self, values: Any, label: str) -> Any:
        """Put what there is in the place of half of the texts that name nothing; of all, where one alone would not do."""
        if not isinstance(values, dict):
            return values
        named = cast("dict[str, Any]", values)
        return {name: self._real(name, value, label) for name, value in named.items()}

    def _real(self, name: str, value: Any, label: str) -> Any:
        if name == "cluster_ids" and isinstance(value, list):
            return [self._real("cluster_id", one, label) for one in cast("list[Any]", value)[:1]]
        known = self.known(name, label)
        if not known or not isinstance(value, str) or (len(value) % 2 and label not in OF_TWO_THINGS):
            return value
        return known[len(value) // 2 % len(known)]


@pytest.fixture(autouse=True)
def seed_is_shown() -> None:
    """Write it where pytest shows it beside a failure."""
    sys.stdout.write(f"repeat it with SCHEMATHESIS_SEED={SEED}\n")


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """Run an emulator, and see in the end that each operation that was asked was met with success and with refusal.

    Here and not in a test of its own, since each of several workers asks some of the operations.
    """
    with Served() as served:
        yield served
    for label, statuses in served.answered.items():
        assert any(status < 300 for status in statuses), label
        assert any(400 <= status < 500 for status in statuses), label
        assert max(statuses) < 500, label


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with Session() as session:
        session.trust_env = False
        yield session


def checks_for(label: str) -> Any:
    names = [name for name in CHECKS if label != NOT_REJECTED or name != "negative_data_rejection"]
    return cast("Any", ALL_CHECKS).get_by_names(names)


each_operation: Callable[[Callable[..., None]], Callable[..., None]] = SCHEMA.parametrize()


@each_operation
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_any_request_is_answered_as_described(case: Any, served: Served, session: Session) -> None:
    label: str = case.operation.label
    served.restock(label)
    if case.meta.generation.mode.is_positive:
        case.path_parameters = served.made_real(case.path_parameters, label)
        case.query = served.made_real(case.query, label)
        case.body = served.made_real(case.body, label)
    response = case.call_and_validate(
        base_url=served.emulator.url,
        session=session,
        headers={"Authorization": f"Bearer {served.emulator.key}"},
        checks=checks_for(label),
    )
    served.answered[label][response.status_code] += 1


def test_every_operation_is_asked() -> None:
    assert len(list(SCHEMA.get_all_operations())) == 42
