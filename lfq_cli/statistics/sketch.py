"""Statistics of more codes than memory holds: how many there are, and the exact counts of some of them.

The number of codes comes from HyperLogLog (Flajolet, Fusy, Gandouet, Meunier 2007), unless the sample below has the
smaller error, which it has from about 15,000 sampled codes on. Everything else is estimated from codes whose counts are
exact. Codes that were frequent when memory ran out are held. Of all others those are sampled whose hash begins with
`level` zeros: a random sample of codes (distinct sampling, Gibbons 2001). A sum of f(count) over all codes is estimated
as the sum over held codes plus 2^level times the sum over sampled codes (Horvitz and Thompson 1952). Bits are counted
exactly.

A code that becomes frequent later, with more than SHARE_OF_RUN of a run, replaces a rarer held code. Its earlier
occurrences, at most that share of each run, are missing from its count unless it was sampled. The same holds for codes
above SHARE_OF_ALL that only one of two merged sketches held.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lfq_cli.statistics.bitpairs import pairs_of_codes
from lfq_cli.statistics.tables import Codes, Counts, Tally, merge_sorted
from lfq_cli.statistics.usage import Estimate

REGISTER_BITS = 14
HLL_ERROR = 1.04 / 2 ** (REGISTER_BITS / 2)
"""Relative standard error of HyperLogLog's estimate."""
BY_SAMPLE = "a sample of codes by hash"
_MOST_LEVELS = 64 - REGISTER_BITS
SHARE_OF_RUN, SHARE_OF_ALL = 2.0**-14, 2.0**-10
_LEAST_FREQUENT = 8
"""In a short run a code also needs more occurrences than this to count as frequent."""
_TWICE = 2.0  # n log2 n of a code that occurs twice


@dataclass
class Sketch:
    """A mergeable sketch. Codes are uint64 in ascending order; at most `capacity` are sampled, half as many held."""

    bits: int
    capacity: int
    total: int
    both: NDArray[np.int64]
    registers: NDArray[np.uint8]
    held: tuple[Codes, Counts]
    sampled: tuple[Codes, Counts]
    level: int

    @classmethod
    def of(cls, pairs: tuple[Codes, Counts], bits: int, capacity: int, held: Codes | None = None) -> Sketch:
        """The sketch of exact counts. held: the codes to hold; unset: the most frequent ones."""
        codes, counts = pairs
        if held is None:
            most = min(capacity // 2, max(codes.size - 1, 0))
            held = np.sort(codes[np.argpartition(counts, -most)[-most:]]) if most else codes[:0]
        registers = np.zeros(1 << REGISTER_BITS, np.uint8)
        empty = codes[:0], counts[:0]
        found = cls(bits, capacity, 0, np.zeros((bits, bits), np.int64), registers, (held, _zeros(held)), empty, 0)
        found.take(Tally(codes, counts))
        return found

    def take(self, tally: Tally) -> None:
        """Adds a tally with codes in ascending order."""
        assert tally.codes is not None
        assert tally.counts is not None
        hashes = mixed(tally.codes)
        self.total += int(tally.counts.sum())
        # new arrays: those in statistics that were returned before do not change
        self.both = self.both + pairs_of_codes(tally.codes, tally.counts, self.bits)
        self.registers = np.maximum(self.registers, registers_of(hashes))
        run = int(tally.counts.sum())
        self._hold_also(tally.codes[tally.counts > max(_LEAST_FREQUENT, run * SHARE_OF_RUN)])
        places, there = _find(self.held[0], tally.codes)
        self.held[1][places[there]] += tally.counts[there]
        kept = ~there & begins_with_zeros(hashes, self.level)
        self.sampled = merge_sorted(*self.sampled, tally.codes[kept], tally.counts[kept])
        self._hold_most_frequent()
        self._thin(self.level)

    def merge(self, other: Sketch) -> None:
        """Adds another sketch of the same codebook. Codes that only one of the two held are sampled from now on."""
        kept = other.copy()
        self.total += other.total
        common = np.intersect1d(self.held[0], other.held[0], assume_unique=True)
        for sketch in (self, other):
            common = np.union1d(common, sketch.held[0][sketch.held[1] > self.total * SHARE_OF_ALL])
        level = max(self.level, other.level)
        for sketch in (self, kept):
            sketch._thin(level)
            sketch._hold_also(common)
            sketch._hold_only(common)
        self.both = self.both + other.both
        self.registers = np.maximum(self.registers, other.registers)
        self.held = common, self.held[1] + kept.held[1]
        self.sampled = merge_sorted(*self.sampled, *kept.sampled)
        self._hold_most_frequent()
        self._thin(self.level)

    def copy(self) -> Sketch:
        """A copy that can be changed independently."""
        return Sketch(
            self.bits,
            self.capacity,
            self.total,
            self.both.copy(),
            self.registers.copy(),
            (self.held[0], self.held[1].copy()),
            self.sampled,
            self.level,
        )

    def codes_used(self) -> tuple[float, Estimate]:
        """(number of codes used, its error): by HyperLogLog, or by the sample if that has the smaller error."""
        registers = self._by_registers()
        scale = 2.0**self.level
        sampled = float(np.count_nonzero(self.held[1])) + scale * self.sampled[0].size
        error = float(np.sqrt((scale - 1) * scale * self.sampled[0].size))
        if error < HLL_ERROR * registers:
            return sampled, Estimate(BY_SAMPLE, error)
        return registers, Estimate("HyperLogLog", HLL_ERROR * registers)

    def _by_registers(self) -> float:
        """HyperLogLog's estimate; for few codes by counting empty registers (linear counting)."""
        size = len(self.registers)
        estimate = 0.7213 / (1 + 1.079 / size) * size**2 / float(np.sum(2.0 ** -self.registers.astype(np.float64)))
        empty = int((self.registers == 0).sum())
        return size * float(np.log(size / empty)) if estimate <= 2.5 * size and empty else estimate

    def known(self) -> tuple[Codes, Counts, NDArray[np.float64]]:
        """(codes, counts, weights): the codes with known counts, and how many codes each of them stands for."""
        held = self.held[1] > 0
        codes = np.concatenate([self.held[0][held], self.sampled[0]])
        weights = np.full(codes.size, 2.0**self.level)
        weights[: int(held.sum())] = 1
        return codes, np.concatenate([self.held[1][held], self.sampled[1]]), weights

    def entropy_error_bits(self) -> float:
        """Standard error of H = log2 N - Σ n log2 n / N.

        The sampling error is computed as if one more sampled code had occurred twice, since a sample without such a
        code does not prove that there is none. Added to it is what the known counts lack of N beyond their own standard
        error, since the missing indices may all be of one code.
        """
        if not self.level or not self.total:
            return 0.0
        counts = self.sampled[1].astype(np.float64)
        terms = counts * np.log2(counts)
        scale = 2.0**self.level
        spread = np.sqrt((scale - 1) * scale * (terms @ terms + _TWICE**2))
        lacking = self.total - float(self.held[1].sum()) - scale * float(counts.sum())
        lacking = max(0.0, abs(lacking) - float(np.sqrt((scale - 1) * scale * (counts @ counts))))
        lost = lacking * np.log2(max(lacking, 2))
        return float(np.hypot(spread, lost)) / self.total

    def _hold_also(self, codes: Codes) -> None:
        """Holds these codes as well, with their counts from the sample."""
        new = np.setdiff1d(codes, self.held[0], assume_unique=True)
        if not new.size:
            return
        places, there = _find(new, self.sampled[0])
        counts = _zeros(new)
        counts[places[there]] = self.sampled[1][there]
        self.sampled = self.sampled[0][~there], self.sampled[1][~there]
        self.held = merge_sorted(*self.held, new, counts)

    def _hold_only(self, codes: Codes) -> None:
        """Holds only these codes; the others are kept if they belong to the sample."""
        _, stays = _find(codes, self.held[0])
        dropped, counts = self.held[0][~stays], self.held[1][~stays]
        kept = (counts > 0) & begins_with_zeros(mixed(dropped), self.level)
        self.held = self.held[0][stays], self.held[1][stays]
        self.sampled = merge_sorted(*self.sampled, dropped[kept], counts[kept])

    def _hold_most_frequent(self) -> None:
        """Holds as many codes as there is room for; the rarest of them are sampled from now on."""
        codes, counts = self.held
        room = max(1, self.capacity // 2)
        if codes.size > room:
            self._hold_only(np.sort(codes[np.argpartition(counts, -room)[-room:]]))

    def _thin(self, level: int) -> None:
        """Raises the sampling level to `level`, and further until the sample fits into memory."""
        while level > self.level or (self.sampled[0].size > self.capacity and self.level < _MOST_LEVELS):
            self.level += 1
            kept = begins_with_zeros(mixed(self.sampled[0]), self.level)
            self.sampled = self.sampled[0][kept], self.sampled[1][kept]


def mixed(codes: Codes) -> NDArray[np.uint64]:
    """A 64-bit hash that differs for every code: the finaliser of SplitMix64. Source: Steele, Lea, Flood 2014."""
    value = codes.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value ^= value >> np.uint64(shift)
        value *= np.uint64(factor)
    value ^= value >> np.uint64(31)
    return value


def registers_of(hashes: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """HyperLogLog's registers [2^REGISTER_BITS].

    The last bits of a hash choose its register, which takes the maximum of 1 + the leading zeros of the other bits.
    """
    registers = np.zeros(1 << REGISTER_BITS, np.uint8)
    rest = hashes >> np.uint64(REGISTER_BITS)
    _, exponents = np.frexp(rest.astype(np.float64))  # exact: 50 bits; the exponent of 0 is 0
    first_ones = (64 - REGISTER_BITS - exponents + 1).astype(np.uint8)
    np.maximum.at(registers, (hashes & np.uint64((1 << REGISTER_BITS) - 1)).astype(np.int64), first_ones)
    return registers


def begins_with_zeros(hashes: NDArray[np.uint64], level: int) -> NDArray[np.bool_]:
    """Whether each hash is sampled at `level`."""
    return hashes <= np.uint64((1 << (64 - level)) - 1)


def _find(sorted_codes: Codes, codes: Codes) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """(position of each code in `sorted_codes`, whether it is there)."""
    if not sorted_codes.size:
        return np.zeros(codes.size, np.intp), np.zeros(codes.size, np.bool_)
    places = np.minimum(np.searchsorted(sorted_codes, codes), sorted_codes.size - 1)
    return places, sorted_codes[places] == codes


def _zeros(codes: Codes) -> Counts:
    return np.zeros(codes.size, np.int64)
