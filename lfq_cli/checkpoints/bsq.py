"""Family 5: BSQ-ViT's binary spherical quantizer, and its copy in TaDiCodec.

`basis` and `group_basis` descend. The codes are ±1/sqrt(D), or ±1 where the model does not normalise them (its
`post_q_l2_norm`, which no file holds). The indices are those of the whole code, channel 0 the most significant bit.
"""

from __future__ import annotations

from lfq_cli.checkpoints.facts import Facts, cut_codes, settle
from lfq_cli.checkpoints.powers import joined, order_of, owners
from lfq_cli.checkpoints.statefile import StateFile
from lfq_cli.quantizer import Quantizer

DESCRIPTION = "BSQ-ViT, TaDiCodec"
ONLY_IF_NAMED = False


def find(state: StateFile) -> dict[str, list[str]]:
    """As in Family."""
    signs = {module: [joined(module, "basis"), joined(module, "group_basis")] for module in owners(state, "basis")}
    return {module: names for module, names in signs.items() if all(_descends(state, name) for name in names)}


def build(state: StateFile, module: str, facts: Facts) -> Quantizer:
    """As in Family."""
    bits = state.tensors[joined(module, "basis")].shape[0]
    cut = cut_codes(facts.codebook_dims, bits, facts.num_codebooks)
    told = {"spherical": False, "soft_clamp_input_value": None}
    config = settle(facts, told=told | cut, assumed={"codebook_scale": bits**-0.5})
    return Quantizer(
        dim=bits * config.get("num_codebooks", 1),
        codebook_dim=bits,
        channel_first=facts.channel_first,
        usual_of="normalised codes, as in every published config of BSQ-ViT; else --codebook-scale 1",
        **config,
    )


def _descends(state: StateFile, name: str) -> bool:
    return name in state.tensors and order_of(state.tensors[name]) == "msb"
