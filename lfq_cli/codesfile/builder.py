"""A codes file of samples in the making: collects codes, keys and columns, and writes them when complete."""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from lfq_cli.bits import BitOrder, Packed, StreamJoiner
from lfq_cli.codesfile.columns import offsets_of
from lfq_cli.codesfile.header import (
    OFFSETS,
    CodesHeader,
    CodesTensor,
    Column,
    MadeFrom,
    Samples,
    SourceInfo,
    stored_dtype,
)
from lfq_cli.codesfile.writer import create
from lfq_cli.dtypes import NUMPY
from lfq_cli.errors import OutputError
from lfq_cli.packings import PACKINGS

_IN_MEMORY_BYTES = 64 << 20
_COPIED_BYTES = 1 << 20


@dataclass(frozen=True)
class Coding:
    """How the codes of a file are stored, and what they were made with: as in CodesHeader and CodesTensor."""

    quantizer: Mapping[str, Any]
    checkpoint_sha256: str
    compute_dtype: str
    assumed: Mapping[str, Any]
    codebook_dims: tuple[int, ...]
    index_tail: tuple[int, ...]
    bit_order: BitOrder
    packing: str = "bits"
    index_dtype: str | None = None

    @property
    def bits_per_vector(self) -> int:
        """B, the sum of `codebook_dims`."""
        return sum(self.codebook_dims)

    @property
    def stored_bits_per_vector(self) -> int:
        """Bits that one vector takes in the file."""
        dtype = stored_dtype(self.packing, self.codebook_dims, self.index_dtype)
        return PACKINGS[self.packing].row_bits(self.codebook_dims, dtype)


def _integers() -> array[int]:
    return array("q")


@dataclass
class _Codes:
    """The codes of one tensor so far."""

    source: SourceInfo
    file: IO[bytes]
    joiner: StreamJoiner = field(default_factory=StreamJoiner)
    lengths: array[int] = field(default_factory=_integers)


@dataclass
class _Text:
    """Some texts so far, one after the other."""

    data: bytearray = field(default_factory=bytearray)
    lengths: array[int] = field(default_factory=_integers)

    def add(self, texts: Sequence[bytes]) -> None:
        self.data += b"".join(texts)
        self.lengths.extend(map(len, texts))


class SamplesBuilder:
    """Collects the samples of one file. `sources`: the tensors of one sample. Close it when done."""

    def __init__(
        self,
        coding: Coding,
        sources: Mapping[str, SourceInfo],
        carried: Mapping[str, tuple[str, tuple[int, ...]]],
        texts: Sequence[str],
        folder: Path,
    ) -> None:
        """folder: where codes that do not fit in memory wait; carried: name -> dtype and shape of a row."""
        self._coding = coding
        self._dtype = stored_dtype(coding.packing, coding.codebook_dims, coding.index_dtype)
        self._codes = {
            name: _Codes(source, tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES, dir=str(folder)))  # noqa: SIM115
            for name, source in sources.items()
        }
        self._carried = dict(carried)
        self._rows: dict[str, bytearray] = {name: bytearray() for name in carried}
        self._texts = {name: _Text() for name in texts}
        self._keys = _Text()

    def __len__(self) -> int:
        return len(self._keys.lengths)

    def __enter__(self) -> SamplesBuilder:
        return self

    def __exit__(self, *_: object) -> None:
        for codes in self._codes.values():
            codes.file.close()

    def add(
        self,
        keys: Sequence[str],
        streams: Mapping[str, Packed],
        lengths: Mapping[str, Sequence[int]],
        carried: Mapping[str, Sequence[bytes]],
        texts: Mapping[str, Sequence[bytes]],
    ) -> None:
        """Adds samples: for each tensor the bits of all of them, and the number of vectors in each."""
        self._keys.add([key.encode("utf-8") for key in keys])
        for name, codes in self._codes.items():
            self._store(codes, streams[name], sum(lengths[name]))
            codes.lengths.extend(lengths[name])
        for name in self._rows:
            self._rows[name] += b"".join(carried[name])
        for name, text in self._texts.items():
            text.add(texts[name])

    def _store(self, codes: _Codes, stream: Packed, vectors: int) -> None:
        coding = self._coding
        if PACKINGS[coding.packing].is_stream:
            stored = codes.joiner.join(stream, vectors * coding.bits_per_vector)
        else:
            pack = PACKINGS[coding.packing].pack
            stored = pack(stream, vectors, coding.codebook_dims, coding.bit_order, NUMPY[self._dtype])
        codes.file.write(np.ascontiguousarray(stored).data)

    def write(self, path: Path, made_from: MadeFrom | None, *, overwrite: bool, durable: bool) -> CodesHeader:
        """Writes the file. Raises OutputError if it cannot be written."""
        columns, data = self._columns()
        samples = Samples(len(self), columns.keys_name, columns.described, tuple(self._carried), tuple(self._texts))
        coding = self._coding
        header = CodesHeader(
            dict(coding.quantizer),
            coding.checkpoint_sha256,
            coding.compute_dtype,
            {name: self._tensor(name, codes, columns.offsets.get(name)) for name, codes in self._codes.items()},
            dict(coding.assumed),
            made_from,
            samples,
        )
        with create(path, header, overwrite=overwrite, durable=durable) as writer:
            for name in header.stored:
                with writer.tensor(name) as out:
                    for part in (data[name],) if name in data else self._parts(self._codes[name]):
                        out.append(np.frombuffer(part, np.uint8))
        return header

    def _parts(self, codes: _Codes) -> Iterator[bytes]:
        codes.file.seek(0)
        while part := codes.file.read(_COPIED_BYTES):
            yield part
        yield codes.joiner.finish().tobytes()

    def _tensor(self, name: str, codes: _Codes, offsets: str | None) -> CodesTensor:
        coding = self._coding
        positions: tuple[int, ...] = (sum(codes.lengths),)
        if offsets is None:
            positions = (len(self), *(size for size in codes.source.positions if size is not None))
        return CodesTensor(
            name,
            positions + coding.index_tail,
            coding.codebook_dims,
            coding.bit_order,
            coding.packing,
            self._dtype,
            codes.source,
            samples=len(self),
            offsets=offsets,
        )

    def _columns(self) -> tuple[_Columns, dict[str, bytes | bytearray]]:
        """The columns' descriptions, and their bytes."""
        names = _Names({*self._codes})
        described: dict[str, Column] = {}
        data: dict[str, bytes | bytearray] = {}

        def put(name: str, dtype: str, shape: tuple[int, ...], held: bytes | bytearray) -> str:
            names.take(name)
            described[name], data[name] = Column(dtype, shape), held
            return name

        def put_text(name: str, text: _Text) -> None:
            put(name, "U8", (len(text.data),), text.data)
            put(name + OFFSETS, "I64", (len(self) + 1,), offsets_of(text.lengths).tobytes())

        offsets = {
            name: put(name + OFFSETS, "I64", (len(self) + 1,), offsets_of(codes.lengths).tobytes())
            for name, codes in self._codes.items()
            if None in codes.source.shape
        }
        for name, (dtype, shape) in self._carried.items():
            put(name, dtype, (len(self), *shape), self._rows[name])
        for name, text in self._texts.items():
            put_text(name, text)
        keys_name = names.free("keys")
        put_text(keys_name, self._keys)
        return _Columns(keys_name, described, offsets), data


@dataclass(frozen=True)
class _Columns:
    """keys_name: the column of keys; offsets: tensor of codes -> the column of its samples' start positions."""

    keys_name: str
    described: dict[str, Column]
    offsets: dict[str, str]


class _Names:
    """The names in a file; each may be used only once."""

    def __init__(self, taken: set[str]) -> None:
        self._taken = taken

    def take(self, name: str) -> None:
        if name in self._taken:
            raise OutputError(
                f"two things in the file would be called {name!r}", "carry one of them only, or rename it"
            )
        self._taken.add(name)

    def free(self, name: str) -> str:
        """The name, followed by underscores until neither it nor its offsets are taken."""
        while {name, name + OFFSETS} & self._taken:
            name += "_"
        return name
