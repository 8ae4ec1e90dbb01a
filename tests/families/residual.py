"""lucidrains' ResidualLFQ and GroupedResidualLFQ; SoundStream of audiolm-pytorch (`rq.`), meshgpt (`quantizer.`).

Read: vector_quantize_pytorch/residual_lfq.py at 0d7d1aa; audiolm_pytorch/soundstream.py d65fd15 and trainer.py;
meshgpt_pytorch/meshgpt_pytorch.py 2efe221 and trainer.py. Run: 1.32.0 in torch 2.13.

In the file: `layers.{q}.mask` int64 [D] descending for every level, all equal; `project_in` [D, dim] and `project_out`
[dim, D] once, always with bias, and only when dim != D; `layers.{q}.orthogonal_rot` if asked for. Grouped: the same
under `rvqs.{g}.`, so the projections stand in each group and not at the top; a group sees dim / G features. Levels
have no projections and one codebook each.

Not in the file: `spherical`; the clamp (halved at each level; it changes no sign); quantize_dropout;
accept_image_fmap. Level q has the scale 2^-q, a constant of the code.

Rule: level 0 takes the sign of z; what is left after its code goes to level 1, and so on; float32 throughout when the
input is float32. A value exactly at 0 gives bit 0. The value is the sum of the codes, added from level 0 on; without
spherical every partial sum is exact. Index -1 is a level that was dropped and adds nothing; meshgpt also writes -1
(`pad_id`) in every level of a face that is padding. The module's own get_output_from_indices forgets spherical and the
rotation; the twin's decode is what forward returns.

Published: meshgpt 2^14 codes, dim 192, 2 levels, so with projections; SoundStream dim 512, 8 levels, 1 group. Layout:
channel-last [batch, n, dim]. Indices: [batch, n, Q]; grouped [G, batch, n, Q] (the groups are stacked first).
"""

from __future__ import annotations

import numpy as np
from torch import nn

from families.arithmetic import (
    Array,
    State,
    below,
    bits_from,
    bits_of,
    integers_of,
    linear,
    numpy_of,
    randomize,
    signs_of,
)
from families.lucidrains import Quantizer, magnitude


class Residual(nn.Module):
    def __init__(self, *, levels: int, codebook_dim: int, dim: int | None, rotation: bool) -> None:
        super().__init__()
        if dim is not None and dim != codebook_dim:
            self.project_in = nn.Linear(dim, codebook_dim)
            self.project_out = nn.Linear(codebook_dim, dim)
        self.layers = nn.ModuleList(Quantizer(codebook_dim=codebook_dim, rotation=rotation) for _ in range(levels))


class Grouped(nn.Module):
    def __init__(self, *, groups: int, levels: int, codebook_dim: int, dim: int | None, rotation: bool) -> None:
        super().__init__()
        self.rvqs = nn.ModuleList(
            Residual(levels=levels, codebook_dim=codebook_dim, dim=dim, rotation=rotation) for _ in range(groups)
        )


class SoundStream(nn.Module):
    def __init__(self, quantizer: nn.Module) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv1d(1, 4, 7), nn.Conv1d(4, 4, 3))
        self.rq = quantizer
        self.decoder = nn.Sequential(nn.Conv1d(4, 4, 3), nn.Conv1d(4, 1, 7))


class MeshAutoencoder(nn.Module):
    def __init__(self, quantizer: nn.Module) -> None:
        super().__init__()
        self.project_in = nn.Linear(9, 4)
        self.project_dim_codebook = nn.Linear(4, 12)
        self.quantizer = quantizer
        self.init_decoder_conv = nn.Conv1d(12, 4, 7)


MODELS = {None: lambda quantizer: quantizer, "soundstream": SoundStream, "meshgpt": MeshAutoencoder}
"""The bare module, `rq.rvqs.{g}.layers.{q}.mask`, `quantizer.layers.{q}.mask` beside a foreign `project_in`."""


def state_dict(
    seed: int = 0,
    *,
    levels: int = 3,
    codebook_dim: int = 4,
    dim: int | None = None,
    groups: int | None = None,
    rotation: bool = False,
    model: str | None = None,
) -> State:
    """dim: the features of one group. groups: None for ResidualLFQ. SoundStream is always grouped, if only by 1."""
    quantizer: nn.Module = (
        Residual(levels=levels, codebook_dim=codebook_dim, dim=dim, rotation=rotation)
        if groups is None
        else Grouped(groups=groups, levels=levels, codebook_dim=codebook_dim, dim=dim, rotation=rotation)
    )
    return randomize(MODELS[model](quantizer), seed)


def levels_of(state: State) -> list[State]:
    """The levels of a bare ResidualLFQ, coarse to fine."""
    count = sum(name.startswith("layers.") and name.endswith(".mask") for name in state)
    return [below(state, f"layers.{q}.") for q in range(count)]


def groups_of(state: State) -> list[State]:
    """The groups of a bare GroupedResidualLFQ."""
    count = 1 + max(int(name.split(".")[1]) for name in state)
    return [below(state, f"rvqs.{g}.") for g in range(count)]


def code(state: State, bits: Array, level: int, spherical: bool) -> Array:
    """bits [..., D] -> the level's code, float32."""
    values = signs_of(bits) * magnitude(bits.shape[-1], 2.0**-level, spherical)
    return np.asarray(rotated(values, state, back=True), dtype=np.float32)


def rotated(z: Array, state: State, *, back: bool = False) -> Array:
    if "orthogonal_rot" not in state:
        return z
    matrix = numpy_of(state["orthogonal_rot"])
    return np.asarray(z @ (matrix.T if back else matrix), dtype=np.float32)


def trace(state: State, x: Array, *, spherical: bool = False) -> list[Array]:
    """x [..., dim] -> for each level what it compares with 0, float32."""
    residual = linear(x, state, "project_in").astype(np.float32)
    seen = []
    for level, layer in enumerate(levels_of(state)):
        seen.append(rotated(residual, layer))
        residual = residual - code(layer, bits_of(seen[-1]), level, spherical)
    return seen


def margin(state: State, x: Array, *, spherical: bool = False) -> Array:
    """x [..., dim] -> [...] the smallest |value| that any level of the vector compares with 0."""
    return np.asarray(np.abs(np.stack(trace(state, x, spherical=spherical))).min(axis=(0, -1)))


def encode(state: State, x: Array, *, spherical: bool = False) -> Array:
    """x [..., dim] -> [..., Q]; exact without projection and rotation, else where `margin` is not a rounding error."""
    return np.stack([integers_of(bits_of(z), "msb") for z in trace(state, x, spherical=spherical)], axis=-1)


def decode(state: State, indices: Array, *, spherical: bool = False) -> Array:
    """indices [..., Q or fewer levels] -> [..., dim] float32."""
    layers = levels_of(state)
    width = len(layers[0]["mask"])
    total = np.zeros((*indices.shape[:-1], width), dtype=np.float32)
    for level, layer in zip(range(indices.shape[-1]), layers, strict=False):
        column = indices[..., level]
        values = code(layer, bits_from(np.maximum(column, 0), width, "msb"), level, spherical)
        total = total + np.where(column[..., None] == -1, np.float32(0), values)
    return linear(total, state, "project_out").astype(np.float32)


def encode_grouped(state: State, x: Array, *, spherical: bool = False) -> Array:
    """x [..., G * dim] -> [G, ..., Q]."""
    groups = groups_of(state)
    chunks = np.split(x, len(groups), axis=-1)
    return np.stack([encode(g, chunk, spherical=spherical) for g, chunk in zip(groups, chunks, strict=True)])


def decode_grouped(state: State, indices: Array, *, spherical: bool = False) -> Array:
    """indices [G, ..., Q] -> [..., G * dim] float32."""
    pairs = zip(groups_of(state), indices, strict=True)
    return np.concatenate([decode(group, part, spherical=spherical) for group, part in pairs], axis=-1)
