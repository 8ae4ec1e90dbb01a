"""From a survey to everything that a run needs: coordinates, baselines, batches, held-out data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lfq_cli.floats import Floats
from lfq_cli.training.baselines import Baselines, Errors, baselines
from lfq_cli.training.batches import MemoryBatches, StreamedBatches, generator_of
from lfq_cli.training.learning import Batches
from lfq_cli.training.recipe import MIXED, SMALL_DATA_VECTORS, Recipe
from lfq_cli.training.source import Source
from lfq_cli.training.space import Space, space_of
from lfq_cli.training.survey import Survey

START_VECTORS = 1 << 14
"""The number of vectors that levels are initialised from and that the usage of codes is measured on."""
FITTED_VALUES = 1 << 23
"""The decoder is fitted to so many values at the end (32 MiB), but to at least START_VECTORS vectors."""
_ROTATION, _SUBSET, _BASELINES = 6, 7, 8


@dataclass(frozen=True)
class Prepared:
    """What a run needs.

    x [n, r]: training coordinates to initialise levels from and to fit the decoder to, on the CPU, in random order.
    variance: the mean squared length of training coordinates. held_out: vectors as in the data [m, dim].
    """

    space: Space
    x: Tensor
    batches: Batches
    errors: Errors
    variance: float
    held_out: Floats
    count: int
    trained: int

    @property
    def start_x(self) -> Tensor:
        """The coordinates that levels are initialised from [n, r]."""
        return self.x[:START_VECTORS]

    def baselines(self, recipe: Recipe) -> Baselines:
        """The baselines at the recipe's number of bits."""
        on_cpu = Errors(self.errors.held_out.cpu(), self.errors.dropped, self.errors.total)
        return baselines(self.start_x, recipe.bits, on_cpu, generator_of(recipe.seed, _BASELINES))


def prepare(source: Source, found: Survey, recipe: Recipe, device: torch.device) -> Prepared:
    """Prepares a run from what the survey kept; if that is not everything, training will read the source again."""
    space = space_of(found.moments, generator_of(recipe.seed, _ROTATION))
    coordinates = space.coordinates(found.sample)
    order = torch.randperm(len(coordinates), generator=generator_of(recipe.seed, _SUBSET))
    x = coordinates[order[: max(START_VECTORS, FITTED_VALUES // space.size)]]
    batches: Batches
    if found.is_whole:
        mixed = MIXED if len(coordinates) < SMALL_DATA_VECTORS else 0.0
        batches = MemoryBatches(coordinates.to(device), recipe.batch_size, seed=recipe.seed, mixed=mixed)
    else:
        batches = StreamedBatches(
            source,
            space,
            recipe.batch_size,
            trained=found.moments.count,
            pool_vectors=len(coordinates),
            seed=recipe.seed,
            holdout=recipe.holdout,
            device=device,
        )
    held_out, total = space.coordinates(found.held_out), space.squared_lengths(found.held_out)
    dropped = max(total - float(held_out.double().square().sum(1).mean()), 0.0)
    errors = Errors(held_out.to(device), dropped, total)
    variance = float(x.double().square().sum(1).mean())
    return Prepared(space, x, batches, errors, variance, found.held_out, found.count, found.moments.count)
