"""How a finished quantizer does on vectors that it was not trained on, for the record in its checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from lfq_cli.floats import Floats
from lfq_cli.nn.saved import module_of
from lfq_cli.quantizer import Quantizer
from lfq_cli.training.baselines import Baselines
from lfq_cli.training.space import Space
from lfq_cli.training.usage import CodeUsage

_ROWS = 1 << 12


@dataclass(frozen=True)
class Metrics:
    """unexplained: the share of the held-out variance about the training mean that encoding and decoding loses.

    usage: how training vectors use the codes.
    """

    unexplained: float
    baselines: Baselines
    usage: CodeUsage

    def as_json(self) -> dict[str, Any]:
        """As a flat object."""
        return {"unexplained": self.unexplained} | asdict(self.baselines) | asdict(self.usage)


def unexplained_by(quantizer: Quantizer, held_out: Floats, space: Space) -> float:
    """The share of the variance of vectors [m, dim] that encoding and decoding them loses."""
    module = module_of(quantizer)
    left = 0.0
    for first in range(0, len(held_out), _ROWS):
        x = held_out[first : first + _ROWS]
        decoded = module.decode_bits(module.encode_bits(torch.from_numpy(x))).numpy()
        left += float(np.square(x.astype(np.float64) - decoded).sum())
    return left / len(held_out) / space.squared_lengths(held_out)
