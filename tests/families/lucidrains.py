"""lucidrains' LFQ: vector-quantize-pytorch from 1.9.5, magvit2-pytorch (`quantizers.`), O2-MAGVIT2 (`quantize.`).

Read: lucidrains/vector-quantize-pytorch 0d7d1aa, vector_quantize_pytorch/lookup_free_quantization.py (and 1.9.5,
1.10.0, 1.14.0 from PyPI); lucidrains/magvit2-pytorch a00519f, magvit2_pytorch.py and trainer.py; cofe-ai/O2-MAGVIT2
db78de9, modeling/lfq_quantizer.py, modeling/magvit_model.py, inference.py. Run: 1.32.0 in torch 2.13.

In the file: `mask` int64 [D] descending, persistent; `project_in.{weight [C*D, dim], bias}` and `project_out.{weight
[dim, C*D], bias}` when dim != C*D or on request; `orthogonal_rot` [D, D] from 2026-03-30. `codebook` and `zero` are
not persistent. The cosine projection stores `project_in.weight` [dim, C*D] and no bias: it is told from the linear one
because both projections share `projection_has_bias` (project_out has a bias, project_in has none), or by its shape
(that of project_out.weight); only bias-free and square is undecidable.

Not in the file: C when there is no projection; `spherical`; `codebook_scale`; `channel_first`;
`keep_num_codebooks_dim`; `soft_clamp_input_value` (10 in magvit2-pytorch by default). Without a rotation the clamp
changes a bit only where x / v underflows; under `spherical` the module divides by the norm before it compares, so a
vector with a norm above 1.8e19 or an infinity gives all-zero bits in the module: [1e20, 1, 1, 1] is index 0 there and
15 by the sign rule. The twin is the sign rule.

Published: codebook_size 2^18 and no projection (O2-MAGVIT2, `use_l2_norm: false`); 1024 in magvit2-pytorch's README,
with dim = the last layer's width, so with projections. Layout: 4-D and more channel-first, 3-D channel-last;
O2-MAGVIT2 flattens to 3-D itself. MSB-first. Values: ±scale exactly, or spherical `normalize(±scale) * scale`, each
step in float32.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from families.arithmetic import (
    Array,
    State,
    bits_from,
    bits_of,
    channel_first,
    channel_last,
    integers_of,
    linear,
    normalized,
    numpy_of,
    randomize,
    signs_of,
)


class CosineProjection(nn.Module):
    def __init__(self, dim: int, rows: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim, rows))


class Quantizer(nn.Module):
    """The parameters and buffers of LFQ, under its names and in its order of registration."""

    codebook: Tensor
    mask: Tensor
    orthogonal_rot: Tensor

    def __init__(
        self,
        *,
        codebook_dim: int,
        num_codebooks: int = 1,
        dim: int | None = None,
        bias: bool = True,
        cosine: bool = False,
        rotation: bool = False,
    ) -> None:
        super().__init__()
        rows = codebook_dim * num_codebooks
        if dim is not None:
            self.project_in = CosineProjection(dim, rows) if cosine else nn.Linear(dim, rows, bias=bias)
            self.project_out = nn.Linear(rows, dim, bias=bias)
        if rotation:
            self.register_buffer("orthogonal_rot", rotation_matrix(codebook_dim))
        self.register_buffer("mask", 2 ** torch.arange(codebook_dim - 1, -1, -1))
        self.register_buffer("zero", torch.tensor(0.0), persistent=False)
        self.register_buffer("codebook", torch.zeros(1, codebook_dim), persistent=False)


def rotation_matrix(size: int) -> Tensor:
    """[size, size] orthogonal float32, the same in every run."""
    spread = np.random.default_rng(size).standard_normal((size, size))
    return torch.from_numpy(np.linalg.qr(spread)[0].astype(np.float32))


class Tokenizer(nn.Module):
    """A little of a video tokenizer around its quantizer."""

    def __init__(self, attribute: str, quantizer: nn.Module) -> None:
        super().__init__()
        self.conv_in = nn.Conv3d(3, 4, 3)
        self.encoder_layers = nn.ModuleList([nn.Linear(4, 4)])
        setattr(self, attribute, quantizer)
        self.conv_out = nn.Conv3d(4, 3, 3)


def state_dict(
    seed: int = 0,
    *,
    codebook_dim: int = 4,
    num_codebooks: int = 1,
    dim: int | None = None,
    bias: bool = True,
    cosine: bool = False,
    rotation: bool = False,
    attribute: str | None = None,
) -> State:
    """attribute: None for the bare module, `quantizers` as in magvit2-pytorch, `quantize` as in O2-MAGVIT2."""
    quantizer = Quantizer(
        codebook_dim=codebook_dim, num_codebooks=num_codebooks, dim=dim, bias=bias, cosine=cosine, rotation=rotation
    )
    return randomize(quantizer if attribute is None else Tokenizer(attribute, quantizer), seed)


def latents(
    state: State, x: Array, *, cosine: bool = False, clamp: float | None = None, num_codebooks: int | None = None
) -> Array:
    """x [..., dim] -> [..., C, D] float64: what the module compares with 0. state: the bare module's.

    clamp: soft_clamp_input_value, which matters before a rotation. num_codebooks: needed where nothing is projected.
    """
    width = len(state["mask"])
    z = cosine_projection(x, numpy_of(state["project_in.weight"])) if cosine else linear(x, state, "project_in")
    z = z if clamp is None else np.tanh(z / clamp) * clamp
    z = z.reshape(*z.shape[:-1], num_codebooks or z.shape[-1] // width, width)
    return np.asarray(z @ numpy_of(state["orthogonal_rot"]) if "orthogonal_rot" in state else z)


def cosine_projection(x: Array, weight: Array) -> Array:
    """Both sides at unit length; the scale is positive and changes no sign."""
    x = np.asarray(x, dtype=np.float64)
    rows = x / np.linalg.norm(x, axis=-1, keepdims=True)
    return np.asarray(rows @ (weight / np.linalg.norm(weight, axis=0, keepdims=True)))


def margin(state: State, x: Array, *, cosine: bool = False, clamp: float | None = None) -> Array:
    """x [..., dim] -> [...] the smallest |z| of each vector: its bits are certain where a float32 error is smaller."""
    return np.asarray(np.abs(latents(state, x, cosine=cosine, clamp=clamp)).min(axis=(-2, -1)))


def encode(
    state: State, x: Array, *, cosine: bool = False, clamp: float | None = None, channels_first: bool | None = None
) -> Array:
    """x [..., dim], from 4 axes on [batch, dim, ...] -> [..., C], without the last axis when C is 1."""
    first = np.ndim(x) >= 4 if channels_first is None else channels_first
    z = latents(state, channel_last(x) if first else x, cosine=cosine, clamp=clamp)
    indices = integers_of(bits_of(z), "msb")
    return indices[..., 0] if indices.shape[-1] == 1 else indices


def decode(
    state: State,
    indices: Array,
    *,
    num_codebooks: int = 1,
    scale: float = 1.0,
    spherical: bool = False,
    channels_first: bool | None = None,
) -> Array:
    """indices [..., C], or [...] when C is 1 -> what indices_to_codes returns, float32.

    Exact without project_out and rotation, which are computed in float64 here.
    """
    indices = indices[..., None] if num_codebooks == 1 else indices
    first = indices.ndim >= 4 if channels_first is None else channels_first
    codes = signs_of(bits_from(indices, len(state["mask"]), "msb")) * magnitude(len(state["mask"]), scale, spherical)
    if "orthogonal_rot" in state:
        codes = codes @ numpy_of(state["orthogonal_rot"]).T
    codes = codes.reshape(*codes.shape[:-2], -1)
    values = linear(codes, state, "project_out").astype(np.float32)
    return channel_first(values) if first else values


def magnitude(width: int, scale: float, spherical: bool) -> np.float32:
    """|a coordinate of a code|; under spherical exact only where scale is a power of two (see `normalized`)."""
    s = np.float32(scale)
    return np.float32(normalized(s, width) * s) if spherical else s
