"""The array of a .npy file, and the array header that .npz members share with it."""

from __future__ import annotations

import io
import tokenize
from functools import lru_cache
from math import prod
from typing import IO, Any

import numpy as np

from lfq_cli.dtypes import OF_NUMPY
from lfq_cli.errors import LfqError, TensorError
from lfq_cli.regions import FileRegion, InputFile, MemoryFile, MemoryRegion, Region, bytes_of
from lfq_cli.signatures import AGAIN, LOOKED_AT, unlike
from lfq_cli.tensors.source import SOLE_TENSOR, Source, StoredTensor

MAX_HEADER_BYTES = 1 << 16  # numpy refuses headers above 10,000, but only after reading them


def open_file(file: InputFile) -> Source:
    """The one array, named "data"."""
    where = str(file.path)
    with file.closed_on_error():
        if isinstance(file, MemoryFile):
            return Source(file.path, {SOLE_TENSOR: array_in(file.data, where)})
        shape, fortran_order, dtype = read_array_header(file.file, where)
        start = file.file.tell()
        check_size(where, shape, dtype, file.size - start)
        region: Region = FileRegion(file, start)
        if not _is_plain(fortran_order, dtype):
            region = reordered(file.read(start, file.size - start), shape, dtype, fortran_order)
        tensor = StoredTensor(SOLE_TENSOR, dtype_name(dtype, where), shape, region)
    return Source(file.path, {SOLE_TENSOR: tensor}, close=file.close)


def array_in(data: bytes, where: str) -> StoredTensor:
    """The array of a whole .npy file in memory, named "data". Raises TensorError."""
    try:
        head = data[: _head_bytes(data[:12])]
        shape, fortran_order, dtype, name, nbytes = _parsed(head)
    except _BROKEN as reason:
        raise _no_array(where, data[:LOOKED_AT], reason) from reason
    if len(data) - len(head) != nbytes or name is None:
        _check_shape(shape, where)
        check_size(where, shape, dtype, len(data) - len(head))
        dtype_name(dtype, where)
    assert name is not None
    region = MemoryRegion(memoryview(data)[len(head) :])
    if not _is_plain(fortran_order, dtype):
        region = reordered(data[len(head) :], shape, dtype, fortran_order)
    return StoredTensor(SOLE_TENSOR, name, shape, region)


def read_array_header(file: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """(shape, fortran_order, dtype) of the array whose header is next in `file`; leaves it at the data."""
    head = b""
    try:
        head = file.read(10)
        if head[6:7] != b"\x01":
            head += file.read(2)
        head += file.read(_head_bytes(head) - len(head))
        shape, fortran_order, dtype, *_ = _parsed(head)
    except _BROKEN as reason:
        raise _no_array(where, head + file.read(max(LOOKED_AT - len(head), 0)), reason) from reason
    _check_shape(shape, where)
    return shape, fortran_order, dtype


_BROKEN = (ValueError, EOFError, SyntaxError, TypeError, RecursionError, MemoryError, tokenize.TokenError)
"""What numpy raises for a damaged header."""


def _no_array(where: str, head: bytes, reason: BaseException) -> LfqError:
    begins = head.startswith(np.lib.format.MAGIC_PREFIX)
    return unlike(where, head, "an npy array", _one_line(reason) if begins else "it does not begin as one", TensorError)


def _head_bytes(start: bytes) -> int:
    """The length of a header that begins like this. Raises ValueError for one that numpy would read and then refuse."""
    end = 10 if start[6:7] == b"\x01" else 12
    length = int.from_bytes(start[8:end], "little")
    if length > MAX_HEADER_BYTES and start.startswith(np.lib.format.MAGIC_PREFIX):
        raise ValueError(f"its header claims {length} bytes")
    return end + min(length, MAX_HEADER_BYTES)


@lru_cache(maxsize=256)
def _parsed(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], str | None, int]:
    """(shape, fortran_order, dtype, its name, bytes of the data) of a complete header.

    Cached: the files of a data set have few different headers, and parsing one takes as long as reading a small file.
    """
    file = io.BytesIO(head)
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"format version {version} is unknown")
    shape, fortran_order, dtype = readers[version](file)
    name = _known_name(dtype) if _are_sizes(shape) else None
    return shape, fortran_order, dtype, name, prod(shape) * dtype.itemsize if name else -1


def _are_sizes(shape: tuple[Any, ...]) -> bool:
    return all(type(size) is int and 0 <= size < 2**63 for size in shape)


def _check_shape(shape: tuple[Any, ...], where: str) -> None:
    if not _are_sizes(shape):
        raise TensorError(f"{where}: its shape is not a list of sizes")


def _is_plain(fortran_order: bool, dtype: np.dtype[Any]) -> bool:
    """Whether the data is little-endian and in C order."""
    return not fortran_order and dtype.byteorder != ">"


def check_size(where: str, shape: tuple[int, ...], dtype: np.dtype[Any], nbytes: int) -> None:
    """Raises TensorError unless shape and dtype need exactly `nbytes`."""
    if dtype.hasobject:
        raise TensorError(f"{where}: holds Python objects", "save it as a plain float array; lfq never unpickles")
    needed = prod(shape) * dtype.itemsize
    if needed != nbytes:
        raise TensorError(
            f"{where}: shape {shape} in {dtype} needs {needed} bytes, the file has {nbytes}: it is incomplete", AGAIN
        )


def is_known(dtype: np.dtype[Any]) -> bool:
    """Whether safetensors has a name for a numpy dtype."""
    return _known_name(dtype) is not None


def _known_name(dtype: np.dtype[Any]) -> str | None:
    return OF_NUMPY.get(dtype.newbyteorder("<"))


def dtype_name(dtype: np.dtype[Any], where: str) -> str:
    """safetensors' name for a numpy dtype; raises TensorError if it has none."""
    name = _known_name(dtype)
    if name is None:
        raise TensorError(
            f"{where}: holds {dtype}, expected float16, float32 or float64",
            "bfloat16 and float8 keep their name in .safetensors or .pt files",
        )
    return name


def reordered(data: bytes, shape: tuple[int, ...], dtype: np.dtype[Any], fortran_order: bool) -> MemoryRegion:
    """Data in Fortran order or big-endian -> little-endian in C order, in memory."""
    try:
        array = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran_order else "C")
    except ValueError as reason:
        raise TensorError(f"an array of shape {shape} is more than numpy holds: {reason}") from reason
    plain = np.ascontiguousarray(array, dtype.newbyteorder("<"))
    return MemoryRegion(bytes_of(plain))


def _one_line(reason: BaseException) -> str:
    return " ".join(str(reason).split())[:200] or type(reason).__name__
