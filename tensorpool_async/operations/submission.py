"""`Submission`: a change that has not been sent."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from tensorpool_async.errors import OperationTimeout, TensorPoolError
from tensorpool_async.operations.executor import Change
from tensorpool_async.operations.operation import Operation
from tensorpool_async.texts import clean


T = TypeVar("T")


class Submission(Coroutine[Any, Any, "Operation[T]"], Generic[T]):
    """A change that has not been sent.

    `await submission` sends the change and returns its `Operation` once the engine has accepted it. `await
    submission.result()` also waits for the end. A submission can be used once. It is a coroutine, so
    `asyncio.create_task(submission)` and `TaskGroup.create_task(submission)` send the change too. A submission that is
    never awaited sends nothing and issues a `RuntimeWarning`.
    """

    __slots__ = ("_change", "_coroutine", "_execute", "_used", "_what")

    def __init__(
        self,
        what: str,
        execute: Callable[[Change], Coroutine[Any, Any, Operation[T]]],
        change: Change,
    ) -> None:
        self._used = False
        self._what = clean(what)
        self._execute = execute
        self._change = change
        self._coroutine: Coroutine[Any, Any, Operation[T]] | None = None

    @property
    def name(self) -> str | None:
        """The name of the resource that the change creates, given or random; None if it creates nothing."""
        return self._change.request.name

    def __await__(self) -> Generator[Any, None, Operation[T]]:
        return self._use().__await__()

    def result(self, timeout: float | None = None) -> Coroutine[Any, Any, T]:
        """Send the change and wait for the end of its operation.

        Args:
            timeout: The longest wait in seconds, counted from this call, including the wait for a slot and the send.
                None waits without a limit.

        Raises:
            StatusError: The engine refused the change.
            AmbiguousOutcomeError: The response was lost, and the outcome of the change is not known.
            OperationTimeout: The timeout ran out. If the engine had accepted the change, `.operation` continues. If not,
                `.operation` is None, and the message tells whether the change was sent.
            OperationError: As for `Operation.result`.
        """
        return self._send_and_wait(self._use(), timeout)

    def send(self, value: Any, /) -> Any:
        """Run the next step of the coroutine. The event loop calls this."""
        if self._coroutine is None:
            self._coroutine = self._use()
        return self._coroutine.send(value)

    def throw(self, *error: Any) -> Any:
        """Raise an error inside the coroutine. A submission that was not started sends nothing."""
        if self._coroutine is None:
            self._coroutine = self._use()
        return self._coroutine.throw(*error)

    def close(self) -> None:
        """Close the coroutine. A submission that was not sent is not sent later, and issues no warning."""
        self._used = True
        if self._coroutine is not None:
            self._coroutine.close()

    async def _send_and_wait(self, coroutine: Coroutine[Any, Any, Operation[T]], timeout: float | None) -> T:
        if timeout is None:
            return await (await coroutine).result()
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout
        limit = asyncio.timeout_at(deadline)
        try:
            async with limit:
                operation = await coroutine
        except TimeoutError as error:
            if not limit.expired() or isinstance(error, TensorPoolError):
                raise
            late = OperationTimeout(f"{self._what} was not accepted within {timeout} s; {_state_of(error)}")
            raise late from None
        return await operation.result(max(0.0, deadline - clock()))

    def _use(self) -> Coroutine[Any, Any, Operation[T]]:
        if self._used:
            raise RuntimeError(f"{self._what} was already sent, or given up; a submission is used once")
        self._used = True
        return self._execute(self._change)

    if not TYPE_CHECKING:  # type checkers have better messages for these mistakes

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(
                f"{self._what} has not been sent, so it has no {name!r}: write `operation = await submission` for the "
                f"operation, and `(await submission.result()).{name}` for what its result has"
            )

        async def __aenter__(self) -> Any:
            self.close()
            raise TypeError(
                f"{self._what} is no context manager: write `await submission.result()`, or use "
                "`tp.clusters.ephemeral(…)` for a cluster that is destroyed at the end of a block"
            )

        async def __aexit__(self, *_: object) -> None:
            """Never reached."""

    def __repr__(self) -> str:
        return f"<Submission {self._what}{', used' if self._used else ', not sent'}>"

    def __del__(self) -> None:
        if not getattr(self, "_used", True):
            warnings.warn(
                f"{self._what} was never awaited, so nothing was sent",
                RuntimeWarning,
                stacklevel=2,
                source=self,
            )


def _state_of(late: TimeoutError) -> str:
    notes: list[str] = getattr(late.__cause__, "__notes__", [])  # of the cancellation that it began with
    return "; ".join(notes) or "nothing was sent that the engine carries out"
