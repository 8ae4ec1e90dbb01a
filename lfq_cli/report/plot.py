"""`lfq stats --plot`: statistics as one picture. Decides where each panel stands; panels draw themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lfq_cli.errors import OptionError
from lfq_cli.files import atomic_output, refuse_existing, write_all
from lfq_cli.report import canvas
from lfq_cli.report.panels import Panel, panels_of
from lfq_cli.report.text import count_text, number_text, one_line, shortened
from lfq_cli.statistics.usage import TokenUsage

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Item = tuple[str, TokenUsage]
"""(label, statistics)."""

PLOT_SUFFIXES = (".png", ".svg", ".pdf")
MOST_DRAWN = 8
"""Items in one picture; a PDF has a page for each."""

_WIDTH, _MARGIN, _GAP = 11.0, 0.4, 0.3  # inches, like all that follows
_HEADER, _MAP_HEIGHT, _LINE_HEIGHT = 0.75, 3.75, 3.0
_TITLES, _LEGEND_ROW, _LEFT, _RIGHT, _BOTTOM, _COLOUR_BAR = 0.44, 0.21, 0.62, 0.08, 0.5, 0.7
_WIDER = 1.6  # against the panel beside it


def check_plot(path: Path, *, overwrite: bool = False) -> None:
    """Raises early what `write_plot` would raise for its path alone: before hours of counting.

    OptionError for another suffix than .png, .svg or .pdf, or without matplotlib; ExistsError or OutputError where
    something is in the way.
    """
    if path.suffix.lower() not in PLOT_SUFFIXES:
        raise OptionError(f"--plot {path}: unknown picture format", "expected a name that ends in .png, .svg or .pdf")
    canvas.require_matplotlib("--plot")
    refuse_existing(path, overwrite=overwrite)


def write_plot(items: Sequence[Item], path: Path, *, overwrite: bool = False) -> None:
    """Writes one picture of all items (label, statistics) to `path`: PNG, SVG or PDF by its suffix.

    The same items give the same bytes. More than MOST_DRAWN items are drawn in a PDF only, a page each; other pictures
    say how many are left out. Raises what `check_plot` does, OutputError if the file cannot be written.
    """
    check_plot(path, overwrite=overwrite)
    suffix = path.suffix.lower().removeprefix(".")
    with canvas.drawing():
        data = canvas.to_pages(_figures(items)) if suffix == "pdf" else canvas.to_bytes(_picture(items), suffix)
    with atomic_output(path, overwrite=overwrite) as file:
        write_all(file, data)


def headline(tokens: TokenUsage) -> str:
    """The most important statistics in one line."""
    usage = tokens.token or tokens.codebooks[0]
    books = "" if len(tokens.codebooks) == 1 else f"{len(tokens.codebooks)} codebooks, "
    what = "indices" if len(tokens.codebooks) == 1 else "tokens"
    heading = f"{books}{tokens.bits_stored} bits · {count_text(usage.count)} {what}"
    if tokens.token is None or not usage.count:
        return heading
    about = "" if usage.exact else "about "
    entropy, perplexity = number_text(usage.entropy_bits), number_text(usage.perplexity)
    return f"{heading} · {about}{entropy} bits of entropy · perplexity {about}{perplexity}"


def _figures(items: Sequence[Item]) -> Iterator[Figure]:
    """A figure for each item; one that says so where there is none."""
    return (_figure([item], "") for item in items) if items else iter([_picture(items)])


def _picture(items: Sequence[Item]) -> Figure:
    """One figure of the first items, which says if there are more."""
    left_out = len(items) - MOST_DRAWN
    note = f"{MOST_DRAWN} of {len(items)} drawn; a .pdf has them all" if left_out > 0 else ""
    return _figure(items[:MOST_DRAWN], note if items else "Nothing was counted.")


def _figure(items: Sequence[Item], note: str) -> Figure:
    """All items below each other."""
    blocks = [(label, tokens, _rows(panels_of(tokens))) for label, tokens in items]
    height = sum(_block_height(rows) for _, _, rows in blocks) + _MARGIN + (0.3 if note else 0)
    figure = canvas.new_figure(_WIDTH, height)
    top = height - _MARGIN
    for label, tokens, rows in blocks:
        _draw_block(figure, label, tokens, rows, top)
        top -= _block_height(rows)
    if note:
        _write(figure, _MARGIN, top, note, size=9, color=canvas.MUTED)
    return figure


def _block_height(rows: Sequence[Sequence[Panel]]) -> float:
    return _HEADER + sum(map(_row_height, rows)) + _GAP * len(rows)


def _row_height(row: Sequence[Panel]) -> float:
    return _MAP_HEIGHT if len(row) > 1 or row[0].has_colour_bar else _LINE_HEIGHT


def _rows(panels: Sequence[Panel]) -> list[list[Panel]]:
    """Two in a row. A map of positions stands beside that of correlations; the bits then have a row of their own."""
    by_name = {panel.name: panel for panel in panels}
    has_map = "position" in by_name and by_name["position"].has_colour_bar
    last = [["balance"], ["correlation", "position"]] if has_map else [["balance", "correlation"], ["position"]]
    rows = [[by_name[name] for name in names if name in by_name] for names in (["rank", "coverage"], *last)]
    return [row for row in rows if row]


def _draw_block(figure: Figure, label: str, tokens: TokenUsage, rows: Sequence[Sequence[Panel]], top: float) -> None:
    _write(figure, _MARGIN, top, shortened(one_line(label), 80), size=14, weight="bold")
    heading = headline(tokens) if rows else "Nothing was counted."
    _write(figure, _MARGIN, top - 0.31, heading, size=9.5, color=canvas.MUTED)
    top -= _HEADER
    for row in rows:
        left = _MARGIN
        for panel, width in zip(row, _widths(row), strict=True):
            _draw_panel(figure, panel, (left, top, width, _row_height(row)))
            left += width + _GAP
        top -= _row_height(row) + _GAP


def _widths(row: Sequence[Panel]) -> list[float]:
    shares = [_WIDER if panel.many else 1.0 for panel in row]
    room = _WIDTH - 2 * _MARGIN - _GAP * (len(row) - 1)
    return [room * share / sum(shares) for share in shares]


def _draw_panel(figure: Figure, panel: Panel, box: tuple[float, float, float, float]) -> None:
    """box: left, top, width, height in inches."""
    left, top, width, height = box
    _write(figure, left, top, panel.title, size=10.5, weight="bold")
    _write(figure, left, top - 0.22, panel.takeaway, size=8.5, color=canvas.MUTED)
    right = _COLOUR_BAR if panel.has_colour_bar else _RIGHT
    above = _TITLES + max(panel.legend_rows, 1) * _LEGEND_ROW
    inches = (left + _LEFT, top - height + _BOTTOM, width - _LEFT - right, height - above - _BOTTOM)
    panel.draw(figure.add_axes(_fraction(figure, inches)))


def _fraction(figure: Figure, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    width, height = figure.get_size_inches()
    return box[0] / width, box[1] / height, box[2] / width, box[3] / height


def _write(
    figure: Figure, left: float, top: float, text: str, *, size: float, color: str = canvas.INK, weight: str = "normal"
) -> None:
    x, y, _, _ = _fraction(figure, (left, top, 0, 0))
    figure.text(x, y, text, size=size, color=color, weight=weight, va="top", ha="left")
