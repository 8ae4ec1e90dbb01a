"""The progress of `lfq train` on stderr and its result on stdout; with --json an object per line."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import typer

from lfq_cli.cli.messages import printable
from lfq_cli.cli.options import Display
from lfq_cli.cli.render.console import heading, new_table, note, stdout
from lfq_cli.cli.render.grid import grid
from lfq_cli.cli.render.numbers import tenths
from lfq_cli.cli.render.progress import count_bar
from lfq_cli.jobs.train import Listener, Started, TrainOptions, TrainReport, train
from lfq_cli.training.advice import advice
from lfq_cli.training.recipe import PATIENCE, Recipe
from lfq_cli.training.run import Evaluation
from lfq_cli.training.shapes import Try
from lfq_cli.wording import counted

_LINES = 10
"""Of evaluations, unless --verbose asks for all."""


def train_and_show(inputs: Sequence[str], output: Path, options: TrainOptions, display: Display) -> TrainReport:
    """Runs `train`, and shows its progress and result."""
    shown = _JsonLines() if display.json else _Lines(display, options.recipe)
    with closing(_Bars(display)) as bars:
        bars.show("read")
        report = train(inputs, output, options, _with_bars(shown.listener(), bars))
    shown.ended(report)
    return report


class _Bars:
    """One progress bar at a time."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._shown = ExitStack()
        self._advance: Callable[[int], None] = lambda _: None

    def show(self, title: str) -> None:
        """A bar of this title in place of the one before."""
        self.close()
        self._advance = self._shown.enter_context(count_bar(title, self._display))

    def advance(self, count: int) -> None:
        """Moves the bar."""
        self._advance(count)

    def close(self) -> None:
        """Removes the bar."""
        self._shown.close()


def _with_bars(listener: Listener, bars: _Bars) -> Listener:
    """The listener, with bars for vectors that are read and steps of tries. Training itself prints lines."""

    def started(found: Started) -> None:
        bars.show("steps of tries")
        listener.started(found)

    def chosen(recipe: Recipe) -> None:
        bars.close()
        listener.chosen(recipe)

    return replace(listener, reading=bars.advance, stepping=lambda: bars.advance(1), started=started, chosen=chosen)


class _JsonLines:
    """One JSON object per line on stdout."""

    def listener(self) -> Listener:
        return Listener(
            started=lambda started: self._print("started", asdict(started)),
            tried=lambda tried: self._print("try", _try_json(tried)),
            evaluated=lambda evaluation: self._print("evaluation", evaluation.as_json()),
        )

    def ended(self, report: TrainReport) -> None:
        assert report.recipe.shape is not None
        fields = {
            "output": str(report.output),
            "shape": [report.recipe.shape.levels, report.recipe.shape.bits],
            "held_out": report.metrics.as_json(),
            "steps": report.history[-1].step,
            "seconds": report.history[-1].seconds,
            "advice": advice(report.metrics, report.recipe, report.started),
            "checkpoint_sha256": report.quantizer.digest,
        }
        self._print("done", fields)

    def _print(self, event: str, fields: dict[str, Any]) -> None:
        typer.echo(json.dumps({"event": event} | fields))


class _Lines:
    """Lines for people."""

    def __init__(self, display: Display, recipe: Recipe) -> None:
        self._display = display
        self._recipe = recipe
        self._tries: list[Try] = []
        self._shown = -1
        """The tenth of the run of which a line was last printed."""

    def listener(self) -> Listener:
        if self._display.quiet:
            return Listener()
        return Listener(
            started=self._started,
            tried=self._tries.append,
            chosen=self._chosen,
            evaluated=self._evaluated,
        )

    def ended(self, report: TrainReport) -> None:
        if self._display.quiet:
            return
        assert report.recipe.shape is not None
        metrics = report.metrics
        heading(f"{report.output}: {_described(report.recipe)}, {_length(report)}")
        table = new_table("of held-out variance", "unexplained", "of ITQ's", right=(1, 2))
        for name, value in (
            (str(report.output), metrics.unexplained),
            ("ITQ", metrics.baselines.itq),
            ("PCA + sign", metrics.baselines.pca_sign),
        ):
            table.add_row(printable(name), f"{value:.4f}", f"{value / max(metrics.baselines.itq, 1e-30):.0%}")
        stdout().print(table)
        usage = metrics.usage
        heading(
            f"codes used, of what uniform use would reach: {usage.utilisation:.1%}; perplexity"
            f" {tenths(usage.perplexity)} a codebook; {counted(usage.dead_bits, 'dead bit')}"
        )
        for line in advice(metrics, report.recipe, report.started):
            heading(f"advice: {line}")

    def _started(self, started: Started) -> None:
        note(
            f"lfq: {started.vectors:,} vectors of {counted(started.dim, 'feature')}, {started.held_out:,} held out; "
            f"{started.coordinates} directions hold 99.9 % of the variance"
        )
        bars = started.baselines
        note(f"     unexplained at {self._recipe.bits} bits: PCA + sign {bars.pca_sign:.4f}, ITQ {bars.itq:.4f}")
        if started.resumed_step is not None:
            note(f"     resumed at step {started.resumed_step:,}")

    def _chosen(self, recipe: Recipe) -> None:
        if self._tries:
            rows = [
                [
                    str(tried.shape),
                    f"{tried.at_start:.4f}",
                    f"{tried.unexplained:.4f}",
                    "best" * (tried.shape == recipe.shape),
                ]
                for tried in self._tries
            ]
            for line in grid(["levels × bits", "at the start", "after a try", ""], rows, left=(0, 3)):
                note(line.plain)

    def _evaluated(self, found: Evaluation) -> None:
        done = _share_done(self._recipe, found)
        if self._display.no_progress or not (self._display.verbose or done > self._shown):
            return
        self._shown = done
        left = f", {found.remaining_seconds:.0f} s left" if found.remaining_seconds else ""
        speed = f", {found.steps_per_second:.0f} steps/s" if found.steps_per_second else ""
        note(
            f"step {found.step:>6,}  unexplained {found.unexplained:.4f}  used {found.usage.utilisation:.1%}"
            f"  perplexity {tenths(found.usage.perplexity)}  dead bits {found.usage.dead_bits}{speed}{left}"
        )


def _length(report: TrainReport) -> str:
    steps, recipe = report.history[-1].step, report.recipe
    if recipe.minutes is not None or steps == recipe.steps:
        return f"{steps:,} steps"
    return f"{steps:,} of {recipe.steps:,} steps: no gain in the last {PATIENCE} evaluations"


def _share_done(recipe: Recipe, found: Evaluation) -> int:
    """How much of the run is done, in parts of which there are _LINES."""
    if recipe.minutes is None:
        return _LINES * found.step // recipe.steps
    return int(_LINES * found.seconds / (60 * recipe.minutes))


def _described(recipe: Recipe) -> str:
    assert recipe.shape is not None
    if recipe.shape.levels > 1:
        return f"{recipe.shape.levels} levels of {recipe.shape.bits} bits"
    if recipe.num_codebooks > 1:
        return f"{recipe.num_codebooks} codebooks of {recipe.codebook_bits} bits"
    return f"a plain LFQ of {recipe.bits} bits"


def _try_json(tried: Try) -> dict[str, Any]:
    return {
        "shape": [tried.shape.levels, tried.shape.bits],
        "at_start": tried.at_start,
        "unexplained": tried.unexplained,
    }
