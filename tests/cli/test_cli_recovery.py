"""`tpa ops`, `tpa recover` and `tpa reap`, over what killed processes left behind."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tensorpool_async import TensorPool
from tensorpool_async.cli.app import parse_duration
from tensorpool_async.cli.app import run as run_words
from tensorpool_async.cli.journal_file import journal_path, tpa_command
from tensorpool_async.cli.output import format_age
from tensorpool_async.emulator import Emulator, Fault, FaultKind
from tests.cli.conftest import LeaveBehind, Outcome, Tpa, Until


def document(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text)
    return found


def first_words(text: str) -> list[str]:
    return [line.split()[0] for line in text.splitlines() if line.strip()]


async def test_ops_shows_what_is_in_flight_and_sends_nothing(
    engine: Emulator, tpa: Tpa, leave_behind: LeaveBehind
) -> None:
    journal = await leave_behind("scratch-1", "going-1")
    before = engine.record.requests
    shown = await tpa("ops", TENSORPOOL_JOURNAL=str(journal), TENSORPOOL_KEY="")
    assert (shown.code, shown.err) == (0, "")
    (row,) = [line.split() for line in shown.out.splitlines() if "going-1" in line]
    assert (row[:3], row[4], row[-1]) == (["create", "cluster", "going-1"], "accepted", "gone")
    assert "scratch-1" not in shown.out
    assert "1 in flight\n1 without a running owner; to recover: tpa recover\n" in shown.out

    shown = await tpa("ops", "--all", "--journal", str(journal))
    assert "1 in flight, 1 ended" in shown.out
    assert f"tpa recover --journal {journal}" in shown.out
    (row,) = [line.split() for line in shown.out.splitlines() if "scratch-1" in line]
    assert row[-2:] == ["ephemeral", "COMPLETED"]
    assert not any(line != line.rstrip() for line in shown.out.splitlines())

    listing = document((await tpa("ops", "--all", "--json", "--journal", str(journal))).out)
    operations = {operation["name"]: operation for operation in listing["operations"]}
    assert list(operations["going-1"]) == [
        "entry",
        "engine",
        "kind",
        "name",
        "resource_id",
        "state",
        "outcome",
        "owner_alive",
        "ephemeral",
        "ttl",
        "age",
        "sent_at",
        "accepted_at",
        "ended_at",
        "gone_at",
        "details",
        "token",
    ]
    assert operations["going-1"]["details"]["instance_type"] == "1xL40S"
    assert operations["scratch-1"]["ephemeral"] is True
    assert operations["scratch-1"]["outcome"] == "COMPLETED"
    assert engine.record.requests == before


async def test_ops_shows_running_owners(tpa: Tpa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        Emulator(provision_seconds=60.0) as engine,
        TensorPool(engine.key, base_url=engine.url, journal=tmp_path / "journal.db") as tp,
    ):
        monkeypatch.setenv("TENSORPOOL_ENGINE", engine.url)
        monkeypatch.setenv("TENSORPOOL_KEY", engine.key)
        await tp.clusters.create("1xL40S", name="mine")
        shown = await tpa("ops", "--journal", "journal.db")
        assert "alive" in shown.out
        assert "without a running owner" not in shown.out
        recovered = await tpa("recover", "--journal", "journal.db")
        assert (recovered.code, recovered.out) == (0, "1 operation left to a running process.\n")


async def test_recover_gives_tokens_to_wait_for(
    engine: Emulator, tpa: Tpa, leave_behind: LeaveBehind
) -> None:
    journal = await leave_behind("going-1")
    found = await tpa("recover", "--journal", str(journal))
    assert found.code == 0, found.err
    first, second = found.out.splitlines()
    assert first.startswith("create cluster  going-1  c-")
    waited = await tpa(*second.split()[1:])
    assert waited.code == 0, waited.err
    assert "going-1" in waited.out


async def test_recover_waits_to_the_end(engine: Emulator, tpa: Tpa, leave_behind: LeaveBehind) -> None:
    journal = await leave_behind("going-1", "going-2")
    found = await tpa("recover", "--wait", "--journal", str(journal))
    assert found.code == 0, found.err
    assert found.out.endswith("2 of 2 operations succeeded.\n")
    assert found.err.count("done") == 2
    again = await tpa("recover", "--wait", "--journal", str(journal), "--json")
    assert document(again.out) == {"operations": [], "held_by_others": 0, "problem": None}
    assert (await tpa("recover", "--journal", str(journal))).out == "There is nothing to recover.\n"


async def test_an_interrupted_recover_prints_how_to_continue(
    tpa: Tpa, leave_behind: LeaveBehind, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Emulator(provision_seconds=60.0, retry_after=0.05) as engine:
        monkeypatch.setenv("TENSORPOOL_ENGINE", engine.url)
        monkeypatch.setenv("TENSORPOOL_KEY", engine.key)
        journal = await leave_behind("going-1")
        polls = engine.record.by_route["GET /request/info/{request_id}"]
        process = await tpa.start("recover", "--wait", "--journal", str(journal))
        await until(lambda: engine.record.by_route["GET /request/info/{request_id}"] > polls + 2)
        ended = await tpa.interrupt(process)
    assert ended.code == 130
    assert f"To wait again:  tpa recover --wait --journal {journal}" in ended.err
    assert len(engine.record.living) == 1


async def test_recover_reports_failures(engine: Emulator, tpa: Tpa, leave_behind: LeaveBehind) -> None:
    engine.capacity["1xL40S"] = 0
    journal = await leave_behind("going-1")
    found = await tpa("recover", "--wait", "--json", "--journal", str(journal))
    assert found.code == 1
    (operation,) = document(found.out)["operations"]
    assert "No capacity" in operation["error"]
    assert operation["state"] == "ENDED"
    assert "No capacity" in found.err


async def test_a_creation_without_an_answer_is_found_by_its_name_and_reaped(
    engine: Emulator, tpa: Tpa, leave_behind: LeaveBehind
) -> None:
    engine.faults.add(Fault(FaultKind.DROP_AFTER, method="POST", path="/cluster/create"))
    engine.faults.add(Fault(FaultKind.STALL, method="GET", times=None, seconds=20.0))
    journal = await leave_behind("unanswered-1")
    engine.faults.clear()
    shown = await tpa("ops", "--journal", str(journal))
    assert "unanswered " in shown.out
    (key,) = engine.record.living
    assert key not in shown.out
    reaped = await tpa("reap", "--yes", "--journal", str(journal))
    assert reaped.code == 0, reaped.err
    assert key in reaped.out
    assert engine.record.living == []


async def test_recover_reports_a_destroy_that_never_reached_the_engine(
    engine: Emulator, tpa: Tpa, leave_behind: LeaveBehind
) -> None:
    engine.faults.add(Fault(FaultKind.STALL, method="DELETE", times=None, seconds=20.0))
    journal = await leave_behind("undestroyed-1")
    engine.faults.clear()
    found = await tpa("recover", "--journal", str(journal))
    assert found.code == 1
    assert "destroy cluster" in found.out
    assert "not carried out; repeat it" in found.out
    assert found.err.startswith("tpa: CLUSTER_RELEASE of ")
    assert len(found.err.splitlines()) == 1
    assert len(engine.record.living) == 1


async def test_an_entry_with_an_unknown_state_stays_in_the_journal(
    engine: Emulator, tpa: Tpa, leave_behind: LeaveBehind
) -> None:
    engine.faults.add(Fault(FaultKind.DROP_BEFORE, times=None, path="/cluster/*"))
    journal = await leave_behind("unanswered-1")
    found = await tpa("recover", "--json", "--journal", str(journal), TENSORPOOL_KEY="wrong")
    assert found.code == 1
    assert "entries of the journal is not known" in document(found.out)["problem"]
    assert len(found.err.splitlines()) == 1
    assert "run tpa recover again" in found.err
    assert "unanswered-1" in (await tpa("ops", "--journal", str(journal))).out


async def test_reap_lists_and_destroys_only_after_confirmation(
    engine: Emulator, tpa: Tpa, leave_behind: LeaveBehind
) -> None:
    journal = await leave_behind("plain", "long", "timed-1", "scratch-1", "protected-1")
    young = await tpa("reap", "--older", "2h", "--journal", str(journal))
    assert (young.code, young.out) == (0, "No leftovers.\n")

    listed = await tpa("reap", "--journal", str(journal))
    assert listed.code == 2
    assert listed.err == (
        "tpa: nothing was destroyed: there is no terminal to confirm at; use --yes to destroy without asking\n"
    )
    assert sorted(first_words(listed.out)) == ["3", "NAME", "protected-1", "scratch-1", "timed-1"]
    assert "3 leftovers; $95.76 per hour" in listed.out
    assert engine.record.by_route["DELETE /cluster/{cluster}"] == 0

    reaped = await tpa("reap", "--yes", "--json", "--journal", str(journal))
    assert reaped.code == 1
    leftovers = {one["name"]: one for one in document(reaped.out)["leftovers"]}
    assert list(leftovers["timed-1"]) == ["name", "kind", "id", "age", "hourly_rate", "fate", "error"]
    assert {name: one["fate"] for name, one in leftovers.items()} == {
        "timed-1": "DESTROYED",
        "scratch-1": "DESTROYED",
        "protected-1": "FAILED",
    }
    assert "protection" in leftovers["protected-1"]["error"]
    assert "1 of 3 could not be destroyed, $27.92 per hour" in reaped.err
    assert len(engine.record.living) == 3


async def at_a_terminal(tpa: Tpa, *words: str, types: str) -> Outcome:
    """Run the command with a terminal for its input and its errors, and type there once it asks."""
    ours, its = os.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tensorpool_async",
        *words,
        stdin=its,
        stdout=asyncio.subprocess.PIPE,
        stderr=its,
        env=dict(tpa.environment),
        cwd=tpa.folder,
        start_new_session=True,
    )
    os.close(its)
    seen = ""
    async with asyncio.timeout(30):
        while "[y/N]" not in seen:
            seen += (await asyncio.to_thread(os.read, ours, 4096)).decode()
        os.write(ours, types.encode())
        out, _ = await process.communicate()
        while True:
            try:
                seen += (await asyncio.to_thread(os.read, ours, 4096)).decode()
            except OSError:  # on Linux, the other end is closed
                break
    os.close(ours)
    return Outcome(process.returncode or 0, out.decode(), seen)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems end a terminal in other ways")
async def test_reap_asks_at_a_terminal(engine: Emulator, tpa: Tpa, leave_behind: LeaveBehind) -> None:
    journal = await leave_behind("scratch-1")
    no = await at_a_terminal(tpa, "reap", "--journal", str(journal), types="\n")
    assert (no.code, "Nothing was destroyed." in no.err) == (0, True)
    assert "Destroy it? [y/N]" in no.err
    end_of_file = await at_a_terminal(tpa, "reap", "--journal", str(journal), types="\x04")
    assert (end_of_file.code, len(engine.record.living)) == (0, 1)
    yes = await at_a_terminal(tpa, "reap", "--journal", str(journal), types="yes\n")
    assert yes.code == 0, yes.err
    assert "Destroyed 1 of 1." in yes.err
    assert engine.record.living == []


async def test_an_interrupted_reap_lists_what_may_exist(
    tpa: Tpa, leave_behind: LeaveBehind, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Emulator(provision_seconds=0.05, destroy_seconds=30.0, retry_after=0.05) as engine:
        monkeypatch.setenv("TENSORPOOL_ENGINE", engine.url)
        monkeypatch.setenv("TENSORPOOL_KEY", engine.key)
        journal = await leave_behind("scratch-1")
        process = await tpa.start("reap", "--yes", "--journal", str(journal))
        await until(lambda: engine.record.by_route["DELETE /cluster/{cluster}"] == 1)
        ended = await tpa.interrupt(process)
    assert ended.code == 130
    assert "1 resource may still exist, $39.92 per hour" in ended.err
    assert f"To continue:  tpa reap --journal {journal}" in ended.err
    assert "Traceback" not in ended.err


async def test_up_and_down_write_into_the_journal(engine: Emulator, tpa: Tpa, fleet_file: Path) -> None:
    up = await tpa("up", "fleet.toml", "--journal", "journal.db")
    assert up.code == 0, up.err
    down = await tpa("down", "fleet.toml", TENSORPOOL_JOURNAL="journal.db")
    assert down.code == 0, down.err
    listing = document((await tpa("ops", "--all", "--json", "--journal", "journal.db")).out)
    kinds = [operation["kind"] for operation in listing["operations"]]
    assert kinds.count("CLUSTER_CLAIM") == kinds.count("CLUSTER_RELEASE") == 4
    assert {operation["outcome"] for operation in listing["operations"]} == {"COMPLETED"}


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("ops",), "--journal PATH or TENSORPOOL_JOURNAL"),
        (("recover",), "--journal PATH or TENSORPOOL_JOURNAL"),
        (("reap",), "--journal PATH or TENSORPOOL_JOURNAL"),
        (("ops", "--journal", "missing.db"), "there is no journal at missing.db"),
        (("ops", "--journal", "fleet.toml"), "fleet.toml cannot be read or written: file is not a database"),
        (("reap", "--journal", "fleet.toml"), "fleet.toml"),
        (("reap", "--older", "2x", "--journal", "fleet.toml"), "'2x' is not a duration"),
        (("up", "fleet.toml", "--emulate", "--journal", "x.db"), "--emulate"),
        (("up", "fleet.toml", "--journal", "fleet.toml"), "fleet.toml"),
    ],
)
def test_wrong_journals_are_reported_in_one_line(
    words: tuple[str, ...],
    problem: str,
    fleet_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(fleet_file.parent)
    monkeypatch.setenv("TENSORPOOL_KEY", "k")
    monkeypatch.setenv("TENSORPOOL_ENGINE", "http://127.0.0.1:9")
    text = fleet_file.read_text()
    fleet_file.chmod(0o600)
    assert run_words(words) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert problem in err
    assert fleet_file.read_text() == text
    assert sorted(path.name for path in fleet_file.parent.iterdir()) == ["fleet.toml"]


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90.0), ("30m", 1800.0), ("1.5h", 5400.0), (" 1D ", 86400.0), ("0s", 0.0)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "-1h", "1h30m", "1e3s", "1,5h", "nan", "99999d", "\u0662h"])
def test_what_is_not_a_duration(text: str) -> None:
    with pytest.raises(ValueError, match="use one like 90s, 30m, 2h or 1d"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1.0, "0s"),
        (45.9, "45s"),
        (60.0, "1m"),
        (200.0, "3m 20s"),
        (7200.0, "2h"),
        (7260.0, "2h 1m"),
        (100_000.0, "1d 3h"),
    ],
)
def test_ages(seconds: float, text: str) -> None:
    assert format_age(seconds) == text


def test_a_hint_names_the_journal_where_that_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TENSORPOOL_JOURNAL", raising=False)
    assert journal_path(None) is None
    assert tpa_command("reap", Path("a b.db")) == "tpa reap --journal 'a b.db'"
    monkeypatch.setenv("TENSORPOOL_JOURNAL", "a b.db")
    assert journal_path(None) == Path("a b.db")
    assert tpa_command("reap", Path("a b.db")) == "tpa reap"
    assert journal_path(Path("~/x.db")) == Path.home() / "x.db"
