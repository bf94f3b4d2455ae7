import asyncio
import shlex
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import WSMsgType

from tensorpool_async.emulator import Emulator, Fault, FaultKind
from tests.emulator.talk import Talk, talk_to


CONFIG = """
commands = ["echo hello", "python train.py"]
outputs = ["out/", "model-*.bin"]
ignore = ["data dir/"]
"""


class Socket:
    """The client's end, which sends the key first."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse[Any]) -> None:
        self.socket = socket

    async def all(self) -> list[Any]:
        """What comes until the engine closes."""
        return [message.json() async for message in self.socket]

    @property
    def code(self) -> int | None:
        return self.socket.close_code


@asynccontextmanager
async def connect(talk: Talk, path: str, key: str | None = None) -> AsyncGenerator[Socket]:
    async with talk.session.ws_connect(talk.emulator.url + path) as socket:
        await socket.send_json({"TENSORPOOL_KEY": key or talk.emulator.key})
        yield Socket(socket)


async def listen(talk: Talk, job_id: str) -> tuple[list[Any], int | None]:
    async with connect(talk, f"/job/listen/{job_id}") as socket:
        return await socket.all(), socket.code


async def push(
    talk: Talk, cluster_id: str, config: Any = CONFIG, **fields: Any
) -> tuple[list[Any], int | None]:
    """Push and run every command with success, without running it."""
    async with connect(talk, "/job/push") as socket:
        asked = {"tp_config": config, "system": "Linux", "cluster_id": cluster_id, "teardown_cluster": False}
        await socket.socket.send_json({**asked, **fields})
        heard: list[Any] = []
        async for message in socket.socket:
            heard.append(message.json())
            if heard[-1].get("command"):
                await socket.socket.send_json(
                    {
                        "type": "command_result",
                        "command": heard[-1]["command"],
                        "exit_code": 0,
                        "command_stdout": "",
                        "command_stderr": "",
                    }
                )
        return heard, socket.code


def lines(heard: list[Any]) -> list[str]:
    return [message["message"] for message in heard if "status" not in message]


async def test_a_listener_gets_every_line_in_order_and_once(talk: Talk, emulator: Emulator) -> None:
    job = emulator.jobs.add(lines=500, seconds=30)
    early = asyncio.create_task(listen(talk, job.id))
    await asyncio.sleep(0.15)
    late = asyncio.create_task(listen(talk, job.id))
    for heard, code in (await early, await late, await listen(talk, job.id)):
        assert lines(heard) == [f"line {n}" for n in range(500)]
        assert heard[-1] == {"status": "success"}
        assert code == 1000


async def test_lines_come_while_the_job_runs(talk: Talk, emulator: Emulator) -> None:
    job = emulator.jobs.add(lines=["a", "b"], seconds=60)
    async with connect(talk, f"/job/listen/{job.id}") as socket:
        assert await socket.socket.receive_json() == {"message": "a"}
        assert not job.done


@pytest.mark.parametrize("script", [{"exit_code": 2}, {"status": "failed", "message": "Node lost"}])
async def test_a_job_that_does_not_end_well(talk: Talk, emulator: Emulator, script: dict[str, Any]) -> None:
    heard, code = await listen(talk, emulator.jobs.add(lines=2, **script).id)
    assert lines(heard) == ["line 0", "line 1"]
    assert heard[-1]["status"] == "error"
    assert script.get("message", "exit code 2") in heard[-1]["message"]
    assert code == 1000


async def test_a_canceled_job_prints_no_more(talk: Talk, emulator: Emulator) -> None:
    job = emulator.jobs.add(lines=1000, seconds=100)
    listening = asyncio.create_task(listen(talk, job.id))
    await asyncio.sleep(0.1)
    await talk.post(f"/job/cancel/{job.id}")
    heard, _ = await listening
    assert heard[-1]["status"] == "error"
    assert 0 < len(lines(heard)) < 900
    await asyncio.sleep(0.1)
    assert (await listen(talk, job.id))[0] == heard


async def test_who_may_not_listen(talk: Talk, emulator: Emulator) -> None:
    job = emulator.jobs.add()
    for path, key in ((f"/job/listen/{job.id}", "wrong"), ("/job/listen/j-1", None)):
        async with connect(talk, path, key) as socket:
            (refusal,) = await socket.all()
            assert refusal["status"] == "error"
            assert socket.code == 1008


async def test_a_listener_may_leave_early(talk: Talk, emulator: Emulator) -> None:
    job = emulator.jobs.add(lines=10, seconds=360_000)
    async with connect(talk, f"/job/listen/{job.id}") as socket:
        await asyncio.sleep(0.02)
        await socket.socket.close()
        assert socket.code == 1000
    assert emulator.record.by_status[101] == 1


async def test_pings_are_answered_while_nothing_is_printed(talk: Talk, emulator: Emulator) -> None:
    job = emulator.jobs.add(lines=["a"], seconds=50)
    path = f"{emulator.url}/job/listen/{job.id}"
    async with talk.session.ws_connect(path, heartbeat=0.1) as socket:
        await socket.send_json({"TENSORPOOL_KEY": emulator.key})
        assert (await socket.receive()).type is WSMsgType.TEXT


async def test_a_listener_is_cut_off_in_the_middle(talk: Talk, emulator: Emulator) -> None:
    job = emulator.jobs.add(lines=10)
    emulator.faults.add(Fault(FaultKind.CUT_BODY, path="/job/listen/*"))
    heard, code = await listen(talk, job.id)
    assert lines(heard) == [f"line {n}" for n in range(5)]
    assert code == 1006
    assert len(lines((await listen(talk, job.id))[0])) == 10


async def test_a_push_uploads_and_then_runs(talk: Talk, emulator: Emulator) -> None:
    cluster_id = await talk.running()
    heard, code = await push(talk, cluster_id)
    assert code == 1000
    (job_id,) = [message["job_id"] for message in heard if "job_id" in message]
    (command,) = [message["command"] for message in heard if "command" in message]
    assert shlex.split(command)[0] == "rsync"
    assert "--exclude=data dir/" in shlex.split(command)
    assert all("status" not in message for message in heard)
    job = emulator.jobs[job_id]
    assert (job.status, job.results[0]["exit_code"]) == ("pending", 0)
    printed, _ = await listen(talk, job_id)
    assert lines(printed)[:3] == ["$ echo hello", "hello", "$ python train.py"]
    assert printed[-1]["status"] == "success"
    assert (await talk.get(f"/job/info/{job_id}")).json["job_info"]["status"] == "completed"
    pulled = (await talk.get(f"/job/pull/{job_id}")).json["download_map"]
    assert set(pulled) == {"out/output.txt", "model-0.bin"}


@pytest.mark.parametrize(("commands", "exit_code"), [(["exit 3", "echo never"], 3), (["false"], 1)])
async def test_a_pushed_job_may_end_with_an_error(
    talk: Talk, emulator: Emulator, commands: list[str], exit_code: int
) -> None:
    cluster_id = await talk.running()
    heard, _ = await push(talk, cluster_id, f"commands = {commands}")
    job_id = next(message["job_id"] for message in heard if "job_id" in message)
    printed, _ = await listen(talk, job_id)
    assert lines(printed) == [f"$ {commands[0]}"]
    assert printed[-1]["status"] == "error"
    assert emulator.jobs[job_id].exit_code == exit_code


async def test_the_commands_of_a_push_can_be_scripted(talk: Talk, emulator: Emulator) -> None:
    cluster_id = await talk.running()
    emulator.push_commands = ["rsync a b", "", None, "bash -c evil"]
    heard, code = await push(talk, cluster_id)
    assert [message["command"] for message in heard if "command" in message] == emulator.push_commands
    (job,) = emulator.jobs.values()
    assert [result["command"] for result in job.results] == ["rsync a b", "bash -c evil"]
    assert code == 1000


async def test_a_command_that_fails_ends_the_push(talk: Talk, emulator: Emulator) -> None:
    cluster_id = await talk.running()
    async with connect(talk, "/job/push") as socket:
        await socket.socket.send_json({"tp_config": CONFIG, "cluster_id": cluster_id})
        await socket.socket.receive_json()
        command = (await socket.socket.receive_json())["command"]
        await socket.socket.send_json({"type": "command_result", "command": command, "exit_code": 12})
        assert await socket.all() == []
        assert socket.code == 1011
    (job,) = emulator.jobs.values()
    assert (job.status, job.results[0]["exit_code"]) == ("failed", 12)


async def test_a_client_that_leaves_during_the_upload(talk: Talk, emulator: Emulator) -> None:
    cluster_id = await talk.running()
    async with connect(talk, "/job/push") as socket:
        await socket.socket.send_json({"tp_config": CONFIG, "cluster_id": cluster_id})
        await socket.socket.receive_json()
    await asyncio.sleep(0.05)
    (job,) = emulator.jobs.values()
    assert job.status == "failed"


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("commands = [", "TOML"),
        ("", "commands"),
        ("commands = []", "commands"),
        ("commands = 'ls'", "commands"),
        ("commands = ['ls']\noutputs = [1]", "outputs"),
        (None, "tp_config"),
    ],
)
async def test_a_job_file_that_is_none(talk: Talk, emulator: Emulator, config: Any, reason: str) -> None:
    cluster_id = await talk.running()
    heard, code = await push(talk, cluster_id, config)
    assert reason in heard[-1]["message"]
    assert code == 1008
    assert not emulator.jobs


async def test_a_push_needs_the_key_and_a_cluster_that_runs(talk: Talk, emulator: Emulator) -> None:
    async with connect(talk, "/job/push", key="wrong") as socket:
        assert await socket.all() == []
        assert socket.code == 1008
    assert (await push(talk, "c-1"))[1] == 1008
    pending = (await talk.create()).json["cluster_id"]
    heard, code = await push(talk, pending)
    assert "RUNNING" in heard[-1]["message"]
    assert code == 1008


async def test_what_is_no_protocol(talk: Talk, emulator: Emulator) -> None:
    for text in ("hello", "[1]", "null"):
        async with talk.session.ws_connect(emulator.url + "/job/push") as socket:
            await socket.send_str(text)
            assert (await socket.receive()).type is WSMsgType.CLOSE
            assert socket.close_code == 1008
    async with talk.session.ws_connect(emulator.url + "/job/push") as socket:
        await socket.send_bytes(b"{}")
        assert (await socket.receive()).type is WSMsgType.CLOSE
    cluster_id = await talk.running()
    async with connect(talk, "/job/push") as wrong:
        await wrong.socket.send_json({"tp_config": CONFIG, "cluster_id": cluster_id})
        await wrong.socket.receive_json()
        await wrong.socket.receive_json()
        await wrong.socket.send_json({"type": "command_result", "command": "another", "exit_code": 0})
        await wrong.all()
        assert wrong.code == 1008


@pytest.mark.parametrize(("kind", "told"), [(FaultKind.DROP_AFTER, 0), (FaultKind.CUT_BODY, 1)])
async def test_a_push_whose_connection_is_lost(
    talk: Talk, emulator: Emulator, kind: FaultKind, told: int
) -> None:
    cluster_id = await talk.running()
    emulator.faults.add(Fault(kind, path="/job/push"))
    heard, code = await push(talk, cluster_id)
    assert code == 1006
    assert len([message for message in heard if "job_id" in message]) == told
    assert [job.status for job in emulator.jobs.values()] == ["failed"]


async def test_a_teardown_destroys_the_cluster_at_the_end(talk: Talk, emulator: Emulator) -> None:
    cluster_id = await talk.running()
    heard, _ = await push(talk, cluster_id, teardown_cluster=True)
    job_id = next(message["job_id"] for message in heard if "job_id" in message)
    await listen(talk, job_id)
    assert emulator.clusters[cluster_id].status == "DESTROYING"
    assert emulator.jobs[job_id].status == "completed"


async def test_a_teardown_leaves_a_protected_cluster_alone(talk: Talk, emulator: Emulator) -> None:
    cluster_id = await talk.running(deletion_protection=True)
    heard, _ = await push(talk, cluster_id, teardown_cluster=True)
    job_id = next(message["job_id"] for message in heard if "job_id" in message)
    await listen(talk, job_id)
    assert emulator.jobs[job_id].status == "completed"
    assert emulator.clusters[cluster_id].status == "RUNNING"


async def test_a_command_that_no_shell_would_take_still_prints(talk: Talk) -> None:
    cluster_id = await talk.running()
    heard, _ = await push(talk, cluster_id, "commands = ['echo \"']")
    job_id = next(message["job_id"] for message in heard if "job_id" in message)
    assert lines((await listen(talk, job_id))[0]) == ['$ echo "', '"']


async def test_a_client_that_says_nothing(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tensorpool_async.emulator.job_sockets.SECONDS_TO_AUTHENTICATE", 0.05)
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(emulator.url + "/job/listen/j-1") as socket,
    ):
        assert (await socket.receive()).type is WSMsgType.CLOSE
        assert socket.close_code == 1008


async def test_an_unexpected_error_closes_the_socket_and_is_logged(
    talk: Talk, emulator: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    cluster_id = await talk.running()
    emulator.push_commands = cast("list[str | None]", [b"no text"])
    assert (await push(talk, cluster_id))[1] == 1011
    assert "TypeError" in caplog.text
    assert [job.status for job in emulator.jobs.values()] == ["failed"]


async def test_a_job_fails_with_its_cluster(talk: Talk, emulator: Emulator) -> None:
    cluster_id = await talk.running()
    job = emulator.jobs.add(seconds=3600, cluster_id=cluster_id)
    other = emulator.jobs.add(seconds=3600)
    await talk.delete(f"/cluster/{cluster_id}")
    assert (job.status, other.status) == ("failed", "running")
    assert cluster_id in (job.public_message or "")


async def test_a_plain_request_is_told_to_upgrade(talk: Talk) -> None:
    assert (await talk.get("/job/push", headers={})).status == 426
    assert (await talk.post("/job/push")).status == 405


async def test_faults_come_before_the_upgrade(talk: Talk, emulator: Emulator) -> None:
    emulator.faults.add(Fault(FaultKind.HTML_502, path="/job/listen/*"))
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await talk.session.ws_connect(emulator.url + "/job/listen/j-1")
    assert refused.value.status == 502


async def test_a_socket_is_no_request_in_flight_and_ends_with_the_emulator() -> None:
    before = asyncio.all_tasks()
    async with aiohttp.ClientSession() as session:
        async with Emulator() as emulator:
            job = emulator.jobs.add(lines=10, seconds=3600)
            sockets = [await session.ws_connect(f"{emulator.url}/job/listen/{job.id}") for _ in range(5)]
            for socket in sockets[1:]:
                await socket.send_json({"TENSORPOOL_KEY": emulator.key})
            assert emulator.record.in_flight == 0
            leaving = [asyncio.create_task(socket.receive()) for socket in sockets]
        assert {(await task).type for task in leaving} == {WSMsgType.CLOSE}
        assert {socket.close_code for socket in sockets} == {1001}
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_many_listeners_at_once() -> None:
    async with Emulator() as emulator, talk_to(emulator) as talk:
        jobs = [emulator.jobs.add(lines=100, seconds=0.5) for _ in range(30)]
        for heard, _ in await asyncio.gather(*(listen(talk, job.id) for job in jobs)):
            assert lines(heard) == [f"line {n}" for n in range(100)]
