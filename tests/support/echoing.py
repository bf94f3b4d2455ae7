"""An engine that quotes the key wherever it can, and calls that meet each of these places."""

from __future__ import annotations

from typing import Any

import pytest

from tensorpool_async import OperationFailed, StatusError, TensorPool, TensorPoolError
from tests.support.scripted import ScriptedEngine


KEY = "tp-a-key-that-must-not-be-shown"


def echo_the_key(engine: ScriptedEngine) -> None:
    """Have it quoted in refusals, headers, reasons, and what an operation says."""
    headers = {"X-Your-Key": KEY, "Retry-After": "0"}
    engine.answer("GET /cluster/list", {"message": f"busy, {KEY}"}, status=503, headers=headers)
    engine.answer("GET /cluster/list", f"<title>{KEY}</title>", status=502, headers=headers)
    engine.answer("GET /cluster/list", {"detail": f"no, {KEY}"}, status=400, headers=headers)
    engine.answer(f"GET /cluster/info/{KEY}", {"error": KEY}, status=404)
    engine.answer("GET /storage/list", {"message": KEY, "storages": [KEY]})
    accepted = {"cluster_id": "c-1", "message": f"thanks for {KEY}", "request_id": "r-1"}
    engine.answer("POST /cluster/create", accepted, status=202, headers=headers)
    for status in ("PROCESSING", "RETRYING", "FAILED"):
        engine.answer("GET /request/info/r-1", said(status), headers={"X-Your-Key": KEY})


def said(status: str) -> dict[str, Any]:
    return {
        "request_id": "r-1",
        "request_type": "CLUSTER_CLAIM",
        "status": status,
        "created_at": "2026-01-01T00:00:00Z",
        "object_id": "c-1",
        "external_message": f"{status} of {KEY}",
    }


async def use_what_echoes(tp: TensorPool) -> None:
    """Meet all of it."""
    with pytest.raises(StatusError):
        await tp.clusters.list()
    with pytest.raises(StatusError):
        await tp.clusters.get(KEY)
    with pytest.raises(TensorPoolError):
        await tp.storage.list()
    with pytest.raises(OperationFailed):
        await tp.clusters.create("1xH100", name="mine").result()
