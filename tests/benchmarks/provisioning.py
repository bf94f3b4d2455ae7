"""How long many creates take together: `python -m nox -s bench`.

Client and emulator share this process, so the figures are upper bounds.
"""

from __future__ import annotations

import asyncio
import time

from tensorpool_async import ClusterStatus, TensorPool
from tensorpool_async.emulator import Emulator, Fault, FaultKind


READY = 3.0
RETRY_AFTER = 1.0
CREATES = 200


async def together(*, rate_limit: float | None = None) -> None:
    """Create many clusters with one gather, and print how long it took and what was really done."""
    async with (
        Emulator(provision_seconds=READY, retry_after=RETRY_AFTER, rate_limit=rate_limit) as engine,
        TensorPool(engine.key, base_url=engine.url) as tp,
    ):
        begun = time.monotonic()
        creates = (tp.clusters.create("8xH100", name=f"w{index}").result() for index in range(CREATES))
        clusters = await asyncio.gather(*creates)
        seconds = time.monotonic() - begun
        running = sum(cluster.status is ClusterStatus.RUNNING for cluster in clusters)
        share = seconds / (READY + RETRY_AFTER)
        limit = "no limit" if rate_limit is None else f"{rate_limit:g} requests/s"
        print(
            f"{CREATES} creates, {limit}: {running} RUNNING after {seconds:.2f} s, "
            f"{share:.2f} of (ready {READY:g} s + Retry-After {RETRY_AFTER:g} s); "
            f"early polls {engine.record.early_polls}, 429s {engine.record.by_status[429]}, "
            f"made {len(engine.record.clusters_made)}, twice {len(engine.record.made_twice)}"
        )


async def lost_answers(creates: int = 1000) -> None:
    """Create many clusters while three of ten answers are lost, and print what was really done."""
    lost = [
        (FaultKind.DROP_AFTER, 0.10),
        (FaultKind.DROP_BEFORE, 0.10),
        (FaultKind.HTML_502, 0.05),
        (FaultKind.CUT_JSON, 0.05),
    ]
    faults = [
        Fault(kind, method="POST", path="/cluster/create", times=None, probability=probability)
        for kind, probability in lost
    ]
    async with (
        Emulator(provision_seconds=READY, retry_after=RETRY_AFTER, faults=faults) as engine,
        TensorPool(engine.key, base_url=engine.url) as tp,
    ):
        names = [f"w{index}" for index in range(creates)]
        clusters = await asyncio.gather(*(tp.clusters.create("8xH100", name=name).result() for name in names))
        ids = {cluster.id for cluster in clusters}
        print(
            f"{creates} creates, {len(engine.record.faults)} answers lost: {len(ids)} results, "
            f"{len(engine.record.living)} living, {len(engine.record.made_twice)} twice, "
            f"{len(set(engine.record.living) - ids)} unknown"
        )


async def main() -> None:
    """Print all figures."""
    await together()
    await together(rate_limit=100.0)
    await lost_answers()


if __name__ == "__main__":
    asyncio.run(main())
