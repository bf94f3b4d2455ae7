"""The files that ssh is given when it is run here: a configuration for one run, and the hosts that were seen before."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs

from tensorpool_async.protocol.ssh_command import IDENTITY_VARIABLE, KNOWN_HOSTS_VARIABLE


PLAIN = re.compile(r"[A-Za-z0-9._/-]+")
"""Paths that may stand in `rsync -e` and in the command that ssh runs for a jump host: both are split again."""

DROPPED = ("RSYNC_", "TENSORPOOL_", "CVSIGNORE")
"""Beginnings of the variables that no program of the engine's commands gets: they change what rsync does, or hold the key."""


MACHINE_KEYS = Path("/etc/ssh")
"""The folder with the public keys of the sshd of this machine."""


@attrs.frozen
class SSHFiles:
    """A folder for one run of ssh, that nobody else can read.

    Attributes:
        folder: The folder.
    """

    folder: Path = attrs.Factory(lambda: _temporary() / f"tensorpool-{secrets.token_hex(8)}")

    @property
    def config(self) -> Path:
        """The configuration, for `ssh -F`."""
        return self.folder / "config"

    def write(self, configuration: str) -> None:
        """Make the folder and write the configuration.

        A host with a key of this machine is not connected to: what is run on the engine's side is not run here.
        """
        self.folder.mkdir(mode=0o700)
        revoked = self.folder / "this_machine"
        revoked.write_text("".join(_keys_of(MACHINE_KEYS)), encoding="utf-8")
        self.config.write_text(f"RevokedHostKeys {revoked}\n{configuration}", encoding="utf-8")

    def environment(self, private_key: str | os.PathLike[str] | None) -> dict[str, str]:
        """Return the environment of a program that runs ssh: programs come from absolute folders only."""
        variables = {name: value for name, value in os.environ.items() if not name.startswith(DROPPED)}
        variables["PATH"] = os.pathsep.join(path for path in os.get_exec_path() if Path(path).is_absolute())
        variables[KNOWN_HOSTS_VARIABLE] = str(self._known_hosts())
        if private_key is not None:
            variables[IDENTITY_VARIABLE] = str(Path(private_key).expanduser().absolute())
        return variables

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _known_hosts(self) -> Path:
        try:
            path = known_hosts_path(os.environ)
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except (OSError, RuntimeError):  # a container without a home: what is seen now is forgotten
            return self.folder / "known_hosts"
        return path


def known_hosts_path(environment: Mapping[str, str]) -> Path:
    """Return the file with the keys of the hosts that the engine's commands have connected to.

    Raises:
        RuntimeError: There is no home folder.
    """
    state = environment.get("XDG_STATE_HOME", "")
    base = Path(state) if Path(state).is_absolute() else Path.home() / ".local" / "state"
    return base / "tensorpool-async" / "known_hosts"


def _keys_of(folder: Path) -> Iterator[str]:
    for path in folder.glob("ssh_host_*_key.pub"):
        with contextlib.suppress(OSError, UnicodeDecodeError):
            yield f"{path.read_text(encoding='utf-8').strip()}\n"


def _temporary() -> Path:
    folder = tempfile.gettempdir()
    return Path(folder if PLAIN.fullmatch(folder) else "/tmp")  # noqa: S108 - the folder in it is new, and ours alone
