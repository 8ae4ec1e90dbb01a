"""LFQ modules and quantizers: the same facts as a module that computes and as a record that is saved."""

from __future__ import annotations

from typing import Any

import torch

from lfq_cli.bits import BitOrder
from lfq_cli.nn.cosine import CosineProjection
from lfq_cli.nn.lfq import LFQ
from lfq_cli.quantizer import Quantizer


def module_of(quantizer: Quantizer) -> LFQ:
    """The module in eval mode, float32 on the CPU, without gradients. Unknown facts take the reference's defaults."""
    weights = {name: torch.from_numpy(weight.copy()) for name, weight in quantizer.weights.items()}
    module = LFQ(
        dim=quantizer.dim,
        codebook_size=quantizer.codebook_size,
        num_codebooks=quantizer.num_codebooks,
        keep_num_codebooks_dim=quantizer.keep_num_codebooks_dim,
        codebook_scale=quantizer.codebook_scale,
        has_projections=quantizer.has_projections,
        projection_has_bias=bool({"project_in.bias", "project_out.bias"} & set(weights)),
        soft_clamp_input_value=quantizer.soft_clamp_input_value,
        cosine_sim_project_in=quantizer.cosine_sim_project_in,
        cosine_sim_project_in_scale=quantizer.cosine_sim_project_in_scale,
        channel_first=quantizer.channel_first,
        spherical=quantizer.spherical,
        orthogonal_rotation=quantizer.has_rotation,
    )
    state = {name: torch.zeros_like(value) for name, value in module.state_dict().items() if name.endswith(".bias")}
    module.load_state_dict(state | weights | {"mask": module.mask})
    if quantizer.bit_order == "lsb":
        module.mask = module.mask.flip(0)  # the mask alone decides which channel is which bit of an index
    return module.eval().requires_grad_(False)


def quantizer_of(module: LFQ) -> Quantizer:
    """The record of a module, with a copy of its weights in float32."""
    state: dict[str, Any] = {name: value for name, value in module.state_dict().items() if name != "mask"}
    cosine = isinstance(module.project_in, CosineProjection)
    order: BitOrder = "lsb" if module.codebook_dim > 1 and int(module.mask[0]) == 1 else "msb"
    return Quantizer(
        dim=module.dim,
        codebook_dim=module.codebook_dim,
        num_codebooks=module.num_codebooks,
        keep_num_codebooks_dim=module.keep_num_codebooks_dim,
        codebook_scale=module.codebook_scale,
        soft_clamp_input_value=module.soft_clamp_input_value,
        cosine_sim_project_in=cosine,
        cosine_sim_project_in_scale=module.project_in.scale
        if isinstance(module.project_in, CosineProjection)
        else None,
        channel_first=module.channel_first,
        spherical=module.spherical,
        bit_order=order,
        weights={name: value.detach().float().cpu().numpy().copy() for name, value in state.items()},
    )
