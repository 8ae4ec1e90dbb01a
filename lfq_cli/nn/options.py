"""Checks and defaults of the options of `LFQ`.

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
    """The value, or `otherwise` if it is None."""
    return otherwise if value is None else value


def codebook_bits(dim: int | None, codebook_size: int | None) -> int:
    """D, from 1 to 64: from the size of the codebook, or else `dim`. Without floats: a large log2 is not exact."""
    if codebook_size is None:
        if dim is None:
            raise ValueError("LFQ needs dim or codebook_size")
        return _check_bits(operator.index(dim))
    size = operator.index(codebook_size)
    bits = max(size - 1, 1).bit_length()
    if size != 2**bits:
        raise ValueError(f"codebook_size must be a power of two, at least 2, found {size}; the next one is {2**bits}")
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
    """Whether the index tensor has an axis for the indices of a vector; it needs one if there are several."""
    if indices > 1 and keep is False:
        raise ValueError(f"keep_num_codebooks_dim=False is not possible: a vector has {indices} indices")
    return default(keep, indices > 1)


def check_factors(factors: Sequence[int] | None, bits: int) -> tuple[int, ...] | None:
    """The bits of each index of a cut vector, which must add up to all of its bits; None if it is not cut."""
    if factors is None:
        return None
    found = tuple(operator.index(each) for each in factors)
    if sum(found) != bits or not all(1 <= each <= MAX_BITS for each in found):
        raise ValueError(f"factorized_bits must be 1 to {MAX_BITS} each and add up to {bits}, found {list(found)}")
    return found


def check_bit_order(order: BitOrder) -> BitOrder:
    """The order of bits in an index: "msb" or "lsb"."""
    if order not in get_args(BitOrder):
        raise ValueError(f"bit_order must be 'msb' or 'lsb', found {order!r}")
    return order


def has_projections(wanted: bool | None, dim: int, bits: int) -> bool:
    """Whether there are projections; they are needed if dim is not the number of bits of all codebooks."""
    if dim < 1:
        raise ValueError(f"dim must be at least 1, found {dim}")
    if dim != bits and wanted is False:
        raise ValueError(f"without projections dim must be the number of bits, {bits}; found {dim}")
    return default(wanted, dim != bits)


def check_scale(scale: float, soft_clamp: float | None) -> float:
    """The magnitude of a code's coordinates: positive, and not above the soft clamp."""
    if not 0 < scale < math.inf:
        raise ValueError(f"codebook_scale must be a positive number, found {scale}")
    if soft_clamp is not None and soft_clamp < scale:
        raise ValueError(f"soft_clamp_input_value must be at least codebook_scale, {scale}; found {soft_clamp}")
    return scale


def check_fraction(fraction: float) -> float:
    """The fraction of vectors that entropies are computed from, in (0, 1]."""
    if not 0 < fraction <= 1:
        raise ValueError(f"frac_per_sample_entropy must be in (0, 1], found {fraction}")
    return fraction


def check_group_size(size: int | None) -> int | None:
    """The bits of each group in the batch entropy, few enough to be exact; None for no groups."""
    if size is not None and not 1 <= size <= MAX_EXACT_ENTROPY_BITS:
        raise ValueError(f"entropy_group_size must be 1 to {MAX_EXACT_ENTROPY_BITS}, found {size}")
    return size
