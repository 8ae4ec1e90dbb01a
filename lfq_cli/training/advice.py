"""Advice after a run: a line for each problem that its metrics show, and what to change."""

from __future__ import annotations

from typing import Protocol

from lfq_cli.training.metrics import Metrics
from lfq_cli.training.recipe import SMALL_DATA_VECTORS, Recipe

_LITTLE_BETTER = 0.9
_EVEN = 0.9
_FEW_A_BIT = 20


class Counted(Protocol):
    """The number of vectors."""

    @property
    def vectors(self) -> int:
        """All vectors."""
        ...

    @property
    def held_out(self) -> int:
        """The vectors that were not trained on."""
        ...


def advice(metrics: Metrics, recipe: Recipe, counted: Counted) -> list[str]:
    """A line for each problem that the metrics show; none if there is no problem."""
    assert recipe.shape is not None
    lines = []
    usage, trained = metrics.usage, counted.vectors - counted.held_out
    if usage.dead_bits:
        lines.append(
            f"{usage.dead_bits} of {recipe.bits} bits never change: try fewer --bits, or --objective tokens, which uses"
            " them"
        )
    if recipe.shape.levels == 1 and metrics.unexplained > _LITTLE_BETTER * metrics.baselines.itq and recipe.bits > 1:
        lines.append("one level is little better than ITQ: with --bits alone, several levels are tried")
    if recipe.objective == "tokens" and usage.utilisation < _EVEN:
        lines.append(
            f"only {usage.utilisation:.0%} of the codes that uniform use would reach are used: try a larger"
            " --diversity-gamma or --entropy-weight, a larger --batch-size, or fewer bits"
        )
    if trained < _FEW_A_BIT * recipe.bits or trained < SMALL_DATA_VECTORS // 10:
        lines.append(
            f"{trained:,} training vectors are few for {recipe.bits} bits: more would improve the held-out error"
        )
    return lines
