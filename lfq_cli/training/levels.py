"""Levels that are learned: stacked lookup-free quantization as four arrays, and its forward pass.

Level q sees what the levels before left of x: u = A_q r + c_q, bits u > 0, codes ±1, and takes B_q codes off r. What
is left in the end, with one bias off at the start, is the error. One level alone is a plain LFQ with projections.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """So many levels of so many bits."""

    levels: int
    bits: int

    @property
    def total(self) -> int:
        """Bits of a vector."""
        return self.levels * self.bits

    def __str__(self) -> str:
        return f"{self.levels} × {self.bits}"


@dataclass(frozen=True)
class Levels:
    """project_in [Q, D, r], threshold [Q, D], project_out [Q, r, D], all float32: what Q levels of D bits know of r
    coordinates whose mean is 0.
    """

    project_in: Tensor
    threshold: Tensor
    project_out: Tensor

    @property
    def shape(self) -> Shape:
        """Levels and bits."""
        return Shape(*self.threshold.shape)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        return zip(self.project_in, self.threshold, self.project_out, strict=True)

    def arrays(self) -> dict[str, Tensor]:
        """The arrays by name."""
        return {"project_in": self.project_in, "threshold": self.threshold, "project_out": self.project_out}

    def to(self, device: torch.device) -> Levels:
        """The same values on a device."""
        return Levels(**{name: array.to(device) for name, array in self.arrays().items()})

    def copy(self) -> Levels:
        """The same values, apart from the graph and from later changes."""
        return Levels(**{name: array.detach().clone() for name, array in self.arrays().items()})


@torch.no_grad()
def codes_of(levels: Levels, x: Tensor) -> tuple[Tensor, Tensor]:
    """x [n, r] -> (codes ±1 [n, Q * D] float32, what is left of x [n, r])."""
    rest, found = x, []
    for project_in, threshold, project_out in levels:
        codes = torch.where(torch.addmm(threshold, rest, project_in.T) > 0, 1.0, -1.0)
        rest = torch.addmm(rest, codes, project_out.T, alpha=-1)
        found.append(codes)
    return torch.cat(found, dim=1), rest
