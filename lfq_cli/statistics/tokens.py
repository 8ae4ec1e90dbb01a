"""Counts of one tensor's tokens: of every codebook, of the joint token of a vector, by position."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from lfq_cli.bits import MAX_INDEX_BITS, BitOrder, Indices, Packed, stream_to_indices
from lfq_cli.packings import PACKINGS
from lfq_cli.statistics.counter import MEMORY_BYTES, Counter
from lfq_cli.statistics.positions import PositionCounter
from lfq_cli.statistics.sketch import mixed
from lfq_cli.statistics.tables import FieldsTally, Start, Tally
from lfq_cli.statistics.usage import TokenUsage, Usage

_JOINT_DTYPE = np.dtype(np.uint64)


@dataclass(frozen=True)
class CountOptions:
    """What to count; the defaults are the command line's."""

    joint: bool = True
    by_position: bool = False
    min_count: int = 1
    memory_bytes: int = MEMORY_BYTES
    dims: tuple[int, ...] | None = None
    """How the bits of a vector are cut into indices; None: as each file says."""
    order: BitOrder | None = None


class TokenCounts:
    """Counters of vectors of sum(dims) bits, fed with runs of vectors in any order."""

    def __init__(
        self,
        dims: tuple[int, ...],
        order: BitOrder,
        options: CountOptions,
        *,
        axes: tuple[int, ...] = (),
        vectors: int | None = None,
    ) -> None:
        """axes: of the index tensor, without its batch and its codebooks. vectors: how many there will be."""
        self.dims, self.order, self.options = dims, order, options
        memory = options.memory_bytes
        self.codebooks = [Counter(bits, vectors, memory) for bits in dims]
        joint_bits = min(sum(dims), MAX_INDEX_BITS)
        self.joint = Counter(joint_bits, vectors, memory) if options.joint and len(dims) > 1 else None
        self.axes = axes if options.by_position else ()
        self.positions = [PositionCounter(bits, self.axes, vectors, memory) for bits in dims] if self.axes else []

    @property
    def is_hashed(self) -> bool:
        """Whether joint tokens are so long that they can only be distinguished by a hash."""
        return sum(self.dims) > MAX_INDEX_BITS

    @property
    def total(self) -> int:
        """The number of counted vectors."""
        return self.codebooks[0].total

    def tally(self, indices: Indices, stream: Callable[[], Packed], start: int) -> list[Tally]:
        """The tally of indices [n, codebooks] of the vectors from `start` on; `stream` holds the same as bits.

        Does not change the counters; may be called from any thread.
        """
        columns = [np.ascontiguousarray(column) for column in indices.T]
        tallies = [counter.tally(column) for counter, column in zip(self.codebooks, columns, strict=True)]
        if self.joint is not None:
            tallies.append(self.joint.tally(joint_codes(stream(), len(indices), self.dims)))
        for counter, column in zip(self.positions, columns, strict=False):
            tallies.append(counter.tally(column, start))
        return tallies

    @property
    def counts_fields(self) -> bool:
        """Whether only codebooks are counted, and all of them can take their codes directly from a stream."""
        return self.joint is None and not self.positions and all(c.counts_fields for c in self.codebooks)

    def tally_fields(self, stream: Packed, vectors: int) -> list[Tally | FieldsTally]:
        """Like `tally`, for a stream that is not changed afterwards; requires `counts_fields`."""
        tallies, first, stride = [], 0, sum(self.dims)
        for counter, bits in zip(self.codebooks, self.dims, strict=True):
            tallies.append(counter.tally_fields(FieldsTally(stream, first, stride, self.order, vectors)))
            first += bits
        return tallies

    def take(self, tallies: Sequence[Tally | FieldsTally], start: Start | None = None) -> None:
        """Adds what was tallied; uses another thread if it can start one."""
        for counter, tally in zip(self.counters(), tallies, strict=True):
            counter.take(tally, start)

    def merge(self, other: TokenCounts) -> None:
        """Adds other counts of the same codebooks. Drops counts by position if the axes differ."""
        if not other.total:
            return
        if other.axes != self.axes:
            self.axes, self.positions = (), []
        for mine, theirs in zip(self.codebooks, other.codebooks, strict=True):
            mine.merge(theirs)
        if self.joint is not None and other.joint is not None:
            self.joint.merge(other.joint)
        else:
            self.joint = None
        for here, there in zip(self.positions, other.positions, strict=False):
            here.counter.merge(there.counter)

    def replace(self, counters: Sequence[Counter]) -> None:
        """Replaces `counters()` by others of the same number and bits."""
        rest = list(counters)
        self.codebooks = [rest.pop(0) for _ in self.codebooks]
        self.joint = rest.pop(0) if self.joint is not None else None
        for positions in self.positions:
            positions.counter = rest.pop(0)

    def usage(self) -> TokenUsage:
        """The statistics so far."""
        least = self.options.min_count
        positions = tuple(counter.statistics() for counter in self.positions)
        complete = tuple(each for each in positions if each is not None)
        return TokenUsage(
            codebooks=tuple(counter.usage(self.order, least) for counter in self.codebooks),
            joint=None if self.joint is None else self._joint_usage(self.joint),
            positions=complete if complete and len(complete) == len(positions) else None,
            notes=tuple(self._notes(len(complete) < len(positions))),
        )

    def _joint_usage(self, joint: Counter) -> Usage:
        usage = joint.usage("msb", self.options.min_count)  # codes are bits in stream order
        return usage.of_hashes(sum(self.dims)) if self.is_hashed else usage

    def _notes(self, too_many: bool) -> list[str]:
        notes = []
        if self.options.joint and len(self.dims) > 1 and self.joint is None:
            notes.append("joint tokens were not counted everywhere")
        if self.options.by_position and not self.axes:
            notes.append("no statistics by position: there is no axis besides the batch, or axes differ")
        if too_many:
            notes.append("no statistics by position: more pairs of position and code than fit in memory (--memory)")
        return notes

    def counters(self) -> list[Counter]:
        """All counters: of the codebooks, the joint one, those by position; in the order of their tallies."""
        joint = [] if self.joint is None else [self.joint]
        return [*self.codebooks, *joint, *(positions.counter for positions in self.positions)]


def joint_codes(stream: Packed, vectors: int, dims: tuple[int, ...]) -> NDArray[np.uint64]:
    """The stream of some vectors -> one code each: its bits, the first most significant; a hash for more than 64."""
    width = sum(dims)
    if width <= MAX_INDEX_BITS:
        return stream_to_indices(stream, vectors, (width,), "msb", _JOINT_DTYPE)[:, 0]
    row_bytes = -(-width // 8)
    rows = PACKINGS["rows"].pack(stream, vectors, dims, "msb", np.dtype(np.uint8)).reshape(vectors, row_bytes)
    words = np.zeros((vectors, -(-row_bytes // 8) * 8), np.uint8)
    words[:, :row_bytes] = rows
    code = np.zeros(vectors, np.uint64)
    for word in words.view("<u8").T:
        code = mixed(code ^ word)
    return code


def index_axes(positions: tuple[int, ...]) -> tuple[int, ...]:
    """The position axes of an index tensor: all except the batch."""
    return positions[1:] if prod(positions) else ()
