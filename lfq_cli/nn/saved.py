"""Saved quantizers as torch modules; the reverse is each module's `to_quantizer`."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch

from lfq_cli.nn.grouped import GroupedResidualLFQ
from lfq_cli.nn.lfq import LFQ
from lfq_cli.nn.residual import ResidualLFQ
from lfq_cli.nn.stacked import StackedLFQ
from lfq_cli.nn.weights import is_mask
from lfq_cli.quantizer import Quantizer

AnyLFQ: TypeAlias = LFQ | ResidualLFQ | GroupedResidualLFQ | StackedLFQ


def module_of(quantizer: Quantizer) -> AnyLFQ:
    """The module of a quantizer: in eval mode, float32 on the CPU, without gradients.

    Raises CheckpointError if the scale is only assumed and the assumed value contradicts the soft clamp.
    """
    quantizer.require_scale_within_clamp()
    # initial weights are discarded, so the caller's random state, default device and dtype must not be affected
    with torch.random.fork_rng(devices=()), torch.device("cpu"):
        module = (_residual(quantizer) if quantizer.is_residual else _single(quantizer)).float()
    for name in module.state_dict().keys() - quantizer.weights.keys():
        if name.endswith(".bias"):  # with a bias of zeros it would be saved as another quantizer
            module.get_submodule(name.removesuffix(".bias")).register_parameter("bias", None)
    masks = {name: value for name, value in module.state_dict().items() if is_mask(name)}
    module.load_state_dict(masks | {name: torch.from_numpy(w.copy()) for name, w in quantizer.weights.items()})
    return module.eval().requires_grad_(False)


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
