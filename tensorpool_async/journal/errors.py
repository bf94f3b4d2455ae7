"""What goes wrong with a journal."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from tensorpool_async.errors import TensorPoolError


class JournalError(TensorPoolError):
    """The journal cannot be read or written. What was to be noted in it was not sent.

    Attributes:
        path: The file.
        problem: What is wrong with it.
        advice: What to do about it.
    """

    def __init__(self, path: Path, problem: str, advice: str) -> None:
        super().__init__(f"the journal {path} {problem}; {advice}")
        self.path = path
        self.problem = problem
        self.advice = advice

    def again(self) -> Self:
        """Make the same error for one more caller, so that no two share a traceback."""
        return type(self)(self.path, self.problem, self.advice)
