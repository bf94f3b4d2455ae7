"""`tp.account`, `tp.health()` and `tp.alive()` (design, section 5)."""

from __future__ import annotations

import math
import platform
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest

from tensorpool_async import (
    AmbiguousOutcomeError,
    AuthenticationError,
    ConflictError,
    ConnectionFailed,
    DecodeError,
    NotFound,
    StatusError,
    TensorPool,
    ValidationError,
)
from tensorpool_async.emulator import Emulator, Fault, FaultKind
from tensorpool_async.models import Health, OrganizationMember, UserPreferences
from tensorpool_async.version import VERSION
from tests.support.scripted import ScriptedEngine, drop


# Who one is


async def test_the_user_is_a_text_and_what_else_there_is(tp: TensorPool, emulator: Emulator) -> None:
    emulator.balance = 42.5
    user = await tp.account.info()
    assert user.message.startswith("Account\n")
    assert user.extra["email"] == "ada@example.com"
    assert user.extra["balance"] == 42.5
    assert await tp.account.me() == user, "the older endpoint says the same"


async def test_the_organization_has_members_and_a_balance(tp: TensorPool, emulator: Emulator) -> None:
    emulator.balance = 99.0
    organization = await tp.account.organization()
    assert (organization.org_name, organization.balance) == ("Emulated Research", 99.0)
    assert all(isinstance(member, OrganizationMember) for member in organization.members)
    assert [member.email for member in organization.members] == ["ada@example.com", "grace@example.com"]


async def test_who_has_no_organization_is_told() -> None:
    async with Emulator(organization=None) as emulator, TensorPool(emulator.key, base_url=emulator.url) as tp:
        with pytest.raises(NotFound, match="Organization"):
            await tp.account.organization()


async def test_an_organization_without_its_balance_is_a_decode_error(
    odd_tp: TensorPool, scripted: ScriptedEngine
) -> None:
    scripted.answer("GET /user/organization/info", {"org_name": "Research", "members": []})
    with pytest.raises(DecodeError, match="balance"):
        await odd_tp.account.organization()


# Preferences


async def test_preferences_last(tp: TensorPool, emulator: Emulator) -> None:
    assert await tp.account.preferences() == UserPreferences(
        notify_email_cluster_create=True, notify_email_cluster_destroy=True, autopay_enabled=False
    )
    changed = await tp.account.update_preferences(
        notify_email_cluster_create=False,
        autopay_enabled=True,
        balance_warning_threshold=100,
        autopay_reload_threshold=20,
    )
    assert changed == UserPreferences(
        notify_email_cluster_create=False,
        notify_email_cluster_destroy=True,
        autopay_enabled=True,
        balance_warning_threshold=100,
        autopay_reload_threshold=20,
    )
    changed = await tp.account.update_preferences(balance_warning_threshold=50.5)
    async with TensorPool(emulator.key, base_url=emulator.url) as another:
        held = await another.account.preferences()
    assert held == changed == attrs.evolve(changed, balance_warning_threshold=50.5)
    assert (held.autopay_enabled, held.notify_email_cluster_create) == (True, False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "nothing to change"),
        ({"balance_warning_threshold": 0}, "above 0"),
        ({"balance_warning_threshold": -0.01}, "above 0"),
        ({"balance_warning_threshold": math.nan}, "above 0"),
        ({"balance_warning_threshold": math.inf}, "above 0"),
        ({"autopay_reload_threshold": 19.99}, "at least 20"),
        ({"autopay_reload_threshold": -20}, "at least 20"),
        ({"autopay_reload_threshold": math.nan}, "at least 20"),
        ({"autopay_reload_threshold": math.inf}, "at least 20"),
        ({"autopay_reload_threshold": 50, "balance_warning_threshold": 50}, "below"),
        ({"autopay_reload_threshold": 51, "balance_warning_threshold": 50}, "below"),
    ],
)
async def test_what_is_against_the_rules_is_not_sent(
    changes: dict[str, Any], message: str, tp: TensorPool, emulator: Emulator
) -> None:
    with pytest.raises(ValueError, match=message):
        await tp.account.update_preferences(**changes)
    assert emulator.record.requests == 0


async def test_what_depends_on_the_rest_is_left_to_the_engine(tp: TensorPool) -> None:
    await tp.account.update_preferences(balance_warning_threshold=30)
    with pytest.raises(ValidationError, match="below the balance warning"):
        await tp.account.update_preferences(autopay_reload_threshold=40)
    with pytest.raises(ValidationError, match="autopay needs a reload threshold"):
        await tp.account.update_preferences(autopay_enabled=True)
    held = await tp.account.preferences()
    assert (held.autopay_enabled, held.autopay_reload_threshold) == (False, None)


async def test_autopay_needs_something_to_pay_with() -> None:
    async with (
        Emulator(payment_method=False) as emulator,
        TensorPool(emulator.key, base_url=emulator.url) as tp,
    ):
        with pytest.raises(ConflictError, match="payment method"):
            await tp.account.update_preferences(autopay_enabled=True, autopay_reload_threshold=20)
        assert not (await tp.account.preferences()).autopay_enabled


async def test_only_what_was_given_is_sent(odd_tp: TensorPool, scripted: ScriptedEngine) -> None:
    answer = {
        "notify_email_cluster_create": False,
        "notify_email_cluster_destroy": True,
        "autopay_enabled": False,
        "balance_warning_threshold": None,
        "theme": "dark",
    }
    scripted.answer("PATCH /user/preferences", answer)
    changed = await odd_tp.account.update_preferences(notify_email_cluster_create=False)
    assert scripted.seen[-1].body == {"notify_email_cluster_create": False}
    assert (changed.balance_warning_threshold, changed.autopay_reload_threshold) == (None, None)
    assert changed.extra == {"theme": "dark"}


async def test_a_change_whose_answer_was_lost_is_made_once(tp: TensorPool, emulator: Emulator) -> None:
    emulator.faults.add(Fault(FaultKind.DROP_AFTER))
    with pytest.raises(AmbiguousOutcomeError):
        await tp.account.update_preferences(balance_warning_threshold=77)
    assert emulator.record.by_route["PATCH /user/preferences"] == 1
    assert (await tp.account.preferences()).balance_warning_threshold == 77


# Health


async def test_an_engine_that_is_well_says_so(tp: TensorPool) -> None:
    assert await tp.health() == Health()
    assert await tp.alive() == Health(extra={"status": "ok"})


async def test_the_engine_is_told_what_it_judges(odd_tp: TensorPool, scripted: ScriptedEngine) -> None:
    scripted.answer("POST /health", {"message": "Version 1 is out"})
    assert (await odd_tp.health()).message == "Version 1 is out"
    body = scripted.seen[-1].body
    assert body["package_version"] == VERSION
    assert body["uname"][:5] == list(platform.uname())[:5]
    assert [type(word) for word in body["uname"]] == [str] * 6
    assert body["python_version"] == platform.python_version()
    assert len(body["python_build"]) == 2


async def test_a_wrong_key_is_not_well_and_alive_all_the_same(emulator: Emulator) -> None:
    async with TensorPool("wrong", base_url=emulator.url) as tp:
        with pytest.raises(AuthenticationError, match="API key"):
            await tp.health()
        assert (await tp.alive()).extra == {"status": "ok"}


async def test_a_client_that_is_not_wanted_is_told_why(odd_tp: TensorPool, scripted: ScriptedEngine) -> None:
    scripted.answer("POST /health", {"message": "Please update your client"}, status=426)
    with pytest.raises(StatusError, match="Please update your client") as caught:
        await odd_tp.health()
    assert caught.value.status == 426


@pytest.mark.parametrize(
    ("answer", "health"),
    [
        ("", Health()),
        ([], Health()),
        ("null", Health()),
        ('"ok"', Health()),
        ({"message": "Good morning", "load": 0.5}, Health("Good morning", extra={"load": 0.5})),
    ],
)
async def test_alive_takes_any_answer(
    answer: Any, health: Health, odd_tp: TensorPool, scripted: ScriptedEngine
) -> None:
    scripted.answer("GET /healthz", answer)
    assert await odd_tp.alive() == health


async def test_an_engine_that_does_not_answer_is_not_alive(
    odd_tp: TensorPool, scripted: ScriptedEngine
) -> None:
    scripted.handle("GET /healthz", drop)
    with pytest.raises(ConnectionFailed):
        await odd_tp.alive()
    assert scripted.count("GET /healthz") > 1, "it is asked again before it is given up"


# All of them


READS: list[Callable[[TensorPool], Awaitable[Any]]] = [
    lambda tp: tp.account.info(),
    lambda tp: tp.account.me(),
    lambda tp: tp.account.organization(),
    lambda tp: tp.account.preferences(),
]


@pytest.mark.parametrize("read", READS, ids=["info", "me", "organization", "preferences"])
async def test_a_read_is_repeated_and_a_wrong_key_is_told(
    read: Callable[[TensorPool], Awaitable[Any]], tp: TensorPool, emulator: Emulator
) -> None:
    emulator.faults.add(Fault(FaultKind.HTML_502))
    assert await read(tp)
    assert emulator.record.requests == 2
    async with TensorPool("wrong", base_url=emulator.url) as stranger:
        with pytest.raises(AuthenticationError):
            await read(stranger)


@pytest.mark.parametrize(
    "answer", [[], "null", '"text"', {"org_name": 5, "autopay_enabled": "yes", "message": {}}]
)
async def test_what_cannot_be_read_is_a_decode_error(
    answer: Any, odd_tp: TensorPool, scripted: ScriptedEngine
) -> None:
    for path, read in (
        ("/user/organization/info", odd_tp.account.organization),
        ("/user/preferences", odd_tp.account.preferences),
    ):
        scripted.answer(f"GET {path}", answer)
        with pytest.raises(DecodeError):
            await read()


async def test_health_is_asked_again_since_it_changes_nothing(
    odd_tp: TensorPool, scripted: ScriptedEngine
) -> None:
    scripted.answer("POST /health", "down", status=502, times=2)
    scripted.answer("POST /health", {"message": "hello"})
    assert (await odd_tp.health()).message == "hello"
    assert scripted.count("POST /health") == 3


@pytest.mark.parametrize("body", ["OK", "", "<html>fine</html>", "[1]", '{"status": "ok"}'])
async def test_an_engine_that_is_alive_may_say_so_in_any_form(
    body: str, odd_tp: TensorPool, scripted: ScriptedEngine
) -> None:
    scripted.answer("GET /healthz", body)
    assert (await odd_tp.alive()).message is None
    assert scripted.count("GET /healthz") == 1
