"""The vectors of many inputs, as `lfq_cli.training` reads them: in order, and in runs."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from lfq_cli.errors import TensorError
from lfq_cli.fingerprint import fingerprint
from lfq_cli.floats import FORMATS, Floats
from lfq_cli.layout import Block, Layout, axis_of, usual_axis
from lfq_cli.pipeline.vectors import all_vectors, read_vectors, vector_blocks
from lfq_cli.samples import BadSample, Selection, container_of, samples_in, stem_of
from lfq_cli.tensors import Source, StoredTensor, open_source
from lfq_cli.training.source import Run
from lfq_cli.wording import counted


@dataclass(frozen=True)
class _Place:
    """A block of a tensor; without a block, a whole file of samples."""

    path: Path
    tensor: str = ""
    block: Block | None = None


class TrainingData:
    """The float vectors of tensor files and files of samples. `runs` grows during `scan`.

    Raises TensorError if tensors differ in the number of features, and for anything unreadable.
    """

    def __init__(self, paths: Sequence[Path], patterns: Sequence[str], layout: Layout | int | None) -> None:
        self._paths = paths
        self._patterns = tuple(patterns)
        self._layout = layout
        self._places: list[_Place] = []
        self._first: tuple[str, int] | None = None
        self.runs: list[Run] = []
        self.dim = self._first_dim()

    def digest(self) -> str:
        """What identifies the inputs: sha256 of the name, size and fingerprint of each."""
        digest = hashlib.sha256()
        for path in self._paths:
            nbytes, own = fingerprint(path, TensorError)
            digest.update(f"{path.name}\0{nbytes}\0{own}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def scan(self) -> Iterator[Floats]:
        """All vectors in order, [n, dim] at a time."""
        self.runs, self._places, first = [], [], 0
        for path in self._paths:
            if container_of(path.name) is None:
                for vectors, place in self._blocks_of(path):
                    first = self._add(place, first, len(vectors))
                    yield vectors
                continue
            count = 0
            for vectors in self._vectors_of_samples(path):
                count += len(vectors)
                yield vectors
            first = self._add(_Place(path), first, count)

    def read(self, run: Run) -> Iterator[Floats]:
        """The vectors of one run."""
        place = self._places[run.place]
        if place.block is None:
            yield from self._vectors_of_samples(place.path)
            return
        with open_source(place.path) as source:
            tensor = source.tensors[place.tensor]
            yield read_vectors(place.path, tensor, self._axis(str(place.path), tensor), place.block)

    def name(self, number: int) -> str:
        """Where vector `number` lies; for files of samples, only the file."""
        run = self.runs[max(bisect_right([run.first for run in self.runs], number) - 1, 0)]
        place = self._places[run.place]
        where = f"{place.path}: {place.tensor!r}" if place.block is not None else str(place.path)
        count = sum(each.vectors for each in self.runs[: run.place] if self._is_same_tensor(each, place))
        return f"{where}, vector {count + number - run.first}"

    def _is_same_tensor(self, run: Run, place: _Place) -> bool:
        other = self._places[run.place]
        return (other.path, other.tensor) == (place.path, place.tensor)

    def _add(self, place: _Place, first: int, count: int) -> int:
        if count:
            self.runs.append(Run(first, count, len(self._places)))
            self._places.append(place)
        return first + count

    def _first_dim(self) -> int:
        """The features of the first tensor found."""
        for path in self._paths:
            with closing(self._tensors_of(path)) as tensors:
                for where, tensor in tensors:
                    return tensor.shape[self._axis(where, tensor)]
        raise TensorError(
            f"{self._paths[0]}: no float tensor to train on"
            if len(self._paths) == 1
            else "no input has a float tensor",
            "--tensor chooses by name; lfq inspect shows what a file holds",
        )

    def _tensors_of(self, path: Path) -> Generator[tuple[str, StoredTensor]]:
        """(where, for messages; tensor) of a file of either kind."""
        if container_of(path.name) is not None:
            yield from self._sample_tensors(path)
            return
        with open_source(path) as source:
            for tensor in self._chosen(source):
                yield f"{path}: {tensor.name!r}", tensor

    def _blocks_of(self, path: Path) -> Iterator[tuple[Floats, _Place]]:
        with open_source(path) as source:
            for tensor in self._chosen(source):
                axis = self._axis(f"{path}: {tensor.name!r}", tensor)
                for block in vector_blocks(tensor, axis):
                    yield read_vectors(path, tensor, axis, block), _Place(path, tensor.name, block)

    def _vectors_of_samples(self, path: Path) -> Iterator[Floats]:
        for where, tensor in self._sample_tensors(path):
            yield from all_vectors(where, tensor, self._axis(where, tensor))

    def _sample_tensors(self, path: Path) -> Iterator[tuple[str, StoredTensor]]:
        selection = Selection(self._patterns)
        for sample in samples_in(path, stem_of(path.name), selection):
            if isinstance(sample, BadSample):
                raise sample.error
            for name, tensor in sample.tensors.items():
                if selection.encodes(name, tensor.dtype, is_number=not tensor.shape):
                    yield f"{sample.where}: {name!r}", tensor

    def _chosen(self, source: Source) -> Iterator[StoredTensor]:
        for name, tensor in source.tensors.items():
            asked_for = not self._patterns or any(fnmatchcase(name, pattern) for pattern in self._patterns)
            if asked_for and tensor.dtype in FORMATS:
                yield tensor

    def _axis(self, where: str, tensor: StoredTensor) -> int:
        """The axis of the features; all tensors must have as many as the first."""
        if not tensor.shape:
            raise TensorError(f"{where} is a single number, expected vectors", "--tensor chooses other tensors")
        try:
            layout = self._layout
            axis = usual_axis(len(tensor.shape), None) if layout is None else axis_of(len(tensor.shape), layout)
        except IndexError:
            raise TensorError(
                f"{where} has {counted(len(tensor.shape), 'axis')}, which --layout or --channel-axis {self._layout}"
                " does not fit",
                "--channel-axis N says where the features are; --tensor GLOB chooses tensors",
            ) from None
        dim = tensor.shape[axis]
        if self._first is None:
            self._first = where, dim
        if dim != self._first[1]:
            raise TensorError(
                f"{where} has {dim} features on axis {axis} (shape {'×'.join(map(str, tensor.shape))}), expected"
                f" {self._first[1]}, as {self._first[0]} has",
                "--tensor GLOB chooses tensors of one kind; --channel-axis N says where the features are",
            )
        return axis
