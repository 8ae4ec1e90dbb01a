"""Family 11: the structure tokenizer of DPLM-2: nothing of the quantizer is in the file.

What shows it are the layers around it: `pre_quant` ends in D channels, and `post_quant.mlp` begins with as many. The
codes are ±1, channel 0 the most significant bit; tokens are residues, [batch, length, D].

Read: bytedance/dplm, src/byprot/models/structok/{structok_lfq,modules/lfq}.py.
"""

from __future__ import annotations

from lfq_cli.bits import MAX_INDEX_BITS
from lfq_cli.checkpoints.facts import Facts, cut_codes, settle
from lfq_cli.checkpoints.powers import joined, owner_of
from lfq_cli.checkpoints.statefile import StateFile
from lfq_cli.quantizer import Quantizer

DESCRIPTION = "DPLM-2's structure tokenizer"
ONLY_IF_NAMED = False
_LAST = "pre_quant.3.weight"
_NEXT = ("post_quant.mlp.0.weight", "post_quant.mlp.1.weight")


def find(state: StateFile) -> dict[str, list[str]]:
    """As in Family: the path of the autoencoder."""
    ends = [owner_of(name, _LAST) for name in state.tensors if f".{name}".endswith(f".{_LAST}")]
    return {m: [joined(m, name) for name in (_LAST, *_NEXT)] for m in ends if _is_bottleneck(state, m)}


def build(state: StateFile, module: str, facts: Facts) -> Quantizer:
    """As in Family."""
    bits = state.tensors[joined(module, _LAST)].shape[0]
    fixed = {"codebook_scale": 1.0, "spherical": False, "soft_clamp_input_value": None}
    cut = cut_codes(facts.codebook_dims, bits, facts.num_codebooks)
    config = settle(facts, fixed=fixed | cut, usual={"bit_order": "msb"})
    return Quantizer(
        dim=bits * config.get("num_codebooks", 1), codebook_dim=bits, channel_first=facts.channel_first, **config
    )


def _is_bottleneck(state: StateFile, module: str) -> bool:
    """Whether D channels leave the last layer before the quantizer and enter the norm and the layer after it."""
    names = [joined(module, name) for name in (_LAST, *_NEXT)]
    if not all(name in state.tensors for name in names):
        return False
    last, norm, layer = (state.tensors[name].shape for name in names)
    bits = norm[0] if len(norm) == 1 else 0
    return 1 <= bits <= MAX_INDEX_BITS and last == (bits, bits) and len(layer) == 2 and layer[1] == bits
