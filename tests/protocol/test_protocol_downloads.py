"""What an answer of an object store brings, and where a redirect may lead."""

from __future__ import annotations

import pytest

from tensorpool_async.errors import CommandRefused, ConnectionFailed, DecodeError
from tensorpool_async.protocol.commands import transfers_only
from tensorpool_async.protocol.downloads import Version, content_of, redirected


@pytest.mark.parametrize(
    ("location", "target"),
    [("/b", "https://a.example/b"), ("https://b.example/c?d=e", "https://b.example/c?d=e")],
)
def test_a_redirect_is_followed_to_an_https_address(location: str, target: str) -> None:
    assert redirected("https://a.example/x?signature=1", location) == target


@pytest.mark.parametrize("location", [None, "", "http://a.example/b", "file:///etc/passwd", "https://[x"])
def test_a_redirect_elsewhere_is_an_error(location: str | None) -> None:
    with pytest.raises(ConnectionFailed) as caught:
        redirected("https://a.example/x?signature=1", location)
    assert "signature" not in str(caught.value)


def test_a_part_of_a_file_of_unknown_size_is_an_error() -> None:
    headers = {"ETag": '"v1"', "Content-Range": "bytes 5-9/*", "Content-Length": "5"}
    known = content_of(206, headers, 5, Version('"v1"', 10))
    assert (known.start, known.version.size) == (5, 10)
    with pytest.raises(DecodeError, match="does not say how long the file is"):
        content_of(206, headers, 5, Version('"v1"', None))


@pytest.mark.parametrize("name", ["a:b", "x/[y", "a*", "x/~y", "a?b"])
def test_a_local_name_that_programs_read_as_something_else_is_refused(name: str) -> None:
    with pytest.raises(CommandRefused):
        transfers_only(f"scp './{name}' user@host:x")
