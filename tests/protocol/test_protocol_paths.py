"""File names from the engine never leave the folder that they are meant for."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorpool_async.errors import PathRefused
from tensorpool_async.protocol.paths import relative_path, relative_paths


FOLDER = PurePosixPath("/srv/output")
SCRAPS = st.sampled_from(["/", "//", ".", "..", "...", "~", "C:", "\\", "a", "b.txt", "\x00", "\n", " "])


@pytest.mark.parametrize(
    "name", ["a.txt", "a/b/c.txt", "./a", "a//b", "..a", "a..", "größe", "a b", "-rf", "a/~b"]
)
def test_an_ordinary_name_is_taken(name: str) -> None:
    assert relative_path(name) == PurePosixPath(name)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "is empty"),
        ("/etc/passwd", "is absolute"),
        ("~/.ssh/authorized_keys", "is absolute"),
        ("C:evil", "is absolute"),
        ("c:/evil", "is absolute"),
        ("a\x00b", "holds control characters"),
        ("a\nb", "holds control characters"),
        ("a\\..\\b", "holds a backslash"),
        ("..", "leads out of its folder"),
        ("../a", "leads out of its folder"),
        ("a/../b", "leads out of its folder"),
        ("a/..", "leads out of its folder"),
        ("a/", "names no file"),
        (".", "names no file"),
        ("a/.", "names no file"),
        ("a/" + "ß" * 121, "is too long"),
    ],
)
def test_a_name_that_leads_elsewhere_is_refused(name: str, problem: str) -> None:
    with pytest.raises(PathRefused, match=problem) as caught:
        relative_path(name)
    assert caught.value.name == name


@given(st.text() | st.lists(SCRAPS).map("".join))
def test_every_name_is_below_the_folder_or_refused(name: str) -> None:
    try:
        path = FOLDER / relative_path(name)
    except PathRefused:
        return
    assert FOLDER in path.parents
    assert ".." not in path.parts


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["a", "./a"], "'a' and './a' are the same file"),
        (["Model.pt", "model.PT"], "are the same file"),
        (["a", "a/b"], "'a' is a file, and the folder of 'a/b'"),
        (["a/b/c", "A"], "is a file, and the folder of 'a/b/c'"),
        (["a", ".."], "leads out"),
    ],
)
def test_names_that_get_in_each_others_way_are_refused(names: list[str], problem: str) -> None:
    with pytest.raises(PathRefused, match=problem):
        relative_paths(names)


def test_names_that_do_not_are_paths_by_name() -> None:
    assert relative_paths(["a/b", "a/c", "./d"]) == {
        "a/b": PurePosixPath("a/b"),
        "a/c": PurePosixPath("a/c"),
        "./d": PurePosixPath("d"),
    }
