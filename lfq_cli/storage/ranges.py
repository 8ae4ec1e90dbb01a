"""Reads an object ahead: sixteen ranges of 8 MiB at once, each dropped once all its bytes were read."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future

RANGE_BYTES = 8 << 20
AHEAD = 16
MOST_HELD = 24
"""Ranges in memory, under way or not yet read whole: 192 MiB."""
HEAD_BYTES = 1 << 16
"""What a look at a header fetches: all but the longest headers lie in it."""

Start = Callable[[int, int], "Future[list[bytes]]"]
"""Begins to fetch (position, count of bytes), in pieces of any size."""
Fetch = Callable[[int, int], bytes]
"""Fetches (position, count of bytes) in the caller's thread."""


class _Range:
    """A range in flight or in memory; `left`: how many of its bytes are still unread."""

    def __init__(self, pieces: Future[list[bytes]], left: int) -> None:
        self.pieces = pieces
        self.left = left

    def read_into(self, offset: int, view: memoryview) -> int:
        """Fills `view` from byte `offset` of the range, as far as the range goes; returns how many bytes these are."""
        done = 0
        for piece in self.pieces.result():
            part = memoryview(piece)[offset : offset + len(view) - done]
            view[done : done + len(part)] = part
            done += len(part)
            offset = max(offset - len(piece), 0)
        return done


class ReadAhead:
    """The bytes of an object of `size` bytes, from any thread.

    Nothing is fetched twice while reading is roughly sequential; for random access the object is staged instead.
    """

    def __init__(self, start: Start, fetch: Fetch, size: int) -> None:
        self._start = start
        self._fetch = fetch
        self._size = size
        self._count = -(-size // RANGE_BYTES)
        self._held: OrderedDict[int, _Range] = OrderedDict()
        self._head: bytes | None = None
        self._lock = threading.Lock()
        self._last = -2
        self._begun = 0
        self._is_closed = False

    def read_into(self, position: int, view: memoryview) -> None:
        """Fills `view` from byte `position` on, which must lie in the object. Raises OSError."""
        if not self._held and position + len(view) <= min(HEAD_BYTES, self._size):
            view[:] = self._head_bytes()[position : position + len(view)]
            return
        while view:
            number, offset = divmod(position, RANGE_BYTES)
            found = self._range(number)
            count = found.read_into(offset, view)
            self._was_read(number, found, count)
            view, position = view[count:], position + count

    def start(self, position: int) -> None:
        """Starts fetching from byte `position` on, to be read sequentially."""
        with self._lock:
            number = position // RANGE_BYTES
            if number < self._count and number not in self._held:
                self._begin(number)
                self._last = number
                self._begin_behind(number)

    def close(self) -> None:
        """Stops fetching."""
        with self._lock:
            self._is_closed = True
            for each in self._held.values():
                each.pieces.cancel()
            self._held.clear()

    def _head_bytes(self) -> bytes:
        if self._head is None:  # not by the pool: more status requests may be in flight than ranges
            self._head = self._fetch(0, min(HEAD_BYTES, self._size))
        return self._head

    def _range(self, number: int) -> _Range:
        with self._lock:
            if number not in self._held:
                self._begin(number)
            self._held.move_to_end(number)  # so that the ranges behind it do not push it out
            if 0 <= number - self._last <= 1:  # sequential so far: a header and the data behind it are not
                self._begin_behind(number)
            self._last = max(self._last, number) if abs(number - self._last) <= AHEAD else number
            return self._held[number]

    def _begin_behind(self, number: int) -> None:
        for ahead in range(max(number + 1, self._begun), min(number + 1 + AHEAD, self._count)):
            if ahead not in self._held:
                self._begin(ahead)

    def _begin(self, number: int) -> None:
        while len(self._held) >= MOST_HELD:
            self._held.popitem(last=False)  # not cancelled: another thread may wait for it
        begin = number * RANGE_BYTES
        count = min(RANGE_BYTES, self._size - begin)
        self._held[number] = _Range(self._start(begin, count), count)
        self._begun = number + 1

    def _was_read(self, number: int, found: _Range, count: int) -> None:
        with self._lock:
            found.left -= count
            if found.left <= 0:
                self._held.pop(number, None)
