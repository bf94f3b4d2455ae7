"""OpenSSH public keys: found in files, checked, and told from private ones, whose text is never shown."""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path


_TYPE = re.compile(
    r"(?:ssh-(?:ed25519|rsa|dss)|ecdsa-sha2-nistp(?:256|384|521)"
    r"|sk-(?:ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com)"
    r"(?:-cert-v01@openssh\.com)?"
)
_PRIVATE = re.compile(r"PRIVATE KEY|PuTTY-User-Key-File")
_MOST_BYTES = 64 * 1024
_LONGEST_PATH = 1024


def check_public_key(text: str) -> None:
    """Check that a text is one OpenSSH public key.

    Raises:
        ValueError: It is not. The message is for a person, and does not show the text.
    """
    if _PRIVATE.search(text):
        raise ValueError("this is a private key; a public one belongs here (its file ends in .pub)")
    words = text.split(maxsplit=2)
    if len(text.strip().splitlines()) != 1 or len(words) < 2 or not _is_key(words[0], words[1]):
        raise ValueError("this is no OpenSSH public key, which is one line such as 'ssh-ed25519 AAAA… name'")


def _is_key(kind: str, encoded: str) -> bool:
    try:
        blob = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return False
    # The blob begins with the name of its own type, after its length.
    size = int.from_bytes(blob[:4], "big")
    return bool(_TYPE.fullmatch(kind)) and blob[4 : 4 + size] == kind.encode() and len(blob) > 4 + size


def read_public_key(entry: str, folder: Path) -> str:
    """Return the key that an entry of `public_keys` means: the key itself, or a path to its file.

    Args:
        entry: The key, or the path of a file that holds it; `~` is the home folder.
        folder: What a relative path is relative to.

    Raises:
        ValueError: The file cannot be read, or what is there is no public key. The message does not show it.
    """
    words = entry.split(maxsplit=1)
    if len(words) == 2 and _TYPE.fullmatch(words[0]):
        check_public_key(entry)
        return entry.strip()
    if _PRIVATE.search(entry) or "\n" in entry.strip() or len(entry) > _LONGEST_PATH:
        check_public_key(entry)
    return _read_file(entry, folder)


def _read_file(entry: str, folder: Path) -> str:
    try:
        text = _text_of(folder / Path(entry).expanduser())
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise ValueError(f"the public key file {entry!r} cannot be read: {reason or error}") from None
    except ValueError as error:
        raise ValueError(f"the public key file {entry!r} cannot be read: {error}") from None
    try:
        check_public_key(text)
    except ValueError as error:
        raise ValueError(f"the public key file {entry!r} will not do: {error}") from None
    return text.strip()


def _text_of(path: Path) -> str:
    if path.exists() and not path.is_file():
        raise ValueError("it is no regular file")
    with path.open("rb") as file:
        data = file.read(_MOST_BYTES)
    # What is no text is no key either, and gets that message.
    return data.decode(errors="replace")
