"""The command reap: destroys what outlived its owner."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import attrs

from tensorpool_async.cli import DONE, FAILED, INTERRUPTED, WRONG_USAGE
from tensorpool_async.cli.asking import can_ask, confirmed
from tensorpool_async.cli.durations import age
from tensorpool_async.cli.journals import client, command
from tensorpool_async.cli.printing import counted, money, rate_cell, say, show, show_json, show_table
from tensorpool_async.client import TensorPool
from tensorpool_async.errors import TensorPoolError
from tensorpool_async.fleet.plan import total
from tensorpool_async.fleet.progress import sentence
from tensorpool_async.models import OperationKind
from tensorpool_async.resources.recovery import Leftover


class ReapResult(StrEnum):
    """What became of something that was to be destroyed."""

    LEFT = "LEFT"
    DESTROYED = "DESTROYED"
    FAILED = "FAILED"
    TAKEN = "TAKEN"
    """It was gone already, or another process took it first, and goes on with it."""


WORDS = {ReapResult.DESTROYED: "destroyed", ReapResult.TAKEN: "gone already, or taken by another process"}


@attrs.define
class Reaping:
    """What is to be destroyed, and what became of it.

    Attributes:
        leftovers: What outlived its owner.
        fates: What became of each, by `Leftover.entry`; what is not there is left.
        errors: Why those failed that did, by `Leftover.entry`.
    """

    leftovers: Sequence[Leftover]
    fates: dict[int, ReapResult] = attrs.field(factory=dict[int, ReapResult])
    errors: dict[int, str] = attrs.field(factory=dict[int, str])

    def result(self, leftover: Leftover) -> ReapResult:
        """Return what became of one."""
        return self.fates.get(leftover.entry, ReapResult.LEFT)

    @property
    def left(self) -> list[Leftover]:
        """What is there still, as far as is known."""
        return [one for one in self.leftovers if self.result(one) in {ReapResult.LEFT, ReapResult.FAILED}]


async def reap(journal: Path, *, older: float, yes: bool, as_json: bool) -> int:
    """Destroy what was made as ephemeral, or with a `ttl` that is over, and outlived its owner."""
    async with client(journal) as tp:
        reaping = Reaping(await tp.leftovers(older=older))
        if not as_json:
            _show_leftovers(reaping.leftovers)
        code = DONE
        if reaping.leftovers:
            try:
                code = await _destroy_if_wanted(tp, reaping, yes=yes)
            except asyncio.CancelledError:
                code = _interrupted(reaping, journal)
    if as_json:
        show_json(_document(reaping))
    return code


def _show_leftovers(leftovers: Sequence[Leftover]) -> None:
    if not leftovers:
        show("Nothing has outlived its owner.")
        return
    rows = [
        (one.name, _what(one), one.resource_id, age(one.age), rate_cell(one.hourly_rate)) for one in leftovers
    ]
    show_table(("NAME", "WHAT", "ID", "AGE", "USD/H"), rows, right=("AGE", "USD/H"))
    count = len(leftovers)
    verb = "has outlived its owner" if count == 1 else "have outlived their owners"
    show(f"{count} {verb}; {money(_cost(leftovers))} per hour", apart=True)


def _what(leftover: Leftover) -> str:
    return "cluster" if leftover.kind is OperationKind.CLUSTER_CLAIM else "volume"


def _cost(leftovers: Sequence[Leftover]) -> float | None:
    return total(one.hourly_rate for one in leftovers)


async def _destroy_if_wanted(tp: TensorPool, reaping: Reaping, *, yes: bool) -> int:
    count = len(reaping.leftovers)
    if not yes:
        if not can_ask():
            say(
                "tpa: nothing was destroyed: there is no terminal to ask at; to destroy it, add --yes",
                style="red",
            )
            return WRONG_USAGE
        if not await confirmed(f"Destroy {'it' if count == 1 else f'these {count}'}?"):
            say("Nothing was destroyed.")
            return DONE
    await _destroy(tp, reaping)
    left = reaping.left
    gone = sum(reaping.result(one) is ReapResult.DESTROYED for one in reaping.leftovers)
    if left:
        say(f"tpa: {len(left)} of {count} could not be destroyed, {money(_cost(left))} per hour", style="red")
    else:
        say(f"Destroyed {gone} of {count}.")
    return FAILED if left else DONE


async def _destroy(tp: TensorPool, reaping: Reaping) -> None:
    """Destroy all of it side by side, and tell of each."""
    begin = time.monotonic()
    width = max(len(one.name or "") for one in reaping.leftovers)

    async def destroy(leftover: Leftover) -> None:
        try:
            result = ReapResult.DESTROYED if await tp.reap(leftover) else ReapResult.TAKEN
        except TensorPoolError as failure:
            result = ReapResult.FAILED
            reaping.errors[leftover.entry] = sentence(failure)
        reaping.fates[leftover.entry] = result
        word = reaping.errors.get(leftover.entry) or WORDS[result]
        line = f"{time.monotonic() - begin:7.1f} s  {leftover.name or '':<{width}}  {leftover.resource_id}  {word}"
        say(line, style="red" if result is ReapResult.FAILED else "")

    await asyncio.gather(*(destroy(one) for one in reaping.leftovers))


def _interrupted(reaping: Reaping, journal: Path) -> int:
    left = reaping.left
    say(f"Interrupted. {counted(len(left), 'resource')} may still be there, {money(_cost(left))} per hour:")
    for one in left:
        say(f"  {one.name or ''}  {one.resource_id}")
    say(f"To go on:  {command('reap', journal)}")
    return INTERRUPTED


def _document(reaping: Reaping) -> dict[str, Any]:
    return {
        "leftovers": [
            {
                "name": one.name,
                "kind": str(one.kind),
                "id": one.resource_id,
                "age": round(one.age, 3),
                "hourly_rate": one.hourly_rate,
                "fate": str(reaping.result(one)),
                "error": reaping.errors.get(one.entry),
            }
            for one in reaping.leftovers
        ],
        "hourly_cost": _cost(reaping.leftovers),
    }
