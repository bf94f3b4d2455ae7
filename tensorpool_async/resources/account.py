"""The account: the user, the organization, and preferences."""

from __future__ import annotations

import platform
from math import isfinite
from typing import Any, cast

from tensorpool_async.models.account import Health, Organization, UserInfo, UserPreferences
from tensorpool_async.models.structure import structure
from tensorpool_async.protocol.decoders import as_model
from tensorpool_async.protocol.requests import Request
from tensorpool_async.protocol.responses import Answer
from tensorpool_async.transport.attempts import Transport
from tensorpool_async.version import VERSION


LOWEST_RELOAD = 20
"""USD: the engine takes no lower reload threshold."""


class Account:
    """The account, as `tp.account`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def info(self) -> UserInfo:
        """Read who the key belongs to (`GET /user/info`)."""
        return await self._transport.send(Request("GET", "/user/info", as_model(UserInfo)))

    async def me(self) -> UserInfo:
        """Read the same from the engine's older endpoint (`GET /me`), which may be gone."""
        return await self._transport.send(Request("GET", "/me", as_model(UserInfo)))

    async def organization(self) -> Organization:
        """Read the organization (`GET /user/organization/info`).

        Raises:
            NotFound: The user belongs to none.
        """
        return await self._transport.send(Request("GET", "/user/organization/info", as_model(Organization)))

    async def preferences(self) -> UserPreferences:
        """Read the preferences (`GET /user/preferences`)."""
        return await self._transport.send(Request("GET", "/user/preferences", as_model(UserPreferences)))

    async def update_preferences(
        self,
        *,
        notify_email_cluster_create: bool | None = None,
        notify_email_cluster_destroy: bool | None = None,
        autopay_enabled: bool | None = None,
        balance_warning_threshold: float | None = None,
        autopay_reload_threshold: float | None = None,
    ) -> UserPreferences:
        """Change preferences (`PATCH /user/preferences`); what is None stays as it is.

        Args:
            notify_email_cluster_create: Whether an e-mail tells of each new cluster.
            notify_email_cluster_destroy: Whether an e-mail tells of each destroyed cluster.
            autopay_enabled: Whether the balance is reloaded by itself; needs a saved payment method and a threshold.
            balance_warning_threshold: The balance below which a warning is sent, in USD; above 0.
            autopay_reload_threshold: The balance below which it is reloaded, in USD; at least 20, and below the
                threshold of the warning.

        Returns:
            The preferences that hold now.

        Raises:
            ValueError: Nothing is to be changed, or a threshold breaks its rule; nothing was sent.
            ValidationError: The engine refuses them (422).
            AmbiguousOutcomeError: The answer was lost; `preferences` tells what holds.
        """
        _check_thresholds(balance_warning_threshold, autopay_reload_threshold)
        wire: dict[str, Any] = {
            "notify_email_cluster_create": notify_email_cluster_create,
            "notify_email_cluster_destroy": notify_email_cluster_destroy,
            "autopay_enabled": autopay_enabled,
            "balance_warning_threshold": balance_warning_threshold,
            "autopay_reload_threshold": autopay_reload_threshold,
        }
        body = {field: value for field, value in wire.items() if value is not None}
        if not body:
            raise ValueError("nothing to change: pass at least one preference")
        request = Request("PATCH", "/user/preferences", as_model(UserPreferences), json=body)
        return await self._transport.send(request)


def _check_thresholds(warning: float | None, reload: float | None) -> None:
    # Neither infinity nor NaN is JSON.
    if warning is not None and not (isfinite(warning) and warning > 0):
        raise ValueError(f"balance_warning_threshold is {warning}, and must be above 0 USD")
    if reload is not None and not (isfinite(reload) and reload >= LOWEST_RELOAD):
        raise ValueError(f"autopay_reload_threshold is {reload}, and must be at least {LOWEST_RELOAD} USD")
    if warning is not None and reload is not None and not reload < warning:
        raise ValueError("autopay_reload_threshold must be below balance_warning_threshold")


def health_request() -> Request[Health]:
    """Make the request by which the engine judges a client (`POST /health`)."""
    uname = platform.uname()
    body = {
        "package_version": VERSION,
        # Its last field, the processor, would be found out by running a program, and is nearly always the machine.
        "uname": [uname.system, uname.node, uname.release, uname.version, uname.machine, uname.machine],
        "python_version": platform.python_version(),
        "python_implementation": platform.python_implementation(),
        "python_compiler": platform.python_compiler(),
        "python_build": list(platform.python_build()),
    }
    return Request("POST", "/health", as_model(Health), json=body, safe=True)


def alive_request() -> Request[Health]:
    """Make the request that needs no key (`GET /healthz`); its answer is not documented, and may be anything."""

    def decode(answer: Answer) -> Health:
        body: object = answer.body
        return structure(cast("object", body), Health) if isinstance(body, dict) else Health()

    return Request("GET", "/healthz", decode, any_body=True)
