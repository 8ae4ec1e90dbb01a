"""A sample's codes -> a sequence of ids in one vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lfq_cli.errors import OptionError

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Vocabulary:
    """Where the ids of codes, specials and labels begin. dims: bits of each index of a vector.

    codebook_offset: the distance between the ids of one codebook and the next; None: the sizes of the codebooks before
    it, so each has ids of its own.
    """

    dims: tuple[int, ...]
    flatten: Literal["position", "codebook"] = "position"
    codebook_offset: int | None = None
    offset: int = 0
    bos: int | None = None
    eos: int | None = None
    row_end: int | None = None
    label_offset: int | None = None
    labels: tuple[int, int] | None = None
    """The lowest and the highest label, where labels stand in the sequence."""

    def __post_init__(self) -> None:
        for name, value in (("--offset", self.offset), ("--codebook-offset", self.codebook_offset)):
            if value is not None and value < 0:
                raise OptionError(f"{name} {value}: expected 0 or more")
        taken = {**self._codes(), **self._labels(), **self.specials()}
        ranges = sorted((first, last, name) for name, (first, last) in taken.items())
        for (_, end, name), (begin, _, other) in pairwise(ranges):
            both_codes = name.startswith("codebook") and other.startswith("codebook")
            if begin <= end and not both_codes:
                raise OptionError(f"{other} has id {begin}, which {name} has too", "choose ids that are free")
        if ranges and ranges[0][0] < 0:
            raise OptionError(f"{ranges[0][2]} has id {ranges[0][0]}, expected 0 or more")

    @property
    def offsets(self) -> tuple[int, ...]:
        """What to add to the indices of each codebook."""
        sizes = [2**bits for bits in self.dims]
        step = self.codebook_offset
        return tuple(self.offset + (sum(sizes[:k]) if step is None else k * step) for k in range(len(sizes)))

    @property
    def size(self) -> int:
        """The highest id plus 1."""
        taken = {**self._codes(), **self._labels(), **self.specials()}
        return 1 + max(last for _, last in taken.values())

    def specials(self) -> dict[str, tuple[int, int]]:
        """Name of each special id -> (id, id)."""
        named = {"--bos": self.bos, "--eos": self.eos, "--row-end": self.row_end}
        return {name: (value, value) for name, value in named.items() if value is not None}

    def _codes(self) -> dict[str, tuple[int, int]]:
        return {
            f"codebook {k}": (offset, offset + 2**bits - 1)
            for k, (bits, offset) in enumerate(zip(self.dims, self.offsets, strict=True))
        }

    def _labels(self) -> dict[str, tuple[int, int]]:
        if self.labels is None or self.label_offset is None:
            return {}
        return {"a label": (self.label_offset + self.labels[0], self.label_offset + self.labels[1])}

    def length(self, vectors: int, row: int | None) -> int:
        """The number of ids of a sample of so many vectors; row: vectors in each of its rows."""
        rows = 0 if self.row_end is None or not row else vectors // row
        codes = vectors * len(self.dims)
        per_pass = rows * (len(self.dims) if self.flatten == "codebook" else 1)
        specials = sum(each is not None for each in (self.bos, self.eos)) + (self._labels() != {})
        return codes + per_pass + specials

    def sequences(self, indices: Indices, row: int | None, labels: NDArray[Any] | None) -> Indices:
        """indices [n, vectors, codebooks] -> ids [n, length]; labels [n], if the sequence has them."""
        count, vectors, codebooks = indices.shape
        ids = indices + np.array(self.offsets) if any(self.offsets) else indices
        if self.row_end is not None:
            assert row
            shape = (count, vectors // row, row, codebooks)
            ids = self._with_row_ends(ids.reshape(shape))
        elif self.flatten == "codebook":
            ids = ids.transpose(0, 2, 1)
        parts = [ids.reshape(count, -1)]
        if self.label_offset is not None and labels is not None:
            parts.insert(0, (labels.astype(np.int64) + self.label_offset)[:, None])
        if self.bos is not None:
            parts.insert(0, np.full((count, 1), self.bos))
        if self.eos is not None:
            parts.append(np.full((count, 1), self.eos))
        return np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]

    def ragged(self, indices: Indices, lengths: NDArray[np.int64], labels: NDArray[Any] | None) -> list[Indices]:
        """indices [vectors of all samples, codebooks], lengths [samples] -> ids of each; labels as in `sequences`."""
        ids = indices + np.array(self.offsets) if any(self.offsets) else indices
        if self.flatten == "codebook":
            ids = np.concatenate([part.T.reshape(-1) for part in _cut(ids, lengths)] or [ids.reshape(-1)])
        front: list[Any] = [] if self.bos is None else [self.bos]
        if self.label_offset is not None and labels is not None:
            front.append(labels + self.label_offset)
        sizes = lengths * len(self.dims) + len(front) + (self.eos is not None)
        ends = np.cumsum(sizes)
        out, is_code = np.empty(int(sizes.sum()), np.int64), np.ones(int(sizes.sum()), bool)
        for places, value in [(ends - sizes + k, value) for k, value in enumerate(front)] + [(ends - 1, self.eos)]:
            if value is not None:
                out[places], is_code[places] = value, False
        out[is_code] = ids.reshape(-1)
        return _cut(out, sizes)

    def _with_row_ends(self, ids: Indices) -> Indices:
        """ids [n, rows, row, codebooks] with an end-of-row id after each row, in every pass over the codebooks."""
        count, rows, _, codebooks = ids.shape
        if self.flatten == "codebook":
            ids = ids.transpose(0, 3, 1, 2)  # a pass for each codebook
            ends = np.full((count, codebooks, rows, 1), self.row_end)
        else:
            ids = ids.reshape(count, rows, -1)
            ends = np.full((count, rows, 1), self.row_end)
        return np.concatenate([ids, ends], axis=-1)

    def entry(self) -> dict[str, Any]:
        """The object in lfq.json."""
        vocabulary: dict[str, Any] = {
            "size": self.size,
            "codebook_dims": list(self.dims),
            "flatten": self.flatten,
            "codebook_offsets": list(self.offsets),
            "bos": self.bos,
            "eos": self.eos,
            "row_end": self.row_end,
        }
        if self._labels():
            vocabulary["label_offset"] = self.label_offset
        return vocabulary


def _cut(values: NDArray[Any], sizes: NDArray[np.int64]) -> list[NDArray[Any]]:
    """Runs of these sizes, end to end."""
    ends = np.cumsum(sizes)
    return [values[first:last] for first, last in zip((ends - sizes).tolist(), ends.tolist(), strict=True)]
