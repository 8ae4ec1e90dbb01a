"""What the user says of a checkpoint because the file does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from lfq_cli.bits import BitOrder
from lfq_cli.errors import OptionError


@dataclass(frozen=True)
class Facts:
    """Options of the command line; None: not given. `soft_clamp` "none" says that there is no clamp.

    codebook_dims are the bits of each index of one vector.
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


def check_agreement(config: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Raises OptionError where one of `facts` (by config key) contradicts what the checkpoint says."""
    for key, value in facts.items():
        if config.get(key) != value:
            raise OptionError(
                f"the checkpoint says {key} is {config.get(key)!r}, the options say {value!r}", "leave the option out"
            )


def settle(
    facts: Facts,
    *,
    told: Mapping[str, Any],
    usual: Mapping[str, Any] | None = None,
    assumed: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Config keys of a quantizer -> values, and which of them are only `assumed`.

    told: what the file says; an option that contradicts it raises OptionError. usual: what follows from the family, an
    option may say otherwise. assumed: what neither file nor family says for certain; an option makes it certain.
    """
    given = facts.config()
    check_agreement(told, {key: value for key, value in given.items() if key in told})
    open_facts = frozenset(assumed or {}) - set(given) - set(told)
    return {**(assumed or {}), **(usual or {}), **given, **told, "assumed": open_facts}


def cut_codes(codebook_dims: tuple[int, ...] | None, codebook_dim: int, num_codebooks: int | None) -> dict[str, Any]:
    """What `--codebook-dims` says of a quantizer of D bits: several codebooks, or one code cut into several indices.

    Raises OptionError where it makes neither.
    """
    if codebook_dims is None:
        return {} if num_codebooks is None else {"num_codebooks": num_codebooks}
    count, total = len(codebook_dims), sum(codebook_dims)
    if set(codebook_dims) == {codebook_dim} and num_codebooks in (None, count):
        return {"num_codebooks": count}
    if total == codebook_dim and num_codebooks in (None, 1):
        return {"num_codebooks": 1, "factorized_bits": codebook_dims}
    codebooks = "" if num_codebooks is None else f" in {num_codebooks} codebook(s)"
    raise OptionError(
        f"--codebook-dims {','.join(map(str, codebook_dims))} do not fit: the checkpoint has {codebook_dim} bits"
        f"{codebooks}",
        f"expected dims that add up to {codebook_dim}, or each of them {codebook_dim}",
    )
