"""Object storage: S3-compatible, one for each organization."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import attrs

from tensorpool_async.errors import AmbiguousOutcomeError, ConfigurationError, DecodeError
from tensorpool_async.models.object_storage import AwsConfig, Bucket, ObjectStorageCredentials, RcloneConfig
from tensorpool_async.models.structure import structure
from tensorpool_async.protocol.decoders import as_model, as_nothing
from tensorpool_async.protocol.requests import Request
from tensorpool_async.protocol.responses import Answer
from tensorpool_async.transport.attempts import Transport


if TYPE_CHECKING:
    from obstore.store import S3Credential, S3Store


BucketLike = Bucket | str
"""A bucket, or its name."""


class ObjectStorage:
    """The organization's object storage, as `tp.object_storage`. All of it needs an organization.

    Attributes:
        buckets: Its buckets.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.buckets: Buckets = Buckets(transport)

    async def enable(self) -> ObjectStorageCredentials:
        """Enable object storage for the organization (`POST /object-storage/enable`).

        Raises:
            AmbiguousOutcomeError: The answer was lost; `credentials` tells whether it is enabled.
        """
        return await self._credentials("POST", "enable")

    async def disable(self) -> None:
        """Disable object storage for the organization (`DELETE /object-storage/disable`).

        Raises:
            ConflictError: There are buckets left (409).
        """
        await self._transport.send(Request("DELETE", "/object-storage/disable", as_nothing))

    async def credentials(self) -> ObjectStorageCredentials:
        """Read the organization's credentials (`GET /object-storage/credentials`).

        Raises:
            NotFound: Object storage is not enabled.
            StatusError: There is no organization; which status the engine has for it is not documented.
        """
        return await self._credentials("GET", "credentials")

    async def rotate_keys(self) -> ObjectStorageCredentials:
        """Replace the keys of everyone in the organization (`POST /object-storage/rotate-keys`); cannot be undone.

        Raises:
            AmbiguousOutcomeError: The answer was lost; `credentials` tells which keys hold now.
        """
        return await self._credentials("POST", "rotate-keys")

    async def rclone_config(self) -> RcloneConfig:
        """Return a section for rclone's configuration (`GET /object-storage/configure/rclone`)."""
        return await self._transport.send(
            Request("GET", "/object-storage/configure/rclone", as_model(RcloneConfig))
        )

    async def aws_config(self) -> AwsConfig:
        """Return sections for the files that AWS's tools read (`GET /object-storage/configure/aws`)."""
        return await self._transport.send(
            Request("GET", "/object-storage/configure/aws", as_model(AwsConfig))
        )

    async def store(self, bucket: BucketLike) -> S3Store:
        """Return an `obstore` store of a bucket, with the organization's credentials.

        Credentials for another provider that stand in the environment, such as `AWS_SESSION_TOKEN`, are not sent.

        Raises:
            ConfigurationError: obstore is not installed: `pip install "tensorpool-async[objects]"`.
            NotFound: Object storage is not enabled.
            StatusError: There is no organization.
        """
        try:
            from obstore.store import S3Store
        except ImportError:
            raise ConfigurationError('obstore is missing: pip install "tensorpool-async[objects]"') from None
        credentials = await self.credentials()
        return S3Store(
            bucket_name_of(bucket),
            endpoint=credentials.endpoint,
            region=credentials.region,
            credential_provider=_Provider(credentials),
            skip_signature=False,
            virtual_hosted_style_request=False,
            client_options={"allow_http": credentials.endpoint.startswith("http://")},
        )

    async def _credentials(self, method: str, action: str) -> ObjectStorageCredentials:
        return await self._transport.send(
            Request(method, f"/object-storage/{action}", as_model(ObjectStorageCredentials))
        )


class Buckets:
    """The organization's buckets, as `tp.object_storage.buckets`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def create(self, name: str) -> Bucket:
        """Create a bucket (`PUT /object-storage/bucket/create/{bucket_name}`).

        Raises:
            ConflictError: There is one of that name (409).
            StatusError: The name is not one that a bucket may have.
        """
        try:
            await self._transport.send(
                Request("PUT", "/object-storage/bucket/create/{id}", as_nothing, key=name, name=name)
            )
        except AmbiguousOutcomeError:
            # The conflict may be the request's own first attempt, whose answer was lost: the list tells.
            if all(bucket.name != name for bucket in await self.list()):
                raise
        return Bucket(name=name)

    async def delete(self, bucket: BucketLike) -> None:
        """Delete a bucket, which must be empty (`DELETE /object-storage/bucket/delete/{bucket_name}`).

        Raises:
            ConflictError: It is not empty (409).
            NotFound: There is no such bucket.
        """
        await self._transport.send(
            Request("DELETE", "/object-storage/bucket/delete/{id}", as_nothing, key=bucket_name_of(bucket))
        )

    # Last of the public methods, since within the class its name hides the type from what follows.
    async def list(self) -> list[Bucket]:
        """List the buckets (`GET /object-storage/bucket/list`)."""

        def decode(answer: Answer) -> list[Bucket]:
            items = answer.field("buckets")
            if not isinstance(items, list):
                raise DecodeError("the answer has no list 'buckets'", path=answer.path)
            return [_bucket_of(item, answer.path) for item in cast("list[Any]", items)]

        return await self._transport.send(Request("GET", "/object-storage/bucket/list", decode))


@attrs.frozen
class _Provider:
    """Gives a store the organization's credentials whole, where keys alone are completed from the environment."""

    credentials: ObjectStorageCredentials

    def __call__(self) -> S3Credential:
        return {
            "access_key_id": self.credentials.access_key_id,
            "secret_access_key": self.credentials.secret_access_key,
            "token": None,
            "expires_at": None,
        }


def bucket_name_of(bucket: BucketLike) -> str:
    """Return the name of what is a bucket or a name."""
    return bucket.name if isinstance(bucket, Bucket) else bucket


def _bucket_of(item: Any, path: str) -> Bucket:
    # Names or objects: which the engine sends is not known, since its own client only prints them.
    return Bucket(name=item) if isinstance(item, str) else structure(item, Bucket, path=path)
