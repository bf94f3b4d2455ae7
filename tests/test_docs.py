"""Every block of README and documentation runs, and every page says what is true of the package."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.sse import EventSourceResponse

from tensorpool_async import TensorPool
from tests.support.pages import LANGUAGES, NOT_RUN, Page, Place, all_pages, docstring_examples


PAGES = {page.name: page for page in all_pages()}
BLOCKS = [(page.name, index) for page in PAGES.values() for index in range(len(page.blocks))]
EXAMPLES = [example for example in docstring_examples() if "├" not in example[2]]
"""The examples in docstrings, without the tree of errors."""

NO_CODE = {"eval-rst", "toctree", "operation-states", "retry-table", "note", "warning"}
"""Directives of the pages that hold no code."""


def block_id(block: tuple[str, int]) -> str:
    name, index = block
    return f"{name}:{PAGES[name].blocks[index].example.line}"


@pytest.fixture
def no_blocking_calls() -> None:
    """Let the pages block, as a program may that reads its fleet file, or asks for a command's output."""


@pytest.fixture(scope="module")
def pages() -> Iterator[dict[str, Page]]:
    yield PAGES
    for page in PAGES.values():
        page.close()


@pytest.mark.timeout(120)  # where a test begins in the middle of a page, what stands before it runs too
@pytest.mark.parametrize("block", BLOCKS, ids=block_id)
def test_each_block_runs(
    block: tuple[str, int], pages: dict[str, Page], tmp_path_factory: pytest.TempPathFactory
) -> None:
    name, index = block
    pages[name].run(index, tmp_path_factory.mktemp("page"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: f"{example[0]}:{example[1]}")
def test_each_example_of_a_docstring_runs(example: tuple[str, int, str], tmp_path: Path) -> None:
    """In the namespace of its module, since a docstring says where it stands."""
    module, _, source = example
    (tmp_path / "fleet.toml").write_text('name = "sweep"\n[clusters.eval]\ninstance_type = "1xH100"\n')
    with Place(tmp_path) as place, place.entered():
        place.namespace |= {"TensorPool": TensorPool, "EventSourceResponse": EventSourceResponse}
        place.namespace |= vars(importlib.import_module(module))
        place.execute(source, module)


def test_no_block_is_overlooked() -> None:
    for page in PAGES.values():
        text = page.path.read_text()
        fences = re.findall(r"(?m)^[ \t]*(?:```+|~~~+)([^\n`]*)$", text)
        opening = [info.strip() for info in fences[::2]]
        assert all(not info.strip() for info in fences[1::2]), page.name
        languages = [info for info in opening if info.strip("{}") not in NO_CODE]
        assert set(languages) <= set(LANGUAGES), page.name
        hidden = text.count("<!-- invisible-code-block:")
        assert len(page.blocks) == len(languages) + hidden, page.name


def test_what_is_not_run_is_known() -> None:
    """Outside of the exempt commands, which are few and have a reason, everything runs."""
    exempt = [
        command
        for page in PAGES.values()
        for block in page.blocks
        for command in block.commands
        if command.startswith(tuple(NOT_RUN))
    ]
    for beginning in NOT_RUN:
        assert any(command.startswith(beginning) for command in exempt), f"{beginning} is on no page any more"
    assert len(exempt) <= 20
