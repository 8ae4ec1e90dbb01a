"""The packed bits of samples: held in memory, or read from the files by position."""

from __future__ import annotations

import os
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lfq_cli.bits import Packed, cut_stream, join_streams, to_rows
from lfq_cli.codesfile import TensorCodes
from lfq_cli.data.catalog import Catalog
from lfq_cli.data.shelf import Shelf
from lfq_cli.packings import PACKINGS

_SHARE_OF_MEMORY = 0.25
"""Of the memory that is free now: what "auto" takes at most, for all tensors of a data set."""
_RUN_VECTORS = 1 << 18
_GAP_BYTES = 1 << 13
"""Read and passed over for each sample that is wanted: a read of its own takes as long."""


class Store(Protocol):
    """The packed bits of one tensor."""

    def rows(self, samples: NDArray[np.int64]) -> Packed:
        """For samples of one length: [samples, bytes], each starting at a byte, with a zero tail."""
        ...

    def joined(self, samples: NDArray[np.int64]) -> Packed:
        """All vectors of samples of any lengths as one stream, with a zero tail."""
        ...

    def stream(self, sample: int, first: int, last: int) -> Packed:
        """Vectors first to last of a sample, as a stream of their own."""
        ...


class FileStore:
    """Reads on demand, by position: neighbours together."""

    def __init__(self, shelf: Shelf, catalog: Catalog, name: str) -> None:
        self._shelf = shelf
        self._catalog = catalog
        self._name = name

    def rows(self, samples: NDArray[np.int64]) -> Packed:
        """As in Store."""
        spec = self._catalog.tensors[self._name]
        vectors = spec.vectors
        assert vectors is not None
        out = np.empty((len(samples), -(-vectors * spec.bits_per_vector // 8)), np.uint8)
        files, rows = self._catalog.locate(samples)
        if _is_dense(files, rows, out.shape[1]):
            self._read_runs(files, rows, vectors, out)
        else:
            for file in sorted(set(files.tolist())):  # np.unique imports numpy.ma, slower than many batches
                places = np.flatnonzero(files == file)
                self._read_rows(file, rows[places], places, out)
        return out

    def _read_runs(self, files: NDArray[np.int64], rows: NDArray[np.int64], vectors: int, out: Packed) -> None:
        """All samples of a file at once, including any between the requested ones."""
        begin = 0
        for end in [*(np.flatnonzero(np.diff(files)) + 1).tolist(), len(files)]:
            low, high = int(rows[begin:end].min()), int(rows[begin:end].max()) + 1
            stream = self._shelf.get(int(files[begin]))[self._name].stream(low * vectors, high * vectors)
            every = to_rows(stream, high - low, vectors * self._catalog.tensors[self._name].bits_per_vector)
            out[begin:end] = every if high - low == end - begin else every[rows[begin:end] - low]
            begin = end

    def joined(self, samples: NDArray[np.int64]) -> Packed:
        """As in Store; neighbours are read together."""
        if not len(samples):
            return np.empty(0, np.uint8)
        begins, ends = self._catalog.ranges(self._name, samples)
        files, _ = self._catalog.locate(samples)
        first = np.flatnonzero(np.append(True, (np.diff(samples) != 1) | (np.diff(files) != 0)))
        last = np.append(first[1:], len(samples)) - 1
        runs = list(zip(files[first].tolist(), begins[first].tolist(), ends[last].tolist(), strict=True))
        streams = [self._shelf.get(file)[self._name].stream(begin, end) for file, begin, end in runs]
        return join_streams(streams, (ends[last] - begins[first]) * self._catalog.tensors[self._name].bits_per_vector)

    def _read_rows(self, file: int, rows: NDArray[np.int64], places: NDArray[np.intp], out: Packed) -> None:
        """Reads samples `rows` of one file into their places in out [samples, bytes]."""
        codes, nbytes = self._shelf.get(file), out.shape[1]
        spec = self._catalog.tensors[self._name]
        assert spec.vectors is not None
        is_stream = PACKINGS[codes.header.tensors[self._name].packing].is_stream
        if spec.vectors * spec.bits_per_vector % 8 or not is_stream:
            tensor = codes[self._name]
            for row, place in zip(rows.tolist(), places.tolist(), strict=True):
                out[place] = tensor.stream(row * spec.vectors, (row + 1) * spec.vectors)
            return
        region = codes.region(self._name)
        part = out if len(places) == len(out) else np.empty((len(places), nbytes), np.uint8)
        region.file.read_rows(region.start + rows * nbytes, part)
        if part is not out:
            out[places] = part

    def stream(self, sample: int, first: int, last: int) -> Packed:
        """As in Store."""
        number = np.array([sample])
        begins, _ = self._catalog.ranges(self._name, number)
        file = int(self._catalog.locate(number)[0][0])
        begin = int(begins[0])
        return self._shelf.get(file)[self._name].stream(begin + first, begin + last)


def _is_dense(files: NDArray[np.int64], rows: NDArray[np.int64], nbytes: int) -> bool:
    """Whether samples ascend, in few files, with gaps so small that reading everything at once is best."""
    if not len(files):
        return False
    same_file = np.diff(files) == 0
    steps = np.diff(rows)[same_file]
    if 8 * (len(files) - len(steps)) > len(files) or (steps < 0).any():
        return False
    return int(steps.sum() - len(steps)) * nbytes <= _GAP_BYTES * len(files)


class MemoryStore:
    """All of a tensor's samples of one length in memory: [samples, bytes], each starting at a byte."""

    def __init__(self, data: Packed, vectors: int, bits_per_vector: int) -> None:
        """vectors: in each sample."""
        self.data = data
        self._vectors = vectors
        self._bits = bits_per_vector

    def rows(self, samples: NDArray[np.int64]) -> Packed:
        """As in Store."""
        return self.data[samples]

    def joined(self, samples: NDArray[np.int64]) -> Packed:
        """As in Store."""
        return join_streams(list(self.data[samples]), np.full(len(samples), self._vectors * self._bits))

    def stream(self, sample: int, first: int, last: int) -> Packed:
        """As in Store."""
        return _part(self.data[sample], first, last, self._bits)


class RaggedStore:
    """All of a tensor's samples of several lengths in memory, one after the other, each starting at a byte."""

    def __init__(
        self, data: Packed, starts: NDArray[np.int64], vectors: NDArray[np.int64], bits_per_vector: int
    ) -> None:
        """starts: the first byte of each sample; vectors: in each."""
        self.data = data
        self._vectors = vectors
        self._starts = starts
        self._bits = bits_per_vector

    def rows(self, samples: NDArray[np.int64]) -> Packed:
        """As in Store, but only for samples of one length."""
        ends = np.append(self._starts, len(self.data))
        sizes = ends[samples + 1] - ends[samples]
        return self.data[self._starts[samples][:, None] + np.arange(sizes[0] if len(sizes) else 0)]

    def joined(self, samples: NDArray[np.int64]) -> Packed:
        """As in Store."""
        bits, starts = self._vectors[samples] * self._bits, self._starts[samples]
        spans = zip(starts.tolist(), (starts - (-bits // 8)).tolist(), strict=True)
        return join_streams([self.data[first:last] for first, last in spans], bits)

    def stream(self, sample: int, first: int, last: int) -> Packed:
        """As in Store."""
        return _part(self.data[self._starts[sample] :], first, last, self._bits)


def _part(stream: Packed, first: int, last: int, bits: int) -> Packed:
    begin, end = first * bits, last * bits
    return cut_stream(stream[begin // 8 : -(-end // 8)], begin % 8, end - begin)


def memory_needed(catalog: Catalog) -> int:
    """Bytes that all tensors of the data set take in memory."""
    return sum(int(_sizes(catalog, name).sum()) for name in catalog.tensors)


def fits(nbytes: int) -> bool:
    """Whether "auto" holds this many bytes in memory."""
    return nbytes <= _SHARE_OF_MEMORY * _free_memory()


def _free_memory() -> int:
    try:
        with open("/proc/meminfo") as file:  # noqa: PTH123
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["MemAvailable"].split()[0]) << 10
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _sizes(catalog: Catalog, name: str) -> NDArray[np.int64]:
    """Bytes of each sample, when each starts at a byte."""
    first, last = catalog.ranges(name, np.arange(int(catalog.starts[-1]), dtype=np.int64))
    sizes: NDArray[np.int64] = -(-(last - first) * catalog.tensors[name].bits_per_vector // 8)
    return sizes


def load(shelf: Shelf, catalog: Catalog, name: str) -> Store:
    """Reads a tensor's samples into memory."""
    spec = catalog.tensors[name]
    sizes = _sizes(catalog, name)
    ends = np.cumsum(sizes)
    data = np.empty(int(ends[-1]) if len(ends) else 0, np.uint8)
    for number in range(len(shelf.paths)):
        first, last = (int(catalog.starts[number + k]) for k in (0, 1))
        if first < last:
            begin = int(ends[first] - sizes[first])
            _load_file(shelf.get(number)[name], catalog, number, data[begin : int(ends[last - 1])])
    if spec.vectors is None:
        begins, stops = catalog.ranges(name, np.arange(len(sizes), dtype=np.int64))
        return RaggedStore(data, ends - sizes, stops - begins, spec.bits_per_vector)
    nbytes = -(-spec.vectors * spec.bits_per_vector // 8)
    return MemoryStore(data.reshape(len(sizes), nbytes), spec.vectors, spec.bits_per_vector)


def _load_file(codes: TensorCodes, catalog: Catalog, number: int, out: Packed) -> None:
    """The samples of one file, each starting at a byte."""
    spec = catalog.tensors[codes.info.name]
    samples = np.arange(int(catalog.starts[number]), int(catalog.starts[number + 1]), dtype=np.int64)
    begins, ends = catalog.ranges(spec.name, samples)
    if spec.vectors is not None and spec.vectors * spec.bits_per_vector % 8 == 0:
        _copy(codes, int(ends[-1]), spec.bits_per_vector, out)
        return
    position = 0
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        stream = codes.stream(begin, end)
        out[position : position + len(stream)] = stream
        position += len(stream)


def _copy(codes: TensorCodes, vectors: int, bits: int, out: Packed) -> None:
    """All vectors, in runs that end at a byte boundary."""
    step = max(_RUN_VECTORS // 8 * 8, 8)
    for first in range(0, vectors, step):
        last = min(first + step, vectors)
        stream = codes.stream(first, last)
        out[first * bits // 8 : first * bits // 8 + len(stream)] = stream
