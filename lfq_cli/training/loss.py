"""The loss: the residual that levels leave of a batch, and the entropy terms of LFQ where tokens are to be even."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from lfq_cli.nn import entropy
from lfq_cli.training.levels import Levels, codes_by_level, signs
from lfq_cli.training.recipe import Recipe, inverse_temperature_at, slope_at

_SMALLEST = 1e-12
GROUP_BITS = 16
"""Larger codebooks use the bound over groups of so many bits, since the exact batch entropy takes 2^bits numbers."""


def loss_of(levels: Levels, x: Tensor, recipe: Recipe, *, progress: float, variance: float) -> Tensor:
    """x [n, r] -> the residual's share of `variance`, plus the weighted terms of the recipe; 0-dim.

    progress: the share of the run that is done, in [0, 1). The value is computed with hard bits, the gradient with
    tanh(slope * u), which vanishes where a bit is certain; with the identity instead, stacks diverge.
    """

    slope = slope_at(progress)

    def code_of(u: Tensor) -> Tensor:
        soft = torch.tanh(u * slope)
        return soft + (signs(u) - soft).detach()

    found = list(codes_by_level(levels, x, code_of))
    codes = torch.cat([codes for _, codes in found], dim=1)
    rest = torch.addmm(x, codes, levels.decoder.T, alpha=-1)
    terms = [term for u, codes in found for term in _terms(u, codes, recipe, progress)]
    loss = rest.square().sum(1).mean() / variance
    return torch.stack([loss, *terms]).sum() if terms else loss


def _terms(u: Tensor, codes: Tensor, recipe: Recipe, progress: float) -> list[Tensor]:
    terms = []
    if recipe.entropy_weight:
        sized = u / u.detach().abs().mean(0).clamp(min=_SMALLEST)  # or else latents would just grow
        z = rearrange(sized, "n (c d) -> n c d", c=recipe.num_codebooks)
        logits = entropy.bit_logits(z, magnitude=1.0, inv_temperature=inverse_temperature_at(progress))
        group_size = GROUP_BITS if recipe.codebook_bits > GROUP_BITS else None
        confident = entropy.per_sample_entropy(logits)
        diverse = entropy.batch_entropy(logits, group_size=group_size)
        terms.append(recipe.entropy_weight * (confident - recipe.diversity_gamma * diverse))
    if recipe.commitment_weight:
        terms.append(recipe.commitment_weight * (u - codes.detach()).square().mean())
    return terms
