"""The words of the package: what was renamed to a standard term keeps that term."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import tensorpool_async


PACKAGE = Path(tensorpool_async.__file__).parent

REPLACED = {
    "telling": "instrumentation",
    "Teller": "Instrumentation",
    "told": "recorded",
    "hear": "deliver or receive",
    "Ear": "ListenerQueue",
    "tell": "emit or summarize",
    "story": "summary",
    "Troubles": "PollCounters",
    "Times": "PollCounters",
    "bookkeeping": "recorder",
    "Books": "JournalRecorder",
    "books": "recorder",
    "Marks": "CreateTags",
    "marks": "tags",
    "TOLD": "RECORDED_FIELDS",
    "kept": "enabled, or what the variable holds",
    "gone": "deleted",
    "Departure": "SendTracker",
    "Withdrawn": "SendCancelled",
    "withdrawn": "cancelled",
    "leaving": "before_send",
    "when_gone": "on_already_deleted",
    "Trip": "SendStats",
    "trip": "send statistics",
    "departs": "record_send",
    "queues_again": "record_requeue",
    "left_at": "sent_at",
    "eventful": "is_notable",
    "Sign": "Outcome",
    "Judge": "OutcomeCheck",
    "BEGUN": "DELETE_STARTED",
    "is_going": "is_deleting",
    "Ticket": "OperationRef",
    "ticket": "ref",
    "Accepted": "AcceptedOperation",
    "Origin": "Ownership",
    "origin_of": "ownership_of",
    "Verdict": "RetryDecision",
    "Tries": "AttemptHistory",
    "tries": "history",
    "judge": "decide",
    "share": "jitter, or fraction",
    "Pace": "AdaptiveRate",
    "Episode": "ThrottleEpisode",
    "Turns": "KeyedLock",
    "Audience": "Subscribers",
    "put_off": "postpone",
    "follow": "add, poll or run",
    "cleanup": "shielding",
    "finish": "run_shielded, or what it does",
    "wait_out": "wait_uncancelled",
    "processes": "subprocesses",
    "Puller": "Downloader",
    "look_for": "find_by_name",
    "LOOKS": "MAX_LOOKUPS",
    "Climb": "Rollout",
    "Ascent": "MemberProvisioner",
    "holds": "record_use, or what is counted",
    "hands_over": "detach_on_cancel",
    "ledger": "created",
    "survey": "snapshot",
    "sending": "send_queue",
    "refusals": "error_classification",
    "Gate": "RequestHandler",
    "Visit": "Exchange",
    "Wire": "Exchange",
    "say": "send",
    "greeted": "authenticated",
    "Told": "RetryAfterValue",
    "too_poor": "insufficient_balance",
    "Fired": "FiredFault",
    "lag": "visibility",
    "News": "Feedback",
    "GivenBack": "ReturnedSlots",
    "appointments": "reservations",
    "question": "refill",
    "asking": "prompt",
    "reaping": "the name of the command",
    "recovering": "the name of the command",
    "watching": "the name of the command",
    "Fate": "ReapResult",
    "Words": "MarkerArgs",
}
"""Names that say nothing to a reader who does not know this package, and the standard term to use instead."""

EXCEPTIONS: dict[tuple[str, str], str] = {}
"""Names that mean something else and are the standard term for it: module and name, and the reason."""


def names_of(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield what a module names itself, with the line: classes, functions, parameters, attributes and variables."""
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                yield node.lineno, node.name
            case ast.arg():
                yield node.lineno, node.arg
            case ast.Attribute(ctx=ast.Store()):
                yield node.lineno, node.attr
            case ast.Name(ctx=ast.Store()):
                yield node.lineno, node.id
            case ast.alias(asname=str(name)):
                yield node.lineno, name
            case _:
                pass


def found_in(module: str, source: str) -> list[str]:
    """Return the places where a module has a name that was replaced."""
    last = module.rpartition(".")[2]
    named = [(1, last), *names_of(ast.parse(source))]
    return [
        f"{module}, line {line}: {name} (say {REPLACED[word]})"
        for line, name in named
        if (word := name.strip("_")) in REPLACED and (module, name) not in EXCEPTIONS
    ]


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = dict(modules())


@pytest.mark.parametrize("module", MODULES)
def test_no_name_is_one_that_was_replaced(module: str) -> None:
    assert found_in(module, MODULES[module].read_text(encoding="utf-8")) == []


BAD = """
import queue as Gate

TOLD = 1

class _Ear:
    kept: int

    def tell(self, ticket, *tries, sending=None, **marks):
        self._books: list = []
        for story in ticket:
            async def _withdrawn(): ...
"""

FINE = """
from tensorpool_async.journal import ended
total = runner.cleanup(kept=settled.told, text="tell") + Ledger.follow
def storytelling(foretold, keeper, Tell): ...
"""


@pytest.mark.parametrize(
    ("module", "source", "names"),
    [
        ("a.b", BAD, "Gate TOLD _Ear kept tell ticket tries sending marks _books story _withdrawn"),
        ("a.bookkeeping", "", "bookkeeping"),
        ("telling", "", "telling"),
        ("told.fine", FINE, ""),
    ],
)
def test_such_a_name_is_found_wherever_it_is_given(module: str, source: str, names: str) -> None:
    found = {text.partition(": ")[2].partition(" (")[0] for text in found_in(module, source)}
    assert found == set(names.split())


def test_every_exception_is_needed() -> None:
    for (module, name), reason in EXCEPTIONS.items():
        assert reason
        source = MODULES[module].read_text(encoding="utf-8")
        assert name in {found for _, found in names_of(ast.parse(source))}
