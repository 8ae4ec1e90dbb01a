"""What a run's metrics say in words: a line for each thing that is wrong, and what to change."""

from __future__ import annotations

from typing import Protocol

from lfq_cli.training.metrics import Metrics
from lfq_cli.training.recipe import SMALL_DATA_VECTORS, Recipe

_LITTLE_BETTER = 0.9
_EVEN = 0.9
_FEW_A_BIT = 20


class Counted(Protocol):
    """How many vectors there were."""

    @property
    def vectors(self) -> int:
        """All."""
        ...

    @property
    def held_out(self) -> int:
        """Of them, those that were not trained on."""
        ...


def advice(metrics: Metrics, recipe: Recipe, counted: Counted) -> list[str]:
    """A line for everything the numbers say is wrong; none where all is well."""
    assert recipe.shape is not None
    lines = []
    usage, trained = metrics.usage, counted.vectors - counted.held_out
    if usage.dead_bits:
        lines.append(
            f"{usage.dead_bits} of {recipe.bits} bits never change: fewer --bits, or --objective tokens to use them"
        )
    if recipe.shape.levels == 1 and metrics.unexplained > _LITTLE_BETTER * metrics.baselines.itq and recipe.bits > 1:
        lines.append("one level is little better than ITQ: --bits alone tries several levels")
    if recipe.objective == "tokens" and usage.utilisation < _EVEN:
        lines.append(
            f"{usage.utilisation:.0%} of the codes that uniform use would reach are used: a larger --diversity-gamma or"
            " --entropy-weight, a larger --batch-size, or fewer bits"
        )
    if trained < _FEW_A_BIT * recipe.bits or trained < SMALL_DATA_VECTORS // 10:
        lines.append(
            f"{trained:,} training vectors are few for {recipe.bits} bits: the held-out figure would gain from more"
        )
    return lines
