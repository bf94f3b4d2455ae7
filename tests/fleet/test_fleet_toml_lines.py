from __future__ import annotations

import textwrap

import pytest

from tensorpool_async.fleet.toml_lines import KeyLines, KeyPath


TEXT = textwrap.dedent(
    '''\
    # a fleet
    name = "sweep"
    motto = """
    [not.a.table]
    count = 7 \\"""
    """
    "quoted \\u0041".part = 'it is = here'

    [clusters.trainer]   # [clusters.comment]
    count = 8
    instance_type = [
      "8xB200",  # "first", ]
      \'\'\'8x]H200\'\'\',
    ]
    [clusters]
    eval = { count = 2, instance_type = "1xH100" }
    [[lists]]
    deep = [[1, 2],
            [3]]
    '''
)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("name",), 2),
        (("motto",), 3),
        (("quoted A", "part"), 7),
        (("clusters", "trainer"), 9),
        (("clusters", "trainer", "count"), 10),
        (("clusters", "trainer", "instance_type"), 11),
        (("clusters", "trainer", "instance_type", 0), 12),
        (("clusters", "trainer", "instance_type", 1), 13),
        (("clusters",), 15),
        (("clusters", "eval", "count"), 16),
        (("clusters", "eval", "instance_type"), 16),
        (("lists", "deep"), 18),
        (("lists", "deep", 1), 19),
    ],
)
def test_every_key_has_its_line(path: KeyPath, line: int) -> None:
    assert KeyLines(TEXT).line_of(path) == line


def test_a_missing_key_has_the_line_of_its_table() -> None:
    key_lines = KeyLines(TEXT)
    assert key_lines.line_of(("clusters", "trainer", "num_nodes")) == 9
    assert key_lines.line_of(("volumes", "data")) is None


def test_an_invalid_text_is_read_up_to_the_mistake() -> None:
    key_lines = KeyLines('name = "sweep"\n[clusters.trainer]\ncount = 8]\nlater = 1\n')
    assert key_lines.key_before(3) == ("clusters", "trainer", "count")
    assert key_lines.line_of(("clusters", "trainer", "later")) == 2


def test_no_key_is_before_the_first() -> None:
    assert KeyLines("\n\nname = 1").key_before(2) is None


@pytest.mark.parametrize(
    "text", ["[", "[a", "a", "a =", "a = [", "a = {b", 'a = "', "= 1", '"\\q" = 1', "a = " + "[" * 5000]
)
def test_an_invalid_text_raises_no_error(text: str) -> None:
    KeyLines(text)


def test_a_table_that_is_defined_twice_has_the_line_of_the_first() -> None:
    key_lines = KeyLines("[a]\nb = 1\n[a]\n")
    assert key_lines.line_of(("a",)) == 1
    assert key_lines.key_before(3) == ("a",)
