"""Entropies of the soft assignment of vectors to a binary codebook: exact, and without building the codebook.

The softmax of `2 * inv_temperature * <z, code>` over the 2^D codes `{-c, c}^D` factorises into D independent bits with
logits `4 * inv_temperature * c * z`. So the entropy of one vector's assignment is a sum over bits, and the average
assignment of N vectors is one matrix product of two half codebooks.

All entropies are in nats, and all functions compute in the dtype of their logits. Source: arXiv 2310.05737, section 3;
the bound over groups of bits is from binary spherical quantization, arXiv 2406.07548.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lfq_cli.errors import LfqError
from lfq_cli.nn.distributed import mean_over_processes
from lfq_cli.nn.vectors import without_autocast

# 2^24 probabilities take 64 MB in float32, and the backward pass keeps a few such tensors.
MAX_EXACT_ENTROPY_BITS = 24


def bit_logits(z: Tensor, *, magnitude: float, inv_temperature: float) -> Tensor:
    """z [...] -> log(p(bit = 1) / p(bit = 0)) [...], for codes whose coordinates are ±magnitude."""
    return z * (4 * inv_temperature * magnitude)


def bernoulli_entropy(logits: Tensor) -> Tensor:
    """logits [...] -> the entropy [...] of each bit, in [0, log 2]; accurate for every finite logit.

    With `|logits|` both terms are positive, so nothing cancels. In float32 `softplus(l) - l * sigmoid(l)` has no
    correct digit left at l = 20.
    """
    a = logits.abs()
    return F.softplus(-a) + a * torch.sigmoid(-a)


def per_sample_entropy(logits: Tensor) -> Tensor:
    """logits [n, c, d] -> the mean over n and c of the entropy of one assignment, 0-dim; 0 for no vectors.

    Unlike in the reference, probabilities are not clamped at 1e-5 inside the logarithm: see `batch_entropy`.
    """
    vectors, codebooks, _ = logits.shape
    return bernoulli_entropy(logits).sum() / max(vectors * codebooks, 1)


def code_probabilities(logits: Tensor) -> Tensor:
    """logits [n, d] -> p(code) [n, 2^d], in the order of the indices (bit 0 is the most significant).

    Probabilities below tiny^0.4 (7e-16 in float32, 2e-123 in float64) are set to 0, so no product of two of them is
    denormal, which would be up to a hundred times slower. The entropy of 2^12 such codes is below 1e-10.
    """
    return _code_probabilities(_bit_probabilities(logits))


def _bit_probabilities(logits: Tensor) -> Tensor:
    """logits [n, d] -> p(bit = 0) and p(bit = 1) [n, 2, d]; both accurate, since neither is 1 minus the other."""
    return torch.stack((torch.sigmoid(-logits), torch.sigmoid(logits)), dim=1)


def _code_probabilities(bits: Tensor) -> Tensor:
    """The probabilities of bits [n, 2, d] -> those of their codes [n, 2^d]."""
    negligible = torch.finfo(bits.dtype).tiny ** 0.4
    codes = bits.new_ones(bits.shape[0], 1)
    for bit in reversed(F.threshold(bits, negligible, 0).unbind(dim=2)):  # last bit first: the long axis vectorises
        codes = F.threshold((bit[:, :, None] * codes[:, None, :]).flatten(1), negligible, 0)
    return codes


def mean_code_probabilities(logits: Tensor) -> Tensor:
    """logits [n, d] -> the mean over n of `code_probabilities` [2^d], without computing those [n, 2^d].

    Takes O(n * d + 2^d) memory, also with gradients. Zeros for no vectors. Autocast has no effect.
    """
    mean: Tensor = _MeanCodeProbabilities.apply(logits)  # type: ignore[no-untyped-call]
    return mean


class _MeanCodeProbabilities(torch.autograd.Function):
    """A matrix product of the probabilities of two half codes, for as many rows at a time as stay in cache.

    The backward pass recomputes the half codes [n, 2^(d/2)], which is cheaper than reading them from memory. With q
    [n, 2^d] the probabilities times their gradients, the gradient of logit j is (the sum of q where bit j is 1) *
    p(bit j = 0) - (the sum of q where it is 0) * p(bit j = 1). Both terms are small where a bit is certain, so nothing
    cancels.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        ctx.save_for_backward(logits)
        vectors, bits = logits.shape
        total = logits.new_zeros(2 ** (bits // 2), 2 ** (bits - bits // 2))
        with without_autocast(logits.device):
            for rows in torch.split(_bit_probabilities(logits), _rows(bits)):
                high, low = _half_codes(rows)
                total.addmm_(high.T, low)
        return (total / max(vectors, 1)).flatten()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (logits,) = ctx.saved_tensors
        vectors, bits = logits.shape
        by_half = grad.reshape(2 ** (bits // 2), -1) / max(vectors, 1)
        high_bits, low_bits = (_bits_of_codes(half, like=logits) for half in (bits // 2, bits - bits // 2))
        probabilities, sums = _bit_probabilities(logits), []
        with without_autocast(logits.device):
            for rows in torch.split(probabilities, _rows(bits)):
                high, low = _half_codes(rows)
                of_high, of_low = high * (low @ by_half.T), low * (high @ by_half)
                sums.append(torch.cat((of_high @ high_bits, of_low @ low_bits), dim=1))
        of_zeros, of_ones = torch.cat(sums).reshape(vectors, bits, 2).unbind(dim=2)
        gradient: Tensor = of_ones * probabilities[:, 0] - of_zeros * probabilities[:, 1]
        return gradient


def _rows(bits: int) -> int:
    """Rows at a time: 2^18 probabilities, 1 MiB in float32. At 18 bits, 2^16 to 2^21 are equally fast."""
    return max(64, 2**18 >> -(-bits // 2))


def _half_codes(bits: Tensor) -> tuple[Tensor, Tensor]:
    """The probabilities of bits [n, 2, d] -> those of the codes of the first d // 2 bits, and of the other bits."""
    first = bits.shape[2] // 2
    return _code_probabilities(bits[:, :, :first]), _code_probabilities(bits[:, :, first:])


def _bits_of_codes(bits: int, *, like: Tensor) -> Tensor:
    """[2^bits, 2 * bits] in the dtype of `like`: for each code and bit, whether it is 0 and whether it is 1."""
    shifts = torch.arange(bits - 1, -1, -1, device=like.device)
    ones = (torch.arange(2**bits, device=like.device)[:, None] >> shifts) & 1
    return torch.stack((1 - ones, ones), dim=2).flatten(1).to(like.dtype)


def distribution_entropy(p: Tensor) -> Tensor:
    """p [k], with sum 1 -> -sum(p log p), 0-dim; 0 log 0 is 0, and its gradient is finite."""
    return -(p * p.clamp(min=torch.finfo(p.dtype).tiny).log()).sum()


def batch_entropy(logits: Tensor, *, group_size: int | None = None) -> Tensor:
    """logits [n, c, d] -> the entropy of the average assignment (over n and all processes), mean over c, 0-dim.

    With `group_size`, the sum of the entropies of groups of consecutive bits: an upper bound, since it ignores the
    dependence between groups. Raises LfqError for more than MAX_EXACT_ENTROPY_BITS bits without it.

    Exact where the reference is not: the reference clamps probabilities inside the logarithm at 1e-5 (in both
    entropies), so unlikely codes count less, and nothing exceeds log(1e5) = 11.51 nats. Measured on normal vectors at
    inv_temperature 1, reference and here: D = 10, 4,096 vectors: 6.9129 and 6.9129; D = 18, 256 vectors: 10.16 and
    10.56; D = 18, vectors near 0 (all codes equally likely): 11.51 and 12.48 = 18 log 2.
    """
    vectors, codebooks, bits = logits.shape
    check_group_bits(min(bits, group_size or bits))
    entropies = [
        distribution_entropy(mean_over_processes(mean_code_probabilities(group), counts=vectors > 0))
        for codebook in logits.unbind(dim=1)
        for group in torch.split(codebook, group_size or bits, dim=-1)
    ]
    return torch.stack(entropies).sum() / codebooks


def check_group_bits(bits: int) -> None:
    """Raises LfqError if the distribution over 2^bits codes is too large to compute."""
    if bits > MAX_EXACT_ENTROPY_BITS:
        raise LfqError(
            f"the exact batch entropy of {bits} bits needs 2^{bits} probabilities; "
            f"at most {MAX_EXACT_ENTROPY_BITS} bits are possible",
            hint="construct LFQ with entropy_group_size=9 (an upper bound, group by group) "
            "or with entropy_loss_weight=0",
        )
