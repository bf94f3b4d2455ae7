"""The command line: names, options, help."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Group, Parameter, Token, validators

from tensorpool_async.cli import (
    DONE,
    WRONG_USAGE,
    clusters,
    destroying,
    fleets,
    listing,
    reaping,
    recovering,
    watching,
)
from tensorpool_async.cli.durations import parse_duration
from tensorpool_async.cli.journals import JOURNAL_VARIABLE, existing_journal, named_journal
from tensorpool_async.cli.printing import say, show, without_colour
from tensorpool_async.cli.running import run as run_coroutine
from tensorpool_async.fleet import load
from tensorpool_async.version import VERSION


HELP = """Provision GPU clusters at TensorPool, many side by side.

- The key is read from TENSORPOOL_KEY, or from the line TENSORPOOL_KEY=… of a file .env in the working directory.
- TENSORPOOL_ENGINE names another engine, such as one of `tpa emulator`.
- TENSORPOOL_JOURNAL names the journal: changes are written down there before they are sent, so that a crash loses
  nothing.
- NO_COLOR takes the colours away.

Exit codes: 0 done, 1 something failed, 2 wrong usage or file, 130 interrupted by Ctrl-C, 143 by SIGTERM.

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
"""How many times as fast as the engine an emulator is."""

File = Annotated[Path, Parameter(help="The fleet file.")]
Json = Annotated[bool, Parameter(name="--json", help="Print a JSON document in place of a table.")]
AboveZero: validators.Number = validators.Number(gt=0, lt=1e9)
Speed = Annotated[
    float, Parameter(help="How many times as fast as the engine the emulator is.", validator=AboveZero)
]
Journal = Annotated[
    Path | None,
    Parameter(help=f"The journal's file; {JOURNAL_VARIABLE} in the environment names it as well."),
]


def _duration(_: type, words: Sequence[Token]) -> float:
    return parse_duration("".join(word.value for word in words))


@app.command(group=FLEETS)
def plan(file: File, /, *, json: Json = False) -> int:
    """Show what `up` would do and what it would cost. Nothing is changed.

    With --json: fleet, members, surplus (each: name, group, action, instance_type, num_nodes, hourly_rate, id,
    status, problem), hourly_cost_now, hourly_cost_after, max_hourly_cost, refusal.

    Example: tpa plan fleet.toml
    """
    return run_coroutine(lambda: fleets.plan(load(file), as_json=json))


@app.command(group=FLEETS)
def up(
    file: File,
    /,
    *,
    emulate: Annotated[
        bool, Parameter(help="Try it at an emulator in this process, and destroy everything at the end.")
    ] = False,
    speed: Speed | None = None,
    journal: Journal = None,
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
        if journal is not None:
            return _misused("--journal is not for --emulate: nothing emulated outlives its process")
        return run_coroutine(lambda: fleets.emulate(load(file), speed or SPEED, as_json=json))
    return run_coroutine(lambda: fleets.up(load(file), file, named_journal(journal), as_json=json))


@app.command(group=FLEETS)
def down(file: File, /, *, journal: Journal = None, json: Json = False) -> int:
    """Destroy every cluster of a fleet, also those that failed and those beyond the counts of its groups.

    A journal that cannot be used does not prevent that: what is destroyed is not written down then.

    With --json: as up, with what is left as left.

    Example: tpa down fleet.toml
    """
    return run_coroutine(lambda: fleets.down(load(file), file, named_journal(journal), as_json=json))


@app.command(group=FLEETS)
def status(file: File, /, *, json: Json = False) -> int:
    """Show what there is of a fleet. Nothing is changed.

    With --json: as up.

    Example: tpa status fleet.toml
    """
    return run_coroutine(lambda: fleets.status(load(file), as_json=json))


@app.command(group=SINGLE)
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


@app.command(group=SINGLE)
def destroy(
    resource: Annotated[list[str], Parameter(help="Clusters and volumes, by their ids or names.")],
    /,
    *,
    yes: Annotated[bool, Parameter(alias="-y", help="Destroy without asking.")] = False,
    journal: Journal = None,
    json: Json = False,
) -> int:
    """Destroy clusters and volumes, with all data on them. It asks first.

    What is still being created is waited for. A journal that cannot be used does not prevent it. Where there is no
    terminal to ask at, and no --yes, it only lists, and exits with 2.

    With --json: resources (each: id, kind, name, hourly_rate, destroyed, error).

    Example: tpa destroy c-1a2b3c4d --yes
    """
    return run_coroutine(lambda: destroying.destroy(resource, named_journal(journal), yes=yes, as_json=json))


@app.command(group=SINGLE)
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


@app.command(group=CRASHES)
def ops(
    *,
    everything: Annotated[bool, Parameter(name="--all", help="Show also what has ended, and how.")] = False,
    journal: Journal = None,
    json: Json = False,
) -> int:
    """Show what the journal says is in flight. It needs no key, and sends nothing.

    OWNER says whether the client that began it is still open; what a client that is gone has left in flight is for
    `tpa recover`.

    With --json: operations (each: entry, engine, kind, name, resource_id, state, outcome, owner_alive, ephemeral, ttl,
    age, sent_at, accepted_at, ended_at, gone_at, details, token).

    Example: tpa ops --all --journal tensorpool.db
    """
    return run_coroutine(
        lambda: recovering.ops(existing_journal(journal), everything=everything, as_json=json)
    )


@app.command(group=CRASHES)
def recover(
    *,
    wait: Annotated[bool, Parameter(help="Follow what was found to its end.")] = False,
    journal: Journal = None,
    json: Json = False,
) -> int:
    """Find again what was in flight when its process ended. Nothing is changed at the engine.

    What living processes hold is left to them. Each operation is shown with its token, for `tpa wait`. A creation whose
    answer was lost is looked for by its name.

    With --json: operations (as ops has them, with error), held_by_others, problem.

    Example: tpa recover --wait --journal tensorpool.db
    """
    return run_coroutine(lambda: recovering.recover(existing_journal(journal), wait=wait, as_json=json))


@app.command(group=CRASHES)
def reap(
    *,
    older: Annotated[
        float,
        Parameter(
            help="Only what was asked for longer ago than this, such as 90s, 30m, 2h or 1d.",
            converter=_duration,
            show_default=False,
        ),
    ] = 0.0,
    yes: Annotated[bool, Parameter(alias="-y", help="Destroy without asking.")] = False,
    journal: Journal = None,
    json: Json = False,
) -> int:
    """Destroy what was made as ephemeral, or with a ttl that is over, and has outlived its owner. It asks first.

    Where there is no terminal to ask at, and no --yes, it only lists, and exits with 2.

    With --json: leftovers (each: name, kind, id, age, hourly_rate, fate, error), hourly_cost. The fate is LEFT,
    DESTROYED, FAILED, or TAKEN by another process, also where it was gone already.

    Example: tpa reap --older 2h --journal tensorpool.db
    """
    return run_coroutine(lambda: reaping.reap(existing_journal(journal), older=older, yes=yes, as_json=json))


@app.command(group=FLEETS)
def watch(
    what: Annotated[
        Path,  # so that files are completed
        Parameter(name="FILE|REQUEST", help="A fleet file, or a request id or the token of an operation."),
    ],
    /,
    *,
    every: Annotated[
        float,
        Parameter(
            help="How often to ask for a fleet, such as 5s or 1m; an operation is asked for at the engine's pace.",
            converter=_duration,
            validator=validators.Number(gte=0.1),
            show_default=False,
        ),
    ] = 5.0,
    json: Json = False,
) -> int:
    """Follow a fleet until Ctrl-C, or an operation until its end. Nothing is changed.

    Where there is no terminal, each change is a line.

    With --json: for a fleet a line for each change (time, name, group, state, id, instance_type, ip, hourly_rate); for
    an operation as wait.

    Example: tpa watch fleet.toml --every 10s
    """
    return run_coroutine(lambda: watching.watch(str(what), every, as_json=json))


@app.command(group=HELPERS)
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
    from tensorpool_async.cli import serving  # the emulator is half of all that there is to import

    return run_coroutine(lambda: serving.serve(port, speed, key))


@app.command(name="--install-completion", group=HELPERS)
def install_completion(
    *,
    shell: Annotated[
        Literal["bash", "zsh", "fish"] | None,
        Parameter(help="The shell; else the one that this runs in.", show_choices=True),
    ] = None,
) -> int:
    """Complete words after Tab: write a script for the shell, and name it in its start-up file.

    Example: tpa --install-completion --shell zsh
    """
    try:
        script = app.install_completion(shell=shell)
    except (OSError, RuntimeError) as error:
        return _misused(f"{error}; name the shell with --shell")
    show(f"Written to {script}. It takes effect in a new shell.")
    return DONE


app.meta.group_parameters = OPTIONS


@app.meta.default
def _launch(
    *words: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    no_color: Annotated[bool, Parameter(help="Show no colours.", negative=(), show_default=False)] = False,
) -> Any:
    token = without_colour.set(no_color or without_colour.get())
    try:
        return app(words, exit_on_error=False, print_error=False, result_action="return_value")
    finally:
        without_colour.reset(token)


def run(arguments: Sequence[str]) -> int:
    """Run the command with these words and return its exit code."""
    try:
        result: Any = app.meta(
            arguments, exit_on_error=False, print_error=False, result_action="return_value"
        )
    except CycloptsError as error:
        return _misused(" ".join(str(error).split()))
    return result if isinstance(result, int) else DONE


def _misused(problem: str) -> int:
    command = next((word for word in sys.argv[1:] if word in app), "")
    say(f"tpa: {problem} (see: {' '.join(['tpa', *([command] if command else []), '--help'])})", style="red")
    return WRONG_USAGE
