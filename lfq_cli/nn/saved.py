"""Modules and quantizers: the same facts as a module that computes and as a record that is saved."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch

from lfq_cli.nn.cosine import CosineProjection
from lfq_cli.nn.grouped import GroupedResidualLFQ
from lfq_cli.nn.lfq import LFQ
from lfq_cli.nn.residual import ResidualLFQ
from lfq_cli.nn.stacked import StackedLFQ
from lfq_cli.quantizer import Quantizer

AnyLFQ: TypeAlias = LFQ | ResidualLFQ | GroupedResidualLFQ | StackedLFQ


def module_of(quantizer: Quantizer) -> AnyLFQ:
    """The module in eval mode, float32 on the CPU, without gradients.

    Raises CheckpointError where the scale is only assumed, and cannot be what is assumed.
    """
    quantizer.require_scale_within_clamp()
    # its first weights are thrown away: the caller's random numbers, default device and dtype are left alone
    with torch.random.fork_rng(devices=()), torch.device("cpu"):
        module = (_residual(quantizer) if quantizer.is_residual else _single(quantizer)).float()
    for name in module.state_dict().keys() - quantizer.weights.keys():
        if name.endswith(".bias"):  # a bias of zeros would be another quantizer when it is saved
            module.get_submodule(name.removesuffix(".bias")).register_parameter("bias", None)
    masks = {name: value for name, value in module.state_dict().items() if _is_mask(name)}
    module.load_state_dict(masks | {name: torch.from_numpy(w.copy()) for name, w in quantizer.weights.items()})
    return module.eval().requires_grad_(False)


def quantizer_of(module: AnyLFQ) -> Quantizer:
    """The record of a module, with a copy of its weights in float32."""
    weights = {
        name: value.detach().float().cpu().numpy().copy()
        for name, value in module.state_dict().items()
        if not _is_mask(name)
    }
    if isinstance(module, LFQ):
        own = {"num_codebooks": module.num_codebooks, "factorized_bits": module.factorized_bits}
        return Quantizer(**_facts_of(module) | own, weights=weights)
    groups = module.groups if isinstance(module, GroupedResidualLFQ) else None
    residual: Any = module.rvqs[0] if isinstance(module, GroupedResidualLFQ) else module
    stacked = isinstance(module, StackedLFQ)
    facts = _facts_of(residual.layers[0]) | {"dim": module.dim, "keep_num_codebooks_dim": None}
    return Quantizer(**facts, num_quantizers=residual.num_quantizers, groups=groups, stacked=stacked, weights=weights)


def _single(quantizer: Quantizer) -> LFQ:
    return LFQ(
        dim=quantizer.dim,
        codebook_size=quantizer.codebook_size,
        num_codebooks=quantizer.num_codebooks,
        keep_num_codebooks_dim=quantizer.keep_num_codebooks_dim,
        codebook_scale=quantizer.codebook_scale,
        has_projections=quantizer.has_projections,
        soft_clamp_input_value=quantizer.soft_clamp_input_value,
        cosine_sim_project_in=quantizer.cosine_sim_project_in,
        cosine_sim_project_in_scale=quantizer.cosine_sim_project_in_scale,
        channel_first=quantizer.channel_first,
        spherical=quantizer.spherical,
        orthogonal_rotation=quantizer.has_rotation,
        factorized_bits=quantizer.factorized_bits,
        bit_order=quantizer.bit_order,
    )


def _residual(quantizer: Quantizer) -> ResidualLFQ | GroupedResidualLFQ | StackedLFQ:
    facts: dict[str, Any] = {
        "dim": quantizer.dim,
        "codebook_size": quantizer.codebook_size,
        "num_quantizers": quantizer.num_quantizers,
        "channel_first": quantizer.channel_first,
        "spherical": quantizer.spherical,
    }
    if quantizer.stacked:
        return StackedLFQ(**facts)
    facts["soft_clamp_input_value"] = quantizer.soft_clamp_input_value
    facts |= {"orthogonal_rotation": quantizer.has_rotation, "bit_order": quantizer.bit_order}
    return ResidualLFQ(**facts) if quantizer.groups is None else GroupedResidualLFQ(**facts, groups=quantizer.groups)


def _facts_of(module: LFQ) -> dict[str, Any]:
    """What a single LFQ has beside its codebooks and weights."""
    cosine = module.project_in if isinstance(module.project_in, CosineProjection) else None
    return {
        "dim": module.dim,
        "codebook_dim": module.codebook_dim,
        "keep_num_codebooks_dim": module.keep_num_codebooks_dim,
        "codebook_scale": module.codebook_scale,
        "soft_clamp_input_value": module.soft_clamp_input_value,
        "cosine_sim_project_in": cosine is not None,
        "cosine_sim_project_in_scale": None if cosine is None else cosine.scale,
        "channel_first": module.channel_first,
        "spherical": module.spherical,
        "bit_order": module.bit_order,
    }


def _is_mask(name: str) -> bool:
    return name == "mask" or name.endswith(".mask")
