"""Quantizers: what is saved, and the plain definition of what it is (tests/twin.py).

The definition is written out here, not read from the module or file that it describes; only the numbers of the weights
are taken from there. Widths are small, so that Python loops over them, and codes that are wrong are found by reading.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from families import (
    bsq_vit,
    dplm,
    infinity,
    kronos,
    lucidrains,
    maskbit,
    open_genie,
    open_magvit2,
    residual,
    seed_vc,
    show_o,
    unstored,
)
from twin import Config

from lfq_cli import LFQ, GroupedResidualLFQ, ResidualLFQ

CLEAR = 1e-3
"""How far from 0 each latent is where it comes out of a matrix product: no order of summation moves it so far."""


@dataclass(frozen=True)
class QuantizerCase:
    """`make` gives a module, which is saved by save_pretrained, or a state dict, which is saved as `file`.

    options: what the file does not say, for the command line. shape: of the input, with its features. prefix: what the
    names of the weights begin with in the state dict, and renamed: other names for the reference's.
    """

    make: Callable[[], Any]
    config: Config
    shape: tuple[int, ...]
    options: tuple[str, ...] = ()
    file: str = "model.safetensors"
    prefix: str = ""
    renamed: dict[str, str] = field(default_factory=dict)
    clear: bool = False
    """Whether inputs are kept away from bits that a rounding error decides."""
    close: bool = False
    """Whether values are those of a matrix product, equal but for rounding."""
    family: str | None = None


def own(
    make: Callable[..., Any], config: Config, shape: tuple[int, ...], options: str = "", **facts: Any
) -> QuantizerCase:
    """A module of lfq_cli with drawn weights."""

    def build() -> Any:
        torch.manual_seed(7)
        return make().eval()

    return QuantizerCase(build, config, shape, tuple(options.split()), **facts)


def foreign(
    family: str, make: Callable[[], Any], config: Config, shape: tuple[int, ...], options: str = "", **facts: Any
) -> QuantizerCase:
    """A state dict of tests/families."""
    return QuantizerCase(make, config, shape, tuple(options.split()), family=family, **{"file": "model.pt"} | facts)


def without(state: dict[str, torch.Tensor], *ends: str) -> dict[str, torch.Tensor]:
    """A state dict without what is named so: of versions that had no biases."""
    return {name: tensor for name, tensor in state.items() if not name.endswith(ends)}


LINEAR = {"clear": True, "close": True}
DEFAULTS = "--codebook-scale 1 --no-spherical --soft-clamp none"

PLAIN = {
    "plain": own(lambda: LFQ(codebook_size=2**6), Config(6, (6,)), (2, 6, 2, 3)),
    "lsb": own(lambda: LFQ(codebook_size=2**6, bit_order="lsb"), Config(6, (6,), bit_order="lsb"), (2, 6, 2, 3)),
    "1 bit": own(lambda: LFQ(codebook_size=2), Config(1, (1,)), (9, 1)),
    "1 bit, lsb": own(lambda: LFQ(codebook_size=2, bit_order="lsb"), Config(1, (1,), bit_order="lsb"), (9, 1)),
    "8 bits": own(lambda: LFQ(codebook_size=2**8), Config(8, (8,)), (2, 5, 8)),
    "31 bits": own(lambda: LFQ(codebook_size=2**31), Config(31, (31,)), (5, 31)),
    "32 bits": own(lambda: LFQ(codebook_size=2**32), Config(32, (32,)), (5, 32)),
    "63 bits": own(lambda: LFQ(codebook_size=2**63), Config(63, (63,)), (5, 63)),
    "64 bits": own(lambda: LFQ(codebook_size=2**64), Config(64, (64,)), (5, 64)),
    "64 bits, lsb": own(lambda: LFQ(dim=64, bit_order="lsb"), Config(64, (64,), bit_order="lsb"), (5, 64)),
    "codebook_scale": own(
        lambda: LFQ(codebook_size=2**6, codebook_scale=0.3), Config(6, (6,), codebook_scale=0.3), (2, 6, 2, 3)
    ),
    "codebook axis kept": own(
        lambda: LFQ(codebook_size=2**6, keep_num_codebooks_dim=True),
        Config(6, (6,), keep_num_codebooks_dim=True),
        (2, 6, 2, 3),
    ),
    "channels first": own(
        lambda: LFQ(codebook_size=2**6, channel_first=True), Config(6, (6,), channel_first=True), (2, 6, 5)
    ),
    "channels last": own(
        lambda: LFQ(codebook_size=2**6, channel_first=False), Config(6, (6,), channel_first=False), (2, 2, 3, 6)
    ),
    "one vector": own(lambda: LFQ(codebook_size=2**6), Config(6, (6,)), (6,)),
    "no vectors": own(lambda: LFQ(codebook_size=2**6), Config(6, (6,)), (0, 6)),
    "a folder": own(lambda: LFQ(codebook_size=2**6), Config(6, (6,)), (2, 6, 2, 3), file="model"),
    "soft clamp": own(
        lambda: LFQ(codebook_size=2**6, soft_clamp_input_value=2.0),
        Config(6, (6,), soft_clamp_input_value=2.0),
        (2, 5, 6),
    ),
    "codebooks": own(lambda: LFQ(codebook_size=2**4, num_codebooks=3), Config(12, (4, 4, 4)), (2, 12, 2, 3)),
    "codebooks, lsb, channels first": own(
        lambda: LFQ(codebook_size=2**5, num_codebooks=2, channel_first=True, bit_order="lsb"),
        Config(10, (5, 5), channel_first=True, bit_order="lsb"),
        (2, 10, 5),
    ),
    "codebooks of 64 bits": own(lambda: LFQ(codebook_size=2**64, num_codebooks=2), Config(128, (64, 64)), (3, 128)),
}

CUT = {
    "cut 4,8": own(
        lambda: LFQ(codebook_size=2**12), Config(12, (12,), index_dims=(4, 8)), (2, 12, 2, 3), "--codebook-dims 4,8"
    ),
    "cut 4,8, lsb": own(
        lambda: LFQ(codebook_size=2**12, bit_order="lsb"),
        Config(12, (12,), index_dims=(4, 8), bit_order="lsb"),
        (2, 5, 12),
        "--codebook-dims 4,8",
    ),
    "cut 13,7": own(
        lambda: LFQ(codebook_size=2**20, factorized_bits=[13, 7]), Config(20, (20,), index_dims=(13, 7)), (2, 5, 20)
    ),
    "cut 13,7, lsb": own(
        lambda: LFQ(codebook_size=2**20, factorized_bits=[13, 7], bit_order="lsb"),
        Config(20, (20,), index_dims=(13, 7), bit_order="lsb"),
        (2, 20, 2, 3),
    ),
    "cut, made whole by an option": own(
        lambda: LFQ(codebook_size=2**12, factorized_bits=[4, 8]), Config(12, (12,)), (2, 5, 12), "--codebook-dims 12"
    ),
    "64 bits, cut": own(
        lambda: LFQ(codebook_size=2**64), Config(64, (64,), index_dims=(32, 31, 1)), (5, 64), "--codebook-dims 32,31,1"
    ),
    "codebooks, cut": own(
        lambda: LFQ(codebook_size=2**6, num_codebooks=2),
        Config(12, (6, 6), index_dims=(3, 4, 5)),
        (2, 5, 12),
        "--codebook-dims 3,4,5",
    ),
    "spherical, cut": own(
        lambda: LFQ(codebook_size=2**12, spherical=True),
        Config(12, (12,), spherical=True, index_dims=(4, 8)),
        (2, 5, 12),
        "--codebook-dims 4,8",
    ),
    "rotated, cut": own(
        lambda: LFQ(codebook_size=2**6, num_codebooks=2, orthogonal_rotation=True, factorized_bits=[4, 8]),
        Config(12, (6, 6), index_dims=(4, 8)),
        (2, 5, 12),
        **LINEAR,
    ),
    "projected, cut": own(
        lambda: LFQ(codebook_size=2**12, dim=7),
        Config(7, (12,), index_dims=(4, 8)),
        (2, 5, 7),
        "--codebook-dims 4,8",
        **LINEAR,
    ),
}

SHAPED = {
    "spherical": own(lambda: LFQ(codebook_size=2**6, spherical=True), Config(6, (6,), spherical=True), (2, 6, 2, 3)),
    "spherical, scaled": own(
        lambda: LFQ(codebook_size=2**7, spherical=True, codebook_scale=0.5),
        Config(7, (7,), codebook_scale=0.5, spherical=True),
        (2, 5, 7),
    ),
    "spherical, codebooks, clamp": own(
        lambda: LFQ(codebook_size=2**4, num_codebooks=3, spherical=True, soft_clamp_input_value=1.5),
        Config(12, (4, 4, 4), spherical=True, soft_clamp_input_value=1.5),
        (2, 5, 12),
    ),
    "rotated": own(lambda: LFQ(codebook_size=2**6, orthogonal_rotation=True), Config(6, (6,)), (2, 6, 2, 3), **LINEAR),
    "rotated, codebooks, clamp": own(
        lambda: LFQ(codebook_size=2**5, num_codebooks=2, orthogonal_rotation=True, soft_clamp_input_value=1.5),
        Config(10, (5, 5), soft_clamp_input_value=1.5),
        (2, 5, 10),
        **LINEAR,
    ),
    "projected": own(lambda: LFQ(codebook_size=2**6, dim=9), Config(9, (6,)), (2, 9, 2, 3), **LINEAR),
    "projected, without bias": own(
        lambda: LFQ(codebook_size=2**6, dim=9, projection_has_bias=False), Config(9, (6,)), (2, 5, 9), **LINEAR
    ),
    "projected, square": own(
        lambda: LFQ(codebook_size=2**6, has_projections=True), Config(6, (6,)), (2, 5, 6), **LINEAR
    ),
    "projected, 64 bits": own(lambda: LFQ(codebook_size=2**64, dim=9), Config(9, (64,)), (4, 9), **LINEAR),
    "projected, codebooks, channels first": own(
        lambda: LFQ(codebook_size=2**4, num_codebooks=2, dim=7, channel_first=True),
        Config(7, (4, 4), channel_first=True),
        (2, 7, 5),
        **LINEAR,
    ),
    "projected, spherical": own(
        lambda: LFQ(codebook_size=2**6, dim=9, spherical=True), Config(9, (6,), spherical=True), (2, 5, 9), **LINEAR
    ),
    "projected, spherical, rotated, codebooks, lsb": own(
        lambda: LFQ(
            codebook_size=2**4, num_codebooks=2, dim=7, spherical=True, orthogonal_rotation=True, bit_order="lsb"
        ),
        Config(7, (4, 4), spherical=True, bit_order="lsb"),
        (2, 5, 7),
        **LINEAR,
    ),
    "cosine": own(
        lambda: LFQ(codebook_size=2**6, dim=9, cosine_sim_project_in=True),
        Config(9, (6,), cosine_scale=1.0),
        (2, 5, 9),
        **LINEAR,
    ),
    "cosine, scaled, rotated, clamp": own(
        lambda: LFQ(
            codebook_size=2**6,
            dim=9,
            cosine_sim_project_in=True,
            cosine_sim_project_in_scale=3.0,
            orthogonal_rotation=True,
            soft_clamp_input_value=1.5,
        ),
        Config(9, (6,), cosine_scale=3.0, soft_clamp_input_value=1.5),
        (2, 5, 9),
        **LINEAR,
    ),
}

LEVELS = {
    "residual": own(
        lambda: ResidualLFQ(dim=4, num_quantizers=3, codebook_size=2**4), Config(4, (4,), levels=3), (2, 4, 2, 3)
    ),
    "residual, lsb": own(
        lambda: ResidualLFQ(dim=4, num_quantizers=3, codebook_size=2**4, bit_order="lsb"),
        Config(4, (4,), levels=3, bit_order="lsb"),
        (2, 5, 4),
    ),
    "residual, 1 bit": own(
        lambda: ResidualLFQ(dim=1, num_quantizers=5, codebook_size=2), Config(1, (1,), levels=5), (9, 1)
    ),
    "residual, 1 level": own(
        lambda: ResidualLFQ(dim=4, num_quantizers=1, codebook_size=2**4), Config(4, (4,), levels=1), (2, 5, 4)
    ),
    "residual, 26 levels": own(
        lambda: ResidualLFQ(dim=3, num_quantizers=26, codebook_size=2**3), Config(3, (3,), levels=26), (5, 3)
    ),
    "residual, 64 bits": own(
        lambda: ResidualLFQ(dim=64, num_quantizers=2, codebook_size=2**64), Config(64, (64,), levels=2), (3, 64)
    ),
    "residual, channels first": own(
        lambda: ResidualLFQ(dim=4, num_quantizers=2, codebook_size=2**4, channel_first=True),
        Config(4, (4,), levels=2, channel_first=True),
        (2, 4, 5),
    ),
    "residual, spherical": own(
        lambda: ResidualLFQ(dim=4, num_quantizers=3, codebook_size=2**4, spherical=True),
        Config(4, (4,), levels=3, spherical=True),
        (2, 5, 4),
    ),
    "residual, soft clamp": own(
        lambda: ResidualLFQ(dim=4, num_quantizers=3, codebook_size=2**4, soft_clamp_input_value=2.0),
        Config(4, (4,), levels=3, soft_clamp_input_value=2.0),
        (2, 5, 4),
    ),
    "residual, rotated": own(
        lambda: ResidualLFQ(dim=4, num_quantizers=3, codebook_size=2**4, orthogonal_rotation=True),
        Config(4, (4,), levels=3),
        (2, 5, 4),
        **LINEAR,
    ),
    "residual, projected": own(
        lambda: ResidualLFQ(dim=9, num_quantizers=3, codebook_size=2**4),
        Config(9, (4,), levels=3),
        (2, 9, 2, 3),
        **LINEAR,
    ),
    "grouped": own(
        lambda: GroupedResidualLFQ(dim=8, groups=2, num_quantizers=3, codebook_size=2**4),
        Config(8, (4,), levels=3, groups=2),
        (2, 8, 2, 3),
    ),
    "grouped, projected, channels first": own(
        lambda: GroupedResidualLFQ(dim=12, groups=2, num_quantizers=2, codebook_size=2**4, accept_image_fmap=True),
        Config(12, (4,), levels=2, groups=2, channel_first=True),
        (2, 12, 5),
        **LINEAR,
    ),
    "grouped, spherical, rotated": own(
        lambda: GroupedResidualLFQ(
            dim=8, groups=2, num_quantizers=2, codebook_size=2**4, spherical=True, orthogonal_rotation=True
        ),
        Config(8, (4,), levels=2, groups=2, spherical=True),
        (2, 5, 8),
        **LINEAR,
    ),
}

FAMILIES = {
    "lucidrains": foreign(
        "lucidrains", lambda: lucidrains.state_dict(1, codebook_dim=6), Config(6, (6,)), (2, 6, 2, 3)
    ),
    "lucidrains, everything given": foreign(
        "lucidrains",
        lambda: lucidrains.state_dict(1, codebook_dim=4, num_codebooks=2, dim=7),
        Config(7, (4, 4), codebook_scale=0.5, spherical=True),
        (2, 5, 7),
        "--codebook-scale 0.5 --spherical --soft-clamp none",
        **LINEAR,
    ),
    "lucidrains, codebooks given": foreign(
        "lucidrains",
        lambda: lucidrains.state_dict(1, codebook_dim=4),
        Config(12, (4, 4, 4)),
        (2, 5, 12),
        "--codebook-dims 4,4,4",
    ),
    "lucidrains, cut": foreign(
        "lucidrains",
        lambda: lucidrains.state_dict(1, codebook_dim=12),
        Config(12, (12,), index_dims=(4, 8)),
        (2, 5, 12),
        f"{DEFAULTS} --codebook-dims 4,8",
    ),
    "lucidrains, cosine, rotated": foreign(
        "lucidrains",
        lambda: lucidrains.state_dict(1, codebook_dim=6, dim=9, cosine=True, rotation=True),
        Config(9, (6,), cosine_scale=2.0),
        (2, 5, 9),
        f"{DEFAULTS} --cosine-scale 2",
        **LINEAR,
    ),
    "lucidrains, bias of project_out alone": foreign(
        "lucidrains",
        lambda: without(lucidrains.state_dict(1, codebook_dim=6, dim=9), "project_in.bias"),
        Config(9, (6,)),
        (2, 5, 9),
        DEFAULTS,
        **LINEAR,
    ),
    "residual, projected without bias": foreign(
        "residual",
        lambda: without(residual.state_dict(1, dim=9), "bias"),
        Config(9, (4,), levels=3),
        (2, 5, 9),
        **LINEAR,
    ),
    "seed-vc": foreign(
        "lucidrains",
        lambda: seed_vc.state_dict(1, bits=5, dim=9),
        Config(9, (5,), spherical=True),
        (2, 5, 9),
        "--spherical",
        prefix="quantizer.",
        **LINEAR,
    ),
    "residual state dict": foreign("residual", lambda: residual.state_dict(1), Config(4, (4,), levels=3), (2, 4, 2, 3)),
    "soundstream": foreign(
        "residual",
        lambda: residual.state_dict(1, groups=1, dim=9, model="soundstream"),
        Config(9, (4,), levels=3, groups=1),
        (2, 5, 9),
        "--no-spherical",
        prefix="rq.",
        **LINEAR,
    ),
    "open-magvit2": foreign(
        "open-magvit2",
        lambda: open_magvit2.state_dict(1, bits=10),
        Config(10, (10,), channel_first=True, bit_order="lsb"),
        (2, 10, 2, 3),
    ),
    "open-magvit2, cut": foreign(
        "open-magvit2",
        lambda: open_magvit2.state_dict(1, bits=10),
        Config(10, (10,), channel_first=True, bit_order="msb", index_dims=(4, 6)),
        (2, 10, 2, 3),
        "--codebook-dims 4,6 --bit-order msb",
    ),
    "wetok": foreign(
        "open-magvit2",
        lambda: open_magvit2.state_dict(1, bits=72),
        Config(72, (8,) * 9, channel_first=True, bit_order="lsb"),
        (2, 72, 1, 2),
        "--codebook-dims 8,8,8,8,8,8,8,8,8",
    ),
    "show-o": foreign("show-o", lambda: show_o.state_dict(1, bits=7), Config(7, (7,)), (2, 7, 2, 3)),
    "bsq": foreign(
        "bsq",
        lambda: bsq_vit.state_dict(1, bits=8, group_bits=8),
        Config(8, (8,), codebook_scale=8**-0.5),
        (2, 5, 8),
        "--codebook-dims 8",
    ),
    "kronos": foreign(
        "kronos",
        lambda: kronos.state_dict(1, s1_bits=3, s2_bits=5),
        Config(8, (8,), codebook_scale=8**-0.5, bit_order="lsb", index_dims=(3, 5)),
        (2, 5, 8),
    ),
    "kronos, whole": foreign(
        "kronos",
        lambda: kronos.state_dict(1, s1_bits=3, s2_bits=5),
        Config(8, (8,), codebook_scale=8**-0.5, bit_order="lsb"),
        (2, 5, 8),
        "--codebook-dims 8",
    ),
    "maskbit": foreign(
        "maskbit", lambda: maskbit.state_dict(1, bits=6), Config(6, (6,), bit_order="lsb"), (2, 6, 2, 3)
    ),
    "infinity": foreign(
        "infinity", lambda: infinity.state_dict(1, bits=16), Config(16, (16,), codebook_scale=0.25), (2, 16, 2, 3)
    ),
    "open-genie": foreign(
        "open-genie",
        lambda: open_genie.state_dict(1, bits=5, codebooks=2, dim=9),
        Config(9, (5, 5)),
        (2, 9, 1, 2, 3),
        prefix="quant.",
        renamed={"proj_inp": "project_in", "proj_out": "project_out"},
        **LINEAR,
    ),
    "qlip": foreign(
        "qlip",
        lambda: unstored.qlip_state_dict(1, bits=8),
        Config(8, (8,), codebook_scale=8**-0.5),
        (2, 5, 8),
        "--family qlip --codebook-dims 8",
    ),
    "focalcodec": foreign(
        "focalcodec",
        lambda: unstored.focalcodec_state_dict(1, bits=13),
        Config(13, (13,), codebook_scale=13**-0.5),
        (2, 5, 13),
        "--family focalcodec --codebook-dims 13",
    ),
    "ursa": foreign(
        "ursa",
        lambda: unstored.ursa_state_dict(1, bits=8),
        Config(8, (8,), channel_first=True, index_dims=(3, 5)),
        (2, 8, 5),
        "--family ursa --codebook-dims 3,5",
    ),
    "lucidrains-1.9": foreign(
        "lucidrains-1.9",
        lambda: unstored.early_lucidrains_state_dict(1, bits=6, dim=9),
        Config(9, (6,)),
        (2, 5, 9),
        "--family lucidrains-1.9",
        **LINEAR,
    ),
    "cosmos-framework": foreign(
        "cosmos-framework",
        lambda: unstored.cosmos_state_dict(1, bits=3, codebooks=2, dim=9),
        Config(9, (3, 3), bit_order="lsb"),
        (2, 5, 9),
        "--family cosmos-framework --num-codebooks 2",
        prefix="quantizer.",
        **LINEAR,
    ),
    "dplm-2": foreign("dplm-2", lambda: dplm.state_dict(1, bits=13), Config(13, (13,)), (2, 5, 13)),
}

QUANTIZERS = PLAIN | CUT | SHAPED | LEVELS | FAMILIES
