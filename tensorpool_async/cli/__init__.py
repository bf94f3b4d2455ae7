"""The command `tpa`. It needs the extra `cli`."""

from __future__ import annotations

import sys
from collections.abc import Sequence


DONE, FAILED, WRONG_USAGE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143
"""The exit codes; a command that was interrupted by SIGTERM returns `INTERRUPTED`, and the process ends with `TERMINATED`."""

_EXTRA = frozenset({"cyclopts", "rich"})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: The words after `tpa`; None takes those of the process.
    """
    try:
        from tensorpool_async.cli.app import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        sys.stderr.write('tpa needs cyclopts and rich: pip install "tensorpool-async[cli]"\n')
        return FAILED
    try:
        return run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        return INTERRUPTED  # before there was anything to give an account of
