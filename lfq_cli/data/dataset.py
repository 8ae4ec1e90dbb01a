"""`CodesDataset`: the samples of codes files by number, for training."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lfq_cli import codesfile
from lfq_cli.bits import BitOrder, Packed
from lfq_cli.codesfile import CodesFile, check_cut
from lfq_cli.codesfile.columns import check_offsets
from lfq_cli.codesfile.header import OFFSETS
from lfq_cli.data.catalog import Catalog, TensorSpec, catalog_of, key_hashes, key_of_row
from lfq_cli.data.expand import narrowest, to_bits, to_indices
from lfq_cli.data.shelf import Shelf
from lfq_cli.data.store import FileStore, Store, fits, load, memory_needed
from lfq_cli.data.windows import Windows
from lfq_cli.errors import CodesFileError, CodesUnreadableError, OptionError
from lfq_cli.jobs.file_types import is_codes_file
from lfq_cli.jobs.inputs import find_inputs, sorted_out
from lfq_cli.pipeline.survey import hash_of_key
from lfq_cli.storage.places import is_folder, is_taken
from lfq_cli.storage.urlpath import path_of
from lfq_cli.wording import counted

Format = Literal["indices", "bits", "packed"]
Where = str | os.PathLike[str]


def open_codes(path: Where | Sequence[Where]) -> CodesFile | CodesDataset:
    """A codes file open for reading; for a folder, a glob or several files, the data set of their samples.

    Raises CodesFileError if a file is damaged or something else.
    """
    if isinstance(path, str | os.PathLike) and not is_folder(path_of(path)) and not _is_glob(path):
        return codesfile.open_codes(os.fspath(path))
    return CodesDataset(path)


def _is_glob(path: Where) -> bool:
    return glob.has_magic(os.fspath(path)) and not is_taken(path_of(path))


class CodesDataset(Sequence[dict[str, Any]]):
    """Samples by number, as dicts: the codes of each tensor, the value of each carried column, the key.

    Samples are in the order of their files, sorted by name, and within a file in its order. In a file without samples
    axis 0 counts them. Picklable; files are opened in the process that reads.
    """

    def __init__(
        self,
        paths: Where | Sequence[Where],
        *,
        tensors: Sequence[str] = (),
        dims: Sequence[int] | None = None,
        order: BitOrder | None = None,
        format: Format = "indices",  # noqa: A002 - what it is called elsewhere
        dtype: str = "int64",
        memory: Literal["auto"] | bool = "auto",
        window: int | None = None,
        stride: int | None = None,
        keys: bool = True,
    ) -> None:
        """paths: folders, globs, files. tensors: names; all if empty.

        dims, order: how a vector's bits are grouped into indices ("msb" or "lsb" first); by default as in the files.
        format: "indices" [positions, codebooks] of `dtype` (without the last axis if there is one codebook), "bits"
        [positions, B] uint8, or "packed" [bytes] uint8. memory: whether packed bits are held in memory; "auto": if they
        take at most a quarter of the free memory. window, stride: an item is `window` vectors of a sample, in C order,
        one every `stride` (default: window); the rest at a sample's end is in no window. keys: whether items include
        their key.

        Raises CodesUnreadableError for files of different checkpoints, groupings or shapes, OptionError for dims that
        do not fit.
        """
        if format not in ("indices", "bits", "packed"):
            raise OptionError(f"format {format!r} is unknown", 'expected "indices", "bits" or "packed"')
        self._shelf = Shelf(_files(paths))
        self.catalog: Catalog = catalog_of(self._shelf, tensors)
        self.format: Format = format
        self.keys = keys
        self._cuts = {name: self._cut(spec, dims, order, dtype) for name, spec in self.catalog.tensors.items()}
        self._windows = None if window is None else Windows(self.catalog, window, window if stride is None else stride)
        in_memory = fits(memory_needed(self.catalog)) if memory == "auto" else memory
        self._stores: dict[str, Store] = {
            name: load(self._shelf, self.catalog, name) if in_memory else FileStore(self._shelf, self.catalog, name)
            for name in self.catalog.tensors
        }
        self._columns: dict[str, NDArray[Any]] = {}
        self._texts: dict[tuple[Path, str], tuple[bytes, NDArray[np.int64]]] = {}
        """Keys and texts of files that were asked for: read once, and held."""
        self._hashes: tuple[NDArray[np.uint64], NDArray[np.int64]] | None = None

    def _cut(
        self, spec: TensorSpec, dims: Sequence[int] | None, order: BitOrder | None, dtype: str
    ) -> tuple[tuple[int, ...], BitOrder, np.dtype[Any]]:
        cut = spec.dims if dims is None else check_cut(tuple(dims), spec.bits_per_vector)
        if order not in (None, "msb", "lsb"):
            raise OptionError(f"order {order!r} is unknown", 'expected "msb" or "lsb"')
        found = narrowest(cut, dtype) if self.format == "indices" else np.dtype(np.uint8)
        return cut, order or spec.order, found

    @property
    def files(self) -> list[Path]:
        """The files, in the order of their samples."""
        return list(self._shelf.paths)

    @property
    def checkpoint_sha256(self) -> str:
        """The checkpoint that made the codes, as recorded."""
        return self.catalog.checkpoint_sha256

    @property
    def samples(self) -> int:
        """The number of samples; `len` counts windows, if there are any."""
        return int(self.catalog.starts[-1])

    def vocabulary(self, name: str | None = None) -> tuple[int, ...]:
        """How many values each index of a vector may have, with the given dims."""
        cut, *_ = self._cuts[next(iter(self._cuts)) if name is None else name]
        return tuple(2**bits for bits in cut)

    def dims(self, name: str) -> tuple[int, ...]:
        """How a vector's bits are grouped into indices."""
        return self._cuts[name][0]

    def order(self, name: str) -> BitOrder:
        """Which bit of an index comes first in a vector."""
        return self._cuts[name][1]

    def file_of(self, sample: int) -> Path:
        """The file in which a sample lies."""
        return self._shelf.paths[int(np.searchsorted(self.catalog.starts, sample, side="right")) - 1]

    def key_hashes(self, *, stored_only: bool = False) -> NDArray[np.uint64]:
        """A hash of each sample's key: [samples]. stored_only: 0 where the file stores no keys."""
        return key_hashes(self._shelf, self.catalog, stored_only=stored_only)

    def check_file(self, number: int, *, keys: bool) -> None:
        """Raises CodesFileError unless the codes of a file, and its keys if requested, have the header's digests."""
        codes = self._shelf.get(number)
        for name in self.catalog.tensors:
            codes[name].check_digest()
            offsets = codes.header.tensors[name].offsets
            if offsets is not None:
                codes.check_column(offsets)
        if keys and codes.header.samples is not None:
            for name in (codes.header.samples.keys, codes.header.samples.keys + OFFSETS):
                codes.check_column(name)

    def check_column(self, name: str) -> None:
        """Raises CodesFileError unless a carried column has the header's digest in every file."""
        for number in range(len(self._shelf.paths)):
            self._shelf.get(number).check_column(name)

    def digests(self) -> list[dict[str, str]]:
        """For each file, the sha256 of everything it stores, by name."""
        return [self._shelf.get(number).header.digests for number in range(len(self._shelf.paths))]

    def __len__(self) -> int:
        return self.samples if self._windows is None else len(self._windows)

    def __repr__(self) -> str:
        tensors = ", ".join(
            f"{name!r} {'ragged' if spec.positions is None else list(spec.positions)} of {spec.bits_per_vector} bits"
            for name, spec in self.catalog.tensors.items()
        )
        return f"<CodesDataset: {counted(len(self), 'item')} of {counted(len(self._shelf.paths), 'file')}, {tensors}>"

    def __getitem__(self, index: Any) -> Any:
        """The item of a number; a list of items for a slice, list or array of numbers."""
        if isinstance(index, slice):
            return self.__getitems__(range(*index.indices(len(self))))
        items = self.__getitems__(index)
        return items if np.ndim(index) else items[0]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for first in range(0, len(self), 64):
            yield from self.__getitems__(range(first, min(first + 64, len(self))))

    def __getitems__(self, indices: Sequence[int] | NDArray[Any]) -> list[dict[str, Any]]:
        """Items of several numbers, read together: a DataLoader calls this."""
        batch = self.batch(indices)
        names = list(batch)
        return [dict(zip(names, values, strict=True)) for values in zip(*batch.values(), strict=True)]

    def batch(self, indices: Sequence[int] | NDArray[Any], *, keys: bool | None = None) -> dict[str, Any]:
        """Items of several numbers as one dict: codes stacked [n, ...]; a list where samples differ in length.

        The fastest way: no work per sample. keys: whether to include them; None: as for the data set.
        """
        numbers = self._numbers(indices)
        starts = None
        if self._windows is not None:
            numbers, starts = self._windows.locate(numbers)
        batch: dict[str, Any] = {name: self._codes(name, numbers, starts) for name in self.catalog.tensors}
        for name in self.catalog.carried:
            batch[name] = self.column(name)[numbers]
        for name in self.catalog.texts:
            batch[name] = self._texts_of(name, numbers)
        if self.keys if keys is None else keys:
            batch["key"] = self.keys_of(numbers)
        if starts is not None:
            batch["start"] = starts
        return batch

    def _numbers(self, indices: Sequence[int] | NDArray[Any]) -> NDArray[np.int64]:
        numbers = np.asarray(indices)
        if numbers.dtype == np.bool_ and numbers.shape == (len(self),):
            numbers = np.flatnonzero(numbers)
        if numbers.dtype == np.object_ and numbers.size and all(isinstance(each, int) for each in numbers.flat):
            raise IndexError(f"{numbers.flat[0]} is outside the {len(self)} items of the data set")
        if numbers.size and numbers.dtype.kind not in "iu":
            raise TypeError(f"samples are chosen by integers, found {numbers.dtype}")
        numbers = numbers.reshape(-1)
        outside = (numbers < -len(self)) | (numbers >= len(self))
        if outside.any():
            raise IndexError(f"{int(numbers[outside][0])} is outside the {len(self)} items of the data set")
        numbers = numbers.astype(np.int64)
        return np.where(numbers < 0, numbers + len(self), numbers)

    # codes

    def _codes(self, name: str, samples: NDArray[np.int64], starts: NDArray[np.int64] | None) -> Any:
        spec, store = self.catalog.tensors[name], self._stores[name]
        if starts is not None:
            assert self._windows is not None
            length = self._windows.length
            parts = [store.stream(s, a, a + length) for s, a in zip(samples.tolist(), starts.tolist(), strict=True)]
            rows = np.stack(parts) if parts else np.empty((0, -(-length * spec.bits_per_vector // 8)), np.uint8)
            return self._expanded(name, rows, (length,))
        if spec.positions is not None:
            return self._expanded(name, store.rows(samples), spec.positions)
        first, last = self.catalog.ranges(name, samples)
        lengths = last - first
        if self.format == "packed":
            return [store.stream(s, 0, length) for s, length in zip(samples.tolist(), lengths.tolist(), strict=True)]
        ends = np.cumsum(lengths)
        every = self._expanded(name, store.joined(samples)[None], (int(lengths.sum()),))[0]
        return [every[a:b] for a, b in zip((ends - lengths).tolist(), ends.tolist(), strict=True)]

    def _expanded(self, name: str, rows: Packed, positions: tuple[int, ...]) -> NDArray[Any]:
        cut, order, dtype = self._cuts[name]
        vectors = prod(positions)
        if self.format == "packed":
            return rows
        if self.format == "bits":
            return to_bits(rows, vectors, sum(cut)).reshape(len(rows), *positions, sum(cut))
        tail = () if len(cut) == 1 else (len(cut),)
        return to_indices(rows, vectors, cut, order, dtype).reshape(len(rows), *positions, *tail)

    # carried columns

    def column(self, name: str) -> NDArray[Any]:
        """A carried column of all samples: [samples, ...]. Raises KeyError for another name."""
        if name not in self.catalog.carried:
            raise KeyError(name)
        if name not in self._columns:
            parts = [self._shelf.get(number).column(name) for number in range(len(self._shelf.paths))]
            self._columns[name] = np.concatenate(parts)
        return self._columns[name]

    def key(self, index: int) -> str:
        """The key of a sample; without one, its file's name and its row."""
        return self._key(int(self._numbers([index])[0]) if self._windows is None else range(self.samples)[index])

    def _key(self, sample: int) -> str:
        return self.keys_of(np.array([sample]))[0]

    def keys_of(self, samples: NDArray[np.int64]) -> list[str]:
        """The keys of several samples, as from `key`."""
        return self._texts_of(None, samples)

    def _texts_of(self, name: str | None, samples: NDArray[np.int64]) -> list[str]:
        """One text for each of several samples; without a name, the key."""
        files, rows = self.catalog.locate(samples)
        if len(files) and files[0] == files[-1] and (files == files[0]).all():
            return self._texts_in(int(files[0]), name, rows)
        texts = [""] * len(samples)
        order = np.argsort(files, kind="stable")
        for places in np.split(order, np.flatnonzero(np.diff(files[order])) + 1):
            if len(places):
                found = self._texts_in(int(files[places[0]]), name, rows[places])
                for place, text in zip(places.tolist(), found, strict=True):
                    texts[place] = text
        return texts

    def _texts_in(self, file: int, name: str | None, rows: NDArray[np.int64]) -> list[str]:
        """The same for samples of one file."""
        codes = self._shelf.get(file)
        if name is None:
            if codes.header.samples is None:
                return [key_of_row(codes.path, row) for row in rows.tolist()]
            name = codes.header.samples.keys
        held = self._texts.get((codes.path, name))
        if held is None:
            data, ends = codes.column(name).tobytes(), codes.column(name + OFFSETS)
            check_offsets(ends, len(data), f"{codes.path}: {name!r}")
            held = self._texts[codes.path, name] = data, ends
        data, ends = held
        spans = zip(ends[rows].tolist(), ends[rows + 1].tolist(), strict=True)
        return [data[first:last].decode("utf-8", "replace") for first, last in spans]

    def find(self, key: str) -> int:
        """The number of the sample with a key. Raises KeyError if there is none."""
        if self._hashes is None:
            hashes = key_hashes(self._shelf, self.catalog)
            order = np.argsort(hashes, kind="stable")
            self._hashes = hashes[order], order
        hashes, order = self._hashes
        wanted = np.uint64(hash_of_key(key))
        first, last = (int(np.searchsorted(hashes, wanted, side=side)) for side in ("left", "right"))
        for sample in order[first:last].tolist():
            if self._key(sample) == key:
                return int(sample)
        raise KeyError(key)

    def close(self) -> None:
        """Closes all files; reading opens them again."""
        self._shelf.close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_hashes": None, "_texts": {}}


def _files(paths: Where | Sequence[Where]) -> list[Path]:
    """The codes files that the paths name, in order."""
    arguments = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    found, missed = sorted_out(find_inputs([os.fspath(path) for path in arguments], is_codes_file, CodesFileError))
    for error in missed.values():
        raise error
    if not found:
        raise CodesUnreadableError("a data set needs at least one file")
    return found
