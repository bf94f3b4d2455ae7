"""Command texts of a hostile engine, from the grammars of rsync, scp and ssh."""

from __future__ import annotations

import shlex
from collections.abc import Callable

from hypothesis import strategies as st


RSYNC_LETTERS = "0468@ABCDEFHIJKLMNOPRSTUWXabcdefghiklmnopqrstuvxyz"
RSYNC_ALONE = [
    "8-bit-output",
    "acls",
    "append",
    "append-verify",
    "archive",
    "atimes",
    "backup",
    "blocking-io",
    "checksum",
    "compress",
    "copy-devices",
    "copy-dirlinks",
    "copy-links",
    "copy-unsafe-links",
    "crtimes",
    "cvs-exclude",
    "daemon",
    "debug",
    "delay-updates",
    "del",
    "delete",
    "delete-after",
    "delete-before",
    "delete-delay",
    "delete-during",
    "delete-excluded",
    "delete-missing-args",
    "devices",
    "dirs",
    "dry-run",
    "executability",
    "existing",
    "fake-super",
    "force",
    "from0",
    "fuzzy",
    "group",
    "hard-links",
    "human-readable",
    "ignore-errors",
    "ignore-existing",
    "ignore-missing-args",
    "ignore-non-existing",
    "ignore-times",
    "inplace",
    "insecure-links",
    "itemize-changes",
    "keep-dirlinks",
    "links",
    "list-only",
    "mkpath",
    "munge-links",
    "no-D",
    "no-H",
    "no-g",
    "no-group",
    "no-implied-dirs",
    "no-inc-recursive",
    "no-links",
    "no-motd",
    "no-o",
    "no-owner",
    "no-perms",
    "no-relative",
    "no-times",
    "no-whole-file",
    "numeric-ids",
    "old-args",
    "old-dirs",
    "omit-dir-times",
    "omit-link-times",
    "one-file-system",
    "open-noatime",
    "owner",
    "partial",
    "perms",
    "preallocate",
    "progress",
    "protect-args",
    "prune-empty-dirs",
    "quiet",
    "recursive",
    "relative",
    "remove-sent-files",
    "remove-source-files",
    "safe-links",
    "secluded-args",
    "sender",
    "server",
    "size-only",
    "sparse",
    "specials",
    "stats",
    "super",
    "times",
    "trust-sender",
    "update",
    "verbose",
    "whole-file",
    "write-devices",
    "xattrs",
]
RSYNC_VALUED = [
    "address",
    "backup-dir",
    "block-size",
    "bwlimit",
    "checksum-choice",
    "checksum-seed",
    "chmod",
    "chown",
    "compare-dest",
    "compress-choice",
    "compress-level",
    "config",
    "confine-root",
    "contimeout",
    "copy-as",
    "copy-dest",
    "debug",
    "early-input",
    "exclude",
    "exclude-from",
    "files-from",
    "filter",
    "groupmap",
    "iconv",
    "include",
    "include-from",
    "info",
    "link-dest",
    "log-file",
    "log-file-format",
    "log-format",
    "max-alloc",
    "max-delete",
    "max-size",
    "min-size",
    "modify-window",
    "only-write-batch",
    "out-format",
    "outbuf",
    "partial-dir",
    "password-file",
    "port",
    "protocol",
    "read-batch",
    "remote-option",
    "rsh",
    "rsync-path",
    "skip-compress",
    "sockopts",
    "stderr",
    "stop-after",
    "suffix",
    "temp-dir",
    "timeout",
    "usermap",
    "write-batch",
]
SSH_OPTIONS = [
    "AddKeysToAgent",
    "AddressFamily",
    "BatchMode",
    "BindAddress",
    "CanonicalizeHostname",
    "CertificateFile",
    "CheckHostIP",
    "Ciphers",
    "ClearAllForwardings",
    "Compression",
    "ConnectTimeout",
    "ConnectionAttempts",
    "ControlMaster",
    "ControlPath",
    "ControlPersist",
    "DynamicForward",
    "EnableSSHKeysign",
    "EscapeChar",
    "ExitOnForwardFailure",
    "ForkAfterAuthentication",
    "ForwardAgent",
    "ForwardX11",
    "GlobalKnownHostsFile",
    "HashKnownHosts",
    "Host",
    "HostKeyAlias",
    "HostName",
    "IPQoS",
    "IdentitiesOnly",
    "IdentityAgent",
    "IdentityFile",
    "Include",
    "KnownHostsCommand",
    "LocalCommand",
    "LocalForward",
    "LogLevel",
    "LogVerbose",
    "Match",
    "NoHostAuthenticationForLocalhost",
    "PKCS11Provider",
    "PasswordAuthentication",
    "PermitLocalCommand",
    "Port",
    "PreferredAuthentications",
    "ProxyCommand",
    "ProxyJump",
    "ProxyUseFdpass",
    "RemoteCommand",
    "RemoteForward",
    "RequestTTY",
    "RevokedHostKeys",
    "SecurityKeyProvider",
    "SendEnv",
    "ServerAliveCountMax",
    "ServerAliveInterval",
    "SessionType",
    "SetEnv",
    "StdinNull",
    "StreamLocalBindUnlink",
    "StrictHostKeyChecking",
    "SyslogFacility",
    "TCPKeepAlive",
    "Tunnel",
    "TunnelDevice",
    "UpdateHostKeys",
    "User",
    "UserKnownHostsFile",
    "VerifyHostKeyDNS",
    "VisualHostKey",
    "XAuthLocation",
]

WORDS = [
    "evil", "sh -c evil", "touch PWNED", "PWNED", "-oProxyCommand=evil", "--rsh=evil", "!", "- x", "+ *", ". ../.ssh/id_rsa",
    ":- .gitignore", ": .rsync-filter", ":- /etc/passwd", "dir-merge x", "merge ../.ssh/id_rsa", "../.ssh/id_rsa",
    "~/.ssh/id_rsa", "~/.bashrc", "HOME/.bashrc", "HOME/.ssh/authorized_keys", "HOME/other", "outside/id_rsa", "outside/",
    "link", "latest/", "%h", "${HOME}", "%d/.ssh/id_rsa", "yes", "no", "5", "2", "22", "PORT", "*", "*.py", "/data/", "data",
    ".", "..", "", "x y", "x\ty", 'x"y', "x'y", "x\\y", 'x"\\', "a;evil", "a|evil", "é", "u=rw,go=r", "progress2", "10M",
    "ERROR", "USER", "HOST", "localhost", "USER@HOST:PORT", "accept-new", "KEY", "none", "/dev/null", "inet",
]  # fmt: skip
LOCAL = [
    ".", "./", "train.py", "data", "data/", "./data", "data/one two.txt", "latest", "latest/", "link", "outside", "outside/",
    "outside/id_rsa", "outside/.", "../.ssh/id_rsa", "..", "../", "data/../../.bashrc", "HOME/.bashrc", "/etc/passwd",
    "~/.ssh/id_rsa", "~", ":", ":x", ":/../../.ssh/id_rsa", "[x:/../../.bashrc", "[x", "x]:y", "-", "-e", "--rsh=evil",
    "-oProxyCommand=evil", "new", "new/", "new/file", "*", "d*a", "./-x", "a:b", "./a:b", "/", "//", "./.", "é", "x\ny", "",
]  # fmt: skip
REMOTE = [
    "HOST:", "HOST:job", "HOST:job/", "USER@HOST:job/", "HOST:./job", "HOST:~/job", "HOST:out/", "HOST:out", "HOST:out/*",
    "HOST:out/.*", "HOST:..", "HOST:.", "HOST:out/..", "HOST::out", "HOST:::out", "rsync://HOST/out", "rsync://HOST:PORT/x",
    "scp://HOST/out", "ssh://HOST", "HOST://x", "-oProxyCommand=evil:x", "USER@-oProxyCommand=evil:x", "-HOST:x", "@HOST:x",
    "USER@:x", "a b@HOST:x", "USER@HOST@HOST:x", "[HOST]:job", "[::1]:job", "[::1%lo]:x", "HOST:x y", "HOST:-x", "HOST:'x'",
    "HOST:x\\y", "HOST:out/log", "localhost:job", "HOST:out/links/", "HOST:out/d", "HOST;evil:x", "HOST:x;evil",
]  # fmt: skip

TAME_SSH = [
    ["-o", "StrictHostKeyChecking=no"], ["-o", "UserKnownHostsFile=/dev/null"], ["-oUserKnownHostsFile=HOME/.bashrc"],
    ["-o", "GlobalKnownHostsFile HOME/.netrc"], ["-i", "KEY"], ["-C"], ["-q"], ["-4"], ["-o", "ConnectTimeout=5"],
    ["-o", "LogLevel=ERROR"], ["-o", "IdentitiesOnly=yes"], ["-o", "Compression = no"], ["-o", "User=USER"],
    ["-o", "ProxyJump=USER@localhost:PORT"], ["-J", "localhost:PORT"], ["-v"], ["-o", "BatchMode=no"],
]  # fmt: skip
TAME_RSYNC = [
    "--append-verify", "--delete", "--delete-after", "--existing", "--ignore-existing", "--inplace", "--list-only",
    "--mkpath", "--no-inc-recursive", "--size-only", "--stats", "--safe-links", "--numeric-ids", "--partial", "--update",
    "--progress", "--checksum", "--no-perms", "--no-links", "--no-owner", "--dry-run", "--relative", "--sparse", "--dirs",
    "--prune-empty-dirs", "--omit-dir-times", "--specials", "--devices", "--links", "--whole-file", "--secluded-args",
    "--bwlimit=10M", "--chmod=u=rwx,go=rx", "--chmod=u+s", "--compress-level=3", "--info=progress2", "--max-size=10M",
    "--timeout=20", "--filter=:- .gitignore", "--exclude=*.py", "--include=*/", "--filter=- outside", "--filter=+ !",
    "--compress-choice=zlib", "--ignore-times", "--human-readable",
]  # fmt: skip
TAME_LETTERS = "AEDHIOPRSWXacdghilmnopqrstuvxz"
TAME_LOCAL = [
    ".", "./", "train.py", "data", "data/", "./data", "data/one two.txt", "latest", "latest/", "link", "outside/.ssh",
    "outside/", "outside", "new", "new/", "new/file", "data/new", "train.py/", "data/one two.txt/x", "é", ".hidden",
]  # fmt: skip
TAME_REMOTE = [
    "HOST:", "HOST:job", "HOST:job/", "USER@HOST:job/", "HOST:./job", "HOST:~/job", "HOST:out/", "HOST:out", "HOST:out/*",
    "HOST:.", "HOST:out/links/", "HOST:out/links", "HOST:out/links/*", "HOST:out/d", "HOST:out/log", "HOST:x", "HOST:x y",
    "HOST:.bashrc", "HOST:job/outside", "HOST:none", "localhost:job", "HOST:o*/l*", "HOST:./", "HOST:é", "HOST:out/a,b",
    "HOST:out/a=%h", "HOST:out//log", "HOST:x/-e",
]  # fmt: skip

words = st.sampled_from(WORDS) | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
local = st.sampled_from(LOCAL) | words | st.sampled_from(TAME_LOCAL)
remote = st.sampled_from(REMOTE) | st.sampled_from(TAME_REMOTE)
QUOTES: list[Callable[[str], str]] = [
    shlex.quote,
    shlex.quote,
    '"{}"'.format,
    str,
    lambda text: text.replace(" ", "\\ "),
]
quoted = st.sampled_from(QUOTES)


@st.composite
def ssh_words(draw: st.DrawFn, *, kind: str = "ssh") -> list[str]:
    """Options of ssh, or those that scp has of them."""
    port = "-P" if kind == "scp" else "-p"
    made = [port, "PORT"] if draw(st.integers(0, 9)) else []
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2, 3]))):
        match draw(st.integers(0, 5)):
            case 0 | 1:
                name = draw(st.sampled_from(SSH_OPTIONS))
                between = draw(st.sampled_from(["=", "=", " ", " = ", '="', ""]))
                made += ["-o", f"{name}{between}{draw(words)}"]
            case 2:
                made.append(f"-o{draw(st.sampled_from(SSH_OPTIONS))}={draw(words)}")
            case 3:
                made += [f"-{draw(st.sampled_from('BbcDEeFIiJLlmOoPpQRSWw'))}", draw(words)]
            case 4:
                made += [
                    "-i",
                    draw(st.sampled_from(["KEY", "~/.ssh/id_rsa", "~/.ssh/id_ed25519", "HOME/.ssh/id_rsa"])),
                ]
            case _:
                made.append(
                    "-"
                    + draw(st.text(st.sampled_from("46AaCfGgKkMNnqsTtVvXxYy3BOpr"), min_size=1, max_size=3))
                )
    return made


@st.composite
def rsync_words(draw: st.DrawFn) -> list[str]:
    made = [draw(st.sampled_from(["-a", "-a", "-az", "-avz", "-rl", "-d", "-n", "-aL"]))]
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2, 3]))):
        match draw(st.integers(0, 4)):
            case 0:
                made.append("-" + draw(st.text(st.sampled_from(RSYNC_LETTERS), min_size=1, max_size=3)))
            case 1:
                made.append("--" + draw(st.sampled_from(RSYNC_ALONE)))
            case 2:
                made.append(f"--{draw(st.sampled_from(RSYNC_VALUED))}={draw(words)}")
            case 3:
                made += [f"--{draw(st.sampled_from(RSYNC_VALUED))}", draw(words)]
            case _:
                kind = draw(st.sampled_from(["exclude", "include", "filter"]))
                made.append(f"--{kind}={draw(st.sampled_from(['- ', '+ ', '', '', ':- ']))}{draw(words)}")
    shell = " ".join(draw(quoted)(word) for word in draw(ssh_words()))
    match draw(st.integers(0, 9)):
        case 0:
            made.append(f"--rsh={draw(words)} {shell}")
        case 1:
            made.append(f"-essh {shell}")
        case _:
            made += ["-e", f"ssh {shell}"]
    return made


@st.composite
def operands(draw: st.DrawFn) -> list[str]:
    match draw(st.integers(0, 9)):
        case 0:
            return draw(st.lists(local | remote, max_size=4))
        case 1:
            return [draw(local), draw(local), draw(remote)]
        case 2 | 3 | 4 | 5:
            return [draw(local), draw(remote)]
        case _:
            return [draw(remote), draw(local)]


@st.composite
def tame_texts(draw: st.DrawFn) -> str:
    """A command text whose parts are all known, and which does what nobody has asked for only by how they go together."""
    program = draw(st.sampled_from(["rsync", "rsync", "rsync", "scp"]))
    connection = [word for group in draw(st.lists(st.sampled_from(TAME_SSH), max_size=3)) for word in group]
    if program == "scp":
        made = [
            "-P",
            "PORT",
            *connection,
            *draw(st.lists(st.sampled_from(["-r", "-p", "-C", "-q", "-l 9000"]), max_size=3)),
        ]
        made = [part for word in made for part in (word.split(" ") if word.startswith("-l ") else [word])]
    else:
        shell = shlex.join(["ssh", "-p", "PORT", *connection])
        letters = draw(st.text(st.sampled_from(TAME_LETTERS), min_size=1, max_size=4))
        made = [f"-{letters}", *draw(st.lists(st.sampled_from(TAME_RSYNC), max_size=4)), "-e", shell]
    sources = st.lists(st.sampled_from(TAME_LOCAL), min_size=1, max_size=2)
    fetched = st.lists(st.sampled_from(TAME_REMOTE), min_size=1, max_size=2)
    if draw(st.booleans()):
        made += [*draw(sources), draw(st.sampled_from(TAME_REMOTE))]
    else:
        made += [*draw(fetched), draw(st.sampled_from(TAME_LOCAL))]
    return shlex.join([program, *made])


@st.composite
def wild_texts(draw: st.DrawFn) -> str:
    """A command text, mostly one that a parser takes for an rsync, scp or ssh."""
    program = draw(
        st.sampled_from(["rsync"] * 10 + ["scp"] * 7 + ["ssh"] * 4 + ["evil", "/usr/bin/rsync", "sh -c"])
    )
    if program == "scp":
        made = [
            *draw(ssh_words(kind="scp")),
            *draw(st.sampled_from([["-r"], ["-r"], [], ["-rp"], ["-O"], ["-T"]])),
        ]
    elif program == "ssh":
        host = draw(st.sampled_from(["HOST", "USER@HOST", "USER@HOST", "localhost"]) | remote | words)
        return shlex.join([program, *draw(ssh_words()), host, *draw(st.lists(words, max_size=2))])
    else:
        made = draw(rsync_words())
    made += [*draw(st.sampled_from([[], [], [], ["--"]])), *draw(operands())]
    if draw(st.integers(0, 6)) == 0:
        made = draw(st.permutations(made))
    text = " ".join(draw(quoted)(word) for word in made)
    return f"{program} {text}{draw(st.sampled_from([''] * 12 + ['; evil', ' && evil', ' > ~/.bashrc', chr(10) + 'evil']))}"


def command_texts() -> st.SearchStrategy[str]:
    """Return texts of an engine: of parts that are known, and of all that the programs know."""
    return tame_texts() | wild_texts()
