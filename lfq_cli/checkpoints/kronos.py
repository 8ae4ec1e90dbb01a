"""Family 6: the tokenizer of Kronos (shiyu-coder/Kronos): binary spherical codes, read as two indices.

`tokenizer.bsq.basis` gives the bits. It descends, but the model's indices are least significant bit first:
`post_quant_embed_pre` takes the first s1 bits, which are one index, and the rest is the other. The value is ±1/sqrt(D).
"""

from __future__ import annotations

from lfq_cli.checkpoints.facts import Facts, cut_codes, settle
from lfq_cli.checkpoints.powers import joined, owner_of, owners
from lfq_cli.checkpoints.statefile import StateFile
from lfq_cli.errors import CheckpointError
from lfq_cli.quantizer import Quantizer

DESCRIPTION = "Kronos"
ONLY_IF_NAMED = False
_PATH = "tokenizer.bsq"
_SPLIT = "post_quant_embed_pre.weight"


def find(state: StateFile) -> dict[str, list[str]]:
    """As in Family."""
    found = [module for module in owners(state, "basis") if f".{module}".endswith(f".{_PATH}")]
    return {m: [joined(m, "basis")] for m in found if joined(owner_of(m, _PATH), _SPLIT) in state.tensors}


def build(state: StateFile, module: str, facts: Facts) -> Quantizer:
    """As in Family."""
    bits = state.tensors[joined(module, "basis")].shape[0]
    split = state.tensors[joined(owner_of(module, _PATH), _SPLIT)].shape
    if len(split) != 2 or not 1 <= split[1] < bits:
        raise CheckpointError(f"{_SPLIT} has shape {split}, expected [_, s1] with fewer than {bits} bits")
    cut = cut_codes(facts.codebook_dims or (split[1], bits - split[1]), bits, facts.num_codebooks)
    fixed = {"codebook_scale": bits**-0.5, "spherical": False, "soft_clamp_input_value": None}
    config = settle(facts, fixed=fixed | cut, usual={"bit_order": "lsb"})
    return Quantizer(dim=bits, codebook_dim=bits, channel_first=facts.channel_first, **config)
