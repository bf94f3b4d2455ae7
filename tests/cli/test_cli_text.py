"""Whatever an engine says, it forges no line of the command, steers no terminal, and is whole in JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cli.conftest import Tpa
from tests.support.scripted import ScriptedEngine
from tests.test_texts import HOSTILE, is_harmless


def say_hostile_things(engine: ScriptedEngine) -> None:
    clusters = [
        {
            "id": f"c-{text}",
            "tp_cluster_name": text,
            "status": text,
            "instance_type": text,
            "created_at": text,
        }
        for text in HOSTILE
    ]
    engine.answer("GET /cluster/list", {"clusters": clusters})
    jobs = [{"id": text, "status": text, "instance_type": text, "public_message": text} for text in HOSTILE]
    engine.answer("GET /job/list", {"jobs": jobs})
    engine.answer("GET /storage/list", {"detail": "".join(HOSTILE)}, status=400)
    said = {"request_id": "r-1", "request_type": "X", "object_id": "".join(HOSTILE)}
    for text in HOSTILE:
        answer = {**said, "status": "PROCESSING", "external_message": text}
        engine.answer("GET /request/info/r-1", answer, headers={"Retry-After": "0"})
    engine.answer("GET /request/info/r-1", {**said, "status": "FAILED", "external_message": "".join(HOSTILE)})


@pytest.mark.parametrize("more", [[], ["--json"]])
@pytest.mark.parametrize(
    "words", [["ls"], ["ls", "jobs"], ["ls", "volumes"], ["wait", "r-1"], ["wait", "tpa: \n\x1b[31mforged"]]
)
async def test_no_line_is_forged(
    words: list[str], more: list[str], tpa: Tpa, scripted: ScriptedEngine
) -> None:
    say_hostile_things(scripted)
    process = await tpa.start(*words, *more, TENSORPOOL_ENGINE=scripted.url, TENSORPOOL_KEY="key")
    out, err = (text.decode() for text in await process.communicate())
    assert "Traceback" not in err
    assert "bug" not in err
    for line in (out + err).split("\n"):
        assert is_harmless(line)
        assert not line.startswith(("tpa: every", "tpa: forged", "forged"))
    if more and out:
        document: dict[str, Any] = json.loads(out)
        if words == ["ls"]:
            assert [cluster["id"] for cluster in document["clusters"]] == [f"c-{text}" for text in HOSTILE]
