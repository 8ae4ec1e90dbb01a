"""What the files of a data set hold: the same tensors in all of them, and where each sample is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfq_cli.bits import BitOrder
from lfq_cli.codesfile import CodesFile, CodesTensor
from lfq_cli.data.shelf import Shelf
from lfq_cli.errors import CodesUnreadableError
from lfq_cli.pipeline.survey import hashes_of_keys, survey

_RUN_KEYS = 1 << 13
Bounds = NDArray[np.int64]


@dataclass(frozen=True)
class TensorSpec:
    """What every file says of a tensor.

    positions: of a sample; None if samples differ in length on their first axis.
    """

    name: str
    dims: tuple[int, ...]
    order: BitOrder
    positions: tuple[int, ...] | None

    @property
    def bits_per_vector(self) -> int:
        """B."""
        return sum(self.dims)

    @property
    def vectors(self) -> int | None:
        """Vectors of a sample; None if samples differ."""
        return None if self.positions is None else prod(self.positions)


@dataclass(frozen=True)
class Catalog:
    """tensors: by name, equal in all files. starts: number of each file's first sample, and the total, [files + 1].

    bounds: for tensors whose samples differ in length, where each sample's vectors begin within its file, file after
    file, each followed by its end: sample i of file f is bounds[i + f] to bounds[i + f + 1]. carried: names of columns
    and texts.
    """

    checkpoint_sha256: str
    tensors: dict[str, TensorSpec]
    starts: Bounds
    bounds: dict[str, Bounds]
    carried: tuple[str, ...]
    texts: tuple[str, ...]

    def locate(self, samples: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(number of the file, row in it) of each sample."""
        files = np.searchsorted(self.starts, samples, side="right") - 1
        return files, samples - self.starts[files]

    def ranges(self, name: str, samples: NDArray[np.int64]) -> tuple[Bounds, Bounds]:
        """(first, last) vector of each sample, within its file."""
        files, rows = self.locate(samples)
        vectors = self.tensors[name].vectors
        if vectors is not None:
            return rows * vectors, (rows + 1) * vectors
        bounds = self.bounds[name]
        return bounds[samples + files], bounds[samples + files + 1]


def catalog_of(shelf: Shelf, tensors: Sequence[str]) -> Catalog:
    """Reads every header. Raises CodesUnreadableError, naming both, for files that do not form a data set together."""
    facts: list[tuple[Path, dict[str, Any]]] = []
    counts: list[int] = []
    bounds: dict[str, list[Bounds]] = {}
    for number, path in enumerate(shelf.paths):
        codes = shelf.get(number)
        names = [name for name in codes if not tensors or name in tensors]
        facts.append((path, dict(_facts(codes, names))))
        _require_equal(*facts[0], *facts[-1])
        counts.append(_count(codes, names))
        for name in names:
            if codes.header.tensors[name].offsets is not None:
                bounds.setdefault(name, []).append(codes.bounds(name))
    if not facts:
        raise CodesUnreadableError("a data set needs at least one file")
    first = facts[0][1]
    if not first["tensors"]:
        raise CodesUnreadableError(f"{facts[0][0]}: has no tensor of {', '.join(map(repr, tensors))}")
    return Catalog(
        first["checkpoint_sha256"],
        {name: TensorSpec(name, *first[f"the cut and shape of {name!r}"]) for name in first["tensors"]},
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        {name: np.concatenate(parts) for name, parts in bounds.items()},
        first["carried tensors"],
        first["carried texts"],
    )


def _facts(codes: CodesFile, names: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """What must be the same in all files, named as in a message."""
    samples = codes.header.samples
    yield "checkpoint_sha256", codes.header.checkpoint_sha256
    yield "tensors", tuple(names)
    for name in names:
        info = codes.header.tensors[name]
        yield f"the cut and shape of {name!r}", (info.codebook_dims, info.bit_order, _positions(info))
    yield "carried tensors", () if samples is None else samples.carried
    yield "carried texts", () if samples is None else samples.texts


def _positions(info: CodesTensor) -> tuple[int, ...] | None:
    if info.offsets is not None:
        return None
    return tuple(info.positions[1:])


def _require_equal(first_path: Path, first: dict[str, Any], path: Path, found: dict[str, Any]) -> None:
    for what, wanted in first.items():
        if found.get(what) != wanted:
            raise CodesUnreadableError(
                f"{path}: {what}: {found.get(what)}, in {first_path} it is {wanted}",
                "a data set is of one checkpoint, cut and shape; lfq inspect shows what each file holds",
            )


def _count(codes: CodesFile, names: Sequence[str]) -> int:
    """The number of samples in a file: as recorded, else the items of axis 0."""
    if codes.header.samples is not None:
        return codes.header.samples.count
    lengths = {name: codes.header.tensors[name].positions[:1] for name in names}
    if () in lengths.values() or len(set(lengths.values())) > 1:
        shapes = ", ".join(f"{name!r} {list(codes.header.tensors[name].shape)}" for name in names)
        raise CodesUnreadableError(
            f"{codes.path}: axis 0 of its tensors does not count samples: {shapes}",
            "tensors=(...) (--tensor) chooses among them",
        )
    return next(iter(lengths.values()))[0] if lengths else 0


def key_hashes(shelf: Shelf, catalog: Catalog, *, stored_only: bool = False) -> NDArray[np.uint64]:
    """A hash of the key of each sample, in sample order: [samples]. stored_only: 0 for a sample without a key."""
    parts = []
    for number in range(len(shelf.paths)):
        codes = shelf.get(number)
        count = int(catalog.starts[number + 1] - catalog.starts[number])
        if codes.header.samples is not None:
            parts.append(survey(codes).key_hashes)
        elif stored_only:
            parts.append(np.zeros(count, np.uint64))
        else:
            runs = (range(first, min(first + _RUN_KEYS, count)) for first in range(0, count, _RUN_KEYS))
            parts += [hashes_of_keys([key_of_row(codes.path, row) for row in run]) for run in runs]
    return np.concatenate(parts) if parts else np.empty(0, np.uint64)


def key_of_row(path: Path, row: int) -> str:
    """The name of a sample without a key: its file's name and its row."""
    return f"{path.name.removesuffix('.safetensors').removesuffix('.codes')}/{row}"
