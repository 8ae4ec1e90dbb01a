"""What a checkpoint says of its quantizer: a frozen record of config and weights. No framework, no files.

The config's keys are the reference constructor's (vector-quantize-pytorch, `LFQ`). Facts that a checkpoint may leave
unsaid are named in `unknown`: they are never guessed, `require` asks for them where they are needed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from math import sqrt
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfq_cli.bits import MAX_INDEX_BITS, BitOrder
from lfq_cli.errors import CheckpointError

Weights = Mapping[str, NDArray[np.float32]]

OPTIONS = {
    "codebook_scale": "--codebook-scale",
    "spherical": "--spherical or --no-spherical",
    "soft_clamp_input_value": "--soft-clamp",
    "cosine_sim_project_in_scale": "--cosine-scale",
}
"""Facts that may be unknown, and the option that tells each."""

_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)
_SMALLEST_FLOAT32 = float(np.finfo(np.float32).smallest_subnormal)
_LAYOUT_KEYS = ("channel_first", "keep_num_codebooks_dim")


@dataclass(frozen=True, eq=False)
class Quantizer:
    """A lookup-free quantizer: `num_codebooks` indices of `codebook_dim` bits for a vector of `dim` features.

    weights: float32, any of project_in.weight, project_in.bias, project_out.weight, project_out.bias, orthogonal_rot.
    Raises CheckpointError where config and weights contradict each other.
    """

    dim: int
    codebook_dim: int
    num_codebooks: int = 1
    codebook_scale: float = 1.0
    spherical: bool = False
    channel_first: bool | None = None
    keep_num_codebooks_dim: bool | None = None
    soft_clamp_input_value: float | None = None
    cosine_sim_project_in: bool = False
    cosine_sim_project_in_scale: float | None = None
    bit_order: BitOrder = "msb"
    weights: Weights = field(default_factory=dict)
    unknown: frozenset[str] = frozenset()
    origin: str = "the checkpoint"
    """Where it was loaded from, for messages."""

    def __post_init__(self) -> None:
        _check_types(self)
        _check_values(self)
        object.__setattr__(self, "weights", MappingProxyType(dict(sorted(self.weights.items()))))
        object.__setattr__(self, "cosine_sim_project_in_scale", _cosine_scale(self))
        _check_weights(self)

    @property
    def codebook_size(self) -> int:
        """Codes of one codebook: 2^D."""
        return int(2**self.codebook_dim)

    @property
    def codebook_dims(self) -> tuple[int, ...]:
        """Bits of each index of one vector."""
        return (self.codebook_dim,) * self.num_codebooks

    @property
    def bits_per_vector(self) -> int:
        """B, the sum of `codebook_dims`."""
        return self.codebook_dim * self.num_codebooks

    @property
    def index_tail(self) -> tuple[int, ...]:
        """What an index tensor has behind the positions: (C,), or nothing where the axis is dropped."""
        keep = self.num_codebooks > 1 if self.keep_num_codebooks_dim is None else self.keep_num_codebooks_dim
        return (self.num_codebooks,) if keep else ()

    @property
    def has_projections(self) -> bool:
        """Whether vectors pass through project_in and project_out."""
        return "project_in.weight" in self.weights

    @property
    def has_rotation(self) -> bool:
        """Whether bits are taken along rotated axes."""
        return "orthogonal_rot" in self.weights

    @property
    def is_linear(self) -> bool:
        """Whether encoding needs a matrix product; without one, bits are a comparison."""
        return self.has_projections or self.has_rotation

    @cached_property
    def digest(self) -> str:
        """sha256 of what decides tokens and decoded values: config (but for array layout) and weights."""
        config = {key: value for key, value in self.config().items() if key not in _LAYOUT_KEYS}
        digest = hashlib.sha256(canonical_json({"config": config, "unknown": sorted(self.unknown)}))
        for name, weight in self.weights.items():
            digest.update(canonical_json({"name": name, "dtype": "F32", "shape": list(weight.shape)}))
            digest.update(np.ascontiguousarray(weight, "<f4").tobytes())
        return digest.hexdigest()

    def config(self) -> dict[str, Any]:
        """The JSON object of a native checkpoint; `from_config` reads it. Unknown facts are left out."""
        config: dict[str, Any] = {"type": "lfq", "dim": self.dim, "codebook_size": self.codebook_size}
        config |= {key: getattr(self, key) for key in _CONFIG_KEYS}
        return {key: value for key, value in config.items() if key not in self.unknown}

    def require(self, *facts: str, why: str = "") -> None:
        """Raises CheckpointError naming the options of those facts that are unknown."""
        missing = [fact for fact in facts if fact in self.unknown]
        if missing:
            raise CheckpointError(
                f"{self.origin}: does not say {' and '.join(missing)}{why}",
                f"give {', '.join(OPTIONS[fact] for fact in missing)}; if the model was built with the reference's"
                " defaults: --codebook-scale 1 --no-spherical --soft-clamp none",
            )

    def forget(self, facts: frozenset[str]) -> Quantizer:
        """The same quantizer with those facts unknown (their values back at the defaults)."""
        defaults: dict[str, Any] = {item.name: item.default for item in fields(self) if item.name in facts}
        return replace(self, **defaults, unknown=self.unknown | facts)

    def unprojected(self) -> Quantizer:
        """One codebook alone, without projections; its vectors are its codes."""
        rotation = {name: weight for name, weight in self.weights.items() if name == "orthogonal_rot"}
        return replace(self, dim=self.codebook_dim, num_codebooks=1, weights=rotation, cosine_sim_project_in=False)

    def part(self, codebook: int) -> Quantizer:
        """One codebook alone with its share of the projections, and without project_out's bias."""
        columns = slice(codebook * self.codebook_dim, (codebook + 1) * self.codebook_dim)
        weights = {name: weight for name, weight in self.weights.items() if name != "project_out.bias"}
        weights["project_out.weight"] = self.weights["project_out.weight"][:, columns]
        across = (slice(None), columns) if self.cosine_sim_project_in else (columns,)
        weights["project_in.weight"] = self.weights["project_in.weight"][across]
        if "project_in.bias" in weights:
            weights["project_in.bias"] = weights["project_in.bias"][columns]
        return replace(self, num_codebooks=1, weights=weights)

    def code_magnitude(self) -> np.float32 | None:
        """|coordinate| of a code before rotation and projection, or None where only torch's own rounding tells.

        Spherical codes are normalize(±s) * s, in that order. The norm's sum is the same in any order of summation
        as long as every partial sum k * s^2 is a float32; s = 1 and every power of two are such.
        """
        scale = np.float32(self.codebook_scale)
        if not self.spherical:
            return scale
        partial_sums = np.arange(1, self.codebook_dim + 1) * np.float64(scale) ** 2
        with np.errstate(over="ignore", under="ignore"):
            if not np.array_equal(partial_sums, partial_sums.astype(np.float32)):
                return None
        norm = np.maximum(np.float32(sqrt(partial_sums[-1])), np.float32(1e-12))
        return np.float32(np.float32(scale / norm) * scale)


_CONFIG_KEYS = tuple(
    item.name for item in fields(Quantizer) if item.name not in ("dim", "codebook_dim", "weights", "unknown", "origin")
)


def from_config(config: Mapping[str, Any], weights: Weights, unknown: frozenset[str] = frozenset()) -> Quantizer:
    """The quantizer of a native checkpoint's `config`; unknown keys and impossible values raise CheckpointError."""
    known = {"type", "dim", "codebook_size", *_CONFIG_KEYS}
    surplus = sorted(set(config) - known)
    if surplus:
        raise CheckpointError(f"config has unknown keys {', '.join(map(repr, surplus))}", "a newer lfq may know them")
    missing = [key for key in ("type", "dim", "codebook_size") if key not in config]
    if missing:
        raise CheckpointError(f"config lacks {', '.join(missing)}")
    if config["type"] != "lfq":
        raise CheckpointError(f"config has type {config['type']!r}, expected 'lfq'")
    rest = {key: config[key] for key in _CONFIG_KEYS if key in config}
    return Quantizer(
        dim=config["dim"], codebook_dim=bits_of_size(config["codebook_size"]), weights=weights, unknown=unknown, **rest
    )


def bits_of_size(codebook_size: Any) -> int:
    """log2 of a codebook size; raises CheckpointError naming the next power of two where it is none."""
    if type(codebook_size) is not int or codebook_size < 2:
        raise CheckpointError(f"codebook_size is {codebook_size!r}, expected a power of two from 2 to 2^64")
    bits = (codebook_size - 1).bit_length()
    if bits > MAX_INDEX_BITS:
        raise CheckpointError("codebook_size is above 2^64, the most that an index holds")
    if codebook_size != 1 << bits:
        raise CheckpointError(f"codebook_size is {codebook_size}, expected a power of two (the next is {1 << bits})")
    return bits


def canonical_json(value: Any) -> bytes:
    """One byte sequence for one value: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _check_types(q: Quantizer) -> None:
    _expect(q, ("dim", "codebook_dim", "num_codebooks"), lambda v: type(v) is int and v >= 1, "a natural number")
    _expect(q, ("codebook_scale",), _is_positive_number, "a positive number")
    _expect(q, ("spherical", "cosine_sim_project_in"), lambda v: type(v) is bool, "true or false")
    _expect(q, _LAYOUT_KEYS, lambda v: v is None or type(v) is bool, "true, false or null")
    optional = ("soft_clamp_input_value", "cosine_sim_project_in_scale")
    _expect(q, optional, lambda v: v is None or _is_positive_number(v), "a positive number or null")
    _expect(q, ("bit_order",), lambda v: v in ("msb", "lsb"), "'msb' or 'lsb'")
    for name in ("codebook_scale", *optional):  # 1 and 1.0 are one fact and one digest
        value = getattr(q, name)
        object.__setattr__(q, name, value if value is None else float(value))


def _cosine_scale(q: Quantizer) -> float | None:
    """The cosine projection's scale, codebook_scale where it is not set; so that one quantizer has one digest."""
    if not q.cosine_sim_project_in:
        return None
    return q.codebook_scale if q.cosine_sim_project_in_scale is None else q.cosine_sim_project_in_scale


def _expect(q: Quantizer, names: tuple[str, ...], fits: Any, what: str) -> None:
    for name in names:
        if not fits(getattr(q, name)):
            raise CheckpointError(f"{name} is {getattr(q, name)!r}, expected {what}")


def _is_positive_number(value: Any) -> bool:
    return type(value) in (int, float) and _SMALLEST_FLOAT32 <= value <= _LARGEST_FLOAT32


def _check_values(q: Quantizer) -> None:
    if q.codebook_dim > MAX_INDEX_BITS:
        raise CheckpointError(f"codebook_size is 2^{q.codebook_dim}, expected at most 2^{MAX_INDEX_BITS}")
    if q.num_codebooks > 1 and q.keep_num_codebooks_dim is False:
        raise CheckpointError("keep_num_codebooks_dim is false with several codebooks, expected true or null")
    clamp = q.soft_clamp_input_value
    if clamp is not None and "codebook_scale" not in q.unknown and clamp < q.codebook_scale:
        raise CheckpointError(f"soft_clamp_input_value {clamp} is below codebook_scale {q.codebook_scale}")
    unknowable = q.unknown - set(OPTIONS)
    if unknowable:
        raise CheckpointError(f"{', '.join(sorted(unknowable))} cannot be unknown")


def _check_weights(q: Quantizer) -> None:
    expected = _weight_shapes(q)
    for name, weight in q.weights.items():
        if name not in expected:
            raise CheckpointError(f"tensor {name!r} does not belong to this quantizer")
        if weight.shape != expected[name]:
            raise CheckpointError(
                f"{name} has shape {weight.shape}, expected {expected[name]}"
                f" (dim {q.dim}, {q.num_codebooks} codebooks of {q.codebook_dim} bits)"
            )
        if not np.isfinite(weight).all():
            raise CheckpointError(f"{name} holds NaN or infinity")
    if q.has_projections != ("project_out.weight" in q.weights):
        raise CheckpointError("only one of project_in and project_out is there, expected both or neither")
    if not q.has_projections and expected.keys() & q.weights.keys() - {"orthogonal_rot"}:
        raise CheckpointError("project_in.bias or project_out.bias is there without its weight")
    if not q.has_projections and q.dim != q.bits_per_vector:
        raise CheckpointError(
            f"dim is {q.dim}, expected {q.bits_per_vector} ({q.num_codebooks} codebooks of {q.codebook_dim} bits)"
            " or projections"
        )


def _weight_shapes(q: Quantizer) -> dict[str, tuple[int, ...]]:
    bits = q.bits_per_vector
    shapes: dict[str, tuple[int, ...]] = {"orthogonal_rot": (q.codebook_dim, q.codebook_dim)}
    shapes |= {"project_out.weight": (q.dim, bits), "project_out.bias": (q.dim,)}
    if q.cosine_sim_project_in:
        return shapes | {"project_in.weight": (q.dim, bits)}
    return shapes | {"project_in.weight": (bits, q.dim), "project_in.bias": (bits,)}
