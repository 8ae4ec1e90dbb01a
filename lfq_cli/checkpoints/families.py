"""The families of foreign state dicts: a name that `--family` takes -> its rules."""

from __future__ import annotations

from collections.abc import Mapping

from lfq_cli.checkpoints import (
    bsq,
    dplm,
    infinity,
    kronos,
    lucidrains,
    open_genie,
    open_magvit2,
    residual,
    stored_codebook,
    unstored,
)
from lfq_cli.checkpoints.family import Family

FAMILIES: Mapping[str, Family] = {
    "residual": residual,
    "infinity": infinity,
    "lucidrains": lucidrains,
    "open-genie": open_genie,
    "kronos": kronos,
    "bsq": bsq,
    "show-o": stored_codebook.SHOW_O,
    "maskbit": stored_codebook.MASKBIT,
    "open-magvit2": open_magvit2,
    "dplm-2": dplm,
    "qlip": unstored.QLIP,
    "focalcodec": unstored.FOCALCODEC,
    "ursa": unstored.URSA,
    "lucidrains-1.9": unstored.LUCIDRAINS_1_9,
    "cosmos-framework": unstored.COSMOS,
}
"""In the order in which they are asked: a tensor shows one quantizer, that of the first family that finds it."""
