"""Filter rules of rsync: which files a transfer leaves out."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

import attrs


@attrs.frozen
class FilterRule:
    """A rule that leaves files out, or takes them along although a later rule would leave them out.

    Attributes:
        pattern: A pattern of rsync, such as `*.pyc`, `/data/` or `cache/**`.
        include: Whether what matches is taken along.
        folder: The folder below which the pattern is looked for, relative to the transfer; empty for all of it.
    """

    pattern: str
    include: bool = False
    folder: str = ""

    @property
    def argument(self) -> str:
        """The argument of rsync. The sign in front of it makes even `!` and `+ x` a plain pattern."""
        return f"--filter={'+' if self.include else '-'} {self.pattern}"

    def matches(self, path: str, *, is_folder: bool) -> bool:
        """Say whether the rule is about a path, which is relative to the transfer."""
        if self.folder and not path.startswith(f"{self.folder}/"):
            return False
        if self.pattern.endswith("/") and not is_folder:
            return False
        inner = path[len(self.folder) + 1 :] if self.folder else path
        pattern = _compiled(self.pattern)
        return any(pattern.fullmatch(part) for part in _beginnings(self.pattern, inner))


def is_left_out(rules: Iterable[FilterRule], path: str, *, is_folder: bool) -> bool:
    """Say whether rules leave a path out: the first one that is about it decides."""
    rule = next((rule for rule in rules if rule.matches(path, is_folder=is_folder)), None)
    return rule is not None and not rule.include


def rules_of_ignore_file(text: str, folder: str) -> list[FilterRule]:
    """Return the rules that rsync makes of a `.gitignore` with the filter `:- .gitignore`."""
    lines = (line.rstrip("\r") for line in text.split("\n"))
    return [FilterRule(line, folder=folder) for line in lines if line and not line.startswith(("#", ";"))]


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    """Make a regular expression of a pattern of rsync.

    Between two wildcards the earliest match is final, so that no pattern of the engine takes long on any name.
    """
    parts = re.findall(r"\*+|\?|\[[!^]?\]?[^\]]*\]|\\.|.", pattern.strip("/").removesuffix("/***"), re.DOTALL)
    stars = [at for at, part in enumerate(parts) if part.startswith("*")] + [len(parts)]
    expression = "".join(map(_expression, parts[: stars[0]]))
    for star, end in itertools.pairwise(stars):
        wild = ".*" if len(parts[star]) > 1 else "[^/]*"
        fixed = "".join(map(_expression, parts[star + 1 : end]))
        expression += f"{wild}{fixed}" if end == len(parts) else f"(?>{wild}?{fixed})"
    return re.compile(expression + (r"(?:/.*)?" if pattern.endswith("/***") else ""), re.DOTALL)


def _beginnings(pattern: str, path: str) -> Iterator[str]:
    """Yield the parts of a path that a pattern has to match: all of it, its name, or each end of it."""
    body = pattern.rstrip("/")
    if body.startswith("/"):
        yield path
    elif "/" not in body and "**" not in body:
        yield path.rpartition("/")[2]
    else:
        yield path
        yield from (path[at + 1 :] for at, letter in enumerate(path) if letter == "/")


def _expression(part: str) -> str:
    if part == "?":
        return "[^/]"
    if len(part) > 2 and part.startswith("["):
        negated = part[1] in "!^"
        inside = "".join(c if c == "-" else re.escape(c) for c in part[2 if negated else 1 : -1])
        return _class(f"[{'^' if negated else ''}{inside}]")
    return re.escape(part[1] if len(part) == 2 and part[0] == "\\" else part)


def _class(expression: str) -> str:
    try:
        re.compile(expression)
    except re.error:
        return "(?!)"  # such as `[b-a]`, which is met by nothing
    return expression
