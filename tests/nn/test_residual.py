"""residual.py against vector_quantize_pytorch.ResidualLFQ 1.32 where that is right, else against a slow loop."""

from __future__ import annotations

import functools
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import vector_quantize_pytorch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lfq_cli.errors import LfqError
from lfq_cli.nn import LFQ, ResidualLFQ
from lfq_cli.nn.residual import DROPPED, MAX_LEVELS

pytestmark = pytest.mark.slow

BITS = 6
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "soft clamp": {"soft_clamp_input_value": 1.5},
    "spherical": {"spherical": True},
    "rotation": {"orthogonal_rotation": True},
    "projections": {"dim": 13},
    "everything": {"dim": 13, "orthogonal_rotation": True, "spherical": True, "soft_clamp_input_value": 2.0},
    "half precision allowed": {"force_quantization_f32": False},
}
REFERENCE_DECODES = [name for name, chosen in OPTIONS.items() if not {"spherical", "orthogonal_rotation"} & set(chosen)]
LAYOUTS: list[tuple[tuple[int, ...], bool | None]] = [  # -1: the channels
    ((-1,), None),
    ((-1,), True),
    ((5, -1), None),
    ((5, -1), True),
    ((2, 5, -1), None),
    ((2, -1, 5), True),
    ((2, 5, -1), False),
    ((2, -1, 3, 4), None),
    ((2, -1, 3, 4), True),
    ((2, 3, 4, -1), False),
    ((2, -1, 2, 3, 2), None),
    ((2, 2, 3, 2, -1), False),
    ((0, -1), None),
    ((2, -1, 0, 3), None),
]


def arguments(options: str, levels: int = 4, **more: Any) -> dict[str, Any]:
    return {"dim": BITS, "codebook_size": 2**BITS, "num_quantizers": levels, **OPTIONS[options], **more}


def reference(options: str, levels: int = 4, **more: Any) -> Any:
    """The reference in eval mode."""
    torch.manual_seed(levels)
    return vector_quantize_pytorch.ResidualLFQ(**arguments(options, levels, **more)).eval()


def ours(options: str, levels: int = 4, **more: Any) -> ResidualLFQ:
    """In eval mode, with the same weights."""
    torch.manual_seed(levels)
    return ResidualLFQ(**arguments(options, levels, **more)).eval()


def normal(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def with_channels(layout: tuple[int, ...], dim: int) -> tuple[int, ...]:
    return tuple(dim if axis == -1 else axis for axis in layout)


def slow_bits(vector: list[float], levels: int) -> list[list[bool]]:
    """One vector's bits, level by level: IEEE float32 scalars, one at a time."""
    residual = [np.float32(number) for number in vector]
    bits = []
    for level in range(levels):
        scale = np.float32(2.0**-level)
        bits.append([bool(number > 0) for number in residual])
        with np.errstate(invalid="ignore"):
            residual = [number - (scale if bit else -scale) for number, bit in zip(residual, bits[-1], strict=True)]
    return bits


def slow_sum(bits: list[list[bool]]) -> list[float]:
    """The vector that levels of bits stand for: exact in Python's floats below 50 levels."""
    return [
        sum((1 if bit else -1) * 0.5**level for level, bit in enumerate(column)) for column in zip(*bits, strict=True)
    ]


def integer(bits: list[bool]) -> int:
    return int("".join(str(int(bit)) for bit in bits), 2)


# the same module


@pytest.mark.parametrize("options", OPTIONS)
def test_the_same_seed_gives_the_same_weights_and_state_dicts_load_both_ways(options: str) -> None:
    theirs = reference(options)
    next_of_theirs = torch.rand(3)
    mine = ours(options)
    assert torch.equal(torch.rand(3), next_of_theirs)
    state = mine.state_dict()
    assert list(state) == list(theirs.state_dict())
    assert all(torch.equal(state[name], t) and state[name].dtype == t.dtype for name, t in theirs.state_dict().items())
    theirs.load_state_dict(state, strict=True)
    mine.load_state_dict(theirs.state_dict(), strict=True)


@pytest.mark.parametrize("levels", [1, 3])
def test_defaults_and_attributes_are_the_references(levels: int) -> None:
    more = {"quantize_dropout": True, "soft_clamp_input_value": 3.0}
    theirs, mine = reference("plain", levels, **more), ours("plain", levels, **more)
    for name, value in vars(theirs).items():
        if not name.startswith("_"):
            assert getattr(mine, name) == value, name
    for their_layer, layer in zip(theirs.layers, mine.layers, strict=True):
        for name in ("codebook_scale", "soft_clamp_input_value", "dim", "codebook_size", "channel_first", "spherical"):
            assert getattr(layer, name) == getattr(their_layer, name), name
    assert torch.equal(mine.codebooks, theirs.codebooks)


def test_options_without_effect_are_accepted_as_in_the_reference() -> None:
    more = {"cosine_sim_project_in": True, "cosine_sim_project_in_scale": 2.0, "projection_has_bias": False}
    theirs, mine = reference("projections", **more), ours("projections", **more)
    x = normal((2, 5, 13))
    assert torch.equal(mine(x)[0], theirs(x)[0])
    assert "project_in.bias" in mine.state_dict()


# float32, three axes, channels last: bit for bit the reference


@pytest.mark.parametrize("levels", [1, 2, 8])
@pytest.mark.parametrize("options", OPTIONS)
def test_forward_is_exactly_the_references(options: str, levels: int) -> None:
    theirs, mine = reference(options, levels), ours(options, levels)
    x = normal((3, 40, mine.dim))
    for found, expected in zip(mine(x), theirs(x), strict=True):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)


@pytest.mark.parametrize("options", REFERENCE_DECODES)
def test_decoding_is_exactly_the_references(options: str) -> None:
    theirs, mine = reference(options, quantize_dropout=True), ours(options, quantize_dropout=True)
    indices = torch.randint(-1, 2**BITS, (2, 9, 4), generator=torch.Generator().manual_seed(1))
    for levels in (4, 2, 1):
        some = indices[..., :levels]
        assert torch.equal(mine.get_codes_from_indices(some), theirs.get_codes_from_indices(some))
        assert torch.equal(mine.get_output_from_indices(some), theirs.get_output_from_indices(some))


@pytest.mark.parametrize("options", REFERENCE_DECODES)
def test_all_codes_are_the_references(options: str) -> None:
    theirs, mine = reference(options), ours(options)
    x = normal((2, 9, mine.dim))
    *_, expected = theirs(x, return_all_codes=True)
    *_, found = mine(x, return_all_codes=True)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("options", [*OPTIONS, "commitment", "activation", "fraction"])
def test_training_values_and_gradients_are_the_references(options: str) -> None:
    more = {
        "commitment": {"commitment_loss_weight": 1.0},
        "activation": {"straight_through_activation": nn.Tanh()},
        "fraction": {"frac_per_sample_entropy": 0.5},
    }
    known = options if options in OPTIONS else "projections"
    theirs, mine = reference(known, **more.get(options, {})).train(), ours(known, **more.get(options, {})).train()
    results = []
    for module in (theirs, mine):
        x = normal((3, 20, mine.dim)).requires_grad_()
        torch.manual_seed(4)  # the same vectors are sampled
        quantized, indices, losses = module(x)
        parameters = dict(module.named_parameters())
        through = torch.autograd.grad(
            (quantized * normal(x.shape, seed=1)).sum(), [x, *parameters.values()], None, True
        )
        results.append((quantized, indices, losses, dict(zip(["x", *parameters], through, strict=True))))
    (quantized, indices, losses, gradients), found = results
    assert torch.equal(found[0], quantized)
    assert torch.equal(found[1], indices)
    assert losses.abs().min() > 1e-3
    # the reference clamps probabilities at 1e-5 inside the logarithm (entropy.batch_entropy): it is off by this much
    torch.testing.assert_close(found[2], losses, rtol=1e-3, atol=2e-4)
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[3][name], gradient, rtol=1e-5, atol=1e-5, msg=name)


def test_losses_are_those_of_the_layers_and_count_the_mask() -> None:
    mine = ours("plain", levels=3, commitment_loss_weight=1.0).train()
    x = normal((2, BITS, 4, 3))
    selected = torch.rand(2, 12, generator=torch.Generator().manual_seed(2)) < 0.4
    _, _, losses = mine(x, mask=selected)
    residual = x.movedim(1, -1)[selected.view(2, 4, 3)]
    expected = []
    for level in range(3):
        alone = LFQ(dim=BITS, codebook_scale=2.0**-level, commitment_loss_weight=1.0).train()
        quantized, _, loss = alone(residual)
        residual = residual - quantized
        expected.append(loss)
    torch.testing.assert_close(losses, torch.stack(expected))
    assert torch.equal(mine(x, mask=selected.view(2, 4, 3))[2], losses)
    assert not torch.allclose(mine(x)[2], losses)
    items = torch.tensor([True, False])[: len(x)]
    assert torch.equal(mine(x, mask=items)[2], mine(x, mask=items[:, None].expand(selected.shape))[2])
    with pytest.raises(ValueError, match="mask must have shape"):
        mine(x, mask=selected.T)


def test_gradients_pass_straight_through_every_level() -> None:
    x = normal((2, 5, BITS)).requires_grad_()
    ours("plain", levels=3).train()(x)[0].sum().backward()
    assert x.grad is not None
    assert x.grad.unique().tolist() == [3]  # as in the reference


def test_eval_losses_are_zero() -> None:
    losses = ours("plain", commitment_loss_weight=1.0)(normal((2, 5, BITS)))[2]
    assert losses.tolist() == [0, 0, 0, 0]


# any shape: decoding gives what forward gives


@pytest.mark.parametrize(("layout", "channel_first"), LAYOUTS)
@pytest.mark.parametrize("options", OPTIONS)
def test_decoding_is_forward_bit_for_bit(options: str, layout: tuple[int, ...], channel_first: bool | None) -> None:
    mine = ours(options, channel_first=channel_first)
    x = normal(with_channels(layout, mine.dim))
    quantized, indices, losses, codes = mine(x, return_all_codes=True)
    positions = x.movedim(layout.index(-1), -1).shape[:-1]
    assert quantized.shape == x.shape
    assert indices.shape == (*positions, 4)
    assert indices.dtype == torch.int64
    assert losses.shape == (4,)
    assert codes.shape == (4, *positions, BITS)
    assert torch.equal(mine.get_output_from_indices(indices), quantized)
    assert torch.equal(codes, mine.get_codes_from_indices(indices))
    last = mine.project_out(functools.reduce(torch.add, codes.reshape(4, math.prod(positions), BITS)))
    assert torch.equal(last.reshape(*positions, mine.dim), quantized.movedim(layout.index(-1), -1))


@pytest.mark.parametrize(("layout", "channel_first"), LAYOUTS)
@pytest.mark.parametrize("options", ["everything", "soft clamp"])
def test_layouts_hold_the_same_vectors(options: str, layout: tuple[int, ...], channel_first: bool | None) -> None:
    mine = ours(options, channel_first=channel_first)
    x = normal(with_channels(layout, mine.dim))
    vectors = x.movedim(layout.index(-1), -1).reshape(-1, mine.dim)
    expected = ours(options)(vectors)
    quantized, indices, _ = mine(x)
    assert torch.equal(indices.reshape(-1, 4), expected[1])
    assert torch.equal(quantized.movedim(layout.index(-1), -1).reshape(-1, mine.dim), expected[0])


@pytest.mark.parametrize("options", ["spherical", "rotation"])
def test_the_reference_decodes_something_else(options: str) -> None:
    """Why these are compared with forward and not with the reference's decoder."""
    theirs, mine = reference(options), ours(options)
    x = normal((2, 5, BITS))
    quantized, indices, _ = theirs(x)
    assert torch.equal(mine.get_output_from_indices(indices), quantized)
    assert (theirs.get_output_from_indices(indices) - quantized).abs().max() > 0.1


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("training", [False, True])
def test_quantized_vectors_come_nearer_with_every_level(options: str, training: bool) -> None:
    mine = ours(options, levels=8).train(training)
    x = 0.3 * normal((400, mine.dim))
    codes = mine(x, return_all_codes=True)[3]
    errors = (mine.project_in(x) - codes.cumsum(0)).square().mean((1, 2))
    assert errors[3] < 0.5 * errors[0]


# against the slow loop


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_bits_are_those_of_the_slow_loop(data: st.DataObject) -> None:
    bits, levels = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 12))
    vector = data.draw(st.lists(st.floats(width=32), min_size=bits, max_size=bits))
    mine = ResidualLFQ(dim=bits, codebook_size=2**bits, num_quantizers=levels).eval()
    quantized, indices, _ = mine(torch.tensor(vector))
    expected = slow_bits(vector, levels)
    assert indices.tolist() == [integer(row) for row in expected]
    assert quantized.tolist() == slow_sum(expected)
    assert mine.encode_bits(torch.tensor([vector])).tolist() == [[bit for row in expected for bit in row]]


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_indices_decode_to_the_slow_sum_whatever_levels_are_dropped(data: st.DataObject) -> None:
    bits, levels = data.draw(st.integers(1, 63)), data.draw(st.integers(1, 8))
    given_levels = data.draw(st.integers(1, levels))
    index = st.one_of(st.just(DROPPED), st.integers(0, 2**bits - 1), st.sampled_from([0, 2**bits - 1]))
    indices = data.draw(st.lists(index, min_size=given_levels, max_size=given_levels))
    mine = ResidualLFQ(dim=bits, codebook_size=2**bits, num_quantizers=levels).eval()
    expected = [0.0] * bits
    for level, number in enumerate(indices):
        if number != DROPPED:
            signs = [1 if digit == "1" else -1 for digit in f"{number:0{bits}b}"]
            expected = [total + sign * 0.5**level for total, sign in zip(expected, signs, strict=True)]
    found = torch.tensor(indices)
    assert mine.get_output_from_indices(found).tolist() == expected
    codes = mine.get_codes_from_indices(found)
    assert codes.shape == (levels, bits)
    assert codes.sum(0).tolist() == expected
    assert not codes[given_levels:].any()
    assert [bool(code.any()) for code in codes[:given_levels]] == [number != DROPPED for number in indices]


@pytest.mark.parametrize("bits", [31, 32, 40, 53, 63, 64])
def test_wide_indices_are_exact(bits: int) -> None:
    mine = ResidualLFQ(dim=bits, codebook_size=2**bits, num_quantizers=3).eval()
    assert mine.codebook_size == 2**bits
    x = torch.cat([torch.full((1, bits), 9.0), torch.full((1, bits), -9.0), normal((30, bits))])
    quantized, indices, _ = mine(x)
    for vector, row, total in zip(x.tolist(), indices.tolist(), quantized.tolist(), strict=True):
        expected = slow_bits(vector, 3)
        assert [index % 2**64 for index in row] == [integer(level) for level in expected]
        assert total == slow_sum(expected)
    assert torch.equal(mine.get_output_from_indices(indices), quantized)
    with pytest.raises(LfqError, match=rf"2\^{bits}"):
        _ = mine.codebooks


def test_the_last_level_that_there_can_be_still_counts() -> None:
    mine = ResidualLFQ(dim=1, codebook_size=2, num_quantizers=MAX_LEVELS).eval()
    quantized, indices, _ = mine(torch.full((1,), 2.0**-127))
    assert mine.get_codes_from_indices(indices)[-1].item() == -(2.0**-127)
    assert quantized.item() == 2.0**-127


# bits


@pytest.mark.parametrize("options", OPTIONS)
def test_encode_bits_and_decode_bits_are_forward_taken_apart(options: str) -> None:
    mine = ours(options)
    x = normal((50, mine.dim))
    quantized, indices, _ = mine(x)
    bits = mine.encode_bits(x)
    assert bits.shape == (50, 4 * BITS)
    assert bits.dtype == torch.bool
    assert torch.equal((bits.view(50, 4, BITS) * 2 ** torch.arange(BITS - 1, -1, -1)).sum(-1), indices)
    assert torch.equal(mine.decode_bits(bits), quantized)
    codes = mine.decode_bits(bits, project_out=False)
    assert codes.shape == (50, BITS)
    assert torch.equal(mine.project_out(codes), quantized)
    latents = mine.latents(x)
    assert latents.dtype == torch.float32
    assert torch.equal(latents > 0, bits)
    assert not latents.requires_grad


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_the_first_levels_alone_are_all_with_the_rest_dropped(options: str, levels: int) -> None:
    mine = ours(options)
    x = normal((50, mine.dim))
    _, indices, _ = mine(x)
    bits = mine.encode_bits(x, levels=levels)
    assert torch.equal(bits, mine.encode_bits(x)[:, : levels * BITS])
    assert torch.equal(mine.latents(x, levels=levels), mine.latents(x)[:, : levels * BITS])
    decoded = mine.decode_bits(bits, levels=levels)
    assert torch.equal(mine.decode_bits(bits), decoded)
    assert torch.equal(mine.get_output_from_indices(indices[:, :levels]), decoded)
    rest = torch.full((50, 4 - levels), DROPPED)
    assert torch.equal(mine.get_output_from_indices(torch.cat([indices[:, :levels], rest], dim=1)), decoded)
    assert mine.get_codes_from_indices(indices[:, :levels]).shape == (4, 50, BITS)


def test_latents_are_what_the_levels_before_left_over() -> None:
    x = normal((50, BITS))
    mine = ours("plain", levels=3)
    by_level = mine.latents(x).view(50, 3, BITS)
    assert torch.equal(by_level[:, 0], x)
    assert torch.equal(by_level[:, 1], x - x.sign())
    assert torch.equal(by_level[:, 2], x - x.sign() - 0.5 * (x - x.sign()).sign())


def test_a_layers_mask_alone_decides_its_bit_order() -> None:
    mine, other = ours("everything"), ours("everything")
    other.layers[1].register_buffer("mask", other.layers[1].get_buffer("mask").flip(0))
    x = normal((50, 13))
    (quantized, indices, _), (same, found, _) = mine(x), other(x)
    assert torch.equal(found[:, ::2], indices[:, ::2])
    assert [f"{i:0{BITS}b}"[::-1] for i in found[:, 1]] == [f"{i:0{BITS}b}" for i in indices[:, 1]]
    assert torch.equal(same, quantized)
    assert torch.equal(other.get_output_from_indices(found), quantized)


# dtypes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("training", [False, True])
def test_residuals_are_float32_whatever_the_input(dtype: torch.dtype, training: bool) -> None:
    mine = ours("soft clamp", levels=8).train(training)
    x = normal((2, 300, BITS)).to(dtype)
    quantized, indices, _ = mine(x)
    wide, expected, _ = mine(x.float())
    assert quantized.dtype == dtype
    assert torch.equal(quantized, wide.to(dtype))
    assert torch.equal(indices, expected)
    assert torch.equal(mine.encode_bits(x.flatten(0, 1)), mine.encode_bits(x.flatten(0, 1).float()))


def test_the_references_residuals_are_half_precision() -> None:
    """The guard can fail: in bfloat16 a third of the reference's last tokens are others than in float32."""
    theirs, mine = reference("plain", levels=8), ours("plain", levels=8)
    x = normal((1, 1000, BITS)).bfloat16()
    assert torch.equal(mine(x)[1], theirs(x.float())[1])
    assert (theirs(x)[1] != theirs(x.float())[1])[..., -1].float().mean() > 0.2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("forced", [True, False])
def test_a_converted_module_decodes_what_it_encodes(options: str, dtype: torch.dtype, forced: bool) -> None:
    mine = ours(options, levels=8, force_quantization_f32=forced).to(dtype)
    x = normal((50, mine.dim)).to(dtype)
    quantized, indices, _, codes = mine(x, return_all_codes=True)
    decoded = mine.get_output_from_indices(indices)
    assert decoded.dtype == quantized.dtype == codes.dtype == dtype
    assert torch.equal(decoded, quantized)
    assert torch.equal(mine.decode_bits(mine.encode_bits(x)), quantized)
    assert torch.equal(mine.encode_bits(x.double()), mine.encode_bits(x))
    assert mine.train()(x)[0].isfinite().all()


def test_a_converted_module_keeps_its_residuals_in_float32() -> None:
    x = normal((300, BITS)).bfloat16()
    mine = ours("plain", levels=8)
    converted = ours("plain", levels=8).bfloat16()
    assert torch.equal(converted(x)[1], mine(x.float())[1])
    assert torch.equal(converted.latents(x), mine.latents(x.float()))
    narrow = ours("plain", levels=8, force_quantization_f32=False).bfloat16()
    assert not torch.equal(narrow(x)[1], mine(x.float())[1])  # what it is forced for


@pytest.mark.parametrize("options", OPTIONS)
def test_levels_are_in_float32_under_autocast(options: str) -> None:
    mine = ours(options, levels=6)
    x = normal((200, mine.dim))
    expected, indices, _ = mine(x)
    bits, codes = mine.encode_bits(x), mine.get_codes_from_indices(indices)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        quantized, found, _ = mine(x)
        assert torch.equal(mine.get_output_from_indices(found), quantized)
        assert torch.equal(mine.get_codes_from_indices(indices), codes)
        assert torch.equal(mine.encode_bits(x), bits)
    if mine.has_projections:
        assert quantized.dtype == torch.bfloat16  # forward's projections are the user's business
    else:
        assert torch.equal(quantized, expected)


def test_half_precision_that_meets_a_float32_rotation_is_refused() -> None:
    """Not rounded to fit: as `LFQ` and the reference, torch's error names both dtypes."""
    with pytest.raises(RuntimeError, match="dtype"):
        ours("rotation", force_quantization_f32=False)(normal((5, BITS)).bfloat16())
    with pytest.raises(RuntimeError, match="dtype"):
        LFQ(dim=BITS, orthogonal_rotation=True)(normal((5, BITS)).bfloat16())


# quantize dropout


DROPOUTS: list[dict[str, int]] = [
    {},
    {"quantize_dropout_cutoff_index": 2},
    {"quantize_dropout_multiple_of": 2},
    {"quantize_dropout_multiple_of": 3},
    {"quantize_dropout_cutoff_index": 1, "quantize_dropout_multiple_of": 4},
    {"quantize_dropout_cutoff_index": 4, "quantize_dropout_multiple_of": 7},
]


@pytest.mark.parametrize("more", DROPOUTS)
def test_the_same_levels_are_dropped_as_in_the_reference(more: dict[str, int]) -> None:
    chosen = {"codebook_size": 2**3, "quantize_dropout": True, **more}
    theirs, mine = reference("projections", 5, **chosen).train(), ours("projections", 5, **chosen).train()
    x = normal((2, 7, 13))
    used = set()
    for seed in range(10):
        results = []
        for module in (theirs, mine):
            torch.manual_seed(seed)
            returned = module(x, rand_quantize_dropout_fixed_seed=seed if seed % 2 else None)
            results.append((*returned, torch.rand(3)))
        (quantized, indices, losses, next_random), found = results
        assert torch.equal(found[0], quantized)
        assert torch.equal(found[1], indices)
        torch.testing.assert_close(found[2], losses, rtol=1e-3, atol=2e-4)
        assert torch.equal(found[2] == 0, losses == 0)
        assert torch.equal(found[3], next_random)  # as many random numbers are used up
        used.add(int((found[1] != DROPPED).sum(-1).unique()))
    first, multiple = more.get("quantize_dropout_cutoff_index", 0), more.get("quantize_dropout_multiple_of", 1)
    assert used <= {min(-(-count // multiple) * multiple, 5) for count in range(first + 1, 6)}
    assert len(used) > 1 or first == 4


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("layout", [(-1,), (5, -1), (2, -1, 3, 4)])
def test_dropout_works_on_any_shape_and_decodes(options: str, layout: tuple[int, ...]) -> None:
    mine = ours(options, quantize_dropout=True)
    x = normal(with_channels(layout, mine.dim))
    everything = mine(x)[1]
    mine.train()
    for seed in range(4):
        quantized, indices, losses = mine(x, rand_quantize_dropout_fixed_seed=seed)
        used = int((indices != DROPPED).sum(-1).unique())
        assert torch.equal(indices[..., :used], everything[..., :used])
        assert not losses[used:].any()
        for given_indices in (indices, indices[..., :used]):
            torch.testing.assert_close(mine.get_output_from_indices(given_indices), quantized)


def test_dropout_is_for_training_with_gradients_only() -> None:
    x = normal((2, 5, BITS))
    mine = ours("plain", quantize_dropout=True)
    for seed in range(8):
        assert (mine.eval()(x, rand_quantize_dropout_fixed_seed=seed)[1] != DROPPED).all()
        with torch.no_grad():
            assert (mine.train()(x, rand_quantize_dropout_fixed_seed=seed)[1] != DROPPED).all()
    assert not ours("plain", levels=1, quantize_dropout=True).quantize_dropout


ONE_RANK = """
import sys, torch
from lfq_cli.nn import ResidualLFQ

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2)
module = ResidualLFQ(dim=4, codebook_size=16, num_quantizers=6, quantize_dropout=True, entropy_loss_weight=0).train()
torch.manual_seed(rank)
print([int((module(torch.ones(1, 4))[1] != -1).sum()) for _ in range(10)])
torch.distributed.destroy_process_group()
"""


def test_all_processes_drop_the_same_levels(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", ONE_RANK, str(rank), str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    first, second = (json.loads(process.communicate(timeout=60)[0]) for process in processes)
    assert first == second
    assert len(set(first)) > 1


# errors


@pytest.mark.parametrize("bits", [1, 6, 31, 32, 62, 63])
def test_indices_that_no_code_has_are_refused(bits: int) -> None:
    mine = ResidualLFQ(dim=bits, codebook_size=2**bits, num_quantizers=2)
    for decode in (mine.get_output_from_indices, mine.get_codes_from_indices):
        decode(torch.tensor([DROPPED, 2**bits - 1]))
        with pytest.raises(ValueError, match=rf"range \[0, 2\^{bits}\), or be -1 .* found from -2 to 1"):
            decode(torch.tensor([[1, -2]]))
        if bits < 63:
            with pytest.raises(ValueError, match=f"found from 0 to {2**bits}"):
                decode(torch.tensor([[0, 2**bits]]))
        with pytest.raises(ValueError, match="range"):
            decode(torch.tensor([0, 2**64 - 1], dtype=torch.uint64))  # would wrap to -1


def test_64_bits_have_no_index_for_a_dropped_level() -> None:
    mine = ResidualLFQ(dim=64, codebook_size=2**64, num_quantizers=2).eval()
    assert mine.get_output_from_indices(torch.tensor([-1])).tolist() == [1.0] * 64
    assert mine.get_output_from_indices(torch.tensor([2**64 - 1], dtype=torch.uint64)).tolist() == [1.0] * 64
    with pytest.raises(ValueError, match="a valid index of 64 bits"):
        ResidualLFQ(dim=64, codebook_size=2**64, num_quantizers=2, quantize_dropout=True)


def test_indices_that_are_no_integers_or_of_other_levels_are_refused() -> None:
    mine = ours("plain")
    with pytest.raises(TypeError, match="float32"):
        mine.get_output_from_indices(torch.zeros(2, 4))
    for shape in ((), (2, 0), (2, 5)):
        with pytest.raises(ValueError, match="1 to 4 levels on the last axis"):
            mine.get_codes_from_indices(torch.zeros(shape, dtype=torch.int64))


def test_bits_and_levels_that_are_not_there_are_refused() -> None:
    mine = ours("plain")
    for levels in (0, -1, 5):
        with pytest.raises(ValueError, match=f"1 to 4 levels, found {levels}"):
            mine.encode_bits(normal((3, BITS)), levels=levels)
        with pytest.raises(ValueError, match=f"1 to 4 levels, found {levels}"):
            mine.latents(normal((3, BITS)), levels=levels)
    for width, levels in ((13, None), (12, 3), (12, 1)):
        with pytest.raises(ValueError, match=f"found {width}"):
            mine.decode_bits(torch.zeros(3, width, dtype=torch.bool), levels=levels)
    for width in (0, 5, 30):
        with pytest.raises(ValueError, match=f"1 to 4 levels, found {width // 6}"):
            mine.decode_bits(torch.zeros(3, width, dtype=torch.bool))


@pytest.mark.parametrize(
    ("shape", "channel_first", "message"),
    [
        ((2, 3, 7), None, r"6 features on axis 2, found 7 \(shape \(2, 3, 7\), channel_first=None\)"),
        ((2, 3, 6, 6), None, "6 features on axis 1, found 3"),
        ((2, 6, 3, 3), False, "6 features on axis 3, found 3"),
        ((), None, "6 features on axis -1, found 0"),
    ],
)
def test_inputs_of_another_size_are_refused(shape: tuple[int, ...], channel_first: bool | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ours("plain", channel_first=channel_first)(torch.zeros(shape))


def test_integers_and_other_vectors_are_refused() -> None:
    with pytest.raises(TypeError, match="int64"):
        ours("plain")(torch.zeros(2, BITS, dtype=torch.int64))
    with pytest.raises(ValueError, match="found 7"):
        ours("plain").encode_bits(torch.zeros(2, 7))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"codebook_size": 1000}, "found 1000; the next one is 1024"),
        ({"codebook_size": 2**65}, "1 to 64 bits, found 65"),
        ({"dim": 0}, "dim must be at least 1"),
        ({"num_quantizers": 0}, "1 to 128, found 0"),
        ({"num_quantizers": 129}, "1 to 128, found 129"),
        ({"num_codebooks": 2}, "num_codebooks=2"),
        ({"codebook_scale": 1.0}, "codebook_scale is fixed"),
        ({"has_projections": True}, "has_projections=True is not possible"),
        ({"keep_num_codebooks_dim": True}, "keep_num_codebooks_dim=True is not possible"),
        ({"soft_clamp_input_value": 0.5}, "at least codebook_scale, 1.0; found 0.5"),
        ({"quantize_dropout_cutoff_index": -1}, "0 to 3, found -1"),
        ({"quantize_dropout": True, "quantize_dropout_cutoff_index": 4}, "0 to 3, found 4"),
        ({"quantize_dropout_multiple_of": 0}, "at least 1, found 0"),
    ],
)
def test_options_that_cannot_be_are_refused(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResidualLFQ(**{**arguments("plain"), **more})


def test_an_option_that_nobody_knows_is_refused() -> None:
    with pytest.raises(TypeError, match="unheard_of"):
        ours("plain", unheard_of=True)


def test_training_with_many_bits_names_the_way_out() -> None:
    x = normal((2, 40))
    with pytest.raises(LfqError, match="40 bits"):
        ResidualLFQ(dim=40, codebook_size=2**40, num_quantizers=2).train()(x)
    losses = ResidualLFQ(dim=40, codebook_size=2**40, num_quantizers=2, entropy_group_size=9).train()(x)[2]
    assert losses.isfinite().all()
