"""grouped.py against vector_quantize_pytorch.GroupedResidualLFQ 1.32 where that is right, else against its groups."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import vector_quantize_pytorch
from torch import Tensor

from lfq_cli.errors import LfqError
from lfq_cli.nn import GroupedResidualLFQ, ResidualLFQ
from lfq_cli.nn.residual import DROPPED

BITS = 4
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "soft clamp": {"soft_clamp_input_value": 1.5},
    "spherical rotation": {"spherical": True, "orthogonal_rotation": True},
    "projections": {"dim": 21},
    "everything": {"dim": 21, "orthogonal_rotation": True, "spherical": True, "soft_clamp_input_value": 2.0},
}
LAYOUTS: list[tuple[tuple[int, ...], dict[str, bool]]] = [  # -1: the channels
    ((-1,), {}),
    ((5, -1), {}),
    ((5, -1), {"accept_image_fmap": True}),
    ((2, 5, -1), {}),
    ((2, -1, 5), {"channel_first": True}),
    ((2, -1, 5), {"accept_image_fmap": True}),
    ((2, -1, 3, 4), {}),
    ((2, -1, 3, 4), {"accept_image_fmap": True}),
    ((2, 3, 4, -1), {"channel_first": False}),
    ((2, -1, 2, 3, 2), {"accept_image_fmap": True, "channel_first": True}),
    ((2, -1, 0, 3), {}),
]


def arguments(options: str, **more: Any) -> dict[str, Any]:
    sizes = {"dim": 3 * BITS, "groups": 3, "codebook_size": 2**BITS, "num_quantizers": 4}
    return {**sizes, **OPTIONS[options], **more}


def reference(options: str, **more: Any) -> Any:
    """The reference in eval mode."""
    torch.manual_seed(0)
    return vector_quantize_pytorch.GroupedResidualLFQ(**arguments(options, **more)).eval()


def ours(options: str, **more: Any) -> GroupedResidualLFQ:
    """In eval mode, with the same weights."""
    torch.manual_seed(0)
    return GroupedResidualLFQ(**arguments(options, **more)).eval()


def normal(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def with_channels(layout: tuple[int, ...], dim: int) -> tuple[int, ...]:
    return tuple(dim if axis == -1 else axis for axis in layout)


# the reference's


@pytest.mark.parametrize("options", OPTIONS)
def test_the_same_seed_gives_the_same_weights_and_state_dicts_load_both_ways(options: str) -> None:
    theirs, mine = reference(options), ours(options)
    state = mine.state_dict()
    assert list(state) == list(theirs.state_dict())
    assert "rvqs.2.layers.3.mask" in state
    assert all(torch.equal(state[name], t) for name, t in theirs.state_dict().items())
    theirs.load_state_dict(state, strict=True)
    mine.load_state_dict(theirs.state_dict(), strict=True)


def test_defaults_are_the_references() -> None:
    theirs = vector_quantize_pytorch.GroupedResidualLFQ(dim=4, codebook_size=16, num_quantizers=2)
    mine = GroupedResidualLFQ(dim=4, codebook_size=16, num_quantizers=2)
    for name, value in vars(theirs).items():
        if not name.startswith("_"):
            assert getattr(mine, name) == value, name
    assert torch.equal(mine.codebooks, theirs.codebooks)


@pytest.mark.parametrize("options", OPTIONS)
def test_forward_is_exactly_the_references(options: str) -> None:
    theirs, mine = reference(options), ours(options)
    x = normal((2, 30, mine.dim))
    for found, expected in zip(mine(x), theirs(x), strict=True):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)


@pytest.mark.parametrize("options", ["plain", "soft clamp", "projections"])
def test_decoding_is_exactly_the_references(options: str) -> None:
    theirs, mine = reference(options, quantize_dropout=True), ours(options, quantize_dropout=True)
    indices = torch.randint(-1, 2**BITS, (3, 2, 9, 4), generator=torch.Generator().manual_seed(1))
    for levels in (4, 1):
        some = indices[..., :levels]
        assert torch.equal(mine.get_codes_from_indices(some), theirs.get_codes_from_indices(some))
        assert torch.equal(mine.get_output_from_indices(some), theirs.get_output_from_indices(some))


@pytest.mark.parametrize("dropout", [False, True])
def test_training_is_the_references(dropout: bool) -> None:
    theirs = reference("everything", quantize_dropout=dropout).train()
    mine = ours("everything", quantize_dropout=dropout).train()
    x = normal((2, 30, mine.dim))
    used = set()
    for seed in range(5):
        results = []
        for module in (theirs, mine):
            torch.manual_seed(seed)
            results.append((*module(x), torch.rand(3)))
        (quantized, indices, losses, next_random), found = results
        assert torch.equal(found[0], quantized)
        assert torch.equal(found[1], indices)
        torch.testing.assert_close(found[2], losses, rtol=1e-3, atol=2e-4)
        assert torch.equal(found[3], next_random)  # a seed is drawn with and without dropout
        used.add(int((found[1] != DROPPED).sum(-1).unique()))  # the same in every group
    assert (len(used) > 1) == dropout


def test_the_references_image_decoder_has_another_shape() -> None:
    """Why decoding images is compared with forward and not with the reference."""
    theirs, mine = reference("plain", accept_image_fmap=True), ours("plain", accept_image_fmap=True)
    x = normal((2, 12, 3, 5))
    quantized, indices, _ = theirs(x)
    assert torch.equal(mine(x)[0], quantized)
    assert torch.equal(mine(x)[1], indices)
    assert theirs.get_output_from_indices(indices).shape == (2, 9, 5, 4)
    assert torch.equal(mine.get_output_from_indices(indices), quantized)


# any shape: the groups side by side


@pytest.mark.parametrize(("layout", "more"), LAYOUTS)
@pytest.mark.parametrize("options", OPTIONS)
def test_decoding_is_forward_bit_for_bit(options: str, layout: tuple[int, ...], more: dict[str, bool]) -> None:
    mine = ours(options, **more)
    x = normal(with_channels(layout, mine.dim))
    quantized, indices, losses, codes = mine(x, return_all_codes=True)
    positions = x.movedim(layout.index(-1), -1).shape[:-1]
    assert quantized.shape == x.shape
    assert indices.shape == (3, *positions, 4)
    assert losses.shape == (3, 4)
    assert codes.shape == (3, 4, *positions, BITS)
    assert torch.equal(mine.get_output_from_indices(indices), quantized)
    assert torch.equal(mine.get_codes_from_indices(indices), codes)
    for group, part, own, result in zip(mine.rvqs, *_by_group(layout, x, quantized), indices, strict=True):
        expected = group(part)
        assert torch.equal(own, expected[0])
        assert torch.equal(result, expected[1])


def _by_group(layout: tuple[int, ...], *tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """The three thirds of each tensor's channels."""
    return [tensor.tensor_split(3, dim=layout.index(-1)) for tensor in tensors]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("levels", [None, 1, 3])
def test_bits_are_group_by_group_and_levels_within(options: str, levels: int | None) -> None:
    mine = ours(options)
    x = normal((20, mine.dim))
    _, indices, _ = mine(x)
    bits = mine.encode_bits(x, levels=levels)
    count = levels or 4
    assert bits.shape == (20, 3 * count * BITS)
    as_integers = (bits.view(20, 3, count, BITS) * 2 ** torch.arange(BITS - 1, -1, -1)).sum(-1)
    assert torch.equal(as_integers.transpose(0, 1), indices[..., :count])
    assert torch.equal(mine.latents(x, levels=levels) > 0, bits)
    decoded = mine.get_output_from_indices(indices[..., :count])
    assert torch.equal(mine.decode_bits(bits), decoded)
    assert torch.equal(mine.decode_bits(bits, levels=levels), decoded)
    codes = mine.decode_bits(bits, project_out=False)
    assert codes.shape == (20, 3 * BITS)
    by_group = zip(mine.rvqs, codes.chunk(3, dim=-1), strict=True)
    assert torch.equal(torch.cat([group.project_out(own) for group, own in by_group], dim=-1), decoded)


def test_half_precision_comes_out_as_it_went_in() -> None:
    mine = ours("plain")
    x = normal((2, 12, 3, 4)).bfloat16()
    quantized, indices, _ = mine(x)
    assert quantized.dtype == torch.bfloat16
    assert torch.equal(indices, mine(x.float())[1])
    assert mine.bfloat16().dtype == torch.bfloat16


def test_a_fixed_seed_and_a_mask_reach_every_group() -> None:
    mine = ours("plain", quantize_dropout=True).train()
    x = normal((2, 12, 3, 4))
    torch.manual_seed(0)
    expected = torch.rand(3)
    selected = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(2)) < 0.5
    torch.manual_seed(0)
    for seed in range(4):
        _, indices, losses = mine(x, mask=selected, rand_quantize_dropout_fixed_seed=seed)
        for group, part, own, loss in zip(mine.rvqs, x.chunk(3, dim=1), indices, losses, strict=True):
            alone = group(part, mask=selected, rand_quantize_dropout_fixed_seed=seed)
            assert torch.equal(alone[1], own)
            assert torch.equal(alone[2], loss)
    mine.eval()(x)
    assert torch.equal(torch.rand(3), expected)  # neither a fixed seed nor one that nobody needs is drawn


def test_one_group_is_a_residual_quantizer() -> None:
    torch.manual_seed(0)
    alone = ResidualLFQ(dim=21, codebook_size=2**BITS, num_quantizers=4).eval()
    mine = ours("projections", groups=1)
    x = normal((2, 5, 21))
    assert torch.equal(mine(x)[0], alone(x)[0])
    assert torch.equal(mine(x)[1][0], alone(x)[1])


# errors


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"dim": 13}, "found dim 13 and 3 groups"),
        ({"groups": 0}, "found dim 12 and 0 groups"),
        ({"accept_image_fmap": True, "channel_first": False}, "found channel_first=False"),
        ({"codebook_scale": 1.0}, "codebook_scale is fixed"),
        ({"num_codebooks": 2}, "num_codebooks=2"),
    ],
)
def test_options_that_cannot_be_are_refused(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ours("plain", **more)


def test_inputs_of_another_size_are_refused() -> None:
    mine = ours("plain")
    for shape in ((2, 3, 4), (2, 4, 3, 12), ()):
        with pytest.raises(ValueError, match="expected 12 features"):
            mine(torch.zeros(shape))
    with pytest.raises(ValueError, match="expected 12 features"):
        mine.encode_bits(torch.zeros(3, 4))
    with pytest.raises(TypeError, match="int64"):
        mine(torch.zeros(2, 12, dtype=torch.int64))


def test_indices_and_bits_of_other_groups_or_levels_are_refused() -> None:
    mine = ours("plain")
    for shape in ((), (3,), (2, 5, 4), (4, 5, 4)):
        with pytest.raises(ValueError, match="expected 3 groups on the first axis"):
            mine.get_output_from_indices(torch.zeros(shape, dtype=torch.int64))
    with pytest.raises(ValueError, match="1 to 4 levels on the last axis"):
        mine.get_codes_from_indices(torch.zeros(3, 5, 5, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"range \[0, 2\^4\)"):
        mine.get_output_from_indices(torch.full((3, 5, 4), 16))
    with pytest.raises(ValueError, match="each of 3 groups, found 16"):
        mine.decode_bits(torch.zeros(2, 16, dtype=torch.bool))
    with pytest.raises(ValueError, match="found 8"):
        mine.decode_bits(torch.zeros(2, 24, dtype=torch.bool), levels=4)


def test_codebooks_have_the_limit_of_one() -> None:
    wide = GroupedResidualLFQ(dim=80, groups=2, codebook_size=2**40, num_quantizers=2).eval()
    x = normal((2, 80))
    assert torch.equal(wide.get_output_from_indices(wide(x)[1]), wide(x)[0])
    with pytest.raises(LfqError, match=r"2\^40"):
        _ = wide.codebooks
