"""Reading codes files: the header is checked in full, the codes are read by position."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lfq_cli import kernels
from lfq_cli.bits import (
    MAX_INDEX_BITS,
    BitOrder,
    Indices,
    Packed,
    cut_stream,
    stream_to_indices,
    unpack,
)
from lfq_cli.codesfile.columns import bad_key, check_offsets, texts_of
from lfq_cli.codesfile.header import OFFSETS, CodesTensor
from lfq_cli.codesfile.parse import parse_header
from lfq_cli.container import read_header, tensor_bytes
from lfq_cli.dtypes import NUMPY
from lfq_cli.errors import CodesFileError, CodesUnreadableError, OptionError
from lfq_cli.packings import PACKINGS
from lfq_cli.regions import FileRegion, InputFile, bytes_of
from lfq_cli.storage.remote import open_input
from lfq_cli.storage.urlpath import path_of

_CHUNK_BYTES = 1 << 20
_SHORT_BYTES = 1 << 16
"""Of a stream that is read in one call, without a buffer of its own."""
_LEAST_GAP = 1 << 14
"""Bytes between items that are passed over by reading each by itself."""


@dataclass(frozen=True)
class Stored:
    """The bytes of a tensor's codes, or of a column; `start` counts from the start of the file."""

    start: int
    nbytes: int
    sha256: str


class CodesFile(Mapping[str, "TensorCodes"]):
    """An open codes file: name -> TensorCodes. Header validated, no codes read yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open_input(path, CodesFileError, CodesUnreadableError)
        try:
            container = read_header(self._file, CodesFileError, "a codes file", "lfq encode makes codes of tensors")
            self.header = parse_header(container, path)
            self._starts = {name: entry.start for name, entry in container.entries.items()}
            for codes in self.values():
                codes.check_tail()
        except BaseException:
            self._file.close()
            raise

    @property
    def nbytes(self) -> int:
        """Size of the file in bytes."""
        return self._file.size

    @property
    def state(self) -> tuple[int, ...]:
        """The state that changes when the file is written to or replaced."""
        return self._file.state

    def region(self, name: str) -> FileRegion:
        """The stored bytes of a tensor's codes, or of a column."""
        return FileRegion(self._file, self._starts[name])

    @property
    def stored(self) -> dict[str, Stored]:
        """The position of everything that the file stores, in header order."""
        digests = self.header.digests
        sizes = {name: tensor_bytes(dtype, shape) for name, (dtype, shape) in self.header.stored.items()}
        return {name: Stored(self._starts[name], size, digests[name]) for name, size in sizes.items()}

    def __getitem__(self, name: str) -> TensorCodes:
        return TensorCodes(self.header.tensors[name], self._file, self._starts[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.header.tensors)

    def __len__(self) -> int:
        return len(self.header.tensors)

    def __repr__(self) -> str:
        return f"<CodesFile {str(self.path)!r}: {', '.join(map(repr, self))}>"

    @cached_property
    def keys_of_samples(self) -> list[str]:
        """The keys of the file's samples, in order; none where it holds no samples.

        Raises CodesFileError unless they are UTF-8 without control characters, and unique.
        """
        samples = self.header.samples
        if samples is None:
            return []
        keys = self.texts(samples.keys)
        wrong = next((f"{key!r} {reason}" for key in keys if (reason := bad_key(key)) is not None), None)
        if wrong is not None or len(set(keys)) != len(keys):
            raise CodesFileError(f"{self.path}: its keys are damaged: {wrong or 'two are the same'}")
        return keys

    def texts(self, name: str) -> list[str]:
        """One text for each sample. Raises CodesFileError if they are damaged."""
        where = f"{self.path}: {name!r}"
        return texts_of(self.column(name).tobytes(), self.column(name + OFFSETS), where)

    def column(self, name: str) -> NDArray[Any]:
        """A tensor stored beside the codes, a row for each sample; bytes for a dtype that numpy lacks."""
        samples = self.header.samples
        if samples is None or name not in samples.columns:
            raise CodesUnreadableError(f"{self.path}: has no column {name!r}")
        column = samples.columns[name]
        data = bytearray(column.nbytes)
        self._file.read_into(self._starts[name], memoryview(data))
        dtype = NUMPY.get(column.dtype)
        if dtype is None:
            rows = column.shape[0]
            return np.frombuffer(data, np.uint8).reshape(rows, len(data) // max(rows, 1))
        return np.frombuffer(data, dtype).reshape(column.shape)

    def check_column(self, name: str) -> None:
        """Raises CodesFileError unless a column's bytes have the header's sha256."""
        assert self.header.samples is not None
        if hashlib.sha256(bytes_of(self.column(name))).hexdigest() != self.header.samples.columns[name].sha256:
            raise CodesFileError(
                f"{self.path}: {name!r} is damaged: its bytes have another sha256 than the header says"
            )

    def bounds(self, name: str) -> NDArray[np.int64]:
        """The start of each sample of a tensor, and the end of the last, in vectors: I64 [samples + 1]."""
        info = self.header.tensors[name]
        if info.samples is None:
            raise CodesUnreadableError(f"{self.path}: {name!r} holds no samples")
        if info.offsets is None:
            return np.arange(info.samples + 1, dtype=np.int64) * (info.vectors // max(info.samples, 1))
        offsets: NDArray[np.int64] = self.column(info.offsets)
        check_offsets(offsets, info.vectors, f"{self.path}: {info.offsets!r}")
        return offsets

    def matching(self, patterns: Sequence[str]) -> list[str]:
        """The names that match one of the globs; all if there are none. Raises CodesFileError if nothing matches."""
        names = [name for name in self if not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)]
        if not names and patterns:
            raise CodesUnreadableError(f"{self.path}: no tensor matches", f"it holds {', '.join(map(repr, self))}")
        return names

    def __reduce__(self) -> tuple[Any, ...]:
        return _file_again, (self.path, self.state)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> CodesFile:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


def open_codes(path: str | Path) -> CodesFile:
    """The codes file at `path`, open for reading. Raises CodesFileError if it is damaged or something else."""
    return CodesFile(path_of(path))


class _Reading(NamedTuple):
    """What reading needs of the header, computed once: random access would spend most of its time on it."""

    is_stream: bool
    items: int
    """Of the first axis."""
    item_vectors: int
    item_shape: tuple[int, ...]
    bits_per_vector: int
    dims: tuple[int, ...]
    order: BitOrder
    dtype: np.dtype[Any]


class TensorCodes:
    """One tensor's indices, read on demand: `codes[i:j]` reads only the bytes of i to j.

    Picklable: it is opened again where it is used, and a changed file is an error.
    """

    def __init__(self, info: CodesTensor, file: InputFile, start: int) -> None:
        self.info = info
        """As the indices are read: `cut` gives others."""
        self._stored = info
        self._file = file
        self._start = start

    def cut(self, dims: Sequence[int] | None = None, order: BitOrder | None = None) -> TensorCodes:
        """The same codes as other indices: a vector's bits grouped into `dims`, "msb" or "lsb" first. Converts nothing.

        Raises OptionError unless dims use every bit of a vector once.
        """
        cut = check_cut(self.info.codebook_dims if dims is None else tuple(dims), self.info.bits_per_vector)
        tail = self._stored.shape[len(self._stored.positions) :]
        if cut != self._stored.codebook_dims:
            tail = () if len(cut) == 1 else (len(cut),)
        found = TensorCodes(self._stored, self._file, self._start)
        found.info = replace(
            self.info, codebook_dims=cut, bit_order=order or self.info.bit_order, shape=self.info.positions + tail
        )
        return found

    def close(self) -> None:
        """Closes the file: for unpickled codes, which own theirs."""
        self._file.close()

    def __reduce__(self) -> tuple[Any, ...]:
        facts = self._file.path, self._file.state, self.info.name, self.info.codebook_dims, self.info.bit_order
        return _opened_again, facts

    @property
    def shape(self) -> tuple[int, ...]:
        """The index tensor's shape."""
        return self.info.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """int64, or uint64 for indices of 64 bits."""
        return self._reading.dtype

    @cached_property
    def _reading(self) -> _Reading:
        info = self.info
        return _Reading(
            is_stream=info.packing == "bits",
            items=info.shape[0] if info.positions else 1,
            item_vectors=prod(info.positions[1:]),
            item_shape=info.shape[1:],
            bits_per_vector=info.bits_per_vector,
            dims=info.codebook_dims,
            order=info.bit_order,
            dtype=np.dtype(np.uint64 if max(info.codebook_dims) == MAX_INDEX_BITS else np.int64),
        )

    def __repr__(self) -> str:
        bits = "+".join(map(str, self.info.codebook_dims))
        return f"<TensorCodes {self.info.name!r}: {self.dtype} {self.shape}, {bits} bits each>"

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a single vector's codes have no length")
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Indices:
        return self[...] if dtype is None else self[...].astype(dtype)

    def __getitem__(self, key: Any) -> Indices:
        """Indices by position on the first axis: an integer, a slice, a list or array of integers, a mask; or a tuple
        that begins with one. Only the requested items are read.
        """
        if isinstance(key, slice) and self.shape:  # a shortcut for the most frequent request
            first_item, last_item, step = key.indices(self._reading.items)
            if step == 1 and first_item < last_item and self.info.positions:
                return self._items(first_item, last_item)
        if not self.info.positions:
            whole: Indices = self.indices(0, 1, self.dtype).reshape(self.shape)[key]
            return whole
        if isinstance(key, tuple) and not key:
            key = ...
        first, rest = (key[0], key[1:]) if isinstance(key, tuple) else (key, ())
        if first is Ellipsis:
            everything: Indices = self._items(0, self.shape[0])[key]
            return everything
        if isinstance(first, slice):
            items: Indices = self._spread(range(*first.indices(self.shape[0])))[(slice(None), *rest)]
            return items
        if isinstance(first, list | np.ndarray) and np.ndim(first):
            chosen: Indices = self._chosen(np.asarray(first))[(slice(None), *rest)]
            return chosen
        index = self._position(first)
        item: Indices = self._items(index, index + 1)[0, ...][rest]
        return item

    def _position(self, key: Any) -> int:
        """An integer of either sign as a position on the first axis. Raises TypeError and IndexError as an array
        would.
        """
        try:
            return range(self.shape[0])[operator.index(key)]
        except TypeError:
            raise TypeError(
                f"{self.info.name!r} is read by integers, slices, lists and masks of its first axis, found"
                f" {type(key).__name__}; codes[...] reads all of it into an array"
            ) from None
        except IndexError:
            raise IndexError(f"{key} is outside the {self.shape[0]} positions of {self.info.name!r}") from None

    def _spread(self, span: range) -> Indices:
        """Evenly spaced items: one by one where that reads less."""
        if not span:
            return self._items(0, 0)
        per_item = prod(self.info.positions[1:]) * self.info.bits_per_vector // 8
        if (abs(span.step) - 1) * per_item > _LEAST_GAP:
            return np.concatenate([self._items(index, index + 1) for index in span])
        low, high = min(span[0], span[-1]), max(span[0], span[-1]) + 1
        return self._items(low, high)[:: span.step]

    def _chosen(self, key: NDArray[Any]) -> Indices:
        """Items by number, or by a mask of the first axis; adjacent items are read together."""
        if key.dtype == np.bool_:
            if key.shape != self.shape[:1]:
                raise IndexError(f"a mask of {key.shape} does not fit {self.shape[0]} items of {self.info.name!r}")
            key = np.flatnonzero(key)
        if key.size and key.dtype.kind not in "iu":
            raise TypeError(f"{self.info.name!r} is read by integers, found {key.dtype}")
        numbers = [self._position(number) for number in key.reshape(-1).tolist()]
        parts, first = [], 0
        for last in range(1, len(numbers) + 1):
            if last == len(numbers) or numbers[last] != numbers[last - 1] + 1:
                parts.append(self._items(numbers[first], numbers[last - 1] + 1))
                first = last
        items = np.concatenate(parts) if parts else self._items(0, 0)
        return items.reshape(*key.shape, *self.shape[1:])

    def packed(self, start: int, stop: int) -> Packed:
        """The bits of items `start` to `stop` of the first axis, as a stream of their own with a zero tail."""
        per_item = prod(self.info.positions[1:])
        first, last, _ = slice(start, stop).indices(self.shape[0] if self.info.positions else 1)
        return self.stream(first * per_item, last * per_item)

    def bits(self, start: int, stop: int) -> NDArray[np.uint8]:
        """The bits of items `start` to `stop` of the first axis, 0 or 1: [items, positions, B], in stream order."""
        info = self.info
        first, last, _ = slice(start, stop).indices(self.shape[0] if info.positions else 1)
        per_item = prod(info.positions[1:])
        vectors = max(last - first, 0) * per_item
        bits = unpack(self.stream(first * per_item, last * per_item), vectors, info.bits_per_vector)
        return bits.view(np.uint8).reshape(max(last - first, 0), *info.positions[1:], info.bits_per_vector)

    def indices(self, start: int, stop: int, dtype: np.dtype[Any]) -> Indices:
        """Indices of vectors `start` to `stop`, in file order: [vectors, codebooks] of `dtype`."""
        info = self.info
        if stop <= start:
            return np.empty((0, len(info.codebook_dims)), dtype)
        if (found := self._short_run(start, stop, dtype)) is not None:
            return found
        if PACKINGS[info.packing].holds_indices and info == self._stored:
            return self._rows(start, stop).astype(dtype)
        return stream_to_indices(self.stream(start, stop), stop - start, info.codebook_dims, info.bit_order, dtype)

    def _short_run(self, start: int, stop: int, dtype: np.dtype[Any]) -> Indices | None:
        """As `indices`, for a few vectors of a stream, by the kernel that starts at any bit; None if there is no
        kernel.
        """
        reading = self._reading
        first, last = start * reading.bits_per_vector, stop * reading.bits_per_vector
        nbytes = (last + 7 >> 3) - (first >> 3)
        if not reading.is_stream or kernels.compiled is None or not 0 < nbytes <= _SHORT_BYTES:
            return None
        data = self._file.read(self._start + (first >> 3), nbytes)
        return kernels.unpack(data, first & 7, stop - start, reading.dims, reading.order, dtype)

    def stream(self, start: int, stop: int) -> Packed:
        """The stream of vectors `start` to `stop`, whatever the packing, with a zero tail."""
        info = self._stored
        if stop <= start:
            return np.empty(0, np.uint8)
        if PACKINGS[info.packing].is_stream:
            first, last = start * info.bits_per_vector, stop * info.bits_per_vector
            return cut_stream(self._bytes(first // 8, -(-last // 8)), first % 8, last - first)
        return PACKINGS[info.packing].unpack(self._rows(start, stop), stop - start, info.codebook_dims, info.bit_order)

    def check_tail(self) -> None:
        """Raises CodesFileError unless the unused bits of the last byte of a stream are zero."""
        used = self._stored.vectors * self._stored.bits_per_vector % 8
        if not PACKINGS[self._stored.packing].is_stream or not used:
            return
        if self._bytes(self._stored.stored_bytes - 1, self._stored.stored_bytes)[0] & (0xFF >> used):
            raise self._damaged("the bits behind its last index are not zero")

    def check_digest(self) -> None:
        """Raises CodesFileError unless the stored bytes have the header's sha256; reads all of them."""
        digest = hashlib.sha256()
        for first in range(0, self._stored.stored_bytes, _CHUNK_BYTES):
            digest.update(bytes_of(self._bytes(first, min(first + _CHUNK_BYTES, self._stored.stored_bytes))))
        if digest.hexdigest() != self._stored.sha256:
            raise self._damaged(
                f"its bytes have sha256 {digest.hexdigest()[:12]}…, the header says {self._stored.sha256[:12]}…"
            )

    def _damaged(self, how: str) -> CodesFileError:
        return CodesFileError(
            f"{self._file.path}: {self._stored.name!r} is damaged: {how}",
            "encode its source again, or restore the file from a copy",
        )

    def _bytes(self, first: int, last: int) -> Packed:
        """Stored bytes first to last."""
        data = np.empty(last - first, np.uint8)
        self._file.read_into(self._start + first, bytes_of(data))
        return data

    def _rows(self, start: int, stop: int) -> NDArray[Any]:
        """Rows or ints of vectors `start` to `stop` as stored: [vectors, row]."""
        row_bytes = self._stored.stored_bytes // self._stored.vectors
        rows = self._bytes(start * row_bytes, stop * row_bytes).view(NUMPY[self._stored.dtype])
        rows = rows.reshape(stop - start, -1)
        fault = PACKINGS[self._stored.packing].fault(rows, self._stored.codebook_dims)
        if fault is not None:
            raise self._damaged(fault)
        return rows

    def _items(self, low: int, high: int) -> Indices:
        """Items low to high of the first axis."""
        reading = self._reading
        indices = self.indices(low * reading.item_vectors, high * reading.item_vectors, reading.dtype)
        return indices.reshape(high - low, *reading.item_shape)


def _opened_again(path: Path, state: tuple[int, ...], name: str, dims: tuple[int, ...], order: BitOrder) -> TensorCodes:
    return _file_again(path, state)[name].cut(dims, order)


def _file_again(path: Path, state: tuple[int, ...]) -> CodesFile:
    """The open file. Raises CodesFileError if it has changed."""
    codes = open_codes(path)
    if codes.state != state:
        codes.close()
        raise CodesFileError(f"{path}: changed since it was opened", "open it again")
    return codes


def check_cut(dims: tuple[int, ...], bits_per_vector: int) -> tuple[int, ...]:
    """The grouping. Raises OptionError unless it uses every bit of a vector once."""
    if not dims or min(dims) < 1 or max(dims) > MAX_INDEX_BITS or sum(dims) != bits_per_vector:
        raise OptionError(
            f"{'+'.join(map(str, dims)) or 'no'} bits are not a cut of the {bits_per_vector} bits of a vector",
            "each index has 1 to 64 bits, together they have all",
        )
    return dims
