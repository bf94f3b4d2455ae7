import asyncio
import shlex
import tomllib
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tensorpool_async.emulator import Emulator, Fault, FaultKind
from tests.emulator.talk import Talk, talk_to


async def job(talk: Talk, job_id: str) -> Any:
    return (await talk.get(f"/job/info/{job_id}")).json["job_info"]


async def test_the_template_is_a_job_file(talk: Talk) -> None:
    template = (await talk.get("/job/init")).json["empty_tp_config"]
    assert tomllib.loads(template)["commands"]


async def test_jobs_are_listed_and_shown(talk: Talk, emulator: Emulator) -> None:
    done = emulator.jobs.add(exit_code=3, message="Out of memory")
    live = emulator.jobs.add(seconds=3600)
    assert await job(talk, done.id) == {
        "id": done.id,
        "status": "error",
        "cluster_id": "c-000000000000",
        "instance_type": "1xH100",
        "exit_code": 3,
        "public_message": "Out of memory",
        "created_at": done.created_at,
    }
    assert (await job(talk, live.id))["status"] == "running"
    assert (await job(talk, live.id))["exit_code"] is None
    listed = (await talk.get("/job/list")).json
    assert [entry["id"] for entry in listed["jobs"]] == [done.id, live.id]
    assert done.id in listed["message"]
    assert (await talk.get("/job/list?include_org=True")).json["jobs"] == []
    assert (await talk.get("/job/info/j-1")).status == 404


@pytest.mark.parametrize(
    ("script", "status", "exit_code"),
    [
        ({}, "completed", 0),
        ({"exit_code": 1}, "error", 1),
        ({"status": "failed"}, "failed", None),
        ({"status": "canceled"}, "canceled", None),
    ],
)
async def test_how_a_scripted_job_ends(
    talk: Talk, emulator: Emulator, script: dict[str, Any], status: str, exit_code: int | None
) -> None:
    added = emulator.jobs.add(seconds=5, **script)
    assert (await job(talk, added.id))["status"] == "running"
    await asyncio.sleep(0.1)
    ended = await job(talk, added.id)
    assert (ended["status"], ended["exit_code"]) == (status, exit_code)


async def test_a_cancel_takes_its_time_and_can_be_repeated(talk: Talk, emulator: Emulator) -> None:
    live = emulator.jobs.add(seconds=3600)
    first = await talk.post(f"/job/cancel/{live.id}")
    assert (first.status, first.json["status"], first.json["job_id"]) == (202, "canceling", live.id)
    assert "request_id" not in first.json
    await asyncio.sleep(0.1)
    assert (await job(talk, live.id))["status"] == "canceled"
    again = await talk.post(f"/job/cancel/{live.id}")
    assert (again.status, again.json["status"]) == (200, "canceled")


async def test_a_cancel_that_does_not_win(talk: Talk, emulator: Emulator) -> None:
    live = emulator.jobs.add(seconds=20, obeys=False)
    assert (await talk.post(f"/job/cancel/{live.id}")).status == 202
    assert (await talk.post(f"/job/cancel/{live.id}")).status == 202
    await asyncio.sleep(0.3)
    assert (await job(talk, live.id))["status"] == "completed"
    assert (await talk.post(f"/job/cancel/{live.id}")).status == 409
    assert (await talk.post("/job/cancel/j-1")).status == 404


async def test_only_jobs_that_have_ended_are_deleted(talk: Talk, emulator: Emulator) -> None:
    live, done = emulator.jobs.add(seconds=3600), emulator.jobs.add()
    assert (await talk.delete(f"/job/delete/{live.id}")).status == 409
    deleted = await talk.delete(f"/job/delete/{done.id}")
    assert (deleted.status, set(deleted.json)) == (200, {"message"})
    assert (await talk.delete(f"/job/delete/{done.id}")).status == 404
    assert (await talk.get(f"/job/info/{done.id}")).status == 404
    assert [entry["id"] for entry in (await talk.get("/job/list")).json["jobs"]] == [live.id]


async def test_pulled_links_lead_to_the_bytes_without_the_key(
    talk: Talk, emulator: Emulator, tmp_path: Path
) -> None:
    large = tmp_path / "large"
    large.write_bytes(bytes(range(256)) * 3000)
    files: dict[str, bytes | Path] = {"out/a.txt": b"hello", "out/b ü.bin": large, "empty": b""}
    done = emulator.jobs.add(files=files)
    pulled = (await talk.get(f"/job/pull/{done.id}")).json
    assert pulled["command"] is None
    assert list(pulled["download_map"]) == list(files)
    for path, content in files.items():
        got = await talk.get("", url=pulled["download_map"][path], headers={})
        assert got.status == 200
        assert got.body == (content if isinstance(content, bytes) else large.read_bytes())
    assert (await talk.get(f"/job/pull/{done.id}")).json == pulled


async def test_a_link_does_not_take_the_key(talk: Talk, emulator: Emulator) -> None:
    done = emulator.jobs.add(files={"a": b"hello"})
    link = (await talk.get(f"/job/pull/{done.id}")).json["download_map"]["a"]
    assert (await talk.get("", url=link)).status == 400
    assert (await talk.get("/download/other", headers={})).status == 404


@pytest.mark.parametrize(
    ("asked", "status", "body", "told"),
    [
        ("bytes=0-1", 206, b"he", "bytes 0-1/5"),
        ("bytes=3-", 206, b"lo", "bytes 3-4/5"),
        ("bytes=-2", 206, b"lo", "bytes 3-4/5"),
        ("bytes=2-99", 206, b"llo", "bytes 2-4/5"),
        ("bytes=5-", 416, b"", "bytes */5"),
        ("lines=1-2", 200, b"hello", None),
    ],
)
async def test_ranges_of_a_file(
    talk: Talk, emulator: Emulator, asked: str, status: int, body: bytes, told: str | None
) -> None:
    done = emulator.jobs.add(files={"a": b"hello"})
    link = (await talk.get(f"/job/pull/{done.id}")).json["download_map"]["a"]
    got = await talk.get("", url=link, headers={"Range": asked})
    assert (got.status, got.body, got.headers.get("Content-Range")) == (status, body, told)


@pytest.mark.parametrize("size", [0, 1, 1_000_000])
@pytest.mark.parametrize("kind", [FaultKind.CUT_BODY, FaultKind.CUT_JSON])
async def test_a_download_that_breaks_off_in_its_middle(
    talk: Talk, emulator: Emulator, kind: FaultKind, size: int
) -> None:
    done = emulator.jobs.add(files={"a": b"x" * size})
    link = (await talk.get(f"/job/pull/{done.id}")).json["download_map"]["a"]
    emulator.faults.add(Fault(kind, path="/download/*"))
    async with talk.session.get(link) as response:
        assert response.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    assert len((await talk.get("", url=link, headers={})).body) == size


async def test_downloads_are_not_under_the_rate_limit() -> None:
    async with Emulator() as emulator, talk_to(emulator) as talk:
        done = emulator.jobs.add(files={"a": b"hello"})
        link = (await talk.get(f"/job/pull/{done.id}")).json["download_map"]["a"]
        emulator.rate_limit, emulator.rate_burst = 0.001, 1
        assert [(await talk.get("", url=link, headers={})).status for _ in range(3)] == [200] * 3


async def test_a_dry_run_and_chosen_files(talk: Talk, emulator: Emulator) -> None:
    done = emulator.jobs.add(files={"a.txt": b"", "out/b.txt": b"", "c.bin": b""})
    dry = (await talk.get(f"/job/pull/{done.id}?dry_run=True")).json["download_map"]
    assert dry == {"a.txt": None, "out/b.txt": None, "c.bin": None}
    chosen = (await talk.get(f"/job/pull/{done.id}?files=out/*&files=c.bin")).json["download_map"]
    assert set(chosen) == {"out/b.txt", "c.bin"}
    nothing = emulator.jobs.add()
    assert (await talk.get(f"/job/pull/{nothing.id}")).json["download_map"] == {}


async def test_hostile_maps_are_sent_as_they_stand(talk: Talk, emulator: Emulator) -> None:
    links = {"../../x": "http://127.0.0.1:1/x", "/etc/x": None, "a\0b": "file:///etc/passwd"}
    scripted = emulator.jobs.add(links=links)
    assert (await talk.get(f"/job/pull/{scripted.id}")).json["download_map"] == links
    real = emulator.jobs.add(files={"../../x": b"1"})
    assert list((await talk.get(f"/job/pull/{real.id}")).json["download_map"]) == ["../../x"]


async def test_a_live_job_is_copied_by_a_command(talk: Talk, emulator: Emulator) -> None:
    live = emulator.jobs.add(seconds=3600, files={"a": b""})
    refused = await talk.get(f"/job/pull/{live.id}?system=linux")
    assert refused.status == 422
    assert [problem["loc"] for problem in refused.json["detail"]] == [["query", "private_key_path"]]
    pulled = (await talk.get(f"/job/pull/{live.id}?system=linux&private_key_path=/k/my%20key")).json
    words = shlex.split(pulled["command"])
    assert words[0] == "rsync"
    assert "ssh -i '/k/my key'" in words
    assert pulled["download_map"] == {}
    hostile = emulator.jobs.add(seconds=3600, transfer="bash -c 'rm -rf ~'")
    pulled = (await talk.get(f"/job/pull/{hostile.id}?system=linux&private_key_path=k")).json
    assert pulled["command"] == "bash -c 'rm -rf ~'"
