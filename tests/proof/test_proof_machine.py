"""Whatever is done, goes wrong, is cancelled or killed: every living cluster is known to whoever made it.

A state machine does things at random against an emulator. After each of them, each living cluster must be known: by a
result, by an exception, by the journal, or as the member of a fleet; and no name was made twice.
"""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tensorpool_async import AmbiguousOutcomeError, FleetError, TensorPool, TensorPoolError
from tensorpool_async.emulator import Cluster, Emulator, Fault, FaultKind
from tensorpool_async.fleet import ClusterGroup, Fleet, provisioning, teardown
from tensorpool_async.journal import EntryState
from tensorpool_async.resources import deletion
from tests.proof import processes
from tests.proof.processes import Killer, tell
from tests.support.cancelling import Means, walk


SEED = int(os.environ.get("TENSORPOOL_PROOF_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
EXAMPLES = int(os.environ.get("TENSORPOOL_PROOF_EXAMPLES", "20"))
"""A few hundred of them take minutes: for a machine with time."""
STEPS = 12

KIND = "1xH100"
LASTING = Fleet("f", [ClusterGroup("t", KIND, count=3)])
PASSING = Fleet("g", [ClusterGroup("t", KIND, count=3)])
MEMBERS = frozenset(member.name for fleet in (LASTING, PASSING) for member in fleet.members)

CREATE = "/cluster/create"
TAKEN = st.sampled_from(["a", "b", "c"])
"""Names that several callers want."""

Action: TypeAlias = "Callable[[TensorPool], Coroutine[Any, Any, None]]"


def faults() -> st.SearchStrategy[Fault]:
    """Draw a fault that strikes a few times.

    A 404 is only told where it need not be true: an engine that denies what it has cannot be seen through.
    """
    anywhere = st.sampled_from([None, CREATE, "/cluster/*", "/request/info/*"])
    deniable = st.sampled_from([CREATE, "/request/info/*", "/cluster/operations/*"])
    kinds = st.sampled_from([kind for kind in FaultKind if kind is not FaultKind.NOT_FOUND])
    times, after = st.integers(1, 2), st.integers(0, 3)
    return st.builds(
        Fault, kinds, path=anywhere, times=times, after=after, seconds=st.just(0.03)
    ) | st.builds(Fault, st.just(FaultKind.NOT_FOUND), path=deniable, times=times, after=after)


FAULTS = st.lists(faults(), max_size=3)
POINTS = st.integers(1, 30) | st.integers(1, 100)
"""Suspensions of what is cancelled; what has no more than so many goes on to its end."""


class Machine(RuleBasedStateMachine):
    """What callers do, and what they know."""

    killer: ClassVar[Killer]

    def __init__(self) -> None:
        super().__init__()
        self._closing = ExitStack()
        self._runner = self._closing.enter_context(asyncio.Runner(debug=False))
        self._folder = Path(self._closing.enter_context(tempfile.TemporaryDirectory()))
        self._journal = self._folder / "journal.db"
        self._engine = Emulator(
            provision_seconds=(0.01, 0.03), destroy_seconds=0.01, edit_seconds=0.01, retry_after=0.01
        )
        self._tp: TensorPool | None = None
        self._ids: set[str | None] = set()
        self._names: set[str | None] = set()
        self._count = 0
        self._reopened = 0
        self._killed = False
        self._blocks = 0
        self._are_crossed = False

    # What is done to the client and the engine.

    @initialize()
    def begin(self) -> None:
        self._do(self._engine.__aenter__())
        self._tp = self._client()

    @precondition(lambda self: self._reopened < 2)
    @rule(number=st.integers(1, 4))
    def reopen(self, number: int) -> None:
        """Close the client with operations in flight, of which only the journal knows, and go on with them."""

        self._reopened += 1

        async def begin_some(tp: TensorPool) -> None:
            creates = [tp.clusters.create(KIND) for _ in range(number)]
            for outcome in await asyncio.gather(*creates, return_exceptions=True):
                if isinstance(outcome, TensorPoolError):
                    self._learn(outcome)
            await tp.aclose()

        self._do(begin_some(self._client_now))
        self._tp = self._client()
        self._check_known()
        self._do(self._recover(self._tp))

    @precondition(lambda self: not self._killed)  # it takes longer than all else
    @rule(
        names=st.lists(TAKEN | st.none(), min_size=1, max_size=5),
        request=st.integers(1, 12),
        phase=st.sampled_from(["arrived", "handled", "later"]),
        seconds=st.floats(0, 0.02),
    )
    def kill(self, names: list[str | None], request: int, phase: processes.Phase, seconds: float) -> None:
        """Let another process make clusters, kill it, and recover."""
        self._killed = True
        results = self._folder / "results"
        moment = processes.Moment(request, phase, seconds)
        arguments = (self._engine.url, self._engine.key, self._journal, results, names)
        self._do(self.killer.run(processes.create_all, *arguments, moment=moment))
        if results.exists():
            self._ids |= set(results.read_text().split())
        self._do(self._recover(self._client_now))

    # What callers do, one after the other, side by side, and until they are cancelled.

    @rule(data=st.data(), number=st.integers(1, 4), spoilt=FAULTS)
    def act(self, data: st.DataObject, number: int, spoilt: list[Fault]) -> None:
        self._spoil(spoilt)
        actions = [self._draw(data) for _ in range(number)]
        self._do(_together(self._client_now, actions))

    @rule(
        data=st.data(),
        number=st.integers(1, 4),
        spoilt=FAULTS,
        point=POINTS,
        means=st.tuples(st.just("task"), st.none() | st.integers(1, 20))
        | st.tuples(st.sampled_from(["timeout", "scope"]), st.none()),
    )
    def cancel(
        self,
        data: st.DataObject,
        number: int,
        spoilt: list[Fault],
        point: int,
        means: tuple[Means, int | None],
    ) -> None:
        """Cancel at an await of any task of the client, and once more a little later."""
        self._spoil(spoilt)
        actions: list[Action] | None = [self._draw(data) for _ in range(number)]

        async def scenario() -> None:
            nonlocal actions
            if actions is None:
                return  # this is over after one run
            mine, actions = actions, None
            async with self._client() as tp:
                await _together(tp, mine)
            await asyncio.sleep(0)  # a scope that was cancelled while the journal closed tells so here

        by, again = means
        self._do(_settled(self._client_now))  # so that the walk meets no tasks but its own
        self._do(walk(scenario, lambda _: None, start=point, step=10**9, by=by, again=again))
        self._do(self._recover(self._client_now))

    def _spoil(self, faults: Sequence[Fault]) -> None:
        self._engine.faults.clear()
        self._engine.faults.add(*faults)

    def _draw(self, data: st.DataObject) -> Action:
        makers = st.sampled_from([self._creating, self._ensuring, self._lending, self._lending])
        name = data.draw(TAKEN | st.none(), label="name")
        actions: list[Action] = [
            data.draw(makers, label="maker")(name),
            self._fleet_up,
            self._fleet_down,
            self._fleet_block,
            self._destroying(data.draw(st.integers(0, 10), label="which")),
        ]
        weights = [0, 0, 0, 1, 2, 3, 4]
        return actions[data.draw(st.sampled_from(weights), label="action")]

    def _creating(self, name: str | None) -> Action:
        async def create(tp: TensorPool) -> None:
            submission = tp.clusters.create(KIND, name=name)
            try:
                cluster = await submission.result()
            except TensorPoolError as error:
                self._learn(error)
                if name is None:  # then what has this name is this call's, and the error alone must tell
                    self._check_told(submission.name, error)
            else:
                self._ids.add(cluster.id)

        return create

    def _ensuring(self, name: str | None) -> Action:
        async def ensure(tp: TensorPool) -> None:
            cluster = await self._hear(tp.clusters.ensure(self._own(name), KIND).result())
            if cluster is not None:
                self._ids.add(cluster.id)

        return ensure

    def _lending(self, name: str | None) -> Action:
        async def lend(tp: TensorPool) -> None:
            block = tp.clusters.ephemeral(KIND, name=name)

            def left() -> set[str]:
                made = None if block.operation is None else block.operation.resource_id
                return self._living(lambda one: one.id == made or (name is None and one.name == block.name))

            async def body() -> None:
                async with block as cluster:
                    assert name is not None or cluster.id in self._engine.record.living
                    await asyncio.sleep(0.005)

            await self._leave_nothing(body(), left)

        return lend

    async def _leave_nothing(self, body: Coroutine[Any, Any, None], left: Callable[[], set[str]]) -> None:
        """Run a block; what is left after it must be told by its error."""
        error: BaseException | None = None
        try:
            await body
        except TensorPoolError as problem:
            self._learn(problem)
            error = problem
        except asyncio.CancelledError as interruption:
            error = interruption
            raise
        finally:
            told = "\n".join(getattr(error, "__notes__", ()))
            if isinstance(error, FleetError):
                told += f"{dict(error.members)}"
            if isinstance(error, AmbiguousOutcomeError):
                told += f"{error.name}"
            for id_ in left():
                name = self._engine.clusters[id_].name
                assert id_ in told or name in told, f"{name} ({id_}) is left, and {error!r} tells {told!r}"

    async def _fleet_up(self, tp: TensorPool) -> None:
        await self._hear(tp.fleet(LASTING).up())

    async def _fleet_down(self, tp: TensorPool) -> None:
        await self._hear(tp.fleet(LASTING).down())

    async def _fleet_block(self, tp: TensorPool) -> None:
        before = self._living(_is_passing)
        self._blocks += 1
        self._are_crossed = self._blocks > 1  # two blocks of one fleet share its clusters

        def left() -> set[str]:
            return set() if self._are_crossed else self._living(_is_passing) - before

        async def body() -> None:
            async with tp.fleet(PASSING):
                await asyncio.sleep(0.005)

        try:
            await self._leave_nothing(body(), left)
        finally:
            self._blocks -= 1
            self._are_crossed = self._are_crossed and self._blocks > 0

    def _destroying(self, which: int) -> Action:
        async def destroy(tp: TensorPool) -> None:
            ids = sorted(self._living(lambda one: one.id in self._ids and one.busy is None))
            if ids:  # what is being changed is refused, and nobody would ask for it
                await self._hear(tp.clusters.destroy(ids[which % len(ids)]).result())

        return destroy

    # What must hold.

    @invariant()
    def everything_is_known(self) -> None:
        if self._tp is not None:
            self._check_known()

    def teardown(self) -> None:
        try:
            if self._tp is not None:
                self._do(self._clear_up(self._tp))
        finally:
            self._closing.close()

    async def _clear_up(self, tp: TensorPool) -> None:
        """Recover and destroy everything; then nothing is left, and the journal has nothing open."""
        try:
            self._engine.faults.clear()
            for operation in await tp.recover():
                await self._hear(operation)
            clusters = await tp.clusters.list()
            await asyncio.gather(*(tp.clusters.lifecycle.destroy(cluster) for cluster in clusters))
            assert self._engine.record.living == []
            await _settled(tp)
            await asyncio.sleep(0)  # an operation's end is noted a moment later
            assert await tp.journal_entries() == []
        finally:
            await tp.aclose()
            await self._engine.__aexit__(None, None, None)

    def _check_known(self) -> None:
        entries = self._do(self._client_now.journal_entries(ended=True))
        journal = {entry.ref.resource_id for entry in entries if entry.ref is not None}
        intents = {entry.intent.name for entry in entries if entry.state is EntryState.INTENT}
        names = self._names | intents | MEMBERS
        record = self._engine.record
        unknown = [
            (id_, self._engine.clusters[id_].name)
            for id_ in record.living
            if id_ not in self._ids | journal and self._engine.clusters[id_].name not in names
        ]
        assert (unknown, record.made_twice, record.destroys_before_ready) == ([], [], 0)

    def _check_told(self, name: str | None, error: TensorPoolError) -> None:
        living = self._living(lambda one: one.name == name)
        told = set[str | None]() if error.operation is None else {error.operation.resource_id}
        by_name = isinstance(error, AmbiguousOutcomeError) and error.name == name
        assert by_name or living <= told, f"{error!r} does not tell of {living}"

    def _living(self, wanted: Callable[[Cluster], bool]) -> set[str]:
        return {id_ for id_ in self._engine.record.living if wanted(self._engine.clusters[id_])}

    # How it is done.

    @property
    def _client_now(self) -> TensorPool:
        assert self._tp is not None
        return self._tp

    def _client(self) -> TensorPool:
        return processes.client(self._engine.url, self._engine.key, self._journal)

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(work)

    def _own(self, name: str | None) -> str:
        self._count += 1
        return name or f"own-{self._count}"

    async def _hear(self, work: Awaitable[Any]) -> Any:
        """Return the result, or None where there is an error, which is learned from."""
        try:
            return await work
        except TensorPoolError as error:
            self._learn(error)

    async def _recover(self, tp: TensorPool) -> None:
        operations: Sequence[Any] = await self._hear(tp.recover()) or []
        self._ids |= {operation.resource_id for operation in operations}

    def _learn(self, error: TensorPoolError) -> None:
        if error.operation is not None:
            self._ids.add(error.operation.resource_id)
        if isinstance(error, AmbiguousOutcomeError):
            self._names.add(error.name)
        if isinstance(error, FleetError):
            for one in error.exceptions:
                if isinstance(one, TensorPoolError):
                    self._learn(one)


def _is_passing(cluster: Cluster) -> bool:
    return cluster.name.startswith("g-t-")


async def _settled(tp: TensorPool) -> None:
    while tp.statistics().operations:
        await asyncio.sleep(0.01)


async def _together(tp: TensorPool, actions: Sequence[Action]) -> None:
    for outcome in await asyncio.gather(*(action(tp) for action in actions), return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome


@pytest.mark.timeout(60 + 5 * EXAMPLES)
def test_every_living_cluster_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deletion, "CONFLICT_DELAY", 0.02)
    monkeypatch.setattr(provisioning, "NAME_CONFLICT_DELAY", 0.02)
    monkeypatch.setattr(teardown, "LOOKUP_DELAY", 0.02)
    monkeypatch.setattr(deletion, "RETRY_DELAY", 0.02)
    tell(f"TENSORPOOL_PROOF_SEED={SEED}")
    with processes.listening(monkeypatch) as killer:

        @seed(SEED)
        class Seeded(Machine):
            pass

        Seeded.killer = killer
        run_state_machine_as_test(
            Seeded,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                deadline=None,
                derandomize=False,
                database=None,
                print_blob=True,
                # Time is part of what happens, so a smaller example seldom fails in the same way.
                phases=(Phase.generate,),
                suppress_health_check=[HealthCheck.too_slow],
            ),
        )
