"""The projection of `LFQ(cosine_sim_project_in=True)`: each output feature is a scaled cosine similarity."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CosineProjection(nn.Module):
    """x [..., dim_in] -> [..., dim_out]: `scale` times the cosine similarity of x and each column of `weight`.

    `weight` is [dim_in, dim_out], the transpose of that of `nn.Linear`, and there is no bias.
    """

    def __init__(self, dim_in: int, dim_out: int, *, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.randn(dim_in, dim_out))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., dim_in] -> cosines [..., dim_out] in [-scale, scale]; a zero vector gives zeros."""
        directions = F.normalize(self.weight, dim=0)
        return F.normalize(x, dim=-1) @ directions * self.scale
