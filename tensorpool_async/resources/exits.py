"""Log messages of cleanup code: which resources it destroys, and which remain at which price."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import attrs

from tensorpool_async.texts import logger_of


logger: logging.Logger = logger_of("tensorpool_async")


@attrs.frozen(kw_only=True)
class UndeletedResource:
    """A resource that a block has made, or may have made.

    Attributes:
        kind: `cluster` or `volume`.
        name: The name.
        ids: The ids; empty while the creation has no response.
        hourly_rate: The price in USD per hour; None where it is not known.
    """

    kind: str
    name: str | None
    ids: Sequence[str] = ()
    hourly_rate: float | None = None

    def __str__(self) -> str:
        return f"{self.kind} {self.name} ({', '.join(self.ids) or 'its id is not known'})"

    def deletion_failed(self, reason: str) -> str:
        """Return a message that the resource could not be destroyed, with its price and the command that destroys it."""
        price = "" if self.hourly_rate is None else f" ({self.hourly_rate:.2f} USD per hour)"
        command = f"tpa destroy {' '.join(self.ids)}" if self.ids else f"tpa destroy {self.name}"
        why = f": {reason}" if reason else ""
        return f"{self} could not be destroyed, and costs money{price}{why}; to destroy it: {command}"


def log_deletions(resources: Iterable[UndeletedResource], interruption: BaseException | None) -> None:
    """Log which resources are destroyed now: at WARNING if the block was interrupted and may be killed, else at INFO."""
    resources = list(resources)
    if not resources:
        return
    rates = [resource.hourly_rate for resource in resources if resource.hourly_rate is not None]
    price = f"{sum(rates):.2f} USD per hour" if rates else "at a price that is not known"
    more = (
        f" and {len(resources) - len(rates)} at a price that is not known"
        if 0 < len(rates) < len(resources)
        else ""
    )
    interrupted = interruption is not None and not isinstance(interruption, Exception)
    level = logging.WARNING if interrupted else logging.INFO
    logger.log(level, "destroying %s; %s%s", ", ".join(map(str, resources)), price, more)
