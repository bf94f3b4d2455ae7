"""The engine's commands with real rsync, scp, ssh and sshd, in a home with decoys (design, section 9)."""

from __future__ import annotations

import asyncio
import logging
import os
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import anyio
import pytest

from tensorpool_async import CommandRefused, PathRefused, TensorPool
from tensorpool_async.events import Dispatcher, Event, SecretsInUpload
from tensorpool_async.protocol.command_words import LocalPath
from tensorpool_async.protocol.commands import refuse_all, transfers_only
from tensorpool_async.protocol.transfers import Direction, Transfer
from tensorpool_async.resources import commands, ssh_files
from tensorpool_async.resources.commands import CommandRunner, excluded_rules
from tensorpool_async.resources.staging_directory import StagingDirectory
from tensorpool_async.resources.subprocesses import CommandResult
from tensorpool_async.resources.uploads import check_upload
from tests.resources.test_resources_jobs import pushing
from tests.support.decoys import Decoys
from tests.support.scripted import ScriptedEngine
from tests.support.sshd import SSHServer, make_key, missing, public_key, running


REASON = missing("rsync", "scp")
pytestmark = pytest.mark.skipif(REASON is not None, reason=REASON or "")

PUSH, PULL = Direction.PUSH, Direction.PULL
Run = Callable[..., "object"]


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the user's key, in a folder whose name every parser reads differently."""
    return make_key(tmp_path_factory.mktemp("keys") / "my %h ${HOME} 'key" / "id")


@pytest.fixture(scope="session")
def plain_key(tmp_path_factory: pytest.TempPathFactory, key: Path) -> Path:
    """Copy the user's key to a folder that the engine can name."""
    path = tmp_path_factory.mktemp("keys") / "my keys" / "id"
    path.parent.mkdir()
    path.write_bytes(key.read_bytes())
    path.chmod(0o600)
    return path


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, key: Path) -> Iterator[SSHServer]:
    with running(SSHServer(tmp_path_factory.mktemp("sshd"), [public_key(key)], forced=True)) as started:
        yield started


@pytest.fixture
def decoys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: SSHServer) -> Iterator[Decoys]:
    made = Decoys(tmp_path / "home", server)
    made.make(monkeypatch)
    yield made
    made.check()


class Runner:
    """Runs texts as an engine's, in a folder with decoys around it."""

    def __init__(self, decoys: Decoys, key: Path | None) -> None:
        self.decoys = decoys
        self.key = key
        self.events: list[Event] = []

    async def __call__(
        self, direction: Direction, text: str, *, exclude: Sequence[str] = (), folder: Path | None = None
    ) -> CommandResult:
        runner = CommandRunner(
            transfers_only,
            direction,
            folder or self.decoys.folder,
            Dispatcher(self.events.append),
            self.key,
            excluded_rules(exclude),
        )
        return await runner.run(self.decoys.fill_in(text), shown=True)


@pytest.fixture
def runner(decoys: Decoys, key: Path) -> Runner:
    return Runner(decoys, key)


def files_in(folder: Path) -> dict[str, str]:
    """Return the files of a folder with their texts; of a link, where it leads."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_file():
            found[name] = path.read_text()
    return found


# What engines are known to ask for

UPLOADS = [
    "rsync -avz -e 'ssh -p PORT' ./ USER@HOST:job/",
    "rsync -avz -e 'ssh -p PORT -i KEY -o StrictHostKeyChecking=no' ./ USER@HOST:job/",
    "rsync -az --rsh='ssh -p PORT -o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no' . HOST:job",
    "rsync -azP --info=progress2 --partial --delete -e 'ssh -p PORT' ./ HOST:job/",
    "rsync -avzuh --stats --no-owner --no-group -e 'ssh -p PORT' ./ HOST:job/",
    "rsync -aAXH --numeric-ids -e 'ssh -q -C -p PORT' ./ HOST:job/",
    "rsync -rlptgoD --mkpath -e 'ssh -p PORT -l USER' ./ HOST:job/",
    "rsync -a -s --timeout=20 --bwlimit=10M -e 'ssh -p PORT' ./ HOST:job/",
    "rsync --recursive --times -e 'ssh -p PORT -o ConnectTimeout=5 -o LogLevel=ERROR' -- ./ HOST:job/",
]


@pytest.mark.parametrize("text", UPLOADS)
async def test_an_upload_arrives(text: str, runner: Runner) -> None:
    result = await runner(PUSH, text)
    assert result.exit_code == 0, result.stderr
    arrived = files_in(runner.decoys.server.home / "job")
    assert arrived["train.py"] == "print('train')\n"
    assert arrived["data/one two.txt"] == "1\n"


async def test_an_upload_by_scp_arrives(runner: Runner) -> None:
    result = await runner(PUSH, "scp -r -p -C -P PORT -o ConnectTimeout=5 ./data USER@HOST:")
    assert result.exit_code == 0, result.stderr
    assert files_in(runner.decoys.server.home / "data")["one two.txt"] == "1\n"
    (runner.decoys.server.home / "two words").mkdir()
    result = await runner(PUSH, "scp -P PORT train.py 'data/one two.txt' HOST:'two words'/")
    assert result.exit_code == 0, result.stderr
    assert files_in(runner.decoys.server.home / "two words").keys() == {"train.py", "one two.txt"}


DOWNLOADS = [
    "rsync -avz -e 'ssh -p PORT' USER@HOST:out/ ./",
    "rsync -avz -e 'ssh -p PORT -i KEY' USER@HOST:out/ .",
    "rsync -azu --partial --progress -e 'ssh -p PORT' HOST:out/ ./",
    "rsync -az --include='*/' --include='*.txt' --include=log --exclude='*' -e 'ssh -p PORT' HOST:out/ ./",
    "scp -r -P PORT 'HOST:out/*' .",
]


@pytest.mark.parametrize("text", DOWNLOADS)
async def test_a_download_arrives(text: str, runner: Runner, tmp_path: Path) -> None:
    out = runner.decoys.server.home / "out"
    (out / "deep").mkdir(parents=True)
    (out / "log").write_text("done\n")
    (out / "deep" / "ü b.txt").write_text("deep\n")
    to = tmp_path / "home" / "project" / "results"
    for _ in range(2):
        result = await runner(PULL, text, folder=to)
        assert result.exit_code == 0, result.stderr
        assert files_in(to) == {"log": "done\n", "deep/ü b.txt": "deep\n"}
    assert stat.S_IMODE((to / "log").stat().st_mode) & 0o7000 == 0


async def test_what_is_here_already_is_not_fetched_again(runner: Runner, tmp_path: Path) -> None:
    out = runner.decoys.server.home / "out"
    out.mkdir()
    (out / "large").write_bytes(os.urandom(300_000))
    for name in ("a", "b"):
        (out / name).write_text(name)
    to = tmp_path / "home" / "project" / "results"
    text = "rsync -a --stats -e 'ssh -p PORT' HOST:out ./"
    await runner(PULL, text, folder=to)
    (out / "b").write_text("new")
    again = await runner(PULL, text, folder=to)
    assert "Number of regular files transferred: 1" in again.stdout
    assert (to / "out" / "b").read_text() == "new"
    assert (to / "out" / "large").read_bytes() == (out / "large").read_bytes()


async def test_a_newer_file_is_kept_where_the_command_says_so(runner: Runner, tmp_path: Path) -> None:
    out = runner.decoys.server.home / "out"
    out.mkdir()
    (out / "log").write_text("theirs")
    os.utime(out / "log", (1, 1))
    to = tmp_path / "home" / "project" / "results"
    to.mkdir()
    (to / "log").write_text("mine")
    await runner(PULL, "rsync -au -e 'ssh -p PORT' HOST:out/ ./", folder=to)
    assert (to / "log").read_text() == "mine"
    await runner(PULL, "rsync -a -e 'ssh -p PORT' HOST:out/ ./", folder=to)
    assert (to / "log").read_text() == "theirs"


async def test_a_command_on_the_other_side_has_no_input(runner: Runner) -> None:
    result = await runner(PUSH, "ssh -p PORT USER@HOST echo 'two  words'")
    assert (result.exit_code, result.stdout) == (0, "two words\n")
    assert runner.decoys.server.commands[-1] == "echo two  words"


async def test_a_jump_host_is_reached_with_the_same_configuration(runner: Runner) -> None:
    """The `ssh` of a jump host gets no option of the command line."""
    result = await runner(PUSH, "ssh -p PORT -J USER@localhost:PORT USER@HOST echo there")
    assert (result.exit_code, result.stdout) == (0, "there\n"), result.stderr
    known = (runner.decoys.state / "known_hosts").read_text()
    assert known.count("ssh-ed25519") == 2, "the jump host's and the host's"


async def test_a_known_host_with_another_key_is_not_connected_to(
    runner: Runner, key: Path, tmp_path: Path
) -> None:
    runner.decoys.state.mkdir(parents=True)
    other = public_key(make_key(tmp_path / "other"))
    port = runner.decoys.server.port
    (runner.decoys.state / "known_hosts").write_text(f"[127.0.0.1]:{port} {other}\n")
    result = await runner(PUSH, "rsync -a -e 'ssh -p PORT -o StrictHostKeyChecking=no' ./ HOST:job/")
    assert result.exit_code != 0
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in result.stderr
    assert files_in(runner.decoys.server.home) == {}


async def test_the_sshd_of_this_machine_is_not_connected_to(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key of the user's may open it, and then the engine would run commands here."""
    (tmp_path / "ssh_host_ed25519_key.pub").write_text(runner.decoys.server.host_key)
    monkeypatch.setattr(ssh_files, "MACHINE_KEYS", tmp_path)
    before = len(runner.decoys.server.commands)
    for text in ("ssh -p PORT USER@HOST echo hi", "ssh -p 1 -J localhost:PORT HOST echo hi"):
        result = await runner(PUSH, text)
        assert result.exit_code == 255
        assert "revoked" in result.stderr
    assert len(runner.decoys.server.commands) == before


async def test_a_name_of_the_users_configuration_lends_no_address(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor what it forwards or runs here; what is left open is the user's to say."""
    config = runner.decoys.home / ".ssh" / "config"
    config.write_text(
        f"Host prod.invalid\n  HostName 127.0.0.1\n  Port {runner.decoys.server.port}\n"
        f"Host *\n  PermitLocalCommand yes\n  LocalCommand evil\n  ForwardAgent yes\n  RemoteForward 1 localhost:1\n"
        f"  ControlMaster auto\n  ControlPath {runner.decoys.home}/socket\n  Port {runner.decoys.server.port}\n"
    )
    runner.decoys.remember()
    result = await runner(PUSH, "ssh USER@prod.invalid echo hi")
    assert (result.exit_code, result.stdout) == (255, "")
    result = await runner(PUSH, "ssh USER@HOST echo hi")
    assert (result.exit_code, result.stdout) == (0, "hi\n"), result.stderr


async def test_an_ipv6_address_is_reached(decoys: Decoys, key: Path, tmp_path: Path) -> None:
    try:
        server = SSHServer(tmp_path / "six", [public_key(key)], address="::1", forced=True)
        server.start()
    except (OSError, RuntimeError) as error:
        pytest.skip(f"no IPv6 here: {error}")
    try:
        six = Runner(decoys, key)
        for text in ("rsync -a -e 'ssh -p SIX' ./ [::1]:job/", "scp -r -P SIX data USER@[::1]:"):
            result = await six(PUSH, text.replace("SIX", str(server.port)))
            assert result.exit_code == 0, result.stderr
        assert {"job/train.py", "data/one two.txt"} <= files_in(server.home).keys()
    finally:
        server.stop()


# What the user says


async def test_what_the_user_excludes_is_left_out_whatever_the_engine_includes(runner: Runner) -> None:
    folder = runner.decoys.folder
    (folder / ".env").write_text("SECRET=1\n")
    (folder / "deep").mkdir()
    (folder / "deep" / ".env").write_text("SECRET=2\n")
    (folder / "data" / "big.bin").write_text("big")
    result = await runner(
        PUSH,
        "rsync -a --include=.env --filter='+ .env' --include='*' --exclude=other -e 'ssh -p PORT' ./ HOST:job/",
        exclude=[".env", "/data/"],
    )
    assert result.exit_code == 0, result.stderr
    assert files_in(runner.decoys.server.home / "job").keys() == {"train.py", "link", "outside", "latest"}
    assert not [event for event in runner.events if isinstance(event, SecretsInUpload)]


@pytest.mark.parametrize("word", ["--exclude=!", "--include=!", "--filter=!", "--filter='clear'", "-f '!'"])
async def test_what_the_user_excludes_cannot_be_cleared(word: str, runner: Runner) -> None:
    with pytest.raises(CommandRefused):
        await runner(PUSH, f"rsync -a {word} -e 'ssh -p PORT' ./ HOST:job/", exclude=["data"])


async def test_scp_is_refused_where_it_would_take_along_what_is_excluded(runner: Runner) -> None:
    with pytest.raises(CommandRefused, match="exclude="):
        await runner(PUSH, "scp -r -P PORT data HOST:", exclude=["one*"])


@pytest.mark.parametrize("pattern", ["", "/", " ", "a\nb", "a\0"])
def test_an_exclude_that_is_no_pattern_is_a_mistake(pattern: str) -> None:
    with pytest.raises(ValueError, match="exclude="):
        excluded_rules([pattern])


SECRETS = {
    ".env": "A=1\n",
    ".env.production": "A=1\n",
    "deep/prod.env": "A=1\n",
    "deep/key": "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n",
    "cert.pem": "-----BEGIN CERTIFICATE-----\nx\n-----BEGIN RSA PRIVATE KEY-----\nx\n",
    "store.p12": "x",
}
NO_SECRETS = {
    ".env.example": "A=\n",
    "key.pub": "ssh-ed25519 x\n",
    "chain.pem": "-----BEGIN CERTIFICATE-----\nx\n",
    "test_keys.py": 'KEY = "-----BEGIN RSA PRIVATE KEY-----"\n',
    "ignored/.env": "A=1\n",
    "left/key": "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n",
}


async def test_secrets_that_an_upload_takes_along_are_named(
    runner: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    folder = runner.decoys.folder
    for name, text in {**SECRETS, **NO_SECRETS}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    (folder / ".gitignore").write_text("# mine\nignored/\n")
    text = "rsync -a --exclude=/left --filter=':- .gitignore' -e 'ssh -p PORT' ./ HOST:job/"
    with caplog.at_level(logging.WARNING, "tensorpool_async"):
        result = await runner(PUSH, text)
    assert result.exit_code == 0, result.stderr
    (event,) = [event for event in runner.events if isinstance(event, SecretsInUpload)]
    assert set(event.paths) == SECRETS.keys()
    assert event.folder == str(folder)
    (record,) = [record for record in caplog.records if "exclude=" in record.message]
    assert "6 files" in record.message
    arrived = files_in(runner.decoys.server.home / "job").keys()
    assert SECRETS.keys() <= arrived
    assert not {"ignored/.env", "left/key"} & arrived


# Attacks

ALREADY_SEEN = [
    (PUSH, "rsync -e 'ssh -o \"IdentityFile=x\\\" -oProxyCommand=touch\tPWNED -oIdentityFile=\\\"\"' a HOST:b"),
    (PUSH, "rsync -e 'ssh -o \"IdentityFile=x\\\" -oProxyCommand=touch PWNED -oIdentityFile=\\\"\"' a HOST:b"),
    (PUSH, "rsync -e \"ssh -o IdentityFile='x -oProxyCommand=evil'\" a HOST:b"),
    (PUSH, "rsync -a -e 'ssh -p PORT' HOST:s ."),
    (PUSH, "rsync -aL -e 'ssh -p PORT' outside HOST:"),
    (PUSH, "rsync -a -e 'ssh -p PORT' outside/ HOST:"),
    (PUSH, "rsync -a -e 'ssh -p PORT' outside/id_rsa HOST:"),
    (PUSH, "scp -P PORT outside/id_rsa HOST:"),
    (PUSH, "scp -r -P PORT outside HOST:"),
    (PUSH, "scp -r -P PORT . HOST:all"),
    (PUSH, "scp -P PORT link HOST:"),
    (PUSH, "scp -P PORT HOST:x outside/.bashrc"),
    (PUSH, "scp -P PORT :/../../.ssh/id_rsa HOST:"),
    (PUSH, "scp -P PORT '[x:/../../.ssh/id_rsa' HOST:"),
    (PULL, "scp -P PORT HOST:x '[x:/../../.bashrc'"),
    (PULL, "scp -P PORT HOST:x :/../../.bashrc"),
    (PULL, "scp -P PORT HOST:x outside/.bashrc"),
    (PULL, "rsync -a -e 'ssh -p PORT' HOST:x outside/.bashrc"),
    (PULL, "rsync -a -e 'ssh -p PORT' HOST:x outside/"),
    (PULL, "rsync -a -e 'ssh -p PORT' train.py HOST:x"),
    (PULL, "scp -P PORT train.py HOST:x"),
    (PULL, "scp -r -P PORT HOST:.. ."),
    (PULL, "scp -r -P PORT 'HOST:.*' ."),
    (PUSH, "rsync -a --remove-source-files -e 'ssh -p PORT' ./ HOST:job/"),
    (PUSH, "rsync -a -C -e 'ssh -p PORT' ./ HOST:job/"),
    (PUSH, "rsync -aF -e 'ssh -p PORT' ./ HOST:job/"),
    (PUSH, "rsync -a --filter=':- /.gitignore' -e 'ssh -p PORT' ./ HOST:job/"),
    (PUSH, "rsync -a --filter='. ../.ssh/id_rsa' -e 'ssh -p PORT' ./ HOST:job/"),
    (PUSH, "rsync -a --exclude-from=outside/id_rsa -e 'ssh -p PORT' ./ HOST:job/"),
    (PUSH, "rsync -a --copy-unsafe-links -e 'ssh -p PORT' ./ HOST:job/"),
    (PUSH, "rsync -ak -e 'ssh -p PORT' ./ HOST:job/"),
    (PUSH, "rsync -a --copy-devices -e 'ssh -p PORT' ./ HOST:job/"),
    (PULL, "rsync -aK -e 'ssh -p PORT' HOST:out/ ./"),
    (PULL, "rsync -a --delete -e 'ssh -p PORT' HOST:out/ ./"),
    (PULL, "rsync -a --link-dest=/ -e 'ssh -p PORT' HOST:out/ ./"),
    (PULL, "rsync -a --backup-dir=/tmp -b -e 'ssh -p PORT' HOST:out/ ./"),
    (PULL, "rsync -a --trust-sender -e 'ssh -p PORT' HOST:out/ ./"),
    (PUSH, "rsync -a ./ HOST::module"),
    (PUSH, "rsync -a ./ rsync://HOST/module"),
    (PULL, "scp scp://HOST/x ."),
    (PUSH, "rsync -a ./ -oProxyCommand=evil:x"),
    (PUSH, "rsync -a ./ USER@-oProxyCommand=evil:x"),
    (PUSH, "rsync -a -- -e evil HOST:x"),
    (PUSH, "scp -P PORT -- -oProxyCommand=evil HOST:"),
    (PUSH, "ssh -p PORT USER@-oProxyCommand=evil"),
    (PUSH, "ssh -p PORT -J '-oProxyCommand=evil' HOST"),
    (PUSH, "ssh -p PORT -J 'x;evil' HOST"),
    (PUSH, "ssh -p PORT -J 'x evil' HOST"),
    (PUSH, "ssh -p PORT -J a@HOST b@HOST"),
    (PUSH, "ssh -p PORT -l '-oProxyCommand=evil' HOST"),
    (PUSH, "ssh -p PORT -i ~/.ssh/other HOST"),
    (PUSH, "ssh -p PORT -i %d/.ssh/id_rsa HOST"),
    (PUSH, "ssh -p PORT -oIdentityFile=/etc/shadow HOST"),
    (PUSH, "ssh -p PORT -o 'User x\" -oProxyCommand=evil' HOST"),
    (PUSH, "ssh -p PORT -o CertificateFile=x HOST"),
    (PUSH, "ssh -p PORT -o 'Include x' HOST"),
    (PUSH, "ssh -p PORT -o ControlPath=x -M HOST"),
    (PUSH, "ssh -p PORT -W localhost:22 HOST"),
    (PUSH, "ssh -p PORT -R 1:localhost:22 HOST"),
    (PUSH, "ssh -p PORT -D 1080 HOST"),
    (PUSH, "ssh -p PORT -w 0 HOST"),
    (PUSH, "ssh -p PORT -X HOST"),
    (PUSH, "ssh -p PORT -f HOST"),
    (PUSH, "ssh -p 22.0 HOST"),
    (PUSH, "ssh -p ٢٢ HOST"),
    (PUSH, "ssh ssh://HOST:PORT"),
    (PUSH, "ssh -p PORT 'HOST%eth0'"),
    (PUSH, "rsync -a ./ 'fe80::1%lo]:x'"),
    (PUSH, "rsync -a ./ '[fe80::1%lo]:x'"),
    (PUSH, "rsync -a ./ 'HOST:x\u2028y'"),
    (PUSH, "rsync -a ./ 'HOST:x\x1b[2J'"),
]  # fmt: skip


@pytest.mark.parametrize(("direction", "text"), ALREADY_SEEN)
async def test_an_attack_is_refused(direction: Direction, text: str, runner: Runner) -> None:
    (runner.decoys.server.home / "x").write_text("evil")
    with pytest.raises(CommandRefused) as caught:
        await runner(direction, text)
    assert str(caught.value).isprintable()
    assert runner.events == []


async def test_known_hosts_are_kept_in_a_file_of_ours(runner: Runner) -> None:
    """Whatever the engine says of the file and of the checks."""
    text = (
        "ssh -p PORT -o StrictHostKeyChecking=no -o UserKnownHostsFile=FOLDER/train.py "
        "-o GlobalKnownHostsFile=FOLDER/train.py HOST echo hi"
    )
    result = await runner(PUSH, text)
    assert (result.exit_code, result.stdout) == (0, "hi\n"), result.stderr
    assert (runner.decoys.folder / "train.py").read_text() == "print('train')\n"
    known = runner.decoys.state / "known_hosts"
    assert known.read_text().count("ssh-ed25519") == 1
    assert stat.S_IMODE(known.parent.stat().st_mode) == 0o700


async def test_links_are_sent_as_links(runner: Runner) -> None:
    result = await runner(PUSH, "rsync -a -e 'ssh -p PORT' ./ HOST:job")
    assert result.exit_code == 0, result.stderr
    arrived = files_in(runner.decoys.server.home / "job")
    assert arrived["outside"].startswith("-> ")
    assert "CANARY" not in "".join(arrived.values())


async def test_what_a_download_brings_stays_in_the_folder(
    runner: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    """Links that lead out are not made, those that stay inside are, and nothing keeps a bit of the owner's."""
    out = runner.decoys.server.home / "out"
    (out / "run-3" / "deep").mkdir(parents=True)
    (out / "run-3" / "model").write_text("model")
    (out / "run-3" / "model").chmod(0o6777)
    links = {
        "latest": "run-3",
        "run-3/deep/up": "../model",
        "ssh": str(runner.decoys.home / ".ssh"),
        "up": "..",
        "up2": "../..",
        "run-3/dot": "deep/../../../..",
        "run-3/top": "..",
        "run-3/out": "top/..",
    }
    for name, link in links.items():
        (out / name).symlink_to(link)
    os.mkfifo(out / "fifo")
    to = runner.decoys.folder / "results"
    for text in (
        "rsync -a -e 'ssh -p PORT' HOST:out/ ./",
        "rsync -aD --specials -e 'ssh -p PORT' HOST:out/ .",
    ):
        result = await runner(PULL, text, folder=to)
        assert result.exit_code == 0, result.stderr
        assert files_in(to) == {
            "latest": "-> run-3",
            "run-3/deep/up": "-> ../model",
            "run-3/model": "model",
            "run-3/top": "-> ..",
        }
        assert sorted(path.name for path in to.iterdir()) == ["latest", "run-3"]
        assert stat.S_IMODE((to / "run-3" / "model").stat().st_mode) == 0o777


@pytest.mark.parametrize("text", ["rsync -a -e 'ssh -p PORT' HOST:out/ ./", "scp -r -P PORT 'HOST:out/*' ."])
async def test_a_download_does_not_write_through_a_link_that_is_there(text: str, runner: Runner) -> None:
    out = runner.decoys.server.home / "out"
    (out / "outside").mkdir(parents=True)
    (out / "outside" / "authorized_keys").write_text("evil")
    (out / "new").write_text("new")
    with pytest.raises(PathRefused, match="outside"):
        await runner(PULL, text)
    assert not (runner.decoys.folder / "new").exists(), "nothing was written"
    assert not list(runner.decoys.folder.glob(".tensorpool-*"))


@pytest.mark.parametrize("text", ["rsync -a -e 'ssh -p PORT' HOST:out/ ./", "scp -P PORT 'HOST:out/*' ."])
async def test_a_file_takes_the_place_of_a_link_and_not_of_what_it_leads_to(
    text: str, runner: Runner
) -> None:
    out = runner.decoys.server.home / "out"
    out.mkdir()
    (out / "link").write_text("new")
    result = await runner(PULL, text)
    assert result.exit_code == 0, result.stderr
    assert not (runner.decoys.folder / "link").is_symlink()
    assert (runner.decoys.folder / "link").read_text() == "new"


def test_links_are_put_into_place_only_where_they_stay_inside(tmp_path: Path) -> None:
    """Also where the program has left others: not every rsync sees through a chain of links."""
    target = tmp_path / "target"
    (target / "deep").mkdir(parents=True)
    (target / "mine").symlink_to(tmp_path)
    staging = StagingDirectory(target, target / ".staging")
    assert staging.make(LocalPath(())) == ".."
    inner = staging.path / "deep"
    inner.mkdir()
    links = [
        "ok",
        "../deep",
        "..",
        "../..",
        "/etc",
        "x/..",
        "../../target",
        "../mine",
        "../mine/x",
        "./../deep/./x",
        "../..",
    ]
    for number, link in enumerate(links):
        (inner / str(number)).symlink_to(link)
    staging.install(keep_newer=False)
    made = {links[int(path.name)] for path in (target / "deep").iterdir()}
    assert made == {"ok", "../deep", "..", "./../deep/./x"}


async def test_a_folder_that_was_a_link_the_last_time_is_not_written_through(runner: Runner) -> None:
    out = runner.decoys.server.home / "out"
    out.mkdir()
    (out / "d").symlink_to(runner.decoys.home / ".ssh")
    to = runner.decoys.folder / "results"
    await runner(PULL, "rsync -a -e 'ssh -p PORT' HOST:out/ ./", folder=to)
    (out / "d").unlink()
    (out / "d").mkdir()
    (out / "d" / "authorized_keys").write_text("evil")
    await runner(PULL, "rsync -a -e 'ssh -p PORT' HOST:out/ ./", folder=to)
    assert files_in(to) == {"d/authorized_keys": "evil"}


async def test_the_environment_does_not_change_what_is_run(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RSYNC_RSH", "RSYNC_CONNECT_PROG", "RSYNC_PROXY"):
        monkeypatch.setenv(name, "evil")
    monkeypatch.setenv("TENSORPOOL_KEY", "tp-key")
    monkeypatch.setenv("PATH", f".::{os.environ['PATH']}")
    monkeypatch.chdir(runner.decoys.folder)
    for name in ("rsync", "ssh"):
        (runner.decoys.folder / name).write_text("#!/bin/sh\nevil\n")
        (runner.decoys.folder / name).chmod(0o755)
    result = await runner(PUSH, "rsync -a -e 'ssh -p PORT' ./ HOST:job/")
    assert result.exit_code == 0, result.stderr


async def test_a_link_in_place_of_an_ignore_file_is_not_followed(runner: Runner) -> None:
    (runner.decoys.folder / "data" / ".gitignore").symlink_to("../../.ssh/other")
    with pytest.raises(CommandRefused, match="gitignore"):
        await runner(PUSH, "rsync -a --filter=':- .gitignore' -e 'ssh -p PORT' ./ HOST:job/")


async def test_a_cancelled_download_leaves_nothing_behind(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_in(runner.decoys.folder)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (runner.decoys.server.home / "out").mkdir()
    with (runner.decoys.server.home / "out" / "large").open("wb") as file:
        file.truncate(50_000_000)
    task = asyncio.create_task(runner(PULL, "rsync -a --bwlimit=1M -e 'ssh -p PORT' HOST:out/ ./"))
    async with asyncio.timeout(20):
        while not list(runner.decoys.folder.glob(".tensorpool-*/.large.*")):
            await asyncio.sleep(0.02)
    task.cancel()
    async with asyncio.timeout(20):
        with pytest.raises(asyncio.CancelledError):
            await task
    assert files_in(runner.decoys.folder) == before
    assert list((tmp_path / "temporary").iterdir()) == []


async def test_a_cancelled_push_does_not_wait_until_a_large_folder_is_read(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, ended = threading.Event(), threading.Event()

    def endless(*_: object, abandoned: Callable[[], bool]) -> list[str]:
        started.set()
        for _second in range(200):
            if abandoned():
                ended.set()
                break
            time.sleep(0.05)
        return []

    monkeypatch.setattr(commands, "check_upload", endless)
    async with asyncio.timeout(5), anyio.create_task_group() as group:
        group.start_soon(runner, PUSH, "rsync -a -e 'ssh -p PORT' ./ HOST:job/")
        await asyncio.to_thread(started.wait, 5)
        group.cancel_scope.cancel()
    assert await asyncio.to_thread(ended.wait, 5)


def test_the_look_through_a_folder_ends_once_nobody_needs_it(tmp_path: Path) -> None:
    for number in range(100):
        (tmp_path / f"{number}.env").touch()
    upload = transfers_only("rsync -a ./ host:job")
    assert isinstance(upload, Transfer)
    asked = iter([False] * 10 + [True])
    assert len(check_upload(upload, tmp_path, [])) == 100
    assert len(check_upload(upload, tmp_path, [], abandoned=lambda: next(asked))) == 10


# The whole way


async def test_a_push_runs_the_upload_and_reports_it(
    decoys: Decoys, scripted: ScriptedEngine, plain_key: Path
) -> None:
    text = decoys.fill_in("rsync -a --exclude=.git -e 'ssh -p PORT -i KEY' ./ USER@HOST:job/", plain_key)
    (decoys.folder / ".env").write_text("A=1\n")
    scripted.handle("GET /job/push", pushing({"job_id": "j-1", "command": text}))
    scripted.answer("GET /job/info/j-1", {"job_info": {"id": "j-1"}})
    async with TensorPool("tp-secret", base_url=scripted.url) as tp:
        await tp.jobs.push("x = 1", "c-1", folder=decoys.folder, exclude=".env", private_key=plain_key)
    arrived = files_in(decoys.server.home / "job")
    assert arrived["train.py"] == "print('train')\n"
    assert ".env" not in arrived


async def test_a_pull_of_a_live_job_runs_the_download(
    decoys: Decoys, scripted: ScriptedEngine, plain_key: Path
) -> None:
    (decoys.server.home / "out").mkdir()
    (decoys.server.home / "out" / "log").write_text("done\n")
    text = decoys.fill_in("rsync -a -e 'ssh -p PORT -i KEY' USER@HOST:out/ ./", plain_key)
    scripted.answer("GET /job/pull/j-1", {"message": "", "download_map": {}, "command": text})
    to = decoys.folder / "results"
    async with TensorPool("tp-secret", base_url=scripted.url) as tp:
        await tp.jobs.pull("j-1", to, private_key=plain_key)
        with pytest.raises(CommandRefused, match="private key"):
            await tp.jobs.pull("j-1", to)
        with pytest.raises(CommandRefused):
            await tp.jobs.pull("j-1", to, private_key=plain_key, commands=refuse_all)
    assert files_in(to) == {"log": "done\n"}
