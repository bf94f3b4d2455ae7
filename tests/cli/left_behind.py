"""A program that leaves work behind: it does what its words say, notes it in a journal, and is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from tensorpool_async import PollPolicy, TensorPool


async def leave(tp: TensorPool, word: str) -> None:
    """Do one of the things that can be left behind, under its own name."""
    match word.partition("-")[0]:
        case "plain":
            await tp.clusters.create("8xH100", name=word).result()
        case "timed":
            await tp.clusters.create("8xH200", name=word, ttl=0.01).result()
        case "long":
            await tp.clusters.create("8xH200", name=word, ttl=3600.0).result()
        case "scratch":
            await tp.clusters.ephemeral("8xB200", name=word).__aenter__()
        case "protected":
            await tp.clusters.create("8xH200", name=word, ttl=0.01, deletion_protection=True).result()
        case "going":
            await tp.clusters.create("1xL40S", name=word)
        case "unanswered":
            sending = asyncio.ensure_future(tp.clusters.ephemeral("8xB200", name=word).__aenter__())
            await asyncio.wait([sending], timeout=0.3)
        case "undestroyed":
            cluster = await tp.clusters.create("8xH100", name=word).result()
            destroying = asyncio.ensure_future(tp.clusters.destroy(cluster).result())
            await asyncio.wait([destroying], timeout=0.3)
        case _:
            raise ValueError(word)


async def main(journal: str, *words: str) -> None:
    """Leave all of it behind."""
    async with TensorPool(journal=journal, polling=PollPolicy(initial=0.01)) as tp:
        going = [word for word in words if word.startswith("going")]
        await asyncio.gather(*(leave(tp, word) for word in words if word not in going))
        await asyncio.gather(*(leave(tp, word) for word in going))
        os.kill(os.getpid(), signal.SIGKILL)


asyncio.run(main(*sys.argv[1:]))
