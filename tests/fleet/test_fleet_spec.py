from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from tensorpool_async.errors import ConfigurationError, FleetFileError
from tensorpool_async.fleet import ClusterGroup, Fleet, VolumeGroup
from tensorpool_async.fleet.spec import MAX_MEMBERS


PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIj ada@example"
# Not a real key.
SECRET_PART = "b3BlbnNzaC1rZXktdjEAAAAA"
PRIVATE_KEY = f"-----BEGIN OPENSSH PRIVATE KEY-----\n{SECRET_PART}\n-----END OPENSSH PRIVATE KEY-----\n"


TRAINER = ClusterGroup("trainer", ["8xB200", "8xH200"], count=2)
EVAL = ClusterGroup("eval", "1xH100")
NO_COSTS: tuple[Any, ...] = (0, -1, math.nan, math.inf, True, "400")


def test_members_are_named_after_fleet_group_and_index() -> None:
    fleet = Fleet("sweep", [TRAINER, EVAL])
    assert [member.name for member in fleet.members] == [
        "sweep-trainer-0",
        "sweep-trainer-1",
        "sweep-eval-0",
    ]
    assert [member.group for member in fleet.members] == [TRAINER, TRAINER, EVAL]


def test_one_instance_type_is_a_list_of_one() -> None:
    assert EVAL.instance_type == ("1xH100",)
    assert TRAINER.instance_type == ("8xB200", "8xH200")


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("sweep-trainer-0", TRAINER),
        ("sweep-trainer-7", TRAINER),
        ("sweep-trainer-10", TRAINER),
        ("sweep-eval-0", EVAL),
        ("sweep-trainer-", None),
        ("sweep-trainer", None),
        ("sweep-trainer-01", None),
        ("sweep-trainer--1", None),
        ("sweep-trainer-x-1", None),
        ("sweep-trainer-\u0661", None),
        ("sweep-other-0", None),
        ("xsweep-trainer-0", None),
        ("Sweep-trainer-0", None),
        ("sweep-trainer-0\n", None),
    ],
)
def test_which_names_belong_to_a_fleet(name: str, group: ClusterGroup | None) -> None:
    assert Fleet("sweep", [TRAINER, EVAL]).group_of(name) is group


@pytest.mark.parametrize(
    ("make", "key", "words"),
    [
        (lambda: ClusterGroup("", "1xH100"), "name", "letters, digits and hyphens"),
        (lambda: ClusterGroup("a b", "1xH100"), "name", "letters, digits and hyphens"),
        (lambda: ClusterGroup("-a", "1xH100"), "name", "hyphen"),
        (lambda: ClusterGroup("gr\u00f6\u00dfe", "1xH100"), "name", "letters"),
        (lambda: ClusterGroup(7, "1xH100"), "name", "string"),  # type: ignore[arg-type]
        (lambda: ClusterGroup("a", []), "instance_type", "empty"),
        (lambda: ClusterGroup("a", ""), "instance_type", "empty"),
        (lambda: ClusterGroup("a", ["1xH100", 5]), "instance_type", "instance type"),  # type: ignore[list-item]
        (lambda: ClusterGroup("a", 5), "instance_type", "instance type"),  # type: ignore[arg-type]
        (lambda: ClusterGroup("a", ["1xH100", "1xH100"]), "instance_type", "twice"),
        (lambda: ClusterGroup("a", "1xH100", count=0), "count", "above 0"),
        (lambda: ClusterGroup("a", "1xH100", count=-1), "count", "above 0"),
        (lambda: ClusterGroup("a", "1xH100", count=True), "count", "whole number"),
        (lambda: ClusterGroup("a", "1xH100", count=2.0), "count", "whole number"),  # type: ignore[arg-type]
        (lambda: ClusterGroup("a", "1xH100", num_nodes=0), "num_nodes", "above 0"),
        (lambda: ClusterGroup("a", "1xH100", public_keys="key"), "public_keys", "list"),
        (lambda: ClusterGroup("a", "1xH100", public_keys=["key"]), "public_keys", "OpenSSH"),
        (lambda: ClusterGroup("a", "1xH100", container=" "), "container", "empty"),
        (lambda: ClusterGroup("a", "1xH100", deletion_protection=1), "deletion_protection", "true"),  # type: ignore[arg-type]
        (lambda: VolumeGroup("a", 0), "size_gb", "above 0"),
        (lambda: VolumeGroup("a", 5, attach_to="trainer"), "attach_to", "list"),
        (lambda: Fleet("sweep", []), "clusters", "at least one"),
        (lambda: Fleet("sweep", "trainer"), "clusters", "ClusterGroup"),  # type: ignore[arg-type]
        (lambda: Fleet("sweep", [TRAINER], [EVAL]), "volumes", "VolumeGroup"),  # type: ignore[list-item]
        (lambda: Fleet("sweep", [TRAINER, TRAINER]), "clusters.trainer", "used twice"),
        (lambda: Fleet("s", [EVAL, ClusterGroup("Eval", "1xH100")]), "clusters.Eval", "eval and Eval"),
        (lambda: Fleet("s", [EVAL], [VolumeGroup("eval-0", 5)]), "volumes.eval-0", "the name s-eval-0"),
        (lambda: Fleet("s", [EVAL], [VolumeGroup("d", 5, attach_to=["x"])]), "volumes.d.attach_to", "eval"),
        (
            lambda: Fleet("s", [EVAL, ClusterGroup("a", "1xH100", count=MAX_MEMBERS)]),
            "clusters.a.count",
            str(MAX_MEMBERS),
        ),
        *(
            (lambda cost=cost: Fleet("s", [EVAL], max_hourly_cost=cost), "max_hourly_cost", "above 0")
            for cost in NO_COSTS
        ),
    ],
)
def test_an_invalid_value_is_refused_with_its_key(make: Callable[[], object], key: str, words: str) -> None:
    with pytest.raises(FleetFileError) as caught:
        make()
    assert isinstance(caught.value, ConfigurationError)
    assert caught.value.key == key
    assert words in str(caught.value)


def test_a_private_key_is_not_shown() -> None:
    with pytest.raises(FleetFileError) as caught:
        ClusterGroup("a", "1xH100", public_keys=[PUBLIC_KEY, PRIVATE_KEY])
    assert "private key" in str(caught.value)
    assert SECRET_PART not in str(caught.value)
