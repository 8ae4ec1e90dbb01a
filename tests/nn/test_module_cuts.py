"""LFQ with `factorized_bits` and `bit_order`: other indices of the same bits, so the same codes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lfq_cli.nn import LFQ, GroupedResidualLFQ, ResidualLFQ

MODULES: dict[str, dict[str, Any]] = {
    "plain": {"codebook_size": 2**12},
    "codebooks": {"codebook_size": 2**4, "num_codebooks": 3},
    "single bits": {"codebook_size": 2, "num_codebooks": 12},
    "spherical": {"codebook_size": 2**12, "spherical": True, "codebook_scale": 0.3},
    "rotated": {"codebook_size": 2**6, "num_codebooks": 2, "orthogonal_rotation": True},
    "projected": {"codebook_size": 2**12, "dim": 5},
}


@st.composite
def cuts(draw: st.DrawFn, bits: int = 12) -> list[int]:
    """Positive numbers that add up to `bits`."""
    ends = sorted({*draw(st.lists(st.integers(1, bits - 1), max_size=4)), bits})
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def by_hand(bits: Tensor, dims: list[int], order: str) -> list[list[int]]:
    """bits [n, B] bool -> the indices of every vector."""
    rows = []
    for row in bits.tolist():
        parts = [row[sum(dims[:k]) : sum(dims[: k + 1])] for k in range(len(dims))]
        rows.append(
            [sum(bit << place for place, bit in enumerate(part[:: 1 if order == "lsb" else -1])) for part in parts]
        )
    return rows


@settings(max_examples=120)
@given(st.sampled_from(list(MODULES)), cuts(), st.sampled_from(["msb", "lsb"]), st.sampled_from([None, True]))
def test_a_cut_gives_other_indices_of_the_same_bits(name: str, dims: list[int], order: str, keep: bool | None) -> None:
    torch.manual_seed(0)
    whole = LFQ(**MODULES[name]).eval()
    cut = LFQ(**MODULES[name], factorized_bits=dims, bit_order=order, keep_num_codebooks_dim=keep).eval()
    cut.load_state_dict(whole.state_dict() | {"mask": cut.mask})
    x = torch.randn(2, 3, whole.dim)
    quantized, indices, _ = cut(x)
    assert torch.equal(quantized, whole(x).quantized)
    last = [len(dims)] if keep or len(dims) > 1 else []
    assert list(indices.shape) == [2, 3, *last]
    assert indices.reshape(-1, len(dims)).tolist() == by_hand(whole.encode_bits(x.reshape(-1, whole.dim)), dims, order)
    assert torch.equal(cut.indices_to_codes(indices), quantized)
    assert torch.equal(
        cut.indices_to_codes(indices, project_out=False),
        whole.indices_to_codes(whole(x).indices, project_out=False),
    )


@pytest.mark.parametrize("order", ["msb", "lsb"])
def test_indices_of_64_bits_are_exact(order: str) -> None:
    dims = [1, 63]
    module = LFQ(dim=64, factorized_bits=dims, bit_order=order).eval()  # type: ignore[arg-type]
    x = torch.randn(5, 64)
    quantized, indices, _ = module(x)
    assert indices.tolist() == by_hand(x > 0, dims, order)
    assert torch.equal(module.indices_to_codes(indices), quantized)
    whole = LFQ(dim=64, factorized_bits=[64], bit_order=order).eval()  # type: ignore[arg-type]
    assert [index % 2**64 for index in whole(x).indices.tolist()] == [row[0] for row in by_hand(x > 0, [64], order)]
    assert torch.equal(whole.indices_to_codes(whole(x).indices), quantized)


def test_a_loaded_mask_says_the_order() -> None:
    module = LFQ(dim=6, factorized_bits=[2, 4])
    assert module.bit_order == "msb"
    module.load_state_dict(LFQ(dim=6, bit_order="lsb").state_dict())
    assert module.bit_order == "lsb"
    assert module(torch.tensor([1.0, -1, 1, -1, -1, -1])).indices.tolist() == [1, 1]


@pytest.mark.parametrize("shape", [(), (2,), (3,), (2, 3), (2, 1)])
def test_indices_of_another_cut_are_refused(shape: tuple[int, ...]) -> None:
    if shape == (2,):
        LFQ(dim=12, factorized_bits=[4, 8]).indices_to_codes(torch.zeros(shape, dtype=torch.int64))
        return
    with pytest.raises(ValueError, match="expected 2 indices on the last axis, of 4, 8 bits, found shape"):
        LFQ(dim=12, factorized_bits=[4, 8]).indices_to_codes(torch.zeros(shape, dtype=torch.int64))


@pytest.mark.parametrize(
    ("indices", "message"), [([16, 0], r"\[0, 2\^4\), found from 16"), ([0, -1], r"2\^8\), found")]
)
def test_each_index_has_its_own_range(indices: list[int], message: str) -> None:
    module = LFQ(dim=12, factorized_bits=[4, 8])
    assert module.indices_to_codes(torch.tensor([15, 255])).tolist() == [1.0] * 12
    with pytest.raises(ValueError, match=message):
        module.indices_to_codes(torch.tensor(indices))


def test_64_bits_that_are_cut_are_checked() -> None:
    with pytest.raises(ValueError, match=r"2\^32\), found"):
        LFQ(dim=64, factorized_bits=[32, 32]).indices_to_codes(torch.tensor([0, 2**32]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factorized_bits": [4, 7]}, r"add up to 12, found \[4, 7\]"),
        ({"factorized_bits": [12, 0]}, "1 to 64 each"),
        ({"factorized_bits": []}, "add up to 12"),
        ({"factorized_bits": [4, 8], "keep_num_codebooks_dim": False}, "2 indices"),
        ({"bit_order": "big"}, "'msb' or 'lsb', found 'big'"),
    ],
)
def test_cuts_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LFQ(dim=12, **options)


@pytest.mark.parametrize("module", [ResidualLFQ, GroupedResidualLFQ])
def test_levels_are_not_cut(module: Any) -> None:
    with pytest.raises(ValueError, match="a level has one index"):
        module(dim=12, num_quantizers=2, codebook_size=2**12, factorized_bits=[4, 8])


@pytest.mark.parametrize("module", [ResidualLFQ, GroupedResidualLFQ])
def test_levels_have_an_order(module: Any) -> None:
    made = module(dim=4, num_quantizers=2, codebook_size=2**4, bit_order="lsb").eval()
    assert made(torch.tensor([[0.5, -2.0, -2.0, -2.0]]))[1][..., 0].flatten().tolist() == [1]
