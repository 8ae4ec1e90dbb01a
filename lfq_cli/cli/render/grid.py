"""Columns of text as lines, for tables mixed with bars; numbers are never broken."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from rich.cells import cell_len
from rich.text import Text

WIDTH = 80
"""What every table fits in, on any terminal."""
GAP = 2
PICTURE = "cyan"


def grid(
    titles: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    left: Collection[int] = (),
    styles: Mapping[int, str] | None = None,
) -> list[Text]:
    """A line of titles, unless all are empty, and a line per row. Columns are right-aligned except those in `left`."""
    table = [*([titles] if any(titles) else []), *rows]
    widths = [max((cell_len(row[k]) for row in table), default=0) for k in range(len(titles))]
    lines = []
    for number, row in enumerate(table):
        line = Text()
        is_head = number == 0 and any(titles)
        for k, (cell, width) in enumerate(zip(row, widths, strict=True)):
            pad = " " * (width - cell_len(cell))
            style = "bold" if is_head else (styles or {}).get(k, "")
            line.append(" " * GAP if k else "")
            line.append(cell + pad if k in left else pad + cell, style)
        line.rstrip()
        lines.append(line)
    return lines


def width_of(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> int:
    """The width of a grid, in characters."""
    table = [titles, *rows]
    return sum(max(cell_len(row[k]) for row in table) for k in range(len(titles))) + GAP * (len(titles) - 1)


def flow(items: Sequence[str], width: int, gap: int = 3) -> str:
    """As many items as fit on each line, none of them broken."""
    line = ""
    for item in items:
        longer = f"{line}{' ' * gap}{item}" if line else item
        if cell_len(longer) > width:
            break
        line = longer
    return line


def beside(left: Sequence[Text], right: Sequence[Text], at: int) -> list[Text]:
    """Two blocks of lines, the second from column `at` on."""
    lines = []
    for k in range(max(len(left), len(right))):
        line = left[k].copy() if k < len(left) else Text()
        if k < len(right):
            line.append(" " * (at - line.cell_len))
            line.append_text(right[k])
        lines.append(line)
    return lines
