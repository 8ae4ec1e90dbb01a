"""stdout for data (tables, headings, JSON), stderr for notes; as wide as the terminal, unbroken where there is none."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import typer

from lfq_cli.cli.messages import printable
from lfq_cli.cli.options import Display

if TYPE_CHECKING:  # rich is imported when something is printed with it
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

_FLAT_LIST = re.compile(r"\[\n\s+([^\[\]{}]*?)\n\s+\]")  # JSON breaks no line within a string
MOST_ROWS = 20
"""Of a table, unless --verbose asks for all."""
_LEAST_NAME = 16
"""Letters of a name on a line, in however narrow a terminal."""
_BETWEEN = 2
"""Spaces between columns."""


def note(text: str) -> None:
    """A line on stderr."""
    typer.echo(text, err=True)


def say_unless_quiet(display: Display) -> Callable[[str], None]:
    """Takes messages about a run."""
    return lambda text: None if display.quiet else note(f"lfq: {text}")


def new_table(*columns: str, right: Iterable[int] = ()) -> Table:
    """A table without rows; columns `right` hold numbers."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    aligned = set(right)
    for k, column in enumerate(columns):
        if k in aligned:
            table.add_column(column, justify="right", no_wrap=True)  # half a number is a wrong number
        else:
            table.add_column(column, overflow="fold")
    return table


def print_table(table: Table) -> None:
    """A table on stdout. Where a terminal lacks the room for the numbers and part of each name, lines are broken and
    nothing is left out.
    """
    from rich.cells import cell_len

    console = stdout()
    widths = [max(cell_len(str(cell)) for cell in (column.header, *column.cells)) for column in table.columns]
    for k, column in enumerate(table.columns):
        if not column.no_wrap:
            column.min_width = widths[k] = min(widths[k], _LEAST_NAME)
    console.width = max(console.width, sum(widths) + _BETWEEN * len(widths))
    console.print(table)


def more_rows(shown: int, of: int) -> str:
    """What to add to a line of totals where the table above it left rows out."""
    if shown == of:
        return ""
    return f"; {of - shown:,} of {of:,} not shown (-v shows all)"


def heading(text: str) -> None:
    """A line on stdout."""
    stdout().print(printable(text), highlight=False, markup=False)


def stdout() -> Console:
    """stdout; as wide as the terminal, and never wrapped where there is none."""
    from rich.console import Console

    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = 400
    return console


def print_json(value: Any) -> None:
    """One JSON object on stdout; flat lists on one line."""
    text = json.dumps(value, indent=2)
    typer.echo(_FLAT_LIST.sub(lambda found: "[" + re.sub(r",\n\s+", ", ", found[1]) + "]", text))


def print_lines(lines: Sequence[Text]) -> None:
    """Preformatted lines on stdout; a narrower terminal breaks them itself."""
    console = stdout()
    for line in lines:
        console.print(line, soft_wrap=True)


def text_width() -> int | None:
    """Characters per line of stdout; None if it is not a terminal, and lines need no breaks."""
    console = stdout()
    return console.width if console.is_terminal else None


def wrapped(text: str | Text, width: int | None, *, first: str = "", style: str = "") -> list[Text]:
    """The text after `first`, wrapped to a width, with a hanging indent; breaks only at spaces."""
    from rich.console import Console
    from rich.text import Text

    whole = text if isinstance(text, Text) else Text(text, style)
    if width is None:
        return [Text(first).append_text(whole)]
    console = Console(width=width, markup=False, highlight=False)
    lines = whole.wrap(console, max(1, width - len(first)), overflow="fold")
    for line in lines:
        line.rstrip()
    return [Text(" " * len(first) if k else first).append_text(line) for k, line in enumerate(lines)]
