"""How a codebook is used: counters fed one run of indices at a time, and the record they end in.

Exact for every D: a dense table of counts up to DENSE_BITS, the sorted codes seen and their counts above.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfq_cli.bits import BitOrder, Indices
from lfq_cli.errors import CodesFileError

DENSE_BITS = 24
ALWAYS_DENSE_BITS = 16  # 512 KiB
MAX_SPARSE_CODES = 1 << 25
"""Distinct codes of one codebook that a sparse counter holds: 512 MiB of codes and counts."""


@dataclass(frozen=True)
class Usage:
    """How one codebook of D bits is used. Formulas are in the README, "What the figures mean"."""

    bits: int
    count: int
    codes_used: int
    entropy_bits: float
    ones: tuple[float, ...]
    """Share of ones per bit, in channel order; empty where nothing was counted."""

    @property
    def utilisation(self) -> float:
        """codes_used / 2^D."""
        return self.codes_used / 2.0**self.bits

    @property
    def perplexity(self) -> float:
        """2^entropy_bits."""
        return float(2.0**self.entropy_bits)

    def figures(self) -> dict[str, Any]:
        """The JSON object of `lfq stats --json`."""
        return {
            "bits": self.bits,
            "count": self.count,
            "codes_used": self.codes_used,
            "utilisation": self.utilisation,
            "perplexity": self.perplexity,
            "entropy_bits": self.entropy_bits,
            "ones": list(self.ones),
        }


class Counter:
    """Counts the indices of one codebook of `bits` bits."""

    def __init__(self, bits: int, expected: int | None = None) -> None:
        """expected: how many indices there will be; for a few, no table of a large codebook is made."""
        self.bits = bits
        few = expected is not None and bits > ALWAYS_DENSE_BITS and expected << 6 < 1 << bits
        self._counts: _Dense | _Sparse = _Sparse() if bits > DENSE_BITS or few else _Dense(bits)

    def add(self, indices: Indices) -> None:
        """Counts indices [n] of an integer type."""
        self._counts.add(indices)

    def merge(self, other: Counter) -> None:
        """Adds what another counter of the same codebook counted."""
        if isinstance(self._counts, _Sparse) and isinstance(other._counts, _Dense):
            dense = _Dense(self.bits)
            dense.add_counts(*self._counts.pairs())
            self._counts = dense
        self._counts.add_counts(*other._counts.pairs())

    def usage(self, order: BitOrder) -> Usage:
        """The figures so far; `order` says which channel is an index's most significant bit."""
        codes, counts = self._counts.pairs()
        total = int(counts.sum())
        shares = counts / max(total, 1)
        entropy = float(-(shares * np.log2(shares)).sum()) if total else 0.0
        ones = [count / total for count in self._counts.ones(self.bits)] if total else []
        shares_of_ones = tuple(ones if order == "lsb" else reversed(ones))
        return Usage(self.bits, total, len(codes), max(0.0, entropy), shares_of_ones)


class _Dense:
    """A count for every code."""

    def __init__(self, bits: int) -> None:
        self.table = np.zeros(1 << bits, np.int64)

    def add(self, indices: Indices) -> None:
        positions = indices.astype(np.int64, copy=False)
        if positions.size >= 4 * self.table.size:
            self.table += np.bincount(positions, minlength=self.table.size)
        else:  # a table of its own for every run would cost more than the counting
            np.add.at(self.table, positions, 1)

    def add_counts(self, codes: Indices, counts: NDArray[np.int64]) -> None:
        self.table[codes.astype(np.int64)] += counts

    def pairs(self) -> tuple[Indices, NDArray[np.int64]]:
        """(codes used, their counts)."""
        codes = np.flatnonzero(self.table)
        return codes, self.table[codes]

    def ones(self, bits: int) -> list[int]:
        """How often each bit of an index is one, lowest first; folds the table in half for each."""
        counts, found = self.table, []
        for _ in range(bits):
            found.append(int(counts[1::2].sum()))
            counts = counts[0::2] + counts[1::2]
        return found


class _Sparse:
    """The codes seen, sorted, and their counts."""

    def __init__(self) -> None:
        self._codes: Indices = np.empty(0, np.uint64)
        self._counts = np.empty(0, np.int64)

    def add(self, indices: Indices) -> None:
        self.add_counts(*np.unique(indices.astype(np.uint64), return_counts=True))

    def add_counts(self, codes: Indices, counts: NDArray[np.int64]) -> None:
        both = np.concatenate([self._codes, codes])
        self._codes, inverse = np.unique(both, return_inverse=True)
        weights = np.concatenate([self._counts, counts])
        self._counts = np.zeros(self._codes.size, np.int64)
        np.add.at(self._counts, inverse, weights)
        if self._codes.size > MAX_SPARSE_CODES:
            raise CodesFileError(
                f"more than {MAX_SPARSE_CODES} different codes: too many to count exactly in memory",
                "--tensor takes fewer tensors at a time",
            )

    def pairs(self) -> tuple[Indices, NDArray[np.int64]]:
        """(codes used, their counts)."""
        return self._codes, self._counts

    def ones(self, bits: int) -> list[int]:
        """How often each bit of an index is one, lowest first."""
        return [int(self._counts[(self._codes >> np.uint64(bit)) & np.uint64(1) > 0].sum()) for bit in range(bits)]
