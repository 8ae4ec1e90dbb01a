"""`lfq export`: writes the samples of codes files in a trainer's format, part by part."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lfq_cli.bits import BitOrder
from lfq_cli.data import CodesDataset
from lfq_cli.errors import ExistsError, LfqError, OptionError, OutputError
from lfq_cli.exports import format_of
from lfq_cli.exports.flat import FORMAT_1X
from lfq_cli.exports.folder import ExportFolder
from lfq_cli.exports.format import Format, Part, Rows
from lfq_cli.exports.notes import FORMAT, Files
from lfq_cli.exports.splits import split
from lfq_cli.exports.vocabulary import Vocabulary
from lfq_cli.extras import require
from lfq_cli.jobs.outcome import Outcome
from lfq_cli.pipeline.workers import Progress

_IDS_AT_ONCE = 1 << 18
_SAMPLES_AT_ONCE = 1 << 13
"""How much is read, turned into ids and written at once; a single sample may have more ids."""


@dataclass(frozen=True)
class ExportOptions:
    """How to export; the defaults are the command line's."""

    style: str | None = None
    tensor: str | None = None
    dims: tuple[int, ...] | None = None
    order: BitOrder | None = None
    flatten: Literal["position", "codebook"] = "position"
    codebook_offset: int | None = None
    offset: int = 0
    bos: int | None = None
    eos: int | None = None
    row_end: int | None = None
    labels: str | None = None
    label_offset: int | None = None
    dtype: str | None = None
    samples_per_file: int | None = None
    splits: dict[str, float] = field(default_factory=lambda: {"train": 1.0})
    overwrite: bool = False
    durable: bool = True
    dry_run: bool = False

    def recorded(self) -> dict[str, Any]:
        """The options that decide the files' content."""
        options = asdict(self)
        return {name: options[name] for name in options if name not in ("overwrite", "durable", "dry_run")}


def export(
    name: str, paths: Sequence[str], out: Path, options: ExportOptions, progress: Progress = lambda _: None
) -> Generator[Outcome]:
    """Writes the samples of the codes files in one of FORMATS into the folder `out`; yields the outcome of each part.

    A repeated run skips parts that are intact and have the same codes and options, and makes the rest. Raises
    OptionError if options, codes and format do not fit together, ExistsError if the folder holds another export.
    """
    work = _Export(name, paths, options, progress)
    if work.format.library is not None:
        require(*work.format.library, out, OutputError)
    folder = ExportFolder(out, work.fingerprint, overwrite=options.overwrite, inputs=work.dataset.files)
    parts = work.parts()
    if work.format.shards is not None:
        folder.claim(list(options.splits), work.format.shards, list(parts))
    found: dict[str, Files] = {}
    with folder.working(dry_run=options.dry_run):
        for stem, numbers in parts.items():
            part = work.part(numbers)
            files = work.files(numbers)
            outcome = Outcome(
                files[0],
                out / stem,
                "planned" if options.dry_run else "written",
                tensors=1,
                vectors=work.vectors(numbers),
                bytes_in=work.packed_bytes(numbers),
                bytes_out=part.ids * part.dtype.itemsize,
                inputs=len(files),
                samples=len(numbers),
            )
            if not options.dry_run:
                try:
                    whole = folder.finished(stem)
                    found[stem] = whole or folder.make(stem, partial(work.format.write, part), durable=options.durable)
                except LfqError as error:
                    status: Any = "refused" if isinstance(error, ExistsError) else "failed"
                    yield Outcome(files[0], out / stem, status, error=error)
                    return
                if whole is not None:
                    progress(outcome.bytes_in)
                    outcome = Outcome(**{**outcome.__dict__, "status": "up to date"})
            yield outcome
        if not options.dry_run:
            folder.finish(work.entry(found), durable=options.durable)


class _Export:
    """What is exported, and how."""

    def __init__(self, name: str, paths: Sequence[str], options: ExportOptions, progress: Progress) -> None:
        self._name = name
        self._options = options
        self._progress = progress
        self._checked: set[int] = set()
        self.format: Format = _format(name, options)
        tensors = () if options.tensor is None else (options.tensor,)
        self.dataset = CodesDataset(
            paths, tensors=tensors, dims=options.dims, order=options.order, dtype="uint64", memory=False
        )
        specs = self.dataset.catalog.tensors
        if len(specs) > 1:
            raise OptionError(f"the files hold {', '.join(map(repr, specs))}", "--tensor NAME chooses one")
        (self._spec,) = specs.values()
        self.format.check(self._spec.positions)
        self._refuse_equal_keys()
        self._labels = None if options.labels is None else self._column(options.labels)
        self.vocabulary = self._vocabulary()
        self.dtype = self._dtype()

    def _refuse_equal_keys(self) -> None:
        same = _equal_pair(self.dataset.key_hashes(stored_only=not self.format.writes_keys))
        if same is not None:
            files = [self.dataset.file_of(sample) for sample in same]
            raise OptionError(
                f"{files[0]} and {files[1]} both have a sample {self.dataset.key(same[0])!r}", "export one of them only"
            )

    def _column(self, name: str) -> NDArray[Any]:
        if name not in self.dataset.catalog.carried:
            held = ", ".join(map(repr, self.dataset.catalog.carried)) or "nothing"
            raise OptionError(f"--labels {name}: the samples carry no such column", f"they carry {held}")
        if name in self.format.columns and self._options.label_offset is None:
            raise OptionError(
                f"--labels {name}: the export has a column {name!r} of its own", "carry it by another name"
            )
        self.dataset.check_column(name)
        column = self.dataset.column(name)
        if column.ndim != 1 or column.dtype.kind not in "iub":
            raise OptionError(f"--labels {name}: is {column.dtype} {list(column.shape)}, expected an integer a sample")
        dtype = "int64" if self._options.label_offset is not None else self.format.label_dtype
        limits = np.iinfo(dtype)
        for label in (int(column.min()), int(column.max())) if len(column) else ():
            if not limits.min <= label <= limits.max:
                raise OptionError(f"--labels {name}: {label} does not fit {dtype}, the dtype for {self.format.readers}")
        return column.astype(np.int64)

    def _vocabulary(self) -> Vocabulary:
        options = self._options
        in_sequence = options.label_offset is not None
        if in_sequence and self._labels is None:
            raise OptionError("--label-offset belongs to --labels", "add --labels NAME")
        if self._labels is not None and not in_sequence and not self.format.has_labels:
            raise OptionError(
                f"{self._name} has no place for labels beside ids", "--label-offset N puts them in front of the codes"
            )
        if options.row_end is not None and self._row is None:
            raise OptionError("--row-end: samples have no rows: they differ in length, or have a single axis")
        labels = None
        if in_sequence and self._labels is not None and len(self._labels):
            labels = int(self._labels.min()), int(self._labels.max())
        dims = self.dataset.dims(self._spec.name)
        vocabulary = Vocabulary(
            dims,
            options.flatten,
            options.codebook_offset,
            options.offset,
            options.bos,
            options.eos,
            options.row_end,
            options.label_offset,
            labels,
        )
        plain = Vocabulary(dims, codebook_offset=options.codebook_offset)
        if not self.format.takes_specials and len(dims) > 1:
            raise OptionError(
                f"{self.format.readers} reads one code a position, the samples have {len(dims)}",
                f"--codebook-dims {sum(dims)} makes one of them",
            )
        if not self.format.takes_specials and vocabulary.entry() != plain.entry():
            raise OptionError(
                f"{self.format.readers} reads codes, without special ids, labels or offsets among them",
                "leave those options out",
            )
        return vocabulary

    def _dtype(self) -> np.dtype[Any]:
        size = self.vocabulary.size
        wanted = (self._options.dtype,) if self._options.dtype else self.format.dtypes[:1]
        for name in wanted:
            if name not in self.format.dtypes:
                raise OptionError(f"--dtype {name}: {self._name} holds {', '.join(self.format.dtypes)}")
            if size <= np.iinfo(name).max + 1:
                return np.dtype(name)
        others = [name for name in self.format.dtypes if size <= np.iinfo(name).max + 1]
        hints = [f"--dtype {others[0]} holds them, if your reader takes it"] if others else []
        cut = self._narrower_cut(int(np.iinfo(wanted[0]).max) + 1)
        if cut is not None:
            hints.insert(0, f"--codebook-dims {','.join(map(str, cut))} makes ids smaller")
        raise OptionError(
            f"ids up to {size - 1} do not fit {wanted[0]}, the dtype for {self.format.readers}",
            "; ".join(hints) or "fewer bits per index, or lower special ids",
        )

    def _narrower_cut(self, most: int) -> tuple[int, ...] | None:
        """The fewest indices of nearly equal bits with which all ids stay below `most`; None if none do."""
        bits = self._spec.bits_per_vector
        for count in range(len(self.vocabulary.dims) + 1, bits + 1):
            cut = tuple(bits // count + (k < bits % count) for k in range(count))
            with suppress(OptionError):  # an id that is free now would get two meanings
                if replace(self.vocabulary, dims=cut).size <= most:
                    return cut
        return None

    # parts

    @cached_property
    def fingerprint(self) -> str:
        """A digest of what decides the bytes: the stored codes, keys and labels, and the options."""
        content = {"format": self._name, "options": self._options.recorded(), "codes": self.dataset.digests()}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def parts(self) -> dict[str, NDArray[np.int64]]:
        """Name -> samples of every part, in order."""
        if self.format.shards is None and self._options.samples_per_file:
            raise OptionError(f"--samples-per-file: {self._name} keeps all samples of a split together")
        parts: dict[str, NDArray[np.int64]] = {}
        for name, samples in self._splits().items():
            if self.format.shards is None:
                parts[name] = samples
                continue
            each = self._options.samples_per_file or self.format.samples_per_file or len(samples)
            for k, first in enumerate(range(0, len(samples), each)):
                parts[f"{name}-{k:05}"] = samples[first : first + each]
        return parts

    def _splits(self) -> dict[str, NDArray[np.int64]]:
        """Name -> samples of every split."""
        every = np.arange(self.dataset.samples, dtype=np.int64)
        shares = self._options.splits
        if len(shares) == 1:
            return dict.fromkeys(shares, every)
        of = split(self.dataset.keys_of(every), shares)
        return {name: every[of == number] for number, name in enumerate(shares)}

    def part(self, numbers: NDArray[np.int64]) -> Part:
        """Writes these samples in the format."""
        row = self._row
        if self._spec.vectors is None:
            codes = self.vectors(numbers) * len(self.vocabulary.dims)
            ids = codes + len(numbers) * self.vocabulary.length(0, None)
        else:
            ids = len(numbers) * self.vocabulary.length(self._spec.vectors, row)
        labels = self._options.labels if self._options.label_offset is None else None
        return Part(
            partial(self._rows, numbers),
            len(numbers),
            ids,
            self.dtype,
            self._spec.positions,
            self.vocabulary.size,
            labels,
        )

    @property
    def _row(self) -> int | None:
        positions = self._spec.positions
        return positions[-1] if positions is not None and len(positions) > 1 else None

    def files(self, numbers: NDArray[np.int64]) -> list[Path]:
        """The files that hold these samples; of a part without samples the first of all."""
        holding = np.unique(self.dataset.catalog.locate(numbers)[0]).tolist()
        return [self.dataset.files[number] for number in holding] or self.dataset.files[:1]

    def vectors(self, numbers: NDArray[np.int64]) -> int:
        """How many vectors these samples have."""
        first, last = self.dataset.catalog.ranges(self._spec.name, numbers)
        return int((last - first).sum())

    def packed_bytes(self, numbers: NDArray[np.int64]) -> int:
        """Bytes of the codes of these samples."""
        return self.vectors(numbers) * self._spec.bits_per_vector // 8

    def _runs(self, numbers: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """The samples, in batches as they are read."""
        first, last = self.dataset.catalog.ranges(self._spec.name, numbers)
        ends = np.cumsum((last - first) * len(self.vocabulary.dims))
        begin = 0
        while begin < len(numbers):
            most = int(ends[begin - 1] if begin else 0) + _IDS_AT_ONCE
            end = min(int(np.searchsorted(ends, most, side="right")), begin + _SAMPLES_AT_ONCE)
            end = max(end, begin + 1)
            yield numbers[begin:end]
            begin = end

    def _check(self, samples: NDArray[np.int64]) -> None:
        """Raises CodesFileError if a file that holds some of the samples is damaged.

        Each file is read twice for this, so no part gets its final name that has samples of a damaged file.
        """
        files, _ = self.dataset.catalog.locate(samples)
        for number in sorted(set(files.tolist()) - self._checked):
            self.dataset.check_file(number, keys=self.format.writes_keys)
            self._checked.add(number)

    def _rows(self, numbers: NDArray[np.int64]) -> Iterator[Rows]:
        name, count = self._spec.name, len(self.vocabulary.dims)
        for some in self._runs(numbers):
            self._check(some)
            batch = self.dataset.batch(some, keys=self.format.writes_keys)
            labels = None if self._labels is None else self._labels[some]
            codes = batch[name]
            if self._spec.vectors is not None:
                indices = codes.reshape(len(some), self._spec.vectors, count).view(
                    np.int64
                )  # the dtype of ids, which fit
                every = self.vocabulary.sequences(indices, self._row, labels).astype(self.dtype)
                yield Rows(batch.get("key", []), every, labels)
            else:
                lengths = np.array([len(each) for each in codes])
                joined = np.concatenate(codes).reshape(-1, count).view(np.int64)
                ids = [each.astype(self.dtype) for each in self.vocabulary.ragged(joined, lengths, labels)]
                yield Rows(batch.get("key", []), ids, labels)
            self._progress(self.packed_bytes(some))

    def entry(self, parts: dict[str, Files]) -> dict[str, Any]:
        """The object of lfq.json."""
        length = None if self._spec.vectors is None else self.vocabulary.length(self._spec.vectors, self._row)
        return {
            "format": FORMAT,
            "version": 1,
            "export": self._name,
            "checkpoint_sha256": self.dataset.checkpoint_sha256,
            "tensor": self._spec.name,
            "bit_order": self.dataset.order(self._spec.name),
            "sample_shape": None if self._spec.positions is None else list(self._spec.positions),
            "sample_length": length,
            "samples": self.dataset.samples,
            "dtype": self.dtype.name,
            "vocabulary": self.vocabulary.entry(),
            "labels": self._options.labels,
            "splits": self._options.splits,
            "fingerprint": self.fingerprint,
            "parts": parts,
        }


def _equal_pair(hashes: NDArray[np.uint64]) -> tuple[int, int] | None:
    """The numbers of two samples with the same key; a hash of 0 stands for no key."""
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    places = np.flatnonzero((ordered[1:] == ordered[:-1]) & (ordered[1:] != 0))
    return (int(order[places[0]]), int(order[places[0] + 1])) if len(places) else None


def _format(name: str, options: ExportOptions) -> Format:
    if options.style is None:
        found: Format = format_of(name)
        return found
    if (name, options.style) != ("bin", "1x"):
        raise OptionError(f"--style {options.style} is not a style of {name}", "bin has the style 1x")
    return FORMAT_1X
