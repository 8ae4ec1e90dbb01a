"""One sample: its key, its tensors in memory, its texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lfq_cli.container import tensor_bytes
from lfq_cli.dtypes import OF_NUMPY
from lfq_cli.errors import LfqError, TensorError
from lfq_cli.regions import FileRegion, MemoryFile, MemoryRegion, bytes_of
from lfq_cli.storage.urlpath import path_of
from lfq_cli.tensors import SOLE_TENSOR, Source, StoredTensor, open_bytes, open_source
from lfq_cli.tensors.npy import array_in

MAX_SAMPLE_BYTES = 1 << 30
"""A sample is held in memory whole; a tensor above this is none."""


class Sample(NamedTuple):
    """Everything with one key. `where` names file and key in messages."""

    key: str
    where: str
    tensors: Mapping[str, StoredTensor]
    texts: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class BadSample:
    """A sample that cannot be read, and why."""

    key: str
    error: LfqError

    def __len__(self) -> int:
        return 1


def sample_of(path: Path, key: str) -> Sample | BadSample:
    """The one sample of a tensor file."""
    try:
        with open_source(path) as source:
            return Sample(key, str(path), in_memory(source))
    except LfqError as error:
        return BadSample(key, error)


def small_sample_of(where: str, key: str, data: bytes) -> Sample | BadSample:
    """The one sample of a tensor file at `where` whose bytes are already in memory."""
    try:
        return Sample(key, where, small_tensors(where, data))
    except LfqError as error:
        return BadSample(key, error)


def small_tensors(where: str, data: bytes) -> dict[str, StoredTensor]:
    """The tensors of a file called `where` whose bytes are in memory."""
    if where.endswith(".npy"):  # most data sets of small files; the general reader takes twice as long
        return {SOLE_TENSOR: array_in(data, where)}
    with open_bytes(path_of(where), data) as source:
        return in_memory(source)


def in_memory(source: Source) -> dict[str, StoredTensor]:
    """The tensors of a file with their bytes. Raises TensorError for one that is too large for a sample."""
    return {name: _loaded(source, tensor) for name, tensor in source.tensors.items()}


def _loaded(source: Source, tensor: StoredTensor) -> StoredTensor:
    if isinstance(tensor.region, MemoryRegion):
        return tensor
    if isinstance(tensor.region, FileRegion) and isinstance(tensor.region.file, MemoryFile):
        start, nbytes = tensor.region.start, tensor_bytes(tensor.dtype, tensor.shape)
        data = memoryview(tensor.region.file.data)[start : start + nbytes]
        return StoredTensor(tensor.name, tensor.dtype, tensor.shape, MemoryRegion(data))
    nbytes = tensor_bytes(tensor.dtype, tensor.shape)
    if nbytes > MAX_SAMPLE_BYTES:
        raise TensorError(
            f"{source.path}: {tensor.name!r} has {nbytes / 2**30:.3g} GiB, a sample has 1 GiB at most",
            "--stacked if axis 0 counts samples; without --samples-per-file and --file-size it is encoded whole",
        )
    data = memoryview(bytearray(nbytes))
    tensor.region.read_into(0, data)
    return StoredTensor(tensor.name, tensor.dtype, tensor.shape, MemoryRegion(data))


def tensor_of(name: str, array: NDArray[Any]) -> StoredTensor:
    """A numpy array of a dtype that safetensors supports, as a tensor in memory."""
    dtype = OF_NUMPY[array.dtype]
    return StoredTensor(name, dtype, array.shape, MemoryRegion(bytes_of(array)))


def data_of(tensor: StoredTensor) -> memoryview:
    """The bytes of a tensor in memory."""
    assert isinstance(tensor.region, MemoryRegion)
    return tensor.region.data


def number(name: str, value: int | float | bool) -> StoredTensor:
    """A single number as a tensor: I64, F64 or BOOL. Raises OverflowError for an integer beyond 64 bits."""
    dtype = np.bool_ if isinstance(value, bool) else np.int64 if isinstance(value, int) else np.float64
    return tensor_of(name, np.asarray(value, dtype))
