"""checkpoints/: every family's state dict, as its own module saves it, against the twin of its rule (tests/families).

From file to file: tokens and decoded values exact where nothing is projected; else where the twin's margin is above
1e-5, and values within 1e-5.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
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
    refused,
    residual,
    seed_vc,
    show_o,
    unstored,
    wrappers,
)
from safetensors.numpy import load_file
from safetensors.torch import save_file

from lfq_cli import checkpoints, open_codes
from lfq_cli.checkpoints import Facts
from lfq_cli.checkpoints.families import FAMILIES
from lfq_cli.errors import LfqError
from lfq_cli.jobs.decode import DecodeOptions, decode
from lfq_cli.jobs.encode import EncodeOptions, encode
from lfq_cli.jobs.inspect import as_json, inspect
from lfq_cli.jobs.plan import Job

SEED = 5


@dataclass(frozen=True)
class Case:
    """A state dict, an input's shape, and what the family's twin makes of it. `facts`: what the file does not say."""

    family: str
    state: Any
    shape: tuple[int, ...]
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]
    facts: dict[str, Any] = field(default_factory=dict)
    margin: Callable[[Any], Any] | None = None
    assumed: frozenset[str] = frozenset()


LFQ_ASSUMED = frozenset({"codebook_scale", "spherical", "soft_clamp_input_value"})
RESIDUAL_ASSUMED = frozenset({"spherical", "soft_clamp_input_value"})


def lucidrains_case(shape, *, facts=None, asked=None, codebooks=1, **shapes):
    state = lucidrains.state_dict(SEED, num_codebooks=codebooks, **shapes)
    projected = shapes.get("dim") is not None or shapes.get("rotation", False)
    cosine = {"cosine": True} if shapes.get("cosine") else {}

    def margin(x):
        return lucidrains.margin(state, np.moveaxis(x, 1, -1) if x.ndim >= 4 else x, **cosine)

    return Case(
        "lucidrains",
        state,
        shape,
        lambda x: lucidrains.encode(state, x, **cosine),
        lambda indices: lucidrains.decode(state, indices, num_codebooks=codebooks, **(asked or {})),
        facts or {},
        margin if projected else None,
    )


def residual_case(shape, *, asked=None, facts=None, groups=None, model=None, prefix="", **shapes):
    asked = asked or {}
    whole = residual.state_dict(SEED, groups=groups, model=model, **shapes)
    state = {name.removeprefix(prefix): tensor for name, tensor in whole.items() if name.startswith(prefix)}

    def grouped(x):
        return np.concatenate(list(residual.encode_grouped(state, x, **asked)), axis=-1)

    def ungrouped(indices):
        return residual.decode_grouped(state, np.stack(np.split(indices, groups, axis=-1)), **asked)

    def margin(x):
        if groups is None:
            return residual.margin(state, x, **asked)
        parts = zip(residual.groups_of(state), np.split(x, groups, axis=-1), strict=True)
        return np.min([residual.margin(part, own, **asked) for part, own in parts], axis=0)

    exact = shapes.get("dim") is None and not shapes.get("rotation")
    return Case(
        "residual",
        whole,
        shape,
        grouped if groups else lambda x: residual.encode(state, x, **asked),
        ungrouped if groups else lambda indices: residual.decode(state, indices, **asked),
        facts or {},
        None if exact else margin,
        RESIDUAL_ASSUMED - set(facts or {}) - ({"soft_clamp_input_value"} if "soft_clamp" in (facts or {}) else set()),
    )


def state_case(family, module, state, shape, *, facts=None, assumed=frozenset(), margin=None, **asked):
    return Case(
        family,
        state,
        shape,
        lambda x: module.encode(state, x),
        lambda indices: module.decode(state, indices, **asked),
        facts or {},
        margin,
        assumed,
    )


def bsq_groups_case(bits, group_bits, *, facts=None, normalized=True, model="bsq_vit"):
    facts = facts or {}
    return Case(
        "bsq",
        bsq_vit.state_dict(SEED, bits=bits, group_bits=group_bits, model=model),
        (2, 30, bits),
        lambda x: bsq_vit.encode_groups(x, group_bits=group_bits),
        lambda indices: bsq_vit.decode_groups(indices, group_bits=group_bits, normalized=normalized),
        facts,
        None,
        frozenset({"codebook_scale"} - set(facts)),
    )


def open_magvit2_case(fields, *, order="lsb", facts=None, **shapes):
    facts = facts or {}
    bits = sum(fields)
    state = open_magvit2.state_dict(SEED, bits=bits, **shapes)
    open_facts = {"bit_order"} - set(facts) | (set() if "codebook_dims" in facts else {"factorized_bits"})

    def indices(x):
        found = open_magvit2.encode(x, fields=fields, order=order)
        return found if len(fields) > 1 else found[..., 0]

    def values(found):
        return open_magvit2.decode(found if len(fields) > 1 else found[..., None], fields=fields, order=order)

    shape = (2, bits, 3, 3, 3) if shapes.get("video") else (2, bits, 3, 3)
    return Case("open-magvit2", state, shape, indices, values, facts, None, frozenset(open_facts))


def unstored_case(family, state, shape, bits, *, spherical, first=False):
    return Case(
        family,
        state,
        shape,
        lambda x: unstored.encode(x, first=first),
        lambda indices: unstored.decode(indices, bits=bits, spherical=spherical, first=first),
        {"family": family, "codebook_dims": (bits,)},
    )


KRONOS = {sizes: kronos.state_dict(SEED, s1_bits=sizes[0], s2_bits=sizes[1]) for sizes in ((10, 10), (6, 9))}
GENIE = open_genie.state_dict(SEED, bits=5, codebooks=2, dim=16)
STAR = infinity.star_state_dict(SEED)
SEED_VC = seed_vc.state_dict(SEED)
EARLY = unstored.early_lucidrains_state_dict(SEED, bits=6, dim=16)

COSMOS = {codebooks: unstored.cosmos_state_dict(SEED, codebooks=codebooks) for codebooks in (1, 3)}


def early_margin(x, state=EARLY, prefix=""):
    weight, bias = (state[f"{prefix}project_in.{part}"].numpy() for part in ("weight", "bias"))
    return np.abs(x @ weight.T + bias).min(axis=-1)


CASES = {
    "lucidrains": lucidrains_case((2, 4, 5, 5), codebook_dim=4),
    "lucidrains, 18 bits": lucidrains_case((7, 9, 18), codebook_dim=18),
    "lucidrains, 64 bits": lucidrains_case((3, 5, 64), codebook_dim=64),
    "lucidrains, 3 codebooks": lucidrains_case((2, 12, 5, 5), codebook_dim=4, codebooks=3, facts={"num_codebooks": 3}),
    "lucidrains, projected": lucidrains_case((2, 16, 5, 5), codebook_dim=6, dim=16),
    "lucidrains, projected, 2 codebooks": lucidrains_case((9, 20, 16), codebook_dim=6, dim=16, codebooks=2),
    "lucidrains, cosine": lucidrains_case((9, 20, 16), codebook_dim=6, dim=16, cosine=True),
    "lucidrains, rotation": lucidrains_case((9, 20, 6), codebook_dim=6, rotation=True, facts={"soft_clamp": "none"}),
    "lucidrains, spherical": lucidrains_case(
        (9, 20, 7), codebook_dim=7, facts={"spherical": True}, asked={"spherical": True}
    ),
    "lucidrains, scale": lucidrains_case(
        (9, 20, 7), codebook_dim=7, facts={"codebook_scale": 0.3}, asked={"scale": 0.3}
    ),
    "residual": residual_case((3, 20, 4), levels=5),
    "residual, 12 levels": residual_case((3, 20, 10), codebook_dim=10, levels=12),
    "residual, projected": residual_case((3, 20, 9), levels=3, dim=9),
    "residual, spherical": residual_case((3, 20, 4), levels=3, asked={"spherical": True}, facts={"spherical": True}),
    "residual, rotation": residual_case((3, 20, 4), levels=3, rotation=True, facts={"soft_clamp": "none"}),
    "grouped": residual_case((3, 20, 12), groups=3, levels=2),
    "grouped, projected": residual_case((3, 20, 18), groups=2, levels=2, dim=9),
    "soundstream": residual_case((3, 20, 9), groups=1, dim=9, model="soundstream", prefix="rq."),
    "meshgpt": residual_case((3, 20, 9), dim=9, model="meshgpt", prefix="quantizer."),
    "open-magvit2": open_magvit2_case([18]),
    "open-magvit2, 14 bits": open_magvit2_case([14]),
    "open-magvit2, video": open_magvit2_case([18], video=True),
    "open-magvit2, factorized": open_magvit2_case([6, 12], facts={"codebook_dims": (6, 12)}),
    "open-magvit2, in halves": open_magvit2_case([9, 9], facts={"codebook_dims": (9, 9)}),
    "open-magvit2, before 2024-09": open_magvit2_case([18], order="msb", facts={"bit_order": "msb"}),
    "wetok": open_magvit2_case([8] * 8, facts={"codebook_dims": (8,) * 8}),
    "bitdance": open_magvit2_case([32] * 4, facts={"codebook_dims": (32,) * 4}),
    "dplm-2": state_case("dplm-2", dplm, dplm.state_dict(SEED), (2, 40, 13)),
    "dplm-2, 5 bits": state_case("dplm-2", dplm, dplm.state_dict(SEED, bits=5), (2, 40, 5)),
    "show-o": state_case("show-o", show_o, show_o.state_dict(SEED), (2, 13, 4, 4)),
    "bsq-vit": bsq_groups_case(18, 9),
    "bsq-vit, 36 bits": bsq_groups_case(36, 9),
    "bsq-vit, 25 bits": bsq_groups_case(25, 5),
    "bsq-vit, not normalised": bsq_groups_case(18, 9, facts={"codebook_scale": 1.0}, normalized=False),
    "bsq-vit, the module alone": bsq_groups_case(12, 4, model=None),
    "bsq-vit, whole codes": state_case(
        "bsq",
        bsq_vit,
        bsq_vit.state_dict(SEED),
        (2, 30, 18),
        facts={"codebook_dims": (18,)},
        assumed=frozenset({"codebook_scale"}),
    ),
    "bsq-vit, 36 bits, one group": state_case(
        "bsq",
        bsq_vit,
        bsq_vit.state_dict(SEED, bits=36, group_bits=36),
        (2, 30, 36),
        assumed=frozenset({"codebook_scale"}),
    ),
    "bsq-vit, groups of one": state_case(
        "bsq", bsq_vit, bsq_vit.state_dict(SEED, group_bits=1), (2, 30, 18), assumed=frozenset({"codebook_scale"})
    ),
    "uniar": state_case(
        "bsq",
        bsq_vit,
        bsq_vit.state_dict(SEED, bits=64, group_bits=1, model="uniar"),
        (30, 64),
        assumed=frozenset({"codebook_scale"}),
    ),
    "tadicodec": state_case(
        "bsq",
        bsq_vit,
        bsq_vit.state_dict(SEED, bits=14, group_bits=7, model="tadicodec"),
        (2, 30, 14),
        assumed=frozenset({"codebook_scale"}),
    ),
    **{
        f"kronos, {s1}+{s2}": Case(
            "kronos",
            state,
            (3, 40, s1 + s2),
            lambda x, state=state: kronos.encode_half(state, x),
            lambda indices, state=state: kronos.decode_half(state, indices),
        )
        for (s1, s2), state in KRONOS.items()
    },
    "kronos, whole": state_case("kronos", kronos, KRONOS[6, 9], (3, 40, 15), facts={"codebook_dims": (15,)}),
    "maskbit": state_case("maskbit", maskbit, maskbit.state_dict(SEED), (2, 10, 4, 4)),
    "maskbit, splits": Case(
        "maskbit",
        maskbit.state_dict(SEED, bits=12),
        (2, 12, 4, 4),
        lambda x: maskbit.encode_splits(maskbit.state_dict(SEED, bits=12), x),
        lambda indices: open_magvit2.decode(indices, fields=[6, 6]),
        {"codebook_dims": (6, 6)},
    ),
    "infinity": state_case("infinity", infinity, infinity.state_dict(SEED), (2, 32, 4, 4)),
    "infinity, 64 bits": state_case("infinity", infinity, infinity.state_dict(SEED, bits=64), (2, 64, 4, 4)),
    "infinity, one name": state_case(
        "infinity",
        infinity,
        {name: t for name, t in infinity.state_dict(SEED).items() if not name.startswith("quantize.")}
        | {"quantizer.lfq.mask": infinity.state_dict(SEED)["quantizer.lfq.mask"]},
        (2, 32, 4, 4),
        facts={"family": "infinity"},
    ),
    **{
        f"infinity-star, {part}": Case(
            "infinity",
            STAR,
            (2, bits, 4, 4),
            lambda x, part=part: infinity.encode(STAR, x, part=part),
            lambda indices, part=part: infinity.decode(STAR, indices, part=part),
            {"module": part},
        )
        for part, bits in (("lfq_semantic", 16), ("lfq_detail", 64))
    },
    "speechbrain's focalcodec": Case(
        "lucidrains",
        {"mask": 2 ** torch.arange(12, -1, -1)},
        (2, 40, 13),
        unstored.encode,
        lambda indices: unstored.decode(indices, bits=13, spherical=True),
        {"spherical": True},
    ),
    "seed-vc": state_case(
        "lucidrains",
        seed_vc,
        SEED_VC,
        (2, 40, 16),
        facts={"spherical": True},
        margin=lambda x: seed_vc.margin(SEED_VC, x),
    ),
    "open-genie": state_case(
        "open-genie",
        open_genie,
        GENIE,
        (2, 16, 3, 4, 4),
        margin=lambda x: open_genie.margin(GENIE, x),
        codebooks=2,
    ),
    "qlip": unstored_case("qlip", unstored.qlip_state_dict(SEED), (2, 30, 28), 28, spherical=True),
    "focalcodec": unstored_case("focalcodec", unstored.focalcodec_state_dict(SEED), (2, 30, 13), 13, spherical=True),
    "ursa": unstored_case("ursa", unstored.ursa_state_dict(SEED), (2, 16, 4, 4), 16, spherical=False, first=True),
    "lucidrains 1.9.2": Case(
        "lucidrains-1.9",
        EARLY,
        (3, 30, 16),
        lambda x: unstored.encode_early_lucidrains(EARLY, x),
        lambda indices: unstored.decode_early_lucidrains(EARLY, indices, bits=6),
        {"family": "lucidrains-1.9"},
        early_margin,
    ),
    "lucidrains 1.9.2, two codebooks": Case(
        "lucidrains-1.9",
        EARLY,
        (3, 30, 16),
        lambda x: unstored.encode_early_lucidrains(EARLY, x, codebooks=2),
        lambda indices: unstored.decode_early_lucidrains(EARLY, indices, bits=3, codebooks=2),
        {"family": "lucidrains-1.9", "num_codebooks": 2},
        early_margin,
    ),
    **{
        f"cosmos-framework, {codebooks} codebook(s)": Case(
            "cosmos-framework",
            state,
            (90, 48),
            lambda x, state=state, codebooks=codebooks: unstored.encode_cosmos(state, x, codebooks=codebooks),
            lambda indices, state=state, codebooks=codebooks: unstored.decode_cosmos(
                state, indices, bits=14, codebooks=codebooks
            ),
            {"family": "cosmos-framework"} | ({"num_codebooks": codebooks} if codebooks > 1 else {}),
            lambda x, state=state: early_margin(x, state, "quantizer."),
        )
        for codebooks, state in COSMOS.items()
    },
}


def save(state, path):
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous().clone() for name, tensor in state.items()}, path)
    else:
        torch.save(state, path)
    return path


def only(outcomes):
    (outcome,) = outcomes
    if outcome.error is not None:
        raise outcome.error
    return outcome


def inputs(shape):
    x = np.random.default_rng(SEED).standard_normal(shape).astype(np.float32)
    x.reshape(-1)[:4] = [0.0, -0.0, 1e-20, -1e-20]
    return x


def test_every_family_has_a_case():
    assert {case.family for case in CASES.values()} == set(FAMILIES)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("name", CASES)
def test_tokens_and_values_are_the_familys(name, suffix, tmp_path):
    case = CASES[name]
    x = inputs(case.shape) if case.margin is None else inputs(case.shape) + np.float32(0.01)
    np.save(tmp_path / "x.npy", x)
    quantizer = checkpoints.load(save(case.state, tmp_path / f"model{suffix}"), Facts(**case.facts))
    codes, decoded = tmp_path / "x.codes.safetensors", tmp_path / "x.safetensors"
    only(encode(quantizer, [Job(tmp_path / "x.npy", codes)], EncodeOptions()))
    only(decode(quantizer, [Job(codes, decoded)], DecodeOptions()))
    with open_codes(codes) as file:
        (tensor,) = (file[key] for key in file.header.tensors)
        tokens = tensor[...]
    expected = case.encode(x)
    assert tokens.shape == expected.shape
    (values,) = load_file(decoded).values()
    if case.margin is None:
        assert np.array_equal(tokens, expected)
        assert np.array_equal(values, case.decode(tokens))
    else:
        sure = case.margin(x) > 1e-5
        assert sure.mean() > 0.9
        assert np.array_equal(tokens[sure], expected[sure])
        assert np.allclose(values, case.decode(tokens), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_what_the_file_does_not_say_is_assumed_by_name(name, tmp_path):
    case = CASES[name]
    quantizer = checkpoints.load(save(case.state, tmp_path / "model.pt"), Facts(**case.facts))
    given = set(Facts(**case.facts).config())
    expected = LFQ_ASSUMED - given if case.family == "lucidrains" else case.assumed - given
    cosine = {"cosine_sim_project_in_scale"} if quantizer.cosine_sim_project_in else set()
    assert quantizer.assumed == expected | cosine


WRAPPERS = {
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "module.": lambda state: wrappers.prefixed(state, "module."),
    "module.module.": lambda state: wrappers.prefixed(state, "module.module."),
    "_orig_mod.": lambda state: wrappers.prefixed(state, "_orig_mod."),
    "lightning": wrappers.lightning,
    "ema_pytorch": wrappers.ema_pytorch,
    "ema_pytorch beside its equal original": lambda state: wrappers.ema_pytorch(state, online=state),
    "trainer": lambda state: wrappers.lucidrains_trainer(state, ema=None),
    "trainer with an equal EMA": lambda state: wrappers.lucidrains_trainer(state, ema=state),
    "magvit2's save, with pickled bytes": wrappers.lucidrains_save,
    "flowmo's": wrappers.flowmo,
    "bsq-vit's": wrappers.bsq_vit,
}


@pytest.mark.slow
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("name", CASES)
def test_a_wrapped_state_dict_is_the_same_quantizer(name, wrapper, tmp_path):
    case = CASES[name]
    bare = checkpoints.load(save(case.state, tmp_path / "bare.pt"), Facts(**case.facts))
    wrapped = checkpoints.load(save(WRAPPERS[wrapper](case.state), tmp_path / "wrapped.pt"), Facts(**case.facts))
    assert (wrapped.digest, wrapped.full_config()) == (bare.digest, bare.full_config())


@pytest.mark.parametrize("name", refused.CASES)
def test_what_looks_like_a_quantizer_gets_an_answer(name, tmp_path):
    """Read where it is only a trap; else an error that says what it looks like, and how to say more if one can."""
    case = refused.CASES[name]
    path = save(case.make(SEED), tmp_path / "model.pt")
    if case.expected == "read" or name == "open_magvit2":  # nothing stored, but the autoencoder is known: said aloud
        quantizer = checkpoints.load(path)
        assert quantizer.assumed or name == "infinity_aliases"
        return
    with pytest.raises(LfqError) as raised:
        checkpoints.load(path)
    assert str(path) in raised.value.message
    assert case.expected == "refuse" or name == "cast_small_mask" or "--" in str(raised.value.hint)
    if name != "empty":
        assert (
            raised.value.message in str(as_json(inspect(path, Facts())))
            or "different quantizers" in raised.value.message
        )


ANSWERS = {
    "square_cosine": {"cosine": True},
    "two_lfqs": {"module": "ema_model.quantizers"},
    "ema_beside_online": {"module": "online_model.quantizers"},
    "infinity_one_name": {"family": "lucidrains"},
    "infinity_star": {"module": "lfq_detail"},
    "genie_with_two": {"module": "latent_action.quant"},
    "ascending_mask": {"bit_order": "lsb"},
    "fsq": {"family": "lucidrains-1.9"},
    "ursa_fsq": {"family": "ursa", "codebook_dims": (6,)},
}


@pytest.mark.parametrize("name", ANSWERS)
def test_the_option_that_was_asked_for_settles_it(name, tmp_path):
    path = save(refused.CASES[name].make(SEED), tmp_path / "model.pt")
    assert checkpoints.load(path, Facts(**ANSWERS[name])).bits_per_vector > 0


def test_every_question_has_its_answer_tested():
    asked = {name for name, case in refused.CASES.items() if case.expected == "ask"}
    assert asked - set(ANSWERS) == {"cast_small_mask", "open_magvit2"}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_that_is_named_and_not_there(family, tmp_path):
    path = save({"encoder.weight": torch.ones(3, 3)}, tmp_path / "model.pt")
    with pytest.raises(LfqError, match=r"--codebook-dims|no quantizer of family|how many bits"):
        checkpoints.load(path, Facts(family=family))


def test_the_error_of_an_unknown_family_lists_the_known_ones(tmp_path):
    path = save({"encoder.weight": torch.ones(3, 3)}, tmp_path / "model.pt")
    with pytest.raises(LfqError, match="--family magvit is unknown") as raised:
        checkpoints.load(path, Facts(family="magvit"))
    assert all(family in str(raised.value.hint) for family in FAMILIES)


@pytest.mark.parametrize("dims", [(6, 11), (18, 1), (9, 9, 9), (64,)])
def test_dims_that_do_not_make_the_code(dims, tmp_path):
    path = save(CASES["open-magvit2"].state, tmp_path / "model.pt")
    with pytest.raises(LfqError):
        checkpoints.load(path, Facts(codebook_dims=dims))


@pytest.mark.parametrize("family", ["lucidrains-1.9", "cosmos-framework"])
@pytest.mark.parametrize(
    ("facts", "message"),
    [({"num_codebooks": 4}, "do(es)? not fit"), ({"codebook_dims": (6, 6)}, "make 12 bits, the checkpoint has 6")],
)
def test_codebooks_that_do_not_share_the_rows_of_project_in(family, facts, message, tmp_path):
    path = save(EARLY, tmp_path / "model.pt")
    with pytest.raises(LfqError, match=message):
        checkpoints.load(path, Facts(family=family, **facts))


@pytest.mark.parametrize("family", ["lucidrains-1.9", "cosmos-framework"])
def test_the_rows_of_project_in_may_be_cut_otherwise_than_in_codebooks(family, tmp_path):
    path = save(EARLY, tmp_path / "model.pt")
    quantizer = checkpoints.load(path, Facts(family=family, codebook_dims=(3, 3), num_codebooks=3))
    assert quantizer.codebook_dims == (3, 3)
    assert quantizer.bits_per_vector == 6


def test_projections_alone_have_two_readings(tmp_path):
    with pytest.raises(LfqError, match="left no buffer") as raised:
        checkpoints.load(save(EARLY, tmp_path / "model.pt"))
    assert "--family lucidrains-1.9 (channel 0 is the highest bit)" in str(raised.value.hint)
    assert "--family cosmos-framework (the lowest)" in str(raised.value.hint)


def test_a_mask_alone_names_both_readings(tmp_path):
    path = save({"mask": 2 ** torch.arange(12, -1, -1)}, tmp_path / "model.pt")
    text, _ = checkpoints.load(path).assumption_text()
    assert "plain LFQ with codes ±1: --no-spherical --codebook-scale 1" in text
    assert "BSQ, with codes ±1/sqrt(D): --spherical --codebook-scale 1" in text
    for facts in ({"spherical": True, "codebook_scale": 1.0}, {"spherical": False, "codebook_scale": 1.0}):
        quantizer = checkpoints.load(path, Facts(**facts, soft_clamp="none"))
        assert not quantizer.assumed
        assert quantizer.spherical == facts["spherical"]
    text, _ = checkpoints.load(save(lucidrains.state_dict(SEED, dim=16), tmp_path / "model.pt")).assumption_text()
    assert "BSQ" not in text


def test_of_infinity_star_s_two_quantizers_one_is_chosen(tmp_path):
    path = save(infinity.file(STAR), tmp_path / "vae.pth")
    with pytest.raises(LfqError, match="2 different quantizers") as raised:
        checkpoints.load(path)
    assert "'vae.quantizer.lfq_semantic', 'vae.quantizer.lfq_detail'" in raised.value.message
    projected = infinity.file(infinity.star_state_dict(SEED, projected=True))
    for part in ("lfq_semantic", "lfq_detail"):
        with pytest.raises(LfqError, match="more than the sign of its input"):
            checkpoints.load(save(projected, tmp_path / "projected.pth"), Facts(module=part))


def test_groups_that_do_not_divide_the_code_are_asked_for(tmp_path):
    path = save(bsq_vit.state_dict(SEED, bits=18, group_bits=5), tmp_path / "model.pt")
    with pytest.raises(LfqError, match="group_basis has 5 bits, of which 18 are not a multiple"):
        checkpoints.load(path)
    assert checkpoints.load(path, Facts(codebook_dims=(18,))).codebook_dims == (18,)
    assert checkpoints.load(path, Facts(codebook_dims=(6, 12))).codebook_dims == (6, 12)


def test_a_case_can_fail(tmp_path):
    """The other bit order gives other integers: the comparison above is one."""
    case = CASES["open-magvit2"]
    path: Path = save(case.state, tmp_path / "model.pt")
    np.save(tmp_path / "x.npy", inputs(case.shape))
    out = tmp_path / "x.codes.safetensors"
    only(encode(checkpoints.load(path, Facts(bit_order="msb")), [Job(tmp_path / "x.npy", out)], EncodeOptions()))
    with open_codes(out) as file:
        assert not np.array_equal(file["data"][...], case.encode(inputs(case.shape)))
