"""The command line: names, options, help."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter, validators

from tensorpool_async.cli import DONE, WRONG_USAGE, clusters, fleets, listing, serving
from tensorpool_async.cli.emulation import SPEED
from tensorpool_async.cli.printing import say
from tensorpool_async.cli.running import run as run_coroutine
from tensorpool_async.fleet import load
from tensorpool_async.version import VERSION


HELP = """Provision GPU clusters at TensorPool, many side by side.

The key is read from TENSORPOOL_KEY, or from the line TENSORPOOL_KEY=… of a file .env in the working directory.
TENSORPOOL_ENGINE names another engine, such as one of `tpa emulator`.

Exit codes: 0 done, 1 something failed, 2 wrong usage or file, 130 interrupted.
"""

app: App = App(
    name="tpa",
    help=HELP,
    help_format="plaintext",
    version=VERSION,
    default_parameter=Parameter(negative=()),
)

File = Annotated[Path, Parameter(help="The fleet file.")]
Json = Annotated[bool, Parameter(name="--json", help="Print a JSON document in place of a table.")]
AboveZero: validators.Number = validators.Number(gt=0, lt=1e9)
Speed = Annotated[
    float, Parameter(help="How many times as fast as the engine the emulator is.", validator=AboveZero)
]


@app.command
def plan(file: File, /, *, json: Json = False) -> int:
    """Show what `up` would do and what it would cost. Nothing is changed.

    With --json: fleet, members, surplus (each: name, group, action, instance_type, num_nodes, hourly_rate, id,
    status, problem), hourly_cost_now, hourly_cost_after, max_hourly_cost, refusal.

    Example: tpa plan fleet.toml
    """
    return run_coroutine(lambda: fleets.plan(load(file), as_json=json))


@app.command
def up(
    file: File,
    /,
    *,
    emulate: Annotated[
        bool, Parameter(help="Try it at an emulator in this process, and destroy everything at the end.")
    ] = False,
    speed: Speed | None = None,
    json: Json = False,
) -> int:
    """Create what is missing, join what is on its way, leave what runs. It can be run again at any time.

    It costs money until `tpa down`. After Ctrl-C nothing is destroyed, and what runs is shown.

    With --json: fleet, members (each: name, group, state, id, instance_type, ip, seconds, polls, hourly_rate, error,
    tried), hourly_cost, seconds, sequential_seconds, requests, rate_limited, retries; with --emulate also left.

    Example: tpa up fleet.toml --emulate
    """
    if speed is not None and not emulate:
        return _misused("--speed is for --emulate")
    if emulate:
        return run_coroutine(lambda: fleets.emulate(load(file), speed or SPEED, as_json=json))
    return run_coroutine(lambda: fleets.up(load(file), file, as_json=json))


@app.command
def down(file: File, /, *, json: Json = False) -> int:
    """Destroy every cluster of a fleet, also those that failed and those beyond the counts of its groups.

    With --json: as up, with what is left as left.

    Example: tpa down fleet.toml
    """
    return run_coroutine(lambda: fleets.down(load(file), file, as_json=json))


@app.command
def status(file: File, /, *, json: Json = False) -> int:
    """Show what there is of a fleet. Nothing is changed.

    With --json: as up.

    Example: tpa status fleet.toml
    """
    return run_coroutine(lambda: fleets.status(load(file), as_json=json))


@app.command
def ls(
    what: Annotated[
        Literal["clusters", "volumes", "jobs"], Parameter(help="What to list.", show_choices=True)
    ] = "clusters",
    /,
    *,
    json: Json = False,
) -> int:
    """List what there is: the living clusters, also those of no fleet; or the volumes; or the jobs.

    With --json: clusters (each: id, name, status, instance_type, num_nodes, ip, hourly_rate, deletion_protection,
    storage, created_at), hourly_cost; or volumes (id, name, status, size_gb, hourly_rate, attached_clusters,
    deletion_protection, created_at), hourly_cost; or jobs (id, status, exit_code, instance_type, public_message).

    Example: tpa ls volumes --json
    """
    lists = {"clusters": clusters.ls, "volumes": listing.volumes, "jobs": listing.jobs}
    return run_coroutine(lambda: lists[what](as_json=json))


@app.command
def wait(
    request: Annotated[str, Parameter(help="A request id, or the token of an operation.")],
    /,
    *,
    timeout: Annotated[
        float | None,
        Parameter(help="Seconds to wait at most; the operation goes on after that.", validator=AboveZero),
    ] = None,
    json: Json = False,
) -> int:
    """Wait for the end of an operation that was begun anywhere.

    With --json: request_id, kind, status, resource_id, message, result (a cluster as ls has it, or null), error,
    token.

    Example: tpa wait r-1a2b3c4d --timeout 600
    """
    return run_coroutine(lambda: clusters.wait(request, timeout, as_json=json))


@app.command
def emulator(
    *,
    port: Annotated[
        int,
        Parameter(
            help="The port on 127.0.0.1; 0 takes a free one.", validator=validators.Number(gte=0, lte=65535)
        ),
    ] = 8787,
    speed: Speed = SPEED,
    key: Annotated[str, Parameter(help="The API key that it accepts.")] = "tp-emulator-key",
) -> int:
    """Emulate the engine until Ctrl-C, to try things out without an account.

    Example: tpa emulator --port 8787 --speed 60
    """
    return run_coroutine(lambda: serving.serve(port, speed, key))


def run(arguments: Sequence[str]) -> int:
    """Run the command with these words and return its exit code."""
    try:
        result: Any = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        return _misused(" ".join(str(error).split()))
    return result if isinstance(result, int) else DONE


def _misused(problem: str) -> int:
    command = next((word for word in sys.argv[1:] if word in app), "")
    say(f"tpa: {problem} (see: {' '.join(['tpa', *([command] if command else []), '--help'])})", style="red")
    return WRONG_USAGE
