"""Whose key it is: the user, the organization, the preferences, the SSH keys."""

import random
from typing import Any

import attrs

from tensorpool_async.emulator.answers import conflict, invalid, not_found


EMAIL = "ada@example.com"
LEAST_RELOAD = 20.0


@attrs.define
class Preferences:
    """Thresholds are US dollars; None is none."""

    notify_email_cluster_create: bool = True
    notify_email_cluster_destroy: bool = True
    autopay_enabled: bool = False
    balance_warning_threshold: float | None = None
    autopay_reload_threshold: float | None = None


@attrs.frozen
class SavedKey:
    """An SSH key of the user."""

    id: str
    name: str
    public_key: str

    def as_json(self) -> dict[str, Any]:
        return attrs.asdict(self)


class Account:
    """The one user of the emulator.

    Args:
        organization: The name of the user's organization; None is a user without one.
        payment_method: Whether one is saved, which autopay needs.
        rng: Gives the ids.
    """

    def __init__(self, organization: str | None, *, payment_method: bool, rng: random.Random) -> None:
        self.uid: str = f"u-{rng.getrandbits(48):012x}"
        self.organization = organization
        self.org_id: str = f"o-{rng.getrandbits(48):012x}"
        self.payment_method = payment_method
        self.preferences: Preferences = Preferences()
        self.keys: dict[str, SavedKey] = {}
        self._rng = rng

    @property
    def members(self) -> list[dict[str, str]]:
        return [{"uid": self.uid, "email": EMAIL}, {"uid": "u-000000000001", "email": "grace@example.com"}]

    def update(self, changes: dict[str, Any]) -> None:
        """Raises Refusal when the preferences would contradict each other."""
        wanted = attrs.evolve(self.preferences, **changes)
        _check(wanted)
        if wanted.autopay_enabled and not self.payment_method:
            raise conflict("Autopay needs a saved payment method")
        self.preferences = wanted

    def save_key(self, public_key: str, name: str | None) -> SavedKey:
        """Raises Refusal when it is no OpenSSH public key, or there already."""
        if not _is_public_key(public_key):
            text = "Value error, not an OpenSSH public key"
            raise invalid(["body", "public_key"], text, "value_error")
        if self.has_key(public_key):
            raise conflict("This SSH key is saved already")
        key = SavedKey(f"k-{self._rng.getrandbits(48):012x}", name or EMAIL, public_key.strip())
        self.keys[key.id] = key
        return key

    def keep_keys(self, public_keys: tuple[str, ...]) -> None:
        """Save those that came with a cluster, as far as they are new and sound."""
        for public_key in public_keys:
            if _is_public_key(public_key) and not self.has_key(public_key):
                self.save_key(public_key, None)

    def has_key(self, public_key: str) -> bool:
        return any(key.public_key == public_key.strip() for key in self.keys.values())

    def remove_key(self, key_id: str) -> SavedKey:
        """Raises Refusal when there is none."""
        if key_id not in self.keys:
            raise not_found(f"SSH key {key_id}")
        return self.keys.pop(key_id)


def _check(wanted: Preferences) -> None:
    warning, reload = wanted.balance_warning_threshold, wanted.autopay_reload_threshold
    # NaN, which Python's JSON reads, is neither above nor below anything.
    if warning is not None and not warning > 0:
        raise invalid(["body", "balance_warning_threshold"], "Input should be greater than 0", "greater_than")
    field = ["body", "autopay_reload_threshold"]
    if reload is not None and not reload >= LEAST_RELOAD:
        raise invalid(
            field, f"Input should be greater than or equal to {LEAST_RELOAD:g}", "greater_than_equal"
        )
    if reload is not None and warning is not None and not reload < warning:
        raise invalid(field, "Value error, must be below the balance warning threshold", "value_error")
    if wanted.autopay_enabled and reload is None:
        raise invalid(field, "Value error, autopay needs a reload threshold", "value_error")


def _is_public_key(text: str) -> bool:
    kind, _, rest = text.strip().partition(" ")
    return kind.startswith(("ssh-", "ecdsa-", "sk-")) and bool(rest) and "\n" not in text.strip()
