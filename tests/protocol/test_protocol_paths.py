"""File names from the engine stay below the folder that they are meant for, and each has a place of its own there."""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorpool_async.errors import PathRefused
from tensorpool_async.protocol.paths import FOLDING, FileSystem, local_names


FOLDER = PurePosixPath("/srv/output")
POSIX = FileSystem()
WINDOWS = FileSystem(windows=True, folds_case=True)
SCRAPS = st.sampled_from(
    [
        "/",
        "//",
        ".",
        "..",
        "...",
        "~",
        "C:",
        "\\",
        "a",
        "A",
        "b.txt",
        "\x00",
        "\n",
        " ",
        "NUL",
        "\ud800",
        "e\u0301",
        "\u00e9",
    ]
)
NAMES = st.lists(st.text() | st.lists(SCRAPS).map("".join), max_size=12)


def path_of(name: str, system: FileSystem = POSIX) -> str:
    local = local_names([name], system)[name]
    assert local.path is not None
    return str(local.path)


@pytest.mark.parametrize(
    "name",
    [
        "a.txt",
        "a/b/c.txt",
        "..a",
        "a..",
        "größe",
        "a b",
        "-rf",
        "a/~b",
        "~$draft.docx",
        "CON",
        "aa:b",
        "a\\b",
        ".tpa-0.part",
    ],
)
def test_a_name_that_a_file_system_holds_stays_as_it_is(name: str) -> None:
    assert path_of(name) == name
    assert local_names([name], POSIX)[name].note == ""


@pytest.mark.parametrize(("name", "path"), [("./a", "a"), ("a//b", "a/b"), ("a/./b", "a/b")])
def test_steps_that_lead_nowhere_are_left_out(name: str, path: str) -> None:
    assert path_of(name) == path


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("/etc/passwd", "is absolute"),
        ("//host/share", "is absolute"),
        ("\\\\host\\share", "is absolute"),
        ("\\x", "is absolute"),
        ("~", "is absolute"),
        ("~/.ssh/authorized_keys", "is absolute"),
        ("~root/x", "is absolute"),
        ("C:evil", "is absolute"),
        ("c:/evil", "is absolute"),
        ("a\\..\\b", "leads out of its folder"),
        ("..", "leads out of its folder"),
        ("../a", "leads out of its folder"),
        ("a/../b", "leads out of its folder"),
        ("a/..", "leads out of its folder"),
        ("a\x00/../b", "leads out of its folder"),
    ],
)
def test_a_name_that_leads_elsewhere_is_refused_with_all_others(name: str, problem: str) -> None:
    with pytest.raises(PathRefused, match=problem) as caught:
        local_names(["good", name], POSIX)
    assert caught.value.name == name


@pytest.mark.parametrize("name", ["", ".", "./", "a/", "a/.", "a//", "a/b/"])
def test_a_name_of_a_folder_is_skipped(name: str) -> None:
    local = local_names([name, "good"], POSIX)
    assert local[name].path is None
    assert "names a folder" in local[name].note
    assert local["good"].path == PurePosixPath("good")


@pytest.mark.parametrize(
    ("name", "beginning", "ending"),
    [
        ("a\x00b.txt", "a_b~", ".txt"),
        ("a\nb", "a_b~", ""),
        ("a\x9bb", "a_b~", ""),
        ("x\ud800y.bin", "x_y~", ".bin"),
        ("\udcff", "_~", ""),
        ("in\x1b[2J/file", "in_[2J~", "/file"),
        ("a" * 300 + ".safetensors", "aaa", ".safetensors"),
        ("ß" * 121, "ßßß", ""),
        ("." + "x" * 300, ".xxx", ""),
    ],
)
def test_what_no_file_system_holds_is_renamed_and_says_so(name: str, beginning: str, ending: str) -> None:
    path = path_of(name)
    assert path.startswith(beginning)
    assert path.endswith(ending)
    assert all(len(part.encode()) <= 240 for part in path.split("/"))
    assert local_names([name], POSIX)[name].note.startswith("renamed: it ")
    assert path_of(name) == path, "a second pull finds what the first one has brought"
    assert path_of(name) != path_of(name + "\x00"), "and two names have two places"


@pytest.mark.parametrize(
    "name",
    [
        "CON",
        "con.txt",
        "aux",
        "NUL.tar.gz",
        "COM1",
        "lpt\u00b9.x",
        "a.",
        "a ",
        "a/b./c",
        "aa:b",
        "what?",
        'a"b',
        "a\\b",
        "a|b",
    ],
)
def test_windows_keeps_more_for_itself(name: str) -> None:
    path = path_of(name, WINDOWS)
    assert path != name
    for part in path.split("/"):
        assert not PureWindowsPath(part).is_reserved()
        assert part == part.rstrip(". ")
        assert not set(part) & set('<>:"|?*\\')


def test_a_path_that_is_too_long_altogether_is_skipped() -> None:
    name = "/".join(["d" * 200] * 40)
    local = local_names([name, "good"], POSIX)
    assert local[name].path is None
    assert "longer than 3000 bytes" in local[name].note


@pytest.mark.parametrize(
    ("names", "system", "kept"),
    [
        (["a", "./a"], POSIX, "./a"),
        (["a", "a/b"], POSIX, "a/b"),
        (["a/b", "a", "a/b/c"], POSIX, "a/b/c"),
        (["Model.pt", "model.PT"], FileSystem(folds_case=True), "Model.pt"),
        (["A", "a/b/c"], FileSystem(folds_case=True), "a/b/c"),
        (["\u00e9", "e\u0301"], FileSystem(normalizes=True), "e\u0301"),
        (["STRASSE", "straße"], FOLDING, "STRASSE"),
    ],
)
def test_names_that_get_in_each_others_way_are_told_apart(
    names: list[str], system: FileSystem, kept: str
) -> None:
    local = local_names(names, system)
    assert local[kept].note == ""
    places = {system.key(str(one.path)) for one in local.values()}
    assert len(places) == len(names)
    assert [one.note for one in local.values() if one.note]
    assert local_names(names[::-1], system) == local, "whatever the order"


@pytest.mark.parametrize("names", [["Model.pt", "model.PT"], ["\u00e9", "e\u0301"], ["A", "a/b"]])
def test_a_file_system_that_tells_them_apart_holds_both(names: list[str]) -> None:
    assert [str(one.path) for one in local_names(names, POSIX).values()] == names


def test_a_name_made_to_meet_a_renamed_one_takes_nothing_from_it() -> None:
    stolen = path_of("a\x00b")
    local = local_names(["a\x00b", stolen], POSIX)
    assert str(local[stolen].path) == stolen
    assert local["a\x00b"].path != local[stolen].path


@given(NAMES, st.sampled_from([POSIX, WINDOWS, FOLDING]))
def test_all_names_are_below_the_folder_and_apart_or_refused(names: list[str], system: FileSystem) -> None:
    try:
        local = local_names(names, system)
    except PathRefused:
        return
    assert set(local) == set(names)
    places = [one.path for one in local.values() if one.path is not None]
    for place in places:
        assert FOLDER in (FOLDER / place).parents
        assert ".." not in place.parts
        assert len(str(place).encode()) <= 3100
        assert not PureWindowsPath(str(place)).is_absolute() or system is not WINDOWS
    keys = {system.key(str(place)) for place in places}
    assert len(keys) == len(places)
    folders = {system.key(str(parent)) for place in places for parent in place.parents[:-1]}
    assert not keys & folders
