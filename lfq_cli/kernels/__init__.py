"""Compiled loops for work that takes numpy several passes over its data; they are loaded once per process.

Every function returns None (or False) if it cannot do the work, and the caller then does it in numpy: because the
extension was not built, was built from another version of its source, `LFQ_KERNELS=plain` is set, or sizes are beyond
its limits. Either way the results are the same bytes, which the tests check. Arrays only; what bits mean is in bits.py,
and floats in floats.py and numerics.py.
"""

from __future__ import annotations

import os
import sys
import warnings
from types import ModuleType
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lfq_cli.errors import LfqNote

Packed: TypeAlias = NDArray[np.uint8]
Raw: TypeAlias = NDArray[Any]

_VERSION = 2
"""The version of the extension's interface, as in _compiled.c; increase both if functions or arguments change."""


def _extension() -> ModuleType | None:
    if os.environ.get("LFQ_KERNELS") == "plain" or sys.byteorder != "little":
        return None
    try:
        from lfq_cli.kernels import _compiled
    except ImportError:  # not built, or for another machine
        return None
    version = getattr(_compiled, "version", 0)
    if version != _VERSION:
        warnings.warn(
            f"{_compiled.__file__}: compiled kernels of version {version}, expected {_VERSION}: they are not used, and"
            " numpy does their work more slowly; `pip install -e .` in the source folder builds them again",
            LfqNote,
            stacklevel=2,
        )
        return None
    return _compiled


compiled = _extension()
"""The extension (_compiled.pyi); None if numpy does its work."""

_LARGEST = {"F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80}
"""The bit pattern of infinity in each supported format; larger patterns are NaN."""
_NUMBERS = {"F32": 0, "F16": 1, "BF16": 2}
_MOST_CHANNELS = 512
_MOST_RESIDUAL = {"channels": 256, "depth": 57, "levels": 64}
_MOST_COUNTED_BITS = 25
_MOST_STRIDE_BITS = 1 << 24


def signs(raw: Raw, name: str) -> tuple[Packed, bool] | None:
    """raw [outer, channels, inner] as stored -> (stream of value > 0, vector by vector; whether any value is NaN).

    name: the format's name in floats.FORMATS.
    """
    if compiled is None or name not in _LARGEST or not raw.size:
        return None
    outer, channels, inner = raw.shape
    if inner > 1 and channels > _MOST_CHANNELS:
        return None
    out = np.empty(-(-raw.size // 8), np.uint8)
    nan = compiled.signs(_contiguous(raw), raw.itemsize, _LARGEST[name], outer, channels, inner, out)
    return out, nan


def residual(raw: Raw, name: str, depth: int, levels: int) -> tuple[Packed, bool] | None:
    """raw [outer, (groups depth), inner] as stored -> (stream of residual bits; whether any value is NaN).

    The bits of a vector are ordered as (groups levels depth). The float32 operations are those of
    `numerics.residual_bits`, level by level.
    """
    if compiled is None or name not in _NUMBERS or not raw.size:
        return None
    outer, channels, inner = raw.shape
    found = {"channels": channels, "depth": depth, "levels": levels}
    if any(found[what] > most for what, most in _MOST_RESIDUAL.items()):
        return None
    out = np.empty(-(-raw.size * levels // 8), np.uint8)
    nan = compiled.residual(_contiguous(raw), _NUMBERS[name], outer, channels, inner, depth, levels, out)
    return out, nan


def decode(stream: Packed, minus: Raw, plus: Raw, out: Raw) -> bool:
    """Fills out [outer, channels, inner] from a stream of outer * inner vectors: `plus` for bit 1, `minus` for bit 0.

    minus, plus: arrays of one value in the dtype of out. Returns whether it was done.
    """
    if compiled is None or not out.size:
        return False
    compiled.decode(np.ascontiguousarray(stream), *out.shape, out, minus, plus)
    return True


def unpack(
    stream: Packed | bytes,
    first: int,
    vectors: int,
    dims: tuple[int, ...],
    order: Literal["msb", "lsb"],
    dtype: np.dtype[Any],
) -> NDArray[Any] | None:
    """The vectors from bit `first` of the stream on -> indices [vectors, len(dims)] of `dtype`."""
    if compiled is None:
        return None
    columns, width = len(dims), dims[0]
    lsb, itemsize = order == "lsb", dtype.itemsize
    out = np.empty((vectors, columns), dtype)
    if columns == 1 or dims.count(width) == columns:
        compiled.unpack(stream, first, width, width, lsb, vectors * columns, out, itemsize, 0, 1)
        return out
    stride = sum(dims)
    if stride >= _MOST_STRIDE_BITS:
        return None
    for column, width in enumerate(dims):
        compiled.unpack(stream, first, stride, width, lsb, vectors, out, itemsize, column, columns)
        first += width
    return out


def read_rows(descriptor: int, positions: NDArray[np.int64], out: Packed) -> int:
    """Fills rows of out [n, bytes] from their positions in a file, and returns how many.

    It stops at a row that cannot be read completely; the caller reads that one itself, and so gets the error.
    """
    if compiled is None:
        return 0
    done: int = compiled.read_rows(descriptor, np.ascontiguousarray(positions, np.int64), out.shape[1], out)
    return done


def counts_fields(width: int) -> bool:
    """Whether `count` supports fields of so many bits."""
    return compiled is not None and width <= _MOST_COUNTED_BITS


def count(
    stream: Packed,
    first: int,
    stride: int,
    width: int,
    order: Literal["msb", "lsb"],
    fields: int,
    table: NDArray[Any],
    codes: range | None = None,
) -> None:
    """Counts `fields` fields in table [2^width] of uint32 or int64: one every `stride` bits from bit `first` on.

    codes: count only these. Several threads may count different ones in the same table.
    """
    assert compiled is not None
    stream, lsb, codes = np.ascontiguousarray(stream), order == "lsb", range(1 << width) if codes is None else codes
    compiled.count(stream, first, stride, width, lsb, fields, table, table.itemsize, codes.start, len(codes))


def _contiguous(array: Raw) -> Raw:
    return np.require(array, requirements=("C", "A"))
