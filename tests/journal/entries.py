"""Intents for the journal's tests, and a way to run a program in another process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tensorpool_async.journal import Intent
from tensorpool_async.models.enums import OperationKind
from tensorpool_async.protocol.tokens import OperationRef


ENGINE = "https://engine.example"
ROOT = Path(__file__).parents[2]
TICKET = OperationRef(kind=OperationKind.CLUSTER_CLAIM, resource_id="c-1", request_ids=("r-1", "r-2"))


def intent(name: str | None = "trainer", **fields: Any) -> Intent:
    given: dict[str, Any] = {
        "engine": ENGINE,
        "kind": OperationKind.CLUSTER_CLAIM,
        "method": "POST",
        "path": "/cluster/create",
        "name": name,
        "sent_at": 1000.0,
        **fields,
    }
    return Intent(**given)


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    """Run a program that has `main(path)` of this module's imports; its lines come from its standard output."""
    prelude = (
        "import asyncio, resource, sys\n"
        "from tensorpool_async.journal import *\n"
        "from tests.journal.entries import ENGINE, TICKET, intent\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", prelude + program, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def finish(process: subprocess.Popen[str], given: str | None = None) -> list[str]:
    """Wait for the end of a process, and return the lines that it wrote."""
    out, _ = process.communicate(given, timeout=40)
    return out.splitlines()
