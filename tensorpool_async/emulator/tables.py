"""The `message` texts that people read: plain tables."""

from collections.abc import Mapping, Sequence


def table(title: str, headings: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> str:
    """A table with aligned columns, or the sentence for an empty one."""
    if not rows:
        return empty
    cells = [[*headings], *(["-" if cell is None else str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in cells]
    return "\n".join([title, "", lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def card(title: str, facts: Mapping[str, object]) -> str:
    """One object, a fact per line."""
    width = max(map(len, facts)) + 1
    return "\n".join([title, *(f"  {f'{key}:':<{width}} {_shown(value)}" for key, value in facts.items())])


def _shown(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)
