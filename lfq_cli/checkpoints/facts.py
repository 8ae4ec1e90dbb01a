"""What the user says of a checkpoint because the file does not."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from lfq_cli.bits import MAX_INDEX_BITS, BitOrder
from lfq_cli.errors import OptionError
from lfq_cli.wording import counted


@dataclass(frozen=True)
class Facts:
    """Options of the command line; None: not given. `soft_clamp` "none" says that there is no clamp.

    codebook_dims are the bits of each index of one vector, any sequence of integers. Raises OptionError for another.
    """

    module: str | None = None
    family: str | None = None
    codebook_scale: float | None = None
    spherical: bool | None = None
    soft_clamp: float | Literal["none"] | None = None
    num_codebooks: int | None = None
    codebook_dims: tuple[int, ...] | None = None
    keep_num_codebooks_dim: bool | None = None
    bit_order: BitOrder | None = None
    cosine: bool | None = None
    cosine_scale: float | None = None
    channel_first: bool | None = None

    def __post_init__(self) -> None:
        if self.codebook_dims is not None:
            object.__setattr__(self, "codebook_dims", _bits_of_indices(self.codebook_dims))

    def config(self) -> dict[str, Any]:
        """The facts that were given and are keys of a config, by key."""
        given = {_KEYS[item.name]: getattr(self, item.name) for item in fields(self) if item.name in _KEYS}
        stated = {key: value for key, value in given.items() if value is not None}
        return {key: None if value == "none" else value for key, value in stated.items()}


_KEYS = {
    "codebook_scale": "codebook_scale",
    "spherical": "spherical",
    "soft_clamp": "soft_clamp_input_value",
    "num_codebooks": "num_codebooks",
    "keep_num_codebooks_dim": "keep_num_codebooks_dim",
    "bit_order": "bit_order",
    "cosine": "cosine_sim_project_in",
    "cosine_scale": "cosine_sim_project_in_scale",
}


def _bits_of_indices(dims: Any) -> tuple[int, ...]:
    """A list, tuple or array of integers from 1 to 64, as a tuple."""
    try:
        bits = tuple(operator.index(each) for each in dims)
    except TypeError:
        bits = ()
    if not bits or not all(1 <= each <= MAX_INDEX_BITS for each in bits):
        raise OptionError(
            f"codebook_dims is {dims!r}, expected the bits of each index, 1 to {MAX_INDEX_BITS}", "for instance [6, 12]"
        )
    return bits


def check_agreement(config: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Raises OptionError if one of `facts` (by config key) contradicts what the checkpoint says."""
    for key, value in facts.items():
        if config.get(key) != value:
            raise OptionError(
                f"the checkpoint says {key} is {config.get(key)!r}, the options say {value!r}", "leave the option out"
            )


def settle(
    facts: Facts,
    *,
    fixed: Mapping[str, Any],
    usual: Mapping[str, Any] | None = None,
    assumed: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Config keys of a quantizer -> values, and which of them are only `assumed`.

    fixed: what the file or the family says; an option that contradicts it raises OptionError. usual: what follows from
    the family, an option may say otherwise. assumed: what neither file nor family says for certain; an option makes it
    certain.
    """
    given = facts.config()
    check_agreement(fixed, {key: value for key, value in given.items() if key in fixed})
    open_facts = frozenset(assumed or {}) - set(given) - set(fixed)
    return {**(assumed or {}), **(usual or {}), **given, **fixed, "assumed": open_facts}


def cut_codes(codebook_dims: tuple[int, ...] | None, codebook_dim: int, num_codebooks: int | None) -> dict[str, Any]:
    """What `--codebook-dims` says of a quantizer with codebooks of D bits: how many there are, or how bits are cut.

    Raises OptionError if it says neither.
    """
    if codebook_dims is None:
        return {} if num_codebooks is None else {"num_codebooks": num_codebooks}
    if num_codebooks is None and set(codebook_dims) == {codebook_dim}:
        return {"num_codebooks": len(codebook_dims)}
    whole = (codebook_dim,) * (num_codebooks or 1)
    if sum(codebook_dims) != sum(whole):
        codebooks = "" if num_codebooks is None else f" in {counted(num_codebooks, 'codebook')}"
        raise OptionError(
            f"--codebook-dims {','.join(map(str, codebook_dims))} make {sum(codebook_dims)} bits, the checkpoint has"
            f" {sum(whole)}{codebooks}",
            f"expected numbers that add up to {sum(whole)}"
            + (f", or each of them {codebook_dim}" if num_codebooks is None else ""),
        )
    return {"num_codebooks": len(whole)} | ({} if codebook_dims == whole else {"factorized_bits": codebook_dims})
