"""The record itself: checked, with its digest, its JSON and its parts.

A fact that a checkpoint leaves unsaid has its usual value here and its name in `assumed`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from math import sqrt
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfq_cli.errors import CheckpointError
from lfq_cli.quantizer import checks
from lfq_cli.quantizer.description import Description

OPTIONS = {
    "codebook_scale": "--codebook-scale",
    "spherical": "--spherical or --no-spherical",
    "soft_clamp_input_value": "--soft-clamp",
    "cosine_sim_project_in_scale": "--cosine-scale",
    "bit_order": "--bit-order",
    "factorized_bits": "--codebook-dims",
}
"""Facts that may be assumed, and the option that tells each."""

LAYOUT_KEYS = ("channel_first", "keep_num_codebooks_dim")
_LEFT_OUT_IF_NONE = ("num_quantizers", "groups", "factorized_bits")


@dataclass(frozen=True, eq=False)
class Quantizer(Description):
    """A description whose facts agree. Raises CheckpointError if config and weights contradict each other."""

    def __post_init__(self) -> None:
        checks.check_types(self)
        for name in ("codebook_scale", "soft_clamp_input_value", "cosine_sim_project_in_scale"):
            value = getattr(self, name)  # 1 and 1.0 are one fact and one digest
            object.__setattr__(self, name, value if value is None else float(value))
        checks.check_values(self, frozenset(OPTIONS))
        object.__setattr__(self, "weights", MappingProxyType(dict(sorted(self.weights.items()))))
        object.__setattr__(self, "cosine_sim_project_in_scale", _cosine_scale(self))
        checks.check_weights(self)

    def __reduce__(self) -> tuple[Any, ...]:
        """Made again of its facts: a mapping that cannot be written to cannot be pickled either."""
        facts = {each.name: getattr(self, each.name) for each in fields(self)}
        return _of_facts, (facts | {"weights": dict(self.weights)},)

    @cached_property
    def open(self) -> frozenset[str]:
        """Assumed facts that decide no bit of ordinary inputs: they can still be overridden when codes are decoded."""
        deciding = {"spherical"} if self.is_residual else set()  # what a level leaves over is x minus its code
        if self.has_rotation:  # a clamp keeps signs along its own axes only
            deciding.add("soft_clamp_input_value")
            if self.soft_clamp_input_value is not None:
                deciding.add("cosine_sim_project_in_scale")
        return self.assumed - deciding

    @cached_property
    def digest(self) -> str:
        """sha256 of what decides tokens and decoded values: config (without layout and open facts) and weights."""
        config = {key: value for key, value in self.config().items() if key not in LAYOUT_KEYS}
        digest = hashlib.sha256(canonical_json({"config": config, "unknown": sorted(self.open)}))
        for name, weight in self.weights.items():
            digest.update(canonical_json({"name": name, "dtype": "F32", "shape": list(weight.shape)}))
            digest.update(np.ascontiguousarray(weight, "<f4").tobytes())
        return digest.hexdigest()

    def config(self) -> dict[str, Any]:
        """The JSON object of a native checkpoint; `from_config` reads it. Open facts are left out."""
        config = self.full_config()
        return {key: value for key, value in config.items() if key not in self.open}

    def full_config(self) -> dict[str, Any]:
        """`config` with the values that open facts are assumed to have."""
        return dict(self._full_config)

    @cached_property
    def _full_config(self) -> dict[str, Any]:
        config: dict[str, Any] = {"type": self.type, "dim": self.dim, "codebook_size": self.codebook_size}
        for key in CONFIG_KEYS:
            value = getattr(self, key)
            if value is not None or key not in _LEFT_OUT_IF_NONE:
                config[key] = list(value) if isinstance(value, tuple) else value
        return config

    def assumptions(self) -> dict[str, Any]:
        """Assumed facts and their values, by config key, as JSON has them."""
        values = {fact: getattr(self, fact) for fact in sorted(self.assumed)}
        return {fact: list(value) if isinstance(value, tuple) else value for fact, value in values.items()}

    def assumption_text(self) -> tuple[str, str]:
        """(what is assumed and why, what depends on it and how to say otherwise), for people."""
        shown = {True: "true", False: "false", None: "none"}
        assumptions = [
            f"{fact} {value if type(value) is float else shown.get(value, value)}"
            for fact, value in self.assumptions().items()
        ]
        deciding = sorted(self.assumed - self.open)
        weight = "the bits do not depend on it"
        if self.assumed & {"bit_order", "factorized_bits"}:
            weight += ", the integers made of them do"
        if deciding:
            weight = f"TOKENS DEPEND ON {' and '.join(deciding)}"
        options = ", ".join(OPTIONS[fact] for fact in sorted(self.assumed))
        return (
            f"{self.origin} does not say everything; assumed ({self.usual_of}): {', '.join(assumptions)}",
            f"{weight}; override with {options}",
        )

    def assuming(self, facts: Iterable[str]) -> Quantizer:
        """The same quantizer with those facts assumed."""
        return replace(self, assumed=self.assumed | frozenset(facts))

    def require(self, *facts: str, why: str = "") -> None:
        """Raises CheckpointError naming the options of those facts that are only assumed."""
        missing = [fact for fact in facts if fact in self.assumed]
        if missing:
            raise CheckpointError(
                f"{self.origin}: does not say {' and '.join(missing)}{why}",
                f"give {', '.join(OPTIONS[fact] for fact in missing)}; if the model was built with the reference's"
                " defaults: --codebook-scale 1 --no-spherical --soft-clamp none",
            )

    def require_scale_within_clamp(self) -> None:
        """Raises CheckpointError if the assumed scale cannot be: no clamped input reaches it."""
        clamp = self.soft_clamp_input_value
        if clamp is not None and clamp < self.codebook_scale:
            self.require("codebook_scale", why=f", and the usual {self.codebook_scale} is above its soft clamp {clamp}")

    def cut(self, factorized_bits: tuple[int, ...] | None, codebook_dim: int, num_codebooks: int) -> Quantizer:
        """The same quantizer with its bits cut into such codebooks and indices; its bits and values stay what they are.

        Raises CheckpointError for another number of bits, and for other codebooks where each is rotated or normalised.
        """
        same_codebooks = (codebook_dim, num_codebooks) == (self.codebook_dim, self.num_codebooks)
        if same_codebooks and factorized_bits == self.factorized_bits:
            return self
        if not same_codebooks and (self.spherical or "spherical" in self.assumed or self.has_rotation):
            raise CheckpointError(f"{self.origin}: has {self.num_codebooks} codebooks of {self.codebook_dim} bits")
        return replace(
            self,
            factorized_bits=factorized_bits,
            codebook_dim=codebook_dim,
            num_codebooks=num_codebooks,
            keep_num_codebooks_dim=None,  # said of other indices
        )

    def first_levels(self, levels: int) -> Quantizer:
        """A residual quantizer's first levels alone. Raises CheckpointError if there are not as many."""
        if self.num_quantizers is None:
            raise CheckpointError(f"{self.origin}: has no levels: it is not a residual quantizer")
        if not 1 <= levels <= self.num_quantizers:
            raise CheckpointError(f"{self.origin}: has {self.num_quantizers} levels, {levels} were asked for")
        dropped = self.layer_prefixes[levels:]
        own = {name: name.removeprefix(next(filter(name.startswith, self.group_prefixes))) for name in self.weights}
        weights = {name: weight for name, weight in self.weights.items() if not own[name].startswith(dropped)}
        return replace(self, num_quantizers=levels, weights=weights)

    def bits_of_levels(self, levels: int | None) -> NDArray[np.bool_] | None:
        """Which bits of a vector, [B] bool, are those of the first levels; None where all are."""
        if levels is None or levels == self.num_quantizers:
            return None
        first = np.arange(self.num_quantizers or 1) < levels
        return np.tile(np.repeat(first, self.codebook_dim), self.groups or 1)

    def unprojected(self) -> Quantizer:
        """One codebook alone, without projections; its vectors are its codes."""
        rotation = {name: weight for name, weight in self.weights.items() if name == "orthogonal_rot"}
        return replace(
            self,
            dim=self.codebook_dim,
            num_codebooks=1,
            factorized_bits=None,
            weights=rotation,
            cosine_sim_project_in=False,
        )

    def part(self, codebook: int) -> Quantizer:
        """One codebook alone with its share of the projections, and without project_out's bias."""
        columns = slice(codebook * self.codebook_dim, (codebook + 1) * self.codebook_dim)
        weights = {name: weight for name, weight in self.weights.items() if name != "project_out.bias"}
        weights["project_out.weight"] = self.weights["project_out.weight"][:, columns]
        across = (slice(None), columns) if self.cosine_sim_project_in else (columns,)
        weights["project_in.weight"] = self.weights["project_in.weight"][across]
        if "project_in.bias" in weights:
            weights["project_in.bias"] = weights["project_in.bias"][columns]
        return replace(self, num_codebooks=1, factorized_bits=None, weights=weights)

    def level(self, group: int, level: int) -> Quantizer:
        """One level of one group alone, without project_out's bias: an LFQ of scale 2^-level, stacked of scale 1."""
        prefix, layer = self.group_prefixes[group], self.layer_prefixes[level]
        own = {name.removeprefix(prefix): weight for name, weight in self.weights.items() if name.startswith(prefix)}
        weights = {
            name.removeprefix(layer): weight
            for name, weight in own.items()
            if name.startswith((layer, "project_")) and not name.endswith("project_out.bias")
        }
        clamp = self.soft_clamp_input_value
        return replace(
            self,
            dim=self.dim // len(self.group_prefixes),
            num_quantizers=None,
            groups=None,
            stacked=False,
            codebook_scale=1.0 if self.stacked else 2.0**-level,
            soft_clamp_input_value=clamp if clamp is None else clamp * 2.0**-level,
            weights=weights,
        )

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


CONFIG_KEYS = tuple(
    item.name
    for item in fields(Quantizer)
    if item.name not in ("dim", "codebook_dim", "stacked", "weights", "assumed", "origin", "usual_of")
)
"""Keys of `config` whose names are those of the record."""


def canonical_json(value: Any) -> bytes:
    """One byte sequence for one value: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _cosine_scale(q: Quantizer) -> float | None:
    """The cosine projection's scale, codebook_scale where it is not set; so that one quantizer has one digest."""
    if not q.cosine_sim_project_in:
        return None
    return q.codebook_scale if q.cosine_sim_project_in_scale is None else q.cosine_sim_project_in_scale


def _of_facts(facts: dict[str, Any]) -> Quantizer:
    return Quantizer(**facts)
