"""Family 3: the image tokenizer of Show-o and MMaDA (`MAGVITv2`), which keeps its codebook of signs in the file."""

from __future__ import annotations

from lfq_cli.checkpoints.facts import Facts, cut_codes, settle
from lfq_cli.checkpoints.powers import joined, order_of, owners
from lfq_cli.checkpoints.statefile import StateFile
from lfq_cli.checkpoints.stored_codebook import check_codebook
from lfq_cli.quantizer import Quantizer

DESCRIPTION = "Show-o, MMaDA"
ONLY_IF_NAMED = False


def find(state: StateFile) -> dict[str, list[str]]:
    """As in Family."""
    signs = {
        module: [joined(module, "power_vals"), joined(module, "embedding")] for module in owners(state, "power_vals")
    }
    return {
        module: names
        for module, names in signs.items()
        if order_of(state.tensors[names[0]]) == "msb" and names[1] in state.tensors
    }


def build(state: StateFile, module: str, facts: Facts) -> Quantizer:
    """As in Family."""
    bits = state.tensors[joined(module, "power_vals")].shape[0]
    check_codebook(state, joined(module, "embedding"), bits, "msb")
    told = {"codebook_scale": 1.0, "spherical": False, "soft_clamp_input_value": None, "bit_order": "msb"}
    config = settle(facts, told=told | cut_codes(facts.codebook_dims, bits, facts.num_codebooks))
    return Quantizer(dim=bits, codebook_dim=bits, channel_first=facts.channel_first, **config)
