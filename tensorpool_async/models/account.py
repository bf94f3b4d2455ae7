"""The user, the organization, their preferences and SSH keys."""

from __future__ import annotations

from typing import Any

import attrs

from tensorpool_async.models.wire_names import names


@attrs.frozen
class SSHKey:
    """A public key that goes on all new clusters.

    Attributes:
        id: The key's id.
        name: Its name; the engine uses the user's e-mail address where none was given.
        public_key: The key in OpenSSH's form.
        extra: Fields of the answer that this package does not know.
    """

    id: str = attrs.field(metadata=names("id", "key_id"))
    name: str | None = None
    public_key: str | None = None
    extra: dict[str, Any] = attrs.field(factory=dict[str, Any], kw_only=True, hash=False)


@attrs.frozen
class UserInfo:
    """The user that the key belongs to (`GET /user/info`).

    Attributes:
        message: A text for a person; no other field is documented.
        extra: Fields of the answer that this package does not know.
    """

    message: str = ""
    extra: dict[str, Any] = attrs.field(factory=dict[str, Any], kw_only=True, hash=False)


@attrs.frozen
class UserPreferences:
    """The user's preferences (`GET /user/preferences`).

    Attributes:
        notify_email_cluster_create: Whether an e-mail tells of each new cluster.
        notify_email_cluster_destroy: Whether an e-mail tells of each destroyed cluster.
        autopay_enabled: Whether the balance is reloaded by itself; needs a saved payment method.
        balance_warning_threshold: The balance below which a warning is sent, in USD; None where none is.
        autopay_reload_threshold: The balance below which it is reloaded, in USD; None where it is not.
        extra: Fields of the answer that this package does not know.
    """

    notify_email_cluster_create: bool
    notify_email_cluster_destroy: bool
    autopay_enabled: bool
    balance_warning_threshold: float | None = None
    autopay_reload_threshold: float | None = None
    extra: dict[str, Any] = attrs.field(factory=dict[str, Any], kw_only=True, hash=False)


@attrs.frozen
class OrganizationMember:
    """A member of an organization.

    Attributes:
        uid: The user's id.
        email: The user's e-mail address.
        extra: Fields of the answer that this package does not know.
    """

    uid: str
    email: str
    extra: dict[str, Any] = attrs.field(factory=dict[str, Any], kw_only=True, hash=False)


@attrs.frozen
class Organization:
    """The organization that the user belongs to (`GET /user/organization/info`).

    Attributes:
        org_name: Its name.
        balance: Its balance in USD, shared by all members.
        members: Its members.
        extra: Fields of the answer that this package does not know.
    """

    org_name: str
    balance: float
    members: tuple[OrganizationMember, ...] = ()
    extra: dict[str, Any] = attrs.field(factory=dict[str, Any], kw_only=True, hash=False)


@attrs.frozen
class Health:
    """What the engine says about itself.

    Attributes:
        message: A text for a person; None where there is nothing to say.
        extra: Fields of the answer that this package does not know.
    """

    message: str | None = None
    extra: dict[str, Any] = attrs.field(factory=dict[str, Any], kw_only=True, hash=False)
