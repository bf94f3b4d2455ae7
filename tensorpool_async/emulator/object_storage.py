"""The organization's object storage: credentials, buckets, and the endpoints for them."""

import re
import string
from typing import Any

import attrs

from tensorpool_async.emulator.account import AccountState
from tensorpool_async.emulator.exchange import Exchange
from tensorpool_async.emulator.limits import MAX_BUCKETS
from tensorpool_async.emulator.responses import Refusal, Reply, conflict, invalid, not_found, too_many
from tensorpool_async.emulator.world import Clock, World


REMOTE = "tp"
_BUCKET = re.compile(r"[a-z0-9](?:[a-z0-9]|[.-](?![.-])){1,61}[a-z0-9]")


@attrs.define
class Credentials:
    """The one pair of keys of the organization."""

    access_key_id: str
    secret_access_key: str
    created_at: str
    updated_at: str


class BucketStore:
    """The credentials and the buckets. The objects themselves are on an S3 server outside of the emulator.

    `buckets` has the objects of each bucket. A bucket is not empty once a test puts an object in.
    """

    def __init__(self, world: World, clock: Clock, account: AccountState) -> None:
        self.credentials: Credentials | None = None
        self.buckets: dict[str, dict[str, bytes]] = {}
        self.endpoint: str = world.object_endpoint
        self.region: str = world.object_region
        self._account = account
        self._clock = clock
        self._rng = world.rng("objects")

    def enable(self) -> bool:
        """Switch it on, and say whether it was off. Raises Refusal without an organization."""
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
        """Make new keys. The old keys stop working at once. Raises Refusal when it is off."""
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
        """Raises Refusal when the name is taken or not valid, or there is no room."""
        self.enabled()
        if not _BUCKET.fullmatch(name):
            text = "Value error, bucket names have 3 to 63 lower case letters, digits, dots and hyphens"
            raise invalid(["path", "bucket_name"], text, "value_error")
        if name in self.buckets:
            raise conflict(f"Bucket {name} exists already")
        if len(self.buckets) >= MAX_BUCKETS:
            raise too_many("buckets", MAX_BUCKETS)
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
            raise Refusal(Reply(403, {"error": "Object storage needs an organization"}))

    def _new_keys(self) -> tuple[str, str]:
        letters = string.ascii_uppercase + string.digits
        secret = string.ascii_letters + string.digits
        return "TPOS" + "".join(self._rng.choices(letters, k=16)), "".join(self._rng.choices(secret, k=40))


@attrs.frozen
class BucketEndpoints:
    """The endpoints under /object-storage."""

    store: BucketStore

    def enable(self, _exchange: Exchange) -> Reply:
        new = self.store.enable()
        message = "Object storage is enabled" if new else "Object storage was enabled already"
        return Reply(200, {**self.store.as_json(), "message": message})

    def disable(self, _exchange: Exchange) -> Reply:
        self.store.disable()
        return Reply(200, {"message": "Object storage is disabled"})

    def credentials(self, _exchange: Exchange) -> Reply:
        return Reply(200, self.store.as_json())

    def rotate(self, _exchange: Exchange) -> Reply:
        self.store.rotate()
        return Reply(200, self.store.as_json())

    def rclone(self, _exchange: Exchange) -> Reply:
        keys, storage = self.store.enabled(), self.store
        text = (
            f"[{REMOTE}]\n"
            "type = s3\n"
            "provider = Other\n"
            f"access_key_id = {keys.access_key_id}\n"
            f"secret_access_key = {keys.secret_access_key}\n"
            f"endpoint = {storage.endpoint}\n"
            f"region = {storage.region}\n"
        )
        message = "Use rclone with --ignore-checksum"
        return Reply(200, {"remote_name": REMOTE, "rclone_config": text, "message": message})

    def aws(self, _exchange: Exchange) -> Reply:
        keys, storage = self.store.enabled(), self.store
        secrets = (
            f"[{REMOTE}]\n"
            f"aws_access_key_id = {keys.access_key_id}\n"
            f"aws_secret_access_key = {keys.secret_access_key}\n"
        )
        config = f"[profile {REMOTE}]\nregion = {storage.region}\nendpoint_url = {storage.endpoint}\n"
        return Reply(
            200,
            {
                "profile_name": REMOTE,
                "credentials_file": secrets,
                "config_file": config,
                "endpoint": storage.endpoint,
                "message": None,
            },
        )

    def list_buckets(self, _exchange: Exchange) -> Reply:
        self.store.enabled()
        return Reply(200, {"buckets": sorted(self.store.buckets), "message": None})

    def create_bucket(self, exchange: Exchange) -> Reply:
        self.store.create_bucket(exchange.argument)
        return Reply(201, {"message": f"Bucket {exchange.argument} was created"})

    def delete_bucket(self, exchange: Exchange) -> Reply:
        self.store.delete_bucket(exchange.argument)
        return Reply(204)
