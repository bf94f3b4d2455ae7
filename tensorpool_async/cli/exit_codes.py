"""The exit codes of the command `tpa`."""

from __future__ import annotations

import signal
from enum import IntEnum


class ExitCode(IntEnum):
    """What a command returns.

    A command that a signal interrupts returns `INTERRUPTED`, whichever signal it was; the runner turns that into the code
    of the signal.
    """

    SUCCESS = 0
    FAILURE = 1
    """An operation, a member of a fleet or a request failed."""
    USAGE_ERROR = 2
    """A wrong option, a wrong file, a missing key, or a missing confirmation."""
    INTERRUPTED = 130
    """Ctrl-C (SIGINT)."""
    TERMINATED = 143
    """SIGTERM."""


SIGNAL_EXIT_CODES = {signal.SIGINT: ExitCode.INTERRUPTED, signal.SIGTERM: ExitCode.TERMINATED}
"""The signals that interrupt a command, with the exit code of each."""
