"""How evenly codes are used, computed fast enough for every evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log

import numpy as np
from torch import Tensor

from lfq_cli.statistics.profile import expected_used


@dataclass(frozen=True)
class CodeUsage:
    """Means over codebooks.

    utilisation: codes used, as a share of those that uniform use would reach with as many vectors. perplexity: the
    number of equally frequent codes with the same entropy. dead_bits: bits that never change, summed over codebooks.
    """

    utilisation: float
    perplexity: float
    dead_bits: int


def usage_of(codes: Tensor, codebook_bits: int) -> CodeUsage:
    """codes ±1 [n, codebooks * D], codebook by codebook -> how they are used."""
    bits = (codes > 0).cpu().numpy()
    dead = int((bits.all(0) | ~bits.any(0)).sum())
    found = [_counts(part) for part in np.split(bits, bits.shape[1] // codebook_bits, axis=1)]
    reachable = expected_used(len(bits), codebook_bits)
    used = [len(counts) / reachable for counts in found]
    return CodeUsage(float(np.mean(used)), float(np.mean([_perplexity(counts) for counts in found])), dead)


def _counts(bits: np.ndarray) -> np.ndarray:
    rows = np.ascontiguousarray(np.packbits(bits, axis=1))
    return np.unique(rows.view(f"V{rows.shape[1]}"), return_counts=True)[1]


def _perplexity(counts: np.ndarray) -> float:
    shares = counts / counts.sum()
    return exp(-sum(share * log(share) for share in shares.tolist()))
