"""What happened, as small frozen records, to whoever listens."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class FleetMemberChanged:
    """A member of a fleet changed its state, or the engine said something new about it.

    Attributes:
        fleet: The fleet's name.
        member: The member's name.
        group: The name of its group.
        state: What the member is now; see `MemberState`.
        message: What the engine says, or why the state changed, as a text for a person; empty where there is nothing
            to say.
        resource_id: The cluster's id; None until the engine has accepted one.
        instance_type: The instance type that it has, or that was asked for.
        seconds: Seconds since the fleet's work began.
        hourly_rate: What it costs in USD per hour; None where the engine names no price.
    """

    fleet: str
    member: str
    group: str
    state: str
    message: str = ""
    resource_id: str | None = None
    instance_type: str | None = None
    seconds: float = 0.0
    hourly_rate: float | None = None
