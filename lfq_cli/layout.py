"""Where a tensor's features are, and how to walk the tensor in blocks. Shapes only, no data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Literal, TypeAlias

Layout: TypeAlias = Literal["channel-first", "channel-last"]


@dataclass(frozen=True)
class Block:
    """A run of positions: some whole outer items, or some of the inner positions of one."""

    outer: slice
    inner: slice

    @property
    def vectors(self) -> int:
        """Positions in the block."""
        count: int = (self.outer.stop - self.outer.start) * (self.inner.stop - self.inner.start)
        return count


@dataclass(frozen=True)
class Geometry:
    """A tensor viewed as [outer, channels, inner]: the axes before the channel axis, that axis, and those after it.

    Its vectors, in C order of the index shape, are outer-major.
    """

    outer: int
    channels: int
    inner: int

    @property
    def vectors(self) -> int:
        """Positions in the tensor."""
        return self.outer * self.inner

    def runs(self, block: Block) -> Iterator[tuple[tuple[int, ...], int]]:
        """(index in the block [outer, channels, inner], offset in the flat tensor) of each contiguous run.

        Whole items are one run; part of an item's positions is one run per channel.
        """
        first = block.outer.start * self.channels * self.inner
        if block.inner == slice(0, self.inner):
            yield (), first
            return
        for channel in range(self.channels):
            yield (0, channel), first + channel * self.inner + block.inner.start

    def blocks(self, block_values: int, *, whole_items: bool = False) -> Iterator[Block]:
        """Blocks of about `block_values` values in order; `whole_items` never cuts an item (for compressed sources)."""
        if not self.vectors:
            return
        item_values = self.channels * self.inner
        if self.inner > 1 and item_values > 2 * block_values and not whole_items:
            step = max(8, block_values // self.channels)
            for item in range(self.outer):
                for start in range(0, self.inner, step):
                    yield Block(slice(item, item + 1), slice(start, min(start + step, self.inner)))
            return
        step = max(1, block_values // max(item_values, 1))
        step = -(-step // 8) * 8 if step >= 8 else step  # blocks end at whole bytes of the stream
        for start in range(0, self.outer, step):
            yield Block(slice(start, min(start + step, self.outer)), slice(0, self.inner))


def usual_axis(ndim: int, channel_first: bool | None) -> int:
    """The channel axis by the reference's rule; -1 for a tensor without axes.

    It is axis 1 if `channel_first` is set, or if it is None and there are at least 4 axes. Otherwise, and always with 1
    or 2 axes, it is the last axis.
    """
    if not ndim:
        return -1
    first = ndim >= 4 if channel_first is None else channel_first
    return axis_of(ndim, "channel-first" if first and ndim >= 2 else "channel-last")


def axis_of(ndim: int, where: Layout | int) -> int:
    """The axis that a layout or a (possibly negative) number means. Raises IndexError if there is no such axis."""
    axis = {"channel-first": 1, "channel-last": -1}[where] if isinstance(where, str) else where
    return range(ndim)[axis]


def positions_shape(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """The shape without its channel axis."""
    return shape[:axis] + shape[axis + 1 :]


def position_of(number: int, shape: tuple[int, ...]) -> list[int]:
    """The index on each axis of element `number` in C order; numpy's own function is limited to 64 axes."""
    position: list[int] = []
    for size in reversed(shape):
        number, index = divmod(number, size)
        position.insert(0, index)
    return position


def geometry_of(shape: tuple[int, ...], axis: int) -> Geometry:
    """shape (ndim >= 1) with channels on `axis` -> [outer, channels, inner]."""
    return Geometry(prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :]))


def insert_channels(positions: tuple[int, ...], channels: int, axis: int) -> tuple[int, ...]:
    """The inverse of `positions_shape`."""
    return (*positions[:axis], channels, *positions[axis:])
