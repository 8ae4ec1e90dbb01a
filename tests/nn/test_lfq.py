"""lfq.py against vector_quantize_pytorch.LFQ 1.32 where that is right, and against Python integers where it is not."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import brute_force
import pytest
import torch
import vector_quantize_pytorch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lfq_cli.errors import LfqError
from lfq_cli.nn import LFQ, LossBreakdown, Return

# With a projection, a z this near to 0 may round to either sign: sums of products differ in their last bits.
MARGIN = 1e-5

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "scale": {"codebook_scale": 0.3},
    "spherical": {"spherical": True},
    "spherical scale": {"spherical": True, "codebook_scale": 1.7},
    "soft clamp": {"soft_clamp_input_value": 2.5},
    "spherical soft clamp": {"spherical": True, "soft_clamp_input_value": 1.0},
    "half precision allowed": {"force_quantization_f32": False},
    "codebook axis": {"keep_num_codebooks_dim": True},
}
WEIGHTED: dict[str, dict[str, Any]] = {
    "projections": {"dim": 37},
    "no bias": {"dim": 37, "projection_has_bias": False},
    "forced projections": {"has_projections": True},
    "cosine": {"dim": 37, "cosine_sim_project_in": True},
    "cosine scale": {"dim": 37, "cosine_sim_project_in": True, "cosine_sim_project_in_scale": 3.0},
    "rotation": {"orthogonal_rotation": True},
    "everything": {
        "dim": 37,
        "orthogonal_rotation": True,
        "spherical": True,
        "soft_clamp_input_value": 3.0,
        "codebook_scale": 0.6,
    },
}
SIZES = [(bits, codebooks) for bits in (1, 2, 6, 8, 10, 16, 18) for codebooks in (1, 4)]
LAYOUTS = [(2, -1, 5), (2, 5, -1), (2, -1, 3, 2), (2, -1, 2, 3, 2)]  # -1: the channels


@lru_cache(maxsize=4)  # an 18-bit one holds 19 MB of codes
def reference(options: str, bits: int, codebooks: int) -> Any:
    """The reference in eval mode; the second layout, (b, n, d), is the default for 3 axes."""
    torch.manual_seed(bits)
    chosen = OPTIONS.get(options) or WEIGHTED.get(options) or {}
    return vector_quantize_pytorch.LFQ(codebook_size=2**bits, num_codebooks=codebooks, **chosen).eval()


def ours(options: str, bits: int, codebooks: int, **more: Any) -> LFQ:
    """Constructed with the same arguments and loaded with the reference's weights."""
    chosen = {**OPTIONS, **WEIGHTED}[options]
    module = LFQ(codebook_size=2**bits, num_codebooks=codebooks, **chosen, **more).eval()
    module.load_state_dict(reference(options, bits, codebooks).state_dict(), strict=True)
    return module


def pair(options: str, bits: int, codebooks: int, layout: tuple[int, ...]) -> tuple[Any, LFQ]:
    """The two modules, given the layout where they cannot know it."""
    theirs, mine = reference(options, bits, codebooks), ours(options, bits, codebooks)
    theirs.channel_first = mine.channel_first = layout[1] == -1 if len(layout) == 3 else None
    return theirs, mine


def normal(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def with_channels(layout: tuple[int, ...], dim: int) -> tuple[int, ...]:
    return tuple(dim if axis == -1 else axis for axis in layout)


def awkward(shape: tuple[int, ...]) -> Tensor:
    """Normal numbers, of which one in three is replaced by a number that a shortcut would get wrong."""
    special = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, 1e-45, -1e-45, 1e-39, 3e38, -3e38, 1e-30])
    generator = torch.Generator().manual_seed(1)
    chosen = special[torch.randint(len(special), shape, generator=generator)]
    return torch.where(torch.rand(shape, generator=generator) < 1 / 3, chosen, normal(shape))


# the same module


def test_defaults_and_attributes_are_the_references() -> None:
    theirs, mine = vector_quantize_pytorch.LFQ(dim=6), LFQ(dim=6)
    for name, value in vars(theirs).items():
        if not name.startswith("_") and name != "maybe_l2norm":
            assert getattr(mine, name) == value, name
    assert mine.dtype == theirs.dtype
    assert torch.equal(mine.zero, theirs.zero)
    assert Return._fields == ("quantized", "indices", "entropy_aux_loss")
    assert LossBreakdown._fields == ("per_sample_entropy", "batch_entropy", "commitment")


@pytest.mark.parametrize("options", [*OPTIONS, *WEIGHTED])
def test_the_same_seed_gives_the_same_weights_and_state_dicts_load_both_ways(options: str) -> None:
    theirs = reference(options, 6, 4)
    torch.manual_seed(6)
    mine = LFQ(codebook_size=2**6, num_codebooks=4, **{**OPTIONS, **WEIGHTED}[options])
    state = mine.state_dict()
    assert list(state) == list(theirs.state_dict())
    assert all(torch.equal(state[name], t) and state[name].dtype == t.dtype for name, t in theirs.state_dict().items())
    assert torch.equal(torch.rand(3), _after(theirs, options))
    theirs.load_state_dict(state, strict=True)
    mine.load_state_dict(theirs.state_dict(), strict=True)


def _after(theirs: Any, options: str) -> Tensor:
    """The random numbers that follow the reference's construction."""
    torch.manual_seed(6)
    type(theirs)(codebook_size=2**6, num_codebooks=4, **{**OPTIONS, **WEIGHTED}[options])
    return torch.rand(3)


@pytest.mark.parametrize("bits", [1, 6, 16])
@pytest.mark.parametrize("options", ["plain", "scale", "spherical scale"])
def test_codebook_is_the_references_buffer(options: str, bits: int) -> None:
    assert torch.equal(ours(options, bits, 1).codebook, reference(options, bits, 1).codebook)


def test_codebook_has_a_stated_limit() -> None:
    with pytest.raises(LfqError, match=r"2\^25"):
        _ = LFQ(dim=25).codebook


# bits and codes


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("bits", "codebooks"), SIZES)
@pytest.mark.parametrize("options", OPTIONS)
def test_without_weights_everything_is_exactly_the_references(
    options: str, bits: int, codebooks: int, layout: tuple[int, ...]
) -> None:
    theirs, mine = pair(options, bits, codebooks, layout)
    x = awkward(with_channels(layout, bits * codebooks))
    expected, found = theirs(x), mine(x)
    assert torch.equal(found.indices, expected.indices)
    assert found.indices.dtype == expected.indices.dtype == torch.int64
    assert torch.equal(found.quantized, expected.quantized)
    assert torch.equal(mine.indices_to_codes(found.indices), theirs.indices_to_codes(expected.indices))
    assert torch.equal(mine.indices_to_codes(found.indices), found.quantized)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("bits", "codebooks"), SIZES)
@pytest.mark.parametrize("options", WEIGHTED)
def test_with_weights_bits_agree_beyond_the_margin_and_decoding_exactly(
    options: str, bits: int, codebooks: int, layout: tuple[int, ...]
) -> None:
    theirs, mine = pair(options, bits, codebooks, layout)
    x = normal(with_channels(layout, mine.dim))
    expected, found = theirs(x), mine(x)
    near_zero = (mine.project(x.movedim(layout.index(-1), -1)).abs() <= MARGIN).any(-1)
    near_zero = near_zero if mine.keep_num_codebooks_dim else near_zero.squeeze(-1)
    assert ((found.indices == expected.indices) | near_zero).all()
    assert near_zero.float().mean() < 0.05  # the margin excuses next to nothing: 1 of 40 vectors at most
    for project_out in (True, False):
        codes = mine.indices_to_codes(expected.indices, project_out=project_out)
        assert torch.equal(codes, theirs.indices_to_codes(expected.indices, project_out=project_out))
    assert torch.equal(mine.indices_to_codes(found.indices), found.quantized)


@pytest.mark.parametrize("options", [*OPTIONS, *WEIGHTED])
def test_encode_bits_and_decode_bits_are_forward_taken_apart(options: str) -> None:
    mine = ours(options, 6, 4)
    x = normal((50, mine.dim))
    bits = mine.encode_bits(x)
    assert bits.shape == (50, 24)
    assert bits.dtype == torch.bool
    result = mine(x)
    weights = 2 ** torch.arange(5, -1, -1)
    assert torch.equal((bits.view(50, 4, 6) * weights).sum(-1), result.indices)
    assert torch.equal(mine.decode_bits(bits), result.quantized)
    assert torch.equal(mine.decode_bits(bits, project_out=False), mine.indices_to_codes(result.indices, False))
    assert mine.project(x.view(5, 10, -1)).shape == (5, 10, 4, 6)


def test_encode_bits_computes_in_float32_whatever_the_input_and_autocast() -> None:
    mine = ours("projections", 8, 1)
    x = normal((400, 37)).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = mine.encode_bits(x)
    assert torch.equal(found, mine.encode_bits(x.float()))
    assert not torch.equal(found, mine.bfloat16().encode_bits(x))  # the guard can fail


@given(st.lists(st.floats(width=32), min_size=6, max_size=6))
def test_bits_are_the_comparison_with_zero(numbers: list[float]) -> None:
    (index,) = LFQ(dim=6).eval()(torch.tensor([numbers])).indices.tolist()
    assert index == sum((number > 0) << (5 - j) for j, number in enumerate(numbers))


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.uint8, torch.float32, torch.float64, torch.bfloat16])
def test_bits_to_codes_are_floats_of_either_sign(dtype: torch.dtype) -> None:
    for scale in (1, 0.3):
        codes = LFQ(dim=2, codebook_scale=scale).bits_to_codes(torch.tensor([0, 1], dtype=dtype))
        assert codes.is_floating_point()
        assert codes.tolist() == torch.tensor([-scale, scale], dtype=codes.dtype).tolist()


# more than 31 bits


@pytest.mark.parametrize("bits", [31, 32, 36, 40, 53, 63, 64])
@pytest.mark.parametrize("codebooks", [1, 2])
def test_wide_indices_are_exact(bits: int, codebooks: int) -> None:
    mine = LFQ(codebook_size=2**bits, num_codebooks=codebooks).eval()
    assert mine.codebook_size == 2**bits
    ends = torch.stack([torch.ones(bits * codebooks), -torch.ones(bits * codebooks)])
    x = torch.cat([ends, normal((40, bits * codebooks))])
    quantized, indices, _ = mine(x)
    rows = indices.view(42, codebooks).tolist()
    for vector, row in zip(x.view(42, codebooks, bits).tolist(), rows, strict=True):
        expected = [int("".join(str(int(number > 0)) for number in part), 2) for part in vector]
        assert [index % 2**64 for index in row] == expected
    assert torch.equal(quantized, torch.where(x > 0, 1.0, -1.0))
    assert torch.equal(mine.indices_to_codes(indices), quantized)
    # The oracle only has bits to give: its codebook of 2^40 codes would not fit.
    assert mine.mask.tolist() == [2**j - (2**64 if j == 63 else 0) for j in reversed(range(bits))]


def test_unsigned_indices_of_64_bits_decode() -> None:
    mine = LFQ(dim=64).eval()
    x = normal((1, 64)).abs()
    indices = torch.tensor([2**64 - 1], dtype=torch.uint64)
    assert torch.equal(mine.indices_to_codes(indices), mine(x).quantized)


# layouts


@pytest.mark.parametrize("channel_first", [None, True, False])
@pytest.mark.parametrize("shape", [(12,), (5, 12), (1, 12)])
@pytest.mark.parametrize("options", [{}, {"num_codebooks": 2, "codebook_size": 64}, {"keep_num_codebooks_dim": True}])
def test_one_and_two_axes_are_channel_last(
    shape: tuple[int, ...], channel_first: bool | None, options: dict[str, Any]
) -> None:
    mine = LFQ(dim=12, channel_first=channel_first, **options).eval()
    x = normal(shape)
    result = mine(x)
    codebooks = (mine.num_codebooks,) if mine.keep_num_codebooks_dim else ()
    assert result.indices.shape == (*shape[:-1], *codebooks)
    assert torch.equal(result.quantized, x.sign())
    assert torch.equal(mine.indices_to_codes(result.indices), result.quantized)
    mine.train()(x).entropy_aux_loss.item()


@pytest.mark.parametrize("codebooks", [1, 2])
@pytest.mark.parametrize(("channel_first", "shape"), [(False, (2, 3, 4, 12)), (True, (2, 12, 5)), (None, (2, 5, 12))])
def test_channel_first_is_obeyed(channel_first: bool | None, shape: tuple[int, ...], codebooks: int) -> None:
    mine = LFQ(codebook_size=2 ** (12 // codebooks), num_codebooks=codebooks, channel_first=channel_first).eval()
    result = mine(normal(shape))
    assert torch.equal(result.quantized, normal(shape).sign())
    if codebooks == 2 or channel_first is not None:
        assert torch.equal(mine.indices_to_codes(result.indices), result.quantized)


@pytest.mark.parametrize("shape", [(0, 6), (0, 3, 6), (2, 0, 6), (0, 6, 2, 2), (2, 6, 0, 3)])
@pytest.mark.parametrize("training", [False, True])
def test_empty_tensors_work(shape: tuple[int, ...], training: bool) -> None:
    mine = LFQ(dim=6, commitment_loss_weight=1.0, frac_per_sample_entropy=0.5).train(training)
    x = torch.zeros(shape, requires_grad=True)
    result, breakdown = mine(x, return_loss_breakdown=True)
    assert result.quantized.shape == shape
    assert mine.indices_to_codes(result.indices).shape == shape
    assert [loss.item() for loss in (result.entropy_aux_loss, *breakdown)] == [0, 0, 0, 0]
    if training:
        result.entropy_aux_loss.backward()


# losses


LOSS_OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "scale": {"codebook_scale": 0.4},
    "spherical": {"spherical": True, "codebook_scale": 1.5},
    "gamma": {"diversity_gamma": 2.5, "entropy_loss_weight": 0.3},
    "commitment": {"commitment_loss_weight": 0.25},
    "softplus": {"experimental_softplus_entropy_loss": True, "entropy_loss_offset": 1.5},
    "activation": {"straight_through_activation": nn.Tanh(), "commitment_loss_weight": 1.0},
    "projections": {"dim": 13, "commitment_loss_weight": 1.0, "soft_clamp_input_value": 2.0},
    "cosine rotation": {"dim": 13, "cosine_sim_project_in": True, "orthogonal_rotation": True},
    "fraction": {"frac_per_sample_entropy": 0.3},
    "any precision": {"force_quantization_f32": False, "commitment_loss_weight": 1.0},
    "no weight": {"entropy_loss_weight": 0.0},
}


@pytest.mark.parametrize(("bits", "codebooks"), [(1, 1), (4, 1), (6, 3)])
@pytest.mark.parametrize("options", LOSS_OPTIONS)
def test_training_values_and_gradients_are_the_references(options: str, bits: int, codebooks: int) -> None:
    chosen = {"codebook_size": 2**bits, "num_codebooks": codebooks, **LOSS_OPTIONS[options]}
    torch.manual_seed(3)
    theirs = vector_quantize_pytorch.LFQ(**chosen).train()
    torch.manual_seed(3)
    mine = LFQ(**chosen).train()
    # Small logits: with 6 bits of |l| < 4 * 0.4 every probability exceeds (1 + e^1.6)^-6 > 1e-5, so the clamp
    # inside the reference's logarithm does not bite. Checked below on what the reference gets.
    x = normal((3, 20, mine.dim)).clamp(-2, 2)
    inv_temperature = 0.2 if "codebook_scale" not in chosen else 0.1
    z = mine.project(x).detach().flatten(0, 1)
    magnitude = mine.codebook_scale / (math.sqrt(bits) if mine.spherical else 1)
    assert brute_force.assignment(z, magnitude, inv_temperature).exp().min() > 1e-5

    results = []
    for module in (theirs, mine):
        leaf = x.clone().requires_grad_()
        torch.manual_seed(4)  # the same tokens are sampled
        result, breakdown = module(leaf, inv_temperature=inv_temperature, return_loss_breakdown=True)
        loss = (result.quantized * normal(tuple(result.quantized.shape), 5)).sum() + 50 * result.entropy_aux_loss
        loss.backward()
        gradients = [leaf.grad, *(parameter.grad for parameter in module.parameters())]
        results.append(([*result, *breakdown], gradients))
    for expected, found in zip(results[0][0], results[1][0], strict=True):
        torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-6)
    for expected, found in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize(("bits", "codebooks"), [(2, 1), (7, 3), (12, 1)])
@pytest.mark.parametrize("inv_temperature", [1.0, 100.0])
def test_entropies_are_those_of_the_explicit_codebook(
    bits: int, codebooks: int, spherical: bool, inv_temperature: float
) -> None:
    mine = LFQ(codebook_size=2**bits, num_codebooks=codebooks, spherical=spherical, codebook_scale=0.5).train()
    x = (0.1 * normal((2, 15, mine.dim))).requires_grad_()
    _, breakdown = mine(x, inv_temperature=inv_temperature, return_loss_breakdown=True)
    magnitude = 0.5 / (math.sqrt(bits) if spherical else 1)
    truth = brute_force.entropies(mine.project(x).flatten(0, 1), magnitude=magnitude, inv_temperature=inv_temperature)
    for value, expected in zip(breakdown, truth, strict=False):
        torch.testing.assert_close(value.double(), expected, rtol=2e-5, atol=1e-6)
        gradients = [torch.autograd.grad(v, x, retain_graph=True)[0] for v in (value, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-6 * inv_temperature)


def test_the_references_logarithm_saturates_and_ours_does_not() -> None:
    x = torch.zeros(1, 2, 18)
    torch.manual_seed(0)
    _, theirs = reference("plain", 18, 1).train()(x, return_loss_breakdown=True)
    reference("plain", 18, 1).eval()
    _, mine = LFQ(dim=18).train()(x, return_loss_breakdown=True)
    assert theirs.batch_entropy.item() == pytest.approx(math.log(1e5))
    assert mine.batch_entropy.item() == pytest.approx(18 * math.log(2))
    assert mine.per_sample_entropy.item() == pytest.approx(18 * math.log(2))


@pytest.mark.parametrize("options", [{}, {"commitment_loss_weight": 1.0}, {"experimental_softplus_entropy_loss": True}])
def test_eval_losses_are_zero(options: dict[str, Any]) -> None:
    result, breakdown = LFQ(dim=6, **options).eval()(normal((2, 3, 6)), return_loss_breakdown=True)
    for loss in (result.entropy_aux_loss, *breakdown):
        assert loss.ndim == 0
        assert loss.item() == 0


def test_the_straight_through_gradient_is_one() -> None:
    x = normal((2, 3, 6)).requires_grad_()
    LFQ(dim=6).train()(x).quantized.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.ones_like(x))


# masks and samples


@pytest.mark.parametrize("codebooks", [1, 3])
@pytest.mark.parametrize("spatial", [(), (4, 3)])
def test_losses_count_the_vectors_that_the_mask_selects(codebooks: int, spatial: tuple[int, ...]) -> None:
    mine = LFQ(codebook_size=2**4, num_codebooks=codebooks, commitment_loss_weight=1.0).train()
    last = (0.3 * normal((2, *(spatial or (12,)), mine.dim))).requires_grad_()
    x = last.movedim(-1, 1) if spatial else last
    selected = torch.rand(2, 12, generator=torch.Generator().manual_seed(2)) < 0.4
    _, breakdown = mine(x, inv_temperature=1.0, return_loss_breakdown=True, mask=selected)
    z = last.reshape(24, codebooks, 4)[selected.flatten()]
    truth = brute_force.entropies(z, magnitude=1, inv_temperature=1)
    for value, expected in zip(breakdown, (*truth, (z - z.sign()).square().mean()), strict=True):
        torch.testing.assert_close(value.double(), expected.double(), rtol=1e-5, atol=1e-6)
        gradients = [torch.autograd.grad(v, last, retain_graph=True)[0] for v in (value, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
    _, again = mine(x, 1.0, True, selected.reshape(x.shape[0], *(spatial or (12,))))
    assert breakdown == again


def test_the_references_mask_does_not_average_over_tokens() -> None:
    """Why masked losses are not compared with the reference: its two entropies are the same one."""
    x = 0.3 * normal((2, 12, 4))
    everything = torch.ones(2, 12, dtype=torch.bool)
    theirs = vector_quantize_pytorch.LFQ(dim=4).train()
    _, masked = theirs(x, inv_temperature=1.0, return_loss_breakdown=True, mask=everything)
    _, plain = theirs(x, inv_temperature=1.0, return_loss_breakdown=True)
    assert torch.equal(masked.batch_entropy, masked.per_sample_entropy)
    assert masked.batch_entropy < plain.batch_entropy
    mine = LFQ(dim=4).train()
    _, masked = mine(x, inv_temperature=1.0, return_loss_breakdown=True, mask=everything)
    assert masked.batch_entropy.item() == pytest.approx(plain.batch_entropy.item())


@pytest.mark.parametrize("codebooks", [1, 2])
@pytest.mark.parametrize("spatial", [(3,), (3, 4), (2, 3, 2)])
def test_a_mask_of_whole_items_is_the_references(codebooks: int, spatial: tuple[int, ...]) -> None:
    options: dict[str, Any] = {"codebook_size": 2**4, "num_codebooks": codebooks, "diversity_gamma": 0.7}
    mine, theirs = LFQ(**options).train(), vector_quantize_pytorch.LFQ(**options).train()
    x = normal((5, 4 * codebooks, *spatial) if len(spatial) > 1 else (5, *spatial, 4 * codebooks))
    items = torch.tensor([True, False, True, True, False])
    (_, _, loss), found = mine(x, inv_temperature=1.0, return_loss_breakdown=True, mask=items)
    (_, _, expected), wanted = theirs(x, inv_temperature=1.0, return_loss_breakdown=True, mask=items)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    for name in ("per_sample_entropy", "batch_entropy", "commitment"):
        assert getattr(found, name).item() == pytest.approx(getattr(wanted, name).item(), abs=1e-5), name


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_a_mask_of_the_first_axes_selects_what_lies_below(axes: int) -> None:
    mine = LFQ(codebook_size=2**4, num_codebooks=2).train()
    x = normal((3, 8, 4, 5))
    mask = torch.rand((3, 4, 5)[:axes], generator=torch.Generator().manual_seed(axes)) < 0.6
    everything = mask.reshape(*mask.shape, *[1] * (3 - axes)).expand(3, 4, 5)
    assert torch.equal(mine(x, mask=mask)[2], mine(x, mask=everything)[2])
    assert torch.equal(mine(x, mask=everything)[2], mine(x, mask=everything.reshape(3, 20))[2])


def test_a_mask_that_selects_nothing_costs_nothing() -> None:
    mine = LFQ(dim=4, commitment_loss_weight=1.0).train()
    x = normal((2, 3, 4)).requires_grad_()
    result, breakdown = mine(x, return_loss_breakdown=True, mask=torch.zeros(2, 3, dtype=torch.bool))
    result.entropy_aux_loss.backward()
    assert [loss.item() for loss in (result.entropy_aux_loss, *breakdown)] == [0, 0, 0, 0]
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_a_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\).*found \(3, 2\)"):
        LFQ(dim=4).train()(normal((2, 3, 4)), mask=torch.ones(3, 2, dtype=torch.bool))


def test_a_fraction_counts_the_references_choice_and_at_least_one_vector() -> None:
    x = 0.3 * normal((1, 30, 4))
    for fraction, expected in ((0.5, 15), (0.001, 1)):
        mine = LFQ(dim=4, frac_per_sample_entropy=fraction).train()
        torch.manual_seed(7)
        _, breakdown = mine(x, inv_temperature=1.0, return_loss_breakdown=True)
        torch.manual_seed(7)
        chosen = torch.randn(30).argsort() < expected
        truth = brute_force.entropies(x[0, chosen, None], magnitude=1, inv_temperature=1)
        assert breakdown.per_sample_entropy.item() == pytest.approx(truth.per_sample.item(), rel=1e-5)
        assert breakdown.batch_entropy.item() == pytest.approx(truth.batch.item(), rel=1e-5)


# entropies of many bits


def test_training_with_many_bits_names_the_way_out() -> None:
    x = normal((2, 3, 40)).requires_grad_()
    with pytest.raises(LfqError, match="40 bits") as caught:
        LFQ(dim=40).train()(x)
    assert "entropy_group_size" in str(caught.value.hint)
    assert "entropy_loss_weight=0" in str(caught.value.hint)
    LFQ(dim=40).eval()(x)

    grouped, breakdown = LFQ(dim=40, entropy_group_size=9).train()(x, return_loss_breakdown=True)
    grouped.entropy_aux_loss.backward()
    assert 0 < breakdown.batch_entropy.item() <= 40 * math.log(2)


def test_without_a_weight_entropies_are_reported_where_they_can_be() -> None:
    module = LFQ(dim=40, entropy_loss_weight=0.0, commitment_loss_weight=1.0).train()
    result, breakdown = module(normal((2, 3, 40)), return_loss_breakdown=True)
    assert (breakdown.per_sample_entropy.item(), breakdown.batch_entropy.item()) == (0, 0)
    assert result.entropy_aux_loss.item() == breakdown.commitment.item() > 0

    x = normal((2, 3, 8))
    _, weighted = LFQ(dim=8).train()(x, return_loss_breakdown=True)
    result, unweighted = LFQ(dim=8, entropy_loss_weight=0.0).train()(x, return_loss_breakdown=True)
    assert unweighted == weighted
    assert result.entropy_aux_loss.item() == 0
    assert LFQ(dim=8, entropy_loss_weight=0.0).train()(x).entropy_aux_loss.item() == 0


# dtypes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("options", ["plain", "scale", "spherical scale", "soft clamp", "half precision allowed"])
@pytest.mark.parametrize("training", [False, True])
def test_dtypes_come_out_as_the_references(options: str, dtype: torch.dtype, training: bool) -> None:
    theirs = vector_quantize_pytorch.LFQ(dim=6, **OPTIONS[options]).train(training)
    mine = LFQ(dim=6, **OPTIONS[options]).train(training)
    if not mine.force_quantization_f32:
        theirs.to(dtype)  # its codebook has to have the input's dtype then
    x = normal((2, 9, 6)).to(dtype)
    expected, found = theirs(x), mine(x)
    assert found.quantized.dtype == expected.quantized.dtype == dtype
    assert torch.equal(found.indices, expected.indices)
    torch.testing.assert_close(found.quantized, expected.quantized, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("options", ["scale", "spherical scale", "projections", "everything"])
def test_a_converted_module_decodes_what_it_encodes(options: str, dtype: torch.dtype) -> None:
    mine = ours(options, 6, 4).to(dtype)
    result = mine(normal((2, 9, mine.dim)).to(dtype))
    decoded = mine.indices_to_codes(result.indices)
    assert decoded.dtype == result.quantized.dtype == dtype
    assert torch.equal(decoded, result.quantized)


def test_quantisation_is_in_float32_under_autocast() -> None:
    mine = LFQ(dim=8, commitment_loss_weight=1.0).train()
    x = 0.1 * normal((2, 9, 8))
    plain, losses = mine(x, 1.0, True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, breakdown = mine(x, 1.0, True)
    assert torch.equal(found.quantized, plain.quantized)
    assert breakdown == losses
    assert {loss.dtype for loss in breakdown} == {torch.float32}

    projected = ours("projections", 8, 1)
    y = normal((2, 9, 37))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = projected(y)
        theirs = reference("projections", 8, 1)
        theirs.channel_first = None
        assert result.quantized.dtype == theirs(y).quantized.dtype == torch.bfloat16
        assert torch.equal(projected.indices_to_codes(result.indices), result.quantized)


def test_float64_losses_stay_float64_if_allowed() -> None:
    x = normal((2, 9, 8)).double()
    assert LFQ(dim=8, force_quantization_f32=False).train()(x).entropy_aux_loss.dtype == torch.float64
    assert LFQ(dim=8).train()(x).entropy_aux_loss.dtype == torch.float32
    half = LFQ(dim=8, force_quantization_f32=False).train()(x.bfloat16())
    assert half.entropy_aux_loss.dtype == torch.float32


# errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs dim or codebook_size"),
        ({"codebook_size": 1000}, "found 1000; the next one is 1024"),
        ({"codebook_size": 2**53 + 1}, f"the next one is {2**54}"),
        ({"codebook_size": 0}, "the next one is 2"),
        ({"codebook_size": -8}, "the next one is 2"),
        ({"codebook_size": 1}, "the next one is 2"),
        ({"dim": 65}, "1 to 64 bits, found 65"),
        ({"codebook_size": 2**65}, "1 to 64 bits, found 65"),
        ({"dim": 0}, "1 to 64 bits, found 0"),
        ({"dim": 0, "codebook_size": 16}, "dim must be at least 1"),
        ({"dim": 8, "codebook_size": 16, "has_projections": False}, "number of bits, 4; found 8"),
        ({"dim": 8, "num_codebooks": 2, "has_projections": False}, "number of bits, 16; found 8"),
        ({"dim": 8, "num_codebooks": 0}, "num_codebooks must be at least 1"),
        ({"codebook_size": 16, "num_codebooks": 2, "keep_num_codebooks_dim": False}, "2 indices"),
        ({"dim": 8, "soft_clamp_input_value": 0.5}, "at least codebook_scale, 1.0; found 0.5"),
        ({"dim": 8, "codebook_scale": 0.0}, "positive number, found 0.0"),
        ({"dim": 8, "codebook_scale": math.nan}, "positive number, found nan"),
        ({"dim": 8, "frac_per_sample_entropy": 0.0}, r"in \(0, 1\], found 0.0"),
        ({"dim": 8, "frac_per_sample_entropy": 1.5}, r"in \(0, 1\], found 1.5"),
        ({"dim": 8, "entropy_group_size": 0}, "1 to 24, found 0"),
        ({"dim": 8, "entropy_group_size": 25}, "1 to 24, found 25"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LFQ(**options)


@pytest.mark.parametrize(
    ("shape", "channel_first", "message"),
    [
        ((2, 3, 7), None, r"6 features on axis -1, found 7 \(shape \(2, 3, 7\), channel_first=None\)"),
        ((2, 3, 6, 6), None, "6 features on axis 1, found 3"),
        ((2, 6, 3, 3), False, "6 features on axis -1, found 3"),
        ((), None, "6 features on axis -1, found 0"),
    ],
)
def test_inputs_of_another_size_are_refused(shape: tuple[int, ...], channel_first: bool | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LFQ(dim=6, channel_first=channel_first)(torch.zeros(shape))


def test_integers_are_refused() -> None:
    with pytest.raises(TypeError, match="int64"):
        LFQ(dim=6)(torch.zeros(2, 6, dtype=torch.int64))


@pytest.mark.parametrize("bits", [1, 6, 31, 32, 62, 63])
def test_indices_that_no_code_has_are_refused(bits: int) -> None:
    mine = LFQ(dim=bits)
    mine.indices_to_codes(torch.tensor([0, 2**bits - 1]))
    with pytest.raises(ValueError, match=rf"\[0, 2\^{bits}\), found from -1 to 1"):
        mine.indices_to_codes(torch.tensor([0, 1, -1]))
    if bits < 63:
        with pytest.raises(ValueError, match=f"found from 0 to {2**bits}"):
            mine.indices_to_codes(torch.tensor([0, 2**bits]))


def test_indices_that_are_no_integers_or_too_few_are_refused() -> None:
    with pytest.raises(TypeError, match="float32"):
        LFQ(dim=6).indices_to_codes(torch.zeros(3))
    for shape in ((), (3,), (2, 3)):
        with pytest.raises(ValueError, match="2 indices on the last axis"):
            LFQ(codebook_size=64, num_codebooks=2).indices_to_codes(torch.zeros(shape, dtype=torch.int64))


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_indices_survive_the_way_there_and_back(data: st.DataObject) -> None:
    bits = data.draw(st.integers(1, 63))
    values = data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=1, max_size=5))
    spherical = data.draw(st.booleans())
    mine = LFQ(dim=bits, spherical=spherical, codebook_scale=data.draw(st.floats(1e-3, 1e3))).eval()
    result = mine(mine.indices_to_codes(torch.tensor(values)))
    assert result.indices.tolist() == values
