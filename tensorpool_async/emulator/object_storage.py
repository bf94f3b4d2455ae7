"""The organization's object storage: credentials and buckets."""

import random
import re
import string
from typing import Any

import attrs

from tensorpool_async.emulator.account import Account
from tensorpool_async.emulator.answers import Answer, Refusal, conflict, invalid, not_found
from tensorpool_async.emulator.clock import Clock


REMOTE = "tp"
_BUCKET = re.compile(r"[a-z0-9](?:[a-z0-9]|[.-](?![.-])){1,61}[a-z0-9]")


@attrs.define
class Credentials:
    """What everyone in the organization uses."""

    access_key_id: str
    secret_access_key: str
    created_at: str
    updated_at: str


class ObjectStorage:
    """Keeps what the engine keeps. The objects themselves are on an S3 server, which is not part of it.

    `buckets` holds the keys and bytes of each bucket; put something in to make it not empty.
    """

    def __init__(
        self, account: Account, clock: Clock, endpoint: str, region: str, rng: random.Random
    ) -> None:
        self.credentials: Credentials | None = None
        self.buckets: dict[str, dict[str, bytes]] = {}
        self.endpoint = endpoint
        self.region = region
        self._account = account
        self._clock = clock
        self._rng = rng

    def enable(self) -> bool:
        """Whether it was off until now. Raises Refusal without an organization."""
        self._need_organization()
        if self.credentials is not None:
            return False
        now = self._clock.iso(self._clock.now())
        self.credentials = Credentials(*self._new_keys(), now, now)
        return True

    def disable(self) -> None:
        """Raises Refusal when it is off, or there are buckets."""
        self.enabled()
        if self.buckets:
            raise conflict("Delete all buckets before disabling object storage")
        self.credentials = None

    def rotate(self) -> None:
        """New keys; those that were are worthless at once. Raises Refusal when it is off."""
        credentials = self.enabled()
        credentials.access_key_id, credentials.secret_access_key = self._new_keys()
        credentials.updated_at = self._clock.iso(self._clock.now())

    def enabled(self) -> Credentials:
        """Raises Refusal when it is off."""
        self._need_organization()
        if self.credentials is None:
            raise not_found("Object storage is not enabled: credentials")
        return self.credentials

    def create_bucket(self, name: str) -> None:
        """Raises Refusal when the name is taken or none."""
        self.enabled()
        if not _BUCKET.fullmatch(name):
            text = "Value error, bucket names have 3 to 63 lower case letters, digits, dots and hyphens"
            raise invalid(["path", "bucket_name"], text, "value_error")
        if name in self.buckets:
            raise conflict(f"Bucket {name} exists already")
        self.buckets[name] = {}

    def delete_bucket(self, name: str) -> None:
        """Raises Refusal when there is none, or it is not empty."""
        self.enabled()
        if name not in self.buckets:
            raise not_found(f"Bucket {name}")
        if self.buckets[name]:
            raise conflict(f"Bucket {name} is not empty")
        del self.buckets[name]

    def as_json(self) -> dict[str, Any]:
        """Raises Refusal when it is off."""
        return {
            "org_id": self._account.org_id,
            **attrs.asdict(self.enabled()),
            "endpoint": self.endpoint,
            "region": self.region,
            "profile_id": REMOTE,
            "iam_username": f"org-{self._account.org_id}",
            "status": "active",
        }

    def _need_organization(self) -> None:
        if self._account.organization is None:
            raise Refusal(Answer(403, {"error": "Object storage needs an organization"}))

    def _new_keys(self) -> tuple[str, str]:
        letters = string.ascii_uppercase + string.digits
        secret = string.ascii_letters + string.digits
        return "TPOS" + "".join(self._rng.choices(letters, k=16)), "".join(self._rng.choices(secret, k=40))
