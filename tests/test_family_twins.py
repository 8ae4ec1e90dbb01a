"""The twins of tests/families against themselves, and against the reference where it is installed."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
import vector_quantize_pytorch as reference
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
from families.arithmetic import below, bits_from, integers_of, inverse_root, normalized

KRONOS = kronos.state_dict(s1_bits=3, s2_bits=5)
BSQ = bsq_vit.state_dict(bits=12, group_bits=4)
SHOW_O = show_o.state_dict(bits=7)
MASKBIT = maskbit.state_dict(bits=6)
WIDE = infinity.state_dict(bits=64)
PLAIN = lucidrains.state_dict(codebook_dim=9)
SPHERE = lucidrains.state_dict(codebook_dim=6, num_codebooks=2)
GENIE = open_genie.state_dict(bits=5, dim=5)

# name: encode, decode, shape of x, its channel axis, |value|
PLAINLY_SIGNS = {
    "kronos": (lambda x: kronos.encode(KRONOS, x), lambda i: kronos.decode(KRONOS, i), (2, 5, 8), -1, inverse_root(8)),
    "kronos half": (
        lambda x: kronos.encode_half(KRONOS, x),
        lambda i: kronos.decode_half(KRONOS, i),
        (2, 5, 8),
        -1,
        inverse_root(8),
    ),
    "bsq": (lambda x: bsq_vit.encode(BSQ, x), lambda i: bsq_vit.decode(BSQ, i), (2, 5, 12), -1, inverse_root(12)),
    "bsq, not normalised": (
        lambda x: bsq_vit.encode(BSQ, x),
        lambda i: bsq_vit.decode(BSQ, i, normalized=False),
        (2, 5, 12),
        -1,
        1,
    ),
    "show-o": (lambda x: show_o.encode(SHOW_O, x), lambda i: show_o.decode(SHOW_O, i), (2, 7, 3, 4), 1, 1),
    "maskbit": (lambda x: maskbit.encode(MASKBIT, x), lambda i: maskbit.decode(MASKBIT, i), (2, 6, 3, 4), 1, 1),
    "infinity": (lambda x: infinity.encode(WIDE, x), lambda i: infinity.decode(WIDE, i), (2, 64, 3, 4), 1, 0.125),
    "lucidrains": (
        lambda x: lucidrains.encode(PLAIN, x),
        lambda i: lucidrains.decode(PLAIN, i, scale=0.3),
        (2, 9, 3, 4),
        1,
        np.float32(0.3),
    ),
    "lucidrains, spherical": (
        lambda x: lucidrains.encode(SPHERE, x.reshape(2, 5, 12)),
        lambda i: lucidrains.decode(SPHERE, i, num_codebooks=2, spherical=True),
        (2, 5, 12),
        -1,
        normalized(np.float32(1), 6),
    ),
    "open-genie": (lambda x: open_genie.encode(GENIE, x), lambda i: open_genie.decode(GENIE, i), (2, 5, 3, 4), 1, 1),
    "open-magvit2": (
        lambda x: open_magvit2.encode(x, fields=[6, 12]),
        lambda i: open_magvit2.decode(i, fields=[6, 12]),
        (2, 18, 3, 4),
        1,
        1,
    ),
    "open-magvit2, before": (
        lambda x: open_magvit2.encode(x, fields=[18], order="msb"),
        lambda i: open_magvit2.decode(i, fields=[18], order="msb"),
        (2, 18, 3, 4),
        1,
        1,
    ),
    "flowmo": (
        lambda x: open_magvit2.encode_flowmo(x, bits=9),
        lambda i: open_magvit2.decode_flowmo(i, bits=9),
        (2, 5, 18),
        -1,
        1,
    ),
    "dplm-2": (
        lambda x: dplm.encode(dplm.state_dict(bits=9), x),
        lambda i: dplm.decode(dplm.state_dict(bits=9), i),
        (2, 5, 9),
        -1,
        1,
    ),
    "ursa": (
        lambda x: unstored.encode(x, first=True),
        lambda i: unstored.decode(i, bits=8, spherical=False, first=True),
        (2, 8, 3, 4),
        1,
        1,
    ),
    "focalcodec": (
        unstored.encode,
        lambda i: unstored.decode(i, bits=13, spherical=True),
        (2, 5, 13),
        -1,
        inverse_root(13),
    ),
}


def gaussian(shape):
    """The same float32 for the same shape, whatever ran before."""
    return np.random.default_rng(7).standard_normal(shape).astype(np.float32)


def latents(shape):
    """Signs of every kind: with zeros of both signs, a subnormal and NaN among them."""
    x = gaussian(shape)
    odd = np.array([0.0, -0.0, np.nan, 1e-45], dtype=np.float32)
    x.flat[: len(odd)] = odd
    return x


@pytest.mark.parametrize("name", PLAINLY_SIGNS)
def test_decoding_an_index_gives_the_sign_of_what_was_encoded(name):
    encode, decode, shape, _, magnitude = PLAINLY_SIGNS[name]
    x = latents(shape)
    values = decode(encode(x))
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, np.where(x > 0, np.float32(magnitude), -np.float32(magnitude)))


LSB = {"kronos", "kronos half", "maskbit", "open-magvit2", "flowmo"}


@pytest.mark.parametrize("name", PLAINLY_SIGNS)
def test_the_first_channel_is_the_lowest_bit_or_the_highest(name):
    encode, _, shape, axis, _ = PLAINLY_SIGNS[name]
    x = np.full(shape, -1, dtype=np.float32)
    np.moveaxis(x, axis, -1)[..., 0] = 1
    indices = encode(x).reshape(*np.delete(shape, axis), -1)
    widths = {"kronos half": 3, "lucidrains, spherical": 6, "open-magvit2": 6, "flowmo": 9}
    highest = 2 ** (widths.get(name, shape[axis]) - 1)
    assert (indices[..., 0] == (1 if name in LSB else highest)).all()
    assert not indices[..., 1:].any()


@pytest.mark.parametrize("order", ["msb", "lsb"])
@pytest.mark.parametrize("width", [1, 9, 31, 32, 53, 63, 64])
def test_integers_are_exact_at_every_width(width, order):
    ones = np.ones((1, width), dtype=bool)
    assert int(integers_of(ones, order)[0]) == 2**width - 1
    bits = gaussian((20, width)) > 0
    np.testing.assert_array_equal(bits_from(integers_of(bits, order), width, order), bits)


@pytest.mark.parametrize(
    ("family", "state", "codebook", "bits"),
    [(show_o, SHOW_O, "quantize.embedding", 7), (maskbit, MASKBIT, "quantize.codebook", 6)],
)
def test_the_stored_codebook_is_the_decoding_of_every_index(family, state, codebook, bits):
    every = np.arange(2**bits).reshape(1, -1, 1)
    values = np.moveaxis(family.decode(state, every), 1, -1).reshape(-1, bits)
    np.testing.assert_array_equal(state[codebook].numpy(), values)
    np.testing.assert_array_equal(family.encode(state, np.moveaxis(values[None, :, None], -1, 1)), every)
    first_positive = int(state[codebook][1].argmax())
    assert first_positive == (bits - 1 if family is show_o else 0), "row 1 tells the order"


def test_fields_are_cut_where_the_families_cut_them():
    x = latents((2, 18, 3, 4))
    token = open_magvit2.encode(x, fields=[18])[..., 0]
    np.testing.assert_array_equal(open_magvit2.factored_1xgpt(token), open_magvit2.encode(x, fields=[9, 9]))
    np.testing.assert_array_equal(open_magvit2.encode_1xgpt_code(x[:, ::-1]), token)
    s1, s2 = np.moveaxis(kronos.encode_half(KRONOS, latents((2, 5, 8))), -1, 0)
    assert s1.max() < 2**3
    assert s2.max() < 2**5
    x = latents((2, 5, 8))
    whole, half = kronos.encode(KRONOS, x), kronos.encode_half(KRONOS, x)
    np.testing.assert_array_equal(np.stack([whole & 7, whole >> 3], axis=-1), half)
    x = latents((2, 6, 3, 4))
    whole = maskbit.encode(MASKBIT, x)
    np.testing.assert_array_equal(maskbit.encode_splits(MASKBIT, x), np.stack([whole & 7, whole >> 3], axis=-1))


def test_flowmo_takes_every_second_channel():
    x = np.where(np.arange(18) % 2 == 1, 1.0, -1.0)[None, None].astype(np.float32)
    np.testing.assert_array_equal(open_magvit2.encode_flowmo(x, bits=9), [[[0, 511]]])


def test_the_widest_mask_starts_below_zero_and_stands_twice():
    masks = {name: tensor for name, tensor in WIDE.items() if name.endswith("mask")}
    assert sorted(masks) == ["quantize.lfq.mask", "quantizer.lfq.mask"]
    for mask in masks.values():
        assert mask[0] == -(2**63)
        assert mask[1] == 2**62
    x = np.ones((1, 64, 1, 1), dtype=np.float32)
    assert infinity.encode(WIDE, x).dtype == np.uint64
    assert int(infinity.encode(WIDE, x).item()) == 2**64 - 1


@pytest.mark.parametrize("width", range(1, 65))
def test_values_of_infinity_are_within_their_ulps_of_what_torch_makes(width):
    scale = 1 / math.sqrt(width)
    code = torch.nn.functional.normalize(torch.ones(1, width) * scale * 2 - scale, dim=-1)
    np.testing.assert_array_max_ulp(code.numpy()[0, 0], inverse_root(width), maxulp=infinity.ULP)
    unit = torch.nn.functional.normalize(torch.ones(1, width), dim=-1)
    assert unit[0, 0].item() == normalized(np.float32(1), width), "a power of two: exact"


def test_what_a_state_dict_holds():
    quantizer = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in below(MASKBIT, "quantize.").items()}
    assert quantizer == {"bits_to_indices": ((6,), torch.int32), "codebook": ((64, 6), torch.float32)}
    assert list(below(BSQ, "quantize.")) == ["basis", "group_basis"]
    assert list(below(KRONOS, "tokenizer.bsq.")) == ["basis", "group_basis"]
    assert KRONOS["tokenizer.bsq.basis"].tolist() == [128, 64, 32, 16, 8, 4, 2, 1]
    assert kronos.widths_of(KRONOS) == [3, 5]
    for state in (open_magvit2.state_dict(), open_magvit2.flowmo_state_dict(), unstored.qlip_state_dict()):
        assert not [name for name, tensor in state.items() if not tensor.is_floating_point()]
    assert open_magvit2.state_dict(video=True)["encoder.conv_out.conv_1.weight"].shape == (18, 4, 1, 1, 1)
    assert unstored.early_lucidrains_state_dict(dim=None) == {}


def test_the_same_seed_gives_the_same_weights():
    first, second, other = (lucidrains.state_dict(seed, dim=16) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["project_in.weight"], other["project_in.weight"])


LFQS = {
    "plain": {"codebook_dim": 5},
    "projections": {"codebook_dim": 5, "num_codebooks": 2, "dim": 16},
    "no bias": {"codebook_dim": 5, "dim": 16, "bias": False},
    "cosine": {"codebook_dim": 6, "dim": 12, "cosine": True},
    "square cosine": {"codebook_dim": 8, "dim": 8, "cosine": True},
    "rotation": {"codebook_dim": 6, "num_codebooks": 2, "rotation": True},
    "clamped rotation": {"codebook_dim": 6, "rotation": True, "clamp": 1.0},
}


@pytest.mark.parametrize("name", LFQS)
def test_lucidrains_is_the_installed_module(name):
    options = {"num_codebooks": 1, "dim": None, "bias": True, "cosine": False, "rotation": False, **LFQS[name]}
    clamp = options.pop("clamp", None)
    module = reference.LFQ(
        dim=options["dim"] or options["codebook_dim"] * options["num_codebooks"],
        codebook_size=2 ** options["codebook_dim"],
        num_codebooks=options["num_codebooks"],
        has_projections=options["dim"] is not None,
        projection_has_bias=options["bias"],
        cosine_sim_project_in=options["cosine"],
        orthogonal_rotation=options["rotation"],
        soft_clamp_input_value=clamp,
    ).eval()
    state = lucidrains.state_dict(**options)
    module.load_state_dict(state, strict=True)
    x = gaussian((2, 9, module.dim))
    values, indices, _ = module(torch.from_numpy(x))
    sure = lucidrains.margin(state, x, cosine=options["cosine"], clamp=clamp) > 1e-5
    mine = lucidrains.encode(state, x, cosine=options["cosine"], clamp=clamp)
    np.testing.assert_array_equal(mine[sure], indices.numpy()[sure])
    decoded = lucidrains.decode(state, mine, num_codebooks=options["num_codebooks"])
    np.testing.assert_allclose(decoded[sure], values.detach().numpy()[sure], atol=2e-6)


@pytest.mark.parametrize(
    ("dim", "rotation", "spherical"), [(None, False, False), (9, False, True), (None, True, False)]
)
def test_residual_is_the_installed_module(dim, rotation, spherical):
    module = reference.ResidualLFQ(
        dim=dim or 4, codebook_size=16, num_quantizers=5, orthogonal_rotation=rotation, spherical=spherical
    ).eval()
    state = residual.state_dict(levels=5, dim=dim, rotation=rotation)
    module.load_state_dict(state, strict=True)
    x = gaussian((2, 40, dim or 4))
    values, indices, _ = module(torch.from_numpy(x))
    sure = residual.margin(state, x, spherical=spherical) > 1e-5
    mine = residual.encode(state, x, spherical=spherical)
    np.testing.assert_array_equal(mine[sure], indices.numpy()[sure])
    decoded = residual.decode(state, mine, spherical=spherical)
    np.testing.assert_allclose(decoded[sure], values.detach().numpy()[sure], atol=2e-6)


def test_grouped_residual_is_the_installed_module():
    module = reference.GroupedResidualLFQ(
        dim=16, groups=2, codebook_size=16, num_quantizers=3, quantize_dropout=True
    ).eval()
    state = residual.state_dict(levels=3, dim=8, groups=2)
    module.load_state_dict(state, strict=True)
    x = gaussian((2, 40, 16))
    values, indices, _ = module(torch.from_numpy(x))
    np.testing.assert_array_equal(residual.encode_grouped(state, x), indices.numpy())
    decoded = residual.decode_grouped(state, indices.numpy())
    np.testing.assert_allclose(decoded, values.detach().numpy(), atol=2e-6)


def test_a_dropped_level_is_one_that_was_never_there():
    state = residual.state_dict(levels=4)
    indices = residual.encode(state, latents((2, 10, 4))[1:])
    dropped = np.where(np.arange(4) < 2, indices, -1)
    np.testing.assert_array_equal(residual.decode(state, dropped), residual.decode(state, indices[..., :2]))
    nothing = residual.decode(state, np.full_like(indices, -1))
    assert not nothing.any()


def test_every_level_halves_what_is_left():
    state = residual.state_dict(levels=10)
    x = np.clip(gaussian((1, 50, 4)), -1.9, 1.9)
    left = np.abs(residual.decode(state, residual.encode(state, x)) - x)
    assert left.max() <= 2.0**-9


@pytest.mark.parametrize(
    ("state", "family"),
    [(seed_vc.state_dict(), seed_vc), (open_genie.state_dict(codebooks=2, dim=16), open_genie)],
)
def test_projecting_families_encode_a_vector_by_itself(state, family):
    first = family is open_genie
    x = gaussian((2, 16, 3))
    x = x if first else np.moveaxis(x, 1, -1)
    whole = family.encode(state, x)
    np.testing.assert_array_equal(family.encode(state, x[1:]), whole[1:])
    assert family.margin(state, x).shape == (2, 3)
    values = family.decode(state, whole, codebooks=2) if first else family.decode(state, whole)
    assert values.shape == x.shape


@pytest.mark.parametrize("name", refused.CASES)
def test_a_refused_case_is_a_file_that_torch_reads_without_unpickling(name):
    case = refused.CASES[name]
    assert case.expected in {"refuse", "ask", "read"}
    buffer = io.BytesIO()
    torch.save(case.make(0), buffer)
    buffer.seek(0)
    assert isinstance(torch.load(buffer, weights_only=True), dict)


WRAPPED = {
    "lightning": wrappers.lightning,
    "ddp": lambda state: wrappers.prefixed(state, "module."),
    "compiled": lambda state: wrappers.prefixed(state, "_orig_mod."),
    "trainer": lambda state: wrappers.lucidrains_trainer(state, ema=state),
    "saved": wrappers.lucidrains_save,
    "flowmo": wrappers.flowmo,
    "bsq-vit": lambda state: wrappers.bsq_vit(state, ema=state),
    "seed-vc": lambda _: seed_vc.training_file(seed_vc.state_dict()),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_wrapper_is_a_file_too(name):
    buffer = io.BytesIO()
    torch.save(WRAPPED[name](lucidrains.state_dict(dim=16, attribute="quantizers")), buffer)
    buffer.seek(0)
    assert isinstance(torch.load(buffer, weights_only=False), dict)
