"""A secret is masked wherever it might be shown."""

from __future__ import annotations

import copy
import logging
import pickle
import traceback

import attrs
import pytest

from tensorpool_async import ConfigurationError, TensorPool
from tensorpool_async.secrets import MASK, MaskedHeader, Secret


KEY = "tp-not-to-be-seen"


@attrs.define
class Settings:
    key: Secret


def test_a_secret_is_revealed_only_when_asked() -> None:
    assert Secret(KEY).reveal() == KEY


def test_a_secret_is_masked_in_every_text() -> None:
    secret = Secret(KEY)
    texts = [
        repr(secret),
        str(secret),
        f"{secret}",
        f"{secret!r:>40}",
        "{} {!r}".format(*[secret] * 2),
        repr([secret]),
    ]
    texts.append(repr(Settings(secret)))
    assert not any(KEY in text for text in texts)
    assert all(MASK in text for text in texts)


def test_a_secret_is_masked_in_logs_and_tracebacks(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("a user's program").debug("the key is %s, or %r", Secret(KEY), Secret(KEY))
    assert MASK in caplog.text
    with pytest.raises(LookupError) as caught:
        raise LookupError(Secret(KEY))
    shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert KEY not in caplog.text + shown.replace(f"KEY = {KEY!r}", "")


def test_a_secret_that_is_no_text_of_utf_8_does_not_show_in_an_error() -> None:
    odd = KEY + "\udcff"  # as the environment gives a byte that is none
    assert Secret(odd) == Secret(odd)
    with pytest.raises(ConfigurationError) as caught:
        TensorPool(Secret(odd))
    assert KEY not in "".join(traceback.format_exception(caught.value)) + repr(caught.value.__context__)


def test_a_secret_has_no_place_for_others_to_look_into() -> None:
    assert not hasattr(Secret(KEY), "__dict__")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_secret_is_not_pickled_and_so_not_copied_into_files(protocol: int) -> None:
    with pytest.raises(TypeError, match="not pickled") as caught:
        pickle.dumps(Settings(Secret(KEY)), protocol)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("copy_of", [copy.copy, copy.deepcopy])
def test_a_secret_is_not_copied(copy_of: object) -> None:
    assert callable(copy_of)
    with pytest.raises(TypeError, match="not pickled"):
        copy_of(Secret(KEY))


def test_secrets_are_compared_by_their_text_and_with_secrets_only() -> None:
    assert Secret(KEY) == Secret(KEY)
    assert Secret(KEY) != Secret("another")
    assert Secret(KEY) != KEY
    assert Secret("größe") == Secret("größe")
    assert len({Secret(KEY), Secret(KEY), Secret("another")}) == 2
    assert hash(Secret(KEY)) != hash(KEY)


def test_a_masked_header_is_sent_as_it_is_and_shown_as_a_mask() -> None:
    header = MaskedHeader(f"Bearer {KEY}")
    assert header == f"Bearer {KEY}"
    assert header.encode() == f"Bearer {KEY}".encode()
    assert repr({"Authorization": header}) == f"{{'Authorization': '{MASK}'}}"
