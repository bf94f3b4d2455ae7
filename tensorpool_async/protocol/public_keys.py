"""Public keys, as far as a private one must never be sent in the place of one."""

from __future__ import annotations


MARKS_OF_PRIVATE_KEYS = ("PRIVATE KEY", "PuTTY-User-Key-File")


def checked_public_key(text: str) -> str:
    """Return a public key without the blanks around it. Whether it is a sound one is for the engine to say.

    Raises:
        ValueError: It is a private key, or empty; the message does not show it.
    """
    if any(mark in text for mark in MARKS_OF_PRIVATE_KEYS):
        raise ValueError("that is a private key: pass the public one, such as id_ed25519.pub")
    if not text.strip():
        raise ValueError("the public key is empty")
    return text.strip()
