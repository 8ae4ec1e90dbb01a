"""A codes file of samples in the making: takes samples until it is full, and is written if all were good."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from lfq_cli.codesfile import MadeFrom, SourceInfo
from lfq_cli.codesfile.builder import Coding, SamplesBuilder
from lfq_cli.codesfile.columns import bad_key
from lfq_cli.errors import LfqError, TensorError
from lfq_cli.jobs.keys import KeySet
from lfq_cli.jobs.outcome import Outcome
from lfq_cli.jobs.reading import Cursor, Ended, Piece, Stream
from lfq_cli.jobs.sample_inputs import SampleInput
from lfq_cli.pipeline.samples import Batch, Plan
from lfq_cli.pipeline.survey import SAMPLE_BYTES
from lfq_cli.pipeline.workers import Progress
from lfq_cli.samples import BadSample
from lfq_cli.storage.outputs import room_for


@dataclass(frozen=True)
class Limits:
    """When a file is full: so many samples, good or bad; so many bytes, which a single sample may exceed."""

    samples: int | None = None
    nbytes: int | None = None


class Draft:
    """One file in the making. `bad`: samples that could not be encoded; `zeroed`: NaN values encoded as zero.

    keys: of all samples so far, in this file and those before it.
    """

    def __init__(self, coding: Coding, path: Path, source: Path, limits: Limits, keys: KeySet) -> None:
        self.bad: list[LfqError] = []
        self.zeroed = 0
        self._coding = coding
        self._path = path
        self._source = source
        self._limits = limits
        self._keys = keys
        self._broken: list[LfqError] = []
        self._plan: Plan | None = None
        self._builder: SamplesBuilder | None = None
        self._opened = ExitStack()
        self._taken = 0
        self._nbytes = 0
        self._bytes_in = 0
        self._vectors = 0

    def __enter__(self) -> Draft:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    @property
    def is_empty(self) -> bool:
        """Whether it is empty: no sample, good or bad, has come."""
        return not self._taken and not self._broken

    def fill(self, stream: Stream, inputs: Sequence[SampleInput], begin: Cursor, progress: Progress) -> Cursor:
        """Takes samples until the file is full or none are left; returns where the next file begins."""
        place = begin
        while (message := stream.next()) is not None:
            if isinstance(message, Ended):
                place = Cursor(message.index + 1)
                if message.error is not None:
                    self._broken.append(message.error)
                continue
            room = self._room(message)
            if room < len(message.origins):
                if room == 0:
                    stream.put_back(message)
                    return place
                message, rest = message.split(room)
                stream.put_back(rest)
            self._take(message.content, progress)
            place = _behind(place, message.origins, inputs)
        return Cursor(len(inputs))

    def finish(self, made_from: MadeFrom, *, skip_bad: bool, overwrite: bool, durable: bool, dry_run: bool) -> Outcome:
        """Writes the file, unless it has a bad sample that may not be skipped; returns the outcome."""
        errors = self._broken or ([] if skip_bad else self.bad)
        outcome = Outcome(
            self._source,
            self._path,
            "failed" if errors else "empty" if self._builder is None else "planned" if dry_run else "written",
            tensors=0 if self._plan is None else len(self._plan.encoded),
            vectors=self._vectors,
            bytes_in=self._bytes_in,
            bytes_out=self._nbytes,
            inputs=made_from.inputs,
            samples=self._taken - len(self.bad),
            skipped=len(self.bad),
            assumptions=self._assumptions(),
            error=_one_of(errors),
            notes=[error.message for error in self.bad] if skip_bad else [],
        )
        if not errors and not dry_run and self._builder is not None:
            header = self._builder.write(self._path, made_from, overwrite=overwrite, durable=durable)
            outcome = replace(outcome, bytes_out=header.stored_bytes)
        return outcome

    def _room(self, piece: Piece) -> int:
        """How many samples of the piece fit in the file; an empty file always takes one."""
        count = len(piece.origins)
        if self._limits.samples is not None:
            count = min(count, self._limits.samples - self._taken)
        if self._limits.nbytes is None or isinstance(piece.content, BadSample):
            return count
        nbytes = self._nbytes
        for k, size in enumerate(self._sizes(piece.content)[:count]):
            nbytes += size
            if nbytes > self._limits.nbytes and self._taken + k > 0:
                return k
        return count

    def _sizes(self, batch: Batch) -> list[int]:
        """About how many bytes each sample of the batch takes in a file."""
        sizes = []
        for k, key in enumerate(batch.keys):
            bits = sum(lengths[k] for lengths in batch.lengths.values()) * self._coding.stored_bits_per_vector
            columns = sum(len(rows[k]) for rows in (*batch.carried.values(), *batch.texts.values()))
            sizes.append(-(-bits // 8) + len(key.encode("utf-8", "surrogatepass")) + columns + SAMPLE_BYTES)
        return sizes

    def _take(self, content: Batch | BadSample, progress: Progress) -> None:
        self._taken += len(content)
        if isinstance(content, BadSample):
            self.bad.append(content.error)
            return
        progress(sum(content.sizes))
        if self._plan is not None and not content.plan.is_like(self._plan):
            reasons: list[str | None] = [_difference(content.plan, self._plan)] * len(content)
        else:
            reasons = self._reasons_against(content.keys)
        for first, last in _runs_of_good(reasons):
            self._add(content.part(first, last))
        self.bad += [TensorError(f"{content.wheres[k]}: {reason}") for k, reason in enumerate(reasons) if reason]

    def _reasons_against(self, keys: Sequence[str]) -> list[str | None]:
        """For each key, why its sample cannot be in the file; None if it can."""
        wrong = [None if (reason := bad_key(key)) is None else f"its key {reason}" for key in keys]
        twice = iter(self._keys.add([key for key, reason in zip(keys, wrong, strict=True) if reason is None]))
        return [reason or ("a sample with the same key came before" if next(twice) else None) for reason in wrong]

    def _add(self, batch: Batch) -> None:
        if self._builder is None:
            self._plan = batch.plan
            self._builder = self._opened.enter_context(self._new_builder(batch.plan))
        self._builder.add(batch.keys, batch.streams, batch.lengths, batch.carried, batch.texts)
        if self._limits.nbytes is not None:
            self._nbytes += sum(self._sizes(batch))
        self._bytes_in += sum(batch.sizes)
        self._vectors += sum(map(sum, batch.lengths.values()))
        self.zeroed += sum(batch.nan_values)

    def _new_builder(self, plan: Plan) -> SamplesBuilder:
        sources = {
            name: SourceInfo(found.shape, found.dtype, found.axis.number, found.axis.is_assumed)
            for name, found in plan.encoded.items()
        }
        return SamplesBuilder(self._coding, sources, plan.carried, plan.texts, room_for(self._path))

    def _assumptions(self) -> list[str]:
        found = () if self._plan is None else self._plan.encoded.values()
        return list(dict.fromkeys(each.axis.assumption for each in found if each.axis.is_assumed))


def _behind(place: Cursor, origins: Sequence[int], inputs: Sequence[SampleInput]) -> Cursor:
    """The position after samples from these inputs."""
    last = origins[-1]
    if not inputs[last].many:
        return Cursor(last + 1)
    return Cursor(last, len(origins) + (place.offset if place.index == last else 0))


def _runs_of_good(reasons: Sequence[str | None]) -> list[tuple[int, int]]:
    """(first, last) of each run of samples without a reason to leave them out."""
    runs, first = [], None
    for k, reason in enumerate([*reasons, "end"]):
        if reason is None and first is None:
            first = k
        elif reason is not None and first is not None:
            runs.append((first, k))
            first = None
    return runs


def _difference(plan: Plan, wanted: Plan) -> str:
    """How a sample differs from those before it."""
    for name, found in wanted.encoded.items():
        other = plan.encoded.get(name)
        if other is None:
            return f"has no {name!r} to encode, which the samples before it have"
        if (other.shape, other.dtype) != (found.shape, found.dtype):
            this, before = (f"{each.dtype} {_shown(each.shape)}" for each in (other, found))
            hint = "" if None in found.shape else "; --ragged lets samples differ in their first axis"
            return f"{name!r} is {this}, of the samples before it {before}{hint}"
    surplus = sorted(set(plan.encoded) - set(wanted.encoded))
    if surplus:
        return f"has {surplus[0]!r} to encode, which the samples before it have not"
    return "carries other tensors or texts than the samples before it"


def _shown(shape: Sequence[int | None]) -> str:
    return "[" + ", ".join("any" if size is None else str(size) for size in shape) + "]"


def _one_of(errors: Sequence[LfqError]) -> LfqError | None:
    if len(errors) < 2:
        return errors[0] if errors else None
    return LfqError(f"{errors[0].message} (and {len(errors) - 1} more)", errors[0].hint)
