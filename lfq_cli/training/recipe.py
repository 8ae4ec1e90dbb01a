"""How to train: what the command line's options say, and the schedules that follow."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi
from typing import Any, Literal

from lfq_cli.errors import OptionError
from lfq_cli.training.levels import Shape

SLOPES = (1.0, 2.0)
"""Of the soft sign at the start and at the end. Above 3 gradients vanish, and a stack without a soft sign diverges."""
SMALL_DATA_VECTORS = 10_000
MIXED = 0.15
"""Of fewer vectors each is moved by so much of the difference of two others, anew in every batch: levels cannot learn
them by heart. Held-out error of digits, 10 folds: 16 bits in one level 0.346 to 0.340, 64 bits in 16 0.096 to 0.090."""
INVERSE_TEMPERATURES = (0.5, 2.0)
"""Of the entropy terms at the start and at the end, for latents of mean size 1. Sharper ones see only what lies at the
edge of a bit; softer ones let codes collapse (14 bits of photo patches from 0.25: 2 % of the codes)."""
EVALUATIONS = 40
FEWEST_STEPS = 10
"""Between two evaluations, each of which takes as long as a few steps."""
PATIENCE = 20
"""Evaluations in a row without a gain of PATIENCE_GAIN after which training ends."""
PATIENCE_GAIN = 1e-4

Init = Literal["itq", "pca", "random"]
Objective = Literal["reconstruction", "tokens"]


@dataclass(frozen=True)
class Recipe:
    """All that decides, with the data, what a run ends in."""

    bits: int
    shape: Shape | None = None
    """None: the best of several, judged on held-out data."""
    num_codebooks: int = 1
    """Indices into which the bits of a shape with one level are cut."""
    spherical: bool = False
    objective: Objective = "reconstruction"
    entropy_weight: float = 0.0
    diversity_gamma: float = 1.0
    commitment_weight: float = 0.0
    init: Init = "itq"
    steps: int = 2000
    minutes: float | None = None
    """Instead of `steps`."""
    batch_size: int = 1024
    rate: float = 0.1
    """Of each array's own size, at the start of the cosine schedule."""
    holdout: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if self.shape is not None and self.shape.total != self.bits:
            raise ValueError(f"{self.shape} are not {self.bits} bits")
        if self.num_codebooks > 1 and (self.shape is None or self.shape.levels > 1):
            raise OptionError("several codebooks belong to one level", "leave --num-codebooks or --num-quantizers out")

    @property
    def codebook_bits(self) -> int:
        """Bits of one index. Only of a recipe with a shape."""
        assert self.shape is not None
        return self.shape.bits // self.num_codebooks

    def as_json(self) -> dict[str, Any]:
        """The recipe for a checkpoint, and to compare it with another."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return values | {"shape": None if self.shape is None else [self.shape.levels, self.shape.bits]}


def rate_at(progress: float) -> float:
    """Of the rate at the start, by the share of the run that is done: half a cosine."""
    return 0.5 * (1 + cos(pi * progress))


def inverse_temperature_at(progress: float) -> float:
    """Of the entropy terms."""
    low, high = INVERSE_TEMPERATURES
    return float(low * (high / low) ** progress)


def slope_at(progress: float) -> float:
    """Of the soft sign."""
    return SLOPES[0] + (SLOPES[1] - SLOPES[0]) * progress
