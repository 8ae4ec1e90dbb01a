"""Adam, with steps relative to the size of each array. Source: Kingma and Ba, 2015.

One learning rate suits vectors of any scale: a step is a share of the array's root mean square at the start, level by
level.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lfq_cli.training.levels import Levels

BETA_1, BETA_2 = 0.9, 0.99
_SMALLEST = 1e-20


class Adam:
    """Holds the moments of each array's gradients; steps change `levels` in place."""

    def __init__(self, levels: Levels) -> None:
        self.levels = levels
        self.count = 0
        arrays = levels.arrays()
        self._first = {name: torch.zeros_like(array) for name, array in arrays.items()}
        self._second = {name: torch.zeros_like(array) for name, array in arrays.items()}
        self._sizes = {
            name: array.square().mean((1, 2), keepdim=True).sqrt() for name, array in arrays.items() if array.ndim == 3
        }
        # thresholds start near 0, and what they are compared with has mean size 1
        self._sizes["threshold"] = torch.ones_like(levels.threshold)

    @torch.no_grad()
    def step(self, gradients: Mapping[str, Tensor], rate: float) -> None:
        """Moves every array against its gradient by about `rate` times its size."""
        self.count += 1
        unbias_1, unbias_2 = 1 - BETA_1**self.count, 1 - BETA_2**self.count
        for name, array in self.levels.arrays().items():
            gradient, first, second = gradients[name], self._first[name], self._second[name]
            first.lerp_(gradient, 1 - BETA_1)
            second.mul_(BETA_2).addcmul_(gradient, gradient, value=1 - BETA_2)
            direction = (first / unbias_1) / ((second / unbias_2).sqrt() + _SMALLEST)
            array.sub_(direction * (self._sizes[name] * rate))

    def tensors(self) -> dict[str, Tensor]:
        """The state that decides the next step, except `count`; the tensors themselves, not copies."""
        parts = {"first": self._first, "second": self._second, "sizes": self._sizes}
        return {f"{part}.{name}": array for part, arrays in parts.items() for name, array in arrays.items()}

    def restore(self, tensors: Mapping[str, Tensor], count: int) -> None:
        """Restores the state that `tensors` and `count` returned."""
        self.count = count
        for name, array in self.tensors().items():
            array.copy_(tensors[name])
