"""Levels that are learned: stacked lookup-free quantization as four arrays, and its forward pass.

Level q sees what the levels before left of x: u = A_q r + c_q, bits u > 0, codes ±1, and takes B_q codes off r. What
is left in the end, with one bias off at the start, is the error. One level alone is a plain LFQ with projections.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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

    @property
    def decoder(self) -> Tensor:
        """project_out of all levels side by side [r, Q * D]."""
        return self.project_out.transpose(0, 1).flatten(1)

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


def codes_by_level(levels: Levels, x: Tensor, code_of: Callable[[Tensor], Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """x [n, r] -> for one level after the other (u, what code_of makes of it), both [n, D]; differentiable.

    What a level sees of the rest is A_q (x - sum of B_p codes_p): A x for all levels at once, and the small products
    A_q B_p. So x is read once and not once a level: 32 levels of 256 coordinates take a quarter of the time.
    """
    shape = levels.shape
    project_in = levels.project_in.flatten(0, 1)  # [Q * D, r]
    between = project_in @ levels.decoder  # [Q * D, Q * D]
    ahead = torch.addmm(levels.threshold.flatten(), x, project_in.T)
    for level in range(shape.levels):
        u, ahead = ahead[:, : shape.bits], ahead[:, shape.bits :]
        codes = code_of(u)
        yield u, codes
        if level + 1 < shape.levels:
            own = slice(level * shape.bits, (level + 1) * shape.bits)
            ahead = torch.addmm(ahead, codes, between[own.stop :, own].T, alpha=-1)


def signs(u: Tensor) -> Tensor:
    """u -> codes ±1."""
    return torch.where(u > 0, 1.0, -1.0)


@torch.no_grad()
def codes_of(levels: Levels, x: Tensor) -> tuple[Tensor, Tensor]:
    """x [n, r] -> (codes ±1 [n, Q * D] float32, what is left of x [n, r])."""
    codes = torch.cat([codes for _, codes in codes_by_level(levels, x, signs)], dim=1)
    return codes, torch.addmm(x, codes, levels.decoder.T, alpha=-1)
