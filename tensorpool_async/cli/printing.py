"""What goes to standard output and standard error, and how it looks there."""

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


WIDE = 100
"""Columns from which on there is room for wider gaps."""

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
"""How states and actions look; the others are plain."""


without_colour: ContextVar[bool] = ContextVar("without_colour", default=False)
"""Whether `--no-color` was given; NO_COLOR in the environment says the same."""


def console(*, error: bool = False) -> Console:
    """Make a console for standard output or standard error; where it is no terminal, lines are never cut or wrapped."""
    file = sys.stderr if error else sys.stdout
    width = None if file.isatty() else 10_000
    return Console(
        file=file,
        width=width,
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=width is not None,
        no_color=without_colour.get() or None,
    )


def is_live(file: IO[str]) -> bool:
    """Whether a picture can be drawn there again and again; a variable that forces colours does not make it so."""
    return file.isatty() and not Console(file=file).is_dumb_terminal


def say(text: str, *, style: str = "") -> None:
    """Print a line to standard error: progress, and what a person should know."""
    console(error=True).print(Text(clean(text), style=style), soft_wrap=True)


def show(text: str, *, style: str = "", apart: bool = False) -> None:
    """Print a line to standard output; with `apart`, below an empty one."""
    if apart:
        console().print()
    console().print(Text(clean(text), style=style), soft_wrap=True)


def show_json(document: Any) -> None:
    """Print a document as JSON to standard output."""
    _write_json(json.dumps(document, indent=2, ensure_ascii=False))


def show_json_line(document: Any) -> None:
    """Print a document as JSON to standard output, in one line."""
    _write_json(json.dumps(document, ensure_ascii=False))


def _write_json(text: str) -> None:
    sys.stdout.write(escape_json(text) + "\n")
    sys.stdout.flush()


def table(
    headings: Sequence[str], rows: Iterable[Sequence[object]], *, right: Iterable[str] = (), width: int = WIDE
) -> Table:
    """Make a table; a value that is None is shown as a hyphen, and a state in its colour."""
    gap = 2 if width >= WIDE else 1
    result = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    to_the_right = set(right)
    for heading in headings:
        result.add_column(heading, justify="right" if heading in to_the_right else "left", overflow="fold")
    for row in rows:
        result.add_row(*(_cell(value) for value in row))
    return result


def _cell(value: object) -> Text:
    text = "-" if value is None else clean(str(value))
    return Text(text, style=STYLES.get(text, ""))


def show_table(
    headings: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    right: Iterable[str] = (),
    error: bool = False,
) -> None:
    """Print a table to standard output, or to standard error."""
    out = console(error=error)
    with out.capture() as drawn:
        out.print(table(headings, rows, right=right, width=out.width))
    for line in drawn.get().splitlines():
        out.file.write(line.rstrip() + "\n")
    out.file.flush()


def money(rate: float | None) -> str:
    """Show a price in USD per hour."""
    return "an unknown price" if rate is None else f"${rate:,.2f}"


def rate_cell(rate: float | None) -> str | None:
    """Show a price in a column that is headed USD/H."""
    return None if rate is None else f"{rate:,.2f}"


def seconds_cell(seconds: float) -> str | None:
    """Show a duration in a column that is headed SECONDS."""
    return f"{seconds:.1f}" if seconds else None


def counted(count: int, noun: str) -> str:
    """Put a number before a noun, in the plural where that is due."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
