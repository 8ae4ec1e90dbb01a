"""entropy.py against the explicit codebook, at extreme logits, and across processes."""

from __future__ import annotations

import math
import subprocess
import sys
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


@pytest.mark.parametrize("bits", [1, 2, 5, 9])
def test_gradients_of_gradients_are_right(bits: int) -> None:
    logits = normal(6, bits, dtype=torch.float64).mul(2).requires_grad_()
    assert torch.autograd.gradcheck(entropy.mean_code_probabilities, logits)
    assert torch.autograd.gradgradcheck(entropy.mean_code_probabilities, logits)


@pytest.mark.parametrize("bits", [3, 10])
def test_rows_are_cut_anywhere(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = normal(23, 1, bits, dtype=torch.float64).requires_grad_()
    found = []
    for rows in (1, 7, 23, 64):
        monkeypatch.setattr(entropy, "_rows", lambda _, rows=rows: rows)
        value = entropy.batch_entropy(logits)
        found.append((value, *torch.autograd.grad(value, logits)))
    for value, gradient in found[1:]:
        torch.testing.assert_close(value, found[0][0], rtol=1e-12, atol=0)
        torch.testing.assert_close(gradient, found[0][1], rtol=1e-9, atol=1e-15)


def test_autocast_changes_nothing() -> None:
    x = normal(2, 40, 12).requires_grad_()
    module = LFQ(codebook_size=2**12, dim=12).train()
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            _, _, loss = module(x, inv_temperature=3.0)
        found.append((loss, *torch.autograd.grad(loss, x)))
    assert found[0][0].item() == found[1][0].item()
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own compiler does that
def test_a_compiled_loss_is_the_same() -> None:
    def loss(logits: Tensor) -> Tensor:
        return entropy.per_sample_entropy(logits) - entropy.batch_entropy(logits)

    logits = normal(30, 2, 8).requires_grad_()
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    found = [(value := call(logits), *torch.autograd.grad(value, logits)) for call in (loss, compiled)]
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-7)


def test_denormal_numbers_do_not_slow_it_down() -> None:
    """Logits of 20 make nearly every product of probabilities a denormal number: once 14 times the CPU time."""
    threads = torch.get_num_threads()
    usual, sharp = (normal(2048, 1, 16).mul(scale).requires_grad_() for scale in (1, 20))

    def seconds(logits: Tensor) -> float:
        start = time.thread_time()
        entropy.batch_entropy(logits).backward()
        return time.thread_time() - start

    torch.set_num_threads(1)
    try:
        pairs = [(seconds(usual), seconds(sharp)) for _ in range(7)]
    finally:
        torch.set_num_threads(threads)
    assert min(sharp for _, sharp in pairs) < 4 * min(usual for usual, _ in pairs)


def test_18_bits_and_16384_vectors_take_less_than_a_gibibyte() -> None:
    """In a process of its own: the [16384, 2^18] table of the reference would be 17 GB."""
    program = """
import torch
from resource import RUSAGE_SELF, getrusage
from lfq_cli.nn import entropy
before = getrusage(RUSAGE_SELF).ru_maxrss
logits = torch.randn(16384, 1, 18).mul(400).requires_grad_()
entropy.batch_entropy(logits).backward()
assert logits.grad.isfinite().all()
print((getrusage(RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 128  # MiB; 70 on two cores


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


def test_batch_entropy_is_that_of_all_processes(tmp_path: Path) -> None:
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
