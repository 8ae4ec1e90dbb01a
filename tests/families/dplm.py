"""DPLM-2's structure tokenizer: LFQ over the residues of a protein.

Read: bytedance/dplm 8b3425b, src/byprot/models/structok/{structok_lfq,modules/lfq}.py,
configs/experiment/structok/structok_lfq_8k_pdb_swissprot_c512.yaml. Run: lfq.py at 13 bits.

In the file: nothing of the quantizer, whose `mask` and `codebook` are not persistent. Before it `pre_quant` (LayerNorm,
Linear [D, width], ReLU, Linear [D, D]: `.0`, `.1`, `.3`), behind it `post_quant.mlp` (LayerNorm [D], Linear [_, D]).

MSB-first (the mask descends; the descending masks of get_codebook_entry agree). Value ±1. Published D: 13. Layout:
channel-last [batch, length, D]; positions that are missing are zeroed before the quantizer, and so are index 0.
"""

from __future__ import annotations

from torch import nn

from families.arithmetic import Array, State, bits_from, bits_of, integers_of, randomize, signs_of

ORDER = "msb"


class Tokenizer(nn.Module):
    def __init__(self, bits: int) -> None:
        super().__init__()
        self.pre_quant = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, bits), nn.ReLU(), nn.Linear(bits, bits))
        mlp = nn.Sequential(nn.LayerNorm(bits), nn.Linear(bits, 8), nn.ReLU(), nn.Linear(8, 8))
        self.post_quant = nn.ModuleDict({"mlp": mlp, "transformer": nn.Linear(8, 8)})


def state_dict(seed: int = 0, *, bits: int = 13) -> State:
    return randomize(Tokenizer(bits), seed)


def encode(state: State, x: Array) -> Array:
    """x [batch, length, D], after pre_quant -> [batch, length]."""
    assert x.shape[-1] == len(state["pre_quant.3.weight"])
    return integers_of(bits_of(x), ORDER)


def decode(state: State, indices: Array) -> Array:
    """indices [batch, length] -> [batch, length, D] float32, before post_quant."""
    return signs_of(bits_from(indices, len(state["pre_quant.3.weight"]), ORDER))
