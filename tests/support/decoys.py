"""A home with decoys around the folder that the engine's commands may use, and what has become of them."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path

import attrs
import pytest

from tests.support.sshd import SSHServer


CANARY = "CANARY-5f2b"
OLD = (1_000_000_000, 1_100_000_000)
"""Times of access and of change: a file system that keeps few times of access keeps the next one of such a file."""

OUTSIDE = {
    ".bashrc": "alias x=y",
    ".popt": "# none",
    ".cvsignore": "*.o",
    ".netrc": "machine x",
    ".ssh/id_rsa": "-----BEGIN OPENSSH PRIVATE KEY-----",
    ".ssh/id_ed25519": "-----BEGIN OPENSSH PRIVATE KEY-----",
    ".ssh/other": "-----BEGIN OPENSSH PRIVATE KEY-----",
    ".ssh/authorized_keys": "ssh-ed25519 x",
    ".ssh/known_hosts": "x ssh-ed25519 x",
    ".ssh/config": "Host x",
    "other/notes.txt": "notes",
    "id_rsa": "notes",
}
READ_BY_PROGRAMS = frozenset({".popt", ".ssh/config", ".ssh/id_rsa", ".ssh/id_ed25519"})
"""Files of the user's that rsync and ssh read by themselves; what is in them must go nowhere."""

INSIDE = {"train.py": "print('train')\n", "data/one two.txt": "1\n"}


@attrs.define
class Decoys:
    """A home with secrets, a project in it, and programs that leave a mark when they are run.

    Attributes:
        home: The home.
        server: The other side.
    """

    home: Path
    server: SSHServer
    _before: Mapping[str, object] = attrs.field(factory=dict[str, object], init=False, repr=False)

    @property
    def folder(self) -> Path:
        """The folder that may be read or written."""
        return self.home / "project"

    @property
    def state(self) -> Path:
        """Where the keys of hosts go."""
        return self.home / "state" / "tensorpool-async"

    @property
    def mark(self) -> Path:
        """The file that a program leaves."""
        return self.home.parent / "PWNED"

    def make(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make the home, and let the environment name it."""
        self.refill()
        programs = self.home.parent / "programs"
        self._program(programs / "evil", f"echo evil >> '{self.mark}'")
        self._program(
            programs / "shell", f'case "$2" in *-W*) exec /bin/sh "$@" ;; esac; echo "$@" >> \'{self.mark}\''
        )
        monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
        monkeypatch.setenv("SHELL", str(programs / "shell"))
        monkeypatch.setenv("HOME", str(self.home))
        monkeypatch.setenv("XDG_STATE_HOME", str(self.home / "state"))
        self.restore()

    def restore(self) -> None:
        """Make what is outside of the folder as it was in the beginning."""
        self.mark.unlink(missing_ok=True)
        for name, text in OUTSIDE.items():
            self._write(self.home / name, f"{text}\n# {CANARY}\n")
            os.utime(self.home / name, OLD)
        self.remember()

    def remember(self) -> None:
        """Take what is outside of the folder now for what has to stay."""
        self._before = self._outside()

    def refill(self) -> None:
        """Make the folder, and the folder of the other side, as they were in the beginning."""
        for folder in (self.folder, self.server.home):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        for name, text in INSIDE.items():
            self._write(self.folder / name, text)
        (self.folder / "outside").symlink_to(self.home / ".ssh")
        (self.folder / "link").symlink_to("../.bashrc")
        (self.folder / "latest").symlink_to("data")

    def fill_other_side(self, *, links: bool) -> None:
        """Give the other side something to be fetched; with links that lead out of it, which it would follow itself."""
        shutil.rmtree(self.server.home, ignore_errors=True)
        for name in (
            "out/log",
            "out/.hidden",
            "out/d/authorized_keys",
            "job/outside/authorized_keys",
            "x",
            ".bashrc",
        ):
            self._write(self.server.home / name, "evil\n")
        (self.server.home / "out" / "links").mkdir()
        if not links:
            return
        for name, link in {
            "a": str(self.home / ".ssh"),
            "b": "../../..",
            "c": "../log",
            "d": "a/id_rsa",
        }.items():
            (self.server.home / "out" / "links" / name).symlink_to(link)

    def inside(self) -> dict[str, object]:
        """Return what is in the folder."""
        found: dict[str, object] = {}
        for path in sorted(self.folder.rglob("*")):
            status = path.lstat()
            found[str(path)] = (status.st_mode, status.st_size, status.st_mtime_ns)
        return found

    def fill_in(self, text: str, key: Path | None = None) -> str:
        """Put the names of this machine into a text."""
        names = {
            "PORT": str(self.server.port),
            "USER": self.server.user,
            "HOST": self.server.address,
            "FOLDER": str(self.folder),
            "KEY": shlex.quote(str(key)).replace("'", "'\\''") if key else "~/.ssh/id_ed25519",
        }
        for name, value in names.items():
            text = text.replace(name, value)
        return text

    def check(self, *told: str) -> None:
        """See that no program was run, and that nothing outside of the folder was read, changed or told."""
        assert not self.mark.exists(), self.mark.read_text()
        assert not list(self.home.parent.rglob("PWNED"))
        after = self._outside()
        changed = sorted(name for name, _ in after.items() ^ self._before.items())
        assert not changed, changed
        for text in (*told, self.server.log):
            assert CANARY not in text
        for path in self.server.home.rglob("*"):
            if path.is_file() and not path.is_symlink():
                assert CANARY not in path.read_text(errors="replace"), path

    def _outside(self) -> dict[str, object]:
        found: dict[str, object] = {}
        for top, folders, files in os.walk(self.home):
            folders[:] = [
                name for name in folders if Path(top) / name not in {self.folder, self.state.parent}
            ]
            for name in (*folders, *files):
                path = Path(top) / name
                status = path.lstat()
                read = str(path.relative_to(self.home)) not in READ_BY_PROGRAMS and name in files
                found[str(path)] = (
                    status.st_mode,
                    status.st_uid,
                    status.st_size if name in files else 0,
                    status.st_mtime_ns if name in files else 0,
                    status.st_atime_ns if read else 0,
                )
        return found

    @staticmethod
    def _write(path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    @classmethod
    def _program(cls, path: Path, script: str) -> None:
        cls._write(path, f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
