"""A projection to few features, computed in the faster orientation if that gives the same bits."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor, nn

_WORTH_A_TEST = 1 << 17  # values of x: with fewer, a product costs less than the test
_ALIGNMENT = 64  # bytes: a cache line, and the widest vector register
_MOST_CASES = 64

_Case: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], int]


class TransposedLinear(nn.Module):
    """An `nn.Linear` on the CPU that computes W xᵀ instead of x Wᵀ if this machine adds up both in the same order.

    Matrix libraries are slower for tall, narrow results than for wide ones: for 512 -> 18 the transposed product takes
    0.7 of the time (one thread of an AMD EPYC, MKL). Whether the sums are equal to the last bit depends on the kernels,
    and so on shape, strides and alignment, but not on values. It is tested on random numbers when such an input comes
    for the second time (a test takes as long as ten products).
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        self._same: dict[_Case, bool | None] = {}

    def forward(self, x: Tensor) -> Tensor:
        """x [n, dim_in] -> [n, dim_out], equal to `linear(x)`; not for training."""
        if self._is_same(x):
            return self._transposed(x)
        z: Tensor = self.linear(x)
        return z

    def _transposed(self, x: Tensor) -> Tensor:
        weight, bias = self.linear.weight, self.linear.bias
        z = weight @ x.T if bias is None else torch.addmm(bias[:, None], weight, x.T)
        return z.T.contiguous()  # the memory layout of `linear(x)`

    def _is_same(self, x: Tensor) -> bool:
        if x.numel() < _WORTH_A_TEST or x.ndim != 2:
            return False
        case = tuple(x.shape), x.stride(), x.data_ptr() % _ALIGNMENT
        if case not in self._same:
            if len(self._same) < _MOST_CASES:
                self._same[case] = None
            return False
        if self._same[case] is None:
            sample = _like(x)
            self._same[case] = torch.equal(self._transposed(sample), self.linear(sample))
        return bool(self._same[case])


def _like(x: Tensor) -> Tensor:
    """Random numbers with the shape, strides and alignment of x."""
    span = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    memory = torch.empty(span + _ALIGNMENT // x.element_size(), dtype=x.dtype)
    memory.normal_(generator=torch.Generator().manual_seed(0))
    start = (x.data_ptr() - memory.data_ptr()) % _ALIGNMENT // x.element_size()
    return memory.as_strided(x.shape, x.stride(), start)


def transpose_projections(module: nn.Module) -> None:
    """Replaces every `project_in` in a module that is an `nn.Linear` by a `TransposedLinear`."""
    for part in list(module.modules()):
        linear = getattr(part, "project_in", None)
        if isinstance(linear, nn.Linear):
            part.project_in = TransposedLinear(linear)
