"""The possible shapes for a number of bits, and which is best: short runs, compared on held-out data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from lfq_cli.training.baselines import Errors
from lfq_cli.training.batches import generator_of
from lfq_cli.training.learning import Batches, Learner
from lfq_cli.training.levels import Levels, Shape, codes_of
from lfq_cli.training.recipe import Recipe
from lfq_cli.training.start import start

MAX_LEVELS = 32
MAX_LEVEL_BITS = 64
TRY_SHARE = 10
"""A try is a run of a tenth of the steps, which ranks shapes as full runs do (docs/training.md)."""
FEWEST_TRY_STEPS = 50


@dataclass(frozen=True)
class Try:
    """The unexplained share of held-out variance for a shape, at the start and after a short run."""

    shape: Shape
    at_start: float
    unexplained: float


_TOLERANCE = 0.01
"""Shapes within this share of the least error count as equal. The one with the fewest levels is taken: it encodes
faster and has larger indices."""


def best_of(found: Sequence[Try]) -> Shape:
    """The shape to train: the best one, or one that is about as good and has fewer levels."""
    least = min(tried.unexplained for tried in found)
    equally_good = [tried.shape for tried in found if tried.unexplained <= least * (1 + _TOLERANCE)]
    return min(equally_good, key=lambda shape: shape.levels)


def candidates(bits: int, coordinates: int) -> list[Shape]:
    """The shapes with `bits` bits in levels of equal size, fewest levels first.

    Levels have at most as many bits as there are coordinates, if such a shape exists.
    """
    shapes = [Shape(bits // each, each) for each in range(1, bits + 1) if bits % each == 0]
    shapes = [shape for shape in shapes if shape.levels <= MAX_LEVELS and shape.bits <= MAX_LEVEL_BITS]
    within = [shape for shape in shapes if shape.bits <= coordinates]
    return sorted(within or shapes, key=lambda shape: shape.levels)


def start_levels(recipe: Recipe, shape: Shape, x: Tensor) -> Levels:
    """The initial levels of this shape for training coordinates x [n, r] on the CPU."""
    generator = generator_of(recipe.seed, shape.levels, shape.bits)
    return start(recipe.init, x, shape, generator, balanced=recipe.objective == "tokens")


def tries(
    recipe: Recipe,
    shapes: list[Shape],
    sample: Tensor,
    batches: Batches,
    errors: Errors,
    variance: float,
    advance: Callable[[], None] = lambda: None,
) -> Iterator[Try]:
    """Tries every shape.

    sample: training coordinates [n, r] to start from, on the CPU. advance: called after each step.
    """
    steps = max(recipe.steps // TRY_SHARE, FEWEST_TRY_STEPS)
    for shape in shapes:
        levels = start_levels(recipe, shape, sample).to(errors.held_out.device)
        learner = Learner(levels, batches, replace(recipe, shape=shape), variance=variance)
        for number in range(steps):
            learner.step(number / steps)
            advance()
        found = [errors(codes_of(each, errors.held_out)[1]) for each in (levels, learner.levels)]
        yield Try(shape, *found)
