"""What all pictures share: access to matplotlib, colours, and figures as reproducible bytes.

Knows nothing of codes. pyplot is never imported, and the caller's rc settings are restored after drawing.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lfq_cli.errors import OptionError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, RULE = "#1f2328", "#59636e", "#d8dde3"
"""Text and main lines; secondary text and lines; grids. Used for nothing else, since a page may replace them."""

BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, YELLOW = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#d55e00",
    "#b8a800",  # instead of #f0e442, which is invisible as a line on white
)
"""Colours that can be told apart with any kind of colour vision. Source: Okabe and Ito 2008, Color Universal Design."""

NOT_DEFINED = "#a8adb3"

DOTS_PER_INCH = 160

_SETTINGS: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib: the same on every machine
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,  # names of tensors may contain $
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handlelength": 1.4,
    "savefig.dpi": DOTS_PER_INCH,
    "pdf.fonttype": 42,
    "svg.hashsalt": "lfq",
}

_METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
"""Metadata of each format: without the time and the program, so equal figures give equal bytes."""


def require_matplotlib(option: str) -> None:
    """Raises OptionError if matplotlib, which `option` needs, is missing."""
    try:
        with _without_messages(".*"):
            import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise OptionError(f"{option} needs matplotlib", "pip install 'lfq-cli[plot]'") from error


@contextmanager
def drawing() -> Iterator[None]:
    """Within the block matplotlib has this module's settings, whatever the user's are."""
    import matplotlib

    with matplotlib.rc_context(), _without_messages(r"Glyph \d+"):
        matplotlib.rcdefaults()
        for name, value in _SETTINGS.items():
            matplotlib.rcParams[name] = value
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of the given size in inches, without a window or global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


LEGEND_COLUMNS = 6


def legend_rows(entries: int) -> int:
    """How many lines `draw_legend` needs."""
    return -(-entries // LEGEND_COLUMNS)


def draw_legend(axes: Axes) -> None:
    """Draws the legend above the axes, where it hides nothing, in rows that read like text."""
    from matplotlib.lines import Line2D

    handles, labels = axes.get_legend_handles_labels()
    rows = legend_rows(len(labels))
    columns = -(-len(labels) // max(rows, 1))
    blanks = rows * columns - len(labels)
    handles += [Line2D([], [], alpha=0)] * blanks
    labels += [""] * blanks
    order = [k for column in range(columns) for k in range(column, len(labels), columns)]  # it fills columns first
    axes.legend(
        [handles[k] for k in order],
        [labels[k] for k in order],
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=columns,
        borderaxespad=0.1,
        borderpad=0.3,
        labelspacing=0.3,
        columnspacing=1.0,
        handletextpad=0.5,
    )


def to_bytes(figure: Figure, image_format: str, *, transparent: bool = False, text: bool = False) -> bytes:
    """A figure as "png", "svg" or "pdf"; call it within `drawing`. text: letters of an SVG stay text."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none" if text else "path"}):
        figure.savefig(buffer, format=image_format, metadata=_METADATA[image_format], transparent=transparent)
    return buffer.getvalue()


def to_pages(figures: Iterator[Figure]) -> bytes:
    """Figures as the pages of one PDF, to be called within `drawing`."""
    from matplotlib.backends.backend_pdf import PdfPages

    buffer = io.BytesIO()
    with PdfPages(buffer, metadata=_METADATA["pdf"]) as pages:
        for figure in figures:
            pages.savefig(figure)
    return buffer.getvalue()


@contextmanager
def _without_messages(pattern: str) -> Iterator[None]:
    """Silences matplotlib's messages: that it builds a font cache, that the font lacks the glyphs of a name."""
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", pattern)
            yield
    finally:
        logger.setLevel(level)
