"""Entropies of the soft assignment of vectors to a binary codebook: exact, and without building the codebook.

The softmax of `2 * inv_temperature * <z, code>` over the 2^D codes of `{-c, c}^D` is a product of D
independent bits with logits `4 * inv_temperature * c * z`. So the entropy of one vector's assignment is a sum
over bits, and the average assignment of N vectors is one matrix product of two half codebooks.

All entropies are in nats and all functions compute in the dtype of their logits. Source: arXiv 2310.05737,
section 3; the bound by groups of bits is that of binary spherical quantization, arXiv 2406.07548.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from lfq_cli.errors import LfqError
from lfq_cli.nn.ranks import mean_over_ranks
from lfq_cli.nn.vectors import without_autocast

# 2^24 probabilities are 64 MB in float32, and the backward pass keeps a few such tensors.
MAX_EXACT_ENTROPY_BITS = 24


def bit_logits(z: Tensor, *, magnitude: float, inv_temperature: float) -> Tensor:
    """z [...] -> log(p(bit = 1) / p(bit = 0)) [...], for codes whose coordinates are ±magnitude."""
    return z * (4 * inv_temperature * magnitude)


def bernoulli_entropy(logits: Tensor) -> Tensor:
    """logits [...] -> the entropy [...] of each bit, in [0, log 2]; accurate for every finite logit.

    Written with `|logits|`: both terms are positive, so nothing cancels. `softplus(l) - l * sigmoid(l)` has no
    correct digit left at l = 20 in float32.
    """
    a = logits.abs()
    return F.softplus(-a) + a * torch.sigmoid(-a)


def per_sample_entropy(logits: Tensor) -> Tensor:
    """logits [n, c, d] -> the mean over n and c of the entropy of one assignment, 0-dim; 0 for no vectors.

    The reference clamps the probability inside the logarithm at 1e-5. Here it is not: see `batch_entropy`.
    """
    vectors, codebooks, _ = logits.shape
    return bernoulli_entropy(logits).sum() / max(vectors * codebooks, 1)


class _CodeProbabilities(torch.autograd.Function):
    """logits [d, n] -> p(code) [2^d, n], built bit by bit; backward keeps the result alone.

    Vectors lie along the last axis, so every line works on long rows. Forward and backward of 18 bits and 16,384
    vectors take half of the time of a chain of products that autograd remembers (one thread).
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        tiny = _smallest_factor(logits.dtype)
        zero, one = (F.threshold(torch.sigmoid(each), tiny, 0.0) for each in (-logits, logits))
        codes = logits.new_ones(1, logits.shape[1])
        for bit in range(logits.shape[0]):
            codes = torch.stack((codes * zero[bit], codes * one[bit]), dim=1).flatten(0, 1)
            codes = F.threshold(codes, tiny, 0.0)
        ctx.save_for_backward(codes)
        return codes

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (codes,) = ctx.saved_tensors
        with without_autocast(grad.device):  # which forward was without, wherever backward is called
            return _gradient_of_logits(codes, grad)


def _gradient_of_logits(codes: Tensor, grad: Tensor) -> Tensor:
    """p(code) [2^d, n] and its gradient -> that of the logits [d, n].

    That of log p(code) is bit j minus p(bit j = 1): one product with the bits of all codes, once what all codes of a
    vector share is off.
    """
    count = codes.shape[0].bit_length() - 1
    weighted = grad * codes
    weighted = torch.addcmul(weighted, codes, weighted.sum(0), value=-1)  # what all codes share: it cancels badly later
    places = torch.arange(count - 1, -1, -1, device=codes.device)[:, None]
    bits = (torch.arange(codes.shape[0], device=codes.device) >> places) & 1
    return bits.to(weighted.dtype) @ weighted


def _smallest_factor(dtype: torch.dtype) -> float:
    """The square root of the smallest normal number: what is below counts as 0.

    So no product of two is subnormal, which would take a hundred times as long: at inverse temperature 100 those were
    half of the time. A code that is never likelier than 1e-19 adds less than 1e-17 to an entropy.
    """
    return math.sqrt(torch.finfo(dtype).tiny)


def code_probabilities(logits: Tensor) -> Tensor:
    """logits [n, d] -> p(code) [n, 2^d], in the order of the indices (bit 0 is the most significant).

    Where it is below the square root of the smallest normal number it is 0. Differentiable once.
    """
    codes: Tensor = _CodeProbabilities.apply(logits.T.contiguous())  # type: ignore[no-untyped-call]
    return codes.T


def mean_code_probabilities(logits: Tensor) -> Tensor:
    """logits [n, d] -> the mean over n of `code_probabilities` [2^d], without the [n, 2^d] it is the mean of.

    Takes O(n * 2^(d/2) + 2^d) memory. Zeros for no vectors.
    """
    vectors, bits = logits.shape
    high, low = logits[:, : bits // 2], logits[:, bits // 2 :]
    total = code_probabilities(high).T @ code_probabilities(low)
    return rearrange(total, "high low -> (high low)") / max(vectors, 1)


def distribution_entropy(p: Tensor) -> Tensor:
    """p [k], summing to 1 -> -sum(p log p), 0-dim; 0 log 0 is 0, and the gradient there is finite."""
    return -(p * p.clamp(min=torch.finfo(p.dtype).tiny).log()).sum()


def batch_entropy(logits: Tensor, *, group_size: int | None = None) -> Tensor:
    """logits [n, c, d] -> the entropy of the average assignment (over n and over ranks), mean over c, 0-dim.

    With `group_size`, the sum of the entropies of groups of consecutive bits: an upper bound, since it leaves
    out what groups know of each other. Raises LfqError for more than MAX_EXACT_ENTROPY_BITS bits without it.

    Exact where the reference is not: that clamps the probability inside the logarithm at 1e-5 (in both entropies),
    so unlikely codes count less and nothing exceeds log(1e5) = 11.51 nats. Measured on normal vectors at
    inv_temperature 1, reference against here: D = 10, 4,096 vectors 6.9129 and 6.9129; D = 18, 256 vectors
    10.16 and 10.56; D = 18 and vectors near 0 (all codes alike) 11.51 and 12.48 = 18 log 2.
    """
    vectors, codebooks, bits = logits.shape
    check_group_bits(min(bits, group_size or bits))
    entropies = [
        distribution_entropy(mean_over_ranks(mean_code_probabilities(group), counts=vectors > 0))
        for codebook in logits.unbind(dim=1)
        for group in torch.split(codebook, group_size or bits, dim=-1)
    ]
    return torch.stack(entropies).sum() / codebooks


def check_group_bits(bits: int) -> None:
    """Raise LfqError if the distribution over 2^bits codes is too large to be computed."""
    if bits > MAX_EXACT_ENTROPY_BITS:
        raise LfqError(
            f"the exact batch entropy of {bits} bits needs 2^{bits} probabilities, "
            f"at most {MAX_EXACT_ENTROPY_BITS} bits are possible",
            hint="construct LFQ with entropy_group_size=9 (an upper bound, group by group) "
            "or with entropy_loss_weight=0",
        )
