"""StackedLFQ against a loop over plain matrices, and itself: forward, bits, indices, levels, gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lfq_cli import StackedLFQ
from lfq_cli.nn.saved import module_of

pytestmark = pytest.mark.slow


def stack(levels: int = 3, *, dim: int = 6, bits: int = 4, seed: int = 0, **options: object) -> StackedLFQ:
    torch.manual_seed(seed)
    module = StackedLFQ(dim=dim, num_quantizers=levels, codebook_size=2**bits, **options)
    return module.eval().requires_grad_(False)


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_hand(module: StackedLFQ, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x [n, dim] -> (decoded [n, dim], bits [n, Q * D], the least |z| of a vector [n]), in float64."""
    left, decoded, bits, near = x.double(), torch.zeros_like(x, dtype=torch.float64), [], []
    for level in range(module.num_quantizers):
        state = {
            name.removeprefix(f"layers.{level}."): value.double()
            for name, value in module.state_dict().items()
            if name.startswith(f"layers.{level}.")
        }
        z = left @ state["project_in.weight"].T + state["project_in.bias"]
        code = torch.where(z > 0, 1.0, -1.0).double()
        y = code @ state["project_out.weight"].T + state["project_out.bias"]
        left, decoded = left - y, decoded + y
        bits.append(z > 0)
        near.append(z.abs().amin(dim=1))
    return decoded, torch.cat(bits, dim=1), torch.stack(near).amin(dim=0)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 8), st.integers(0, 99))
def test_levels_code_what_the_levels_before_left_of_x(levels: int, dim: int, bits: int, seed: int) -> None:
    module = stack(levels, dim=dim, bits=bits, seed=seed)
    x = normal(50, dim, seed=seed)
    decoded, expected, near = by_hand(module, x)
    clear = near > 1e-4  # rounding of float32 decides the rest
    found = module.encode_bits(x)
    assert clear.sum() > 25
    assert torch.equal(found[clear], expected[clear])
    torch.testing.assert_close(module.decode_bits(found)[clear].double(), decoded[clear], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(7, 6), (6,), (2, 3, 6), (2, 6, 4, 5)])
def test_forward_is_decoding_of_its_own_bits_and_indices(shape: tuple[int, ...]) -> None:
    module = stack()
    x = normal(*shape)
    quantized, indices, losses = module(x)
    positions = shape[:1] + shape[2:] if len(shape) == 4 else shape[:-1]
    assert quantized.shape == x.shape
    assert indices.shape == (*positions, 3)
    assert losses.tolist() == [0, 0, 0]
    assert torch.equal(module.get_output_from_indices(indices), quantized)
    vectors = (x.movedim(1, -1) if len(shape) == 4 else x).reshape(-1, 6)
    same = (quantized.movedim(1, -1) if len(shape) == 4 else quantized).reshape(-1, 6)
    assert torch.equal(module.decode_bits(module.encode_bits(vectors)), same)


def test_first_levels_are_a_prefix_and_their_sum() -> None:
    module = stack()
    x = normal(40, 6)
    whole = module.encode_bits(x)
    assert torch.equal(module.encode_bits(x, levels=2), whole[:, :8])
    first = module_of(module.to_quantizer().first_levels(2))
    assert torch.equal(first.decode_bits(whole[:, :8]), module.decode_bits(whole[:, :8]))


def test_without_project_out_codes_stand_side_by_side() -> None:
    module = stack()
    bits = module.encode_bits(normal(5, 6))
    assert torch.equal(module.decode_bits(bits, project_out=False), torch.where(bits, 1.0, -1.0))


def test_training_improves_every_level_through_the_residuals() -> None:
    torch.manual_seed(0)
    x = normal(512, 6) @ normal(6, 6, seed=3)
    module = StackedLFQ(dim=6, num_quantizers=3, codebook_size=4, straight_through_activation=torch.tanh).train()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    losses = []
    for _ in range(200):
        loss = (module(x)[0] - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(layer.project_in.weight.grad.abs().sum() > 0 for layer in module.layers)


def test_a_module_and_its_record_are_one() -> None:
    module = stack(spherical=True)
    record = module.to_quantizer()
    assert record.type == "stacked_lfq"
    assert record.codebook_dims == (4, 4, 4)
    assert record.code_dim == 12
    again = module_of(record)
    x = normal(30, 6)
    assert torch.equal(again.encode_bits(x), module.encode_bits(x))
    assert again.to_quantizer().digest == record.digest
    state = {name: value.numpy() for name, value in module.state_dict().items() if not name.endswith("mask")}
    assert all(np.array_equal(record.weights[name], value) for name, value in state.items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_quantizers": 0}, "1 to 128"),
        ({"num_codebooks": 2}, "num_codebooks"),
        ({"soft_clamp_input_value": 2.0}, "soft_clamp"),
    ],
)
def test_options_that_cannot_be(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StackedLFQ(**{"dim": 6, "num_quantizers": 2, "codebook_size": 16} | options)


def test_bits_and_levels_that_do_not_fit() -> None:
    module = stack()
    with pytest.raises(ValueError, match="expected 12 bits"):
        module.decode_bits(torch.zeros(2, 13, dtype=torch.bool))
    with pytest.raises(ValueError, match="1 to 3 levels"):
        module.get_output_from_indices(torch.zeros(2, 4, dtype=torch.int64))
