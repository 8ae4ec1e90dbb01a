"""Kronos' tokenizer of price series: BSQ-ViT's quantizer inside, other integers outside.

Read: shiyu-coder/Kronos 67b630e, model/kronos.py, model/module.py, finetune_csv/train_sequential.py. Run: module.py's
BSQuantizer: 2000 vectors, whole and half indices equal to the twin's.

In the file (PyTorchModelHubMixin: model.safetensors, flat, beside a config.json with s1_bits and s2_bits):
`tokenizer.bsq.basis` int64 [D] **descending**, which no index of the model uses; `tokenizer.bsq.group_basis` [4];
`quant_embed` [D, d_model] before the sign, followed by F.normalize; `post_quant_embed_pre` [d_model, s1_bits] and
`post_quant_embed` [d_model, D] after it. So D = len(basis) and s1 = post_quant_embed_pre.weight.shape[1].

Integers: LSB-first, channel 0 is 2^0. Whole: one index of D bits. Half (what the language model reads): s1, the first
s1_bits channels, and s2, the rest, each LSB-first; so s1 = whole & (2^s1_bits - 1) and s2 = whole >> s1_bits.

Value: ±1 times the Python float 1 / D**0.5 (always normalised): exactly float32(1/sqrt(D)). Nothing is asked.
Published: s1 = s2 = 10, D = 20, group 4. Layout: channel-last [batch, time, D]; indices [batch, time].

The family's bugs: bits are `>= 0` on the code, never on the input, so an input of 0 is still bit 0; its decode of half
indices cuts at D // 2 for both halves, which is wrong unless s1 = s2; it normalises first, so [1e20, 1, …] is index 0.
The predictor (class Kronos) has no buffer of powers: its file holds no quantizer.
"""

from __future__ import annotations

import numpy as np
from torch import nn

from families.arithmetic import (
    Array,
    State,
    bits_from,
    bits_from_fields,
    bits_of,
    fields_of,
    integers_of,
    inverse_root,
    randomize,
    signs_of,
)
from families.bsq_vit import Quantizer

ORDER = "lsb"


class Tokenizer(nn.Module):
    def __init__(self, s1_bits: int, s2_bits: int, group_bits: int) -> None:
        super().__init__()
        bits = s1_bits + s2_bits
        self.embed = nn.Linear(6, 8)
        self.head = nn.Linear(8, 6)
        self.encoder = nn.ModuleList([nn.ModuleDict({"ffn": nn.Linear(8, 8, bias=False)})])
        self.decoder = nn.ModuleList([nn.ModuleDict({"ffn": nn.Linear(8, 8, bias=False)})])
        self.quant_embed = nn.Linear(8, bits)
        self.post_quant_embed_pre = nn.Linear(s1_bits, 8)
        self.post_quant_embed = nn.Linear(bits, 8)
        self.tokenizer = nn.ModuleDict({"bsq": Quantizer(bits, group_bits)})


def state_dict(seed: int = 0, *, s1_bits: int = 10, s2_bits: int = 10, group_bits: int = 4) -> State:
    return randomize(Tokenizer(s1_bits, s2_bits, group_bits), seed)


def predictor_state_dict(seed: int = 0, *, s1_bits: int = 10, s2_bits: int = 10) -> State:
    """The language model's file, which is not a tokenizer."""
    model = nn.ModuleDict(
        {
            "embedding": nn.ModuleDict({"emb_s1": nn.Embedding(2**s1_bits, 2), "emb_s2": nn.Embedding(2**s2_bits, 2)}),
            "norm": nn.LayerNorm(2),
        }
    )
    return randomize(model, seed)


def widths_of(state: State) -> list[int]:
    """[s1_bits, s2_bits]."""
    s1 = state["post_quant_embed_pre.weight"].shape[1]
    return [s1, len(state["tokenizer.bsq.basis"]) - s1]


def encode(state: State, x: Array) -> Array:
    """x [..., D], after quant_embed -> whole indices [...]."""
    assert x.shape[-1] == sum(widths_of(state))
    return integers_of(bits_of(x), ORDER)


def encode_half(state: State, x: Array) -> Array:
    """x [..., D] -> [..., 2]: s1 and s2, which the model returns as a list of two."""
    return fields_of(bits_of(x), widths_of(state), ORDER)


def decode(state: State, indices: Array) -> Array:
    """whole indices [...] -> [..., D] float32, before post_quant_embed."""
    return valued(bits_from(indices, sum(widths_of(state)), ORDER))


def decode_half(state: State, indices: Array) -> Array:
    """[..., 2] -> [..., D] float32, cut at s1_bits as the encoder does."""
    return valued(bits_from_fields(indices, widths_of(state), ORDER))


def valued(bits: Array) -> Array:
    return np.asarray(signs_of(bits) * inverse_root(bits.shape[-1]))


def config(state: State) -> dict[str, object]:
    """config.json beside the weights, without the sizes of the transformers."""
    s1, s2 = widths_of(state)
    return {
        "d_in": 6,
        "d_model": 8,
        "s1_bits": s1,
        "s2_bits": s2,
        "group_size": len(state["tokenizer.bsq.group_basis"]),
    }
