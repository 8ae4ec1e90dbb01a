"""Infinity's visual tokenizer: one BSQ that is applied at every scale of a pyramid. InfinityStar's: two.

Read: FoundationVision/Infinity 4c27bbb, infinity/models/bsq_vae/{multiscale_bsq,flux_vqgan,vae}.py,
tools/run_infinity.py, infinity/utils/load.py; FoundationVision/InfinityStar 0446330,
infinity/models/videovae/modules/quantizer/multiscale_bsq_tp_absorb_patchify.py, infinity/models/videovae/models/
wan_bsq_vae.py, infinity/utils/load.py. Run: `2 ** torch.arange(63, -1, -1)` (its first entry is -2^63);
F.normalize at every width.

In the file, under the key `vae` (or `ema`): `quantizer.lfq.mask` int64 [D] descending and, because the model has the
same module under two names, `quantize.lfq.mask` with the same numbers (torch.save keeps both; a safetensors copy may
keep only one). No `codebook`, no projections in any published setting (dim = D). Could stand before the sign, and is
off in the published code: `quantizer.layernorm.*`, `quantizer.project_in`; after it: `quantizer.lfq.out_phi.*`,
`out_phi_scale`. InfinityStar: `quantizer.lfq_semantic.mask` (16 bits, for scales of few tokens) and
`quantizer.lfq_detail.mask` (64), each again under `quantize.`; with use_learnable_dim_proj, off in what is published,
`quantizer.semantic_proj_down.{0,2}.*` before the one and `detail_proj_up.{0,2}.*` before the other.

Not in the file: the scale schedule. Multi-scale tokens are signs of a residual that was resized; only one scale, of
the input's own size, is a sign of the input. The twin knows that one.

The published code makes no integers at all: it returns bits [batch, t, h, w, D] (`indices` is None there, and its
int_label path asserts that every index is above 0 in int32). The integers here are the ones `mask` spells: MSB-first.
Value: encode adds ±(1 / D**0.5); decode takes normalize(±float32(1/sqrt(D))), whose last bit depends on the processor
(see arithmetic.normalized). The twin returns float32(1/sqrt(D)); the model is within 2 ulp of it for every D to 128
(run). Published D: 16, 18, 20, 24, 32, 64 among the accepted 8 to 128. Layout: channel-first [batch, D, h, w] or [..,
t, h, w]. The model divides each vector by its norm first: a norm above 1.8e19 gives all-zero bits there.
"""

from __future__ import annotations

import torch
from torch import nn

from families.arithmetic import (
    Array,
    State,
    bits_from,
    bits_of,
    channel_first,
    channel_last,
    integers_of,
    inverse_root,
    randomize,
    signs_of,
)

ORDER = "msb"
ULP = 2
"""How far the model's own float32 value may be from the twin's."""


class Quantizer(nn.Module):
    def __init__(self, bits: int) -> None:
        super().__init__()
        self.register_buffer("mask", 2 ** torch.arange(bits - 1, -1, -1))
        self.register_buffer("zero", torch.tensor(0.0), persistent=False)


class MultiScale(nn.Module):
    def __init__(self, bits: int, layernorm: bool) -> None:
        super().__init__()
        if layernorm:
            self.layernorm = nn.LayerNorm(bits)
        self.lfq = Quantizer(bits)


class AutoEncoder(nn.Module):
    def __init__(self, bits: int, layernorm: bool) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"conv_in": nn.Conv2d(3, 4, 3), "conv_out": nn.Conv2d(4, bits, 3)})
        self.decoder = nn.ModuleDict({"conv_in": nn.Conv2d(bits, 4, 3)})
        self.quantizer = MultiScale(bits, layernorm)
        self.quantize = self.quantizer


def state_dict(seed: int = 0, *, bits: int = 32, layernorm: bool = False) -> State:
    return randomize(AutoEncoder(bits, layernorm), seed)


class Star(nn.Module):
    """InfinityStar's; `projected`: with use_learnable_dim_proj."""

    def __init__(self, semantic_bits: int, detail_bits: int, projected: bool) -> None:
        super().__init__()
        parts: dict[str, nn.Module] = {"lfq_semantic": Quantizer(semantic_bits), "lfq_detail": Quantizer(detail_bits)}
        if projected:
            parts["semantic_proj_down"] = nn.Sequential(nn.Linear(64, 8), nn.SiLU(), nn.Linear(8, semantic_bits))
            parts["detail_proj_up"] = nn.Sequential(nn.Linear(64, 8), nn.SiLU(), nn.Linear(8, detail_bits))
        self.quantizer = nn.ModuleDict(parts)
        self.quantize = self.quantizer


def star_state_dict(seed: int = 0, *, semantic_bits: int = 16, detail_bits: int = 64, projected: bool = False) -> State:
    return randomize(Star(semantic_bits, detail_bits, projected), seed)


def file(state: State) -> dict[str, State]:
    """The published .pth."""
    return {"vae": state}


def encode(state: State, x: Array, *, part: str = "lfq") -> Array:
    """x [batch, D, ...] -> [batch, ...]; uint64 at D = 64."""
    assert x.shape[1] == len(state[f"quantizer.{part}.mask"])
    return integers_of(bits_of(channel_last(x)), ORDER)


def encode_bits(x: Array) -> Array:
    """x [batch, D, ...] -> [batch, ..., D] of 0 and 1: the model's own tokens at one scale."""
    return bits_of(channel_last(x)).astype("int32")


def decode(state: State, indices: Array, *, part: str = "lfq") -> Array:
    """indices [batch, ...] -> [batch, D, ...] float32."""
    width = len(state[f"quantizer.{part}.mask"])
    return channel_first(signs_of(bits_from(indices, width, ORDER)) * inverse_root(width))
