"""The tree of errors: as it is drawn, through pickle, and without the key."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from collections.abc import Iterator
from typing import Any

import attrs
import pytest

from tensorpool_async import errors
from tensorpool_async.errors import (
    ConflictError,
    ConnectionFailed,
    DecodeError,
    FleetError,
    FleetFileError,
    LimiterUnavailable,
    NotFound,
    OperationFailed,
    OperationTimeout,
    RequestTimeout,
    StatusError,
    TensorPoolError,
)
from tensorpool_async.secrets import Secret


KEY = "tp-not-to-be-seen"


def tree_of(kind: type[TensorPoolError]) -> Iterator[type[TensorPoolError]]:
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from tree_of(child)


EVERY_ERROR = list(tree_of(TensorPoolError))

# What to give a parameter of an error's constructor, by its annotation.
ARGUMENTS: dict[str, Any] = {
    "str": "a text",
    "str | None": "a text",
    "str | PathLike[str]": "journal.db",
    "int": 503,
    "int | None": 7,
    "bool": True,
    "float": 1.5,
    "float | None": 2.5,
    "Any": {"detail": [1]},
    "Mapping[str, str]": {"retry-after": "5"},
    "Mapping[str, str] | None": {"w0": "RUNNING", "w1": "no capacity"},
    "Sequence[Exception]": [NotFound(404, "no such cluster"), ValueError("not ours")],
}


def sample(kind: type[TensorPoolError]) -> TensorPoolError:
    """Make an error of which every attribute has a value."""
    parameters = [*inspect.signature(kind.__init__).parameters.values()][1:]
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return kind("a text")
    arguments = {parameter.name: ARGUMENTS[parameter.annotation] for parameter in parameters}
    return kind(**arguments)


@attrs.frozen
class FakeOperation:
    """An operation, as far as an error needs it; it holds its client, and the client the key."""

    token: str = "tpa1.abc"
    client: dict[str, str] = attrs.field(factory=lambda: {"Authorization": f"Bearer {KEY}"})

    def __reduce__(self) -> Any:
        raise TypeError("an operation cannot be pickled")


def bound(kind: type[TensorPoolError]) -> TensorPoolError:
    operation: Any = FakeOperation()
    return sample(kind).bind(operation)


def state_of(error: TensorPoolError) -> dict[str, Any]:
    """Return all that an error holds, in a form that can be compared: exceptions are equal only to themselves."""
    grouped = [repr(one) for one in error.exceptions] if isinstance(error, FleetError) else []
    arguments = error.args[:1] if grouped else error.args
    own = {name: value for name, value in vars(error).items() if name != "operation"}
    return {**own, "args": arguments, "text": str(error), "grouped": grouped}


def pickled(error: TensorPoolError) -> TensorPoolError:
    copied: TensorPoolError = pickle.loads(pickle.dumps(error))
    return copied


def test_the_drawn_tree_is_the_real_one() -> None:
    drawn: set[tuple[str, str]] = set()
    parents = ["TensorPoolError"]
    for match in re.finditer(r"^ {4}((?:│   |    )*)[├└]── (\w+)", errors.__doc__ or "", re.MULTILINE):
        depth = len(match[1]) // 4
        del parents[depth + 1 :]
        drawn.add((parents[depth], match[2]))
        parents.append(match[2])
    real = {(parent.__name__, kind.__name__) for kind in EVERY_ERROR[1:] for parent in kind.__bases__ if issubclass(parent, TensorPoolError)}  # fmt: skip
    assert drawn == real


def test_the_drawn_statuses_are_the_real_ones() -> None:
    lines = re.findall(r"── (\w+) +(\d{3}(?:, \d{3})*)\b", errors.__doc__ or "")
    drawn = {(name, status) for name, statuses in lines for status in statuses.split(", ")}
    assert {(kind.__name__, str(status)) for status, kind in StatusError.by_status.items()} == drawn


# Section 8 of the design.
BRANCHES = {
    "TensorPoolError": "ConfigurationError WrongEventLoopError ConnectionFailed StatusError DecodeError OperationError "
    "AmbiguousOutcomeError CommandRefused FleetError BudgetExceeded",
    "ConnectionFailed": "RequestTimeout LimiterUnavailable",
    "StatusError": "BadRequest AuthenticationError InsufficientBalance PermissionDenied NotFound ConflictError "
    "ValidationError RateLimited ServerError",
    "OperationError": "OperationFailed OperationTimeout",
}


@pytest.mark.parametrize(("parent", "children"), BRANCHES.items())
def test_the_tree_of_the_design(parent: str, children: str) -> None:
    for child in children.split():
        assert issubclass(getattr(errors, child), getattr(errors, parent))


@pytest.mark.parametrize("kind", EVERY_ERROR)
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_every_error_survives_pickling(kind: type[TensorPoolError], protocol: int) -> None:
    error = bound(kind)
    error.add_note("seen by the worker")
    copied = pickle.loads(pickle.dumps(error, protocol))
    assert type(copied) is kind
    assert state_of(copied) == state_of(error)
    assert copied.token == "tpa1.abc"
    assert copied.operation is None, "it is bound to the client of the other process"


@pytest.mark.parametrize("kind", EVERY_ERROR)
@pytest.mark.parametrize("copy_of", [copy.copy, pickled])
def test_an_error_without_an_operation_survives_as_well(kind: type[TensorPoolError], copy_of: Any) -> None:
    error = sample(kind)
    copied = copy_of(error)
    assert state_of(copied) == state_of(error)
    assert (copied.operation, copied.token) == (None, None)


@pytest.mark.parametrize("kind", EVERY_ERROR)
def test_no_error_holds_the_key(kind: type[TensorPoolError]) -> None:
    error = bound(kind)
    assert KEY not in f"{error} {error!r} {error.args}"
    assert KEY.encode() not in pickle.dumps(error)
    assert KEY in repr(error.operation), "so it could have been there"


@pytest.mark.parametrize("kind", EVERY_ERROR)
def test_every_error_can_be_caught_as_one_of_this_package(kind: type[TensorPoolError]) -> None:
    with pytest.raises(TensorPoolError) as caught:
        raise sample(kind)
    assert str(caught.value)


@pytest.mark.parametrize("kind", [RequestTimeout, OperationTimeout])
def test_a_timeout_is_a_timeout(kind: type[TensorPoolError]) -> None:
    assert issubclass(kind, TimeoutError)
    error = sample(kind)
    assert str(error) == "a text"
    assert getattr(error, "errno", None) is None, "the text is no number of the operating system"


def test_an_error_carries_its_operation() -> None:
    error = OperationFailed("it failed", "no capacity")
    operation: Any = FakeOperation()
    assert error.bind(operation) is error
    assert (error.operation, error.token) == (operation, "tpa1.abc")
    assert (error.message, OperationFailed("it failed").message) == ("no capacity", "it failed")


def test_what_was_sent_is_uncertain_unless_it_is_known() -> None:
    assert ConnectionFailed("lost").sent
    assert not ConnectionFailed("lost").permanent
    assert not LimiterUnavailable("gone").sent
    assert LimiterUnavailable("a wrong password", permanent=True).permanent


RETRYABLE = [
    (errors.ConfigurationError("no key"), False),
    (FleetFileError("must be above 0"), False),
    (errors.WrongEventLoopError("another loop"), False),
    (ConnectionFailed("lost"), True),
    (ConnectionFailed("refused", sent=False), True),
    (ConnectionFailed("not trusted", permanent=True), False),
    (RequestTimeout("no response"), True),
    (LimiterUnavailable("no connection"), True),
    (LimiterUnavailable("a wrong password", permanent=True), False),
    *[(StatusError(status, "no"), status in {408, 429}) for status in (302, 408, 418, 425, 429, 451)],
    *[
        (kind(status, "no"), status == 429)
        for status, kind in StatusError.by_status.items()
        if kind is not errors.ServerError
    ],
    *[(errors.ServerError(status, "no"), True) for status in (500, 501, 502, 503, 504, 524, 599)],
    (DecodeError("cut off"), True),
    (DecodeError("larger than 64 MiB", too_large=True), False),
    (errors.OperationError("closed"), False),
    (OperationFailed("no capacity"), False),
    (OperationTimeout("late"), False),
    (errors.AmbiguousOutcomeError("lost"), False),
    (errors.JournalError("journal.db", "is full", "free space"), False),
    (errors.CommandRefused("rm"), False),
    (errors.PathRefused("outside", name="../x"), False),
    (errors.StreamError("refused", code=1008), False),
    (errors.StreamError("lost", code=1006, retryable=True), True),
    (FleetError("both", [ConnectionFailed("lost"), errors.ServerError(500, "no")]), True),
    (FleetError("one", [ConnectionFailed("lost"), NotFound(404, "gone")]), False),
    (FleetError("foreign", [ConnectionFailed("lost"), ValueError("not ours")]), False),
    (errors.BudgetExceeded("too much", hourly_cost=9.0, limit=1.0), False),
]
"""What may succeed when the same call is repeated unchanged."""


def test_the_table_of_what_is_retryable_has_every_error() -> None:
    assert {type(error) for error, _ in RETRYABLE} == {*EVERY_ERROR} - {TensorPoolError}


@pytest.mark.parametrize(("error", "retryable"), RETRYABLE, ids=repr)
def test_what_is_retryable(error: TensorPoolError, retryable: bool) -> None:
    assert error.retryable is retryable
    assert error.retry_after is None
    assert pickled(error).retryable is retryable


def test_a_fleet_waits_as_long_as_its_most_patient_member() -> None:
    limited, down = errors.RateLimited(429, "slow down"), errors.ServerError(503, "down")
    limited.retry_after, down.retry_after = 2.0, 30.0
    error = FleetError("both", [limited, down, ConnectionFailed("lost")])
    assert (error.retryable, error.retry_after) == (True, 30.0)
    assert pickled(error).retry_after == 30.0


def test_a_refusal_keeps_everything() -> None:
    headers = {"x-trace": "t-1"}
    error = ConflictError(409, "the name is taken", body={"a": 1}, headers=headers, method="POST", path="/x")
    headers.clear()
    assert str(error) == "409: the name is taken (POST /x)"
    assert error.headers == {"x-trace": "t-1"}
    assert (error.body, error.method, error.path) == ({"a": 1}, "POST", "/x")
    assert str(StatusError(418, "no")) == "418: no"


def test_a_subclass_without_a_status_takes_none_over() -> None:
    before = dict(StatusError.by_status)

    class NameTaken(ConflictError):
        pass

    assert issubclass(NameTaken, ConflictError)
    assert StatusError.by_status == before


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ({}, "must be above 0"),
        ({"path": "fleet.toml"}, "fleet.toml: must be above 0"),
        ({"path": "fleet.toml", "line": 7}, "fleet.toml:7: must be above 0"),
        ({"path": "fleet.toml", "line": 7, "key": "a.count"}, "fleet.toml:7: a.count: must be above 0"),
        ({"key": "a.count"}, "a.count: must be above 0"),
    ],
)
def test_a_mistake_in_a_fleet_file_tells_its_place(place: dict[str, Any], text: str) -> None:
    assert str(FleetFileError("must be above 0", **place)) == text


def test_an_answer_that_cannot_be_read_tells_where_it_came_from() -> None:
    assert str(DecodeError("cut off", path="/cluster/list")) == "cut off (/cluster/list)"
    assert str(DecodeError("cut off")) == "cut off"


def test_a_fleet_error_is_a_group_that_keeps_its_members_when_it_is_split() -> None:
    lost, taken = NotFound(404, "gone"), ConflictError(409, "taken")
    members = {"w0": "RUNNING"}
    error = FleetError("2 of 3 members failed", [lost, taken], members)
    members.clear()
    assert error.members == {"w0": "RUNNING"}
    assert error.exceptions == (lost, taken)
    matching, rest = error.split(NotFound)
    assert isinstance(matching, FleetError)
    assert isinstance(rest, FleetError)
    assert (matching.exceptions, rest.exceptions) == ((lost,), (taken,))
    assert matching.members == rest.members == {"w0": "RUNNING"}
    assert FleetError("one", [lost]).members == {}


def test_a_fleet_error_is_taken_apart_by_except_star() -> None:
    handled: list[Exception] = []
    try:
        raise FleetError("all failed", [NotFound(404, "gone"), ConflictError(409, "taken")])
    except* NotFound as group:
        handled.extend(group.exceptions)
    except* ConflictError as group:
        handled.extend(group.exceptions)
    assert [type(error) for error in handled] == [NotFound, ConflictError]


def test_a_secret_in_an_error_stays_masked() -> None:
    error = DecodeError(f"the key {Secret(KEY)} was refused", path=f"/{Secret(KEY)!r}")
    assert KEY not in f"{error} {error!r}"
