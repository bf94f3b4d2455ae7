"""Object storage: S3-compatible, one for each organization."""

from __future__ import annotations

from typing import Any

import attrs

from tensorpool_async.models.wire_names import names


@attrs.frozen
class ObjectStorageCredentials:
    """The organization's credentials for its object storage.

    Attributes:
        org_id: The organization's id.
        access_key_id: The public half of the key.
        secret_access_key: The secret half, masked in `repr`.
        endpoint: The S3 endpoint's address.
        region: The region that requests are signed for.
        profile_id: The storage profile, where the engine names one.
        iam_username: The user at the provider, where the engine names one.
        status: A free text.
        created_at: When it was made, as ISO 8601 text, as sent.
        updated_at: When it was last changed, as ISO 8601 text, as sent.
        message: A text for a person; the engine sends one when object storage is enabled.
        extra: Fields of the answer that this package does not know.
    """

    org_id: str
    access_key_id: str
    secret_access_key: str = attrs.field(repr=lambda _: "'********'")
    endpoint: str
    region: str
    profile_id: str | None = None
    iam_username: str | None = None
    status: str | None = None
    created_at: str | None = None
    updated_at: str | None = None
    message: str | None = None
    extra: dict[str, Any] = attrs.field(factory=dict[str, Any], kw_only=True, hash=False)


@attrs.frozen
class RcloneConfig:
    """A section for rclone's configuration file. Use rclone with `--ignore-checksum`.

    Attributes:
        rclone_config: The section as INI text, with its header. It holds the secret key, and is not shown in `repr`.
        remote_name: The name of the remote.
        message: A text for a person.
        extra: Fields of the answer that this package does not know.
    """

    rclone_config: str = attrs.field(repr=False, default="")
    remote_name: str = "tp"
    message: str | None = None
    extra: dict[str, Any] = attrs.field(factory=dict[str, Any], kw_only=True, hash=False)


@attrs.frozen
class AwsConfig:
    """Sections for the files that AWS's tools read.

    Attributes:
        credentials_file: INI text for `~/.aws/credentials`. It holds the secret key, and is not shown in `repr`.
        config_file: INI text for `~/.aws/config`.
        profile_name: The name of the profile in both.
        endpoint: The S3 endpoint's address.
        message: A text for a person.
        extra: Fields of the answer that this package does not know.
    """

    credentials_file: str | None = attrs.field(repr=False, default=None)
    config_file: str | None = attrs.field(repr=False, default=None)
    profile_name: str = "tp"
    endpoint: str | None = None
    message: str | None = None
    extra: dict[str, Any] = attrs.field(factory=dict[str, Any], kw_only=True, hash=False)


@attrs.frozen
class Bucket:
    """A bucket. The engine may list names or objects: which, is not documented.

    Attributes:
        name: The bucket's name.
        extra: Fields of the answer that this package does not know.
    """

    name: str = attrs.field(metadata=names("name", "bucket_name"))
    extra: dict[str, Any] = attrs.field(factory=dict[str, Any], kw_only=True, hash=False)
