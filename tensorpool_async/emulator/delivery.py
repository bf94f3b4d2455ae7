"""Answers as HTTP: whole, cut off, or not at all; and the files that jobs leave."""

import asyncio
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
from aiohttp import web

from tensorpool_async.emulator.responses import Content, Reply


CHUNK = 256 * 1024


def respond(reply: Reply) -> web.Response:
    headers = dict(reply.headers)
    if reply.retry_after:
        headers["Retry-After"] = reply.retry_after.text
    kind = reply.content_type if reply.body is not None else None
    return web.Response(body=reply.encode(), status=reply.status, headers=headers, content_type=kind)


def hang_up(request: web.BaseRequest) -> web.StreamResponse:
    """Close the connection. aiohttp needs a response, and finds nowhere to send it."""
    if request.transport is not None:
        request.transport.close()
    return web.Response()


async def cut_body(request: web.BaseRequest, reply: Reply) -> web.StreamResponse:
    """Announce the whole body, send half of it, and close the connection."""
    whole, body = respond(reply), reply.encode()
    response = web.StreamResponse(status=whole.status, headers=whole.headers)
    response.content_length = len(body) + 1
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    hang_up(request)
    return response


@attrs.frozen
class Span:
    """The bytes of a file from `start` up to, but not with, `stop`."""

    start: int
    stop: int
    partial: bool = False


def requested_span(request: web.BaseRequest, size: int) -> Span | None:
    """The span that the Range header asks for: the whole file without one, None for a span without bytes."""
    try:
        asked = request.http_range
    except ValueError:
        return Span(0, size)
    if asked.start is None and asked.stop is None:
        return Span(0, size)
    start, stop, _ = asked.indices(size)
    return Span(start, stop, partial=True) if start < stop else None


async def send_file(request: web.BaseRequest, content: Content, *, cut: bool) -> web.StreamResponse:
    """Serve a file as an S3 server would, ranges included. With `cut`, break off in the middle."""
    size, etag = await _facts(content)
    span = requested_span(request, size)
    if span is None:
        return web.Response(status=416, headers={"Content-Range": f"bytes */{size}"})
    response = web.StreamResponse(headers={"ETag": f'"{etag}"', "Accept-Ranges": "bytes"})
    response.content_type = "application/octet-stream"
    if span.partial:
        response.set_status(206)
        response.headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{size}"
    response.content_length = (span.stop - span.start) or int(
        cut
    )  # where there is nothing, a cut promises something
    await response.prepare(request)
    stop = span.start + (span.stop - span.start) // 2 if cut else span.stop
    async for chunk in _chunks(content, Span(span.start, stop)):
        await response.write(chunk)
    if cut:
        hang_up(request)
    return response


async def _facts(content: Content) -> tuple[int, str]:
    if isinstance(content, bytes):
        return len(content), f"{zlib.crc32(content):08x}-{len(content):x}"
    stat = await asyncio.to_thread(content.stat)
    return stat.st_size, f"{stat.st_mtime_ns:x}-{stat.st_size:x}"


async def _chunks(content: Content, span: Span) -> AsyncIterator[bytes]:
    for start in range(span.start, span.stop, CHUNK):
        stop = min(start + CHUNK, span.stop)
        if isinstance(content, bytes):
            yield content[start:stop]
        else:
            yield await asyncio.to_thread(_read, content, start, stop - start)


def _read(path: Path, start: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(size)
