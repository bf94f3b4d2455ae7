"""What the proofs have found about clients that are closed while they are cancelled."""

from __future__ import annotations

from pathlib import Path

import anyio

from tensorpool_async.emulator import Emulator
from tests.proof import processes


async def test_a_client_that_is_closed_under_cancellation_gives_up_what_is_in_flight(
    emulator: Emulator, tmp_path: Path
) -> None:
    journal = tmp_path / "journal.db"
    tp = processes.client(emulator.url, emulator.key, journal)
    begun = await tp.clusters.create("1xH100", name="w")
    with anyio.CancelScope() as scope:
        scope.cancel()  # it interrupts each await of the way out
        await tp.aclose()
    assert tp.closed
    async with processes.client(emulator.url, emulator.key, journal) as other:
        assert [operation.resource_id for operation in await other.recover()] == [begun.resource_id]
