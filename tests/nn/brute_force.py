"""The entropies over the explicit codebook of 2^D codes, in float64: slow, obvious, and the truth of these tests."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Entropies(NamedTuple):
    per_sample: Tensor
    batch: Tensor


def code_table(bits: int) -> Tensor:
    """-> [2^bits, bits] float64 of ±1, in index order."""
    rows = [[2.0 * (index >> (bits - 1 - j) & 1) - 1 for j in range(bits)] for index in range(2**bits)]
    return torch.tensor(rows, dtype=torch.float64)


def assignment(z: Tensor, magnitude: float, inv_temperature: float) -> Tensor:
    """z [n, c, d] -> log p(code) [n, c, 2^d] float64, from the distances to every code."""
    codes = code_table(z.shape[-1]) * magnitude
    distance = torch.cdist(z.double(), codes, compute_mode="donot_use_mm_for_euclid_dist").square()
    return torch.log_softmax(-distance * inv_temperature, dim=-1)


def entropies(z: Tensor, *, magnitude: float, inv_temperature: float) -> Entropies:
    """z [n, c, d] -> the mean entropy of an assignment, and the entropy of the mean assignment, in nats."""
    log_p = assignment(z, magnitude, inv_temperature)
    per_sample = -(log_p.exp() * log_p).sum(-1).mean()
    return Entropies(per_sample, entropy(log_p.exp().mean(0)))


def entropy(p: Tensor) -> Tensor:
    """p [..., k] -> the mean of the entropies of the distributions, 0-dim."""
    return -torch.where(p > 0, p * p.clamp(min=1e-300).log(), 0).sum(-1).mean()
