from __future__ import annotations

import base64
from pathlib import Path

import pytest

from tensorpool_async.fleet.file import read_public_key
from tensorpool_async.fleet.spec import check_public_key


PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIj ada@example"
OTHER_PUBLIC_KEY = (
    "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyAhIiM="
)
# Not a real key.
SECRET_PART = "b3BlbnNzaC1rZXktdjEAAAAA"
PRIVATE_KEY = f"-----BEGIN OPENSSH PRIVATE KEY-----\n{SECRET_PART}\n-----END OPENSSH PRIVATE KEY-----\n"


@pytest.mark.parametrize("key", [PUBLIC_KEY, OTHER_PUBLIC_KEY, f"  {PUBLIC_KEY}\n"])
def test_a_public_key_is_accepted(key: str, tmp_path: Path) -> None:
    check_public_key(key)
    assert read_public_key(key, tmp_path) == key.strip()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "ssh-ed25519",
        "ssh-ed25519 not!base64",
        "ssh-ed25519 " + base64.b64encode(b"short").decode(),
        PUBLIC_KEY.replace("ssh-ed25519", "ssh-rsa", 1),
        f"{PUBLIC_KEY}\n{OTHER_PUBLIC_KEY}",
        f"no-pty {PUBLIC_KEY}",
    ],
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        check_public_key(text)
    assert "OpenSSH public key" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [PRIVATE_KEY, f"PuTTY-User-Key-File-3: ssh-ed25519\n{SECRET_PART}", PRIVATE_KEY.replace("\n", " ")],
)
def test_a_private_key_is_refused_and_not_shown(text: str, tmp_path: Path) -> None:
    file = tmp_path / "id_ed25519"
    file.write_text(text)
    for entry in (text, str(file)):
        with pytest.raises(ValueError) as caught:
            read_public_key(entry, tmp_path)
        assert "private key" in str(caught.value)
        assert SECRET_PART not in str(caught.value)
        assert caught.value.__cause__ is None


def test_the_body_of_a_private_key_is_not_shown_either(tmp_path: Path) -> None:
    for entry in (f"{SECRET_PART}\n{SECRET_PART}", SECRET_PART * 100):
        with pytest.raises(ValueError) as caught:
            read_public_key(entry, tmp_path)
        assert SECRET_PART not in str(caught.value)


def test_a_path_is_read_relative_to_the_folder(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "mine.pub").write_text(f"{PUBLIC_KEY}\n")
    assert read_public_key("keys/mine.pub", tmp_path) == PUBLIC_KEY


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.pub").write_text(PUBLIC_KEY)
    assert read_public_key("~/mine.pub", tmp_path / "elsewhere") == PUBLIC_KEY


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("missing.pub", "No such file"),
        (".", "not a regular file"),
        ("~nobody-of-this-name/id.pub", "home directory"),
        ("nul\0.pub", "null"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(entry: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught:
        read_public_key(entry, tmp_path)
    assert repr(entry) in str(caught.value)
    assert reason in str(caught.value)


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "noise.pub").write_bytes(bytes(range(256)) * 1000)
    with pytest.raises(ValueError) as caught:
        read_public_key("noise.pub", tmp_path)
    assert "OpenSSH public key" in str(caught.value)
