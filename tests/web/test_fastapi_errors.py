"""Errors of the package as problem documents, one by one and over a real socket."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

import tensorpool_async
from tensorpool_async import (
    AmbiguousOutcomeError,
    AuthenticationError,
    BudgetExceeded,
    ConfigurationError,
    ConflictError,
    FleetError,
    FleetFileError,
    OperationFailed,
    RateLimited,
    ServerError,
    StatusError,
    TensorPool,
    TensorPoolError,
    ValidationError,
)
from tensorpool_async.emulator import Emulator
from tensorpool_async.fastapi import (
    PROBLEMS,
    TensorPoolDep,
    add_exception_handlers,
    problem_of,
    tensorpool,
)
from tensorpool_async.fleet import ClusterGroup, Fleet
from tests.support.scripted import ScriptedEngine
from tests.web.serving import serve


SECRET = "what only the engine and we should know"


def errors() -> Iterator[type[TensorPoolError]]:
    for name in tensorpool_async.__all__:
        kind = getattr(tensorpool_async, name)
        if isinstance(kind, type) and issubclass(kind, TensorPoolError):
            yield kind


def example(kind: type[TensorPoolError]) -> TensorPoolError:
    """Make an error of that class which carries a secret wherever it has room for one."""
    # The constructors differ; the engine's words are what they share.
    arguments: dict[str, Any] = {"__notes__": [SECRET], "path": SECRET}
    if issubclass(kind, StatusError):
        arguments |= {"status": 418, "message": SECRET, "body": {"detail": SECRET}, "headers": {"X": SECRET}}
        arguments |= {"method": "GET"}
    if issubclass(kind, OperationFailed):
        arguments |= {"message": SECRET}
    if issubclass(kind, BudgetExceeded):
        arguments |= {"hourly_cost": 12.5, "limit": 10.0}
    if issubclass(kind, AmbiguousOutcomeError):
        arguments |= {"name": None}
    error = (
        FleetError(SECRET, [ValueError(SECRET)], {"a-0": "RUNNING (c-1)", "a-1": f"FAILED: {SECRET}"})
        if issubclass(kind, FleetError)
        else kind.__new__(kind, SECRET)
    )
    error.__dict__.update(arguments)
    return error


@pytest.mark.parametrize("kind", list(errors()), ids=lambda kind: kind.__name__)
def test_every_error_has_a_line_of_its_own_and_no_words_of_the_engine(kind: type[TensorPoolError]) -> None:
    assert kind in PROBLEMS, "an error without a decision"
    problem = problem_of(example(kind))
    document = problem.document()
    assert problem.status == PROBLEMS[kind][0]
    assert 400 <= problem.status <= 599
    assert problem.status not in {401, 403}, "the browser has no part in our key"
    assert document["error"] == kind.__name__
    assert SECRET not in json.dumps(document)
    assert SECRET not in str(problem.response().headers)


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("NotFound", 404),
        ("ConflictError", 409),
        ("ValidationError", 422),
        ("InsufficientBalance", 402),
        ("RateLimited", 503),
        ("ServerError", 502),
        ("ConnectionFailed", 502),
        ("RequestTimeout", 504),
        ("LimiterUnavailable", 503),
        ("OperationTimeout", 504),
        ("AuthenticationError", 502),
        ("PermissionDenied", 502),
        ("BudgetExceeded", 422),
        ("FleetError", 502),
        ("ConfigurationError", 500),
    ],
)
def test_the_statuses_that_a_browser_relies_on(name: str, status: int) -> None:
    assert PROBLEMS[getattr(tensorpool_async, name)][0] == status


def test_a_class_of_somebody_else_is_what_its_nearest_base_is() -> None:
    class OddConflict(ConflictError):
        pass

    assert problem_of(OddConflict(409, "odd")).status == 409
    assert problem_of(OddConflict(409, "odd")).error == "OddConflict"


def test_the_engines_sentence_is_told_where_that_was_asked_for_and_where_it_is_about_the_caller() -> None:
    conflict = ConflictError(409, "the name w0 is taken")
    assert "w0" not in problem_of(conflict).detail
    assert problem_of(conflict, engine_messages=True).detail == "the name w0 is taken"
    assert problem_of(OperationFailed("op", "no node left"), engine_messages=True).detail == "no node left"
    for hidden in (AuthenticationError(401, SECRET), ServerError(500, SECRET)):
        assert SECRET not in problem_of(hidden, engine_messages=True).detail


def test_a_fleet_tells_what_became_of_each_member() -> None:
    outcomes = {"f-a-0": "RUNNING (c-1)", "f-a-1": "FAILED: 500: boom"}
    error = FleetError("1 of 2 members failed", [ServerError(500, "boom")], outcomes)
    assert problem_of(error).members["members"] == {"f-a-0": "RUNNING (c-1)", "f-a-1": "FAILED"}
    assert problem_of(error, engine_messages=True).members["members"] == outcomes


def test_what_a_budget_says_is_told_in_numbers() -> None:
    problem = problem_of(BudgetExceeded("too much", hourly_cost=12.5, limit=10.0))
    assert problem.members == {"hourly_cost": 12.5, "limit": 10.0}


def test_a_name_that_may_be_taken_is_told() -> None:
    assert problem_of(AmbiguousOutcomeError("lost", name="w0")).members == {"name": "w0"}


def test_a_fleet_that_the_caller_described_wrongly_is_the_callers_mistake() -> None:
    with pytest.raises(FleetFileError) as caught:
        Fleet("sweep", [ClusterGroup("trainer", "8xH100", count=0)])
    problem = problem_of(caught.value)
    assert (problem.status, problem.members["key"]) == (422, "count")
    assert "above 0" in problem.detail


def test_a_fleet_file_of_the_service_is_the_services_mistake() -> None:
    problem = problem_of(FleetFileError("is missing", path="/srv/secret/fleet.toml", line=3, key="name"))
    assert problem.status == 500
    assert "secret" not in json.dumps(problem.document())


def test_a_refusal_behind_a_configuration_error_is_that_refusal() -> None:
    error = ConfigurationError("the engine does not take 1 x 9xH100")
    error.__cause__ = ValidationError(422, "no such type")
    assert problem_of(error).status == 422


def test_a_token_is_kept() -> None:
    error = OperationFailed("op", "no node left")
    error.token = "tpa1.abc"
    assert problem_of(pickle.loads(pickle.dumps(error))).members == {"token": "tpa1.abc"}


async def test_an_app_answers_with_problem_documents(
    odd_tp: TensorPool, scripted: ScriptedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    scripted.answer("GET /cluster/info/c-1", {"detail": "scripted-key is revoked"}, status=401)
    scripted.answer("GET /cluster/info/c-2", {"detail": "no cluster c-2 of tenant 77"}, status=404)
    app = FastAPI()
    add_exception_handlers(app)
    app.dependency_overrides[tensorpool] = lambda: odd_tp

    @app.get("/clusters/{cluster}")
    async def get(cluster: str, tp: TensorPoolDep) -> str:
        return (await tp.clusters.get(cluster)).id

    @app.get("/limited")
    async def limited() -> None:
        error = RateLimited(429, "slow down")
        error.retry_after = 1.2
        raise error

    async with serve(app) as url, httpx.AsyncClient(base_url=url) as http:
        with caplog.at_level(logging.WARNING, "tensorpool_async.fastapi"):
            answer = await http.get("/clusters/c-1")
        assert answer.status_code == 502
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json() == {
            "title": "Bad Gateway",
            "status": 502,
            "detail": "The GPU cloud does not accept this service's key.",
            "error": "AuthenticationError",
        }
        assert "GET /clusters/c-1: AuthenticationError" in caplog.text
        assert "scripted-key" not in caplog.text

        answer = await http.get("/clusters/c-2")
        assert (answer.status_code, answer.json()["error"]) == (404, "NotFound")
        assert "77" not in answer.text

        answer = await http.get("/limited")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")


async def test_an_app_without_the_lifespan_says_what_is_missing(emulator: Emulator) -> None:
    app = FastAPI()
    add_exception_handlers(app)

    @app.get("/")
    async def endpoint(tp: TensorPoolDep) -> str:
        return tp.base_url

    async with serve(app) as url, httpx.AsyncClient() as http:
        answer = await http.get(url)
        assert (answer.status_code, answer.json()["error"]) == (500, "ConfigurationError")
