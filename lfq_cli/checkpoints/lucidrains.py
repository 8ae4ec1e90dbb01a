"""Family 1: state dicts of the reference's `LFQ` (vector-quantize-pytorch), alone or inside a larger model.

A quantizer is where a buffer `mask` holds descending powers of two. The file does not say codebook_scale, spherical or
the soft clamp, nor, without projections, the number of codebooks.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from lfq_cli.bits import MAX_INDEX_BITS
from lfq_cli.checkpoints.facts import Facts
from lfq_cli.checkpoints.statefile import StateFile
from lfq_cli.errors import CheckpointError
from lfq_cli.quantizer import OPTIONS, Quantizer

WEIGHTS = ("project_in.weight", "project_in.bias", "project_out.weight", "project_out.bias", "orthogonal_rot")


def find(state: StateFile) -> list[str]:
    """The module paths ("" for the top) of this family's quantizers."""
    masks = [name for name in state.tensors if name == "mask" or name.endswith(".mask")]
    return [name.removesuffix("mask").removesuffix(".") for name in masks if _is_mask(state, name)]


def build(state: StateFile, module: str, facts: Facts) -> Quantizer:
    """The quantizer at `module`, completed by `facts`; what neither says is unknown."""
    if re.search(r"(^|\.)layers\.\d+$", module):
        raise CheckpointError(
            f"{state.path}: {module!r} is a layer of a residual quantizer, expected a single LFQ",
            "--module names another one",
        )
    prefix = f"{module}." if module else ""
    found = {name: state.tensors[prefix + name] for name in WEIGHTS if prefix + name in state.tensors}
    shapes = {name: tensor.shape for name, tensor in found.items()}
    codebook_dim = state.tensors[f"{prefix}mask"].shape[0]
    config = _config_of(shapes, codebook_dim, facts)
    weights = {name: tensor.read().astype(np.float32, copy=False) for name, tensor in found.items()}
    unknown = frozenset(OPTIONS) - set(facts.config())
    if not config["cosine_sim_project_in"]:
        unknown -= {"cosine_sim_project_in_scale"}
    return Quantizer(codebook_dim=codebook_dim, weights=weights, unknown=unknown, **config)


def _is_mask(state: StateFile, name: str) -> bool:
    tensor = state.tensors[name]
    if tensor.dtype not in ("I64", "I32") or len(tensor.shape) != 1:
        return False
    bits = tensor.shape[0]
    if not 1 <= bits <= MAX_INDEX_BITS:
        return False
    powers = np.array([1 << k for k in reversed(range(bits))], np.uint64)
    return bool(np.array_equal(tensor.read().astype(np.int64).view(np.uint64), powers))  # bit 63 is int64's sign


def _config_of(shapes: dict[str, tuple[int, ...]], codebook_dim: int, facts: Facts) -> dict[str, Any]:
    config: dict[str, Any] = {"num_codebooks": 1, "cosine_sim_project_in": False} | facts.config()
    if "project_out.weight" not in shapes:
        return config | {"dim": codebook_dim * config["num_codebooks"], "cosine_sim_project_in": False}
    if len(shapes["project_out.weight"]) != 2:
        raise CheckpointError(f"project_out.weight has shape {shapes['project_out.weight']}, expected two axes")
    dim, bits = shapes["project_out.weight"]
    if bits % codebook_dim:
        raise CheckpointError(f"project_out takes {bits} bits, expected a multiple of {codebook_dim} (mask's length)")
    found = {"num_codebooks": bits // codebook_dim, "cosine_sim_project_in": _is_cosine(shapes, facts)}
    for key, value in found.items():
        if facts.config().get(key, value) != value:
            raise CheckpointError(f"the tensors say {key} is {value}, the options say {facts.config()[key]}")
    return config | found | {"dim": dim}


def _is_cosine(shapes: dict[str, tuple[int, ...]], facts: Facts) -> bool:
    """Whether project_in is the reference's cosine projection: its weight is [dim, bits] and it has no bias.

    The reference gives project_in and project_out biases together, but the cosine projection never has one.
    """
    dim, bits = shapes["project_out.weight"]
    if dim != bits:
        return shapes.get("project_in.weight") == (dim, bits)
    if "project_in.bias" in shapes or "project_out.bias" in shapes:
        return "project_in.bias" not in shapes
    if facts.cosine is None:
        raise CheckpointError(
            f"project_in is square ({dim}×{bits}) and without bias: a linear and a cosine projection look the same",
            "give --cosine or --no-cosine",
        )
    return facts.cosine
