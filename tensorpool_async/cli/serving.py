"""The command `emulator`: an engine in this process, for other processes."""

from __future__ import annotations

import asyncio

from tensorpool_async.cli import DONE
from tensorpool_async.cli.printing import show
from tensorpool_async.config import ENGINE_VARIABLE, KEY_VARIABLE, find_key
from tensorpool_async.emulator import Emulator


async def serve(port: int, speed: float, key: str) -> int:
    """Run an emulator until the process is interrupted, which is its ordinary end."""
    find_key(key)
    async with Emulator(port=port, speed=speed, key=key) as emulator:
        show(f"A TensorPool engine is emulated at {emulator.url}, {speed:g} times as fast. Ctrl-C ends it.")
        show("To use it, in another terminal:", apart=True)
        show(f"  export {ENGINE_VARIABLE}={emulator.url}", apart=True)
        show(f"  export {KEY_VARIABLE}={emulator.key}")
        show("Then run, for example: tpa ls, or tpa up FILE", apart=True)
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            show(f"Ended, after {emulator.record.requests} requests.")
    return DONE
