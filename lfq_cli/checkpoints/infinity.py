"""Family 8: the visual tokenizers of Infinity and InfinityStar: binary spherical quantizers applied at several scales.

`quantizer.lfq.mask` descends and stands a second time as `quantize.lfq.mask`; InfinityStar has two, `lfq_semantic` for
small scales and `lfq_detail` for large ones. The value is ±1/sqrt(D). Only a single scale is a sign of the input:
multi-scale tokens are signs of a residual that the model resizes, which lfq does not do.

Read: FoundationVision/Infinity, infinity/models/bsq_vae/multiscale_bsq.py; FoundationVision/InfinityStar,
infinity/models/videovae/modules/quantizer/multiscale_bsq_tp_absorb_patchify.py.
"""

from __future__ import annotations

import re

from lfq_cli.checkpoints import reference
from lfq_cli.checkpoints.facts import Facts, cut_codes, settle
from lfq_cli.checkpoints.powers import joined, order_of, owner_of
from lfq_cli.checkpoints.statefile import StateFile
from lfq_cli.errors import CheckpointError
from lfq_cli.quantizer import Quantizer

DESCRIPTION = "Infinity, InfinityStar (a single scale)"
ONLY_IF_NAMED = False
_PATH = re.compile(r"(?:(.*)\.)?quantizer?\.(lfq|lfq_semantic|lfq_detail)")
_ALIASES = ("quantizer", "quantize")
_BEYOND_SIGNS = {
    "lfq": ("layernorm.weight", "project_in.weight"),
    "lfq_semantic": ("semantic_proj_down.0.weight",),
    "lfq_detail": ("detail_proj_up.0.weight",),
}
"""Layers of the quantizer's owner that its input passes."""
_BEHIND = ("out_phi.weight", "out_phi_scale")


def find(state: StateFile) -> dict[str, list[str]]:
    """As in Family: one module for both names."""
    found: dict[str, list[str]] = {}
    for module in reference.masks_of(state):
        path = _PATH.fullmatch(module)
        mask = state.tensors[joined(module, "mask")]
        if path is None or order_of(mask) != "msb" or joined(module, "project_in.weight") in state.tensors:
            continue  # an LFQ with a projection of its own is not part of Infinity
        names = [joined(path[1] or "", f"{alias}.{path[2]}") for alias in _ALIASES]
        masks = [joined(own, "mask") for own in names if joined(own, "mask") in state.tensors]
        found.setdefault(names[0] if len(masks) == 2 else module, masks)
    return found


def build(state: StateFile, module: str, facts: Facts) -> Quantizer:
    """As in Family."""
    attribute = module.rpartition(".")[2]
    outer = owner_of(module, attribute)
    beyond = [joined(outer, name) for name in _BEYOND_SIGNS[attribute]] + [joined(module, name) for name in _BEHIND]
    there = [name for name in beyond if name in state.tensors]
    if there:
        raise CheckpointError(f"{there[0]}: this quantizer is more than the sign of its input", "lfq cannot encode it")
    if attribute == "lfq" and facts.family is None and len(find(state)[module]) < 2:
        raise CheckpointError(
            f"{module}.mask: Infinity's quantizer, whose codes are ±1/sqrt(D), or an EvoLFQ's, whose codes are ±scale",
            "--family infinity or --family lucidrains says which",
        )
    bits = state.tensors[joined(module, "mask")].shape[0]
    fixed = {"codebook_scale": bits**-0.5, "spherical": False, "soft_clamp_input_value": None, "bit_order": "msb"}
    config = settle(facts, fixed=fixed | cut_codes(facts.codebook_dims, bits, facts.num_codebooks))
    return Quantizer(dim=bits, codebook_dim=bits, channel_first=facts.channel_first, **config)
