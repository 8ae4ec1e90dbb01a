"""Initial levels: principal directions, rotated for the smallest quantization error (ITQ), level by level.

Source of ITQ: Gong and Lazebnik, Iterative Quantization, CVPR 2011.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lfq_cli.training.levels import Levels, Shape, codes_of

ITQ_ROUNDS = 30


def principal_directions(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [n, r] of mean 0 -> (variances [r] in descending order, directions [r, r] as columns), float64."""
    x64 = x.double()
    variances, directions = torch.linalg.eigh(x64.T @ x64 / len(x))
    return variances.flip(0).clamp(min=0), directions.flip(1)


def random_rotation(size: int, generator: torch.Generator) -> Tensor:
    """An orthogonal matrix [size, size] float64, uniformly distributed."""
    gaussian = torch.randn(size, size, generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(gaussian)
    rotation: Tensor = q * r.diagonal().sign()
    return rotation


def itq_rotation(projected: Tensor, rounds: int, generator: torch.Generator) -> Tensor:
    """projected [n, D] of mean 0 -> the rotation [D, D] after which values are closest to their signs; same dtype."""
    rotation = random_rotation(projected.shape[1], generator).to(projected.dtype)
    for _ in range(rounds):
        signs = torch.where(projected @ rotation > 0, 1.0, -1.0).to(projected.dtype)
        left, _, right = torch.linalg.svd((projected.T @ signs).double())
        rotation = (left @ right).to(projected.dtype)
    return rotation


def start(method: str, x: Tensor, shape: Shape, generator: torch.Generator, *, balanced: bool = False) -> Levels:
    """Levels of a shape for x [n, r], each fitted to the residual of those before.

    kind: "itq", "pca" or "random". balanced: thresholds at medians instead of means, so every bit is 1 for half of the
    vectors.
    """
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    rest = x
    for _ in range(shape.levels):
        level = _start_level(method, rest, shape.bits, generator, balanced=balanced)
        found.append(level)
        _, rest = codes_of(_stacked([level]), rest)
    return _stacked(found)


def _stacked(found: list[tuple[Tensor, Tensor, Tensor]]) -> Levels:
    project_in, threshold, project_out = (torch.stack(arrays) for arrays in zip(*found, strict=True))
    return Levels(project_in, threshold, project_out)


def _start_level(
    method: str, rest: Tensor, bits: int, generator: torch.Generator, *, balanced: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """(project_in [D, r], threshold [D], project_out [r, D]) of one level for residuals [n, r]."""
    centred = rest - rest.mean(0)
    directions = _directions(method, centred, bits, generator)  # [r, D]
    projected = centred @ directions
    edges = projected.median(0).values if balanced else projected.new_zeros(bits)
    projected = projected - edges
    scales = projected.abs().mean(0).clamp(min=torch.finfo(torch.float32).tiny)
    signs = torch.where(projected > 0, 1.0, -1.0)
    gram = (signs.T @ signs).double()
    gram += torch.eye(bits, dtype=torch.float64) * len(signs) * 1e-6
    project_out = torch.linalg.solve(gram, (signs.T @ rest).double()).T.float()
    project_in = (directions / scales).T
    return project_in.contiguous(), -project_in @ rest.mean(0) - edges / scales, project_out.contiguous()


def _directions(method: str, centred: Tensor, bits: int, generator: torch.Generator) -> Tensor:
    size = centred.shape[1]
    if method == "random":
        more = [random_rotation(size, generator) for _ in range(-(-bits // size))]
        return torch.cat(more, dim=1)[:, :bits].float()
    _, principal = principal_directions(centred)
    directions = principal[:, :bits].float()
    if method == "itq":
        directions = directions @ itq_rotation(centred @ directions, ITQ_ROUNDS, generator)
    if bits > size:  # more bits than principal directions: random ones for the rest
        more = [random_rotation(size, generator).float() for _ in range(-(-bits // size) - 1)]
        directions = torch.cat([directions, *more], dim=1)[:, :bits]
    return directions
