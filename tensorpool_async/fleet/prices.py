"""What a fleet's clusters cost, asked of the engine: once for each instance type and node count."""

from __future__ import annotations

import math

import anyio

from tensorpool_async.client import TensorPool
from tensorpool_async.errors import ConfigurationError, TensorPoolError
from tensorpool_async.fleet.error_classification import names_no_price, refuses_offer
from tensorpool_async.fleet.plan import Offer
from tensorpool_async.fleet.spec import Fleet


async def ask_prices(tp: TensorPool, fleet: Fleet) -> dict[Offer, float | None]:
    """Return the price of everything that the fleet may be made of, in USD per hour.

    Only a third party reports that the engine tells prices. Where it does not, they are None.

    Raises:
        ConfigurationError: The engine does not rent out such an instance type, or not with so many nodes.
        TensorPoolError: The engine could not be asked.
    """
    wanted = {(kind, group.num_nodes): group.name for group in fleet.clusters for kind in group.instance_type}
    prices: dict[Offer, float | None] = {}
    problems: list[TensorPoolError] = []

    async def ask(offer: Offer, group: str) -> None:
        try:
            prices[offer] = await _ask(tp, offer, group)
        except TensorPoolError as error:
            problems.append(error)

    async with anyio.create_task_group() as tasks:
        for offer, group in wanted.items():
            tasks.start_soon(ask, offer, group)
    if problems:
        raise problems[0]
    return prices


async def _ask(tp: TensorPool, offer: Offer, group: str) -> float | None:
    try:
        rate = (await tp.clusters.quote(*offer)).hourly_rate
    except TensorPoolError as error:
        if refuses_offer(error):
            kind, nodes = offer
            raise ConfigurationError(
                f"clusters.{group}: the engine does not take {nodes} x {kind}: {error}"
            ) from error
        if names_no_price(error):
            return None
        raise
    return rate if math.isfinite(rate) and rate >= 0 else None
