"""An engine behind a hidden token bucket, as lean as can be: `python -m tests.benchmarks.lean_server RATE BURST`.

It makes clusters that are ready with the third poll. A request that the bucket does not let through is answered 429
with `Retry-After` in whole seconds. It prints its port, and takes orders on its standard input, one JSON value a line:
a number is the rate from then on; `"report"` prints what was answered since the last report.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
import time
from typing import Any


REASONS = {200: b"OK", 202: b"Accepted", 429: b"Too Many Requests"}
POLLS = 3


class Engine:
    """A token bucket, and the operations behind it."""

    def __init__(self, rate: float, burst: float, retry_after: str = "1") -> None:
        self.rate = rate
        self.burst = burst
        self._retry_after = retry_after
        self._tokens = burst
        self._filled_at = time.monotonic()
        self._made = 0
        self._polls: dict[str, int] = {}
        self.answers: list[tuple[float, int, str]] = []

    def fill(self) -> float:
        """Let in what has come since the last time; return the time."""
        now = time.monotonic()
        self._tokens = min(self.burst, self._tokens + (now - self._filled_at) * self.rate)
        self._filled_at = now
        return now

    def answer(self, method: str, path: str) -> bytes:
        """Return the whole answer to a request."""
        now = self.fill()
        if self._tokens < 1.0:
            status, body = 429, {"message": "too many requests"}
            wait = str(max(1, math.ceil((1.0 - self._tokens) / self.rate)))
        else:
            self._tokens -= 1.0
            status, body = self._serve(method, path)
            wait = self._retry_after
        self.answers.append((now, status, f"{method} {path.rpartition('/')[0]}"))
        text = json.dumps(body).encode()
        head = b"HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nRetry-After: %s\r\n\r\n"
        return head % (status, REASONS[status], len(text), wait.encode()) + text

    def _serve(self, method: str, path: str) -> tuple[int, dict[str, Any]]:
        last = path.rpartition("/")[2]
        if method == "POST":
            self._made += 1
            return 202, {"cluster_id": f"c-{self._made}", "request_id": f"r-{self._made}", "message": "ok"}
        if method == "DELETE":
            return 202, {"cluster_id": last, "request_id": f"d-{last}", "message": "ok"}
        if path.startswith("/cluster/"):
            return 200, {"message": "", "cluster_info": {"id": last, "status": "RUNNING"}}
        polls = self._polls[last] = self._polls.get(last, 0) + 1
        status = "COMPLETED" if polls >= POLLS and not last.startswith("endless") else "PROCESSING"
        info = {"request_id": last, "status": status, "object_id": last.replace("r-", "c-")}
        return 200, {**info, "object_type": "CLUSTER", "request_type": "CLUSTER_CREATE", "message": status}


class Connection(asyncio.Protocol):
    """One connection: it reads requests as our client writes them, and answers each at once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._buffer = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what answers are written to."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer each request that is complete."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].decode("latin-1")
            length = next(
                (line[15:] for line in head.lower().split("\r\n") if line.startswith("content-length:")), "0"
            )
            rest = end + 4 + int(length)
            if len(self._buffer) < rest:
                return
            self._buffer = self._buffer[rest:]
            method, path = head.split(" ", 2)[:2]
            self._transport.write(self._engine.answer(method, path))


async def serve(engine: Engine) -> None:
    """Serve until the standard input is closed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(engine), "127.0.0.1", 0, backlog=1000)
    print(server.sockets[0].getsockname()[1], flush=True)
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    while line := await orders.readline():
        order = json.loads(line)
        if order == "report":
            print(json.dumps(engine.answers), flush=True)
            engine.answers = []
        else:
            engine.fill()  # at the rate that held until now
            engine.rate = float(order)
    server.close()


if __name__ == "__main__":
    rate_, burst_, *retry_after_ = sys.argv[1:]
    asyncio.run(serve(Engine(float(rate_), float(burst_), *retry_after_)))
