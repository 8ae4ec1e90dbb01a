"""`lfq train --plot`: held-out error and use of codes by step, the baselines as lines, the shapes that were tried."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lfq_cli.errors import OptionError
from lfq_cli.files import atomic_output, refuse_existing, write_all
from lfq_cli.report import canvas
from lfq_cli.report.plot import PLOT_SUFFIXES

if TYPE_CHECKING:
    from lfq_cli.training.baselines import Baselines
    from lfq_cli.training.run import Evaluation
    from lfq_cli.training.shapes import Try

_WIDTH, _HEIGHT = 11.0, 3.6  # inches


def check_plot(path: Path, *, overwrite: bool = False) -> None:
    """Raises what `write_plot` would raise for its path alone."""
    if path.suffix.lower() not in PLOT_SUFFIXES:
        raise OptionError(f"--plot {path}: unknown picture format", "expected a name that ends in .png, .svg or .pdf")
    canvas.require_matplotlib("--plot")
    refuse_existing(path, overwrite=overwrite)


def write_plot(
    history: Sequence[Evaluation], tries: Sequence[Try], bars: Baselines, path: Path, *, overwrite: bool = False
) -> None:
    """Writes the picture of a run: PNG, SVG or PDF by its suffix."""
    check_plot(path, overwrite=overwrite)
    with canvas.drawing():
        figure = canvas.new_figure(_WIDTH, _HEIGHT)
        panels: Any = figure.subplots(1, 3 if tries else 2)
        _draw_error(panels[0], history, bars)
        _draw_usage(panels[1], history)
        if tries:
            draw_tries(panels[2], tries)
        figure.tight_layout()
        data = canvas.to_bytes(figure, path.suffix.lower().removeprefix("."))
    with atomic_output(path, overwrite=overwrite) as file:
        write_all(file, data)


def _draw_error(axes: Any, history: Sequence[Evaluation], bars: Baselines) -> None:
    axes.plot(
        [each.step for each in history], [each.unexplained for each in history], color=canvas.BLUE, label="lfq train"
    )
    axes.axhline(bars.itq, color=canvas.ORANGE, linestyle="--", label="ITQ")
    axes.axhline(bars.pca_sign, color=canvas.MUTED, linestyle=":", label="PCA + sign")
    axes.set(title="held-out variance unexplained", xlabel="step", ylim=(0, None))
    axes.legend()


def _draw_usage(axes: Any, history: Sequence[Evaluation]) -> None:
    steps = [each.step for each in history]
    axes.plot(steps, [each.usage.utilisation for each in history], color=canvas.GREEN)
    axes.set(title="codes used, as a share of uniform use", xlabel="step", ylim=(0, 1.05))


def draw_tries(axes: Any, tries: Sequence[Try]) -> None:
    """A bar for each shape that was tried."""
    # horizontal: the names of many shapes (60 bits have 11) need room
    axes.barh([str(tried.shape) for tried in tries], [tried.unexplained for tried in tries], color=canvas.SKY)
    axes.invert_yaxis()  # in the order in which they were tried
    axes.set(title="unexplained after a try", ylabel="levels × bits")
