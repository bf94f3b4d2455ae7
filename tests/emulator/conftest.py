from collections.abc import AsyncIterator

import pytest

from tensorpool_async.emulator import Emulator
from tests.emulator.talk import Talk, talk_to


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    """One that takes a fifth of a second for each change."""
    async with Emulator(
        speed=100, provision_seconds=20, destroy_seconds=20, edit_seconds=20, retry_after=0.02
    ) as emulator:
        yield emulator
        assert emulator.record.in_flight == 0


@pytest.fixture
async def talk(emulator: Emulator) -> AsyncIterator[Talk]:
    async with talk_to(emulator) as talk:
        yield talk
