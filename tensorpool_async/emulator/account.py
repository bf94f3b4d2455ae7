"""The account: its user, organization, preferences, SSH keys, and balance."""

from typing import Any

import attrs

from tensorpool_async.emulator.exchange import Exchange
from tensorpool_async.emulator.limits import MAX_KEYS, MAX_PUBLIC_KEY, clip
from tensorpool_async.emulator.responses import (
    Reply,
    card,
    conflict,
    invalid,
    not_found,
    table,
    too_many,
)
from tensorpool_async.emulator.world import Clock, World


EMAIL = "ada@example.com"
MIN_RELOAD = 20.0


class Billing:
    """The balance of the account, charged by the emulated hour.

    The balance is worked out when it is read, or when what is charged changes.
    """

    def __init__(self, balance: float, clock: Clock) -> None:
        self._balance = balance
        self._clock = clock
        self._settled = 0.0
        self._rates: dict[str, float] = {}
        self._rate = 0.0

    @property
    def balance(self) -> float:
        """US dollars, now."""
        return self._balance - self._rate * self._clock.hours(self._settled, self._clock.now())

    @balance.setter
    def balance(self, dollars: float) -> None:
        self._balance = dollars
        self._settled = self._clock.now()

    @property
    def hourly_rate(self) -> float:
        """US dollars per hour that are being spent."""
        return self._rate

    def covers_a_day(self, hourly_rate: float) -> bool:
        return self.balance >= 24 * hourly_rate

    def charge(self, what: str, hourly_rate: float) -> None:
        """Charge for this from now on, at this rate instead of an earlier one."""
        self.stop(what)
        self._rates[what] = hourly_rate
        self._rate += hourly_rate

    def stop(self, what: str) -> None:
        self.balance = self.balance
        self._rate -= self._rates.pop(what, 0.0)
        if not self._rates:
            self._rate = 0.0


@attrs.define
class Preferences:
    """Thresholds are US dollars; None is no threshold."""

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


class AccountState:
    """The one user of the emulator."""

    def __init__(self, world: World, billing: Billing) -> None:
        self._rng = world.rng("account")
        self.uid: str = f"u-{self._rng.getrandbits(48):012x}"
        self.organization: str | None = world.organization
        self.org_id: str = f"o-{self._rng.getrandbits(48):012x}"
        self.payment_method: bool = world.payment_method
        self.preferences: Preferences = Preferences()
        self.keys: dict[str, SavedKey] = {}
        self.billing = billing

    def update(self, changes: dict[str, Any]) -> None:
        """Raises Refusal when the preferences would contradict each other."""
        wanted = attrs.evolve(self.preferences, **changes)
        _check(wanted)
        if wanted.autopay_enabled and not self.payment_method:
            raise conflict("Autopay needs a saved payment method")
        self.preferences = wanted

    def save_key(self, public_key: str, name: str | None) -> SavedKey:
        """Raises Refusal when it is no OpenSSH public key, or is saved already."""
        if not _is_public_key(public_key):
            text = "Value error, not an OpenSSH public key"
            raise invalid(["body", "public_key"], text, "value_error")
        if self._has_key(public_key):
            raise conflict("This SSH key is saved already")
        if len(self.keys) >= MAX_KEYS:
            raise too_many("SSH keys", MAX_KEYS)
        key = SavedKey(f"k-{self._rng.getrandbits(48):012x}", name or EMAIL, public_key.strip())
        self.keys[key.id] = key
        return key

    def keep_keys(self, public_keys: tuple[str, ...]) -> None:
        """Save the keys that came with a cluster, as far as they are new and sound and there is room."""
        for public_key in public_keys:
            if len(self.keys) < MAX_KEYS and _is_public_key(public_key) and not self._has_key(public_key):
                self.save_key(public_key, None)

    def _has_key(self, public_key: str) -> bool:
        return any(key.public_key == public_key.strip() for key in self.keys.values())


def _check(wanted: Preferences) -> None:
    warning, reload = wanted.balance_warning_threshold, wanted.autopay_reload_threshold
    # Python's JSON reads NaN, which is neither above nor below anything.
    if warning is not None and not warning > 0:
        raise invalid(["body", "balance_warning_threshold"], "Input should be greater than 0", "greater_than")
    field = ["body", "autopay_reload_threshold"]
    if reload is not None and not reload >= MIN_RELOAD:
        raise invalid(field, f"Input should be greater than or equal to {MIN_RELOAD:g}", "greater_than_equal")
    if reload is not None and warning is not None and not reload < warning:
        raise invalid(field, "Value error, must be below the balance warning threshold", "value_error")
    if wanted.autopay_enabled and reload is None:
        raise invalid(field, "Value error, autopay needs a reload threshold", "value_error")


def _is_public_key(text: str) -> bool:
    kind, _, rest = text.strip().partition(" ")
    return kind.startswith(("ssh-", "ecdsa-", "sk-")) and bool(rest) and "\n" not in text.strip()


@attrs.frozen
class AccountEndpoints:
    """The endpoints under /user, and /me."""

    account: AccountState

    def user(self, _exchange: Exchange) -> Reply:
        account = self.account
        balance = round(account.billing.balance, 2)
        facts = {
            "email": EMAIL,
            "uid": account.uid,
            "organization": account.organization,
            "balance": f"${balance:.2f}",
            "SSH keys": len(account.keys),
        }
        body = {"uid": account.uid, "email": EMAIL, "org_name": account.organization, "balance": balance}
        return Reply(200, {"message": card("Account", facts), **body})

    def preferences(self, _exchange: Exchange) -> Reply:
        return Reply(200, attrs.asdict(self.account.preferences))

    def update_preferences(self, exchange: Exchange) -> Reply:
        fields = exchange.fields()
        flags = ("notify_email_cluster_create", "notify_email_cluster_destroy", "autopay_enabled")
        thresholds = ("balance_warning_threshold", "autopay_reload_threshold")
        wanted = {name: fields.flag(name) for name in flags} | {
            name: fields.number(name) for name in thresholds
        }
        fields.check()
        self.account.update({name: value for name, value in wanted.items() if value is not None})
        return self.preferences(exchange)

    def organization(self, _exchange: Exchange) -> Reply:
        account = self.account
        if account.organization is None:
            raise not_found("Organization")
        members = [
            {"uid": account.uid, "email": EMAIL},
            {"uid": "u-000000000001", "email": "grace@example.com"},
        ]
        balance = round(account.billing.balance, 2)
        return Reply(200, {"org_name": account.organization, "members": members, "balance": balance})

    def add_key(self, exchange: Exchange) -> Reply:
        fields = exchange.fields()
        public_key = fields.text("public_key", required=True, limit=MAX_PUBLIC_KEY)
        name = fields.text("name")
        fields.check()
        key = self.account.save_key(public_key or "", name)
        return Reply(200, {"key_id": key.id, "message": f"SSH key {key.name} ({key.id}) was saved"})

    def keys(self, exchange: Exchange) -> Reply:
        # The keys of a member belong to the organization too.
        hidden = exchange.flag("include_org") and self.account.organization is None
        keys = [] if hidden else list(self.account.keys.values())
        message = table(
            "SSH keys",
            ["ID", "NAME", "PUBLIC KEY"],
            ((key.id, key.name, clip(key.public_key, 43)) for key in keys),
            empty="No SSH keys found",
        )
        return Reply(200, {"message": message, "keys": [key.as_json() for key in keys]})

    def remove_key(self, exchange: Exchange) -> Reply:
        key = self.account.keys.pop(exchange.argument, None)
        if key is None:
            raise not_found(f"SSH key {exchange.argument}")
        return Reply(200, {"message": f"SSH key {key.name} ({key.id}) was removed"})
