"""What a block says on its way out: what it destroys, and what is left at which price."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import attrs

from tensorpool_async.texts import logger_of


logger: logging.Logger = logger_of("tensorpool_async")


@attrs.frozen(kw_only=True)
class Remnant:
    """Something that a block has made, or may have made.

    Attributes:
        kind: `cluster` or `volume`.
        name: Its name.
        ids: Its ids; there are none where its creation had no answer yet.
        hourly_rate: What it costs, in USD per hour; None where that is not known.
    """

    kind: str
    name: str | None
    ids: Sequence[str] = ()
    hourly_rate: float | None = None

    def __str__(self) -> str:
        return f"{self.kind} {self.name} ({', '.join(self.ids) or 'its id is not known'})"

    def left(self, reason: str) -> str:
        """Say that it could not be destroyed, and how to do that."""
        price = "" if self.hourly_rate is None else f" ({self.hourly_rate:.2f} USD per hour)"
        command = f"tpa destroy {' '.join(self.ids)}" if self.ids else f"tpa destroy {self.name}"
        why = f": {reason}" if reason else ""
        return f"{self} could not be destroyed, and costs money{price}{why}; to destroy it: {command}"


def announce(remnants: Iterable[Remnant], interruption: BaseException | None) -> None:
    """Say what is going to be destroyed: as a WARNING where the block is interrupted, and may not have the time."""
    remnants = list(remnants)
    if not remnants:
        return
    rates = [remnant.hourly_rate for remnant in remnants if remnant.hourly_rate is not None]
    price = f"{sum(rates):.2f} USD per hour" if rates else "at a price that is not known"
    more = (
        f" and {len(remnants) - len(rates)} at a price that is not known"
        if 0 < len(rates) < len(remnants)
        else ""
    )
    interrupted = interruption is not None and not isinstance(interruption, Exception)
    level = logging.WARNING if interrupted else logging.INFO
    logger.log(level, "destroying %s; %s%s", ", ".join(map(str, remnants)), price, more)
