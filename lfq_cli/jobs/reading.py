"""Reads the samples of many inputs in order: encoded piece by piece, from any sample on."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import NamedTuple

from lfq_cli.backends import Backend
from lfq_cli.errors import LfqError, TensorError
from lfq_cli.fingerprint import WHOLE_BYTES, fingerprint, whole_fingerprint
from lfq_cli.jobs.keys import KeySet
from lfq_cli.jobs.processes import LOOKED_AT, are_many_and_small, in_processes
from lfq_cli.jobs.sample_inputs import SampleInput
from lfq_cli.jobs.side_by_side import at_once
from lfq_cli.pipeline.samples import Batch, SampleEncoder, SampleOptions
from lfq_cli.regions import read_small
from lfq_cli.samples import BadSample, Sample, sample_of, samples_in, small_sample_of
from lfq_cli.storage.urlpath import is_url

_DIGEST_BYTES = 32
_RUN_INPUTS = 256
"""Small files that a process reads before it reports: 10,000 of 9 KiB take as long with 64, and longer with 1024."""


@dataclass(frozen=True)
class Cursor:
    """A position in the data set: after `index` whole inputs and so many samples of input `index`."""

    index: int
    offset: int = 0


class _Read(NamedTuple):
    """Input number `place` is being read; its size in bytes and its fingerprint."""

    place: int
    nbytes: int
    digest: str


@dataclass(frozen=True)
class Ended:
    """Input `index`, of many samples, has no more; `error`: why it could not be read to the end, if so."""

    index: int
    error: LfqError | None = None


@dataclass(frozen=True)
class Piece:
    """Samples that were encoded, or one that could not be; `origins`: the input of each."""

    content: Batch | BadSample
    origins: Sequence[int]

    def split(self, count: int) -> tuple[Piece, Piece]:
        """The first `count` samples, and the others."""
        assert isinstance(self.content, Batch)
        parts = ((0, count), (count, len(self.origins)))
        first, second = (Piece(self.content.part(a, b), self.origins[a:b]) for a, b in parts)
        return first, second


_Message = _Read | Ended | Piece


class Known:
    """Sizes and fingerprints of inputs, in 40 bytes each. Those of inputs before `forget` are dropped."""

    def __init__(self) -> None:
        self._first = 0
        self._sizes = array("q")
        self._digests = bytearray()

    def add(self, index: int, nbytes: int, digest: str) -> None:
        """Adds an input, which follows all that were added."""
        gap = index - self._first - len(self._sizes)
        self._sizes.extend([-1] * gap + [nbytes])
        self._digests += bytes(_DIGEST_BYTES * gap) + bytes.fromhex(digest)

    def get(self, index: int) -> tuple[int, str] | None:
        """(size in bytes, fingerprint); None for an input that was not read, or was forgotten."""
        place = index - self._first
        if not 0 <= place < len(self._sizes) or self._sizes[place] < 0:
            return None
        return self._sizes[place], self._digests[_DIGEST_BYTES * place : _DIGEST_BYTES * (place + 1)].hex()

    def forget(self, index: int) -> None:
        """Drops those before this input."""
        count = min(max(index - self._first, 0), len(self._sizes))
        del self._sizes[:count]
        del self._digests[: _DIGEST_BYTES * count]
        self._first += count


class Stream:
    """The samples from a position in the data set on. `known`: sizes and fingerprints of the inputs read."""

    def __init__(
        self,
        inputs: Sequence[SampleInput],
        begin: Cursor,
        backend: Backend,
        options: SampleOptions,
        *,
        each: int | None,
        passed_over: KeySet | None = None,
    ) -> None:
        """each: a file ends after so many inputs of one sample, so no further input is read needlessly. passed_over:
        keys of samples to leave out, in inputs of many.
        """
        self.known = Known()
        self._to_skip = begin.offset
        self._ahead: deque[Ended | Piece] = deque()
        runs = list(_runs(begin.index, bytes(item.many for item in inputs), each))
        looked_at = inputs[begin.index :: max(1, (len(inputs) - begin.index) // LOOKED_AT)]
        reading = partial(_reading, inputs, backend, options, passed_over or KeySet())
        self._messages: Generator[_Message]
        are_small = are_many_and_small(len(inputs) - begin.index, [item.path for item in looked_at])
        if backend.forks and len(runs) > 1 and are_small:
            self._messages = in_processes(runs, reading, partial(_lost, inputs), waits=False)
        else:
            self._messages = _in_this_process(runs, reading)

    def next(self) -> Ended | Piece | None:
        """The next message; None at the end of the data set."""
        if self._ahead:
            return self._ahead.popleft()
        for message in self._messages:
            if isinstance(message, _Read):
                self.known.add(message.place, message.nbytes, message.digest)
            elif not isinstance(message, Piece) or not self._to_skip:
                return message
            else:
                rest = self._behind_begin(message)
                if rest is not None:
                    return rest
        return None

    def put_back(self, message: Ended | Piece) -> None:
        """Puts `message` back, to be returned next."""
        self._ahead.appendleft(message)

    def close(self) -> None:
        """Stops reading ahead."""
        self._messages.close()

    def _behind_begin(self, piece: Piece) -> Piece | None:
        """The piece without the samples before the position where the stream begins."""
        count = min(self._to_skip, len(piece.origins))
        self._to_skip -= count
        if count == len(piece.origins):
            return None
        return piece.split(count)[1]


def _runs(first: int, many: Sequence[int], each: int | None) -> Iterator[range]:
    """Runs of inputs to read together: inputs of many samples alone, others several at a time."""
    begin = first
    for index in range(first, len(many)):
        if many[index] and begin < index:
            yield range(begin, index)
            begin = index
        is_full = index + 1 - begin == _RUN_INPUTS or (each is not None and (index + 1 - first) % each == 0)
        if many[index] or is_full or index + 1 == len(many):
            yield range(begin, index + 1)
            begin = index + 1


_Reading = Callable[[], AbstractContextManager[Callable[[range], Iterator[_Message]]]]


def _in_this_process(runs: Sequence[range], reading: _Reading) -> Generator[_Message]:
    with reading() as read:
        for run in runs:
            yield from read(run)


def _lost(inputs: Sequence[SampleInput], run: range) -> _Message:
    path = inputs[run[0]].path
    return Ended(run[-1], LfqError(f"{path}: the process that read it was killed", "run the same command again"))


@contextmanager
def _reading(
    inputs: Sequence[SampleInput], backend: Backend, options: SampleOptions, passed_over: KeySet
) -> Iterator[Callable[[range], Iterator[_Message]]]:
    encoder = SampleEncoder(backend, options)

    def read(run: range) -> Iterator[_Message]:
        if inputs[run[0]].many:
            return _read_many(inputs, run, encoder, passed_over)
        return _read_single(inputs, run, encoder)

    yield read


def _read_many(
    inputs: Sequence[SampleInput], run: range, encoder: SampleEncoder, passed_over: KeySet
) -> Iterator[_Message]:
    """The samples of one input."""
    (index,) = run
    item, error = inputs[index], None
    try:
        before = fingerprint(item.path, TensorError)
        yield _Read(index, *before)
        samples = samples_in(item.path, item.name, encoder.options)
        for content in encoder.batches(sample for sample in samples if sample.key not in passed_over):
            yield Piece(content, [index] * len(content))
        if fingerprint(item.path, TensorError) != before:
            raise TensorError(f"{item.path}: changed while it was read", "run again when nothing is writing to it")
    except LfqError as reason:
        error = reason
    yield Ended(index, error)


def _read_single(inputs: Sequence[SampleInput], run: range, encoder: SampleEncoder) -> Iterator[_Message]:
    """The samples of inputs with one sample each."""
    reads: list[_Read] = []
    origins = iter(run)
    for content in encoder.batches(_samples_of(inputs, run, reads)):
        yield from reads
        reads.clear()
        yield Piece(content, list(islice(origins, len(content))))


def _samples_of(inputs: Sequence[SampleInput], run: range, reads: list[_Read]) -> Iterator[Sample | BadSample]:
    """The inputs' samples; adds the origin of each to `reads` before yielding it."""

    def read(index: int) -> tuple[Sample | BadSample, list[_Read]]:
        found: list[_Read] = []
        return _sample_of(inputs[index], index, found), found

    many = at_once(read, run) if is_url(inputs[run[0]].where) else map(read, run)
    for sample, found in many:
        reads += found
        yield sample


def _sample_of(item: SampleInput, index: int, reads: list[_Read]) -> Sample | BadSample:
    """The input's sample; adds its origin to `reads`."""
    try:
        data = None if is_url(item.where) else read_small(item.where, WHOLE_BYTES, TensorError)
        if data is not None:
            reads.append(_Read(index, len(data), whole_fingerprint(data)))
            return small_sample_of(item.where, item.name, data)
        before = fingerprint(item.path, TensorError)
        reads.append(_Read(index, *before))
        sample = sample_of(item.path, item.name)
        if fingerprint(item.path, TensorError) != before:
            raise TensorError(f"{item.path}: changed while it was read", "run again when nothing is writing to it")
    except LfqError as error:
        return BadSample(item.name, error)
    return sample
