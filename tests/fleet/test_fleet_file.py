from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from tensorpool_async.errors import FleetFileError
from tensorpool_async.fleet import ClusterGroup, Fleet, VolumeGroup, load


PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIj ada@example"
# Not a real key.
SECRET_PART = "b3BlbnNzaC1rZXktdjEAAAAA"
PRIVATE_KEY = f"-----BEGIN OPENSSH PRIVATE KEY-----\n{SECRET_PART}\n-----END OPENSSH PRIVATE KEY-----\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "fleet.toml"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def mistake(folder: Path, text: str) -> FleetFileError:
    path = write(folder, text)
    with pytest.raises(FleetFileError) as caught:
        load(path)
    assert caught.value.path == str(path)
    assert str(caught.value).startswith(str(path))
    return caught.value


def test_a_whole_file(tmp_path: Path) -> None:
    (tmp_path / "mine.pub").write_text(PUBLIC_KEY)
    path = write(
        tmp_path,
        """\
        name = "sweep"
        max_hourly_cost = 400.0

        [clusters.trainer]
        count = 8
        instance_type = ["8xB200", "8xH200"]
        num_nodes = 2
        public_keys = ["mine.pub"]
        container = "nvcr.io/nvidia/pytorch:25.01"
        deletion_protection = true

        [clusters.eval]
        instance_type = "1xH100"

        [volumes.data]
        size_gb = 500
        attach_to = ["trainer"]
        """,
    )
    assert (
        load(path)
        == load(str(path))
        == Fleet(
            "sweep",
            [
                ClusterGroup(
                    "trainer",
                    ["8xB200", "8xH200"],
                    count=8,
                    num_nodes=2,
                    public_keys=[PUBLIC_KEY],
                    container="nvcr.io/nvidia/pytorch:25.01",
                    deletion_protection=True,
                ),
                ClusterGroup("eval", "1xH100"),
            ],
            [VolumeGroup("data", 500, attach_to=["trainer"])],
            max_hourly_cost=400.0,
        )
    )


def test_a_byte_order_mark_and_windows_line_ends_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "fleet.toml"
    path.write_bytes('\ufeffname = "s"\r\n[clusters.a]\r\ninstance_type = "1xH100"\r\n'.encode())
    assert load(path).members[0].name == "s-a-0"


HEAD = 'name = "sweep"\n[clusters.a]\ninstance_type = "1xH100"\n'


@pytest.mark.parametrize(
    ("text", "line", "key", "words"),
    [
        ('name "sweep"', 1, "name", "not valid TOML"),
        ('name = "sweep"\n[clusters.a]\ncount = \n', 3, "clusters.a.count", "not valid TOML"),
        ('name = "sweep"\nmotto = """\n\n', 2, "motto", "not valid TOML"),
        (f"{HEAD}[clusters.a]\n", 4, "clusters.a", "twice"),
        (f"{HEAD}count = 1\ncount = 2\n", 5, "clusters.a.count", "twice"),
        ("", 1, "name", "no name"),
        ('[clusters.a]\ninstance_type = "1xH100"', 1, "name", "no name"),
        ('name = "sweep"', None, "clusters", "at least one"),
        ('name = "sweep"\n[clusters]\n', 2, "clusters", "at least one"),
        ('name = "sweep"\nclusters = 3', 2, "clusters", "tables"),
        ('name = "sweep"\n[[clusters.a]]\n', 2, "clusters.a", "must be a table"),
        ('name = "sweep"\n[clusters]\na = 4', 3, "clusters.a", "must be a table"),
        ('name = 5\n[clusters.a]\ninstance_type = "1xH100"', 1, "name", "string"),
        ('name = "a b"\n[clusters.a]\ninstance_type = "1xH100"', 1, "name", "letters"),
        ('name = "a"\n[clusters."a b"]\ninstance_type = "1xH100"', 2, "clusters.a b", "letters"),
        ('name = "a"\n[clusters.a]\ncount = 2', 2, "clusters.a.instance_type", "is missing"),
        (f"{HEAD}cuont = 2", 4, "clusters.a.cuont", "did you mean 'count'?"),
        (f"{HEAD}name = 2", 4, "clusters.a.name", "unknown key"),
        (f"budget = 5\n{HEAD}", 1, "budget", "max_hourly_cost"),
        (f"{HEAD}count = 0", 4, "clusters.a.count", "above 0"),
        (f"{HEAD}count = -3", 4, "clusters.a.count", "above 0"),
        (f"{HEAD}count = true", 4, "clusters.a.count", "whole number"),
        (f'{HEAD}count = "2"', 4, "clusters.a.count", "whole number"),
        (f"{HEAD}num_nodes = 1.5", 4, "clusters.a.num_nodes", "whole number"),
        ('name = "a"\n[clusters.a]\ninstance_type = []', 3, "clusters.a.instance_type", "empty"),
        (f"{HEAD}public_keys = [\n'missing.pub']", 5, "clusters.a.public_keys", "'missing.pub'"),
        (f"{HEAD}public_keys = 'x.pub'", 4, "clusters.a.public_keys", "list"),
        (f"{HEAD}public_keys = [1]", 4, "clusters.a.public_keys", "string"),
        (f"max_hourly_cost = nan\n{HEAD}", 1, "max_hourly_cost", "above 0"),
        (f"max_hourly_cost = 0\n{HEAD}", 1, "max_hourly_cost", "above 0"),
        (f"max_hourly_cost = '5'\n{HEAD}", 1, "max_hourly_cost", "above 0"),
        (f"{HEAD}[clusters.A]\ninstance_type = '1xH100'", 4, "clusters.A", "used twice"),
        (f"{HEAD}[volumes.d]\nattach_to = ['a']", 4, "volumes.d.size_gb", "is missing"),
        (f"{HEAD}[volumes.d]\nsize_gb = 5\nattach_to = ['b']", 6, "volumes.d.attach_to", "no group 'b'"),
        (f"{HEAD}[volumes.a-0]\nsize_gb = 5", 4, "volumes.a-0", "sweep-a-0"),
        (f"{HEAD}[volumes.d]\nsize = 5", 5, "volumes.d.size", "did you mean 'size_gb'?"),
        ("a = " + "[" * 5000, None, None, "nested too deeply"),
    ],
)
def test_every_mistake_names_its_line_and_key(
    text: str, line: int | None, key: str | None, words: str, tmp_path: Path
) -> None:
    error = mistake(tmp_path, text)
    assert (error.line, error.key) == (line, key)
    assert words in str(error)
    assert "\n" not in str(error)


def test_a_private_key_is_refused_and_not_shown(tmp_path: Path) -> None:
    (tmp_path / "id_ed25519").write_text(PRIVATE_KEY)
    inline = PRIVATE_KEY.replace("\n", "\\n")
    for entry in ("id_ed25519", inline):
        error = mistake(tmp_path, f'{HEAD}public_keys = ["{entry}"]')
        assert error.key == "clusters.a.public_keys"
        assert "private key" in str(error)
        assert SECRET_PART not in str(error)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FleetFileError, match="No such file") as caught:
        load(tmp_path / "none.toml")
    assert caught.value.path == str(tmp_path / "none.toml")


def test_a_folder_in_place_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(FleetFileError, match="directory"):
        load(tmp_path)


def test_an_invalid_path(tmp_path: Path) -> None:
    with pytest.raises(FleetFileError, match="cannot be read"):
        load(f"{tmp_path}/nul\0.toml")


def test_a_file_that_is_not_utf8_has_the_line(tmp_path: Path) -> None:
    path = tmp_path / "fleet.toml"
    path.write_bytes(b'name = "sweep"\n# caf\xe9\n')
    with pytest.raises(FleetFileError, match="UTF-8") as caught:
        load(path)
    assert caught.value.line == 2
