"""Tokens: an operation as a text, and back; what is no token never raises anything but ConfigurationError."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tensorpool_async.errors import ConfigurationError
from tensorpool_async.models.enums import OperationKind
from tensorpool_async.protocol.operation import OperationMachine
from tensorpool_async.protocol.operation_specs import OPERATION_SPECS
from tensorpool_async.protocol.polling import PollPolicy
from tensorpool_async.protocol.tokens import UNSIGNED, OperationRef, Tokens, decode, encode


CLAIM = OperationKind.CLUSTER_CLAIM

ids = st.text(min_size=1, max_size=500).filter(lambda text: text not in {".", ".."})
kinds = st.sampled_from(OperationKind) | st.text(min_size=1).map(OperationKind)
values = st.none() | st.booleans() | st.integers() | st.text()
tickets = st.one_of(
    st.builds(OperationRef, st.none() | kinds, st.none() | ids, st.lists(ids, min_size=1).map(tuple)),
    st.builds(
        OperationRef,
        st.sampled_from(list(OPERATION_SPECS)),
        ids,
        expected=st.dictionaries(st.text(), values, min_size=1),
    ),
)


def token_of(fields: Any) -> str:
    return "tpa1." + base64.urlsafe_b64encode(json.dumps(fields).encode()).decode().rstrip("=")


def can_be_followed(ref: OperationRef) -> bool:
    return OperationMachine(ref, PollPolicy()).next_request().path.isascii()


@settings(deadline=None)
@given(tickets)
def test_a_token_gives_its_ticket_back(ref: OperationRef) -> None:
    token = encode(ref)
    assert token.isascii()
    assert token.isprintable()
    assert " " not in token
    assert decode(token) == ref
    assert decode(f"  {token}\n") == ref


def test_a_token_tells_its_version_and_stays_readable_for_later_versions() -> None:
    ref = OperationRef(OperationKind.CLUSTER_EDIT, "c-1", ("r-1",), {"name": "w0"})
    token = "tpa1.eyJrIjoiQ0xVU1RFUl9FRElUIiwibyI6ImMtMSIsInIiOlsici0xIl0sIngiOnsibmFtZSI6IncwIn19"
    assert encode(ref) == token
    assert decode(token) == ref


@pytest.mark.parametrize(
    "text", ["r-1", " r-1\n", "req_5f", "tpa", "tpax", "tpa1x.y", "TPA1.x", "a b", "..."]
)
def test_a_bare_request_id_is_taken_as_it_is(text: str) -> None:
    assert decode(text) == OperationRef(kind=None, request_ids=(text.strip(),))


@pytest.mark.parametrize("text", ["", "  ", "\n", "größe", "r-1\x00", "r\n1", "r\x7f", ".", ".."])
def test_what_is_neither_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="neither a token nor a request id"):
        decode(text)


@pytest.mark.parametrize("text", ["tpa3.e30", "tpa3", "tpa10.x", "tpa0."])
def test_another_version_is_named(text: str) -> None:
    with pytest.raises(
        ConfigurationError, match=rf"of version '{text.partition('.')[0]}'.* reads 'tpa1' and 'tpa2'"
    ):
        decode(text)


@pytest.mark.parametrize(
    "token",
    [
        "tpa1",
        "tpa1.",
        "tpa1.e",
        "tpa1.e30",
        "tpa1.!!!!",
        "tpa1._w",
        "tpa1." + base64.urlsafe_b64encode(b"[" * 100_000).decode(),
        token_of([]),
        token_of("r-1"),
        token_of({"k": "CLUSTER_CLAIM"}),
        token_of({"o": "c-1"}),
        token_of({"k": "CLUSTER_CLAIM", "o": ""}),
        token_of({"k": "CLUSTER_EDIT", "o": "c-1"}),
        token_of({"k": "CLUSTER_CLAIM", "o": ".."}),
        token_of({"k": "CLUSTER_CLAIM", "o": 5}),
        token_of({"k": 5, "o": "c-1"}),
        token_of({"k": ["CLUSTER_CLAIM"], "o": "c-1"}),
        token_of({"r": "r-1"}),
        token_of({"r": [None]}),
        token_of({"r": [{"a": 1}]}),
        token_of({"r": [""]}),
        token_of({"r": ["r-1", ".."]}),
        token_of({"r": ["\ud800"]}),
        token_of({"r": ["r-1"], "x": []}),
        token_of({"r": ["r" * 513]}),
        token_of({"r": [f"r-{number}" for number in range(1001)]}),
        token_of({"r": ["r-1"], "x": {"a": "a" * 60_000}}),
        "tpa2",
        "tpa2.",
        token_of({"r": ["r-1"]}).replace("tpa1", "tpa2"),
        token_of({"r": ["r-1"]}).replace("tpa1", "tpa2") + ".",
        "tpa2..c2ln",
    ],
)
def test_a_damaged_token_says_so(token: str) -> None:
    with pytest.raises(ConfigurationError, match="damaged"):
        decode(token)


def test_a_token_of_which_nothing_can_be_asked_is_refused() -> None:
    later_kind = OperationKind("REGION_CLAIM")
    with pytest.raises(ConfigurationError, match="cannot follow: REGION_CLAIM"):
        decode(encode(OperationRef(later_kind, "x-1")))
    assert decode(encode(OperationRef(later_kind, "x-1", ("r-1",)))).kind == later_kind


def test_a_token_ignores_what_a_later_version_added() -> None:
    assert decode(token_of({"k": "CLUSTER_CLAIM", "o": "c-1", "new": 1})) == OperationRef(CLAIM, "c-1")


@given(text=st.text() | st.binary().map(lambda junk: "tpa1." + base64.urlsafe_b64encode(junk).decode()))
def test_no_text_raises_anything_else(text: str) -> None:
    try:
        ref = decode(text)
    except ConfigurationError:
        return
    assert can_be_followed(ref)


json_values = st.recursive(
    values | st.floats(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


@settings(deadline=None)
@given(
    fields=st.dictionaries(
        st.sampled_from("korxz"), json_values | st.sampled_from(["CLUSTER_CLAIM", ["r-1"]])
    )
)
def test_no_fields_raise_anything_else(fields: dict[str, Any]) -> None:
    try:
        ref = decode(token_of(fields))
    except ConfigurationError:
        return
    assert can_be_followed(ref)


@settings(deadline=None)
@given(ref=tickets, data=st.data())
@example(ref=OperationRef(CLAIM, "c-1", ("r-1",)), data=None)
def test_a_token_that_is_cut_or_changed_is_refused_or_can_still_be_followed(
    ref: OperationRef, data: st.DataObject | None
) -> None:
    token = encode(ref)
    cut = range(len(token)) if data is None else [data.draw(st.integers(0, len(token) - 1), label="cut at")]
    letter = "x" if data is None else data.draw(st.characters(codec="ascii"), label="letter")
    for at in cut:
        for damaged in (token[:at], token[:at] + letter + token[at + 1 :]):
            try:
                read = decode(damaged)
            except ConfigurationError:
                continue
            assert can_be_followed(read)


OLD, NEW = b"the old secret", b"the new secret"
EDIT = OperationRef(OperationKind.CLUSTER_EDIT, "c-1", ("r-1",), {"name": "w0"})
SIGNED = Tokens([NEW, OLD])


def test_a_signed_token_stays_readable_for_later_versions() -> None:
    token = (
        "tpa2.eyJrIjoiQ0xVU1RFUl9FRElUIiwibyI6ImMtMSIsInIiOlsici0xIl0sIngiOnsibmFtZSI6IncwIn19."
        "6_aYsajH_fOE80eij29rUqXaxSW0g-AzmXSu-OJKEcM"
    )
    assert Tokens([b"a secret"]).encode(EDIT) == token
    assert Tokens([b"a secret"]).decode(token) == EDIT


@settings(deadline=None)
@given(tickets)
def test_a_signed_token_gives_its_ticket_back(ref: OperationRef) -> None:
    token = SIGNED.encode(ref)
    assert token.isascii()
    assert ":" not in token, "which separates a token from the rest of an event's id"
    assert SIGNED.decode(f" {token}\n", signed=True) == ref
    assert UNSIGNED.decode(token) == ref, "who has no secret does not look at the signature"


def test_secrets_are_changed_in_two_steps() -> None:
    old = Tokens([OLD]).encode(EDIT)
    assert SIGNED.decode(old) == EDIT
    assert SIGNED.encode(EDIT) == Tokens([NEW]).encode(EDIT) != old
    with pytest.raises(ConfigurationError, match=r"token_secret=\[new, old\]"):
        Tokens([NEW]).decode(old)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (encode(EDIT), "not signed.*TensorPool.sign"),
        (Tokens([b"another"]).encode(EDIT), "signature is not that of this client"),
        (Tokens([b""]).encode(EDIT), "signature is not that of this client"),
        (SIGNED.encode(EDIT) + "A", "signature is not that of this client"),
        (SIGNED.encode(EDIT)[:-1], "signature is not that of this client"),
        (SIGNED.encode(EDIT) + "=", "signature is not that of this client"),
        (SIGNED.encode(EDIT).replace("tpa2", "tpa1"), "damaged"),
        (SIGNED.encode(EDIT).rpartition(".")[0] + ".", "damaged"),
        (SIGNED.encode(EDIT).rpartition(".")[0], "damaged"),
        ("tpa2." + SIGNED.encode(EDIT), "damaged"),
    ],
)
def test_a_token_that_this_client_has_not_signed_is_refused(text: str, problem: str) -> None:
    for signed in (True, False):
        with pytest.raises(ConfigurationError, match=problem):
            SIGNED.decode(text, signed=signed)


def test_a_bare_request_id_is_for_the_program_itself() -> None:
    assert SIGNED.decode("r-1") == OperationRef(None, request_ids=("r-1",))
    with pytest.raises(ConfigurationError, match="not signed"):
        SIGNED.decode("r-1", signed=True)
    with pytest.raises(ConfigurationError, match="token_secret="):
        UNSIGNED.decode("r-1", signed=True)


@settings(deadline=None)
@given(ref=tickets, data=st.data())
def test_no_change_of_a_signed_token_is_believed(ref: OperationRef, data: st.DataObject) -> None:
    token = SIGNED.encode(ref)
    at = data.draw(st.integers(0, len(token) - 1), label="changed at")
    letter = data.draw(st.characters(codec="ascii"), label="letter")
    for changed in (token[:at] + letter + token[at + 1 :], token[:at], token[:at] + letter + token[at:]):
        if changed.strip() != token:
            with pytest.raises(ConfigurationError):
                SIGNED.decode(changed, signed=True)


def test_the_secrets_are_not_shown() -> None:
    assert "secret" not in repr(SIGNED).replace("2 secrets", "")


@pytest.mark.parametrize("text", ["x" * 513, "x" * 70_000, "tpa1." + "x" * 70_000])
def test_what_is_too_long_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"too long|longer than"):
        decode(text)
