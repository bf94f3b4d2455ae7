"""Questions to a person at a terminal."""

from __future__ import annotations

import asyncio
import sys

from tensorpool_async.texts import clean


def can_ask() -> bool:
    """Whether there is somebody who can read a question and answer it."""
    return sys.stdin.isatty() and sys.stderr.isatty()


async def confirmed(question: str) -> bool:
    """Ask; whatever is not a clear yes is a no.

    The event loop goes on meanwhile, so Ctrl-C is heard at once.
    """
    sys.stderr.write(f"{clean(question)} [y/N] ")
    sys.stderr.flush()
    answer = await _line()
    if not answer.endswith("\n"):
        sys.stderr.write("\n")
    return answer.strip().casefold() in {"y", "yes"}


async def _line() -> str:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(sys.stdin, ready.set)
    except NotImplementedError:  # on Windows
        return await asyncio.to_thread(sys.stdin.readline)
    try:
        await ready.wait()
        return sys.stdin.readline()  # a terminal hands over whole lines, so this does not wait
    finally:
        loop.remove_reader(sys.stdin)
