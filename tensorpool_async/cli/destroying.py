"""The command destroy: clusters and volumes by their names or ids."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from tensorpool_async.cli import DONE, FAILED, INTERRUPTED, WRONG_USAGE
from tensorpool_async.cli.asking import can_ask, confirmed
from tensorpool_async.cli.journals import client
from tensorpool_async.cli.printing import counted, money, rate_cell, say, show, show_json, show_table
from tensorpool_async.client import TensorPool
from tensorpool_async.errors import ConfigurationError, NotFound, TensorPoolError
from tensorpool_async.fleet.plan import total
from tensorpool_async.fleet.progress import sentence
from tensorpool_async.models import Cluster, StorageVolume


Resource = Cluster | StorageVolume


async def destroy(words: Sequence[str], journal: Path | None, *, yes: bool, as_json: bool) -> int:
    """Destroy clusters and volumes, clusters first."""
    async with client(journal, is_exit=True) as tp:
        found = await _find(tp, words)
        if not yes and not await _is_wanted(found):
            return WRONG_USAGE if not can_ask() else DONE
        errors: dict[str, str] = {}
        try:
            clusters = [one for one in found if isinstance(one, Cluster)]
            volumes = [one for one in found if not isinstance(one, Cluster)]
            await asyncio.gather(*(_destroy(tp, one, errors) for one in clusters))
            await asyncio.gather(*(_destroy(tp, one, errors) for one in volumes))
        except asyncio.CancelledError:
            say(f"Interrupted. To go on:  tpa destroy {' '.join(one.id for one in found)}")
            return INTERRUPTED
    if as_json:
        show_json({"resources": [_document(one, errors.get(one.id)) for one in found]})
    else:
        show(f"Destroyed {len(found) - len(errors)} of {len(found)}.")
    return FAILED if errors else DONE


async def _find(tp: TensorPool, words: Sequence[str]) -> list[Resource]:
    """Return what is meant by each word, an id or a name.

    Raises:
        ConfigurationError: A word means nothing that is there, or several of it.
    """
    there: list[Resource] = [*await tp.clusters.list(), *await tp.storage.list()]
    found: dict[str, Resource] = {}
    for word in words:
        meant = [one for one in there if one.id == word] or [one for one in there if one.name == word]
        if not meant:
            raise ConfigurationError(f"there is no cluster or volume {word}; tpa ls shows what there is")
        if len(meant) > 1:
            ids = ", ".join(one.id for one in meant)
            raise ConfigurationError(f"{word} is the name of several; take one of the ids: {ids}")
        found[meant[0].id] = meant[0]
    return list(found.values())


async def _is_wanted(found: Sequence[Resource]) -> bool:
    rows = [(one.name, _kind(one), one.id, one.status, rate_cell(one.hourly_rate)) for one in found]
    show_table(("NAME", "WHAT", "ID", "STATE", "USD/H"), rows, right=("USD/H",), error=True)
    if not can_ask():
        say(
            "tpa: nothing was destroyed: there is no terminal to ask at; to destroy it, add --yes",
            style="red",
        )
        return False
    cost = money(total(one.hourly_rate for one in found))
    if await confirmed(f"Destroy {counted(len(found), 'resource')}, {cost} per hour, with all data on it?"):
        return True
    say("Nothing was destroyed.")
    return False


async def _destroy(tp: TensorPool, one: Resource, errors: dict[str, str]) -> None:
    try:
        if isinstance(one, Cluster):
            await tp.clusters.for_exit.lifecycle.destroy(one)
        else:
            await tp.storage.for_exit.destroy(one).result()
    except NotFound:
        pass  # it is gone already
    except TensorPoolError as error:
        errors[one.id] = sentence(error)
    word = errors.get(one.id, "destroyed")
    say(f"{one.name or ''}  {one.id}  {word}", style="red" if one.id in errors else "")


def _kind(one: Resource) -> str:
    return "cluster" if isinstance(one, Cluster) else "volume"


def _document(one: Resource, error: str | None) -> dict[str, object]:
    return {
        "id": one.id,
        "kind": _kind(one),
        "name": one.name,
        "hourly_rate": one.hourly_rate,
        "destroyed": error is None,
        "error": error,
    }
