"""Trainable levels: stacked lookup-free quantization as three arrays, and its forward pass.

Level q computes u = A_q r + c_q for the residual r of the levels before; its bits are u > 0, its codes ±1, and it
subtracts B_q codes from r. The last residual is the error. A single level is a plain LFQ with projections.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """A number of levels, and the bits of each."""

    levels: int
    bits: int

    @property
    def total(self) -> int:
        """Bits per vector."""
        return self.levels * self.bits

    def __str__(self) -> str:
        return f"{self.levels} × {self.bits}"


@dataclass(frozen=True)
class Levels:
    """Q levels of D bits over r coordinates of mean 0, all float32.

    project_in [Q, D, r] is A, threshold [Q, D] is c, and project_out [Q, r, D] is B.
    """

    project_in: Tensor
    threshold: Tensor
    project_out: Tensor

    @property
    def shape(self) -> Shape:
        """The number of levels and their bits."""
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
        """The same values on `device`."""
        return Levels(**{name: array.to(device) for name, array in self.arrays().items()})

    def copy(self) -> Levels:
        """A copy, detached from the graph."""
        return Levels(**{name: array.detach().clone() for name, array in self.arrays().items()})


def codes_by_level(levels: Levels, x: Tensor, code_of: Callable[[Tensor], Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """x [n, r] -> (u, code_of(u)) for one level after the other, both [n, D]; differentiable.

    A level computes A_q (x - sum of B_p codes_p): here from A x for all levels at once and the small products A_q B_p.
    So x is read once instead of once per level: 32 levels on 256 coordinates take a quarter of the time.
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
    """x [n, r] -> (codes ±1 [n, Q * D] float32, residual [n, r])."""
    codes = torch.cat([codes for _, codes in codes_by_level(levels, x, signs)], dim=1)
    return codes, torch.addmm(x, codes, levels.decoder.T, alpha=-1)
