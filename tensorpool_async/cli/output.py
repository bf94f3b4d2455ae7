"""Lines, tables and JSON on standard output and standard error, and how values are formatted in them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from typing import IO, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tensorpool_async.texts import clean, escape_json


WIDE_TERMINAL = 100
"""Terminals with at least this many columns get wider gaps in tables."""
PIPE_WIDTH = 10_000
"""Columns of an output that is not a terminal, so that lines are neither cut nor wrapped."""

STYLES = {
    "RUNNING": "green",
    "FAILED": "bold red",
    "CONFLICT": "bold red",
    "CREATE": "cyan",
    "REPLACE": "yellow",
    "SURPLUS": "yellow",
    "AWAIT_DESTROY": "yellow",
    "CLEARING": "yellow",
    "DESTROYING": "yellow",
    "DESTROYED": "dim",
    "ABSENT": "dim",
    "+": "cyan",
    "~": "yellow",
    "!": "bold red",
    "*": "yellow",
    "=": "dim",
}
"""Styles of states, actions and marks; others have none."""

_AGE_UNITS = (
    ("d", 86_400, "h", 3600),
    ("h", 3600, "m", 60),
    ("m", 60, "s", 1),
)
"""The larger and the smaller unit of an age, with the seconds of each."""

no_color: ContextVar[bool] = ContextVar("no_color", default=False)
"""Whether `--no-color` was given. NO_COLOR in the environment has the same effect."""


def make_console(*, error: bool = False) -> Console:
    """Make a console for standard output or standard error."""
    file = sys.stderr if error else sys.stdout
    width = None if file.isatty() else PIPE_WIDTH
    return Console(
        file=file,
        width=width,
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=width is not None,
        no_color=no_color.get() or None,
    )


def supports_live_display(file: IO[str]) -> bool:
    """Whether a live display can be drawn on a stream. FORCE_COLOR does not turn a pipe into a terminal."""
    return file.isatty() and not Console(file=file).is_dumb_terminal


def print_err(text: str, *, style: str = "") -> None:
    """Print a line to standard error: progress, problems and hints."""
    make_console(error=True).print(Text(clean(text), style=style), soft_wrap=True)


def print_out(text: str, *, blank_before: bool = False) -> None:
    """Print a line to standard output, after an empty line with `blank_before`."""
    console = make_console()
    if blank_before:
        console.print()
    console.print(Text(clean(text)), soft_wrap=True)


def print_json(document: Any) -> None:
    """Print a document as indented JSON to standard output."""
    _write_json(json.dumps(document, indent=2, ensure_ascii=False))


def print_json_line(document: Any) -> None:
    """Print a document as one line of JSON to standard output."""
    _write_json(json.dumps(document, ensure_ascii=False))


def _write_json(text: str) -> None:
    sys.stdout.write(escape_json(text) + "\n")
    sys.stdout.flush()


def make_table(
    headings: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    right: Iterable[str] = (),
    width: int = WIDE_TERMINAL,
) -> Table:
    """Make a table. None is shown as a hyphen; a state or action has its style.

    Args:
        headings: The headings of the columns.
        rows: The values of each row.
        right: The headings of the columns that are aligned to the right.
        width: Columns of the terminal.
    """
    gap = 2 if width >= WIDE_TERMINAL else 1
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    right_aligned = set(right)
    for heading in headings:
        table.add_column(heading, justify="right" if heading in right_aligned else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    return table


def _cell(value: object) -> Text:
    text = "-" if value is None else clean(str(value))
    return Text(text, style=STYLES.get(text, ""))


def print_table(
    headings: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    right: Iterable[str] = (),
    error: bool = False,
) -> None:
    """Print a table to standard output, or to standard error with `error`; the other arguments are those of `make_table`."""
    console = make_console(error=error)
    with console.capture() as captured:
        console.print(make_table(headings, rows, right=right, width=console.width))
    for line in captured.get().splitlines():
        console.file.write(line.rstrip() + "\n")
    console.file.flush()


def format_price(rate: float | None) -> str:
    """Format a price in USD per hour for a sentence."""
    return "an unknown price" if rate is None else f"${rate:,.2f}"


def rate_cell(rate: float | None) -> str | None:
    """Format a price for a column with the heading USD/H."""
    return None if rate is None else f"{rate:,.2f}"


def pluralize(count: int, noun: str) -> str:
    """Put a count before a noun, in the plural unless the count is 1."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def format_age(seconds: float) -> str:
    """Format an age with its two largest units: 45s, 3m 20s, 2h, 1d 4h."""
    whole = max(0, int(seconds))
    for large, large_seconds, small, small_seconds in _AGE_UNITS:
        if whole >= large_seconds:
            large_count, rest = divmod(whole, large_seconds)
            small_count = rest // small_seconds
            return f"{large_count}{large} {small_count}{small}" if small_count else f"{large_count}{large}"
    return f"{whole}s"
