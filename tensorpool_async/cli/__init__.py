"""The command `tpa`. It needs the extra `cli`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tensorpool_async.cli.exit_codes import ExitCode


_EXTRA = frozenset({"cyclopts", "rich"})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: The arguments after `tpa`; None takes those of the process.
    """
    try:
        from tensorpool_async.cli.app import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        sys.stderr.write('tpa needs cyclopts and rich: pip install "tensorpool-async[cli]"\n')
        return ExitCode.FAILURE
    try:
        return run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED  # while modules were imported: no command has started
