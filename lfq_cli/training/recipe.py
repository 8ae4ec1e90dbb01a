"""How to train: the options of the command line, and the schedules that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi
from typing import Any, Literal

from lfq_cli.errors import OptionError
from lfq_cli.training.levels import Shape

SLOPES = (1.0, 2.0)
"""Slopes of the soft sign at the start and at the end. Above 3 gradients vanish; without a soft sign stacks diverge."""
SMALL_DATA_VECTORS = 10_000
MIXED = 0.15
"""With fewer vectors than SMALL_DATA_VECTORS, each is shifted in every batch by this share of the difference of two
others, against overfitting. Held-out error on digits, 10 folds: 0.346 to 0.340 for 16 bits in one level, 0.096 to 0.090
for 64 bits in 16 levels."""
INVERSE_TEMPERATURES = (0.5, 2.0)
"""Inverse temperatures of the entropy terms at the start and at the end, for latents of mean size 1. Larger ones see
only vectors close to a threshold; smaller ones let codes collapse (14 bits of photo patches, starting at 0.25: 2 % of
the codes are used)."""
EVALUATIONS = 40
FEWEST_STEPS = 10
"""Steps between two evaluations at least; an evaluation takes as long as a few steps."""
PATIENCE = 20
"""Training ends after so many evaluations in a row without a relative gain of PATIENCE_GAIN."""
PATIENCE_GAIN = 1e-4

Init = Literal["itq", "pca", "random"]
Objective = Literal["reconstruction", "tokens"]


@dataclass(frozen=True)
class Recipe:
    """Everything that, together with the data, decides the result of a run."""

    bits: int
    shape: Shape | None = None
    """None: the best of several shapes by their held-out error."""
    num_codebooks: int = 1
    """The number of indices into which the bits of a single level are cut."""
    spherical: bool = False
    objective: Objective = "reconstruction"
    entropy_weight: float = 0.0
    diversity_gamma: float = 1.0
    commitment_weight: float = 0.0
    init: Init = "itq"
    steps: int = 2000
    minutes: float | None = None
    """Training time, instead of `steps`."""
    batch_size: int = 1024
    rate: float = 0.1
    """Learning rate at the start of the cosine schedule, relative to the size of each array."""
    holdout: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if self.shape is not None and self.shape.total != self.bits:
            raise ValueError(f"{self.shape} are not {self.bits} bits")
        if self.num_codebooks > 1 and (self.shape is None or self.shape.levels > 1):
            raise OptionError(
                "several codebooks are only possible with one level", "leave out --num-codebooks or --num-quantizers"
            )

    @property
    def codebook_bits(self) -> int:
        """Bits of one index; only for a recipe with a shape."""
        assert self.shape is not None
        return self.shape.bits // self.num_codebooks

    def as_json(self) -> dict[str, Any]:
        """The recipe as JSON, for a checkpoint and for comparisons."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return values | {"shape": None if self.shape is None else [self.shape.levels, self.shape.bits]}


def rate_at(progress: float) -> float:
    """The learning rate as a share of the initial one (half a cosine); progress: share of the run that is done."""
    return 0.5 * (1 + cos(pi * progress))


def inverse_temperature_at(progress: float) -> float:
    """The inverse temperature of the entropy terms."""
    low, high = INVERSE_TEMPERATURES
    return float(low * (high / low) ** progress)


def slope_at(progress: float) -> float:
    """The slope of the soft sign."""
    return SLOPES[0] + (SLOPES[1] - SLOPES[0]) * progress
