"""`tp.jobs`: push, listen, cancel, delete (design, section 5)."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from aiohttp import WSMsgType, web

from tensorpool_async import (
    AuthenticationError,
    CommandRefused,
    ConflictError,
    JobStatus,
    NotFound,
    OperationKind,
    PollPolicy,
    StreamError,
    TensorPool,
)
from tensorpool_async.emulator import Emulator
from tensorpool_async.events import CommandEnded, CommandOutput, CommandStarted, Event, JobMessage
from tests.support.scripted import ScriptedEngine


CONFIG = 'commands = ["echo one", "echo two"]\noutputs = ["out.txt"]\n'


@pytest.fixture(autouse=True)
def current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is pushed by default is a small folder, whatever lies in the one that the tests are run from."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
async def engine() -> AsyncGenerator[Emulator]:
    async with Emulator(
        provision_seconds=0.05, job_seconds=0.2, cancel_seconds=0.05, destroy_seconds=0.05, retry_after=0.02
    ) as emulator:
        yield emulator


@pytest.fixture
async def jobs(engine: Emulator, events: list[Event]) -> AsyncGenerator[TensorPool]:
    polling = PollPolicy(default=0.02, initial=0.01)
    async with TensorPool(engine.key, base_url=engine.url, polling=polling, on_event=events.append) as tp:
        yield tp


def program(folder: Path, name: str, script: str) -> None:
    """Put a program of that name first on the path."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def fake_rsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let `rsync` write its arguments, and where it was run, to a file."""
    log = tmp_path / "rsync.log"
    program(
        tmp_path / "bin",
        "rsync",
        f'pwd >> {log}; for word in "$@"; do echo "$word" >> {log}; done; echo sent; echo oops >&2',
    )
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return log


async def test_a_job_is_pushed_and_listened_to(
    jobs: TensorPool, fake_rsync: Path, events: list[Event], tmp_path: Path
) -> None:
    cluster = await jobs.clusters.create("1xH100").result()
    job = await jobs.jobs.push(CONFIG, cluster, folder=tmp_path)
    assert job.status in {JobStatus.PENDING, JobStatus.RUNNING}
    assert fake_rsync.read_text().splitlines()[0] == str(tmp_path)
    lines = [line async for line in jobs.jobs.listen(job)]
    assert "one" in lines
    assert lines.index("one") < lines.index("two")
    ended = await jobs.jobs.get(job)
    assert (ended.status, ended.exit_code) == (JobStatus.COMPLETED, 0)
    assert [one.id for one in await jobs.jobs.list()] == [job.id]
    messages = [event for event in events if isinstance(event, JobMessage)]
    assert messages[-1].job_id == job.id
    started = [event for event in events if isinstance(event, CommandStarted)]
    assert [event.arguments[0] for event in started] == ["rsync"]
    output = [event for event in events if isinstance(event, CommandOutput)]
    assert {(event.stream, event.text.strip()) for event in output} == {
        ("stdout", "sent"),
        ("stderr", "oops"),
    }
    assert [event.exit_code for event in events if isinstance(event, CommandEnded)] == [0]
    await jobs.jobs.delete(job)
    with pytest.raises(NotFound):
        await jobs.jobs.get(job)


async def test_the_configuration_may_be_a_file_and_the_cluster_be_torn_down(
    jobs: TensorPool, engine: Emulator, fake_rsync: Path, tmp_path: Path
) -> None:
    config = tmp_path / "job.tp.toml"
    config.write_text(await jobs.jobs.template())
    cluster = await jobs.clusters.create("1xH100").result()
    job = await jobs.jobs.push(config, cluster.id, teardown=True)
    async with asyncio.timeout(10):
        async for _ in jobs.jobs.listen(job):
            pass
        while engine.record.living:
            await asyncio.sleep(0.02)


HOSTILE = [
    "bash -c 'touch /tmp/pwned'",
    "rsync -a . host:job; rm -rf /",
    "rsync -a ../x host:job",
    "rm -rf /",
    "rsync \0",
]


@pytest.mark.parametrize("command", HOSTILE)
async def test_a_command_that_is_no_transfer_is_refused_and_the_engine_told(
    command: str, jobs: TensorPool, scripted: ScriptedEngine, events: list[Event]
) -> None:
    reports: list[Any] = []

    async def push(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.receive_json()
        await socket.receive_json()
        await socket.send_json({"job_id": "j-1", "command": command})
        reports.append(await socket.receive_json())
        await socket.close()
        return socket

    scripted.handle("GET /job/push", push)
    async with TensorPool("key", base_url=scripted.url, on_event=events.append) as tp:
        with pytest.raises(CommandRefused):
            await tp.jobs.push(CONFIG, "c-1")
    assert reports[0]["type"] == "command_result"
    assert reports[0]["command"] == command
    assert reports[0]["exit_code"] != 0
    assert not [event for event in events if isinstance(event, CommandStarted)], "something was run"


async def test_a_push_of_the_official_emulator_with_hostile_commands_is_refused(
    jobs: TensorPool, engine: Emulator
) -> None:
    cluster = await jobs.clusters.create("1xH100").result()
    engine.push_commands = ["bash -c reboot"]
    with pytest.raises(CommandRefused, match="bash"):
        await jobs.jobs.push(CONFIG, cluster)


def pushing(*messages: dict[str, Any], code: int = 1000) -> Callable[[web.Request], Any]:
    """Make an engine's side of a push that says something and closes."""

    async def push(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.receive_json()
        await socket.receive_json()
        for message in messages:
            await socket.send_json(message)
            if message.get("command"):
                await socket.receive()
        await socket.close(code=code, message=b"because")
        return socket

    return push


async def test_what_goes_over_the_wire_of_a_push(
    scripted: ScriptedEngine, fake_rsync: Path, tmp_path: Path
) -> None:
    received: list[Any] = []
    headers: list[Any] = []

    async def push(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        headers.append(request.headers.get("Authorization"))
        received.append(await socket.receive_json())
        received.append(await socket.receive_json())
        await socket.send_json({"message": "hello", "command": None})
        await socket.send_json({"command": ""})
        await socket.send_json(
            {"job_id": "j-1", "command": "rsync -a ./ host:job/", "command_show_stdout": True}
        )
        received.append(await socket.receive_json())
        await socket.send_json({"job_id": "j-2"})
        await socket.close()
        return socket

    scripted.handle("GET /job/push", push)
    scripted.answer("GET /job/info/j-1", {"message": "", "job_info": {"id": "j-1", "status": "pending"}})
    async with TensorPool("the-key", base_url=scripted.url) as tp:
        job = await tp.jobs.push("x = 1", "c-1", teardown=True, folder=tmp_path)
    assert job.id == "j-1"
    assert headers == [None], "the key is a message, and no header"
    assert received[0] == {"TENSORPOOL_KEY": "the-key"}
    assert received[1] == {
        "tp_config": "x = 1",
        "system": "Linux",
        "cluster_id": "c-1",
        "teardown_cluster": True,
    }
    assert received[2] == {
        "type": "command_result",
        "command": "rsync -a ./ host:job/",
        "exit_code": 0,
        "command_stdout": "sent\n",
        "command_stderr": "oops\n",
    }


async def test_a_policy_of_ones_own_decides(scripted: ScriptedEngine, fake_rsync: Path) -> None:
    asked: list[str] = []

    def policy(text: str) -> list[str]:
        asked.append(text)
        return ["rsync", "mine"]

    scripted.handle("GET /job/push", pushing({"job_id": "j-1", "command": "anything; at all"}))
    scripted.answer("GET /job/info/j-1", {"job_info": {"id": "j-1"}})
    async with TensorPool("key", base_url=scripted.url) as tp:
        await tp.jobs.push(CONFIG, "c-1", commands=policy)
    assert asked == ["anything; at all"]
    assert fake_rsync.read_text().splitlines()[1] == "mine"


async def test_a_program_that_is_not_there_is_reported(
    scripted: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    scripted.handle("GET /job/push", pushing({"job_id": "j-1", "command": "rsync -a . host:job"}))
    scripted.answer("GET /job/info/j-1", {"job_info": {"id": "j-1"}})
    events: list[Event] = []
    async with TensorPool("key", base_url=scripted.url, on_event=events.append) as tp:
        await tp.jobs.push(CONFIG, "c-1")
    assert [event.exit_code for event in events if isinstance(event, CommandEnded)] == [127]


@pytest.mark.parametrize(
    ("code", "retryable", "text"),
    [
        (1008, False, "because"),
        (4001, False, "4001"),
        (1011, True, "1011"),
        (1000, False, "without naming a job"),
    ],
)
async def test_how_a_push_ends(code: int, retryable: bool, text: str, scripted: ScriptedEngine) -> None:
    scripted.handle("GET /job/push", pushing({"message": "hello"}, code=code))
    async with TensorPool("key", base_url=scripted.url) as tp:
        with pytest.raises(StreamError, match=text) as caught:
            await tp.jobs.push(CONFIG, "c-1")
    assert (caught.value.code, caught.value.retryable) == (code, retryable)


async def test_a_push_whose_connection_is_lost_kills_its_command(
    scripted: ScriptedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "bin", "rsync", f"echo $$ > {tmp_path / 'pid'}; exec sleep 60")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    started = tmp_path / "pid"

    async def push(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.receive_json()
        await socket.receive_json()
        await socket.send_json({"command": "rsync -a . host:job"})
        while not await asyncio.to_thread(lambda: started.exists() and started.read_text().strip()):
            await asyncio.sleep(0.01)
        assert request.transport is not None
        request.transport.abort()
        return socket

    scripted.handle("GET /job/push", push)
    async with TensorPool("key", base_url=scripted.url) as tp:
        with pytest.raises(StreamError, match="lost") as caught:
            await tp.jobs.push(CONFIG, "c-1")
    assert caught.value.retryable
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)


async def test_pings_are_answered_while_a_command_runs(
    scripted: ScriptedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "bin", "rsync", "exec sleep 1")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    pongs: list[WSMsgType] = []

    async def push(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(autoping=False)
        await socket.prepare(request)
        await socket.receive_json()
        await socket.receive_json()
        await socket.send_json({"job_id": "j-1", "command": "rsync -a . host:job"})
        await socket.ping()
        pongs.append((await socket.receive()).type)
        await socket.receive()
        await socket.close()
        return socket

    scripted.handle("GET /job/push", push)
    scripted.answer("GET /job/info/j-1", {"job_info": {"id": "j-1"}})
    async with TensorPool("key", base_url=scripted.url) as tp:
        await tp.jobs.push(CONFIG, "c-1")
    assert pongs == [WSMsgType.PONG]


async def test_a_wrong_key_of_a_stream_is_an_error(engine: Emulator) -> None:
    job = engine.jobs.add(lines=["a"])
    async with TensorPool("wrong", base_url=engine.url) as tp:
        with pytest.raises(StreamError) as caught:
            _ = [line async for line in tp.jobs.listen(job.id)]
        assert not caught.value.retryable


async def test_a_hundred_jobs_are_listened_to_at_once(jobs: TensorPool, engine: Emulator) -> None:
    made = [
        engine.jobs.add(lines=[f"{job}:{line}" for line in range(1000)], seconds=0.5) for job in range(100)
    ]

    async def listen(job_id: str) -> list[str]:
        return [line async for line in jobs.jobs.listen(job_id)]

    heard = await asyncio.gather(*(listen(job.id) for job in made))
    assert heard == [[f"{job}:{line}" for line in range(1000)] for job in range(100)]


async def collect(stream: AsyncGenerator[str], lines: list[str]) -> None:
    """Keep the lines that came before an error."""
    async for line in stream:
        lines.append(line)  # noqa: PERF401 - a comprehension would lose them with the error


async def test_a_job_that_fails_ends_its_stream_with_an_error(jobs: TensorPool, engine: Emulator) -> None:
    job = engine.jobs.add(lines=["a", "b"], exit_code=3)
    lines: list[str] = []
    with pytest.raises(StreamError) as caught:
        await collect(jobs.jobs.listen(job.id), lines)
    assert lines == ["a", "b"]
    assert not caught.value.retryable


def listening(*messages: str, code: int | None = 1000) -> Callable[[web.Request], Any]:
    async def listen(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.receive_json()
        for message in messages:
            await socket.send_str(message)
        if code is None:
            assert request.transport is not None
            request.transport.abort()
        else:
            await socket.close(code=code)
        return socket

    return listen


async def test_messages_become_lines(scripted: ScriptedEngine) -> None:
    messages = [
        {"message": "a\nb\n"},
        {"status": "running"},
        {"message": ""},
        {"status": "SUCCESS", "message": "end"},
    ]
    scripted.handle("GET /job/listen/j-1", listening(*(json.dumps(message) for message in messages)))
    async with TensorPool("key", base_url=scripted.url) as tp:
        assert [line async for line in tp.jobs.listen("j-1")] == ["a", "b", "", "end"]


@pytest.mark.parametrize(
    ("handler", "retryable", "code"),
    [
        (listening('{"message": "a"}', code=None), True, 1006),
        (listening('{"message": "a"}', code=1000), True, 1000),
        (listening('{"message": "a"}', code=1008), False, 1008),
        (listening('{"message": "a"}', "no json"), False, None),
        (listening('{"message": "a"}', "[]"), False, None),
        (listening('{"message": "a"}', '{"status": "error", "message": "bad"}'), False, None),
    ],
)
async def test_a_stream_that_ends_too_early_says_whether_to_try_again(
    handler: Callable[[web.Request], Any], retryable: bool, code: int | None, scripted: ScriptedEngine
) -> None:
    scripted.handle("GET /job/listen/j-1", handler)
    lines: list[str] = []
    async with TensorPool("key", base_url=scripted.url) as tp:
        with pytest.raises(StreamError) as caught:
            await collect(tp.jobs.listen("j-1"), lines)
    assert lines == ["a"]
    assert (caught.value.retryable, caught.value.code) == (retryable, code)


async def test_leaving_the_loop_early_closes_the_socket(scripted: ScriptedEngine) -> None:
    closed = asyncio.Event()

    async def listen(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.receive_json()
        await socket.send_json({"message": "a"})
        message = await socket.receive()
        assert message.type is WSMsgType.CLOSE
        closed.set()
        return socket

    scripted.handle("GET /job/listen/j-1", listen)
    async with TensorPool("key", base_url=scripted.url) as tp:
        async with aclosing(tp.jobs.listen("j-1")) as lines:
            async for _ in lines:
                break
        await asyncio.wait_for(closed.wait(), 5)


@pytest.mark.parametrize("status", [401, 404])
async def test_a_handshake_that_is_refused_is_a_status_error(status: int, scripted: ScriptedEngine) -> None:
    scripted.answer("GET /job/listen/j-1", {"detail": "no"}, status=status)
    async with TensorPool("key", base_url=scripted.url) as tp:
        with pytest.raises(AuthenticationError if status == 401 else NotFound):
            _ = [line async for line in tp.jobs.listen("j-1")]
        assert tp.statistics().limiter.in_flight == 0


async def test_a_handshake_is_tried_again_like_a_get(odd_tp: TensorPool, scripted: ScriptedEngine) -> None:
    scripted.answer("GET /job/listen/j-1", "down", status=502, times=2)
    scripted.handle("GET /job/listen/j-1", listening('{"status": "success"}'))
    assert [line async for line in odd_tp.jobs.listen("j-1")] == []
    assert odd_tp.statistics().retries == 2


async def test_a_cancel_wins(jobs: TensorPool, engine: Emulator) -> None:
    job = engine.jobs.add(lines=1000, seconds=60)
    op = await jobs.jobs.cancel(job.id)
    assert (op.kind, op.request_id, op.resource_id) == (OperationKind.JOB_CANCEL, None, job.id)
    assert (await jobs.operation(op.token)).canceled
    canceled = await op
    assert canceled.canceled
    assert canceled.status is JobStatus.CANCELED
    again = await jobs.jobs.cancel(job.id).result()
    assert again.canceled, "a second cancel answers 200, and is no error"


@pytest.mark.parametrize(("ending", "exit_code"), [("completed", 0), ("error", 1), ("failed", None)])
async def test_a_cancel_that_does_not_win_says_so(
    ending: str, exit_code: int | None, jobs: TensorPool, engine: Emulator
) -> None:
    job = engine.jobs.add(seconds=0.2, status=ending, exit_code=exit_code, obeys=False)
    ended = await jobs.jobs.cancel(job.id).result()
    assert not ended.canceled
    assert ended.status == ending


async def test_a_job_that_has_ended_cannot_be_canceled_and_one_that_runs_not_deleted(
    jobs: TensorPool, engine: Emulator
) -> None:
    with pytest.raises(ConflictError):
        await jobs.jobs.cancel(engine.jobs.add().id)
    with pytest.raises(ConflictError):
        await jobs.jobs.delete(engine.jobs.add(seconds=60).id)
