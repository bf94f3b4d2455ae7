"""The command line: commands, options and their help."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Group, Parameter, Token, validators

from tensorpool_async.cli import output
from tensorpool_async.cli.commands import clusters, fleets
from tensorpool_async.cli.commands import journal as journal_commands
from tensorpool_async.cli.commands.watch import watch as watch_target
from tensorpool_async.cli.exit_codes import ExitCode
from tensorpool_async.cli.journal_file import JOURNAL_VARIABLE, existing_journal_path, journal_path
from tensorpool_async.cli.runner import run_command
from tensorpool_async.fleet import load
from tensorpool_async.version import VERSION


HELP = """Provision many GPU clusters at TensorPool concurrently.

- TENSORPOOL_KEY is the API key. It can also be the line TENSORPOOL_KEY=… of the file .env in the working directory.
- TENSORPOOL_ENGINE is the address of another engine, such as the one of `tpa emulator`.
- TENSORPOOL_JOURNAL is the path of the journal. Each change is recorded there before it is sent, so that it can be
  recovered after a crash.
- NO_COLOR turns colours off.

Exit codes: 0 success, 1 failure, 2 wrong usage or file, 130 interrupted by Ctrl-C, 143 interrupted by SIGTERM.

Example: tpa up fleet.toml --emulate
"""

FLEETS: Group = Group("Fleets", sort_key=1)
SINGLE: Group = Group("Clusters, volumes, jobs, operations", sort_key=2)
CRASHES: Group = Group("After a crash", sort_key=3)
HELPERS: Group = Group("Helpers", sort_key=4)
OPTIONS: Group = Group("Options", sort_key=5)

app: App = App(
    name="tpa",
    help=HELP,
    help_format="markdown",
    version=VERSION,
    default_parameter=Parameter(negative=()),
    group_parameters=OPTIONS,
)
app["--help"].group = HELPERS
app["--version"].group = HELPERS

SPEED = 60.0
"""How many times as fast as the engine the emulator is."""

UNIT_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
MAX_DURATION = 3650 * UNIT_SECONDS["d"]
"""Seconds. A longer duration is taken for a typing error."""
_DURATION = re.compile(r"(?P<count>[0-9]+(?:\.[0-9]+)?)(?P<unit>[smhd])", re.ASCII)


def parse_duration(text: str) -> float:
    """Parse a duration such as 90s, 30m, 2h or 1d, and return its seconds.

    Raises:
        ValueError: The text is not a duration.
    """
    match = _DURATION.fullmatch(text.strip().lower())
    seconds = float(match["count"]) * UNIT_SECONDS[match["unit"]] if match else -1.0
    if not 0.0 <= seconds <= MAX_DURATION:
        raise ValueError(f"{text!r} is not a duration; use one like 90s, 30m, 2h or 1d")
    return seconds


def _duration(_: type, tokens: Sequence[Token]) -> float:
    return parse_duration("".join(token.value for token in tokens))


File = Annotated[Path, Parameter(help="The fleet file.")]
Json = Annotated[bool, Parameter(name="--json", help="Print JSON instead of text.")]
AboveZero: validators.Number = validators.Number(gt=0, lt=1e9)
Speed = Annotated[
    float, Parameter(help="How many times as fast as the engine the emulator is.", validator=AboveZero)
]
Journal = Annotated[
    Path | None,
    Parameter(help=f"The file of the journal; without this option, {JOURNAL_VARIABLE} names it."),
]
Yes = Annotated[bool, Parameter(alias="-y", help="Destroy without asking.")]


@app.command(group=FLEETS)
def plan(file: File, /, *, json: Json = False) -> int:
    """Show what `tpa up` would do and what it would cost. Nothing is changed.

    With --json: fleet, members, surplus (each: name, group, action, instance_type, num_nodes, hourly_rate, id,
    status, problem), hourly_cost_now, hourly_cost_after, max_hourly_cost, refusal.

    Example: tpa plan fleet.toml
    """
    return run_command(lambda: fleets.plan(load(file), as_json=json))


@app.command(group=FLEETS)
def up(
    file: File,
    /,
    *,
    emulate: Annotated[
        bool, Parameter(help="Use an emulator in this process, and destroy the fleet at the end.")
    ] = False,
    speed: Speed | None = None,
    journal: Journal = None,
    json: Json = False,
) -> int:
    """Create the missing members of a fleet and wait for those in creation. It can be run again at any time.

    The fleet costs money until `tpa down`. Ctrl-C destroys nothing; the existing members are then shown.

    With --json: fleet, members (each: name, group, state, id, instance_type, ip, seconds, polls, hourly_rate, error,
    tried), hourly_cost, seconds, sequential_seconds, requests, rate_limited, retries; with --emulate also left.

    Example: tpa up fleet.toml --emulate
    """
    if speed is not None and not emulate:
        return _usage_error("--speed needs --emulate")
    if emulate:
        if journal is not None:
            return _usage_error(
                "--journal cannot be used with --emulate: the emulator ends with this process"
            )
        return run_command(lambda: fleets.emulate(load(file), speed or SPEED, as_json=json))
    return run_command(lambda: fleets.up(load(file), file, journal_path(journal), as_json=json))


@app.command(group=FLEETS)
def down(file: File, /, *, journal: Journal = None, json: Json = False) -> int:
    """Destroy all clusters of a fleet, including failed ones and surplus ones.

    If the journal cannot be read or written, they are destroyed without being recorded.

    With --json: as up, and left (the names of the clusters that still exist).

    Example: tpa down fleet.toml
    """
    return run_command(lambda: fleets.down(load(file), file, journal_path(journal), as_json=json))


@app.command(group=FLEETS)
def status(file: File, /, *, json: Json = False) -> int:
    """Show which members of a fleet exist. Nothing is changed.

    With --json: as up.

    Example: tpa status fleet.toml
    """
    return run_command(lambda: fleets.status(load(file), as_json=json))


@app.command(group=SINGLE)
def ls(
    what: Annotated[
        Literal["clusters", "volumes", "jobs"], Parameter(help="What to list.", show_choices=True)
    ] = "clusters",
    /,
    *,
    json: Json = False,
) -> int:
    """List the existing clusters, including those of no fleet, or the volumes, or the jobs.

    With --json: clusters (each: id, name, status, instance_type, num_nodes, ip, hourly_rate, deletion_protection,
    storage, created_at), hourly_cost; or volumes (id, name, status, size_gb, hourly_rate, attached_clusters,
    deletion_protection, created_at), hourly_cost; or jobs (id, status, exit_code, instance_type, public_message).

    Example: tpa ls volumes --json
    """
    commands = {
        "clusters": clusters.list_clusters,
        "volumes": clusters.list_volumes,
        "jobs": clusters.list_jobs,
    }
    return run_command(lambda: commands[what](as_json=json))


@app.command(group=SINGLE)
def destroy(
    resource: Annotated[list[str], Parameter(help="The ids or names of clusters and volumes.")],
    /,
    *,
    yes: Yes = False,
    journal: Journal = None,
    json: Json = False,
) -> int:
    """Destroy clusters and volumes with all their data, after a confirmation.

    A resource that is still being created is destroyed once it exists. If the journal cannot be read or written, the
    resources are destroyed without being recorded. Without a terminal and without --yes, nothing is destroyed and the
    exit code is 2.

    With --json: resources (each: id, kind, name, hourly_rate, destroyed, error).

    Example: tpa destroy c-1a2b3c4d --yes
    """
    return run_command(lambda: clusters.destroy(resource, journal_path(journal), yes=yes, as_json=json))


@app.command(group=SINGLE)
def wait(
    request: Annotated[str, Parameter(help="A request id, or the token of an operation.")],
    /,
    *,
    timeout: Annotated[
        float | None,
        Parameter(help="Seconds to wait at most; the operation itself continues.", validator=AboveZero),
    ] = None,
    json: Json = False,
) -> int:
    """Wait for the end of an operation, which any process may have started.

    With --json: request_id, kind, status, resource_id, message, result (a cluster, volume or job as in ls, or
    null), error, token.

    Example: tpa wait r-1a2b3c4d --timeout 600
    """
    return run_command(lambda: clusters.wait(request, timeout, as_json=json))


@app.command(group=CRASHES)
def ops(
    *,
    everything: Annotated[
        bool, Parameter(name="--all", help="Show operations that have ended, too.")
    ] = False,
    journal: Journal = None,
    json: Json = False,
) -> int:
    """Show the operations in flight that the journal lists. It needs no key and sends nothing.

    OWNER is `alive` while the client that started the operation is open. `tpa recover` recovers the others.

    With --json: operations (each: entry, engine, kind, name, resource_id, state, outcome, owner_alive, ephemeral, ttl,
    age, sent_at, accepted_at, ended_at, gone_at, details, token).

    Example: tpa ops --all --journal tensorpool.db
    """
    return run_command(
        lambda: journal_commands.ops(existing_journal_path(journal), with_ended=everything, as_json=json)
    )


@app.command(group=CRASHES)
def recover(
    *,
    wait: Annotated[bool, Parameter(help="Wait for the end of the recovered operations.")] = False,
    journal: Journal = None,
    json: Json = False,
) -> int:
    """Recover the operations that were in flight when their process ended. Nothing is changed at the engine.

    Operations of running processes are left out. Each operation is shown with its token, for `tpa wait`. A creation
    without a recorded answer is looked up by its name.

    With --json: operations (each as in ops, with error), held_by_others, problem.

    Example: tpa recover --wait --journal tensorpool.db
    """
    return run_command(
        lambda: journal_commands.recover(existing_journal_path(journal), wait=wait, as_json=json)
    )


@app.command(group=CRASHES)
def reap(
    *,
    older: Annotated[
        float,
        Parameter(
            help="Only resources requested longer ago than this, such as 90s, 30m, 2h or 1d.",
            converter=_duration,
            show_default=False,
        ),
    ] = 0.0,
    yes: Yes = False,
    journal: Journal = None,
    json: Json = False,
) -> int:
    """Destroy leftovers, after a confirmation: resources that are ephemeral or past their ttl, and without an owner.

    Without a terminal and without --yes, nothing is destroyed and the exit code is 2.

    With --json: leftovers (each: name, kind, id, age, hourly_rate, fate, error), hourly_cost. The fate is LEFT,
    DESTROYED, FAILED, or TAKEN (already deleted, or claimed by another process).

    Example: tpa reap --older 2h --journal tensorpool.db
    """
    return run_command(
        lambda: journal_commands.reap(existing_journal_path(journal), older=older, yes=yes, as_json=json)
    )


@app.command(group=FLEETS)
def watch(
    what: Annotated[
        Path,  # so that shells complete files
        Parameter(name="FILE|REQUEST", help="A fleet file, or a request id or the token of an operation."),
    ],
    /,
    *,
    every: Annotated[
        float,
        Parameter(
            help="Time between two requests for a fleet, such as 5s or 1m; operations use the engine's interval.",
            converter=_duration,
            validator=validators.Number(gte=0.1),
            show_default=False,
        ),
    ] = 5.0,
    json: Json = False,
) -> int:
    """Show a fleet until Ctrl-C, or an operation until its end. Nothing is changed.

    Without a terminal, each change is a line.

    With --json: for a fleet, one line for each change (time, name, group, state, id, instance_type, ip, hourly_rate);
    for an operation, as wait.

    Example: tpa watch fleet.toml --every 10s
    """
    return run_command(lambda: watch_target(str(what), every, as_json=json))


@app.command(group=HELPERS)
def emulator(
    *,
    port: Annotated[
        int,
        Parameter(
            help="The port on 127.0.0.1; 0 selects a free port.",
            validator=validators.Number(gte=0, lte=65535),
        ),
    ] = 8787,
    speed: Speed = SPEED,
    key: Annotated[str, Parameter(help="The API key that the emulator accepts.")] = "tp-emulator-key",
) -> int:
    """Run an emulator of the engine until Ctrl-C. It needs no account and costs nothing.

    Example: tpa emulator --port 8787 --speed 60
    """
    from tensorpool_async.cli.commands.emulator import serve  # slow to import, and rarely used

    return run_command(lambda: serve(port, speed, key))


@app.command(name="--install-completion", group=HELPERS)
def install_completion(
    *,
    shell: Annotated[
        Literal["bash", "zsh", "fish"] | None,
        Parameter(help="The shell; the default is the current one.", show_choices=True),
    ] = None,
) -> int:
    """Install completion with Tab: write a script, and add it to the start-up file of the shell.

    Example: tpa --install-completion --shell zsh
    """
    try:
        script = app.install_completion(shell=shell)
    except (OSError, RuntimeError) as error:
        return _usage_error(f"{error}; select the shell with --shell")
    output.print_out(f"Written to {script}. It takes effect in a new shell.")
    return ExitCode.SUCCESS


app.meta.group_parameters = OPTIONS


@app.meta.default
def _launch(
    *arguments: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    no_color: Annotated[bool, Parameter(help="Turn colours off.", negative=(), show_default=False)] = False,
) -> Any:
    token = output.no_color.set(no_color or output.no_color.get())
    try:
        return app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    finally:
        output.no_color.reset(token)


def run(arguments: Sequence[str]) -> int:
    """Run the command with these arguments and return its exit code."""
    try:
        result: Any = app.meta(
            arguments, exit_on_error=False, print_error=False, result_action="return_value"
        )
    except CycloptsError as error:
        return _usage_error(" ".join(str(error).split()))
    return result if isinstance(result, int) else ExitCode.SUCCESS


def _usage_error(problem: str) -> int:
    command = next((argument for argument in sys.argv[1:] if argument in app), None)
    help_command = f"tpa {command} --help" if command else "tpa --help"
    output.print_err(f"tpa: {problem} (see: {help_command})", style="red")
    return ExitCode.USAGE_ERROR
