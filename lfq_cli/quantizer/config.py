"""The config of a native checkpoint -> a quantizer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lfq_cli.bits import MAX_INDEX_BITS
from lfq_cli.errors import CheckpointError
from lfq_cli.quantizer.description import Weights
from lfq_cli.quantizer.record import CONFIG_KEYS, Quantizer, canonical_json

__all__ = ["bits_of_size", "canonical_json", "from_config"]

_KEYS_OF_TYPE = {
    "lfq": frozenset[str](),
    "residual_lfq": frozenset({"num_quantizers"}),
    "grouped_residual_lfq": frozenset({"num_quantizers", "groups"}),
    "stacked_lfq": frozenset({"num_quantizers"}),
}
"""type -> the keys that it has beyond those of every quantizer; they are required."""


def from_config(config: Mapping[str, Any], weights: Weights, assumed: Iterable[str] = ()) -> Quantizer:
    """The quantizer of a native checkpoint's `config`; unknown keys and impossible values raise CheckpointError.

    `assumed` names keys that are not certain.
    """
    missing = [key for key in ("type", "dim", "codebook_size") if key not in config]
    if missing:
        raise CheckpointError(f"config lacks {', '.join(missing)}")
    type_name = config["type"]
    if not isinstance(type_name, str) or type_name not in _KEYS_OF_TYPE:
        raise CheckpointError(f"config has type {type_name!r}, expected {', '.join(map(repr, _KEYS_OF_TYPE))}")
    own = _KEYS_OF_TYPE[type_name]
    known = {"type", "dim", "codebook_size", *CONFIG_KEYS} - (frozenset({"num_quantizers", "groups"}) - own)
    surplus = sorted(set(config) - known)
    if surplus:
        raise CheckpointError(
            f"config has unknown keys {', '.join(map(repr, surplus))} (type {type_name!r})", "a newer lfq may know them"
        )
    missing = sorted(key for key in own if config.get(key) is None)
    if missing:
        raise CheckpointError(f"config lacks {', '.join(missing)} (type {type_name!r})")
    rest = {key: config[key] for key in CONFIG_KEYS if key in config}
    if isinstance(rest.get("factorized_bits"), list):
        rest["factorized_bits"] = tuple(rest["factorized_bits"])
    return Quantizer(
        dim=config["dim"],
        codebook_dim=bits_of_size(config["codebook_size"]),
        weights=weights,
        stacked=type_name == "stacked_lfq",
        assumed=frozenset(assumed),
        **rest,
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
