"""The data sets of an HDF5 file (extra `[hdf5]`), plain, chunked or compressed; groups give names like "a/b".

Nothing outside the file is read: links to other files, virtual data sets and external storage are left alone.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfq_cli.dtypes import NUMPY
from lfq_cli.errors import TensorError
from lfq_cli.extras import require
from lfq_cli.regions import FileRegion, InputFile, MemoryFile, Region
from lfq_cli.signatures import unreadable
from lfq_cli.tensors.npy import dtype_name, is_known
from lfq_cli.tensors.source import Source, StoredTensor

_BROKEN = (OSError, RuntimeError, ValueError, KeyError, TypeError, OverflowError, MemoryError, SystemError)
"""What h5py raises for damaged files."""
_SLAB_BYTES = 1 << 26
"""The most bytes of a chunked data set to read at a time, unless its chunks are larger."""


class SlabRegion:
    """The data of a chunked data set, read in whole chunks: none is decompressed twice when read in order."""

    seekable = False

    def __init__(self, dataset: Any, dtype: np.dtype[Any], where: str) -> None:
        self._dataset = dataset
        self._dtype = dtype
        self._where = where
        shape = dataset.shape or (1,)
        self._row_bytes = prod(shape[1:]) * dtype.itemsize
        chunk = dataset.chunks[0] if dataset.chunks else 1
        most = max(_SLAB_BYTES // max(self._row_bytes, 1), 1)
        self._slab_rows = min(chunk * max(most // 16 // chunk, 1), most, max(shape[0], 1))
        self._first = 0
        self._slab: NDArray[np.uint8] = np.empty(0, np.uint8)

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fills `view` (bytes) from byte `offset` of the tensor."""
        target = np.frombuffer(view, np.uint8)
        done = 0
        while done < len(target):
            position = offset + done - self._first * self._row_bytes
            if not 0 <= position < len(self._slab):
                self._load((offset + done) // self._row_bytes)
                continue
            part = self._slab[position : position + len(target) - done]
            target[done : done + len(part)] = part
            done += len(part)

    def _load(self, row: int) -> None:
        """Loads the slab that has this row."""
        first = row - row % self._slab_rows
        try:
            if self._dataset.shape:
                rows = self._dataset[first : first + self._slab_rows]
            else:
                rows = np.asarray(self._dataset[()])
        except _BROKEN as reason:
            raise TensorError(f"{self._where}: cannot be read: {_one_line(reason)}") from reason
        self._first = first
        self._slab = np.ascontiguousarray(rows, self._dtype).reshape(-1).view(np.uint8)


def open_file(file: InputFile) -> Source:
    """Every data set of numbers, by its path in the file; everything else is named in `left_alone`."""
    tensors: dict[str, StoredTensor] = {}
    left_alone: dict[str, str] = {}
    with ExitStack() as opened:
        opened.callback(file.close)
        h5py = require("h5py", "hdf5", file.path, TensorError)
        try:
            archive = opened.enter_context(_open_archive(h5py, file))
            for name in _names(archive, h5py, left_alone):
                dataset = archive[name]
                other = _what_else(dataset)
                if other is None:
                    tensors[name] = _tensor(name, dataset, file)
                else:
                    left_alone[name] = other
        except _BROKEN as reason:
            raise unreadable(file, "an HDF5 file", _one_line(reason), TensorError) from reason
        return Source(file.path, tensors, left_alone, close=opened.pop_all().close)


def _open_archive(h5py: Any, file: InputFile) -> Any:
    """The file, opened with h5py by its path, since reading through a Python file object takes longer."""
    if isinstance(file, MemoryFile):
        return h5py.File(h5py.h5f.open_file_image(file.data))
    return h5py.File(os.fsencode(file.path), "r", locking=False)


def _names(archive: Any, h5py: Any, left_alone: dict[str, str]) -> list[str]:
    """The paths of all data sets in the file itself, sorted; each once, however many links lead to it."""
    found: list[str] = []
    archive.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
    archive.visititems_links(
        lambda name, link: (
            left_alone.update({name: "a link to another file"}) if isinstance(link, h5py.ExternalLink) else None
        )
    )
    return sorted(found)


def _what_else(dataset: Any) -> str | None:
    """What a data set is, if it is not a tensor."""
    if dataset.shape is None:
        return "empty"
    if dataset.is_virtual:
        return "a virtual data set"
    if dataset.external:
        return "a data set whose values lie in another file"
    dtype: np.dtype[Any] = dataset.dtype
    return None if is_known(dtype) else "text or objects" if dtype.hasobject else str(dtype)


def _tensor(name: str, dataset: Any, file: InputFile) -> StoredTensor:
    where = f"{file.path}: {name!r}"
    known = dtype_name(dataset.dtype, where)
    dtype = NUMPY[known]
    start = dataset.id.get_offset()  # None if it is chunked, or nothing was written yet
    nbytes = prod(dataset.shape) * dtype.itemsize
    plain = start is not None and dataset.dtype == dtype and not isinstance(file, MemoryFile)
    if plain and start + nbytes <= file.size and dataset.id.get_storage_size() == nbytes:
        region: Region = FileRegion(file, start)
    else:
        region = SlabRegion(dataset, dtype, where)
    return StoredTensor(name, known, tuple(dataset.shape), region)


def _one_line(reason: BaseException) -> str:
    return " ".join(str(reason).split())[:200] or type(reason).__name__
