"""Trained levels -> the quantizer that a checkpoint holds."""

from __future__ import annotations

from math import sqrt

import torch

from lfq_cli.floats import Floats
from lfq_cli.quantizer import Quantizer
from lfq_cli.training.levels import Levels
from lfq_cli.training.recipe import Recipe
from lfq_cli.training.space import Space


def quantizer_of(levels: Levels, space: Space, recipe: Recipe, *, channel_first: bool | None) -> Quantizer:
    """The quantizer of levels trained in `space`: one level is an LFQ with projections, several levels are a stack.

    Level 0 subtracts the mean through the bias of project_in and adds it again through that of project_out; the other
    levels see residuals.
    """
    weights: dict[str, Floats] = {}
    bits = recipe.codebook_bits
    for number, (project_in, threshold, project_out) in enumerate(levels.to(torch.device("cpu"))):
        prefix = f"layers.{number}." if levels.shape.levels > 1 else ""
        outer_in = project_in.double() @ space.basis.T
        outer_out = space.basis @ project_out.double()
        bias = threshold.double() - (outer_in @ space.mean if number == 0 else 0)
        if recipe.spherical:
            outer_out = outer_out * sqrt(bits)  # codes are ±1 / sqrt(D)
        weights[f"{prefix}project_in.weight"] = _float32(outer_in)
        weights[f"{prefix}project_in.bias"] = _float32(bias)
        weights[f"{prefix}project_out.weight"] = _float32(outer_out)
        weights[f"{prefix}project_out.bias"] = _float32(space.mean if number == 0 else torch.zeros(space.dim))
    return Quantizer(
        dim=space.dim,
        codebook_dim=bits,
        num_codebooks=recipe.num_codebooks,
        num_quantizers=levels.shape.levels if levels.shape.levels > 1 else None,
        stacked=levels.shape.levels > 1,
        spherical=recipe.spherical,
        channel_first=channel_first,
        weights=weights,
    )


def _float32(values: torch.Tensor) -> Floats:
    found: Floats = values.float().contiguous().numpy()
    return found
