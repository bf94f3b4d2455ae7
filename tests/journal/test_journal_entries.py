"""What is written is what is read, by whomever, and many writes cost little more than one."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import threading
from pathlib import Path

import pytest

from tensorpool_async.journal import EntryState, Journal, JournalError, SQLiteJournal
from tensorpool_async.models.enums import OperationKind
from tensorpool_async.protocol.tokens import OperationRef
from tests.journal.entries import ENGINE, TICKET, intent


def commits(path: Path) -> int:
    """Count the transactions in SQLite's write-ahead log: the last page of each says how large the file then is."""
    log = path.with_name(path.name + "-wal").read_bytes()
    page = int.from_bytes(log[8:12], "big")
    return sum(
        log[at + 4 : at + 8] != b"\0\0\0\0" and log[at + 8 : at + 16] == log[16:24]
        for at in range(32, len(log), 24 + page)
    )


async def test_what_is_noted_is_read_back(journal: Journal) -> None:
    given = intent(
        random_name=True,
        resource_id="vol-1",
        expected={"size": 5, "deep": [1, {"a": None}]},
        details={"instance_type": "8xH100", "odd": "\0\ud800 ü"},
        ephemeral=True,
        ttl=60.5,
    )
    number = await journal.intend(given)
    (entry,) = await journal.entries()
    assert (entry.id, entry.intent, entry.state) == (number, given, EntryState.INTENT)
    assert (entry.ref, entry.outcome, entry.accepted_at, entry.ended_at, entry.deleted_at) == (None,) * 5
    assert entry.resource_id == "vol-1"
    assert entry.owner_alive

    ref = OperationRef(
        kind=OperationKind("SOMETHING_NEW"),
        resource_id="c-1",
        request_ids=("r-1", "r-2"),
        expected={"x": [1]},
    )
    await journal.accept(number, ref, 1001.0)
    (entry,) = await journal.entries()
    assert (entry.ref, entry.state, entry.accepted_at) == (ref, EntryState.ACCEPTED, 1001.0)
    assert entry.resource_id == "c-1"

    journal.end(number, "FAILED: no capacity \ud800", 1002.0)
    assert await journal.entries() == []
    journal.mark_deleted(ENGINE, "c-1", 1003.0)
    (entry,) = await journal.entries(ended=True)
    assert (entry.state, entry.ended_at, entry.deleted_at) == (EntryState.ENDED, 1002.0, 1003.0)
    assert entry.outcome == "FAILED: no capacity \\ud800"


async def test_a_ticket_may_know_next_to_nothing(journal: Journal) -> None:
    number = await journal.intend(intent(None, resource_id="c-9"))
    await journal.accept(number, OperationRef(kind=None), 1.0)
    (entry,) = await journal.entries()
    assert (entry.ref, entry.state, entry.resource_id) == (
        OperationRef(kind=None),
        EntryState.ACCEPTED,
        "c-9",
    )


async def test_an_end_outlives_a_late_acceptance(journal: Journal) -> None:
    number = await journal.intend(intent())
    journal.end(number, "COMPLETED", 2.0)
    await journal.accept(number, TICKET, 3.0)
    journal.end(number, "destroyed", 4.0)
    (entry,) = await journal.entries(ended=True)
    assert (entry.state, entry.ref, entry.outcome, entry.ended_at) == (
        EntryState.ENDED,
        TICKET,
        "destroyed",
        4.0,
    )


async def test_gone_marks_every_entry_of_the_resource_at_that_engine_only(journal: Journal) -> None:
    made = await journal.intend(intent())
    await journal.accept(made, TICKET, 1.0)
    edited = await journal.intend(intent(kind=OperationKind.CLUSTER_EDIT, resource_id="c-1"))
    other = await journal.intend(intent(resource_id="c-2"))
    elsewhere = await journal.intend(intent(engine="https://other.example", resource_id="c-1"))
    journal.mark_deleted(ENGINE, "c-1", 5.0)
    mark_deleted = {entry.id: entry.deleted_at for entry in await journal.entries()}
    assert mark_deleted == {made: 5.0, edited: 5.0, other: None, elsewhere: None}
    assert [entry.id for entry in await journal.entries("https://other.example")] == [elsewhere]


async def test_many_intents_at_once_share_their_transactions(journal: Journal, path: Path) -> None:
    before = commits(path)
    numbers = await asyncio.gather(*(journal.intend(intent(f"c-{n}")) for n in range(500)))
    assert commits(path) - before < 5
    assert len(set(numbers)) == 500
    # Each got the number of its own row, in the order in which they asked.
    assert [(entry.id, entry.intent.name) for entry in await journal.entries()] == [
        (number, f"c-{n}") for n, number in enumerate(numbers)
    ]
    assert numbers == sorted(numbers)

    before = commits(path)
    await asyncio.gather(*(journal.accept(number, TICKET, 1.0) for number in numbers))
    for number in numbers:
        journal.end(number, "COMPLETED", 2.0)
    assert await journal.entries() == []
    assert commits(path) - before < 5


async def test_one_after_another_each_is_written_before_it_returns(journal: Journal, path: Path) -> None:
    before = commits(path)
    for n in range(5):
        await journal.intend(intent(f"c-{n}"))
        assert commits(path) == before + n + 1


async def test_a_cancelled_intent_is_written_and_ends_as_not_made(journal: Journal) -> None:
    tasks = [asyncio.create_task(journal.intend(intent(f"c-{n}"))) for n in range(50)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(answer, asyncio.CancelledError) for answer in answers[::2])
    await asyncio.sleep(0)  # for the last of those who were cancelled
    entries = await journal.entries(ended=True)
    assert [entry.intent.name for entry in entries] == [f"c-{n}" for n in range(50)]
    assert [entry.outcome for entry in entries] == ["not made", None] * 25
    assert [entry.id for entry in entries[1::2]] == answers[1::2]


async def test_a_cancelled_acceptance_is_written(journal: Journal) -> None:
    number = await journal.intend(intent())
    task = asyncio.create_task(journal.accept(number, TICKET, 1.0))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [entry.ref for entry in await journal.entries()] == [TICKET]


async def test_closing_writes_what_is_queued(journal: Journal, path: Path) -> None:
    numbers = [await journal.intend(intent(f"c-{n}")) for n in range(20)]
    for number in numbers:
        journal.end(number, "COMPLETED", 2.0)
    await journal.aclose()
    await journal.aclose()
    await journal.open()
    assert {entry.outcome for entry in await journal.entries(ended=True)} == {"COMPLETED"}


async def test_closing_that_is_cancelled_still_writes_and_gives_up_ownership(path: Path) -> None:
    journal = SQLiteJournal(path)
    await journal.open()
    number = await journal.intend(intent())
    journal.end(number, "COMPLETED", 2.0)
    task = asyncio.create_task(journal.aclose())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # It ended after the work was done: nothing needs to be waited for here.
    assert list(path.with_name("journal.db-owners").iterdir()) == []
    async with asyncio.timeout(10):
        await asyncio.gather(journal.aclose(), journal.aclose())
    await journal.open()
    (entry,) = await journal.entries(ended=True)
    assert (entry.outcome, entry.owner_alive) == ("COMPLETED", False)
    await journal.aclose()


async def test_a_journal_that_is_not_open_says_so(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = SQLiteJournal(path)
    assert "not open" in repr(journal)
    with pytest.raises(JournalError, match="is not open"):
        await journal.intend(intent())
    with caplog.at_level(logging.WARNING, "tensorpool_async"):
        journal.end(7, "COMPLETED", 1.0)
    assert "not noted" in caplog.text
    assert "COMPLETED" in caplog.text
    await journal.aclose()
    assert not path.exists()


async def test_what_is_no_json_or_no_time_is_refused_before_it_is_queued(journal: Journal) -> None:
    with pytest.raises(TypeError):
        await journal.intend(intent(details={"x": object()}))
    with pytest.raises(ValueError, match="no time"):
        await journal.intend(intent(sent_at=float("nan")))
    with pytest.raises(ValueError, match="no time"):
        journal.end(1, "COMPLETED", float("inf"))
    assert await journal.entries(ended=True) == []


async def test_open_twice_and_at_once_is_one_owner(path: Path) -> None:
    journal = SQLiteJournal(path)
    await asyncio.gather(journal.open(), journal.open())
    await journal.open()
    assert len(list(path.with_name("journal.db-owners").iterdir())) == 1
    await journal.aclose()


async def test_a_forgotten_journal_ends_its_thread(path: Path) -> None:
    journal = SQLiteJournal(path)
    await journal.open()
    (thread,) = [one for one in threading.enumerate() if one.name == "tensorpool-journal"]
    assert thread.daemon
    del journal
    gc.collect()
    thread.join(20)
    assert not thread.is_alive()
    assert list(path.with_name("journal.db-owners").iterdir()) == []


async def test_an_end_can_be_noted_where_no_event_loop_runs(journal: Journal) -> None:
    number = await journal.intend(intent())
    await asyncio.to_thread(journal.end, number, "COMPLETED", 2.0)
    assert await journal.entries() == []


async def test_it_serves_several_event_loops(journal: Journal) -> None:
    def elsewhere(name: str) -> int:
        return asyncio.run(journal.intend(intent(name)))

    here, *there = await asyncio.gather(
        journal.intend(intent("here")),
        *(asyncio.to_thread(elsewhere, f"there-{n}") for n in range(3)),
    )
    assert len({here, *there}) == 4


async def test_no_key_is_written_by_the_store_itself(
    journal: Journal, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "tp-secret-key-0123456789"
    monkeypatch.setenv("TENSORPOOL_KEY", key)
    number = await journal.intend(intent())
    await journal.accept(number, TICKET, 1.0)
    journal.end(number, "COMPLETED", 2.0)
    assert await journal.entries() == []
    files = [file for file in path.parent.rglob("*") if file.is_file()]
    assert len(files) == 4
    assert not [file for file in files if key.encode() in file.read_bytes()]
    (entry,) = await journal.entries(ended=True)
    assert key not in json.dumps(repr(entry))


@pytest.mark.parametrize(
    ("outcome", "mark_deleted", "stays"),
    [
        ("COMPLETED", True, False),
        ("COMPLETED", False, True),
        ("FAILED: no capacity", False, True),
        ("refused: 409 taken", False, False),
        ("not made", False, False),
        ("destroyed", False, False),
        (None, True, True),
    ],
)
async def test_what_is_over_for_long_is_forgotten(
    path: Path, outcome: str | None, mark_deleted: bool, stays: bool
) -> None:
    journal = SQLiteJournal(path)
    await journal.open()
    old = await journal.intend(intent())
    await journal.accept(old, TICKET, 1.0)
    if outcome is not None:
        journal.end(old, outcome, 2.0)
    if mark_deleted:
        journal.mark_deleted(ENGINE, "c-1", 3.0)
    await journal.aclose()
    await journal.open()
    entries = await journal.entries(ended=True)
    assert [entry.id for entry in entries] == ([old] if stays else [])
    assert [entry.deleted_at for entry in entries] == ([3.0 if mark_deleted else None] if stays else [])
    assert await journal.intend(intent()) == old + 1, "a number is never used twice"
    await journal.aclose()


async def test_what_is_over_for_a_short_time_is_kept(path: Path) -> None:
    journal = SQLiteJournal(path, keep_for=1e12)
    await journal.open()
    journal.end(await journal.intend(intent()), "not made", 2.0)
    await journal.aclose()
    await journal.open()
    assert len(await journal.entries(ended=True)) == 1
    await journal.aclose()
