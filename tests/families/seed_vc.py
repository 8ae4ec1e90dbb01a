"""Seed-VC's content tokenizer: a copy of lucidrains' LFQ, always spherical.

Read: Plachtaa/seed-vc d334fb7, modules/astral_quantization/{bsq,default_model}.py, modules/v2/vc_wrapper.py,
configs/v2/vc_wrapper.yaml, configs/astral_quantization. Run: bsq.py at 5 and 11 bits.

In the file: `quantizer.mask` int64 [D] descending, `quantizer.project_in` [D, 512], `quantizer.project_out` [512, D],
the very keys of lucidrains' LFQ: nothing tells the two apart. The published files are flat (`encoder.*`,
`quantizer.*`); training files nest three deep: `net` -> `vq` -> `module.mask`.

MSB-first. Value: normalize(±1), so float32(1) / float32(sqrt(D)): the codebook scale is 1. Asked: spherical, which
this family sets. Published: 2^5 and 2^11 codes of dim 512, with projections. Layout: channel-last [batch, time, 512].
"""

from __future__ import annotations

from typing import Any

from torch import nn

from families import lucidrains
from families.arithmetic import Array, State, below, randomize
from families.wrappers import prefixed

PREFIX = "quantizer."


class Model(nn.Module):
    def __init__(self, bits: int, dim: int) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"output_projection": nn.Linear(4, dim)})
        self.quantizer = lucidrains.Quantizer(codebook_dim=bits, dim=dim)


def state_dict(seed: int = 0, *, bits: int = 11, dim: int = 16) -> State:
    return randomize(Model(bits, dim), seed)


def training_file(state: State) -> dict[str, Any]:
    """What load_separate_checkpoint reads."""
    parts = {"encoder": "encoder.", "vq": PREFIX}
    return {"net": {part: prefixed(below(state, prefix), "module.") for part, prefix in parts.items()}, "iters": 10}


def encode(state: State, x: Array) -> Array:
    """x [batch, time, dim] -> [batch, time]."""
    return lucidrains.encode(below(state, PREFIX), x, channels_first=False)


def decode(state: State, indices: Array) -> Array:
    """indices [batch, time] -> [batch, time, dim] float32, project_out in float64."""
    return lucidrains.decode(below(state, PREFIX), indices, spherical=True, channels_first=False)


def margin(state: State, x: Array) -> Array:
    return lucidrains.margin(below(state, PREFIX), x)
