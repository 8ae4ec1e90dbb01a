"""entropy.py against the explicit codebook, at extreme logits, and across processes."""

from __future__ import annotations

import math
import time
from pathlib import Path

import brute_force
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, multiprocessing

from lfq_cli.errors import LfqError
from lfq_cli.nn import LFQ, entropy

pytestmark = pytest.mark.slow


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def exact(p: float) -> float:
    return 0.0 if p in (0, 1) else -p * math.log(p) - (1 - p) * math.log(1 - p)


# one bit


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bernoulli_entropy_and_its_gradient_are_right_to_the_far_ends(dtype: torch.dtype) -> None:
    magnitudes = [0.0, 1e-30, 1e-6, 1e-3, 0.1, 1.0, 5.0, 17.0, 20.0, 50.0, 80.0, 300.0, 1e4]
    logits = torch.tensor([s * m for m in magnitudes for s in (1, -1)], dtype=dtype, requires_grad=True)
    values = entropy.bernoulli_entropy(logits)
    (gradient,) = torch.autograd.grad(values.sum(), logits)

    a = logits.detach().double().abs()
    small = torch.exp(-a)  # H = log(1 + e^-a) + a e^-a / (1 + e^-a) and dH/dl = -l e^-a / (1 + e^-a)^2
    expected = torch.log1p(small) + a * small / (1 + small)
    slope = -logits.detach().double() * small / (1 + small) ** 2
    unit = torch.finfo(dtype).eps
    # Relative where the dtype has normal numbers; below that its smallest normal number.
    torch.testing.assert_close(values.double(), expected, rtol=100 * unit, atol=1e-37)
    # The slope is a difference of terms up to 1/2, or up to |a| e^-a: an absolute and a relative rounding error.
    torch.testing.assert_close(gradient.double(), slope, rtol=100 * unit, atol=unit)


def test_bernoulli_entropy_at_zero_is_log_2_with_gradient_zero() -> None:
    logits = torch.tensor([0.0, -0.0], requires_grad=True)
    values = entropy.bernoulli_entropy(logits)
    values.sum().backward()
    assert values.tolist() == [pytest.approx(math.log(2))] * 2
    assert logits.grad is not None
    assert logits.grad.tolist() == [0, 0]


@given(st.floats(-700, 700))
def test_bernoulli_entropy_is_even_and_bounded(logit: float) -> None:
    one, other = entropy.bernoulli_entropy(torch.tensor([logit, -logit], dtype=torch.float64)).tolist()
    assert one == other
    assert 0 <= one <= math.log(2) + 1e-15


# all bits


def test_code_probabilities_are_in_index_order() -> None:
    logits = torch.tensor([[50.0, -50.0, 50.0], [-50.0, -50.0, 50.0]])
    assert entropy.code_probabilities(logits).argmax(-1).tolist() == [0b101, 0b001]


@pytest.mark.parametrize("bits", [1, 2, 3, 7, 10])
def test_mean_code_probabilities_are_the_mean_of_the_softmax(bits: int) -> None:
    z = normal(33, 1, bits, dtype=torch.float64)
    logits = entropy.bit_logits(z, magnitude=0.7, inv_temperature=3.0)
    expected = brute_force.assignment(z, 0.7, 3.0).exp()[:, 0]
    torch.testing.assert_close(entropy.code_probabilities(logits[:, 0]), expected, rtol=1e-10, atol=1e-300)
    torch.testing.assert_close(entropy.mean_code_probabilities(logits[:, 0]), expected.mean(0), rtol=1e-10, atol=0)


@pytest.mark.parametrize("inv_temperature", [0.01, 1.0, 100.0, 2500.0])
@pytest.mark.parametrize(("bits", "codebooks"), [(1, 1), (2, 3), (5, 1), (8, 4), (12, 1)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_values_and_gradients_are_those_of_the_explicit_codebook(
    inv_temperature: float, bits: int, codebooks: int, dtype: torch.dtype
) -> None:
    # Rounding a logit l is an error of l * 2^-24 in an exponent (float32), which matters up to l = 20 or so: relative
    # 2e-5. A gradient is a difference of logarithms times dlogit/dz: that factor scales its absolute error.
    tolerance, rounding = (1e-9, 1e-10) if dtype == torch.float64 else (2e-5, 1e-6)
    chain = 4 * inv_temperature * 0.5 / (24 * codebooks)
    z = normal(24, codebooks, bits, dtype=dtype).requires_grad_()
    logits = entropy.bit_logits(z, magnitude=0.5, inv_temperature=inv_temperature)
    ours = (entropy.per_sample_entropy(logits), entropy.batch_entropy(logits))
    truth = brute_force.entropies(z, magnitude=0.5, inv_temperature=inv_temperature)
    for value, expected in zip(ours, truth, strict=True):
        assert value.dtype == dtype
        assert value.ndim == 0
        torch.testing.assert_close(value.double(), expected, rtol=tolerance, atol=tolerance)
        gradients = [torch.autograd.grad(v, z, retain_graph=True)[0] for v in (value, expected)]
        torch.testing.assert_close(*gradients, rtol=10 * tolerance, atol=rounding * chain)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.integers(1, 9), st.integers(1, 9), st.floats(1e-3, 1e3))
def test_batch_entropy_lies_between_the_mean_entropy_and_its_bounds(
    seed: int, bits: int, group_size: int, sharpness: float
) -> None:
    logits = normal(12, 2, bits, seed=seed, dtype=torch.float64) * sharpness
    exact_value = entropy.batch_entropy(logits).item()
    bound = entropy.batch_entropy(logits, group_size=group_size).item()
    assert entropy.per_sample_entropy(logits).item() <= exact_value + 1e-9
    assert exact_value <= bound + 1e-9
    assert bound <= bits * math.log(2) + 1e-9
    if group_size >= bits:
        assert bound == exact_value


def test_groups_are_consecutive_bits() -> None:
    z = normal(50, 1, 7, dtype=torch.float64)
    logits = entropy.bit_logits(z, magnitude=1, inv_temperature=1)
    parts = [brute_force.entropies(part, magnitude=1, inv_temperature=1).batch for part in z.split(3, dim=-1)]
    assert entropy.batch_entropy(logits, group_size=3).item() == pytest.approx(sum(parts).item())


def test_extreme_logits_give_finite_gradients() -> None:
    logits = torch.tensor([[[1e4, -1e4, 0.0, 200.0, -1e-30]]] * 3, requires_grad=True)
    (entropy.per_sample_entropy(logits) - entropy.batch_entropy(logits)).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_no_vectors_have_no_entropy() -> None:
    logits = torch.zeros(0, 2, 5, requires_grad=True)
    loss = entropy.per_sample_entropy(logits) + entropy.batch_entropy(logits)
    loss.backward()
    assert loss.item() == 0


def test_too_many_bits_name_the_way_out() -> None:
    logits = torch.zeros(2, 1, entropy.MAX_EXACT_ENTROPY_BITS + 1)
    with pytest.raises(LfqError, match="25 bits") as caught:
        entropy.batch_entropy(logits)
    assert "entropy_group_size" in str(caught.value.hint)
    assert entropy.batch_entropy(logits, group_size=9).item() == pytest.approx(25 * math.log(2))


def test_18_bits_and_16384_vectors_take_seconds() -> None:
    logits = normal(16384, 1, 18).requires_grad_()
    start = time.perf_counter()
    entropy.batch_entropy(logits).backward()
    # 1 s on 2 cores; the [16384, 2^18] table of the reference would be 17 GB
    assert time.perf_counter() - start < 30
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_sharp_logits_lose_nothing_to_the_probabilities_that_count_as_0() -> None:
    logits = (400 * normal(2048, 1, 14)).requires_grad_()
    value = entropy.batch_entropy(logits)
    value.backward()
    truth = logits.detach().double().requires_grad_()
    expected = entropy.batch_entropy(truth)  # its own threshold is 1e-154
    expected.backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    assert logits.grad is not None
    assert truth.grad is not None
    scale = truth.grad.abs().max().item()
    torch.testing.assert_close(logits.grad.double(), truth.grad, rtol=0, atol=1e-5 * scale)


def losses_of(module: torch.nn.Module, x: Tensor, *, autocast: bool = False) -> tuple[Tensor, Tensor]:
    """(loss, gradient of x) of one training step; backward outside of autocast, as torch advises."""
    x = x.detach().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        _, _, loss = module(x, inv_temperature=2.0)
    loss.backward()
    assert x.grad is not None
    return loss.detach(), x.grad


@pytest.mark.filterwarnings("ignore")  # of the compiler's own libraries
def test_it_compiles() -> None:
    module = LFQ(dim=6).train()
    x = normal(2, 20, 6)
    compiled = torch.compile(module, backend="aot_eager")
    for ours, expected in zip(losses_of(compiled, x), losses_of(module, x), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-7)


def test_autocast_leaves_the_loss_in_float32() -> None:
    module = LFQ(dim=6).train()
    x = normal(2, 20, 6)
    for ours, expected in zip(losses_of(module, x, autocast=True), losses_of(module, x), strict=True):
        assert torch.equal(ours, expected)


# several processes

VECTORS, BITS, SCALE = 6, 4, 0.1


def train_one_step(rank: int, folder: str) -> None:
    """One process of two: the losses and the gradient of this rank's vectors, saved for the test to read."""
    module = LFQ(dim=BITS).train()  # before the process group: nothing may be remembered from here
    module(normal(1, 2, BITS))
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2)
    x = (SCALE * normal(1, VECTORS, BITS, seed=rank)).requires_grad_()
    _, breakdown = module(x, inv_temperature=1.0, return_loss_breakdown=True)
    breakdown.batch_entropy.backward()
    counted = torch.full((1, VECTORS), rank == 1)  # rank 0 has nothing to count
    _, uneven = module(x.detach(), inv_temperature=1.0, return_loss_breakdown=True, mask=counted)
    torch.distributed.destroy_process_group()
    results = [t.detach() for t in (x, breakdown.batch_entropy, x.grad, uneven.batch_entropy) if t is not None]
    torch.save(results, f"{folder}/{rank}.pt")


def test_batch_entropy_is_that_of_all_ranks(tmp_path: Path) -> None:
    multiprocessing.spawn(train_one_step, args=(str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    x = torch.cat([rank[0] for rank in ranks], dim=1).double().requires_grad_()
    truth = brute_force.entropies(x.view(-1, 1, BITS), magnitude=1, inv_temperature=1).batch
    # every rank's loss depends on every rank's vectors: two equal losses are differentiated
    (gradient,) = torch.autograd.grad(2 * truth, x)
    second = brute_force.entropies(ranks[1][0].view(-1, 1, BITS), magnitude=1, inv_temperature=1).batch
    for (_, value, grad, uneven), expected in zip(ranks, gradient.split(VECTORS, dim=1), strict=True):
        assert value.item() == pytest.approx(truth.item(), rel=1e-6)
        torch.testing.assert_close(grad.double(), expected, rtol=1e-4, atol=1e-7)
        assert uneven.item() == pytest.approx(second.item(), rel=1e-6)


def projected_module() -> LFQ:
    torch.manual_seed(4)
    return LFQ(dim=8, codebook_size=2**BITS, entropy_loss_weight=1.0).train()


def train_one_ddp_step(rank: int, folder: str) -> None:
    """One process of two: the gradients of a module under DistributedDataParallel."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2)
    module = projected_module()
    wrapped = torch.nn.parallel.DistributedDataParallel(module)
    quantized, _, loss = wrapped(normal(1, VECTORS, 8, seed=rank), inv_temperature=1.0)
    (loss + quantized.square().mean()).backward()  # every parameter counts, or the ranks would not exchange any
    torch.distributed.destroy_process_group()
    torch.save(module.project_in.weight.grad, f"{folder}/{rank}.pt")


def test_ddp_gives_the_gradients_of_one_process(tmp_path: Path) -> None:
    multiprocessing.spawn(train_one_ddp_step, args=(str(tmp_path),), nprocs=2)
    module = projected_module()
    x = torch.cat([normal(1, VECTORS, 8, seed=rank) for rank in range(2)], dim=1)
    quantized, _, loss = module(x, inv_temperature=1.0)
    (loss + quantized.square().mean()).backward()
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), module.project_in.weight.grad)
