"""Bodies are decompressed up to a bound, and what cannot be decompressed is an error."""

from __future__ import annotations

import gzip
import zlib

import pytest

from tensorpool_async.protocol.encodings import MOST_MEMBERS, TooLarge, decoder_for
from tensorpool_async.protocol.responses import Response, error_of


TEXT = b"one of many answers " * 50
RAW = zlib.compressobj(wbits=-15)
COMPRESSED = {
    "": TEXT,
    "identity": TEXT,
    "gzip": gzip.compress(TEXT),
    "x-gzip": gzip.compress(TEXT[:100]) + gzip.compress(TEXT[100:]),
    "deflate": zlib.compress(TEXT),
    "Deflate": RAW.compress(TEXT) + RAW.flush(),
}


@pytest.mark.parametrize("encoding", COMPRESSED)
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_body_is_decompressed_in_whatever_pieces_it_comes(encoding: str, size: int) -> None:
    decoder, body = decoder_for(encoding, len(TEXT)), COMPRESSED[encoding]
    parts = [decoder.feed(body[start : start + size]) for start in range(0, len(body), size)]
    decoder.check_complete()
    assert b"".join(parts) == TEXT


@pytest.mark.parametrize("encoding", COMPRESSED)
def test_a_body_beyond_the_bound_is_refused(encoding: str) -> None:
    with pytest.raises(TooLarge):
        decoder_for(encoding, len(TEXT) - 1).feed(COMPRESSED[encoding])


def test_many_members_are_refused() -> None:
    with pytest.raises(TooLarge):
        decoder_for("gzip", 1000).feed(gzip.compress(b"") * (MOST_MEMBERS + 1))


def test_what_is_cut_off_or_no_such_encoding_is_an_error() -> None:
    decoder = decoder_for("gzip", 10_000)
    decoder.feed(COMPRESSED["gzip"][:-9])
    with pytest.raises(ValueError, match="cut off"):
        decoder.check_complete()
    with pytest.raises(ValueError, match="incorrect header check"):
        decoder_for("gzip", 1000).feed(b"no gzip at all")
    with pytest.raises(ValueError, match="'br' was not asked for"):
        decoder_for("br", 1000)


def test_a_redirect_names_where_it_leads_without_its_query() -> None:
    response = Response(307, {"Location": "https://a.example/b?signature=1"}, b"")
    text = str(error_of(response, method="GET", path="/cluster/list"))
    assert "https://a.example/b" in text
    assert "signature" not in text
