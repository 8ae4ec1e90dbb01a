"""Whether the facts of a quantizer agree: types, values, and the shapes of its weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lfq_cli.bits import MAX_INDEX_BITS
from lfq_cli.errors import CheckpointError
from lfq_cli.quantizer.description import Description

_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)
_SMALLEST_FLOAT32 = float(np.finfo(np.float32).smallest_normal)  # smaller ones are 0 where subnormals are flushed
MAX_LEVELS = 128  # codes of level 127 are ±2^-127, which float32 still holds
MAX_CODEBOOKS = 1 << 16  # indices of one vector


def check_types(q: Description) -> None:
    """Raises CheckpointError naming the first fact that is not of its type."""
    sizes = ("dim", "codebook_dim", "num_codebooks")
    _expect(q, sizes, lambda v: type(v) is int and 1 <= v < 2**31, "a natural number below 2^31")
    _expect(
        q, ("num_quantizers", "groups"), lambda v: v is None or (type(v) is int and 1 <= v < 2**31), "a natural number"
    )
    _expect(q, ("codebook_scale",), _is_positive_number, "a positive number")
    _expect(q, ("spherical", "cosine_sim_project_in"), lambda v: type(v) is bool, "true or false")
    layout = ("channel_first", "keep_num_codebooks_dim")
    _expect(q, layout, lambda v: v is None or type(v) is bool, "true, false or null")
    optional = ("soft_clamp_input_value", "cosine_sim_project_in_scale")
    _expect(q, optional, lambda v: v is None or _is_positive_number(v), "a positive number or null")
    _expect(q, ("bit_order",), lambda v: v in ("msb", "lsb"), "'msb' or 'lsb'")
    _expect(q, ("factorized_bits",), _is_list_of_bits, "a list of natural numbers")


def check_values(q: Description, may_be_assumed: frozenset[str]) -> None:
    """Raises CheckpointError if facts contradict each other."""
    if q.codebook_dim > MAX_INDEX_BITS:
        raise CheckpointError(f"codebook_size is 2^{q.codebook_dim}, expected at most 2^{MAX_INDEX_BITS}")
    if q.num_codebooks > MAX_CODEBOOKS:
        raise CheckpointError(f"num_codebooks is {q.num_codebooks}, expected at most {MAX_CODEBOOKS}")
    clamp = q.soft_clamp_input_value
    if clamp is not None and "codebook_scale" not in q.assumed and clamp < q.codebook_scale:
        raise CheckpointError(f"soft_clamp_input_value {clamp} is below codebook_scale {q.codebook_scale}")
    if q.num_quantizers is None and (q.groups is not None or q.stacked):
        raise CheckpointError("groups and stacked levels belong to a residual quantizer: num_quantizers is missing")
    if q.factorized_bits is not None:
        _check_factors(q, q.factorized_bits)
    if q.num_quantizers is not None:
        _check_residual(q, q.num_quantizers)
    elif len(q.codebook_dims) > 1 and q.keep_num_codebooks_dim is False:
        raise CheckpointError("keep_num_codebooks_dim is false with several indices, expected true or null")
    certain = q.assumed - may_be_assumed
    if certain:
        raise CheckpointError(f"{', '.join(sorted(certain))} cannot be assumed")


def check_weights(q: Description) -> None:
    """Raises CheckpointError naming the first weight that does not belong, or is missing."""
    expected = weight_shapes(q)
    for name, weight in q.weights.items():
        if name not in expected:
            raise CheckpointError(f"tensor {name!r} does not belong to this quantizer")
        if weight.shape != expected[name]:
            raise CheckpointError(
                f"{name} has shape {weight.shape}, expected {expected[name]}"
                f" (dim {q.dim}, {len(q.codebook_dims)} codebooks of {q.codebook_dim} bits)"
            )
        if not np.isfinite(weight).all():
            raise CheckpointError(f"{name} holds NaN or infinity")
    for prefix in q.projection_prefixes:
        _check_projections(q, prefix)
    rotations = {name for name in expected if name.endswith("orthogonal_rot")}
    if rotations & set(q.weights) not in (set(), rotations):
        raise CheckpointError("only some layers have an orthogonal_rot, expected all or none")
    _check_features(q)


def weight_shapes(q: Description) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every weight that such a quantizer may have."""
    shapes: dict[str, tuple[int, ...]] = {}
    dim, bits = q.dim // len(q.group_prefixes), q.code_dim // len(q.projection_prefixes)
    for prefix in q.projection_prefixes:
        shapes[f"{prefix}project_out.weight"] = (dim, bits)
        shapes[f"{prefix}project_out.bias"] = (dim,)
        shapes[f"{prefix}project_in.weight"] = (dim, bits) if q.cosine_sim_project_in else (bits, dim)
        if not q.cosine_sim_project_in:
            shapes[f"{prefix}project_in.bias"] = (bits,)
        for layer in () if q.stacked else q.layer_prefixes:
            shapes[f"{prefix}{layer}orthogonal_rot"] = (q.codebook_dim, q.codebook_dim)
    return shapes


def _check_features(q: Description) -> None:
    if q.stacked:
        if not q.has_projections:
            raise CheckpointError("stacked levels without projections, expected those of every level")
        if q.bit_order != "msb":
            raise CheckpointError(f"bit_order is {q.bit_order!r}, stacked levels have 'msb'")
        return
    if q.is_residual and q.has_projections and q.dim == q.code_dim:
        raise CheckpointError(f"a residual quantizer of {q.code_dim} features has no projections, as the reference's")
    if not q.has_projections and q.dim != q.code_dim:
        raise CheckpointError(
            f"dim is {q.dim}, expected {q.code_dim}"
            f" ({q.code_dim // q.codebook_dim} codebooks of {q.codebook_dim} bits) or projections"
        )


def _check_factors(q: Description, factors: tuple[int, ...]) -> None:
    if q.num_quantizers is not None:
        raise CheckpointError("factorized_bits do not cut levels: a residual quantizer has an index for every level")
    if sum(factors) != q.code_dim:
        raise CheckpointError(f"factorized_bits {list(factors)} make {sum(factors)} bits, expected {q.code_dim}")


def _check_residual(q: Description, levels: int) -> None:
    if levels > MAX_LEVELS:
        raise CheckpointError(f"num_quantizers is {levels}, expected at most {MAX_LEVELS}")
    if (q.groups or 1) * levels > MAX_CODEBOOKS:
        raise CheckpointError(f"groups and num_quantizers make more than {MAX_CODEBOOKS} indices of one vector")
    if q.groups is not None and q.dim % q.groups:
        raise CheckpointError(f"dim {q.dim} is not a multiple of groups {q.groups}")
    if q.stacked and (q.groups is not None or q.soft_clamp_input_value is not None):
        raise CheckpointError("stacked levels have no groups and no soft clamp")
    fixed = {"num_codebooks": 1, "codebook_scale": 1.0, "cosine_sim_project_in": False, "keep_num_codebooks_dim": None}
    for name, value in fixed.items():
        if getattr(q, name) != value:
            raise CheckpointError(f"{name} is {getattr(q, name)!r}, a residual quantizer has none of its own")


def _check_projections(q: Description, prefix: str) -> None:
    there = {name.removeprefix(prefix) for name in q.weights if name.startswith(f"{prefix}project_")}
    if ("project_in.weight" in there) != ("project_out.weight" in there):
        raise CheckpointError("only one of project_in and project_out is there, expected both or neither")
    if "project_in.weight" not in there and there:
        raise CheckpointError("project_in.bias or project_out.bias is there without its weight")
    if ("project_in.weight" in there) != q.has_projections:
        raise CheckpointError("only some groups or levels have projections, expected all or none")


def _expect(q: Description, names: tuple[str, ...], fits: Callable[[Any], bool], what: str) -> None:
    for name in names:
        if not fits(getattr(q, name)):
            raise CheckpointError(f"{name} is {getattr(q, name)!r}, expected {what}")


def _is_positive_number(value: Any) -> bool:
    return type(value) in (int, float) and _SMALLEST_FLOAT32 <= value <= _LARGEST_FLOAT32


def _is_list_of_bits(value: Any) -> bool:
    if value is None:
        return True
    return isinstance(value, tuple) and bool(value) and all(type(v) is int and 1 <= v <= MAX_INDEX_BITS for v in value)
