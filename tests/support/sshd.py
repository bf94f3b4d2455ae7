"""A real sshd on loopback: with a host key, a configuration and a log of its own, and no password."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import attrs


SECONDS = 10
SFTP_SERVERS = (
    "/usr/lib/openssh/sftp-server",
    "/usr/libexec/openssh/sftp-server",
    "/usr/libexec/sftp-server",
)

FORCED = """\
#!/bin/sh
# Runs the other side of rsync and scp in the server's folder; of any other command it only keeps the text.
printf '%s\\n' "${{SSH_ORIGINAL_COMMAND-login}}" >> "{folder}/commands"
cd "{home}" && HOME="{home}" && export HOME
case "${{SSH_ORIGINAL_COMMAND-login}}" in
    "rsync --server"*) eval "exec $SSH_ORIGINAL_COMMAND" ;;
    *sftp-server) exec $SSH_ORIGINAL_COMMAND ;;
    "echo "*) eval "exec $SSH_ORIGINAL_COMMAND" ;;
esac
"""


def missing(*programs: str) -> str | None:
    """Return why no sshd can be run here, or one of the other programs; None where they can."""
    lacking = [program for program in ("ssh", "ssh-keygen", *programs) if shutil.which(program) is None]
    if sshd_path() is None:
        lacking.append("sshd")
    return f"not installed: {', '.join(lacking)}" if lacking else None


def sshd_path() -> str | None:
    """Return where sshd is: it has to be started by its full path."""
    return shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def make_key(path: Path) -> Path:
    """Make a key pair without a passphrase; return the path of the private key."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return path


def public_key(private: Path) -> str:
    """Return the public key of a key pair, as one line."""
    return private.with_name(f"{private.name}.pub").read_text().strip()


@attrs.define
class SSHServer:
    """An sshd.

    Attributes:
        folder: A new folder for its files.
        authorized_keys: The public keys that may log in.
        address: Where it listens.
        port: The port; 0 for any that is free.
        forced: Whether only the other sides of rsync and scp, and `echo`, are run, all of them in `home`.
    """

    folder: Path
    authorized_keys: Iterable[str] = ()
    address: str = "127.0.0.1"
    port: int = 0
    forced: bool = False
    _process: subprocess.Popen[bytes] | None = attrs.field(default=None, init=False)

    @property
    def user(self) -> str:
        """Who logs in: whoever runs the tests."""
        return getpass.getuser()

    @property
    def home(self) -> Path:
        """The folder that a forced command runs in."""
        return self.folder / "home"

    @property
    def commands(self) -> list[str]:
        """The commands that a forced server was asked for; `login` where there was none."""
        file = self.folder / "commands"
        return file.read_text(errors="replace").splitlines() if file.exists() else []

    @property
    def log(self) -> str:
        """What the server has logged."""
        return (self.folder / "log").read_text(errors="replace")

    @property
    def host_key(self) -> str:
        """The server's public key."""
        return public_key(self.folder / "host_key")

    def start(self) -> None:
        """Start it, and wait until it listens.

        Raises:
            RuntimeError: It does not.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.home.mkdir(exist_ok=True)
        if not (self.folder / "host_key").exists():
            make_key(self.folder / "host_key")
        self.port = self.port or _free_port(self.address)
        self._write()
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        path = sshd_path()
        if path is None:
            raise RuntimeError("sshd is not installed")
        with (self.folder / "log").open("ab") as log:
            self._process = self._popen(path, log)
        self._wait()

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(SECONDS)
            self._process = None

    def _popen(self, path: str, log: IO[bytes]) -> subprocess.Popen[bytes]:
        command = [path, "-D", "-e", "-f", str(self.folder / "sshd_config")]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _write(self) -> None:
        (self.folder / "authorized_keys").write_text("".join(f"{key}\n" for key in self.authorized_keys))
        lines = [
            f"ListenAddress {self.address}",
            f"Port {self.port}",
            f"HostKey {self.folder / 'host_key'}",
            f"AuthorizedKeysFile {self.folder / 'authorized_keys'}",
            f"PidFile {self.folder / 'pid'}",
            "AuthenticationMethods publickey",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "UsePAM no",
            "StrictModes no",
            "PermitRootLogin prohibit-password",
            "MaxStartups 200",
            "MaxSessions 200",
            "PrintMotd no",
            "LogLevel VERBOSE",
        ]
        sftp = next((path for path in SFTP_SERVERS if Path(path).exists()), None)
        if sftp is not None:
            lines.append(f"Subsystem sftp {sftp}")
        if self.forced:
            script = self.folder / "forced"
            script.write_text(FORCED.format(folder=self.folder, home=self.home))
            script.chmod(0o755)
            lines.append(f"ForceCommand {script}")
        (self.folder / "sshd_config").write_text("\n".join(lines) + "\n")

    def _wait(self) -> None:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            if self._process is None or self._process.poll() is not None:
                break
            try:
                with socket.create_connection((self.address, self.port), timeout=1):
                    return
            except OSError:
                time.sleep(0.02)
        self.stop()
        raise RuntimeError(f"sshd did not start: {self.log}")


@contextmanager
def running(server: SSHServer) -> Generator[SSHServer]:
    """Run a server for a block."""
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _free_port(address: str) -> int:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as listener:
        listener.bind((address, 0))
        port: int = listener.getsockname()[1]
        return port
