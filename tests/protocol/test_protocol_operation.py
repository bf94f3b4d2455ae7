"""The life of an operation: its table, every row met with real answers, and any sequence of answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tensorpool_async.errors import (
    AuthenticationError,
    ConnectionFailed,
    DecodeError,
    NotFound,
    OperationFailed,
    PermissionDenied,
    TensorPoolError,
)
from tensorpool_async.models import Cluster, ClusterStatus, OperationKind, RequestStatus
from tensorpool_async.protocol.operation import (
    LASTING_404,
    LASTING_404_SECONDS,
    LASTING_NONSENSE,
    LONGEST_INFO_TEXT,
    SHORTEST_404_DELAY,
    TRANSITIONS,
    MachineInput,
    OperationMachine,
    Phase,
)
from tensorpool_async.protocol.polling import PollPolicy
from tensorpool_async.protocol.responses import Response
from tensorpool_async.protocol.tokens import OperationRef


FOLLOWING, WATCHING, READING, DONE = Phase
CLAIM, RELEASE, EDIT = (
    OperationKind.CLUSTER_CLAIM,
    OperationKind.CLUSTER_RELEASE,
    OperationKind.CLUSTER_EDIT,
)
LATER_KIND = OperationKind("REGION_CLAIM")


def says(status: int, body: Any = None, retry_after: str | None = None) -> Response:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Response(status, {} if retry_after is None else {"Retry-After": retry_after}, data)


def request_is(status: str, kind: str = "CLUSTER_CLAIM", **fields: Any) -> Response:
    return says(
        200, {"request_id": "r-1", "request_type": kind, "status": status, "created_at": "now", **fields}
    )


def cluster_is(status: str | None, **fields: Any) -> Response:
    return says(200, {"cluster_info": {"id": "c-1", "status": status, **fields}})


HTML = says(502, b"<html><title>502 Bad Gateway</title></html>")
CUT_OFF = says(200, b'{"request_id": "r-')
NO_ANSWER = [
    HTML,
    CUT_OFF,
    says(500),
    says(503, retry_after="3"),
    says(429, retry_after="3"),
    says(408),
    says(302),
]
GONE = says(404, {"detail": "not found"})


def following(
    kind: OperationKind | None = CLAIM, *request_ids: str, resource_id: str | None = "c-1"
) -> OperationMachine:
    return OperationMachine(OperationRef(kind, resource_id, request_ids or ("r-1",)), PollPolicy())


def watching(kind: OperationKind = CLAIM, **expected: Any) -> OperationMachine:
    return OperationMachine(OperationRef(kind, "c-1", expected=expected), PollPolicy())


def reading(kind: OperationKind = CLAIM) -> OperationMachine:
    machine = following(kind)
    machine.receive(request_is("COMPLETED", kind), 0.0)
    return machine


def receive(machine: OperationMachine, answers: Sequence[Response]) -> float | None:
    delay: float | None = 0.0
    for answer in answers:
        delay = machine.receive(answer, 0.0)
    return delay


# The table of the design (section 4), a row each. What is in no row cannot happen.
TABLE: list[tuple[Phase, MachineInput, Phase]] = [
    (FOLLOWING, MachineInput.PROGRESS, FOLLOWING),
    (FOLLOWING, MachineInput.NEXT_REQUEST, FOLLOWING),
    (FOLLOWING, MachineInput.COMPLETED, READING),
    (FOLLOWING, MachineInput.COMPLETED_WITHOUT_RESULT, DONE),
    (FOLLOWING, MachineInput.FAILED, DONE),
    (FOLLOWING, MachineInput.MISSING, WATCHING),
    (FOLLOWING, MachineInput.LOST, DONE),
    (FOLLOWING, MachineInput.REFUSED, DONE),
    (WATCHING, MachineInput.PROGRESS, WATCHING),
    (WATCHING, MachineInput.RESULT, DONE),
    (WATCHING, MachineInput.COMPLETED_WITHOUT_RESULT, DONE),
    (WATCHING, MachineInput.FAILED, DONE),
    (WATCHING, MachineInput.LOST, DONE),
    (WATCHING, MachineInput.REFUSED, DONE),
    (WATCHING, MachineInput.UNREADABLE, DONE),
    (READING, MachineInput.RESULT, DONE),
    (READING, MachineInput.LOST, DONE),
    (READING, MachineInput.REFUSED, DONE),
    (READING, MachineInput.UNREADABLE, DONE),
]


def test_the_table_of_transitions() -> None:
    assert {(before, event): after for before, event, after in TABLE} == TRANSITIONS


def test_nothing_follows_the_end() -> None:
    assert DONE not in {before for before, _, _ in TABLE}


CLUSTER = Cluster("c-1", status=ClusterStatus.RUNNING)

# The same by what the engine answers: where the operation was, the answers, where it is then, and how it ended.
STEPS: list[tuple[str, OperationMachine, list[Response], Phase, type[TensorPoolError] | Cluster | None]] = [
    ("it is pending", following(), [request_is("PENDING")], FOLLOWING, None),
    ("it is processed", following(), [request_is("PROCESSING")], FOLLOWING, None),
    ("it is tried again", following(), [request_is("RETRYING")], FOLLOWING, None),
    ("a status of a later engine", following(), [request_is("QUEUED")], FOLLOWING, None),
    (
        "the first of two requests is done",
        following(CLAIM, "r-1", "r-2"),
        [request_is("COMPLETED")],
        FOLLOWING,
        None,
    ),
    ("both are done", following(CLAIM, "r-1", "r-2"), [request_is("COMPLETED")] * 2, READING, None),
    ("one of two failed", following(CLAIM, "r-1", "r-2"), [request_is("FAILED")], DONE, OperationFailed),
    ("a creation is done", following(), [request_is("COMPLETED")], READING, None),
    ("in lower case", following(), [request_is("completed")], READING, None),
    ("a destruction is done", following(RELEASE), [request_is("COMPLETED", "CLUSTER_RELEASE")], DONE, None),
    ("a later kind is done", following(LATER_KIND), [request_is("COMPLETED", "REGION_CLAIM")], DONE, None),
    ("done, of an unknown resource", following(resource_id=None), [request_is("COMPLETED")], DONE, None),
    ("it failed", following(), [request_is("FAILED")], DONE, OperationFailed),
    ("its request is not yet visible", following(), [GONE] * (LASTING_404 - 1), FOLLOWING, None),
    ("its request is lastingly unknown", following(), [GONE] * LASTING_404, WATCHING, None),
    ("and so is its resource", following(), [GONE] * 2 * LASTING_404, DONE, NotFound),
    ("nothing is known of it", following(None, resource_id=None), [GONE] * LASTING_404, DONE, NotFound),
    ("a later kind, lastingly unknown", following(LATER_KIND), [GONE] * LASTING_404, DONE, NotFound),
    ("an edit of which is not known to what", following(EDIT), [GONE] * LASTING_404, DONE, NotFound),
    ("401", following(), [says(401)], DONE, AuthenticationError),
    ("403", following(), [says(403)], DONE, PermissionDenied),
    ("the cluster is being made", watching(), [cluster_is("CONFIGURING")], WATCHING, None),
    ("the cluster has no state", watching(), [cluster_is(None)], WATCHING, None),
    ("the cluster runs", watching(), [cluster_is("running")], DONE, CLUSTER),
    ("the cluster failed", watching(), [cluster_is("FAILED")], DONE, OperationFailed),
    ("the cluster is being destroyed", watching(RELEASE), [cluster_is("DESTROYING")], WATCHING, None),
    (
        "the cluster failed while it was being destroyed",
        watching(RELEASE),
        [cluster_is("DESTROYING"), cluster_is("FAILED")],
        DONE,
        OperationFailed,
    ),
    (
        "the cluster runs again after it was being destroyed",
        watching(RELEASE),
        [cluster_is("DESTROYING"), cluster_is("RUNNING")],
        DONE,
        OperationFailed,
    ),
    (
        "a failed cluster is not yet being destroyed",
        watching(RELEASE),
        [cluster_is("FAILED")] * 30,
        WATCHING,
        None,
    ),
    ("the cluster is destroyed", watching(RELEASE), [cluster_is("DESTROYED")], DONE, None),
    ("the cluster is gone", watching(RELEASE), [GONE], DONE, None),
    (
        "the cluster has its old name",
        watching(EDIT, name="new"),
        [cluster_is("RUNNING", name="old")],
        WATCHING,
        None,
    ),
    ("the cluster has its new name", watching(EDIT, num_nodes=None), [cluster_is("RUNNING")], DONE, CLUSTER),
    ("the new cluster is not yet visible", watching(), [GONE] * (LASTING_404 - 1), WATCHING, None),
    ("the cluster is lastingly unknown", watching(), [GONE] * LASTING_404, DONE, NotFound),
    ("401 for the cluster", watching(), [says(401)], DONE, AuthenticationError),
    ("403 for the cluster", watching(), [says(403)], DONE, PermissionDenied),
    ("the result is there", reading(), [cluster_is("RUNNING")], DONE, CLUSTER),
    ("the result is not yet visible", reading(), [GONE] * (LASTING_404 - 1), READING, None),
    ("the result is lastingly unknown", reading(), [GONE] * LASTING_404, DONE, NotFound),
    ("401 for the result", reading(), [says(401)], DONE, AuthenticationError),
    ("403 for the result", reading(EDIT), [says(403)], DONE, PermissionDenied),
]


@pytest.mark.parametrize(
    ("machine", "answers", "phase", "outcome"), [step[1:] for step in STEPS], ids=[step[0] for step in STEPS]
)
def test_what_an_answer_changes(
    machine: OperationMachine,
    answers: list[Response],
    phase: Phase,
    outcome: type[TensorPoolError] | Cluster | None,
) -> None:
    delay = receive(machine, answers)
    assert machine.phase is phase
    assert machine.done is (phase is DONE) is (delay is None)
    if isinstance(outcome, type):
        assert type(machine.error) is outcome
        assert machine.result is None
    else:
        assert machine.error is None
        assert machine.result == outcome


@pytest.mark.parametrize("machine_in", [following, watching, reading])
@pytest.mark.parametrize("answer", NO_ANSWER)
def test_a_poll_that_fails_changes_nothing(machine_in: Any, answer: Response) -> None:
    machine = machine_in()
    phase, info, request = machine.phase, machine.info, machine.next_request()
    for _ in range(50):
        assert machine.receive(answer, 0.0) is not None
        assert machine.receive_failure(ConnectionFailed("lost"), 0.0) > 0
    assert (machine.phase, machine.info, machine.error) == (phase, info, None)
    assert machine.next_request().path == request.path


def test_an_operation_completes_through_all_sorts_of_failures_three_times_in_a_row() -> None:
    machine = following()
    for answer in NO_ANSWER:
        receive(machine, [answer] * 3)
        machine.receive(request_is("PROCESSING"), 0.0)
    receive(machine, [request_is("COMPLETED"), *NO_ANSWER * 3, cluster_is("RUNNING")])
    assert machine.result == CLUSTER


def test_a_404_is_believed_only_when_it_lasts() -> None:
    machine = following(None, resource_id=None)
    for _ in range(10):
        receive(machine, [GONE] * (LASTING_404 - 1))
        assert machine.receive(request_is("PROCESSING"), 0.0) is not None
    assert not machine.done


def test_a_request_that_is_unknown_hands_its_wait_to_the_resource() -> None:
    machine = following(RELEASE)
    assert receive(machine, [GONE] * LASTING_404) == 0.0
    assert machine.next_request().path == "/cluster/info/c-1"
    assert machine.receive(GONE, 0.0) is None
    assert machine.error is None
    assert machine.info is not None
    assert machine.info.status is RequestStatus.COMPLETED


# How soon it asks again.


def test_the_first_poll_is_as_late_as_the_202_asks() -> None:
    machine = OperationMachine(OperationRef(CLAIM, "c-1", ("r-1",)), PollPolicy(initial=0.25))
    assert machine.first_delay(3.0, 0.0) == 3.0
    assert machine.first_delay(None, 0.0) == 0.25


@pytest.mark.parametrize("answer", [200, 404, 429, 500, 503])
def test_the_next_poll_is_as_late_as_the_answer_asks(answer: int) -> None:
    body = {"request_id": "r-1", "request_type": "CLUSTER_CLAIM", "status": "PENDING"}
    assert following().receive(says(answer, body, retry_after="7.5"), 0.0) == 7.5
    assert following().receive(says(answer, body, retry_after="soon"), 0.0) == PollPolicy().default
    assert following().receive(says(answer, body, retry_after="0"), 0.0) == 0.0


def test_failures_grow_rarer_until_there_is_an_answer() -> None:
    machine = following()
    delays = [machine.receive(HTML, 0.0), machine.receive_failure(ConnectionFailed("lost"), 0.0)]
    assert delays == [2.0, 4.0]
    machine.receive(request_is("PENDING"), 0.0)
    assert machine.receive(CUT_OFF, 0.0) == 2.0


def test_something_else_is_asked_at_once() -> None:
    machine = following(CLAIM, "r-1", "r-2")
    assert machine.receive(request_is("COMPLETED"), 0.0) == 0.0
    assert machine.next_request().path == "/request/info/r-2"
    assert machine.receive(request_is("COMPLETED"), 0.0) == 0.0
    assert machine.next_request().path == "/cluster/info/c-1"


# What it asks, and what it knows.


def test_every_poll_has_quoted_ids() -> None:
    machine = OperationMachine(OperationRef(CLAIM, "c/1", ("r/1",)), PollPolicy())
    request = machine.next_request()
    assert (request.method, request.path) == ("GET", "/request/info/r%2F1")
    machine.receive(request_is("COMPLETED"), 0.0)
    request = machine.next_request()
    assert (request.method, request.path) == ("GET", "/cluster/info/c%2F1")


def test_with_a_request_id_alone_the_engine_tells_the_rest() -> None:
    machine = following(None, resource_id=None)
    assert machine.info is None
    machine.receive(request_is("PROCESSING", object_id="c-1", external_message="booting"), 0.0)
    assert machine.ref == OperationRef(CLAIM, "c-1", ("r-1",))
    assert machine.info is not None
    assert (machine.info.status, machine.info.external_message) == (RequestStatus.PROCESSING, "booting")
    receive(machine, [request_is("COMPLETED"), cluster_is("RUNNING")])
    assert machine.result == CLUSTER


def test_what_is_known_from_the_202_on() -> None:
    machine = following()
    assert machine.info is not None
    assert (machine.info.request_id, machine.info.object_id) == ("r-1", "c-1")
    assert (machine.info.request_type, machine.info.status) == (CLAIM, RequestStatus.PENDING)
    assert watching().info is not None


def test_the_engine_does_not_change_what_the_202_said() -> None:
    machine = following()
    machine.receive(request_is("PROCESSING", "CLUSTER_EDIT", object_id="c-2"), 0.0)
    assert (machine.kind, machine.resource_id) == (CLAIM, "c-1")


def test_an_operation_of_several_requests_is_not_completed_by_the_first() -> None:
    machine = following(CLAIM, "r-1", "r-2")
    machine.receive(request_is("COMPLETED", external_message="half"), 0.0)
    assert machine.info is not None
    assert not machine.info.status.is_terminal
    assert machine.info.external_message == "half"


@pytest.mark.parametrize(
    ("machine", "answer", "reason", "text"),
    [
        (following(), request_is("FAILED", external_message="no capacity"), "no capacity", "CLUSTER_CLAIM of c-1 failed: no capacity"),
        (following(), request_is("FAILED"), "the engine gives no reason", "CLUSTER_CLAIM of c-1 failed: the engine gives no reason"),
        (following(None, resource_id=None), request_is("FAILED"), "the engine gives no reason", "CLUSTER_CLAIM of an unknown resource failed: the engine gives no reason"),
        (watching(), cluster_is("FAILED"), "it is FAILED", "CLUSTER_CLAIM of c-1 failed: it is FAILED"),
    ],
)  # fmt: skip
def test_a_failure_gives_its_reason(
    machine: OperationMachine, answer: Response, reason: str, text: str
) -> None:
    machine.receive(answer, 0.0)
    assert isinstance(machine.error, OperationFailed)
    assert (machine.error.message, str(machine.error)) == (reason, text)
    assert machine.info is not None
    assert machine.info.status is RequestStatus.FAILED


def test_watching_tells_the_state_of_the_resource() -> None:
    machine = watching()
    machine.receive(cluster_is("PROVISIONING"), 0.0)
    assert machine.info is not None
    assert machine.info.request_id is None
    assert (machine.info.status, machine.info.external_message) == (RequestStatus.PROCESSING, "PROVISIONING")


def test_that_a_destruction_had_begun_is_known_to_who_goes_on_with_it() -> None:
    machine = watching(RELEASE)
    machine.receive(cluster_is("DESTROYING"), 0.0)
    other = OperationMachine(machine.ref, PollPolicy())
    other.receive(cluster_is("FAILED"), 0.0)
    assert isinstance(other.error, OperationFailed)


def test_an_answer_to_what_is_no_longer_asked_changes_nothing() -> None:
    machine = following()
    asked = machine.next_request()
    late = request_is("COMPLETED")
    assert machine.receive(late, 0.0, asked=asked) == 0.0
    assert machine.phase is READING
    assert machine.receive(late, 0.0, asked=asked) == 0.0
    assert machine.receive(GONE, 0.0, asked=asked) == 0.0
    assert (machine.phase, machine.result) == (READING, None)
    assert machine.receive(cluster_is("RUNNING"), 0.0, asked=machine.next_request()) is None
    assert machine.receive(late, 0.0, asked=asked) is None
    assert machine.result == CLUSTER


# Any life.

ANSWERS = st.sampled_from(
    [
        *NO_ANSWER,
        GONE,
        says(401),
        says(403),
        says(200, []),
        says(200, {"message": "only a text"}),
        *[
            request_is(status, kind, object_id=object_id)
            for status in ("PENDING", "completed", "FAILED", "QUEUED")
            for kind in ("CLUSTER_CLAIM", "CLUSTER_RELEASE", "REGION_CLAIM")
            for object_id in (None, "c-1")
        ],
        *[cluster_is(status) for status in ("PENDING", "RUNNING", "DESTROYED", "FAILED", None)],
    ]
)
TICKETS = st.one_of(
    st.builds(
        OperationRef,
        st.none() | st.sampled_from([CLAIM, RELEASE, EDIT, LATER_KIND]),
        st.none() | st.just("c-1"),
        st.sampled_from([("r-1",), ("r-1", "r-2")]),
    ),
    st.builds(OperationRef, st.sampled_from([CLAIM, RELEASE, EDIT]), st.just("c-1")),
)
MOVES = {(before, after) for before, _, after in TABLE}


@settings(deadline=None)
@given(ref=TICKETS, answers=st.lists(ANSWERS, max_size=30), jitter=st.floats(0.0, 1.0))
def test_any_answers_lead_along_the_table(ref: OperationRef, answers: list[Response], jitter: float) -> None:
    machine = OperationMachine(ref, PollPolicy())
    for count, answer in enumerate(answers, start=1):
        before = machine.phase
        delay = machine.receive(answer, jitter)
        assert machine.polls == count
        assert machine.phase is before or (before, machine.phase) in MOVES
        assert (delay is None) is machine.done
        if delay is None:
            break
        assert machine.error is None
        assert not machine.next_request().changes_something
        if machine.phase is before and answer.status != 200:
            assert delay >= (answer.retry_after or 0.0)
    if isinstance(machine.error, OperationFailed):
        assert machine.info is not None
        assert machine.info.status is RequestStatus.FAILED
    assert machine.error is None or machine.result is None
    assert isinstance(
        machine.error, OperationFailed | AuthenticationError | PermissionDenied | NotFound | None
    )


NONSENSE = says(200, {"cluster_info": {"id": "c-1", "instances": "many"}})


@pytest.mark.parametrize("machine_in", [watching, reading])
def test_a_resource_that_is_lastingly_none_ends_the_wait(machine_in: Any) -> None:
    machine = machine_in()
    assert receive(machine, [NONSENSE] * (LASTING_NONSENSE - 1)) is not None
    assert receive(machine, [NONSENSE]) is None
    assert isinstance(machine.error, DecodeError)
    assert machine.done


@pytest.mark.parametrize("between", [CUT_OFF, says(200, b""), HTML])
def test_answers_that_are_cut_off_never_end_a_wait(between: Response) -> None:
    machine = watching()
    assert receive(machine, [between] * 3 * LASTING_NONSENSE) is not None
    machine.receive_failure(ConnectionFailed("lost"), 0.0)
    assert receive(machine, [NONSENSE] * (LASTING_NONSENSE - 1)) is not None
    assert not machine.done


def test_one_resource_that_can_be_read_begins_the_count_of_the_others_anew() -> None:
    machine = watching()
    receive(machine, [NONSENSE] * (LASTING_NONSENSE - 1))
    receive(machine, [cluster_is("PENDING")])
    assert receive(machine, [NONSENSE] * (LASTING_NONSENSE - 1)) is not None


def test_a_request_that_cannot_be_read_is_asked_for_as_long_as_it_takes() -> None:
    machine = following()
    assert receive(machine, [says(200, {"status": []})] * 3 * LASTING_NONSENSE) is not None
    assert not machine.done


def test_a_404_is_believed_only_after_some_time_however_often_the_engine_wants_to_be_asked() -> None:
    machine = following(None, resource_id=None)
    at_once = says(404, {"detail": "not found"}, retry_after="0")
    delays: list[float] = []
    while (delay := receive(machine, [at_once])) is not None:
        delays.append(delay)
    assert delays[: LASTING_404 - 1] == [0.0] * (LASTING_404 - 1)
    assert set(delays[LASTING_404 - 1 :]) == {SHORTEST_404_DELAY}
    assert sum(delays) >= LASTING_404_SECONDS
    assert isinstance(machine.error, NotFound)


def test_the_time_of_404s_is_counted_from_the_first_in_a_row() -> None:
    machine = following(None, resource_id=None)
    slow, quick = (says(404, {"detail": "not found"}, retry_after=seconds) for seconds in ("60", "0"))
    receive(machine, [slow, request_is("PENDING")])
    assert receive(machine, [quick] * LASTING_404) == SHORTEST_404_DELAY


def test_the_same_request_is_asked_until_something_else_is() -> None:
    machine = following(CLAIM, "r-1", "r-2")
    first = machine.next_request()
    receive(machine, [request_is("PENDING")])
    assert machine.next_request() is first
    receive(machine, [request_is("COMPLETED")])
    assert machine.next_request().path == "/request/info/r-2"
    receive(machine, [request_is("COMPLETED")])
    assert machine.next_request().path == "/cluster/info/c-1"


def test_an_answer_that_is_word_for_word_the_last_one_goes_on_at_the_pace_that_it_names() -> None:
    machine = following()
    assert machine.receive(request_is("PROCESSING"), 0.0) == 2.0
    info = machine.info
    machine.receive(HTML, 0.0)
    again = request_is("PROCESSING")
    assert machine.receive(Response(200, {"Retry-After": "7"}, again.body), 0.0) == 7.0
    assert machine.info is info  # nothing was read anew
    assert machine.receive(HTML, 0.0) == 2.0  # the first failure in a row again
    assert machine.polls == 4
    assert machine.receive(request_is("RETRYING"), 0.0) == 2.0
    assert machine.info is not info
    assert machine.info is not None
    assert machine.info.status is RequestStatus.RETRYING


def test_the_same_words_about_another_request_are_read_again() -> None:
    machine = following(CLAIM, "r-1", "r-2")
    ended = request_is("COMPLETED")
    machine.receive(request_is("PENDING"), 0.0)
    assert machine.receive(ended, 0.0) == 0.0
    assert machine.phase is FOLLOWING
    assert machine.receive(ended, 0.0) == 0.0
    assert machine.phase is READING


def test_words_seen_while_the_request_was_followed_say_nothing_about_the_resource() -> None:
    machine = following()
    machine.receive(request_is("PENDING", cluster_info={"id": "c-1", "status": "RUNNING"}), 0.0)
    receive(machine, [GONE] * LASTING_404)
    assert machine.phase is WATCHING
    machine.receive(request_is("PENDING", cluster_info={"id": "c-1", "status": "RUNNING"}), 0.0)
    assert machine.phase is DONE


def test_an_operation_keeps_its_ids_once() -> None:
    machine = following()
    machine.receive(request_is("PENDING", object_id="c-1"), 0.0)
    assert machine.info is not None
    assert machine.info.request_id is machine.request_ids[0]
    assert machine.info.object_id is machine.resource_id
    nameless = following(None, resource_id=None)
    nameless.receive(request_is("PENDING"), 0.0)
    assert nameless.info is not None
    assert nameless.info.object_id is None
    nameless.receive(says(200, ["no object"]), 0.0)
    assert not nameless.done


def test_of_a_giant_answer_only_the_beginnings_of_its_texts_are_kept() -> None:
    giant = "x" * 1_000_000
    machine = following(None, resource_id=None)
    receive(
        machine, [request_is("B" + giant, "A" + giant, external_message=giant, object_id=giant, new=giant)]
    )
    assert machine.info is not None
    assert machine.info.external_message == "x" * LONGEST_INFO_TEXT
    assert machine.info.extra == {}
    assert len(machine.ref.kind or "") == len(machine.info.status) == LONGEST_INFO_TEXT
    assert machine.resource_id is None
    receive(machine, [request_is("FAILED", external_message=giant)])
    assert len(str(machine.error)) < 3 * LONGEST_INFO_TEXT

    watched = watching()
    receive(watched, [cluster_is(giant)])
    assert watched.info is not None
    assert watched.info.external_message == "x" * LONGEST_INFO_TEXT


def test_of_an_answer_of_usual_size_everything_is_kept() -> None:
    machine = following()
    receive(machine, [request_is("PROCESSING", external_message="x" * 10_000, new="field")])
    assert machine.info is not None
    assert (machine.info.external_message, machine.info.extra) == ("x" * 10_000, {"new": "field"})
