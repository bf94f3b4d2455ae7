"""`tp.jobs.pull`: what a job left, brought here whole, and never out of its folder."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import stat
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from aiohttp import web

from tensorpool_async import (
    CommandRefused,
    ConnectionFailed,
    DecodeError,
    PathRefused,
    PermissionDenied,
    PulledFile,
    RetryPolicy,
    StreamError,
    TensorPool,
)
from tensorpool_async.emulator import Emulator, Fault, FaultKind
from tensorpool_async.events import BytesPulled, CommandStarted, Event
from tests.support.scripted import ScriptedEngine


QUICK = RetryPolicy(backoff=0.01, longest_backoff=0.02)


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
async def client(emulator: Emulator, events: list[Event]) -> AsyncGenerator[TensorPool]:
    async with TensorPool(emulator.key, base_url=emulator.url, retry=QUICK, on_event=events.append) as tp:
        yield tp


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def test_files_are_brought_to_their_places(
    client: TensorPool, emulator: Emulator, events: list[Event], tmp_path: Path
) -> None:
    files = {"a.txt": b"a", "deep/er/b.bin": os.urandom(300_000), "empty": b""}
    job = emulator.jobs.add(files=files)
    pulled = await client.jobs.pull(job.id, tmp_path / "new")
    assert contents(tmp_path / "new") == files
    assert [(file.name, file.size, file.downloaded) for file in pulled] == [
        (name, len(data), True) for name, data in files.items()
    ]
    assert pulled[1].path == tmp_path / "new" / "deep/er/b.bin"
    done = [event for event in events if isinstance(event, BytesPulled) and event.done]
    assert {event.name: event.received for event in done} == {name: len(data) for name, data in files.items()}


async def test_a_second_pull_skips_what_is_there_unless_told_otherwise(
    client: TensorPool, emulator: Emulator, tmp_path: Path
) -> None:
    job = emulator.jobs.add(files={"a": b"new", "b": b"b"})
    (tmp_path / "a").write_bytes(b"mine")
    pulled = await client.jobs.pull(job.id, tmp_path)
    assert pulled[0] == PulledFile("a", tmp_path / "a", 4, downloaded=False)
    assert contents(tmp_path) == {"a": b"mine", "b": b"b"}
    await client.jobs.pull(job.id, tmp_path, overwrite=True)
    assert contents(tmp_path) == {"a": b"new", "b": b"b"}


async def test_a_dry_run_writes_nothing(client: TensorPool, emulator: Emulator, tmp_path: Path) -> None:
    job = emulator.jobs.add(files={"a/b": b"x"})
    pulled = await client.jobs.pull(job.id, tmp_path, dry_run=True)
    assert pulled == [PulledFile("a/b", tmp_path / "a/b", None, downloaded=False)]
    assert contents(tmp_path) == {}


async def test_a_job_that_left_nothing_gives_nothing(
    client: TensorPool, emulator: Emulator, tmp_path: Path
) -> None:
    assert await client.jobs.pull(emulator.jobs.add().id, tmp_path) == []


async def test_downloads_that_break_off_go_on(client: TensorPool, emulator: Emulator, tmp_path: Path) -> None:
    files = {f"f{index}": os.urandom(400_000) for index in range(20)}
    job = emulator.jobs.add(files=files)
    emulator.faults.add(Fault(FaultKind.CUT_BODY, path="/download/*", times=10))
    emulator.faults.add(Fault(FaultKind.HTML_502, path="/download/*", times=5))
    await client.jobs.pull(job.id, tmp_path)
    assert contents(tmp_path) == files
    assert len(emulator.record.faults) == 15


async def test_a_download_that_always_breaks_off_leaves_no_part_behind(
    client: TensorPool, emulator: Emulator, tmp_path: Path
) -> None:
    job = emulator.jobs.add(files={"a": b"x" * 100_000})
    emulator.faults.add(Fault(FaultKind.CUT_BODY, path="/download/*", times=None))
    with pytest.raises(ConnectionFailed):
        await client.jobs.pull(job.id, tmp_path)
    assert contents(tmp_path) == {}


async def test_a_file_that_changes_while_it_is_downloaded_is_begun_again(
    tmp_path: Path, scripted: ScriptedEngine
) -> None:
    versions = [b"a" * 200_000, b"b" * 150_000]
    asked: list[str | None] = []

    async def serve(request: web.Request) -> web.StreamResponse:
        asked.append(request.headers.get("Range"))
        body = versions[min(len(asked), 2) - 1]
        answer = web.StreamResponse(headers={"ETag": f'"{len(body)}"', "Content-Length": str(len(body))})
        await answer.prepare(request)
        await answer.write(body[:100_000])
        if len(asked) == 1:
            assert request.transport is not None
            await asyncio.sleep(0.1)
            request.transport.close()
        else:
            await answer.write(body[100_000:])
        return answer

    scripted.answer("GET /job/pull/j-1", {"message": "", "download_map": {"f": f"{scripted.url}/file"}})
    scripted.handle("GET /file", serve)
    async with TensorPool("key", base_url=scripted.url, retry=QUICK) as tp:
        await tp.jobs.pull("j-1", tmp_path)
    assert (tmp_path / "f").read_bytes() == versions[1]
    assert asked[1] is not None
    assert asked[1].startswith("bytes=")


async def test_the_key_is_not_sent_to_the_object_store(tmp_path: Path, scripted: ScriptedEngine) -> None:
    scripted.answer(
        "GET /job/pull/j-1", {"message": "", "download_map": {"f": f"{scripted.url}/file?X-Signature=abc"}}
    )
    scripted.answer("GET /file", b"data")
    async with TensorPool("key", base_url=scripted.url) as tp:
        await tp.jobs.pull("j-1", tmp_path)
    download = scripted.seen[-1]
    assert download.query == {"X-Signature": "abc"}
    assert "Authorization" not in download.headers


async def test_an_address_that_has_expired_is_said_without_its_signature(
    tmp_path: Path, scripted: ScriptedEngine
) -> None:
    scripted.answer(
        "GET /job/pull/j-1", {"message": "", "download_map": {"f": f"{scripted.url}/file?X-Signature=abc"}}
    )
    scripted.answer("GET /file", "<title>Request has expired</title>", status=403)
    async with TensorPool("key", base_url=scripted.url) as tp:
        with pytest.raises(PermissionDenied, match="expired") as caught:
            await tp.jobs.pull("j-1", tmp_path)
    assert "abc" not in repr(caught.value) + caught.value.path


@pytest.mark.parametrize(
    "name",
    [
        "../../x",
        "/etc/cron.d/x",
        "..",
        "a/../../x",
        "C:\\x",
        "~/.bashrc",
        "..\\x",
        "\\\\host\\x",
        "a/..\0/../..",
    ],
)
async def test_a_hostile_file_name_is_refused_before_anything_is_written(
    name: str, client: TensorPool, emulator: Emulator, tmp_path: Path
) -> None:
    url = f"{emulator.url}/healthz"
    job = emulator.jobs.add(links={"good": url, name: url})
    folder = tmp_path / "in" / "ner"
    folder.mkdir(parents=True)
    with pytest.raises(PathRefused):
        await client.jobs.pull(job.id, folder)
    assert contents(tmp_path) == {}


async def test_a_link_does_not_lead_out_of_the_folder(
    client: TensorPool, emulator: Emulator, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(outside)
    (folder / "file").symlink_to(outside / "new")
    job = emulator.jobs.add(files={"link/x": b"x"})
    with pytest.raises(PathRefused, match="link"):
        await client.jobs.pull(job.id, folder)
    await client.jobs.pull(emulator.jobs.add(files={"file": b"x"}).id, folder)
    assert contents(outside) == {}
    assert not (folder / "file").is_symlink()


async def test_a_folder_where_a_file_should_be_is_skipped_with_a_word(
    client: TensorPool, emulator: Emulator, tmp_path: Path
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "c").write_bytes(b"mine")
    pulled = await client.jobs.pull(emulator.jobs.add(files={"a": b"x", "b": b"x", "c/d": b"x"}).id, tmp_path)
    assert [(file.name, file.path, file.downloaded) for file in pulled] == [
        ("a", tmp_path, False),
        ("b", tmp_path / "b", True),
        ("c/d", tmp_path, False),
    ]
    assert pulled[0].note == "skipped: a folder is at its place"
    assert pulled[2].note.startswith("skipped: the file system does not hold it")
    assert contents(tmp_path) == {"b": b"x", "c": b"mine"}


async def test_a_file_without_an_address_is_an_error(
    client: TensorPool, emulator: Emulator, tmp_path: Path
) -> None:
    with pytest.raises(DecodeError, match="address"):
        await client.jobs.pull(emulator.jobs.add(links={"a": None}).id, tmp_path)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "nonsense", "ftp://example/x", "http://"])
async def test_an_address_that_is_no_web_address_is_an_error(
    url: str, client: TensorPool, emulator: Emulator, tmp_path: Path
) -> None:
    with pytest.raises(ConnectionFailed):
        await client.jobs.pull(emulator.jobs.add(links={"a": url}).id, tmp_path)
    assert contents(tmp_path) == {}


def fake_rsync(folder: Path, script: str) -> None:
    folder.mkdir()
    path = folder / "rsync"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


async def test_a_live_job_is_pulled_by_its_command(
    client: TensorPool, emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_rsync(tmp_path / "bin", "echo out > result")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    job = emulator.jobs.add(seconds=60, transfer="rsync -az ubuntu@203.0.113.7:job/out/ ./")
    assert await client.jobs.pull(job.id, tmp_path / "to", private_key="~/.ssh/key") == []
    assert contents(tmp_path / "to") == {"result": b"out\n"}


async def test_a_command_that_fails_says_why(
    client: TensorPool, emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_rsync(tmp_path / "bin", "echo no route >&2; exit 12")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    with pytest.raises(StreamError, match="rsync ended with 12: no route"):
        await client.jobs.pull(emulator.jobs.add(seconds=60).id, tmp_path / "to", private_key="key")


@pytest.mark.parametrize(
    "command", ["bash -c reboot", "rsync -a host:x /root/", "rsync -a host:x ./; rm -rf /"]
)
async def test_a_hostile_command_of_a_live_job_is_not_run(
    command: str, client: TensorPool, emulator: Emulator, events: list[Event], tmp_path: Path
) -> None:
    job = emulator.jobs.add(seconds=60, transfer=command)
    with pytest.raises(CommandRefused):
        await client.jobs.pull(job.id, tmp_path / "to", private_key="key")
    assert not [event for event in events if isinstance(event, CommandStarted)]
    assert not (tmp_path / "to").exists()


async def test_a_pull_that_is_cancelled_leaves_whole_files_or_none(
    client: TensorPool, emulator: Emulator, tmp_path: Path
) -> None:
    files = {f"f{index}": os.urandom(500_000) for index in range(30)}
    job = emulator.jobs.add(files=files)
    pulling = asyncio.ensure_future(client.jobs.pull(job.id, tmp_path))
    await asyncio.sleep(0.1)
    pulling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pulling
    there = contents(tmp_path)
    assert there.items() <= files.items()
    await client.jobs.pull(job.id, tmp_path)
    assert contents(tmp_path) == files


SERVE = """
import asyncio, sys
from pathlib import Path
from tensorpool_async.emulator import Emulator, Fault, FaultKind

async def main():
    async with Emulator(seed=7) as emulator:
        folder = Path(sys.argv[1])
        job = emulator.jobs.add(files={path.name: path for path in sorted(folder.iterdir())})
        emulator.faults.add(Fault(FaultKind.CUT_BODY, path="/download/*", times=40, probability=0.5))
        print(emulator.url, emulator.key, job.id, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""
PULL = """
import asyncio, re, sys
from pathlib import Path
from tensorpool_async import RetryPolicy, TensorPool

async def main():
    url, key, job, folder = sys.argv[1:]
    async with TensorPool(key, base_url=url, retry=RetryPolicy(backoff=0.01, attempts=20)) as tp:
        await tp.jobs.pull(job, folder)

asyncio.run(main())
# Not getrusage: its ru_maxrss starts with what the parent had when it forked.
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
"""


def test_two_hundred_files_of_256_mib_arrive_whole_in_little_memory(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    chance = random.Random(11)
    sizes = [chance.randrange(100_000, 2_500_000) for _ in range(200)]
    scale = 256 * 1024 * 1024 / sum(sizes)
    for index, size in enumerate(sizes):
        (source / f"f{index}").write_bytes(chance.randbytes(int(size * scale) + 1))
    with subprocess.Popen([sys.executable, "-c", SERVE, source], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url, key, job = server.stdout.readline().split()
            command = [sys.executable, "-c", PULL, url, key, job, str(target)]
            output = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
        finally:
            server.kill()
    assert output.returncode == 0, output.stderr
    assert {path.name: digest(path) for path in target.iterdir()} == {
        path.name: digest(path) for path in source.iterdir()
    }
    assert int(output.stdout) < 150, f"{output.stdout} MiB"


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
