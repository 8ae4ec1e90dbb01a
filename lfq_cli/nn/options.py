"""What the options of `LFQ` have to satisfy, and what follows from leaving them out.

Every function returns the option's final value, or raises ValueError with what was found and expected.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import TypeVar, get_args

from lfq_cli.bits import BitOrder
from lfq_cli.nn.entropy import MAX_EXACT_ENTROPY_BITS

MAX_BITS = 64  # an index is one int64

T = TypeVar("T")


def default(value: T | None, otherwise: T) -> T:
    """The value, or `otherwise` if it was left out."""
    return otherwise if value is None else value


def codebook_bits(dim: int | None, codebook_size: int | None) -> int:
    """D in 1..64, from the codebook's size, or dim if that was left out. A float log2 is not exact up there."""
    if codebook_size is None:
        if dim is None:
            raise ValueError("LFQ needs dim or codebook_size")
        return _check_bits(operator.index(dim))
    size = operator.index(codebook_size)
    bits = max(size - 1, 1).bit_length()
    if size != 2**bits:
        raise ValueError(f"codebook_size must be a power of two from 2 on, found {size}; the next one is {2**bits}")
    return _check_bits(bits)


def _check_bits(bits: int) -> int:
    if not 1 <= bits <= MAX_BITS:
        raise ValueError(f"a code must have 1 to {MAX_BITS} bits, found {bits}")
    return bits


def check_num_codebooks(num_codebooks: int) -> int:
    """The number of codebooks, at least 1."""
    if num_codebooks < 1:
        raise ValueError(f"num_codebooks must be at least 1, found {num_codebooks}")
    return num_codebooks


def keep_num_codebooks_dim(keep: bool | None, indices: int) -> bool:
    """Whether indices have an axis of their own: they need one as soon as a vector has several."""
    if indices > 1 and keep is False:
        raise ValueError(f"a vector has {indices} indices: keep_num_codebooks_dim=False cannot be")
    return default(keep, indices > 1)


def check_factors(factors: Sequence[int] | None, bits: int) -> tuple[int, ...] | None:
    """The bits of each index of a cut vector, which add up to all its bits; None where it is not cut."""
    if factors is None:
        return None
    found = tuple(operator.index(each) for each in factors)
    if sum(found) != bits or not all(1 <= each <= MAX_BITS for each in found):
        raise ValueError(f"factorized_bits must be 1 to {MAX_BITS} each and add up to {bits}, found {list(found)}")
    return found


def check_bit_order(order: BitOrder) -> BitOrder:
    """Which end of a code is the most significant."""
    if order not in get_args(BitOrder):
        raise ValueError(f"bit_order must be 'msb' or 'lsb', found {order!r}")
    return order


def has_projections(wanted: bool | None, dim: int, bits: int) -> bool:
    """Whether there are projections: they are needed where dim is not the number of bits of all codebooks."""
    if dim < 1:
        raise ValueError(f"dim must be at least 1, found {dim}")
    if dim != bits and wanted is False:
        raise ValueError(f"without projections dim must be the number of bits, {bits}; found {dim}")
    return default(wanted, dim != bits)


def check_scale(scale: float, soft_clamp: float | None) -> float:
    """The magnitude of a code's coordinates: positive, and within the soft clamp's reach."""
    if not 0 < scale < math.inf:
        raise ValueError(f"codebook_scale must be a positive number, found {scale}")
    if soft_clamp is not None and soft_clamp < scale:
        raise ValueError(f"soft_clamp_input_value must be at least codebook_scale, {scale}; found {soft_clamp}")
    return scale


def check_fraction(fraction: float) -> float:
    """The fraction of vectors that the entropy counts, in (0, 1]."""
    if not 0 < fraction <= 1:
        raise ValueError(f"frac_per_sample_entropy must be in (0, 1], found {fraction}")
    return fraction


def check_group_size(size: int | None) -> int | None:
    """The bits of one group of the batch entropy, few enough for an exact one; None for no groups."""
    if size is not None and not 1 <= size <= MAX_EXACT_ENTROPY_BITS:
        raise ValueError(f"entropy_group_size must be 1 to {MAX_EXACT_ENTROPY_BITS}, found {size}")
    return size
