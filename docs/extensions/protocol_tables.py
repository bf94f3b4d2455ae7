"""What the documentation says of the protocol, drawn from the tables that the package itself decides by.

`operation-states` draws `protocol.operation.TRANSITIONS` as an inline SVG, with the same as a table below it for those
who do not see it; `retry-table` shows `protocol.retries.RETRY_DECISIONS`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from html import escape

import attrs
from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

from tensorpool_async.protocol.operation import TRANSITIONS, MachineInput, Phase
from tensorpool_async.protocol.retries import (
    LOST_STATUSES,
    REPEATABLE_METHODS,
    RETRY_DECISIONS,
    Failure,
    RetryDecision,
)


Table = Mapping[tuple[Phase, MachineInput], Phase]

WIDTH, HEIGHT = 960, 340
BOX_WIDTH, BOX_HEIGHT = 128, 44
LINE = 15

CHANGING_METHODS = ("POST", "PATCH")

MEANING = {
    Failure.NOT_SENT: "no address, a connection refused or not made in time",
    Failure.NO_ANSWER: "a lost connection, no answer in time, {statuses}, or a success that cannot be read",
    Failure.TOO_LARGE: "a success that is larger than `max_response_bytes`",
    Failure.RATE_LIMITED: "429, or 503 with Retry-After",
    Failure.REFUSED: "any other status, or a certificate that is not trusted",
}


@attrs.frozen
class Box:
    """A phase's place in the drawing, by its middle."""

    x: float
    y: float


def ranks(table: Table) -> dict[Phase, int]:
    """Return how many steps each phase is from the beginning, at most."""
    steps = {(source, target) for (source, _), target in table.items() if source is not target}
    rank = dict.fromkeys(Phase, 0)
    for _ in Phase:
        for source, target in steps:
            rank[target] = max(rank[target], rank[source] + 1)
    return rank


def places(table: Table) -> dict[Phase, Box]:
    """Return where each phase is drawn: from left to right by rank, and phases of one rank below each other."""
    columns: dict[int, list[Phase]] = defaultdict(list)
    for phase, rank in ranks(table).items():
        columns[rank].append(phase)
    gap = (WIDTH - BOX_WIDTH - 40) / max(1, *columns)
    found: dict[Phase, Box] = {}
    for rank, phases in columns.items():
        jitter = HEIGHT / len(phases)
        for index, phase in enumerate(phases):
            found[phase] = Box(20 + BOX_WIDTH / 2 + rank * gap, jitter * (index + 0.5))
    return found


def arrows(table: Table) -> dict[tuple[Phase, Phase], list[MachineInput]]:
    """Return the events that lead from one phase to another."""
    found: dict[tuple[Phase, Phase], list[MachineInput]] = defaultdict(list)
    for (source, event), target in table.items():
        found[source, target].append(event)
    return found


def drawing(table: Table = TRANSITIONS) -> str:
    """Draw the table as an SVG that takes its colours from the page."""
    boxes = places(table)
    parts = [
        (
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="The phases of an operation"'
            ' style="width:100%;color:var(--color-foreground-primary,#222)" font-family="inherit" font-size="12">'
        ),
        (
            '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8"'
            ' orient="auto"><path d="M0 0L8 4L0 8z" fill="currentColor"/></marker></defs>'
        ),
    ]
    for (source, target), events in arrows(table).items():
        parts += (
            _loop(boxes[source], events) if source is target else _arrow(boxes[source], boxes[target], events)
        )
    parts += [text for phase, box in boxes.items() for text in _box(phase, box)]
    return "".join([*parts, "</svg>"])


def _box(phase: Phase, box: Box) -> Iterable[str]:
    left, top = box.x - BOX_WIDTH / 2, box.y - BOX_HEIGHT / 2
    yield (
        f'<rect x="{left:g}" y="{top:g}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="8"'
        ' fill="var(--color-background-secondary,#f4f4f4)" stroke="currentColor"/>'
    )
    yield f'<text x="{box.x:g}" y="{box.y + 5:g}" text-anchor="middle" fill="currentColor" font-weight="bold">{phase.name}</text>'


def _arrow(source: Box, target: Box, events: Sequence[MachineInput]) -> Iterable[str]:
    x1, x2 = source.x + BOX_WIDTH / 2, target.x - BOX_WIDTH / 2
    yield (
        f'<path d="M{x1:g} {source.y:g}L{x2:g} {target.y:g}" fill="none" stroke="currentColor"'
        ' marker-end="url(#head)"/>'
    )
    y = (source.y + target.y) / 2
    yield from _labels((x1 + x2) / 2, y, events)


def _loop(box: Box, events: Sequence[MachineInput]) -> Iterable[str]:
    top = box.y - BOX_HEIGHT / 2
    yield (
        f'<path d="M{box.x - 24:g} {top:g}c-10 -40 58 -40 48 -1" fill="none" stroke="currentColor"'
        ' marker-end="url(#head)"/>'
    )
    yield from _labels(box.x, top - 34 - LINE * len(events) / 2, events)


def _labels(x: float, y: float, events: Sequence[MachineInput]) -> Iterable[str]:
    """Write the events below each other, around a middle; the outline keeps them readable on a line."""
    first = y - LINE * (len(events) - 1) / 2 + 4
    for index, event in enumerate(events):
        yield (
            f'<text x="{x:g}" y="{first + index * LINE:g}" text-anchor="middle" fill="currentColor"'
            ' stroke="var(--color-background-primary,#fff)" stroke-width="5" paint-order="stroke">'
            f"<title>{escape(event.value)}</title>{event.name}</text>"
        )


def transition_rows(table: Table = TRANSITIONS) -> list[tuple[str, str, str, str]]:
    """Return the table's rows: where an operation is, what happens, what that means, and where it is then."""
    return [
        (source.name, event.name, event.value, target.name if source is not target else "the same")
        for (source, event), target in table.items()
    ]


def _statuses(statuses: Iterable[int]) -> str:
    """Write statuses as a person does: what begins with 52 is one group, which content networks use."""
    single = [str(status) for status in sorted(statuses) if status // 10 != 52]
    return ", ".join([*single, "52x"])


def retry_rows(
    verdicts: Mapping[tuple[Failure, bool], RetryDecision] = RETRY_DECISIONS,
) -> list[tuple[str, str, str, str]]:
    """Return the rows of the retry table: what failed, how that shows, and what follows for both kinds of methods."""
    return [
        (
            failure.value,
            MEANING[failure].format(statuses=_statuses(LOST_STATUSES)),
            verdicts[failure, True].value,
            verdicts[failure, False].value,
        )
        for failure in Failure
    ]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], widths: Sequence[int]) -> nodes.table:
    def row_of(cells: Sequence[str]) -> nodes.row:
        return nodes.row("", *(nodes.entry("", nodes.paragraph(text=cell)) for cell in cells))

    group = nodes.tgroup(
        "",
        *(nodes.colspec(colwidth=width) for width in widths),
        nodes.thead("", row_of(head)),
        nodes.tbody("", *(row_of(row) for row in rows)),
        cols=len(head),
    )
    return nodes.table("", group)


class OperationStates(Directive):
    """Draw the phases of an operation, and list what leads from one to another."""

    def run(self) -> list[nodes.Node]:
        """Return the drawing and the table."""
        head = ("in phase", "event", "what has come", "then")
        return [
            nodes.raw("", drawing(), format="html"),
            _table(head, transition_rows(), (20, 30, 40, 20)),
        ]


class RetryTable(Directive):
    """Show what follows from each failure of a request."""

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        repeatable = ", ".join(sorted(REPEATABLE_METHODS - {"HEAD"}))
        head = ("what failed", "how that shows", repeatable, ", ".join(CHANGING_METHODS))
        return [_table(head, retry_rows(), (25, 40, 20, 20))]


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directives."""
    app.add_directive("operation-states", OperationStates)
    app.add_directive("retry-table", RetryTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
