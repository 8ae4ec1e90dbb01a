"""Family 7: the tokenizer of MaskBit: ascending `bits_to_indices`, and the codebook of signs beside them.

A file with `bits_to_indices` but without codebook is MaskBit's generator, which quantizes nothing.
"""

from __future__ import annotations

from lfq_cli.checkpoints.facts import Facts, cut_codes, settle
from lfq_cli.checkpoints.powers import joined, order_of, owners
from lfq_cli.checkpoints.statefile import StateFile
from lfq_cli.checkpoints.stored_codebook import check_codebook
from lfq_cli.quantizer import Quantizer

DESCRIPTION = "MaskBit"
ONLY_IF_NAMED = False


def find(state: StateFile) -> dict[str, list[str]]:
    """As in Family."""
    signs = {m: [joined(m, "bits_to_indices"), joined(m, "codebook")] for m in owners(state, "bits_to_indices")}
    return {
        module: names
        for module, names in signs.items()
        if order_of(state.tensors[names[0]]) is not None and names[1] in state.tensors
    }


def build(state: StateFile, module: str, facts: Facts) -> Quantizer:
    """As in Family."""
    powers = state.tensors[joined(module, "bits_to_indices")]
    bits, order = powers.shape[0], order_of(powers) or "lsb"
    order = "lsb" if bits == 1 else order
    check_codebook(state, joined(module, "codebook"), bits, order)
    told = {"codebook_scale": 1.0, "spherical": False, "soft_clamp_input_value": None, "bit_order": order}
    config = settle(facts, told=told | cut_codes(facts.codebook_dims, bits, facts.num_codebooks))
    return Quantizer(dim=bits, codebook_dim=bits, channel_first=facts.channel_first, **config)
