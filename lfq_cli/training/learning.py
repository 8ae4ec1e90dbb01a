"""Steps: batch, loss, gradient, Adam. Uses one thread on the CPU, so the same batches give the same bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from lfq_cli.training.adam import Adam
from lfq_cli.training.levels import Levels
from lfq_cli.training.loss import loss_of
from lfq_cli.training.recipe import Recipe, rate_at


class Batches(Protocol):
    """Batches by number."""

    def batch(self, number: int) -> Tensor:
        """Coordinates [size, r]."""
        ...


class Learner:
    """Trains levels. variance: the mean squared length of training vectors, by which losses are divided."""

    def __init__(self, levels: Levels, batches: Batches, recipe: Recipe, *, variance: float) -> None:
        self.levels = levels.copy()
        self._adam = Adam(self.levels)
        self._batches = batches
        self._recipe = recipe
        self._variance = variance

    @property
    def count(self) -> int:
        """Steps so far."""
        return self._adam.count

    def step(self, progress: float) -> None:
        """Takes one step. progress: the share of the run that is done, in [0, 1), for the schedules."""
        arrays = self.levels.arrays()
        for array in arrays.values():
            array.requires_grad_(True)
        batch = self._batches.batch(self._adam.count)
        loss = loss_of(self.levels, batch, self._recipe, progress=progress, variance=self._variance)
        gradients = torch.autograd.grad(loss, list(arrays.values()))
        for array in arrays.values():
            array.requires_grad_(False)
        self._adam.step(dict(zip(arrays, gradients, strict=True)), self._recipe.rate * rate_at(progress))

    def tensors(self) -> dict[str, Tensor]:
        """The state that decides the next steps, except `count`; the tensors themselves, not copies."""
        return {f"levels.{name}": array for name, array in self.levels.arrays().items()} | {
            f"adam.{name}": array for name, array in self._adam.tensors().items()
        }

    def restore(self, tensors: Mapping[str, Tensor], count: int) -> None:
        """Restores the state that `tensors` and `count` returned."""
        for name, array in self.levels.arrays().items():
            array.copy_(tensors[f"levels.{name}"])
        own = {name.removeprefix("adam."): tensor for name, tensor in tensors.items() if name.startswith("adam.")}
        self._adam.restore(own, count)
