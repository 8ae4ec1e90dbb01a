"""Samples -> codes: the samples of a run are encoded together, as if they were one tensor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from lfq_cli import floats
from lfq_cli.backends import Backend
from lfq_cli.bits import Packed, StreamJoiner, cut_stream
from lfq_cli.errors import LfqError, TensorError
from lfq_cli.floats import FORMATS
from lfq_cli.layout import Layout, geometry_of, position_of
from lfq_cli.matching import ChannelAxis, fitting_axis
from lfq_cli.pipeline import overflow
from lfq_cli.pipeline.overflow import NAN_HINT
from lfq_cli.samples import BadSample, Sample, Selection
from lfq_cli.samples.sample import data_of
from lfq_cli.samples.selection import matches
from lfq_cli.tensors import StoredTensor

BATCH_SAMPLES = 256
RUN_BYTES = 4 << 20


@dataclass(frozen=True)
class SampleOptions(Selection):
    """What to take from each sample, and how to encode it."""

    layout: Layout | int | None = None
    ragged: bool = False
    """Whether samples may differ in their first axis without features."""
    zero_nan: bool = False


@dataclass(frozen=True)
class EncodedShape:
    """The tensor's shape and dtype in each sample; None stands for a size that differs between ragged samples."""

    shape: tuple[int | None, ...]
    dtype: str
    axis: ChannelAxis


@dataclass(frozen=True)
class Plan:
    """How samples of equal shapes are encoded: the tensors to encode, those to carry (dtype, shape), the texts."""

    encoded: Mapping[str, EncodedShape]
    carried: Mapping[str, tuple[str, tuple[int, ...]]]
    texts: tuple[str, ...]

    def is_like(self, other: Plan) -> bool:
        """Whether samples of both can be in one file: an axis assumed for one may be certain for the other."""
        return self._facts() == other._facts()

    def _facts(self) -> tuple[object, ...]:
        encoded = {name: (each.shape, each.dtype, each.axis.number) for name, each in self.encoded.items()}
        return encoded, self.carried, self.texts


@dataclass
class Batch:
    """Encoded samples of equal shapes. `streams`: name -> the bits of all of them; `lengths`: the vectors of each."""

    plan: Plan
    bits_per_vector: int
    keys: list[str] = field(default_factory=list)
    wheres: list[str] = field(default_factory=list)
    streams: dict[str, Packed] = field(default_factory=dict)
    lengths: dict[str, list[int]] = field(default_factory=dict)
    carried: dict[str, list[bytes]] = field(default_factory=dict)
    texts: dict[str, list[bytes]] = field(default_factory=dict)
    nan_values: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    """Bytes of what was encoded of each sample."""

    def __len__(self) -> int:
        return len(self.keys)

    def part(self, first: int, last: int) -> Batch:
        """Only the samples `first` to `last`."""
        if (first, last) == (0, len(self.keys)):
            return self
        streams = {}
        for name, lengths in self.lengths.items():
            begin, end = (sum(lengths[:k]) * self.bits_per_vector for k in (first, last))
            streams[name] = cut_stream(self.streams[name][begin // 8 : -(-end // 8)], begin % 8, end - begin)
        return replace(
            self,
            keys=self.keys[first:last],
            wheres=self.wheres[first:last],
            streams=streams,
            lengths={name: lengths[first:last] for name, lengths in self.lengths.items()},
            carried={name: rows[first:last] for name, rows in self.carried.items()},
            texts={name: rows[first:last] for name, rows in self.texts.items()},
            nan_values=self.nan_values[first:last],
            sizes=self.sizes[first:last],
        )


class SampleEncoder:
    """Encodes samples through a backend, several at a time."""

    def __init__(self, backend: Backend, options: SampleOptions) -> None:
        self._backend = backend
        self.options = options
        self._plans: dict[tuple[object, ...], Plan] = {}

    def batches(self, samples: Iterable[Sample | BadSample]) -> Iterator[Batch | BadSample]:
        """Runs of samples of equal shapes, in order; samples that cannot be encoded come alone."""
        run: list[Sample] = []
        planned: Plan | None = None
        nbytes = 0
        for sample in samples:
            plan = sample if isinstance(sample, BadSample) else self._plan_or_bad(sample)
            full = len(run) == BATCH_SAMPLES or nbytes >= RUN_BYTES
            if run and (full or plan != planned):
                yield from self._encoded(run, planned)
                run, nbytes = [], 0
            if isinstance(plan, BadSample):
                yield plan
                planned = None
                continue
            assert isinstance(sample, Sample)
            planned = plan
            run.append(sample)
            for name in plan.encoded:
                nbytes += len(data_of(sample.tensors[name]))
        if run:
            yield from self._encoded(run, planned)

    def _plan_or_bad(self, sample: Sample) -> Plan | BadSample:
        signature = (*((name, t.dtype, t.shape) for name, t in sample.tensors.items()), *sample.texts)
        plan = self._plans.get(signature)
        if plan is None:
            try:
                plan = self._plan(sample)
            except LfqError as error:
                return BadSample(sample.key, error)
            if len(self._plans) > 1000:  # ragged samples may have any number of shapes
                self._plans.clear()
            self._plans[signature] = plan
        return plan

    def _plan(self, sample: Sample) -> Plan:
        options = self.options
        carried = {name: t for name, t in sample.tensors.items() if options.carries(name)}
        encoded = {
            name: self._encoded_shape(sample, name, tensor)
            for name, tensor in sample.tensors.items()
            if options.encodes(name, tensor.dtype, is_number=tensor.shape == ())
        }
        if not encoded:
            held = ", ".join(f"{name!r} ({t.dtype} {list(t.shape)})" for name, t in sample.tensors.items())
            raise TensorError(f"{sample.where}: no float tensor to encode", f"it holds {held or 'no tensor'}")
        texts = tuple(name for name in sample.texts if options.carries_text(name))
        for option, globs, found in (("--carry", options.carry, carried), ("--carry-text", options.carry_text, texts)):
            missing = [glob for glob in globs if not any(matches(name, [glob]) for name in found)]
            if missing:
                raise TensorError(f"{sample.where}: has nothing that {option} {missing[0]} names", _held(sample))
        return Plan(encoded, {name: (t.dtype, t.shape) for name, t in carried.items()}, texts)

    def _encoded_shape(self, sample: Sample, name: str, tensor: StoredTensor) -> EncodedShape:
        where = f"{sample.where}: {name!r}"
        axis = fitting_axis(where, tensor.shape, self._backend.quantizer, self.options.layout)
        shape: tuple[int | None, ...] = tensor.shape
        if self.options.ragged:
            if len(shape) < 2:
                raise TensorError(f"{where} has no axis but that of its features, so that none can be ragged")
            differing = 1 if axis.number == 0 else 0
            shape = (*shape[:differing], None, *shape[differing + 1 :])
        return EncodedShape(shape, tensor.dtype, axis)

    def _encoded(self, run: Sequence[Sample], plan: Plan | None) -> Iterator[Batch | BadSample]:
        """The run as a batch. If one of its samples holds forbidden NaN, each is encoded alone."""
        assert plan is not None
        try:
            yield self._encode(run, plan)
        except _NanFoundError as nan:
            if len(run) > 1:
                for sample in run:
                    yield from self._encoded([sample], plan)
            else:
                yield BadSample(run[0].key, self._nan_error(run[0], plan, nan))

    def _encode(self, run: Sequence[Sample], plan: Plan) -> Batch:
        batch = Batch(plan, self._backend.quantizer.bits_per_vector)
        batch.keys = [sample.key for sample in run]
        batch.wheres = [sample.where for sample in run]
        batch.nan_values = [0] * len(run)
        batch.sizes = [0] * len(run)
        for name, found in plan.encoded.items():
            tensors = [sample.tensors[name] for sample in run]
            batch.streams[name], batch.lengths[name] = self._stream(name, tensors, found, batch.nan_values)
            for k, tensor in enumerate(tensors):
                batch.sizes[k] += len(data_of(tensor))
        for name in plan.carried:
            batch.carried[name] = [bytes(data_of(sample.tensors[name])) for sample in run]
        for name in plan.texts:
            batch.texts[name] = [sample.texts[name].encode() for sample in run]
        return batch

    def _stream(
        self, name: str, tensors: Sequence[StoredTensor], found: EncodedShape, nan_values: list[int]
    ) -> tuple[Packed, list[int]]:
        """The bits of the tensors, concatenated, and the vectors in each; adds to the NaN count."""
        spec, axis = FORMATS[found.dtype], found.axis.number
        known = {shape: geometry_of(shape, axis) for shape in {tensor.shape for tensor in tensors}}
        geometries = [known[tensor.shape] for tensor in tensors]
        lengths = [geometry.vectors for geometry in geometries]
        joiner, streams, first = StreamJoiner(), [], 0
        for last in _run_ends([geometry.inner for geometry in geometries]):
            outer = sum(geometry.outer for geometry in geometries[first:last])
            data = bytearray().join(data_of(tensor) for tensor in tensors[first:last])
            raw = np.frombuffer(data, spec.storage).reshape(outer, -1 if data else 0, geometries[first].inner)
            if not data:
                raw = np.empty((outer, self._backend.quantizer.dim, geometries[first].inner), spec.storage)
            stream, has_nan = self._backend.encode(raw, spec)
            if has_nan:
                if not self.options.zero_nan:
                    raise _NanFoundError(name, raw)
                for k in range(first, last):
                    nan_values[k] += int(floats.is_nan(np.frombuffer(data_of(tensors[k]), spec.storage), spec).sum())
            streams.append(joiner.join(stream, sum(lengths[first:last]) * self._backend.quantizer.bits_per_vector))
            first = last
        return np.concatenate([*streams, joiner.finish()]), lengths

    def _nan_error(self, sample: Sample, plan: Plan, nan: _NanFoundError) -> TensorError:
        found, tensor = plan.encoded[nan.name], sample.tensors[nan.name]
        spec, what = FORMATS[found.dtype], f"{sample.where}: {nan.name!r}"
        where = floats.is_nan(np.frombuffer(data_of(tensor), spec.storage), spec)
        if where.any():
            position = position_of(int(where.argmax()), tensor.shape)
            error = TensorError(f"{what} holds {int(where.sum())} NaN, the first at {position}", NAN_HINT)
        else:
            vector = overflow.first_vector(self._backend, nan.raw, spec)
            index = overflow.position(vector, tensor.shape, found.axis.number)
            error = overflow.error(what, index, self._backend.compute_dtype)
        return TensorError(error.message, f"{error.hint}; --skip-bad leaves the sample out")


class _NanFoundError(Exception):
    """Samples of a run hold NaN in the tensor `name`, or its latents do; raw: their values [outer, dim, inner]."""

    def __init__(self, name: str, raw: floats.Raw) -> None:
        super().__init__(name)
        self.name = name
        self.raw = raw


def _run_ends(values: Sequence[int]) -> list[int]:
    """Where runs of equal values end."""
    return [k for k in range(1, len(values) + 1) if k == len(values) or values[k] != values[k - 1]]


def _held(sample: Sample) -> str:
    return f"it holds {', '.join(map(repr, (*sample.tensors, *sample.texts)))}"
