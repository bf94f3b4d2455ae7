"""A journal in a folder of its own."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tensorpool_async.journal import Journal, SQLiteJournal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
async def journal(path: Path) -> AsyncGenerator[Journal]:
    """Open a journal; that it is a `Journal` is for the type checkers to see."""
    opened: Journal = SQLiteJournal(path)
    await opened.open()
    yield opened
    await opened.aclose()
