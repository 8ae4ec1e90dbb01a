"""nn/transposed.py: whichever orientation is computed, the bits are those of nn.Linear."""

import pytest
import torch
from torch import nn

from lfq_cli.nn import transposed
from lfq_cli.nn.transposed import TransposedLinear, transpose_projections


def linear_of(features: int, outputs: int, *, bias: bool) -> nn.Linear:
    torch.manual_seed(features + outputs)
    return nn.Linear(features, outputs, bias=bias).requires_grad_(False)


@pytest.mark.slow
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("features", "outputs"), [(512, 18), (64, 10), (300, 1), (129, 13), (768, 36)])
def test_the_bits_of_linear(features: int, outputs: int, dtype: torch.dtype, bias: bool) -> None:
    linear = linear_of(features, outputs, bias=bias).to(dtype)
    both = TransposedLinear(linear)
    for count in (0, 1, 7, transposed._WORTH_A_TEST // features + 1, 2048):
        rows = torch.randn(count, features, dtype=dtype)
        items = torch.randn(features, count, dtype=dtype).T  # a channel-first item as it lies
        wider = torch.randn(count, features + 3, dtype=dtype)[:, 1:-2]  # one group's features
        for x in (rows, items, wider):
            for _ in range(3):  # plain, tried, known
                assert torch.equal(both(x), linear(x))
                assert both(x).is_contiguous()


def test_transposing_hides_nothing() -> None:
    linear = linear_of(512, 18, bias=True)
    x = torch.randn(2048, 512)
    x[3, 5], x[4, 6], x[5, 7] = float("nan"), float("inf"), -float("inf")
    both = TransposedLinear(linear)
    for _ in range(3):
        assert torch.equal(both(x).nan_to_num(1, 2, 3), linear(x).nan_to_num(1, 2, 3))


def test_other_bits_are_never_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose two products differ in one bit of one value, anywhere."""
    plain = TransposedLinear._transposed

    def other(self: TransposedLinear, x: torch.Tensor) -> torch.Tensor:
        z = plain(self, x)
        z[-1, -1] = torch.nextafter(z[-1, -1], torch.tensor(9.0))
        return z

    monkeypatch.setattr(TransposedLinear, "_transposed", other)
    linear = linear_of(512, 18, bias=True)
    x = torch.randn(2048, 512)
    both = TransposedLinear(linear)
    for _ in range(3):
        assert torch.equal(both(x), linear(x))
    assert list(both._same.values()) == [False]


def test_the_faster_way_is_taken_where_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of machines that sum both ways in the same order: here one that computes the same product for both."""
    linear = linear_of(512, 18, bias=True)
    taken = []
    monkeypatch.setattr(TransposedLinear, "_transposed", lambda self, x: taken.append(x) or self.linear(x))
    both = TransposedLinear(linear)
    for count in (2048, 2048, 2048, 1500):
        both(torch.ones(count, 512))
    assert [len(x) for x in taken[1:]] == [2048, 2048]  # the first was the trial
    for count in range(300, 500):  # as many shapes as files, each once
        both(torch.ones(count, 512))
    assert len(both._same) <= transposed._MOST_CASES


def test_the_trial_leaves_the_random_numbers_of_others_alone() -> None:
    both = TransposedLinear(linear_of(512, 18, bias=True))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    for _ in range(3):
        both(torch.ones(2048, 512))
    assert torch.equal(torch.get_rng_state(), before)


def test_every_projection_of_a_module_is_replaced() -> None:
    from lfq_cli import GroupedResidualLFQ

    module = GroupedResidualLFQ(dim=64, groups=2, codebook_size=16, num_quantizers=2)
    transpose_projections(module)
    assert all(isinstance(part.project_in, TransposedLinear) for part in module.rvqs)
