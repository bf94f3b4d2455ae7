"""`tp.ssh`: the keys that go on new clusters, and the command to log in (design, section 5)."""

from __future__ import annotations

import platform
from typing import Any

import pytest

from tensorpool_async import (
    AmbiguousOutcomeError,
    CommandRefused,
    ConflictError,
    DecodeError,
    NotFound,
    TensorPool,
    ValidationError,
)
from tensorpool_async.emulator import Emulator, Fault, FaultKind
from tensorpool_async.models import Instance, SSHKey
from tests.support.scripted import ScriptedEngine


KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKeys ada@laptop"
OTHER = "ssh-rsa AAAAB3NzaC1yc2EAAAADOther"
PRIVATE_KEYS = [
    "-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n-----END OPENSSH PRIVATE KEY-----\n",
    "-----BEGIN RSA PRIVATE KEY-----\nc2VjcmV0\n-----END RSA PRIVATE KEY-----\n",
    "-----BEGIN ENCRYPTED PRIVATE KEY-----\nc2VjcmV0\n-----END ENCRYPTED PRIVATE KEY-----\n",
    "PuTTY-User-Key-File-3: ssh-ed25519\nPrivate-Lines: 1\nc2VjcmV0\n",
]


# Keys


async def test_keys_come_and_go(tp: TensorPool, emulator: Emulator) -> None:
    keys = tp.ssh.keys
    assert await keys.list() == []
    key = await keys.add(f"  {KEY}\n", "laptop")
    assert (key.name, key.public_key) == ("laptop", KEY)
    other = await keys.add(OTHER)
    assert [(one.id, one.name) for one in await keys.list()] == [
        (key.id, "laptop"),
        (other.id, "ada@example.com"),
    ]
    assert [one.id for one in await keys.list(organization=True)] == [key.id, other.id]
    with pytest.raises(ConflictError, match="saved already"):
        await keys.add(KEY)
    assert await keys.remove(key) is None
    assert await keys.remove(other.id) is None
    with pytest.raises(NotFound, match=key.id):
        await keys.remove(key)
    assert emulator.ssh_keys == {}


async def test_keys_land_on_new_clusters(tp: TensorPool, emulator: Emulator) -> None:
    before = await tp.clusters.create("1xH100").result()
    key = await tp.ssh.keys.add(KEY)
    with_saved = await tp.clusters.create("1xH100").result()
    with_both = await tp.clusters.create("1xH100", public_keys=[f"{OTHER}\n"], save_keys=False).result()
    await tp.ssh.keys.remove(key)
    after = await tp.clusters.create("1xH100").result()
    landed = [
        set(emulator.clusters[cluster.id].public_keys) for cluster in (before, with_saved, with_both, after)
    ]
    assert landed == [set(), {KEY}, {KEY, OTHER}, set()]


async def test_keys_of_a_cluster_are_saved_unless_they_are_not_to_be(tp: TensorPool) -> None:
    await tp.clusters.create("1xH100", public_keys=[OTHER], save_keys=False).result()
    assert await tp.ssh.keys.list() == []
    await tp.clusters.create("1xH100", public_keys=[KEY]).result()
    assert [one.public_key for one in await tp.ssh.keys.list()] == [KEY]


@pytest.mark.parametrize("private", PRIVATE_KEYS)
async def test_a_private_key_is_never_sent(private: str, tp: TensorPool, emulator: Emulator) -> None:
    with pytest.raises(ValueError, match="private key") as caught:
        await tp.ssh.keys.add(private)
    assert "c2VjcmV0" not in str(caught.value)
    with pytest.raises(ValueError, match="private key") as caught:
        tp.clusters.create("1xH100", public_keys=[KEY, private])
    assert "c2VjcmV0" not in str(caught.value)
    assert emulator.record.requests == 0


@pytest.mark.parametrize("empty", ["", " \n"])
async def test_an_empty_key_is_not_sent(empty: str, tp: TensorPool, emulator: Emulator) -> None:
    with pytest.raises(ValueError, match="empty"):
        await tp.ssh.keys.add(empty)
    with pytest.raises(ValueError, match="empty"):
        tp.clusters.create("1xH100", public_keys=[empty])
    assert emulator.record.requests == 0


async def test_what_is_no_key_is_refused_by_the_engine(tp: TensorPool) -> None:
    with pytest.raises(ValidationError, match="public_key"):
        await tp.ssh.keys.add("my key")


async def test_a_key_whose_answer_was_lost_is_sent_once(tp: TensorPool, emulator: Emulator) -> None:
    emulator.faults.add(Fault(FaultKind.DROP_AFTER))
    with pytest.raises(AmbiguousOutcomeError, match="laptop") as caught:
        await tp.ssh.keys.add(KEY, "laptop")
    assert caught.value.name == "laptop"
    assert [one.name for one in await tp.ssh.keys.list()] == ["laptop"]


async def test_a_removal_whose_answer_was_lost_has_succeeded(tp: TensorPool, emulator: Emulator) -> None:
    key = await tp.ssh.keys.add(KEY)
    emulator.faults.add(Fault(FaultKind.DROP_AFTER))
    assert await tp.ssh.keys.remove(key) is None
    assert emulator.ssh_keys == {}


@pytest.mark.parametrize(
    ("item", "key"),
    [
        ({"id": "k-1", "name": None, "public_key": KEY}, SSHKey("k-1", None, KEY)),
        ({"key_id": "k-1", "fingerprint": "SHA256:x"}, SSHKey("k-1", extra={"fingerprint": "SHA256:x"})),
    ],
)
async def test_keys_are_read_as_they_are_reported(
    item: dict[str, Any], key: SSHKey, odd_tp: TensorPool, scripted: ScriptedEngine
) -> None:
    scripted.answer("GET /user/ssh-key/list", {"message": "a table", "keys": [item]})
    assert await odd_tp.ssh.keys.list() == [key]
    assert scripted.seen[-1].query == {"include_org": "false"}


@pytest.mark.parametrize("answer", [{"message": "saved"}, {"key_id": None}, {"key_id": 5}, []])
async def test_a_saved_key_without_its_id_may_be_there(
    answer: Any, odd_tp: TensorPool, scripted: ScriptedEngine
) -> None:
    scripted.answer("POST /user/ssh-key/add", answer)
    with pytest.raises(AmbiguousOutcomeError, match="key_id"):
        await odd_tp.ssh.keys.add(KEY)
    assert scripted.count("POST /user/ssh-key/add") == 1


@pytest.mark.parametrize("bad", ["", ".", ".."])
async def test_an_id_that_is_no_part_of_a_path_is_refused(
    bad: str, tp: TensorPool, emulator: Emulator
) -> None:
    with pytest.raises(ValueError, match="path"):
        await tp.ssh.keys.remove(bad)
    with pytest.raises(ValueError, match="path"):
        await tp.ssh.command(bad)
    assert emulator.record.requests == 0


# The command to log in


async def test_the_command_is_a_list(tp: TensorPool) -> None:
    cluster = await tp.clusters.create("8xB200", num_nodes=2).result()
    jumphost, worker, _ = cluster.instances
    command = await tp.ssh.command(jumphost)
    assert command == ["ssh", f"ubuntu@{jumphost.ip_address}"]
    assert await tp.ssh.command(jumphost.id or "") == command
    assert await tp.ssh.command(worker) == [
        "ssh",
        "-J",
        f"ubuntu@{jumphost.ip_address}",
        f"ubuntu@{worker.private_ip_address}",
    ]


async def test_an_instance_that_is_not_there_has_none(tp: TensorPool) -> None:
    with pytest.raises(NotFound, match="i-none"):
        await tp.ssh.command("i-none")
    with pytest.raises(ValueError, match="path"):
        await tp.ssh.command(Instance())


async def test_an_instance_that_does_not_run_has_none(tp: TensorPool, emulator: Emulator) -> None:
    op = await tp.clusters.create("1xH100")
    ((instance,),) = (cluster.instances for cluster in emulator.clusters.values())
    with pytest.raises(ConflictError, match="not RUNNING"):
        await tp.ssh.command(instance.id)
    await op


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("ssh ubuntu@203.0.113.7", ["ssh", "ubuntu@203.0.113.7"]),
        ("  ssh  -p 22 host ", ["ssh", "-p", "22", "host"]),
        ("ssh -i '~/my keys/id' host", ["ssh", "-i", "~/my keys/id", "host"]),
        ("ssh -o StrictHostKeyChecking=no host", ["ssh", "-o", "StrictHostKeyChecking=no", "host"]),
    ],
)
async def test_a_command_is_split_as_a_shell_would(
    text: str, command: list[str], odd_tp: TensorPool, scripted: ScriptedEngine
) -> None:
    scripted.answer("GET /ssh/i-1", {"command": text, "message": "Connecting"})
    assert await odd_tp.ssh.command("i-1") == command
    assert scripted.seen[-1].query == {"system": platform.system()}


HOSTILE = [
    "bash -c 'ssh host'",
    "/bin/sh -c ssh",
    "sudo ssh host",
    "./ssh host",
    "/tmp/ssh host",
    "sshpass -p x ssh host",
    "rm -rf ~",
    "ssh host; rm -rf ~",
    "ssh host;rm -rf ~",
    "ssh host && rm -rf ~",
    "ssh host | sh",
    "ssh host > ~/.bashrc",
    "ssh $(reboot) host",
    "ssh `reboot` host",
    "ssh host\nrm -rf ~",
    "ssh host\x00rm",
    "ssh \x1b]0;title\x07host",
    "ssh 'host",
    " ",
    "''",
]


@pytest.mark.parametrize("text", HOSTILE)
async def test_a_hostile_command_is_refused(text: str, odd_tp: TensorPool, scripted: ScriptedEngine) -> None:
    scripted.answer("GET /ssh/i-1", {"command": text})
    with pytest.raises(CommandRefused) as caught:
        await odd_tp.ssh.command("i-1")
    assert str(caught.value).isprintable(), "nothing of it reaches a terminal as it is"


@pytest.mark.parametrize("answer", [{}, {"command": None}, {"command": ""}, {"command": ["ssh", "host"]}, []])
async def test_an_answer_without_a_command_is_a_decode_error(
    answer: Any, odd_tp: TensorPool, scripted: ScriptedEngine
) -> None:
    scripted.answer("GET /ssh/i-1", answer)
    with pytest.raises(DecodeError, match="command"):
        await odd_tp.ssh.command("i-1")
