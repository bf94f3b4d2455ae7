"""Downloads: which addresses may be asked, and whether an answer is the whole file, its rest, or neither."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urljoin, urlsplit

import attrs

from tensorpool_async.errors import ConnectionFailed, DecodeError


LONGEST_ADDRESS = 16_384
"""Characters; servers take 8 to 16 KiB."""

MOST_REDIRECTS = 5
REDIRECTS = frozenset({301, 302, 303, 307, 308})

_VISIBLE = re.compile(r"[!-~]+")
_STRONG_ETAG = re.compile(r'"[!#-~\x80-\xff]*"')
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")


def check_address(address: str, what: str) -> None:
    """See that a file can be downloaded from an address, and that it is sent as it stands.

    A presigned address is signed character by character, so that none is quoted or put right here. What the address holds
    is a secret, and in no message.

    Args:
        address: The address.
        what: What it is, for the message.

    Raises:
        ConnectionFailed: It is no such address. Nothing was sent.
    """
    problem = _problem_of(address)
    if problem:
        raise ConnectionFailed(f"{what} {problem}", sent=False, permanent=True)


def _problem_of(address: str) -> str | None:
    if not address:
        return "is empty"
    if len(address) > LONGEST_ADDRESS:
        return f"is longer than {LONGEST_ADDRESS} characters"
    if not _VISIBLE.fullmatch(address) or "\\" in address:
        return "holds characters that no address may hold unquoted"
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "has a host or a port that is malformed"
    problems = {
        "is not an http or https address": parts.scheme not in {"http", "https"},
        "names no host": not host,
        "holds a user name or a password": "@" in parts.netloc,
        "holds a fragment, which is never sent": "#" in address,
    }
    return next((problem for problem, is_so in problems.items() if is_so), None)


def redirected(address: str, location: str | None) -> str:
    """Return where a redirect leads: to another http(s) address, and never from https to http.

    Raises:
        ConnectionFailed: It leads elsewhere.
    """
    try:
        target = urljoin(address, location or "")
    except ValueError:
        target = ""
    if not location or not target:
        raise ConnectionFailed("the download was redirected to nowhere", permanent=True)
    check_address(target, "the address that the download was redirected to")
    if urlsplit(address).scheme == "https" and urlsplit(target).scheme != "https":
        raise ConnectionFailed(
            "the download was redirected from https to http, and not followed", permanent=True
        )
    return target


@attrs.frozen
class Version:
    """What identifies the bytes of a file that are here.

    Attributes:
        etag: The strong ETag that they came with; None where there was none, and they cannot be continued.
        size: How many bytes the whole file has; None where the server did not say.
    """

    etag: str | None = None
    size: int | None = None


@attrs.frozen
class Content:
    """What an answer brings.

    Attributes:
        start: The first byte that comes.
        version: What the file is that it belongs to.
    """

    start: int
    version: Version


def range_headers(start: int, version: Version) -> dict[str, str]:
    """Return the headers that ask for the rest of a file, or for all of it where there is nothing to go on with."""
    if not start or version.etag is None:
        return {}
    return {"Range": f"bytes={start}-", "If-Range": version.etag}


def content_of(status: int, headers: Mapping[str, str], start: int, version: Version) -> Content:
    """Say what an answer to `range_headers(start, version)` brings: 200, 206 or 416.

    Raises:
        DecodeError: It brings neither the whole file nor the rest of it.
    """
    if status == 200:
        size = _length_of(headers)
        if size is None and "chunked" not in headers.get("Transfer-Encoding", "").lower():
            raise DecodeError("the server does not say how long the file is: a cut would not be seen")
        return Content(0, Version(_etag_of(headers), size))
    if not range_headers(start, version):
        raise DecodeError(f"the server has sent a part of the file ({status}) that was not asked for")
    if status != 206:
        raise DecodeError("the server has no such part of the file: it has become another one")
    match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", "").strip())
    if match is None:
        raise DecodeError("the server has sent a part of the file, and does not say which")
    first, last, total = int(match[1]), int(match[2]), None if match[3] == "*" else int(match[3])
    if _etag_of(headers) != version.etag or (total or version.size) != (version.size or total):
        raise DecodeError("the server has sent a part of another version of the file")
    if first != start or last < first or (total is not None and last >= total):
        raise DecodeError("the server has sent another part of the file than was asked for")
    if _length_of(headers) not in {None, last - first + 1}:
        raise DecodeError("the server has sent a part of the file of another length than it says")
    size = version.size or total
    if size is None:
        raise DecodeError("the server has sent a part of the file, and does not say how long the file is")
    return Content(first, Version(version.etag, size))


def _etag_of(headers: Mapping[str, str]) -> str | None:
    etag = headers.get("ETag", "")
    return etag if _STRONG_ETAG.fullmatch(etag) else None


def _length_of(headers: Mapping[str, str]) -> int | None:
    length = headers.get("Content-Length", "")
    return int(length) if re.fullmatch(r"[0-9]{1,18}", length) else None
