"""The engine that the polling benchmark measures against: as little as can answer, so that it isn't what is measured.

It answers `GET /request/info/{id}`, `GET /cluster/info/{id}` and `POST /cluster/create` from parts that are rendered
before. `GET /control/reset` sets what it does from then on, `GET /control/report` says what it saw.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import defaultdict
from urllib.parse import parse_qsl


HEAD = b"HTTP/1.1 %d OK\r\nContent-Type: application/json\r\nDate: Tue, 24 Nov 2026 12:00:00 GMT\r\n"
CREATED = b"2026-11-24T12:00:00.000000Z"
EARLY = -0.0005
"""Seconds: what is less than this before its time is an early poll."""


class Engine:
    """What is asked, and when."""

    def __init__(self) -> None:
        self.address = b""
        self.reset({})

    def reset(self, options: dict[str, str]) -> None:
        """Begin anew.

        Args:
            options: `retry_after` in seconds; `polls`, the poll of each request that ends it, 0 for none; `record` to
                note how late each poll is; `news` to say something new in each answer.
        """
        self._retry_after = float(options.get("retry_after", "0"))
        self._last_poll = int(options.get("polls", "0"))
        self._recording = options.get("record") == "1"
        self._news = options.get("news") == "1"
        self._wait = b"Retry-After: %s\r\n" % options.get("retry_after", "0").encode()
        self._polls: defaultdict[bytes, int] = defaultdict(int)
        self._due: dict[bytes, float] = {}
        self._late: list[float] = []
        self._created = 0
        self._requests = 0

    def answer(self, method: bytes, target: bytes) -> bytes:
        """Return the whole answer to a request."""
        self._requests += 1
        if target.startswith(b"/request/info/"):
            return self._poll(target[14:])
        if target.startswith(b"/cluster/info/"):
            body = b'{"message": "", "cluster_info": {"id": "%s", "status": "RUNNING"}}' % target[14:]
            return respond(200, body)
        if method == b"POST" and target == b"/cluster/create":
            self._created += 1
            number = self._created
            body = b'{"cluster_id": "c-%08d", "message": "ok", "request_id": "r-%08d"}' % (number, number)
            return respond(202, body, self._wait)
        if target.startswith(b"/azure/"):
            location = b"Operation-Location: %s/request/info/%s\r\n" % (self.address, target[7:])
            return respond(202, b'{"status": "PROCESSING"}', location)
        if target.startswith(b"/control/"):
            return self._control(target)
        return respond(404, b'{"detail": "unknown"}')

    def _poll(self, request_id: bytes) -> bytes:
        status = b"PROCESSING"
        if self._last_poll:
            self._polls[request_id] += 1
            if self._polls[request_id] >= self._last_poll:
                status = b"COMPLETED"
        if self._recording:
            now = time.monotonic()
            if request_id in self._due:
                self._late.append(now - self._due[request_id])
            self._due[request_id] = now + self._retry_after
        message = b"Provisioning, step %d" % self._requests if self._news else b"Provisioning"
        body = (
            b'{"request_id": "%s", "request_type": "CLUSTER_CLAIM", "status": "%s", "created_at": "%s", '
            b'"object_id": "c-%s", "external_message": "%s"}'
            % (request_id, status, CREATED, request_id[2:], message)
        )
        return respond(200, body, self._wait if status == b"PROCESSING" else b"")

    def _control(self, target: bytes) -> bytes:
        name, _, query = target.decode().partition("?")
        if name == "/control/reset":
            self.reset(dict(parse_qsl(query)))
        late = sorted(self._late)
        report = {
            "requests": self._requests,
            "recorded": len(late),
            "early": sum(1 for seconds in late if seconds < EARLY),
            "p50": late[len(late) // 2] if late else None,
            "p99": late[len(late) * 99 // 100] if late else None,
            "worst": late[-1] if late else None,
        }
        self._late.clear()
        return respond(200, json.dumps(report).encode())


def respond(status: int, body: bytes, headers: bytes = b"") -> bytes:
    """Render an answer."""
    return b"%s%sContent-Length: %d\r\n\r\n%s" % (HEAD % status, headers, len(body), body)


class Connection(asyncio.Protocol):
    """One connection of a client, kept alive."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end]
            end += 4
            if not head.startswith(b"GET "):
                end += _content_length(head)
                if len(self._buffer) < end:
                    return
            self._buffer = self._buffer[end:]
            method, target, _ = head.split(b" ", 2)
            self._transport.write(self._engine.answer(method, target))


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


async def serve(core: int) -> None:
    """Serve on a free port of this machine, which is printed, until the standard input ends."""
    if core >= 0:
        os.sched_setaffinity(0, {core})
    loop = asyncio.get_running_loop()
    engine = Engine()
    server = await loop.create_server(lambda: Connection(engine), "127.0.0.1", 0, backlog=1000)
    port = server.sockets[0].getsockname()[1]
    engine.address = b"http://127.0.0.1:%d" % port
    print(port, flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
