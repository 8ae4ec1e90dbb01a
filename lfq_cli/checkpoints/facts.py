"""What the user says of a checkpoint because the file does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from lfq_cli.bits import BitOrder
from lfq_cli.errors import OptionError


@dataclass(frozen=True)
class Facts:
    """Options of the command line; None: not given. `soft_clamp` "none" says that there is no clamp."""

    module: str | None = None
    codebook_scale: float | None = None
    spherical: bool | None = None
    soft_clamp: float | Literal["none"] | None = None
    num_codebooks: int | None = None
    keep_num_codebooks_dim: bool | None = None
    bit_order: BitOrder | None = None
    cosine: bool | None = None
    cosine_scale: float | None = None

    def config(self) -> dict[str, Any]:
        """The facts that were given, by their config key."""
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


def check_agreement(config: Mapping[str, Any], facts: Facts) -> None:
    """Raises OptionError where an option contradicts what the checkpoint says."""
    for key, value in facts.config().items():
        if config.get(key) != value:
            raise OptionError(
                f"the checkpoint says {key} is {config.get(key)!r}, the options say {value!r}", "leave the option out"
            )
