"""Family 8: the visual tokenizer of Infinity: a binary spherical quantizer that the model applies at several scales.

`quantizer.lfq.mask` descends and stands a second time as `quantize.lfq.mask`. The value is ±1/sqrt(D). Only a single
scale is a sign of the input: multi-scale tokens are signs of a residual that the model resizes, which lfq does not do.
"""

from __future__ import annotations

from lfq_cli.checkpoints import lucidrains
from lfq_cli.checkpoints.facts import Facts, cut_codes, settle
from lfq_cli.checkpoints.powers import joined, order_of, owner_of
from lfq_cli.checkpoints.statefile import StateFile
from lfq_cli.errors import CheckpointError
from lfq_cli.quantizer import Quantizer

DESCRIPTION = "Infinity (single scale)"
ONLY_IF_NAMED = False
_NAMES = ("quantizer.lfq", "quantize.lfq")
_BEYOND_SIGNS = ("layernorm.weight", "project_in.weight", "lfq.out_phi.weight", "lfq.out_phi_scale")


def find(state: StateFile) -> dict[str, list[str]]:
    """As in Family: one module for both names."""
    found: dict[str, list[str]] = {}
    for module in lucidrains.find(state):
        name = next((name for name in _NAMES if f".{module}".endswith(f".{name}")), None)
        mask = state.tensors[joined(module, "mask")]
        if name is None or order_of(mask) != "msb" or joined(module, "project_in.weight") in state.tensors:
            continue  # an LFQ with a projection of its own is no part of Infinity
        names = [joined(owner_of(module, name), both) for both in _NAMES]
        masks = [joined(own, "mask") for own in names if joined(own, "mask") in state.tensors]
        found.setdefault(joined(owner_of(module, name), _NAMES[0]) if len(masks) == 2 else module, masks)
    return found


def build(state: StateFile, module: str, facts: Facts) -> Quantizer:
    """As in Family."""
    outer = owner_of(module, "lfq")
    beyond = [joined(outer, name) for name in _BEYOND_SIGNS if joined(outer, name) in state.tensors]
    if beyond:
        raise CheckpointError(f"{beyond[0]}: this quantizer is more than the sign of its input", "lfq cannot encode it")
    if facts.family is None and len(find(state)[module]) < 2:
        raise CheckpointError(
            f"{module}.mask: Infinity's quantizer, whose codes are ±1/sqrt(D), or an EvoLFQ's, whose codes are ±scale",
            "--family infinity or --family lucidrains says which",
        )
    bits = state.tensors[joined(module, "mask")].shape[0]
    told = {"codebook_scale": bits**-0.5, "spherical": False, "soft_clamp_input_value": None, "bit_order": "msb"}
    config = settle(facts, told=told | cut_codes(facts.codebook_dims, bits, facts.num_codebooks))
    return Quantizer(dim=bits, codebook_dim=bits, channel_first=facts.channel_first, **config)
